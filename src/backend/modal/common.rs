//! What the runs of one accel have in common: connections, remembered ids, whose the sandboxes are that wait between
//! two runs, and the tasks that make and settle them meanwhile.
//!
//! What must stay true: nothing of one account or environment is used for another; losing all of it costs calls only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::backend::ModalSettings;
use super::ids::Ids;
use super::link::Link;
use super::prewarm::Prewarming;
use super::rates::Rates;
use super::reporter::Reporter;
use super::router::Router;
use super::settling::Settling;
use super::trouble::Trouble;
use super::warm;
use crate::backend::{Cancel, Failure, OpenRequest};
use crate::event::{Event, Level};
use crate::store::Remembered;
use crate::store::journal::warm::Parker;
use crate::store::journal::{Entry, LeaseId};

/// Cheap to clone; clones are the same. The default is for an accel that runs once.
#[derive(Clone, Default)]
pub struct Common(Arc<State>);

#[derive(Default)]
struct State {
    shared: Mutex<BTreeMap<String, Arc<Shared>>>,
    /// Definitions of kept sandboxes that were started over already.
    started_over: Mutex<BTreeSet<String>>,
    parker: Option<Parker>,
    prewarming: Prewarming,
    settling: Settling,
}

impl Common {
    /// For runs that follow each other: until the last of them, what they keep is in use.
    pub fn of_loop(parker: Parker) -> Self {
        Self(Arc::new(State { parker: Some(parker), ..State::default() }))
    }

    pub(super) fn parker(&self) -> Option<&Parker> {
        self.0.parker.as_ref()
    }

    pub(super) fn prewarming(&self) -> &Prewarming {
        &self.0.prewarming
    }

    pub(super) fn settling(&self) -> &Settling {
        &self.0.settling
    }

    /// Before each run and after the last one: waits until what the run before has left is in order, or until `cancel`
    /// has it ended. Returns what there is to tell about that.
    pub async fn settled(&self, cancel: Cancel) -> Vec<Event> {
        self.0.settling.done(cancel).await
    }

    /// Whether something is being made ahead of a run, or waits for one.
    pub fn is_prewarming(&self) -> bool {
        !self.0.prewarming.is_idle()
    }

    /// Leases of sandboxes that are made ahead, or put in order, and not settled, from memory: what may outlive accel
    /// when it leaves now.
    pub fn held(&self) -> Vec<Entry> {
        [self.0.prewarming.held(), self.0.settling.held()].concat()
    }

    /// After the last run: waits for what was made ahead of a run and is not wanted any more.
    pub async fn finish(&self, cancel: Cancel) {
        self.0.prewarming.finish(cancel).await;
    }

    /// Whether nobody has started over with this definition yet.
    pub(super) fn start_over(&self, definition: &str) -> bool {
        let mut done = self.0.started_over.lock().unwrap_or_else(PoisonError::into_inner);
        done.insert(definition.to_owned())
    }

    /// What belongs to the account and environment of these settings.
    pub(super) fn shared(&self, settings: &ModalSettings) -> Result<Arc<Shared>, Failure> {
        let account = settings.access.account()?;
        let key = memory_key(&account, settings.target.environment.as_deref());
        let mut all = self.0.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = all.entry(key.clone()).or_insert_with(|| Arc::new(Shared::new(settings, account, key)));
        Ok(Arc::clone(shared))
    }
}

/// Under which all is remembered of an account. Ids of one environment mean nothing in another.
pub(super) fn memory_key(account: &str, environment: Option<&str>) -> String {
    format!("{account}{}", environment.unwrap_or_default())
}

/// Made when the first job comes.
pub(super) struct Shared {
    pub(super) link: OnceCell<Link>,
    /// When connecting failed last, and why.
    failed: Mutex<Option<(Instant, Failure)>>,
    pub(super) ids: Ids,
    pub(super) account: String,
    /// For what is kept between runs besides ids; `None` when there is no such folder.
    pub(super) memory: Option<PathBuf>,
    pub(super) rates: Rates,
    /// Connections to sandboxes that wait between two runs.
    routers: Mutex<BTreeMap<LeaseId, Router>>,
}

/// Connections that are kept; with one more all are closed, so that those of sandboxes that have ended go.
const MOST_ROUTERS: usize = 16;

impl Shared {
    fn new(settings: &ModalSettings, account: String, key: String) -> Self {
        let remembered = Remembered::new(settings.journal.database().clone(), key);
        let memory = settings.directories.open_state().ok().and_then(|folder| {
            let folder = folder.join("modal");
            let made = std::fs::create_dir_all(&folder);
            made.is_ok().then_some(folder)
        });
        Self {
            link: OnceCell::new(),
            failed: Mutex::default(),
            rates: Rates::new(remembered.clone()),
            ids: Ids::new(remembered),
            account,
            memory,
            routers: Mutex::default(),
        }
    }

    /// What a sandbox for this request is kept under.
    pub(super) fn definition(&self, settings: &ModalSettings, request: &OpenRequest) -> String {
        warm::definition(&self.account, &settings.target, &request.root, &request.spec)
    }

    pub(super) fn keep_router(&self, lease: LeaseId, router: Router) {
        let mut routers = self.routers.lock().unwrap_or_else(PoisonError::into_inner);
        if routers.len() >= MOST_ROUTERS {
            routers.clear();
        }
        routers.insert(lease, router);
    }

    pub(super) fn take_router(&self, lease: &LeaseId) -> Option<Router> {
        self.routers.lock().unwrap_or_else(PoisonError::into_inner).remove(lease)
    }

    /// Of many who ask at once one connects; where that fails it has failed for all of them.
    pub(super) async fn link(&self, settings: &ModalSettings) -> Result<&Link, Trouble> {
        let asked = Instant::now();
        let connect = async || {
            let failed = self.failed_since(asked);
            if let Some(failure) = failed {
                return Err(Trouble::Failure(failure));
            }
            let target = settings.target.environment.as_deref();
            let connected = settings.access.connect(self.memory.clone(), target).await;
            connected.map_err(|trouble| self.note_failed(trouble))
        };
        self.link.get_or_try_init(connect).await
    }

    fn failed_since(&self, moment: Instant) -> Option<Failure> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(at, _)| *at > moment).map(|(_, failure)| failure.clone())
    }

    fn note_failed(&self, trouble: Trouble) -> Trouble {
        let failure = trouble.into_failure();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = Some((Instant::now(), failure.clone()));
        Trouble::Failure(failure)
    }

    /// As [`link`](Self::link), and says so when it takes long.
    pub(super) async fn reach(
        &self,
        settings: &ModalSettings,
        reporter: &Reporter,
    ) -> Result<&Link, Trouble> {
        let link = self.link(settings);
        tokio::pin!(link);
        tokio::select! {
            done = &mut link => return done,
            () = tokio::time::sleep(SLOW_CONNECTION) => {}
        }
        let text = "Modal does not answer yet; connecting is tried for up to a minute";
        let help = "stop with Ctrl-C and look with `accel doctor`, or run locally: --on local";
        reporter.notice(Level::Warning, "slow-connection", text, Some(help)).await;
        link.await
    }
}

/// A connection that takes longer is worth a word: it is tried for a minute before it is given up.
const SLOW_CONNECTION: Duration = Duration::from_secs(3);
