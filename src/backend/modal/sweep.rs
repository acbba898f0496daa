//! Ending the sandboxes that accels left behind when they died, and telling them from everybody else's.
//!
//! What must stay true: a sandbox is ended only when the journal here has its lease and the accel that owned it is
//! dead, or when it bears this machine's word and is past its end of life by [`EXPIRY_GRACE`]; everything else is
//! only reported. A kept sandbox is left alone until its idle time is over. Of many accels that sweep at once, one settles a lease. A lease is settled when the server has
//! confirmed the end, or does not know the sandbox; else it stays for the next sweep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;

use super::control_plane::ControlPlane;
use super::error::{ErrorKind, ModalError};
use super::method::client as method;
use super::wire::client as wire;
use crate::backend::BoxFuture;
use crate::event::{Event, Level, now_ms};
use crate::store::Remembered;
use crate::store::journal::{
    EXPIRY_GRACE, Entry, Journal, JournalError, Lease, LeaseState, SandboxKind, Settlement, tag,
};

/// How long a run's own sweep may take.
pub const BUDGET: Duration = Duration::from_secs(1);
/// How often a run asks the server for sandboxes that only their tags can find.
const LIST_EVERY: Duration = Duration::from_secs(60 * 60);
/// The same after a create call whose answer nobody heard: its sandbox may still appear.
const LIST_SOON: Duration = Duration::from_secs(60);
/// Sandboxes that are ended at one moment.
const AT_ONCE: usize = 8;
/// Pages of a list; more sandboxes than they hold are left to the next sweep.
const MOST_PAGES: usize = 100;

/// A living sandbox, as the server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub sandbox: String,
    pub created_at_ms: u64,
    pub tags: BTreeMap<String, String>,
}

/// What the sweep needs of Modal.
pub trait Sandboxes: Send + Sync {
    /// Living sandboxes of an environment (the account's own if empty) that bear all of these tags.
    fn list<'a>(
        &'a self,
        environment: &'a str,
        tags: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<Vec<Listed>, ModalError>>;

    /// Ends one. Safe to repeat.
    fn terminate<'a>(&'a self, sandbox: &'a str) -> BoxFuture<'a, Result<(), ModalError>>;
}

impl Sandboxes for ControlPlane {
    fn list<'a>(
        &'a self,
        environment: &'a str,
        tags: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<Vec<Listed>, ModalError>> {
        Box::pin(list(self, environment, tags))
    }

    fn terminate<'a>(&'a self, sandbox: &'a str) -> BoxFuture<'a, Result<(), ModalError>> {
        let request = wire::SandboxTerminateRequest { sandbox_id: sandbox.to_owned() };
        let method = match kind_of(sandbox) {
            SandboxKind::V1 => method::SANDBOX_TERMINATE,
            SandboxKind::V2 => method::SANDBOX_TERMINATE_V2,
        };
        Box::pin(async move { self.call(method, request).await.map(drop) })
    }
}

/// The shape of its id says which kind a sandbox is; shapes yet unknown are of the newer kind.
pub fn kind_of(sandbox: &str) -> SandboxKind {
    let old = |rest: &str| rest.len() == 22 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if sandbox.strip_prefix("sb-").is_some_and(old) { SandboxKind::V1 } else { SandboxKind::V2 }
}

/// All pages. The newer call lists both kinds.
async fn list(
    plane: &ControlPlane,
    environment: &str,
    tags: &[(&str, &str)],
) -> Result<Vec<Listed>, ModalError> {
    let tags = tags.iter().map(|(name, value)| wire::SandboxTag {
        tag_name: (*name).to_owned(),
        tag_value: (*value).to_owned(),
    });
    let mut request = wire::SandboxListRequest {
        environment_name: environment.to_owned(),
        tags: tags.collect(),
        ..wire::SandboxListRequest::default()
    };
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for _ in 0..MOST_PAGES {
        let page = plane.call(method::SANDBOX_LIST_V2, request.clone()).await?.sandboxes;
        let Some(last) = page.last() else { break };
        request.before_timestamp = last.created_at;
        let before = seen.len();
        found.extend(page.into_iter().filter(|sandbox| seen.insert(sandbox.id.clone())).map(listed));
        if seen.len() == before {
            break;
        }
    }
    Ok(found)
}

