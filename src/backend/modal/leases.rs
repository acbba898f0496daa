//! What holds sandboxes on Modal, and ending it by hand: behind `accel ps` and `accel stop`.
//!
//! What must stay true: a sandbox whose accel lives is ended on the server and its lease left to that accel, which
//! sees the end and settles; only a dead accel's lease is settled from here.

use std::collections::BTreeSet;

use serde::Serialize;

use super::error::{ErrorKind, ModalError};
use super::sweep::{Listed, Standing, SweepError, Sweeper};
use crate::domain::Place;
use crate::event::now_ms;
use crate::store::journal::warm::is_kept;
use crate::store::journal::{Entry, Journal, JournalError, Lease, LeaseState, Settlement, tag};

/// One sandbox, or the intent of one. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holding {
    pub job: Option<String>,
    pub project: Option<String>,
    pub run: Option<String>,
    pub place: Place,
    pub sandbox: Option<String>,
    pub lease: Option<String>,
    /// Absent where the journal here has no line of it.
    pub state: Option<LeaseState>,
    pub standing: Standing,
    /// Of the accel that owns it, where that is known.
    pub pid: Option<u32>,
    pub started_at_ms: u64,
    /// When the server ends it by itself; of a warm one, if no run comes before.
    pub expires_at_ms: Option<u64>,
}

impl Holding {
    fn of_entry(entry: &Entry, journal: &Journal) -> Self {
        let standing = match (journal.owner_lives(entry), entry.state) {
            (true, LeaseState::Parked) => Standing::Warm,
            (true, _) => Standing::InUse,
            (false, _) => Standing::Leftover,
        };
        let ends = entry.idle_ends_at_ms.map_or(entry.expires_at_ms, |idle| idle.min(entry.expires_at_ms));
        Self {
            job: Some(entry.job.clone()),
            project: Some(entry.project.clone()),
            run: Some(entry.run.clone()),
            place: Place::Modal,
            sandbox: entry.sandbox.clone(),
            lease: Some(entry.lease.as_str().to_owned()),
            state: Some(entry.state),
            standing,
            pid: Some(entry.pid),
            started_at_ms: entry.intended_at_ms,
            expires_at_ms: Some(ends),
        }
    }

    fn of_listed(listed: &Listed, standing: Standing) -> Self {
        let tag = |name| listed.tags.get(name).cloned();
        Self {
            job: tag(tag::JOB),
            project: tag(tag::PROJECT),
            run: tag(tag::RUN),
            place: Place::Modal,
            sandbox: Some(listed.sandbox.clone()),
            lease: tag(tag::LEASE),
            state: None,
            standing,
            pid: None,
            started_at_ms: listed.created_at_ms,
            expires_at_ms: tag(tag::EXPIRES)
                .and_then(|seconds| seconds.parse::<u64>().ok())
                .map(|seconds| seconds.saturating_mul(1000)),
        }
    }
}

/// What the journal here says is held, oldest first. Asks nobody.
pub async fn journalled(journal: &Journal) -> Result<Vec<Holding>, JournalError> {
    Ok(journal.unsettled().await?.iter().map(|entry| Holding::of_entry(entry, journal)).collect())
}

/// The same and what else lives on the server, whoever made it.
pub async fn everything(sweeper: &Sweeper) -> Result<Vec<Holding>, SweepError> {
    let mut holdings = journalled(&sweeper.journal).await?;
    let known: BTreeSet<String> = holdings.iter().filter_map(|holding| holding.lease.clone()).collect();
    for listed in sweeper.sandboxes.list(&sweeper.environment, &[]).await? {
        if listed.tags.get(tag::LEASE).is_some_and(|lease| known.contains(lease)) {
            continue;
        }
        let standing = sweeper.standing(&listed).await?;
        holdings.push(Holding::of_listed(&listed, standing));
    }
    Ok(holdings)
}

/// Leases of sandboxes that are kept for another run, and for which no accel that runs will come back.
pub async fn warm(sweeper: &Sweeper) -> Result<Vec<Entry>, JournalError> {
    let mut entries = sweeper.journal.unsettled().await?;
    entries.retain(|entry| {
        entry.account == sweeper.account && is_kept(entry, now_ms()) && !sweeper.journal.parker_lives(entry)
    });
    Ok(entries)
}

/// Ends one of those. `None` when a run has taken it meanwhile.
pub async fn end_warm(sweeper: &Sweeper, entry: &Entry) -> Result<Option<Stopped>, SweepError> {
    match sweeper.journal.take_over(entry).await? {
        Some(lease) => end_ours(sweeper, lease).await.map(Some),
        None => Ok(None),
    }
}

async fn end_ours(sweeper: &Sweeper, mut lease: Lease) -> Result<Stopped, SweepError> {
    lease.stopping().await?;
    let sandbox = lease.entry().sandbox.clone().unwrap_or_default();
    let stopped = end(sweeper, &sandbox).await?;
    let how = if stopped == Stopped::Ended { Settlement::Terminated } else { Settlement::Ended };
    lease.settle(how).await?;
    Ok(stopped)
}

/// How an attempt to stop something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    Ended,
    /// The server does not know it any more.
    WasGone,
    /// Its accel lives and has asked for it, but has no answer yet.
    NotCreatedYet,
}

/// Ends the sandbox of one lease.
pub async fn stop(sweeper: &Sweeper, entry: &Entry) -> Result<Stopped, SweepError> {
    let Some(sandbox) = &entry.sandbox else {
        // Whether a dead accel's call made a sandbox is for the sweep to find out.
        return Ok(Stopped::NotCreatedYet);
    };
    // First, so that no sweep of another accel comes in between.
    match sweeper.journal.take_over(entry).await? {
        Some(lease) => end_ours(sweeper, lease).await,
        None => Ok(end(sweeper, sandbox).await?),
    }
}

/// Ends a sandbox that the journal here does not know.
pub async fn end(sweeper: &Sweeper, sandbox: &str) -> Result<Stopped, ModalError> {
    match sweeper.sandboxes.terminate(sandbox).await {
        Ok(()) => Ok(Stopped::Ended),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Stopped::WasGone),
        Err(error) => Err(error),
    }
}
