//! Kept sandboxes that are made ready for the next run while the verdict of the last one is told.
//!
//! What must stay true: each has a task here, which a loop awaits before its next run asks for a place; a job that could
//! use the sandbox waits for it, also within one run; until then its lease is named where accel leaves at once. With a cap
//! on what runs may cost there are none: what a run has cost is written down before another one may cost something.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::backend::Core;
use super::closing::Closing;
use super::launch::Running;
use super::link::Link;
use super::reporter::Reporter;
use super::warm::{Stay, Use};
use crate::backend::{Cancel, CancelSource, Failure, OpenRequest};
use crate::event::{self, Delivery, Event, Level};
use crate::store::journal::Entry;

#[derive(Default)]
pub(super) struct Settling {
    tasks: Mutex<Tasks>,
    under_way: Mutex<Vec<UnderWay>>,
}

struct UnderWay {
    definition: String,
    lease: Entry,
    /// Cancelled when the sandbox is parked or ended.
    settled: CancellationToken,
}

/// Of the jobs of one run.
#[derive(Default)]
struct Tasks {
    all: JoinSet<Vec<Event>>,
    cancel: Arc<CancelSource>,
    told: Vec<Event>,
}

impl Settling {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> MutexGuard<'_, Vec<UnderWay>> {
        let mut all = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|under_way| !under_way.settled.is_cancelled());
        all
    }

    /// The ends of those that a run of this definition could use and has to wait for.
    pub(super) fn coming(&self, definition: &str) -> Vec<CancellationToken> {
        let all = self.under_way();
        let same = all.iter().filter(|under_way| under_way.definition == definition);
        same.map(|under_way| under_way.settled.clone()).collect()
    }

    /// Their leases, from memory.
    pub(super) fn held(&self) -> Vec<Entry> {
        self.under_way().iter().map(|under_way| under_way.lease.clone()).collect()
    }

    /// Waits for all, which `cancel` has ended where it kills; what they have to tell. May be dropped and asked again.
    pub(super) async fn done(&self, cancel: Cancel) -> Vec<Event> {
        let ended = async {
            while let Some(ended) = poll_fn(|context| self.tasks().all.poll_join_next(context)).await {
                let told = ended.unwrap_or_else(|error| vec![failed_inside(&error)]);
                self.tasks().told.extend(told);
            }
        };
        let source = Arc::clone(&self.tasks().cancel);
        tokio::select! {
            biased;
            () = ended => {}
            never = cancel.relay(&source) => match never {},
        }
        std::mem::take(&mut *self.tasks()).told
    }

    /// Returns at once.
    fn begin<F>(&self, definition: String, lease: Entry, settle: impl FnOnce(Cancel) -> F)
    where
        F: Future<Output = Vec<Event>> + Send + 'static,
    {
        let settled = CancellationToken::new();
        self.under_way().push(UnderWay { definition, lease, settled: settled.clone() });
        let settled = settled.drop_guard();
        let mut tasks = self.tasks();
        let settle = settle(tasks.cancel.watch());
        tasks.all.spawn(async move {
            let told = settle.await;
            drop(settled);
            told
        });
    }
}

fn failed_inside(error: &JoinError) -> Event {
    let text = format!("accel failed inside: {error}");
    let help = Some("`accel prune` ends what may be left on Modal".to_owned());
    Event::Notice { job: None, level: Level::Warning, code: "close-failed", text, help }
}

/// A sandbox at the end of its session.
pub(super) struct Closed {
    pub(super) core: Arc<Core>,
    pub(super) link: Link,
    pub(super) request: OpenRequest,
    pub(super) running: Running,
    pub(super) stay: Stay,
}

impl Closed {
    /// Parks the sandbox for the next run, or ends it; in a loop that goes on when this returns.
    pub(super) async fn keep(self, reporter: &Reporter) -> Result<(), Failure> {
        if self.may_go_on() {
            self.settle_aside();
            return Ok(());
        }
        let Self { core, link, request, running, stay } = self;
        Closing { core: &core, link: &link, request: &request, reporter }.keep(running, stay).await
    }

    /// Only what a command has come to its end in: all else is to be ended before anything follows. The first run tells
    /// that the sandbox stays, which belongs to it.
    fn may_go_on(&self) -> bool {
        let (settings, stay) = (&self.core.settings, &self.stay);
        let is_over = matches!(stay.used, Use::Ended { .. });
        settings.common.parker().is_some() && is_over && stay.word().is_some() && !settings.purse.is_capped()
    }

    fn settle_aside(self) {
        let common = self.core.settings.common.clone();
        let (definition, lease) =
            (self.stay.key.definition.clone(), self.running.sandbox.lease.entry().clone());
        common.settling().begin(definition, lease, |cancel| self.settle(cancel));
    }

    /// Nobody shows events of the run any more: what there is to tell comes back.
    async fn settle(self, cancel: Cancel) -> Vec<Event> {
        let Self { core, link, mut request, running, stay } = self;
        // Holds far more than the few notices that there can be.
        let (emitter, mut told) = event::channel();
        let reporter = Reporter { job: request.job.clone(), emitter: emitter.clone() };
        // The end of the showing waits for the emitter that was there; the run's ladder has no say any more.
        (request.emitter, request.cancel) = (emitter, cancel);
        let closing = Closing { core: &core, link: &link, request: &request, reporter: &reporter };
        if let Err(failure) = closing.keep(running, stay).await {
            let text = format!("not everything was cleaned up: {failure}");
            reporter.notice(Level::Warning, "close-failed", text, failure.help.as_deref()).await;
        }
        let next = || match told.try_next() {
            Delivery::Event(stamped) => Some(stamped.event),
            Delivery::Idle | Delivery::Ended => None,
        };
        std::iter::from_fn(next).collect()
    }
}
