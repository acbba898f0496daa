//! The environment of a job on this machine.
//!
//! Weakest first: the colour hint, the host's, the image's `env` layers, dotenv files, the job's `env`, what its
//! virtual environment needs, accel's own `ACCEL_*` and `PWD`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use indexmap::IndexMap;

use super::{ColorHint, LocalSettings, Prepared};
use crate::backend::{OpenRequest, OutputMode};
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
    variables.extend(dotenv.iter().map(|(name, value)| (name, value)));
    variables.extend(&request.spec.env);
    variables.set("ACCEL_JOB", request.job.as_str());
    variables.set("ACCEL_PLACE", Place::Local.as_str());
    if let Some(run) = &settings.run {
        variables.set("ACCEL_RUN", run);
    }
    variables.0.into_iter().collect()
}

/// The weakest word about colour: only where nobody says something else.
pub(super) fn hint_color(env: &mut Vec<(OsString, OsString)>, hint: ColorHint, output: OutputMode) {
    let names: &[&str] = match (hint, output) {
        (ColorHint::Unsaid, _) | (ColorHint::WherePassedOn, OutputMode::Inherit) => &[],
        (ColorHint::Never, _) => &["NO_COLOR"],
        (ColorHint::Always, _) | (ColorHint::WherePassedOn, OutputMode::Events) => {
            &["CLICOLOR_FORCE", "FORCE_COLOR"]
        }
    };
    for name in names {
        if !env.iter().any(|(known, _)| known == name) {
            env.push(((*name).into(), "1".into()));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_spoken_of_where_output_is_passed_on_and_nobody_says_something_else() {
        let check = |hint, output, before: &[(&str, &str)], expected: &str| {
            let mut env = before.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            hint_color(&mut env, hint, output);
            let said = env.iter().map(|(name, value)| format!("{}={} ", name.display(), value.display()));
            assert_eq!(said.collect::<String>().trim_end(), expected, "{hint:?} {output:?}");
        };
        use ColorHint::{Always, Never, Unsaid, WherePassedOn};
        use OutputMode::{Events, Inherit};
        let forced = "CLICOLOR_FORCE=1 FORCE_COLOR=1";
        check(WherePassedOn, Inherit, &[], "");
        check(WherePassedOn, Events, &[], forced);
        check(WherePassedOn, Events, &[("FORCE_COLOR", "0")], "FORCE_COLOR=0 CLICOLOR_FORCE=1");
        check(Always, Inherit, &[], forced);
        check(Unsaid, Events, &[], "");
        check(Never, Inherit, &[], "NO_COLOR=1");
    }
}
