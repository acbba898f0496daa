//! Checked configuration → plan: jobs selected, matrix expanded, needs closed over, images flattened and
//! digested.
//!
//! Pure: the files that images name are an argument ([`files_needed`] says which), the environment and the
//! clock are not consulted; equal input gives an equal plan, byte for byte when printed. Only the closure of
//! what was asked for is compiled, so one job of thousands costs one job. All findings are returned at once.
//! Deciding places is left to `route`, reading files to `workspace`.

mod claims;
mod fill;
mod image;
mod image_digest;
mod job;
mod layer;
mod origins;
mod pyproject;
pub mod render;
mod requirements;
mod select;
pub mod spec;
pub mod warm;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::model::{Budget, Config, Layer, Route, Valued};
use crate::diag::Diagnostic;
use crate::domain::JobId;

pub use select::{expand as combinations, needs as needs_of};

use image::{Images, Provided, Recorder};
use origins::Origins;
use spec::{BudgetLimits, ModalTarget, Plan, PlannedJob, SyncSet};

/// Python series of images that need one and name none.
pub const DEFAULT_PYTHON: &str = "3.12";

/// Contents of the files that images name, or why one could not be read; keys as [`files_needed`] gives them.
pub type Files = BTreeMap<PathBuf, Result<Arc<[u8]>, String>>;

/// What one invocation asks for.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Names, ids (`test[python=3.12]`; axes left out mean all their values) or globs (`bench-*`).
    pub requested: Vec<String>,
    /// Appended, quoted, to the command of the one job that was asked for.
    pub extra_args: Vec<String>,
    /// `--on` or `ACCEL_ON`: for every job of the plan.
    pub on: Option<Valued<Route>>,
    /// `--timeout` or `ACCEL_TIMEOUT`: for the jobs that were asked for.
    pub timeout: Option<Valued<Duration>>,
    /// `--strict` or `ACCEL_STRICT`: for every job of the plan.
    pub strict: Option<Valued<bool>>,
    pub purpose: Purpose,
}

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// To be run as a whole: no two of its jobs may make the same output.
    #[default]
    Run,
    /// To be looked at: only jobs that some job brings together must get along.
    Look,
}

