//! Sandboxes that are made before a run asks for one.
//!
//! ```text
//! the last mount, or the tree as it is → sandbox → parked → claimed by the next run
//!                                                     └ called off → ended
//! ```
//!
//! Such a sandbox lies in the journal as one that a run has left, with a tree mounted and nothing run in it: whoever claims
//! it sends what has changed since with the command. What must stay true: each has a task here, awaited by
//! [`Prewarming::finish`]; one that was made for a run that does not come to Modal is ended; no image is built and no
//! file sent for a run that is only expected, and what its sandbox costs is within `budget.prewarm_per_day`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::Core;
use super::closing::Closing;
use super::common::Common;
use super::control_plane::CallOptions;
use super::fresh::Unclaimed;
use super::ids::Used;
use super::opening::{Opening, all_of};
use super::reporter::Reporter;
use super::sandbox::{Haste, Sandbox};
use super::trouble::Trouble;
use super::warm::record::{Record, Spoiled};
use crate::backend::{Cancel, CancelLevel, CancelSource, OpenRequest, StopReason};
use crate::event;
use crate::store::Journal;
use crate::store::journal::warm::is_kept;
use crate::store::journal::{Entry, LeaseId};

/// How long a sandbox that no run has asked for may wait for a machine.
const QUEUE: Duration = Duration::from_secs(120);

/// How long is waited for a connection before it is left to the run, which has more patience and says so.
const CONNECT: Duration = Duration::from_secs(5);

/// Between two looks whether somebody else has claimed or ended what was made ahead.
const LOOK: Duration = Duration::from_secs(5);

/// How long the end of what was called off is waited for after a run; the rest is left to the next sweep.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a run that may begin soon finds ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// What it takes to ask for a sandbox.
    Connection,
    Sandbox(Need),
}

/// How sure it is that a run needs a sandbox that none has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A run will come.
    Coming,
    /// A run may come: the sandbox is paid from `budget.prewarm_per_day`.
    Expected,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Prewarm {
    NextRun(Ahead),
    /// A sandbox in the place of another that is getting too old.
    Renewal(LeaseId),
}

/// The sandboxes in the making of one accel, by the definition that they are for.
#[derive(Default)]
pub(super) struct Prewarming {
    under_way: Mutex<BTreeMap<String, UnderWay>>,
    /// Leases that could not be settled.
    left: Mutex<Vec<Entry>>,
    tasks: TaskTracker,
}

/// One that is being made, or is there and was not claimed yet.
#[derive(Clone)]
struct UnderWay {
    what: Prewarm,
    call_off: Arc<CancelSource>,
    /// Cancelled when the sandbox is parked, or will never be.
    ready: CancellationToken,
    claimed: CancellationToken,
    /// Of the sandbox, once there is one.
    lease: Arc<OnceLock<LeaseId>>,
    journal: Journal,
}

impl Prewarming {
    fn under_way(&self) -> MutexGuard<'_, BTreeMap<String, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a run of this definition that finds no sandbox: one is there when this is cancelled, or none comes. `None`
    /// where nothing is made.
    pub(super) fn coming(&self, definition: &str) -> Option<CancellationToken> {
        let under_way = self.under_way();
        let found =
            under_way.get(definition).filter(|found| found.what != Prewarm::NextRun(Ahead::Connection))?;
        Some(found.ready.clone())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way().is_empty()
    }

    /// A run has that sandbox now.
    pub(super) fn claimed(&self, definition: &str, lease: &LeaseId) {
        if let Some(found) = self.under_way().get(definition)
            && found.lease.get() == Some(lease)
        {
            found.claimed.cancel();
        }
    }

    /// No run comes to Modal for what has none of these definitions.
    pub(super) fn call_off_but(&self, definitions: &BTreeSet<String>) {
        for (definition, found) in self.under_way().iter() {
            if matches!(found.what, Prewarm::NextRun(_)) && !definitions.contains(definition) {
                found.call_off.raise(CancelLevel::Stop(StopReason::Terminate));
            }
        }
    }

