//! accel.toml: read, merged, checked.
//!
//! Pipeline: text → spanned tree (TOML or YAML) → keys per file → merged by precedence (built-in,
//! `extends`, file, profile, accel.local.toml, `ACCEL_*`) → checked [`model::Config`]. The only place that reads
//! accel.toml. Every stage collects all its findings; nothing here prints, waits or reaches a network.
//!
//! [`codes`] lists the kinds of findings, [`variables`] the `ACCEL_*` variables. What keys mean together with
//! the machine (facts, files, matrix values) is left to `plan` and `route`.

mod check;
pub mod codes;
mod files;
mod grammar;
pub mod model;
mod reader;
mod tree;
pub mod variables;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use self::grammar::{Definitions, DocumentKeys, Grammar};
use self::model::{Config, Layer};
use crate::diag::{Diagnostic, Severity, SourceMap};

/// Names under which the configuration is looked for, best first.
pub const FILE_NAMES: [&str; 3] = ["accel.toml", "accel.yaml", "accel.yml"];
/// Personal settings beside it, laid on top.
pub const LOCAL_FILE_NAME: &str = "accel.local.toml";
/// Largest configuration file, in bytes.
pub const MAX_FILE_SIZE: u64 = 1 << 20;

/// Most findings of one load. A file with more is not fixed by reading on.
pub const MAX_FINDINGS: usize = 200;

/// What to load.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// The folder to search upward from.
    pub start: PathBuf,
    /// `--config`: this file, without a search.
    pub explicit: Option<PathBuf>,
    /// `--profile`: the name and the layer it came from. ACCEL_PROFILE counts where this is `None`.
    pub profile: Option<(String, Layer)>,
    /// Variables whose names begin with `ACCEL_`; others are not looked at.
    pub variables: BTreeMap<String, String>,
    /// Files below this folder are shown relative to it.
    pub display_base: PathBuf,
}

/// A configuration without errors.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// In the order of their places; never errors.
    pub warnings: Vec<Diagnostic>,
}

/// One configuration per profile, without errors.
#[derive(Debug)]
pub struct EveryProfile {
    /// That of the request first; never empty. Places in any of them hold in all.
    pub configs: Vec<Config>,
    pub warnings: Vec<Diagnostic>,
}

/// A configuration with at least one error.
#[derive(Debug, Clone)]
pub struct LoadError {
    pub sources: SourceMap,
    /// Errors and warnings, in the order of their places.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads, merges and checks the configuration.
pub fn load(request: &LoadRequest) -> Result<Loaded, LoadError> {
    merge_and_check(files::read(request), request)
}

/// The same, and every profile that was not chosen: what is wrong only with one of those is found too.
pub fn load_every_profile(request: &LoadRequest) -> Result<EveryProfile, LoadError> {
    let read = files::read(request);
    let names = read.profile_names();
    let chosen = merge_and_check(read.clone(), request);
    let (mut diagnostics, mut sources, mut configs) = match chosen {
        Ok(loaded) => (loaded.warnings, loaded.config.sources.clone(), vec![loaded.config]),
        Err(error) => (error.diagnostics, error.sources, Vec::new()),
    };
    // A profile that nobody defines was asked for: its name takes the place of a source in the map.
    let others =
        if diagnostics.iter().any(|found| found.code == codes::UNKNOWN_PROFILE) { Vec::new() } else { names };
    for name in others {
        if configs.first().is_some_and(|config| config.profile.as_ref() == Some(&name)) {
            continue;
        }
        let with_profile = (name.clone(), Layer::Flag("--profile".to_owned()));
        let request = LoadRequest { profile: Some(with_profile), ..request.clone() };
        let found = match merge_and_check(read.clone(), &request) {
            Ok(loaded) => {
                configs.push(loaded.config);
                loaded.warnings
            }
            Err(error) => {
                sources = error.sources;
                error.diagnostics
            }
        };
        for finding in found {
            let known = |other: &Diagnostic| {
                (other.code, other.location, &other.message)
                    == (finding.code, finding.location, &finding.message)
            };
            if !diagnostics.iter().any(known) {
                diagnostics.push(finding.help(format!("seen with --profile {name}")));
            }
        }
    }
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(LoadError { sources, diagnostics: ordered(diagnostics) });
    }
    Ok(EveryProfile { configs, warnings: ordered(diagnostics) })
}

