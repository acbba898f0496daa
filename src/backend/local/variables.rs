//! The environment of a job on this machine.
//!
//! Weakest first: the host's, the colour hint, the image's `env` layers, dotenv files, the job's `env`, what its
//! virtual environment needs, accel's own `ACCEL_*` and `PWD`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use indexmap::IndexMap;

use super::{ColorHint, LocalSettings, Prepared};
use crate::backend::OpenRequest;
use crate::domain::Place;
use crate::plan::spec::{ImageSpec, StepSpec};

/// Variables by name, in the order in which they were first set.
#[derive(Debug, Default)]
struct Variables(IndexMap<OsString, OsString>);

pub(super) fn of_job(
    request: &OpenRequest,
    settings: &LocalSettings,
    dotenv: &[(String, String)],
    prepared: &Prepared,
    cwd: &Path,
) -> Vec<(OsString, OsString)> {
    let mut variables = Variables(settings.host_env.iter().cloned().collect());
    for name in &prepared.unset {
        variables.0.shift_remove(OsStr::new(name));
    }
    variables.hint_color(settings.color);
    variables.extend(image_env(&request.spec.image));
    variables.extend(dotenv.iter().map(|(name, value)| (name, value)));
    variables.extend(&request.spec.env);
    variables.extend(&prepared.env);
    variables.prefix_path(prepared);
    variables.set("ACCEL_JOB", request.job.as_str());
    variables.set("ACCEL_PLACE", Place::Local.as_str());
    if let Some(run) = &settings.run {
        variables.set("ACCEL_RUN", run);
    }
    variables.set("PWD", cwd);
    variables.0.shift_remove(OsStr::new("OLDPWD"));
    variables.0.into_iter().collect()
}

/// For a container, whose image brings its own: what travels to Modal travels here, and no more of the host's.
pub(super) fn of_container(
    request: &OpenRequest,
    settings: &LocalSettings,
    dotenv: &[(String, String)],
) -> Vec<(OsString, OsString)> {
    let mut variables = Variables::default();
    let passed = request.spec.pass_env.iter().filter_map(|glob| globset::Glob::new(glob).ok());
    let passed: Vec<globset::GlobMatcher> = passed.map(|glob| glob.compile_matcher()).collect();
    for (name, value) in &settings.host_env {
        if passed.iter().any(|glob| glob.is_match(Path::new(name))) {
            variables.0.insert(name.clone(), value.clone());
        }
    }
    variables.hint_color(settings.color);
    variables.extend(dotenv.iter().map(|(name, value)| (name, value)));
    variables.extend(&request.spec.env);
    variables.set("ACCEL_JOB", request.job.as_str());
    variables.set("ACCEL_PLACE", Place::Local.as_str());
    if let Some(run) = &settings.run {
        variables.set("ACCEL_RUN", run);
    }
    variables.0.into_iter().collect()
}

fn image_env(image: &ImageSpec) -> impl Iterator<Item = (&String, &String)> {
    image
        .layers
        .iter()
        .filter_map(|layer| if let StepSpec::Env(env) = &layer.step { Some(env) } else { None })
        .flatten()
}

impl Variables {
    fn set(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.0.insert(name.into(), value.as_ref().to_owned());
    }

    fn extend<'a>(&mut self, entries: impl IntoIterator<Item = (&'a String, &'a String)>) {
        entries.into_iter().for_each(|(name, value)| self.set(name, value));
    }

    /// Only where the host says nothing else.
    fn hint_color(&mut self, hint: ColorHint) {
        let names: &[&str] = match hint {
            ColorHint::Unsaid => &[],
            ColorHint::Never => &["NO_COLOR"],
            ColorHint::Always => &["CLICOLOR_FORCE", "FORCE_COLOR"],
        };
        for name in names {
            self.0.entry((*name).into()).or_insert_with(|| "1".into());
        }
    }

    fn prefix_path(&mut self, prepared: &Prepared) {
        if prepared.path_prefix.is_empty() {
            return;
        }
        let path = self.0.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        let mut joined = OsString::new();
        for folder in &prepared.path_prefix {
            joined.push(folder);
            joined.push(":");
        }
        joined.push(path);
        self.set("PATH", joined);
    }
}