    /// From memory: leases that are not settled.
    pub(super) fn held(&self) -> Vec<Entry> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.under_way().values().flat_map(|found| found.journal.held()).chain(left).collect()
    }

    /// Calls off what nobody has claimed and waits for it, for [`PATIENCE`] and what a kill takes. Nothing is made
    /// afterwards.
    pub(super) async fn finish(&self, mut cancel: Cancel) {
        self.tasks.close();
        let mut seen = cancel.level();
        self.call_off_all(CancelLevel::Stop(StopReason::Terminate));
        self.call_off_all(seen);
        let impatient = tokio::time::sleep(PATIENCE);
        tokio::pin!(impatient);
        loop {
            tokio::select! {
                biased;
                () = self.tasks.wait() => return,
                () = &mut impatient, if !impatient.is_elapsed() => self.call_off_all(CancelLevel::Kill),
                level = cancel.above(seen) => {
                    seen = level;
                    self.call_off_all(level);
                }
            }
        }
    }

    fn call_off_all(&self, level: CancelLevel) {
        for found in self.under_way().values() {
            found.call_off.raise(level);
        }
    }
}

impl Core {
    /// Begins, unless something is made for the same runs already; whether it has begun. Returns at once.
    pub(super) fn prewarm(&self, request: &OpenRequest, what: Prewarm) -> bool {
        let Ok(shared) = self.shared() else { return false };
        let common = &self.settings.common;
        let definition = shared.definition(&self.settings, request);
        let prewarming = common.prewarming();
        let mut all = prewarming.under_way();
        if prewarming.tasks.is_closed() || all.contains_key(&definition) {
            return false;
        }
        let core = self.beside();
        let under_way = UnderWay {
            what: what.clone(),
            call_off: Arc::default(),
            ready: CancellationToken::new(),
            claimed: CancellationToken::new(),
            lease: Arc::default(),
            journal: core.settings.journal.clone(),
        };
        all.insert(definition.clone(), under_way.clone());
        drop(all);
        let making = Making::new(core, request, what, under_way.call_off.watch());
        let gone = Gone { common: common.clone(), definition, under_way };
        prewarming.tasks.spawn(async move { making.run(&gone.definition, &gone.under_way).await });
        true
    }
}

/// Lets go of what waits for a sandbox, however its task ends.
struct Gone {
    common: Common,
    definition: String,
    under_way: UnderWay,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.under_way.ready.cancel();
        let prewarming = self.common.prewarming();
        prewarming.under_way().remove(&self.definition);
        let left = self.under_way.journal.held();
        prewarming.left.lock().unwrap_or_else(PoisonError::into_inner).extend(left);
    }
}

struct Making {
    core: Arc<Core>,
    request: OpenRequest,
    what: Prewarm,
}

impl Making {
    fn new(core: Arc<Core>, request: &OpenRequest, what: Prewarm, cancel: Cancel) -> Self {
        // Nobody listens: what goes wrong here goes wrong again in the run, which says so.
        let (emitter, _) = event::channel();
        let request =
            OpenRequest { attempt: 1, queue_limit: Some(QUEUE), emitter, cancel, ..request.clone() };
        Self { core, request, what }
    }

    async fn run(&self, definition: &str, under_way: &UnderWay) {
        match Box::pin(self.make(definition, under_way)).await {
            Ok(Some(lease)) => {
                let old = match &self.what {
                    Prewarm::Renewal(old) => self.take_parked(definition, old).await,
                    Prewarm::NextRun(_) => None,
                };
                under_way.ready.cancel();
                self.end(old).await;
                if let Prewarm::NextRun(_) = self.what {
                    self.until_claimed(definition, &lease, under_way).await;
                }
            }
            Ok(None) => {}
            Err(trouble) => tracing::debug!(?trouble, "no sandbox was made ahead"),
        }
        self.core.leaving.cancel();
        self.core.aside.close();
        self.core.aside.wait().await;
    }