fn listed(info: wire::SandboxInfo) -> Listed {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let created_at_ms = (info.created_at.max(0.0) * 1000.0) as u64;
    let tags = info.tags.into_iter().map(|tag| (tag.tag_name, tag.tag_value)).collect();
    Listed { sandbox: info.id, created_at_ms, tags }
}

/// Whose a living sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its run goes on, on this machine.
    InUse,
    /// Kept for the next run.
    Warm,
    /// Its accel died, or it outlived its lifetime: to be ended.
    Leftover,
    /// It bears this machine's word, is not in the journal and within its lifetime.
    NotInJournal,
    /// Another machine's.
    Elsewhere,
    /// Not made by accel.
    Untagged,
}

/// The one rule of who may be ended. `entry` is the journal's line of the lease that its tag names.
pub fn standing(listed: &Listed, entry: Option<(&Entry, OwnerLives)>, host: &str, now_ms: u64) -> Standing {
    if !listed.tags.contains_key(tag::LEASE) {
        return Standing::Untagged;
    }
    if let Some((entry, owner)) = entry {
        return match (entry.state, owner) {
            (LeaseState::Settled, _) | (_, OwnerLives::No) => Standing::Leftover,
            (LeaseState::Parked, OwnerLives::Yes) => Standing::Warm,
            (_, OwnerLives::Yes) => Standing::InUse,
        };
    }
    if listed.tags.get(tag::HOST).map(String::as_str) != Some(host) {
        return Standing::Elsewhere;
    }
    let expires: Option<u64> = listed.tags.get(tag::EXPIRES).and_then(|seconds| seconds.parse().ok());
    let overdue = expires.is_some_and(|seconds| {
        Duration::from_millis(now_ms) > Duration::from_secs(seconds).saturating_add(EXPIRY_GRACE)
    });
    if overdue { Standing::Leftover } else { Standing::NotInJournal }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerLives {
    Yes,
    No,
}

/// Whether a sweep asks the server for what only tags can find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Where the journal has a reason to, and now and then.
    WhenDue,
    Always,
}

/// A sweep that changes nothing yet, or ends what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepMode {
    Report,
    End,
}

/// A sandbox, or the intent of one, that a sweep dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Absent for an intent that never became a sandbox.
    pub sandbox: Option<String>,
    pub job: Option<String>,
    pub run: Option<String>,
    /// It was kept for another run, which did not come in time: nothing went wrong.
    pub kept: bool,
}

#[derive(Debug, Default)]
pub struct Swept {
    /// Ended now; or to be ended, where the sweep only reports.
    pub ended: Vec<Leftover>,
    /// Were gone already.
    pub gone: Vec<Leftover>,
    /// Could not be ended; the next sweep tries again.
    pub failed: Vec<(Leftover, ModalError)>,
    /// Living, and not ours to end.
    pub kept: Vec<(Listed, Standing)>,
}

