//! Placeholders: each names an axis of its job's matrix.

use std::collections::HashSet;

use super::{Checker, place};
use crate::base::interpolate;
use crate::base::suggest::nearest;
use crate::config::codes;
use crate::config::model::{Command, Image, ImageBase, ImageRef, Job, JobSettings};
use crate::diag::{Diagnostic, Location};

impl Checker {
    /// Checks the texts of one job; free where the whole configuration has no placeholder.
    pub(super) fn placeholders_of(&mut self, job: &Job) {
        if self.placeholders.is_empty() {
            return;
        }
        let axes: Vec<&str> =
            job.matrix.iter().flat_map(|matrix| matrix.value.axes.keys()).map(String::as_str).collect();
        let mut told = HashSet::new();
        for (text, location) in texts(&job.settings) {
            let Ok(placeholders) = interpolate::placeholders(text) else { continue };
            for placeholder in placeholders {
                if axes.contains(&placeholder.name) || !told.insert((placeholder.name.to_owned(), location)) {
                    continue;
                }
                self.unknown_axis(job, placeholder.name, location, &axes);
            }
        }
    }

    fn unknown_axis(&mut self, job: &Job, name: &str, location: Option<Location>, axes: &[&str]) {
        let message = match axes {
            [] => format!("job `{}` has no matrix to take `{name}` from", job.name),
            _ => format!("the matrix of job `{}` has no axis `{name}`", job.name),
        };
        let help = match (axes, nearest(name, axes.iter().copied())) {
            ([], _) => format!(
                "add matrix = {{ {name} = [\"…\"] }}, or write $${{matrix.{name}}} for the text itself"
            ),
            (_, Some(near)) => format!("write ${{matrix.{near}}}"),
            (_, None) => format!("axes: {}", axes.join(", ")),
        };
        let exact = location.and_then(|outer| self.exact(name, outer)).or(location);
        let exact = exact.map(|at| self.sources.narrow(at, |text| interpolate::find_written(text, name)));
        self.report(Diagnostic::error(codes::BAD_PLACEHOLDER, message).at(exact).help(help));
    }

    /// The place of the text with this placeholder within the place of a list.
    fn exact(&self, name: &str, outer: Location) -> Option<Location> {
        let within = |inner: &Location| {
            inner.source == outer.source && inner.start >= outer.start && inner.end <= outer.end
        };
        self.placeholders
            .iter()
            .find(|found| found.name == name && within(&found.location))
            .map(|found| found.location)
    }
}

type Placed<'a> = (&'a str, Option<Location>);

/// Every text of a job in which placeholders are filled in.
fn texts(settings: &JobSettings) -> Vec<Placed<'_>> {
    let mut found = Vec::new();
    for text in [&settings.desc, &settings.cwd].into_iter().flatten() {
        found.push((text.value.as_str(), place(text)));
    }
    let watch = &settings.watch;
    let lists =
        [&settings.inputs, &settings.outputs, &settings.dotenv, &settings.junit, &watch.paths, &watch.ignore];
    for list in lists.into_iter().flatten() {
        found.extend(list.value.iter().map(|text| (text.as_str(), place(list))));
    }
    if let Some(run) = &settings.run {
        match &run.value {
            Command::Shell(text) => found.push((text, place(run))),
            Command::Argv(words) => found.extend(words.iter().map(|word| (word.as_str(), place(run)))),
        }
    }
    found.extend(settings.env.values().map(|value| (value.value.as_str(), place(value))));
    found.extend(
        settings.gpu.iter().flat_map(|gpus| &gpus.value).map(|gpu| (gpu.text.as_str(), Some(gpu.location))),
    );
    if let Some(ImageRef::Inline(image)) = settings.image.as_ref().map(|image| &image.value) {
        image_texts(image, &mut found);
    }
    found
}

fn image_texts<'a>(image: &'a Image, found: &mut Vec<Placed<'a>>) {
    if let Some(python) = &image.python {
        found.push((&python.value, place(python)));
    }
    match &image.base.value {
        ImageBase::Registry { reference: text, .. } | ImageBase::Dockerfile { path: text, .. } => {
            found.push((text, place(&image.base)));
        }
        _ => {}
    }
    found.extend(image.env.values().map(|value| (value.value.as_str(), place(value))));
}
