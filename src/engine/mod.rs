//! The graph of jobs, run to its end.
//!
//! Owns the state of a run: what is ready, what runs where, retries, fallbacks, timeouts, cancellation and the
//! verdict of every job. One dispatcher holds that state and alone starts work and sees results; each attempt at
//! a job is a task that opens a session, runs the command, collects outputs and closes the session; a race ([`race`]) is
//! one task with two of them.
//!
//! What must stay true: no job starts before all it needs have passed; a job gets exactly one verdict; an opened
//! session is closed exactly once, whatever happens; limits hold at every moment; cancellation only rises; a run
//! always ends. Places are reached only through [`Backend`]; what is to be seen goes out as events.

mod attempt;
mod dispatch;
mod exit;
mod graph;
mod growth;
mod ladder;
mod policy;
mod race;
mod slots;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, Cancel, StopReason};
use crate::domain::{JobId, Place};
use crate::event::{Emitter, Quote, Rival, Verdict};
use crate::plan::spec::{Plan, PlannedJob};

pub use exit::exit_code;

/// How a plan is to be run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Unique; names the run in events.
    pub run: String,
    pub parallel: Parallel,
    pub on_failure: OnFailure,
    pub fallback: FallbackPolicy,
    pub output: OutputPolicy,
    pub jitter: Jitter,
}

/// How many jobs may run at once. `None`: as many as there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parallel {
    pub local: Option<NonZeroUsize>,
    pub modal: Option<NonZeroUsize>,
}

impl Parallel {
    /// `-j`: the same limit in each place.
    pub fn jobs(limit: NonZeroUsize) -> Self {
        Self { local: Some(limit), modal: Some(limit) }
    }

    /// Without `-j`: one local job per core, no limit on Modal.
    pub fn cores(cores: NonZeroUsize) -> Self {
        Self { local: Some(cores), modal: None }
    }
}

/// What a failed job means for those that do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Running jobs finish, nothing new starts.
    Drain,
    /// `--keep-going`.
    KeepGoing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallbackPolicy {
    /// As each job says.
    AsPlanned,
    /// `--strict`.
    Forbidden,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputPolicy {
    /// No sink needs the bytes: a job that is alone in its plan inherits accel's own stdout and stderr.
    InheritWhenAlone,
    /// Some sink needs every byte.
    Events,
}

/// Where the randomness of back-off comes from: a function that returns a number from 0 up to 1.
#[derive(Clone)]
pub struct Jitter(Arc<dyn Fn() -> f64 + Send + Sync>);

impl Jitter {
    pub fn new(source: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// Spreads retries of many clients; not for secrets.
    pub fn random() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        Self::new(|| RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64)
    }

    fn draw(&self) -> f64 {
        (self.0)().clamp(0.0, 1.0)
    }
}

impl fmt::Debug for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jitter")
    }
}

/// Where a job is to run, and why; `reason` is the one line that people see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub place: Place,
    pub reason: String,
    pub reasons: Vec<String>,
    /// What it costs at least, where it costs.
    pub quote: Option<Quote>,
    /// In a race: the other place, which starts later.
    pub rival: Option<Rival>,
}

/// Decides a job's place; the second argument is the attempt, from 1. Called for each job whose needs have
/// passed, and again for each retry, but for a job that has fallen back. It must not wait.
pub type Decide = Arc<dyn Fn(&PlannedJob, u32) -> Decision + Send + Sync>;

/// One backend per place. A place without one is an error of the job that is routed there.
pub type Backends = BTreeMap<Place, Arc<dyn Backend>>;

/// What became of every job, in the order of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub jobs: Vec<JobReport>,
    /// Set once the run was told to stop.
    pub stopped_by: Option<StopReason>,
    pub duration: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct JobReport {
    pub job: JobId,
    pub verdict: Verdict,
    /// Where it ran last; `None` when it was never started.
    pub place: Option<Place>,
    pub attempts: u32,
    /// From its first start to its verdict.
    pub duration: Duration,
    /// The job whose failure made this one be skipped: an index into [`Plan::jobs`].
    pub blamed: Option<usize>,
}

/// Runs every job of the plan. Ends after every started job has ended and every session is closed.
pub async fn run(
    plan: Arc<Plan>,
    options: RunOptions,
    backends: Backends,
    decide: Decide,
    emitter: Emitter,
    cancel: Cancel,
) -> Summary {
    dispatch::Dispatcher::new(plan, options, backends, decide, emitter, cancel).run().await
}

#[cfg(test)]
mod tests;