    /// The parked lease; `None` where there is one already, or nothing to make it from.
    async fn make(&self, definition: &str, under_way: &UnderWay) -> Result<Option<LeaseId>, Trouble> {
        let shared = self.core.shared()?;
        let reporter = Reporter { job: self.request.job.clone(), emitter: self.request.emitter.clone() };
        let opening = Opening { core: &self.core, shared, request: &self.request, reporter: &reporter };
        let connected = tokio::time::timeout(CONNECT, opening.connected()).await;
        if !matches!(connected, Ok(Ok(()))) {
            return Ok(None);
        }
        let used = Used::default();
        let made = self.ask(&opening, &used, definition).await;
        if made.as_ref().is_err_and(Trouble::is_gone) {
            // The run that is expected asks for it anew.
            used.forget(&shared.ids).await;
        }
        match made? {
            Some(made) => Ok(self.park(made, &reporter, under_way).await),
            None => Ok(None),
        }
    }

    async fn ask(
        &self,
        opening: &Opening<'_>,
        used: &Used,
        definition: &str,
    ) -> Result<Option<Unclaimed>, Trouble> {
        match &self.what {
            Prewarm::NextRun(Ahead::Sandbox(need)) => {
                all_of(&self.core.settings.common.settling().coming(definition)).await;
                if self.core.settings.journal.has_parked(definition).await.unwrap_or(true) {
                    return Ok(None);
                }
                opening.unwalked(used, *need).await
            }
            Prewarm::Renewal(_) => opening.walked(used).await.map(Some),
            Prewarm::NextRun(Ahead::Connection) => Ok(None),
        }
    }

    async fn park(&self, made: Unclaimed, reporter: &Reporter, under_way: &UnderWay) -> Option<LeaseId> {
        let Unclaimed { link, running, stay, holds } = made;
        let lease = running.sandbox.lease.id().clone();
        // Known before anybody can claim it.
        let _ = under_way.lease.set(lease.clone());
        let closing = Closing { core: &self.core, link: &link, request: &self.request, reporter };
        let record = Record {
            task: running.task.clone(),
            url: running.url.clone(),
            jwt: running.router.jwt(),
            sandbox_token: running.sandbox.options.sandbox_token.clone(),
            word: None,
            reuse_until_ms: stay.reuse_until_ms,
            listed: holds,
            spoiled: Spoiled::default(),
        };
        match closing.park(running, stay, &record).await {
            Ok(()) => Some(lease),
            Err((running, why)) => {
                tracing::debug!(why, "a sandbox that was made ahead is not kept");
                self.end(Some(running.sandbox)).await;
                None
            }
        }
    }

    async fn until_claimed(&self, definition: &str, lease: &LeaseId, under_way: &UnderWay) {
        let mut cancel = self.request.cancel.clone();
        loop {
            tokio::select! {
                biased;
                () = under_way.claimed.cancelled() => return,
                _ = cancel.stopped() => return self.end(self.take_parked(definition, lease).await).await,
                () = tokio::time::sleep(LOOK) => {}
            }
            if !self.is_parked(definition, lease).await {
                return;
            }
        }
    }

    async fn is_parked(&self, definition: &str, lease: &LeaseId) -> bool {
        let parked = self.core.settings.journal.all_parked(definition).await.unwrap_or_default();
        parked.iter().any(|entry| entry.lease == *lease && is_kept(entry, event::now_ms()))
    }

    /// `None` where somebody uses it, or has ended it.
    async fn take_parked(&self, definition: &str, lease: &LeaseId) -> Option<Sandbox> {
        let settings = &self.core.settings;
        let shared = self.core.shared().ok()?;
        let link = shared.link(settings).await.ok()?;
        let parked = settings.journal.all_parked(definition).await.unwrap_or_default();
        let entry = parked.into_iter().find(|entry| entry.lease == *lease)?;
        let taken = settings.journal.take_over(&entry).await.ok()??;
        drop(shared.take_router(lease));
        let id = entry.sandbox.unwrap_or_default();
        let options = CallOptions::default();
        Some(Sandbox { link: link.clone(), lease: taken, kind: entry.kind, id, options })
    }

    async fn end(&self, sandbox: Option<Sandbox>) {
        let Some(sandbox) = sandbox else { return };
        if let Err(error) = sandbox.end(Haste::Usual).await {
            tracing::debug!(%error, "a sandbox is left to the next sweep");
        }
    }
}