impl Selection {
    pub fn of<S: Into<String>>(requested: impl IntoIterator<Item = S>) -> Self {
        Self { requested: requested.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Every job of the file, to be looked at.
    pub fn everything() -> Self {
        Self { purpose: Purpose::Look, ..Self::of(["*"]) }
    }
}

/// The files that the images of the selected jobs name, relative to the root. Contents may name further files
/// (`-r` lines of requirements), so ask again with what was read until nothing new is named.
pub fn files_needed(config: &Config, selection: &Selection, known: &Files) -> BTreeSet<PathBuf> {
    let Ok(closure) = select::close(config, selection) else { return BTreeSet::new() };
    let origins = Origins::new(&config.sources);
    let recorder = Recorder::new(known);
    let mut images = Images::new(config, &origins, &recorder);
    for node in &closure.nodes {
        images.of_job(node.job, &node.values, &mut Vec::new());
    }
    drop(images);
    recorder.into_paths()
}

/// Compiles what was asked for and all it needs.
pub fn compile(config: &Config, selection: &Selection, files: &Files) -> Result<Plan, Vec<Diagnostic>> {
    let closure = select::close(config, selection)?;
    let asked: BTreeSet<usize> = closure.requested.iter().copied().collect();
    let mut findings = Vec::new();
    check_extra_args(selection, &closure, &mut findings);
    let origins = Origins::new(&config.sources);
    let provided = Provided(files);
    let mut images = Images::new(config, &origins, &provided);
    let mut jobs = Vec::with_capacity(closure.nodes.len());
    for (index, node) in closure.nodes.iter().enumerate() {
        let asked = asked.contains(&index);
        let image = images.of_job(node.job, &node.values, &mut findings);
        let context = job::Context { config, selection, origins: &origins, asked };
        jobs.push(job::compile(&context, node, image, &mut findings));
    }
    findings.extend(claims::clashes(config, &closure.nodes, &jobs, selection.purpose));
    if !findings.is_empty() {
        return Err(without_repeats(findings));
    }
    let requested = closure.requested.iter().map(|index| jobs[*index].id.clone()).collect();
    Ok(assemble(config, &origins, requested, jobs))
}

fn assemble(config: &Config, origins: &Origins<'_>, requested: Vec<JobId>, jobs: Vec<PlannedJob>) -> Plan {
    let mut images = BTreeMap::new();
    for job in &jobs {
        images.entry(job.spec.image.digest).or_insert_with(|| job.spec.image.clone());
    }
    Plan {
        root: config.root.clone(),
        project: config.project.value.clone(),
        modal: ModalTarget {
            app: config.modal.app.value.clone(),
            environment: config.modal.environment.as_ref().map(|name| name.value.clone()),
        },
        sync: sync_set(config),
        jobs,
        requested,
        images,
        budget: limits(&config.budget),
        provenance: provenance(config, origins),
    }
}

/// What travels to Modal, whatever the jobs are.
pub fn sync_set(config: &Config) -> SyncSet {
    SyncSet {
        gitignore: config.sync.gitignore.value,
        include: config.sync.include.iter().map(|glob| glob.value.clone()).collect(),
        exclude: config.sync.exclude.iter().map(|glob| glob.value.clone()).collect(),
        max_size: config.sync.max_size.value,
    }
}

/// What `[budget]` says.
pub fn limits(budget: &Budget) -> BudgetLimits {
    BudgetLimits {
        per_run: budget.per_run.as_ref().map(|amount| amount.value),
        per_day: budget.per_day.as_ref().map(|amount| amount.value),
        prewarm_per_day: budget.prewarm_per_day.as_ref().map(|amount| amount.value),
        on_exceed: budget.on_exceed.as_ref().map(|what| what.value).unwrap_or_default(),
        value_of_time: budget.value_of_time.as_ref().map(|amount| amount.value),
    }
}

/// Origins of what is not a job's.
fn provenance(config: &Config, origins: &Origins<'_>) -> BTreeMap<String, String> {
    let (sync, modal, budget) = (&config.sync, &config.modal, &config.budget);
    let all = [
        ("project", Some(&config.project.origin)),
        ("modal.app", Some(&modal.app.origin)),
        ("modal.environment", modal.environment.as_ref().map(|value| &value.origin)),
        ("sync.gitignore", Some(&sync.gitignore.origin)),
        ("sync.include", sync.include.first().map(|value| &value.origin)),
        ("sync.exclude", sync.exclude.first().map(|value| &value.origin)),
        ("sync.max_size", Some(&sync.max_size.origin)),
        ("budget.per_run", budget.per_run.as_ref().map(|value| &value.origin)),
        ("budget.per_day", budget.per_day.as_ref().map(|value| &value.origin)),
        ("budget.prewarm_per_day", budget.prewarm_per_day.as_ref().map(|value| &value.origin)),
        ("budget.on_exceed", budget.on_exceed.as_ref().map(|value| &value.origin)),
        ("budget.value_of_time", budget.value_of_time.as_ref().map(|value| &value.origin)),
    ];
    let set = all.into_iter().filter_map(|(key, origin)| Some((key, origin?)));
    set.filter(|(_, origin)| origin.layer != Layer::BuiltIn)
        .map(|(key, origin)| (key.to_owned(), origins.text(origin)))
        .collect()
}

fn check_extra_args(selection: &Selection, closure: &select::Closure<'_>, findings: &mut Vec<Diagnostic>) {
    let names: BTreeSet<&str> =
        closure.requested.iter().map(|index| closure.nodes[*index].job.name.as_str()).collect();
    if selection.extra_args.is_empty() || names.len() == 1 {
        return;
    }
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    findings.push(
        Diagnostic::error(
            "ambiguous-arguments",
            format!("arguments after `--` go to one job, but several were asked for: {names}"),
        )
        .help("run one of them at a time, or leave the arguments out"),
    );
}

/// Jobs that share an image share its findings: each is reported once.
fn without_repeats(findings: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut kept: Vec<Diagnostic> = Vec::with_capacity(findings.len());
    for finding in findings {
        if !kept.contains(&finding) {
            kept.push(finding);
        }
    }
    kept
}

#[cfg(test)]
mod tests;