impl Swept {
    /// The one line of a run about it, if there is anything to say.
    pub fn notice(&self) -> Option<Event> {
        let names = |leftovers: &mut dyn Iterator<Item = &Leftover>| {
            leftovers.filter_map(|leftover| leftover.sandbox.as_deref()).collect::<Vec<_>>().join(", ")
        };
        let ended = names(&mut self.ended.iter());
        let failed = names(&mut self.failed.iter().map(|(leftover, _)| leftover));
        let (level, text, help) = match (ended.is_empty(), failed.is_empty()) {
            (true, true) => return None,
            (false, true) => (Level::Info, format!("ended what an earlier run left on Modal: {ended}"), None),
            (_, false) => {
                let text = format!("cannot end what an earlier run left on Modal: {failed}");
                (Level::Warning, text, Some("`accel prune` tries again".to_owned()))
            }
        };
        Some(Event::Notice { job: None, level, code: "leftover-sandboxes", text, help })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Modal(#[from] ModalError),
}

/// One account's sandboxes and this machine's journal.
#[derive(Clone)]
pub struct Sweeper {
    pub journal: Journal,
    pub account: String,
    /// The environment asked beside those that the journal names; empty: the account's own.
    pub environment: String,
    pub sandboxes: Arc<dyn Sandboxes>,
}

impl Sweeper {
    /// The sweep of a run: bounded by [`BUDGET`], silent about its own failures, never the run's.
    pub async fn sweep_beside_a_run(&self) -> Option<Event> {
        let sweep = self.sweep(Look::WhenDue, SweepMode::End);
        match tokio::time::timeout(BUDGET, sweep).await {
            Ok(Ok(swept)) => swept.notice(),
            Ok(Err(error)) => {
                tracing::debug!(%error, "sweep");
                None
            }
            Err(_) => None,
        }
    }

    pub async fn sweep(&self, look: Look, mode: SweepMode) -> Result<Swept, SweepError> {
        let mut swept = Swept::default();
        let mut work = Vec::new();
        let mut unheard = Vec::new();
        for entry in self.dead().await? {
            if mode == SweepMode::Report {
                swept.ended.push(Leftover::of(&entry));
                continue;
            }
            let Some(lease) = self.journal.take_over(&entry).await? else { continue };
            match entry.sandbox.clone() {
                Some(sandbox) => work.push((sandbox, Some(lease))),
                None => unheard.push(lease),
            }
        }
        if look == Look::Always || !unheard.is_empty() || self.is_list_due().await? {
            // What the journal knows is ended also when the list cannot be had.
            let looked = self.look(&mut swept, &mut work, unheard, mode).await;
            self.end(work, &mut swept).await?;
            looked?;
            return Ok(swept);
        }
        self.end(work, &mut swept).await?;
        Ok(swept)
    }

    /// Unsettled leases of this account whose accel is dead.
    async fn dead(&self) -> Result<Vec<Entry>, JournalError> {
        let mut entries = self.journal.unsettled().await?;
        entries.retain(|entry| entry.account == self.account && !self.journal.owner_lives(entry));
        Ok(entries)
    }

    /// Finds by tags what the journal knows no id of.
    async fn look(
        &self,
        swept: &mut Swept,
        work: &mut Vec<(String, Option<Lease>)>,
        mut unheard: Vec<Lease>,
        mode: SweepMode,
    ) -> Result<(), SweepError> {
        let host = self.journal.host();
        let mut environments: BTreeSet<String> = [self.environment.clone()].into();
        environments.extend(unheard.iter().map(|lease| lease.entry().environment.clone()));
        let reported = swept.ended.iter().filter_map(|leftover| leftover.sandbox.clone());
        let mut seen: BTreeSet<String> =
            work.iter().map(|(sandbox, _)| sandbox.clone()).chain(reported).collect();
        for environment in &environments {
            for listed in self.sandboxes.list(environment, &[(tag::HOST, &host)]).await? {
                if !seen.insert(listed.sandbox.clone()) {
                    continue;
                }
                let named = listed.tags.get(tag::LEASE).map(String::as_str);
                if let Some(at) = unheard.iter().position(|lease| Some(lease.id().as_str()) == named) {
                    work.push((listed.sandbox.clone(), Some(unheard.swap_remove(at))));
                    continue;
                }
                match self.standing(&listed).await? {
                    Standing::Leftover if mode == SweepMode::Report => {
                        swept.ended.push(Leftover::found(&listed))
                    }
                    Standing::Leftover => work.push((listed.sandbox.clone(), None)),
                    other => swept.kept.push((listed, other)),
                }
            }
        }
        let next = if unheard.is_empty() { LIST_EVERY } else { LIST_SOON };
        for lease in unheard {
            swept.gone.push(Leftover::of(lease.entry()));
            // Should it appear after all, its tags name a lease that is settled: the next list ends it.
            lease.settle(Settlement::NeverCreated).await?;
        }
        if mode == SweepMode::End { self.list_again_in(next).await } else { Ok(()) }
    }

    /// Whose a listed sandbox is, by the journal of this machine.
    pub async fn standing(&self, listed: &Listed) -> Result<Standing, SweepError> {
        let entry = match listed.tags.get(tag::LEASE) {
            Some(lease) => self.journal.by_lease(lease).await?,
            None => None,
        };
        let entry = entry.as_ref().map(|entry| {
            let lives = if self.journal.owner_lives(entry) { OwnerLives::Yes } else { OwnerLives::No };
            (entry, lives)
        });
        Ok(standing(listed, entry, &self.journal.host(), now_ms()))
    }

    async fn end(&self, work: Vec<(String, Option<Lease>)>, swept: &mut Swept) -> Result<(), SweepError> {
        let mut waiting = work.into_iter();
        let mut ending = JoinSet::new();
        loop {
            while ending.len() < AT_ONCE
                && let Some((sandbox, lease)) = waiting.next()
            {
                ending.spawn(end_one(Arc::clone(&self.sandboxes), sandbox, lease));
            }
            let Some(ended) = ending.join_next().await else { return Ok(()) };
            let (leftover, outcome) =
                ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
            match outcome {
                Ok(Settlement::Terminated) if !leftover.kept => swept.ended.push(leftover),
                Ok(_) => swept.gone.push(leftover),
                Err(error) => swept.failed.push((leftover, error)),
            }
        }
    }

    async fn is_list_due(&self) -> Result<bool, SweepError> {
        let next = self.remembered().get(MEMORY, NEXT_LIST).await.map_err(JournalError::from)?;
        Ok(next.and_then(|next| next.parse::<u64>().ok()).is_none_or(|next| next <= now_ms()))
    }

    async fn list_again_in(&self, pause: Duration) -> Result<(), SweepError> {
        let next = (Duration::from_millis(now_ms()) + pause).as_millis().to_string();
        Ok(self.remembered().put(MEMORY, NEXT_LIST, &next).await.map_err(JournalError::from)?)
    }

    fn remembered(&self) -> Remembered {
        Remembered::new(self.journal.database().clone(), self.account.clone())
    }
}

/// Where the moment of the next list is remembered.
const MEMORY: &str = "sweep";
const NEXT_LIST: &str = "next";

impl Leftover {
    fn of(entry: &Entry) -> Self {
        Self {
            sandbox: entry.sandbox.clone(),
            job: Some(entry.job.clone()),
            run: Some(entry.run.clone()),
            kept: entry.idle_ends_at_ms.is_some(),
        }
    }

    fn found(listed: &Listed) -> Self {
        let tag = |name| listed.tags.get(name).cloned();
        Self { sandbox: Some(listed.sandbox.clone()), job: tag(tag::JOB), run: tag(tag::RUN), kept: false }
    }
}

type Ended = Result<(Leftover, Result<Settlement, ModalError>), JournalError>;

async fn end_one(sandboxes: Arc<dyn Sandboxes>, sandbox: String, lease: Option<Lease>) -> Ended {
    let mut leftover = Leftover { sandbox: Some(sandbox.clone()), job: None, run: None, kept: false };
    let Some(mut lease) = lease else {
        let outcome = settlement(sandboxes.terminate(&sandbox).await);
        return Ok((leftover, outcome));
    };
    leftover = Leftover { sandbox: Some(sandbox.clone()), ..Leftover::of(lease.entry()) };
    lease.stopping().await?;
    let outcome = settlement(sandboxes.terminate(&sandbox).await);
    if let Ok(how) = outcome {
        lease.settle(how).await?;
    }
    Ok((leftover, outcome))
}

/// A sandbox that the server does not know has ended.
fn settlement(terminated: Result<(), ModalError>) -> Result<Settlement, ModalError> {
    match terminated {
        Ok(()) => Ok(Settlement::Terminated),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Settlement::Ended),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