/// Checks one text on its own, as an editor would: without what it extends and without accel.local.toml.
/// `name` ends in `.yaml` or `.yml` for YAML.
pub fn load_text(name: &str, text: &str) -> Result<Loaded, LoadError> {
    merge_and_check(files::read_text(name, text), &LoadRequest::default())
}

fn merge_and_check(mut read: files::Read, request: &LoadRequest) -> Result<Loaded, LoadError> {
    let Some(root) = read.root.take() else {
        return Err(LoadError { sources: read.sources, diagnostics: ordered(read.diagnostics) });
    };
    let mut diagnostics = std::mem::take(&mut read.diagnostics);
    let profile = files::choose_profile(request, &mut read, &mut diagnostics);
    let mut sources = read.sources;
    let overrides = variables::apply(&request.variables, &mut read.keys, &mut sources, &mut diagnostics);
    let context = check::Context {
        root,
        profile: profile.name,
        profiles: profile.all,
        profile_route: profile.route,
        placeholders: read.placeholders,
    };
    let (mut config, found) = check::check(read.keys, context, sources);
    diagnostics.extend(found);
    override_jobs(&mut config, &overrides);
    let diagnostics = ordered(diagnostics);
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(LoadError { sources: config.sources, diagnostics });
    }
    Ok(Loaded { config, warnings: diagnostics })
}

fn override_jobs(config: &mut Config, overrides: &variables::Overrides) {
    for job in config.jobs.values_mut() {
        if let Some(timeout) = &overrides.timeout {
            job.settings.timeout = Some(timeout.clone());
        }
        if let Some(changed_since) = &overrides.changed_since {
            job.settings.changed_since = Some(changed_since.clone());
        }
        if let Some(strict) = &overrides.strict {
            job.settings.strict = Some(strict.clone());
        }
    }
}

/// A key is not missing where what was written for it could not be read. `all` is in the order of places.
fn is_follow_up(finding: &Diagnostic, all: &[Diagnostic]) -> bool {
    let (codes::MISSING_KEY, Some(table)) = (finding.code, finding.location) else { return false };
    let start = (table.source, table.start);
    let from = all.partition_point(|other| other.location.is_none_or(|at| (at.source, at.start) < start));
    all[from..]
        .iter()
        .map_while(|other| {
            Some((other, other.location.filter(|at| at.source == table.source && at.start <= table.end)?))
        })
        .any(|(other, at)| other.code != codes::MISSING_KEY && at.end <= table.end)
}

/// By place, so that the order does not depend on which stage found what; what has no place comes first.
fn ordered(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|diagnostic| diagnostic.location);
    diagnostics.dedup();
    let all = diagnostics.clone();
    diagnostics.retain(|finding| !is_follow_up(finding, &all));
    let more = diagnostics.len().saturating_sub(MAX_FINDINGS);
    if more > 0 {
        diagnostics.sort_by_key(|diagnostic| diagnostic.severity);
        diagnostics.truncate(MAX_FINDINGS);
        diagnostics
            .push(Diagnostic::warning(codes::MORE, format!("{more} more findings")).help("fix these first"));
    }
    diagnostics
}

/// The JSON Schema of accel.toml, as committed in `schemas/accel.schema.json`.
pub fn schema() -> Json {
    let mut definitions = Definitions::default();
    let root = DocumentKeys::schema(&mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "accel.toml",
        "$ref": root["$ref"],
        "$defs": definitions.into_json(),
    })
}
