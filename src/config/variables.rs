//! The `ACCEL_` variables: all of them, once.
//!
//! Configuration applies those that stand for a key; the others are read where they take effect. A variable
//! with this prefix that is not listed is reported, so that a misspelt one is not silently ignored.

use std::collections::BTreeMap;
use std::time::Duration;

use super::codes;
use super::grammar::{DocumentKeys, GitRef, ModalKeys, ObjectName};
use super::model::{Layer, Origin, Setting, Valued};
use crate::base::duration::{DURATION_HELP, parse_duration};
use crate::base::suggest::nearest;
use crate::diag::{Diagnostic, Location, SourceMap};

/// The profile to lay on top, as `--profile`.
pub const PROFILE: &str = "ACCEL_PROFILE";
/// The configuration file, as `--config`.
pub const CONFIG: &str = "ACCEL_CONFIG";
/// Where jobs run, as `--on`.
pub const ON: &str = "ACCEL_ON";
/// How many jobs run at once, as `--jobs`.
pub const JOBS: &str = "ACCEL_JOBS";
/// Lets the rest finish after a failure, as `--keep-going`.
pub const KEEP_GOING: &str = "ACCEL_KEEP_GOING";
/// Never falls back, as `--strict`.
pub const STRICT: &str = "ACCEL_STRICT";
/// What files of every job count as changed since.
pub const CHANGED_SINCE: &str = "ACCEL_CHANGED_SINCE";
/// Longest time of every job, as `--timeout`.
pub const TIMEOUT: &str = "ACCEL_TIMEOUT";
/// Runs jobs even where their result is known, as `--force`.
pub const FORCE: &str = "ACCEL_FORCE";
/// Writes events as JSON, as `--json`.
pub const JSON: &str = "ACCEL_JSON";
/// `[modal] app`.
pub const MODAL_APP: &str = "ACCEL_MODAL_APP";
/// `[modal] environment`.
pub const MODAL_ENVIRONMENT: &str = "ACCEL_MODAL_ENVIRONMENT";
/// Folder of runs, leases and logs.
pub const STATE_DIR: &str = "ACCEL_STATE_DIR";
/// Folder of environments and cached results.
pub const CACHE_DIR: &str = "ACCEL_CACHE_DIR";
/// Who calls: human, ci, agent or watch.
pub const CALLER: &str = "ACCEL_CALLER";
/// How much accel says about itself.
pub const LOG: &str = "ACCEL_LOG";

/// Every variable that accel reads.
pub const READ: [&str; 16] = [
    PROFILE,
    CONFIG,
    ON,
    JOBS,
    KEEP_GOING,
    STRICT,
    CHANGED_SINCE,
    TIMEOUT,
    FORCE,
    JSON,
    MODAL_APP,
    MODAL_ENVIRONMENT,
    STATE_DIR,
    CACHE_DIR,
    CALLER,
    LOG,
];

/// Variables that accel sets for the commands it runs; an accel within a job sees them and leaves them alone.
pub const GIVEN_TO_JOBS: [&str; 8] = [
    "ACCEL_JOB",
    "ACCEL_RUN",
    "ACCEL_PLACE",
    "ACCEL_PROJECT",
    "ACCEL_ROOT",
    "ACCEL_ATTEMPT",
    "ACCEL_SHARD_INDEX",
    "ACCEL_SHARD_TOTAL",
];

/// What variables say about every job, whatever the job says itself.
#[derive(Debug, Default)]
pub struct Overrides {
    pub timeout: Setting<Duration>,
    pub strict: Setting<bool>,
    pub changed_since: Setting<String>,
}

/// Lays the variables on top of the merged keys.
pub fn apply(
    variables: &BTreeMap<String, String>,
    keys: &mut DocumentKeys,
    sources: &mut SourceMap,
    diagnostics: &mut Vec<Diagnostic>,
) -> Overrides {
    let mut overrides = Overrides::default();
    for (name, text) in variables {
        if text.is_empty() {
            continue;
        }
        let mut place = || {
            let source = sources.add_text(name, text.as_str());
            Location::new(source, 0..text.len())
        };
        match name.as_str() {
            TIMEOUT => match parse_duration(text) {
                Ok(timeout) => overrides.timeout = Some(valued(name, timeout)),
                Err(error) => diagnostics.push(
                    Diagnostic::error(codes::BAD_UNIT, error.to_string()).at(place()).help(DURATION_HELP),
                ),
            },
            STRICT => match switch(text) {
                Some(strict) => overrides.strict = Some(valued(name, strict)),
                None => diagnostics.push(
                    Diagnostic::error(codes::BAD_VALUE, format!("`{text}` is neither true nor false"))
                        .at(place())
                        .help("write 1 or 0"),
                ),
            },
            CHANGED_SINCE => match GitRef::parse(text) {
                Ok(named) => overrides.changed_since = Some(valued(name, named.0)),
                Err((message, help)) => {
                    diagnostics.push(Diagnostic::error(codes::BAD_NAME, message).at(place()).help(help));
                }
            },
            MODAL_APP => modal(keys).app = Some(valued(name, ObjectName(text.clone()))),
            MODAL_ENVIRONMENT => modal(keys).environment = Some(valued(name, ObjectName(text.clone()))),
            known if READ.contains(&known) || GIVEN_TO_JOBS.contains(&known) => {}
            _ => diagnostics.push(unknown(name)),
        }
    }
    overrides
}

/// `1`, `true`, `yes`, `on` and their opposites.
pub fn switch(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn valued<T>(name: &str, value: T) -> Box<Valued<T>> {
    Box::new(Valued { value, origin: Origin { layer: Layer::Variable(name.to_owned()), location: None } })
}

fn modal(keys: &mut DocumentKeys) -> &mut ModalKeys {
    let origin = Origin { layer: Layer::BuiltIn, location: None };
    &mut keys.modal.get_or_insert_with(|| Box::new(Valued { value: ModalKeys::default(), origin })).value
}

fn unknown(name: &str) -> Diagnostic {
    let found = Diagnostic::warning(codes::UNKNOWN_VARIABLE, format!("accel reads no variable `{name}`"));
    match nearest(name, READ) {
        Some(near) => found.help(format!("did you mean {near}?")),
        None => found.help(format!("accel reads {}", READ.join(", "))),
    }
}
