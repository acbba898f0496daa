//! The variables of a job on Modal: named ones only; nothing else of this machine travels.
//!
//! Weakest first: the colour hint, local variables that `pass_env` names, dotenv files, the job's `env`, accel's own.
//! Named secrets belong to the sandbox and are weaker than all of these.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::wire::client as wire;
use crate::backend::{Failure, OpenRequest};
use crate::base::exit_code;
use crate::domain::{Cause, Place};
use crate::workspace::dotenv;
use crate::workspace::tree::PatternSet;

/// What jobs are told about colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    Unsaid,
    /// `NO_COLOR`.
    Never,
    /// `CLICOLOR_FORCE` and `FORCE_COLOR`.
    Always,
}

/// What variables are made of besides the spec.
#[derive(Debug, Clone)]
pub(super) struct Surroundings<'a> {
    /// accel's own environment, for `pass_env`.
    pub(super) host: &'a [(OsString, OsString)],
    pub(super) run: &'a str,
    pub(super) color: Color,
}

/// As the exec's own source of secrets: values are in no argument list and in no definition.
pub(super) fn of_job(
    request: &OpenRequest,
    around: &Surroundings<'_>,
) -> Result<wire::SecretSource, Failure> {
    let spec = &request.spec;
    let mut contents = BTreeMap::new();
    let hints: &[&str] = match around.color {
        Color::Unsaid => &[],
        Color::Never => &["NO_COLOR"],
        Color::Always => &["CLICOLOR_FORCE", "FORCE_COLOR"],
    };
    contents.extend(hints.iter().map(|name| ((*name).to_owned(), "1".to_owned())));
    contents.extend(passed(&spec.pass_env, around.host)?);
    contents.extend(dotenv::read(&request.root, &spec.dotenv).map_err(|error| {
        Failure::new(Cause::Command, error.to_string()).help(error.help()).exit_code(exit_code::USAGE)
    })?);
    contents.extend(spec.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    contents.insert("ACCEL_JOB".to_owned(), request.job.as_str().to_owned());
    contents.insert("ACCEL_PLACE".to_owned(), Place::Modal.as_str().to_owned());
    contents.insert("ACCEL_RUN".to_owned(), around.run.to_owned());
    let env = wire::StringMap { contents };
    Ok(wire::SecretSource { source: Some(wire::secret_source::Source::Env(env)) })
}

fn passed(patterns: &[String], host: &[(OsString, OsString)]) -> Result<Vec<(String, String)>, Failure> {
    let patterns = PatternSet::new(patterns.iter().map(String::as_str))
        .map_err(|error| Failure::new(Cause::Command, format!("pass_env: {error}")))?;
    let text =
        |(name, value): &(OsString, OsString)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()));
    let named = host.iter().filter_map(text).filter(|(name, _)| patterns.matching(name).is_some());
    Ok(named.collect())
}
