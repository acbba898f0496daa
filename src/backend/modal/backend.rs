//! Modal as a backend: what is shared by all sessions of a run, and the way to a session.
//!
//! ```text
//! connect ∥ walk and hash the tree
//!   ├ app ∥ environment ∥ token ∥ secrets ∥ volumes ∥ missing contents       1 call
//!   ├ image layers, one after the other ∥ mount                             L calls
//!   └ create → start of the command → its output and its end                3 calls (5 with a GPU)
//! ```
//!
//! With everything remembered only the last line is left; a changed tree travels with the start. In a kept sandbox
//! ([`super::warm`]) only the start is left. What must stay true: whatever `open` began is ended, or kept, by the session's
//! `close` (in a loop once its run was told of, [`super::settling`]), or ended by `open`'s own failure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::build::Image;
use super::common::{Common, Shared};
use super::ids::Used;
use super::launch::Ground;
use super::link::Access;
use super::opening::{Opened, Opening};
use super::prewarm::{Ahead, Prewarm};
use super::purse::Purse;
use super::quote::Prices;
use super::reporter::Reporter;
use super::session::{Fate, Keyboard, ModalSession};
use super::standing::ImageStanding;
use super::terminal::TerminalKind;
use super::trouble::Trouble;
use super::variables::{self, Color, Surroundings};
use crate::backend::{Backend, BoxFuture, Cancel, Failure, OpenRequest, Session};
use crate::domain::{JobId, Place};
use crate::event::Emitter;
use crate::plan::spec::{ImageSpec, ModalTarget, SyncSet};
use crate::process::Supervisor;
use crate::store::journal::Entry;
use crate::store::{Directories, Journal, Ledger};

/// What the edge knows and the backend does not look up itself.
#[derive(Clone)]
pub struct ModalSettings {
    pub access: Access,
    pub target: ModalTarget,
    pub project: String,
    pub sync: SyncSet,
    /// Names the run, here and in tags.
    pub run: String,
    /// accel's own environment, of which `pass_env` names the part that travels.
    pub host_env: Vec<(OsString, OsString)>,
    pub color: Color,
    /// The user's own git ignore file.
    pub global_ignore: Option<PathBuf>,
    pub directories: Directories,
    pub journal: Journal,
    pub reuse: Reuse,
    pub common: Common,
    /// The terminal that accel's output is shown on as it is; `None` where it ends elsewhere.
    pub terminal: Option<TerminalKind>,
    /// Answers for the terminal's modes.
    pub supervisor: Supervisor,
    pub purse: Arc<Purse>,
}

/// Whether what earlier runs have kept is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    Allowed,
    /// Not at first: what is there is ended, and what this process keeps then is used.
    StartOver,
}

/// Runs jobs in Modal sandboxes.
pub struct ModalBackend {
    core: Arc<Core>,
}

/// What outlives a session that needs another sandbox.
pub(super) struct Core {
    pub(super) settings: ModalSettings,
    shared: OnceLock<Arc<Shared>>,
    pub(super) aside: TaskTracker,
    /// Ends what goes on beside the jobs and may be given up.
    pub(super) leaving: CancellationToken,
    keyboard: Keyboard,
    /// Set by the job that has begun to look for what earlier runs left.
    pub(super) swept: AtomicBool,
}

/// An image to build or to look at, and who hears of it.
pub struct ImageBuild<'a> {
    pub image: &'a ImageSpec,
    /// The folder of accel.toml.
    pub root: &'a Path,
    pub job: &'a JobId,
    pub emitter: &'a Emitter,
    pub cancel: Cancel,
}

impl ModalBackend {
    pub fn new(settings: ModalSettings) -> Self {
        let keyboard = Keyboard {
            supervisor: settings.supervisor.clone(),
            kind: settings.terminal.clone(),
            turn: Arc::default(),
        };
        let (shared, aside, leaving, swept) = Default::default();
        Self { core: Arc::new(Core { settings, shared, aside, leaving, keyboard, swept }) }
    }

    /// Connects, so that the first job finds the connection standing. Faults are reported to that job.
    pub async fn warm_up(&self) {
        let Ok(shared) = self.core.shared() else { return };
        if let Err(trouble) = shared.link(&self.core.settings).await {
            tracing::debug!(?trouble, "no connection yet");
        }
    }

    /// Begins something for a run that may come; returns at once. Nothing that is wrong is told: the run says it.
    pub fn prewarm(&self, request: &OpenRequest, ahead: Ahead) {
        if request.keep.is_some() && self.core.settings.reuse == Reuse::Allowed {
            self.core.prewarm(request, Prewarm::NextRun(ahead));
        }
    }

    /// Only these runs come here, of those that something was made for.
    pub fn call_off_but(&self, coming: &[OpenRequest]) {
        if let Ok(shared) = self.core.shared() {
            let settings = &self.core.settings;
            let definitions = coming.iter().map(|request| shared.definition(settings, request)).collect();
            settings.common.prewarming().call_off_but(&definitions);
        }
    }

    /// Builds an image ahead of the jobs that use it and returns its id; the log is told under the name `job`.
    pub async fn build_image(&self, build: ImageBuild<'_>) -> Result<String, Failure> {
        self.with_image(&build, async |image| Box::pin(image.id(build.image)).await).await
    }

    /// What is known of an image; nothing is built.
    pub async fn image_standing(&self, build: ImageBuild<'_>) -> Result<ImageStanding, Failure> {
        self.with_image(&build, async |image| Box::pin(image.standing(build.image)).await).await
    }

