//! Sandboxes that are made before a run asks for one.
//!
//! ```text
//! the last mount, or the tree as it is → sandbox → parked → claimed by the next run
//!                                                     └ called off → ended
//! ```
//!
//! Such a sandbox lies in the journal as one that a run has left, with a tree mounted and nothing run in it: whoever claims
//! it sends what has changed since with the command. What must stay true: each has a task here, awaited by
//! [`Prewarming::finish`]; one that was made for a run that does not come to Modal is ended; nothing is built or sent for a
//! run that is only expected, and what its sandbox costs is within `budget.prewarm_per_day`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::Core;
use super::closing::Closing;
use super::common::Common;
use super::control_plane::CallOptions;
use super::fresh::Unclaimed;
use super::ids::Used;
use super::launch::Need;
use super::opening::Opening;
use super::reporter::Reporter;
use super::sandbox::{Haste, Sandbox};
use super::trouble::Trouble;
use super::warm::record::{Record, Spoiled};
use super::warm::{Stay, Use};
use crate::backend::{Cancel, CancelLevel, CancelSource, OpenRequest, StopReason};
use crate::event;
use crate::store::Journal;
use crate::store::journal::{Entry, LeaseId};

/// How long a sandbox that no run has asked for may wait for a machine.
const QUEUE: Duration = Duration::from_secs(120);

/// How long is waited for a connection before it is left to the run, which has more patience and says so.
const CONNECT: Duration = Duration::from_secs(5);

/// What is made ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Prewarm {
    /// No sandbox: what it takes to ask for one.
    Connection,
    /// A sandbox for a run that may begin soon.
    NextRun(Need),
    /// One in the place of another that is getting too old.
    Renewal(LeaseId),
}

/// The sandboxes in the making of one accel, by the definition that they are for.
#[derive(Default)]
pub(super) struct Prewarming {
    under_way: Mutex<BTreeMap<String, UnderWay>>,
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
        let found = under_way.get(definition).filter(|found| found.what != Prewarm::Connection)?;
        Some(found.ready.clone())
    }

    /// A run has the sandbox now.
    pub(super) fn claimed(&self, definition: &str) {
        if let Some(found) = self.under_way().get(definition) {
            found.claimed.cancel();
        }
    }

    /// The run does not come to Modal.
    pub(super) fn call_off(&self, definition: &str) {
        if let Some(found) = self.under_way().get(definition)
            && matches!(found.what, Prewarm::NextRun(_))
        {
            found.call_off.raise(CancelLevel::Stop(StopReason::Terminate));
        }
    }

    /// From memory: leases that are not settled, and those of the runs that began them.
    pub(super) fn held(&self) -> Vec<Entry> {
        self.under_way().values().flat_map(|found| found.journal.held()).collect()
    }

    /// Calls off what nobody has claimed and waits for it. Nothing is made afterwards.
    pub(super) async fn finish(&self, level: CancelLevel) {
        self.tasks.close();
        for found in self.under_way().values() {
            found.call_off.raise(CancelLevel::Stop(StopReason::Terminate));
            found.call_off.raise(level);
        }
        self.tasks.wait().await;
    }
}

impl Core {
    /// Begins to make a sandbox, unless one is made for the same runs already. Returns at once.
    pub(super) fn prewarm(&self, common: &Common, request: &OpenRequest, what: Prewarm) {
        let Ok(shared) = self.shared() else { return };
        let definition = shared.definition(&self.settings, request);
        let prewarming = common.prewarming();
        let mut all = prewarming.under_way();
        if prewarming.tasks.is_closed() || all.contains_key(&definition) {
            return;
        }
        let call_off = Arc::new(CancelSource::default());
        let (ready, claimed) = (CancellationToken::new(), CancellationToken::new());
        let journal = self.settings.journal.clone();
        let under_way = UnderWay { what: what.clone(), call_off, ready, claimed, journal };
        all.insert(definition.clone(), under_way.clone());
        drop(all);
        let making = Making::new(self.beside(), request, what, under_way.call_off.watch());
        let common = common.clone();
        prewarming.tasks.spawn(async move {
            making.run(&definition, &under_way).await;
            under_way.ready.cancel();
            common.prewarming().under_way().remove(&definition);
        });
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
        match Box::pin(self.make(definition)).await {
            Ok(Some(lease)) => {
                let old = match &self.what {
                    Prewarm::Renewal(old) => self.take_parked(definition, old).await,
                    Prewarm::NextRun(_) | Prewarm::Connection => None,
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
    async fn make(&self, definition: &str) -> Result<Option<LeaseId>, Trouble> {
        let shared = self.core.shared()?;
        let reporter = Reporter { job: self.request.job.clone(), emitter: self.request.emitter.clone() };
        let opening = Opening { core: &self.core, shared, request: &self.request, reporter: &reporter };
        let connected = tokio::time::timeout(CONNECT, opening.connected()).await;
        if !matches!(connected, Ok(Ok(()))) {
            return Ok(None);
        }
        let used = Used::default();
        let made = match &self.what {
            Prewarm::NextRun(need) => {
                if self.core.settings.journal.has_parked(definition).await.unwrap_or(true) {
                    return Ok(None);
                }
                opening.unwalked(&used, *need).await
            }
            Prewarm::Renewal(_) => opening.walked(&used).await.map(Some),
            Prewarm::Connection => Ok(None),
        };
        let made = match made {
            Ok(made) => made,
            Err(trouble) => {
                if trouble.is_gone() {
                    // The run that is expected asks for it anew.
                    used.forget(&shared.ids).await;
                }
                return Err(trouble);
            }
        };
        let Some(Unclaimed { link, running, stay, holds }) = made else { return Ok(None) };
        let lease = running.sandbox.lease.id().clone();
        let closing = Closing { core: &self.core, link: &link, request: &self.request, reporter: &reporter };
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
        let stay = Stay { used: Use::Untouched, ..stay };
        match closing.park(running, stay, &record).await {
            Ok(()) => Ok(Some(lease)),
            Err((running, why)) => {
                tracing::debug!(why, "a sandbox that was made ahead is not kept");
                let _ = running.sandbox.end(Haste::Usual).await;
                Ok(None)
            }
        }
    }

    async fn until_claimed(&self, definition: &str, lease: &LeaseId, under_way: &UnderWay) {
        let mut cancel = self.request.cancel.clone();
        let idle = self.request.keep.map(|keep| keep.idle).unwrap_or_default();
        tokio::select! {
            biased;
            () = under_way.claimed.cancelled() => {}
            _ = cancel.stopped() => self.end(self.take_parked(definition, lease).await).await,
            // The server ends it.
            () = tokio::time::sleep(idle) => {}
        }
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
