//! Matrix values into texts; what cannot be filled in is collected, never fatal at once.

use std::cell::{Cell, RefCell};
use std::path::{Component, Path, PathBuf};

use indexmap::IndexMap;

use crate::base::interpolate::{INTERPOLATE_HELP, InterpolateError, find_written, interpolate};
use crate::base::suggest::nearest;
use crate::config::model::{GpuText, Job};
use crate::diag::{Diagnostic, Location};

use super::origins::Origins;
use super::spec::{Gpu, GpuChoice};

/// A job's matrix values in the order of its axes.
pub type Values = Vec<(String, String)>;

/// Fills texts of one job or image and remembers what went wrong.
pub struct Fill<'a> {
    /// The job that the values are of; an image's texts are filled on behalf of one.
    job: &'a Job,
    origins: &'a Origins<'a>,
    values: &'a Values,
    used: Cell<bool>,
    findings: RefCell<Vec<Diagnostic>>,
}

impl<'a> Fill<'a> {
    pub fn new(job: &'a Job, values: &'a Values, origins: &'a Origins<'a>) -> Self {
        Self { job, origins, values, used: Cell::new(false), findings: RefCell::default() }
    }

    /// Whether any text so far held a placeholder: the result then belongs to these values alone.
    pub fn used_values(&self) -> bool {
        self.used.get()
    }

    pub fn finish(self) -> Vec<Diagnostic> {
        self.findings.into_inner()
    }

    pub fn report(&self, finding: Diagnostic) {
        self.findings.borrow_mut().push(finding);
    }

    pub fn text(&self, text: &str, at: Option<Location>) -> String {
        let lookup = |name: &str| {
            self.used.set(true);
            self.values.iter().find(|(axis, _)| axis == name).map(|(_, value)| value.as_str())
        };
        match interpolate(text, lookup) {
            Ok(filled) => filled.into_owned(),
            Err(error) => {
                self.report(self.explain(&error, at));
                text.to_owned()
            }
        }
    }

    pub fn texts(&self, texts: &[String], at: Option<Location>) -> Vec<String> {
        texts.iter().map(|text| self.text(text, at)).collect()
    }

    pub fn option(&self, text: Option<&String>, at: Option<Location>) -> Option<String> {
        text.map(|text| self.text(text, at))
    }

    pub fn map(&self, map: &IndexMap<String, String>, at: Option<Location>) -> IndexMap<String, String> {
        map.iter().map(|(key, value)| (key.clone(), self.text(value, at))).collect()
    }

    /// A path relative to the root, without `.` parts.
    pub fn path(&self, text: &str, at: Option<Location>) -> PathBuf {
        tidy(Path::new(&self.text(text, at)))
    }

    pub fn gpu(&self, gpu: &GpuText) -> Option<GpuChoice> {
        let text = self.text(&gpu.text, Some(gpu.location));
        match Gpu::parse(&text) {
            Ok(kind) => Some(GpuChoice { gpu: kind, wait: gpu.wait }),
            Err(error) => {
                let finding = Diagnostic::error("bad-gpu", error.to_string());
                self.report(finding.at(gpu.location).help(error.help()));
                None
            }
        }
    }

    fn explain(&self, error: &InterpolateError, at: Option<Location>) -> Diagnostic {
        let InterpolateError::Unknown { name, .. } = error else {
            return Diagnostic::error("bad-placeholder", error.to_string()).at(at).help(INTERPOLATE_HELP);
        };
        let axes: Vec<&str> = self.values.iter().map(|(axis, _)| axis.as_str()).collect();
        let job = &self.job.name;
        let (message, help) = match nearest(name, axes.iter().copied()) {
            _ if axes.is_empty() => (
                format!("job `{job}` has no matrix to take `{name}` from"),
                format!("add matrix = {{ {name} = [\"…\"] }} to the job, or write the value itself here"),
            ),
            Some(near) => (
                format!("the matrix of job `{job}` has no axis `{name}`"),
                format!("did you mean `${{matrix.{near}}}`?"),
            ),
            None => (
                format!("the matrix of job `{job}` has no axis `{name}`"),
                format!("the job's matrix has {}", axes.join(", ")),
            ),
        };
        let exact = at.map(|at| self.origins.narrow(at, |text| find_written(text, name)));
        let found = Diagnostic::error("unknown-axis", message).at(exact).help(help);
        found.related(self.job.location, format!("filled in for job `{job}`"))
    }
}

/// `./a/./b` → `a/b`; `.` for nothing at all.
pub fn tidy(path: &Path) -> PathBuf {
    let tidied: PathBuf = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
    if tidied.as_os_str().is_empty() { PathBuf::from(".") } else { tidied }
}