    async fn with_image<T>(
        &self,
        build: &ImageBuild<'_>,
        ask: impl AsyncFn(Image<'_>) -> Result<T, Trouble>,
    ) -> Result<T, Failure> {
        let shared = self.core.shared()?;
        let settings = &self.core.settings;
        let reporter = Reporter { job: build.job.clone(), emitter: build.emitter.clone() };
        let attempt = async |used: &Used| {
            let link = shared.reach(settings, &reporter).await?;
            let app_name = &settings.target.app;
            let image =
                Image { link, ids: &shared.ids, used, reporter: &reporter, app_name, root: build.root };
            link.board.telling(&reporter, ask(image)).await
        };
        let work = async {
            let used = Used::default();
            match attempt(&used).await {
                Err(trouble) if trouble.is_gone() && used.forget(&shared.ids).await => {
                    attempt(&Used::default()).await
                }
                done => done,
            }
        };
        let mut cancel = build.cancel.clone();
        tokio::select! {
            biased;
            _ = cancel.stopped() => Err(Trouble::Stopped.into_failure()),
            done = work => done.map_err(Trouble::into_failure),
        }
    }

    /// Waits for what goes on beside the jobs: create calls that nobody waits for any more, until what they made is
    /// ended, and the sweep. Called once, after every session is closed.
    pub async fn finish(&self) {
        self.core.leaving.cancel();
        self.core.aside.close();
        self.core.aside.wait().await;
    }

    /// Leases of this run that are not settled, from memory: what may outlive accel when it leaves now.
    pub fn held(&self) -> Vec<Entry> {
        self.core.settings.journal.held()
    }

    /// What is known of prices without asking.
    pub async fn prices(&self) -> Prices {
        match self.core.shared() {
            Ok(shared) => shared.rates.prices().await,
            Err(_) => Prices::published(),
        }
    }
}

impl Core {
    pub(super) fn shared(&self) -> Result<&Shared, Failure> {
        if let Some(shared) = self.shared.get() {
            return Ok(shared);
        }
        let shared = self.settings.common.shared(&self.settings)?;
        Ok(self.shared.get_or_init(|| shared))
    }

    /// The same account and settings, for work that is awaited elsewhere.
    pub(super) fn beside(&self) -> Arc<Self> {
        let shared = self.shared.clone();
        let (aside, leaving) = Default::default();
        // Its leases are no leftovers of a run.
        let journal = Journal::new(self.settings.journal.database().clone());
        let settings = ModalSettings { journal, ..self.settings.clone() };
        let keyboard = self.keyboard.clone();
        // Runs sweep.
        let swept = AtomicBool::new(true);
        Arc::new(Self { settings, shared, aside, leaving, keyboard, swept })
    }

    /// What a launch stands on.
    pub(super) fn ground(&self, shared: &Shared) -> Ground {
        let settings = &self.settings;
        Ground {
            journal: settings.journal.clone(),
            account: shared.account.clone(),
            project: settings.project.clone(),
            app_name: settings.target.app.clone(),
            run: settings.run.clone(),
            purse: Arc::clone(&settings.purse),
            aside: self.aside.clone(),
        }
    }

    async fn open_session(self: &Arc<Self>, mut request: OpenRequest) -> Result<ModalSession, Failure> {
        let reporter = Reporter { job: request.job.clone(), emitter: request.emitter.clone() };
        if request.spec.tty {
            // Changes travel to a kept sandbox on the standard input, which is the job's own here.
            request.keep = None;
        }
        let around = Surroundings {
            host: &self.settings.host_env,
            run: &self.settings.run,
            color: self.settings.color,
        };
        let variables = variables::of_job(&request, &around)?;
        let shared = self.shared()?;
        let opening = Opening { core: self, shared, request: &request, reporter: &reporter };
        let opening: BoxFuture<'_, Result<Opened, Trouble>> = Box::pin(opening.run());
        let opened = opening.await.map_err(Trouble::into_failure)?;
        let Opened { link, running, delta, stay } = opened;
        let core = Arc::clone(self);
        let started = tokio::time::Instant::now();
        let ledger = Ledger::new(self.settings.journal.database().clone());
        let tab = self.settings.purse.tab(&running.sandbox.lease, &running.quote, ledger, link.clock());
        Ok(ModalSession {
            core,
            link,
            request,
            reporter,
            running,
            delta,
            stay,
            variables,
            fate: Fate::Runs,
            keyboard: self.keyboard.clone(),
            started,
            tab,
        })
    }
}

impl Backend for ModalBackend {
    fn place(&self) -> Place {
        Place::Modal
    }

    fn open(&self, request: OpenRequest) -> BoxFuture<'_, Result<Box<dyn Session>, Failure>> {
        Box::pin(async move {
            let session = self.core.open_session(request).await?;
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }
}

/// All at once; the first failure ends the rest.
pub(super) async fn all<T>(
    work: impl Iterator<Item = impl Future<Output = Result<T, Trouble>>>,
) -> Result<Vec<T>, Trouble> {
    let mut waiting: Vec<_> = work.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut done = true;
        for (future, result) in waiting.iter_mut().filter(|(_, result)| result.is_none()) {
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(Ok(value)) => *result = Some(value),
                std::task::Poll::Ready(Err(trouble)) => return std::task::Poll::Ready(Err(trouble)),
                std::task::Poll::Pending => done = false,
            }
        }
        if done { std::task::Poll::Ready(Ok(())) } else { std::task::Poll::Pending }
    })
    .await?;
    Ok(waiting.into_iter().filter_map(|(_, result)| result).collect())
}
