//! Where a command works on this machine, and what becomes of what it wrote: the project itself, or a copy of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{JoinError, spawn_blocking};
use tokio::time::Instant;

use super::LocalSettings;
use crate::backend::{Failure, OpenRequest, Prospect, Workplace};
use crate::domain::Cause;
use crate::event::{Event, Step, StepOutcome};
use crate::plan::spec::SyncSet;
use crate::workspace::copy::WorkingCopy;
use crate::workspace::kept::Kept;
use crate::workspace::tree::{PatternSet, Rules, TreeError};
use crate::workspace::unpack::{CaseRule, Limits, Policy, bring};

/// Below the cache.
const COPIES: &str = "copies";

pub(super) enum Ground {
    Project {
        root: PathBuf,
        /// The outputs as they were, where another attempt may follow; or why they could not be kept.
        kept: Option<Result<Kept, String>>,
    },
    Copy(Arc<WorkingCopy>),
}

impl Ground {
    pub(super) async fn prepare(request: &OpenRequest, settings: &LocalSettings) -> Result<Self, Failure> {
        match &request.workplace {
            Workplace::Project => Ok(Self::Project { root: request.root.clone(), kept: keep(request).await }),
            Workplace::Copy(sync) => Ok(Self::Copy(Arc::new(copy(request, sync, settings).await?))),
        }
    }

    /// What stands for the folder of accel.toml.
    pub(super) fn root(&self) -> &Path {
        match self {
            Self::Project { root, .. } => root,
            Self::Copy(copy) => copy.path(),
        }
    }

    /// Brings declared outputs into the project, where they are not there already.
    pub(super) async fn bring_home(&self, request: &OpenRequest) -> Result<(), Failure> {
        let Self::Copy(copy) = self else { return Ok(()) };
        let patterns = request.spec.outputs.clone().unwrap_or_default();
        if patterns.is_empty() {
            return Ok(());
        }
        let outputs = PatternSet::new(patterns.iter().map(String::as_str))
            .map_err(|error| Failure::new(Cause::Command, format!("outputs: {error}")))?;
        let policy =
            Policy { outputs, protected: Vec::new(), limits: Limits::default(), case: CaseRule::AsDisk };
        let (copy, root) = (Arc::clone(copy), request.root.clone());
        let brought = spawn_blocking(move || bring(copy.path(), &policy, &root)).await.map_err(broken)?;
        brought.map(drop).map_err(|error| infra(&error))
    }

    /// Another attempt follows: what was written into the outputs of the project is taken back.
    pub(super) async fn take_back(&mut self) -> Result<(), Failure> {
        let Self::Project { kept, .. } = self else { return Ok(()) };
        match kept.take() {
            None => Ok(()),
            Some(Err(reason)) => Err(Failure::new(Cause::Infra, reason)),
            Some(Ok(mut kept)) => {
                let restored = spawn_blocking(move || kept.restore()).await.map_err(broken)?;
                restored.map_err(|error| infra(&error))
            }
        }
    }

    pub(super) async fn close(self) -> Result<(), Failure> {
        let Self::Copy(copy) = self else { return Ok(()) };
        let Some(copy) = Arc::into_inner(copy) else { return Ok(()) };
        let removed = spawn_blocking(move || copy.remove()).await.map_err(broken)?;
        removed.map_err(|error| {
            Failure::new(Cause::Infra, format!("the copy of the working tree could not be removed: {error}"))
        })
    }
}

async fn keep(request: &OpenRequest) -> Option<Result<Kept, String>> {
    let outputs = request.spec.outputs.as_ref().filter(|outputs| !outputs.is_empty())?;
    if request.prospect == Prospect::Last {
        return None;
    }
    let (root, outputs) = (request.root.clone(), outputs.clone());
    let kept = spawn_blocking(move || {
        let outputs =
            PatternSet::new(outputs.iter().map(String::as_str)).map_err(|error| error.to_string())?;
        Kept::take(&root, outputs).map_err(|error| error.to_string())
    });
    Some(kept.await.unwrap_or_else(|error| Err(error.to_string())))
}

async fn copy(
    request: &OpenRequest,
    sync: &SyncSet,
    settings: &LocalSettings,
) -> Result<WorkingCopy, Failure> {
    let mut sync = sync.clone();
    sync.include.extend(request.needed_outputs.iter().cloned());
    let cache = settings.directories.open_cache().map_err(|error| infra(&error).help(error.help()))?;
    let (root, place, global_ignore) = (request.root.clone(), cache.join(COPIES), settings.global_ignore);
    let (job, step, began) = (request.job.clone(), Step::Sync, Instant::now());
    let label = "copying the working tree".to_owned();
    request.emitter.emit(Event::StepStarted { job: job.clone(), step, label }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let mut copying = spawn_blocking(move || {
        let rules = Rules::new(&sync, &[], global_ignore())?;
        match WorkingCopy::make(&root, &rules, &place, &stopped) {
            // A tree that changes meanwhile is copied again, once.
            Err(TreeError::Changed { .. }) => WorkingCopy::make(&root, &rules, &place, &stopped),
            made => made,
        }
    });
    let mut cancel = request.cancel.clone();
    let made = tokio::select! {
        made = &mut copying => made,
        _ = cancel.stopped() => {
            stop.store(true, Ordering::Relaxed);
            copying.await
        }
    };
    let made = made.map_err(broken)?.map_err(|error| {
        let failure = infra(&error);
        error.help().map_or(failure.clone(), |help| failure.help(help))
    });
    let outcome = if made.is_ok() { StepOutcome::Done } else { StepOutcome::Failed };
    let duration = began.elapsed();
    request.emitter.emit(Event::StepFinished { job, step, outcome, duration }).await;
    made
}

fn infra(error: &dyn std::error::Error) -> Failure {
    Failure::new(Cause::Infra, error.to_string())
}

fn broken(error: JoinError) -> Failure {
    Failure::new(Cause::Infra, format!("a task of accel broke: {error}"))
}
