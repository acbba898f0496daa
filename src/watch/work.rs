//! What a loop is given to follow, and what it asks of whoever runs jobs, reads the configuration and talks to the user.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::affected::Interests;
use crate::backend::Cancel;
use crate::domain::JobId;
use crate::plan::spec::Plan;
use crate::workspace::tree::Rules;

/// Paths that a trigger names; the rest is counted.
pub(super) const NAMED_PATHS: usize = 100;

/// What is followed.
pub struct Following {
    pub plan: Arc<Plan>,
    pub interests: Interests,
    /// The configuration: its changes reload the plan, and concern only jobs that are others afterwards.
    pub config_files: BTreeSet<PathBuf>,
    /// Other files that the plan was made from.
    pub plan_files: BTreeSet<PathBuf>,
}

/// Jobs to be run.
#[derive(Debug, Clone)]
pub struct Run {
    pub jobs: BTreeSet<JobId>,
    pub trigger: Trigger,
    pub cancel: Cancel,
}

/// Why a run begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trigger {
    pub cause: Cause,
    /// Relative to the root: the first [`NAMED_PATHS`].
    pub paths: Vec<String>,
    /// How many there were.
    pub count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cause {
    #[default]
    Start,
    Change,
    Configuration,
    Key,
}

/// How a run ended.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    pub passed: BTreeSet<JobId>,
}

/// What a person asks for while the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The jobs of the last run once more.
    Again,
    /// Every job.
    All,
    /// The next run in another place.
    Move,
    Quit,
}

/// What makes a run likely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It is about to begin.
    Start,
    /// Something was saved; nobody knows yet what.
    Save,
}

/// What became of the configuration.
pub enum Reloaded {
    /// Broken; told to the user. The files that it is made of now.
    Broken(BTreeSet<PathBuf>),
    Same,
    Changed {
        following: Box<Following>,
        /// Where other paths matter than before; then every job runs.
        rules: Option<Box<Rules>>,
        /// The jobs that are others now.
        jobs: BTreeSet<JobId>,
    },
}

/// What the loop tells besides runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Everything is watched.
    Ready {
        files: usize,
    },
    /// Changes are found by looking.
    Polling {
        why: String,
        help: Option<String>,
    },
    Away,
    Back,
    /// What was asked for runs when the current run is over.
    Queued,
    /// This file changes with every run, as if a job wrote it: it interrupts runs no longer.
    Restless {
        path: String,
    },
}

/// Whoever runs jobs, reads the configuration and talks to the user.
pub trait Work {
    fn run(&self, run: Run) -> impl Future<Output = Ended>;
    fn reload(&self) -> Reloaded;
    fn tell(&self, news: News);
    /// The next wish; never, where nobody can have one. Dropped and asked again at any time.
    fn command(&self) -> impl Future<Output = Command>;
    /// Something happens that a run may follow, while none goes on. Returns at once.
    fn sign(&self, sign: Sign);
    /// The runs after this one go elsewhere; the same jobs, followed as before.
    fn switch_place(&self) -> Option<Arc<Plan>>;
}
