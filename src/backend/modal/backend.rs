//! Modal as a backend: what is shared by all sessions of a run, and the way to a session.
//!
//! ```text
//! connect ∥ walk and hash the tree
//!   ├ app ∥ environment ∥ token ∥ secrets ∥ volumes ∥ missing contents       1 call
//!   ├ image layers, one after the other ∥ mount                             L calls
//!   └ create → start of the command → its output and its end                3 calls (5 with a GPU)
//! ```
//!
//! With everything remembered only the last line is left; a changed tree travels with the start. What must stay
//! true: whatever `open` began is ended by the session's `close` or by `open`'s own failure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use super::build::Image;
use super::definition::Parts;
use super::generation;
use super::ids::{Ids, Used};
use super::launch::{Ground, Launch};
use super::link::{Access, Link};
use super::quote::Prices;
use super::rates::Rates;
use super::reporter::Reporter;
use super::resolve;
use super::session::{Fate, Keyboard, ModalSession};
use super::standing::ImageStanding;
use super::sweep::Sweeper;
use super::terminal::TerminalKind;
use super::tree::{InputUse, MountContext, Mounted, Sources};
use super::trouble::Trouble;
use super::variables::{self, Color, Surroundings};
use crate::backend::{Backend, BoxFuture, Cancel, Failure, OpenRequest, Session};
use crate::base::digest::Digest;
use crate::domain::{Cause, JobId, Place};
use crate::event::{Emitter, Level};
use crate::plan::spec::{ImageSpec, ModalTarget, SyncSet};
use crate::process::Supervisor;
use crate::store::journal::{Entry, SandboxKind};
use crate::store::{Directories, Journal, Remembered};

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
    /// The terminal that accel's output is shown on as it is; `None` where it ends elsewhere.
    pub terminal: Option<TerminalKind>,
    /// Answers for the terminal's modes.
    pub supervisor: Supervisor,
}

/// Runs jobs in Modal sandboxes.
pub struct ModalBackend {
    settings: ModalSettings,
    shared: OnceCell<Shared>,
    aside: TaskTracker,
    keyboard: Keyboard,
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

/// Made when the first job comes.
struct Shared {
    link: OnceCell<Link>,
    ids: Ids,
    ground: Ground,
    /// For what is kept between runs besides ids; `None` when there is no such folder.
    memory: Option<PathBuf>,
    /// Set by the job that has begun to look for what earlier runs left.
    swept: AtomicBool,
    rates: Rates,
}

impl ModalBackend {
    pub fn new(settings: ModalSettings) -> Self {
        let keyboard = Keyboard {
            supervisor: settings.supervisor.clone(),
            kind: settings.terminal.clone(),
            turn: Arc::default(),
        };
        Self { settings, shared: OnceCell::new(), aside: TaskTracker::new(), keyboard }
    }

    /// Connects, so that the first job finds the connection standing. Faults are reported to that job.
    pub async fn warm_up(&self) {
        let Ok(shared) = self.shared().await else { return };
        if let Err(trouble) = shared.link(&self.settings).await {
            tracing::debug!(?trouble, "no connection yet");
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
        let shared = self.shared().await?;
        let reporter = Reporter { job: build.job.clone(), emitter: build.emitter.clone() };
        let attempt = async |used: &Used| {
            let link = shared.reach(&self.settings, &reporter).await?;
            let app_name = &self.settings.target.app;
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
        if let Some(shared) = self.shared.get() {
            shared.rates.leave();
        }
        self.aside.close();
        self.aside.wait().await;
    }

    /// Leases of this run that are not settled, from memory: what may outlive accel when it leaves now.
    pub fn held(&self) -> Vec<Entry> {
        self.settings.journal.held()
    }

    /// What is known of prices without asking.
    pub async fn prices(&self) -> Prices {
        match self.shared().await {
            Ok(shared) => shared.rates.prices().await,
            Err(_) => Prices::published(),
        }
    }

    async fn shared(&self) -> Result<&Shared, Failure> {
        self.shared.get_or_try_init(|| async { self.make_shared() }).await
    }

    fn make_shared(&self) -> Result<Shared, Failure> {
        let settings = &self.settings;
        let account = settings.access.account()?;
        // Ids of one environment mean nothing in another.
        let environment = settings.target.environment.as_deref().unwrap_or_default();
        let remembered =
            Remembered::new(settings.journal.database().clone(), format!("{account}{environment}"));
        let memory = settings.directories.open_state().ok().and_then(|folder| {
            let folder = folder.join("modal");
            let made = std::fs::create_dir_all(&folder);
            made.is_ok().then_some(folder)
        });
        Ok(Shared {
            link: OnceCell::new(),
            rates: Rates::new(remembered.clone()),
            ids: Ids::new(remembered),
            ground: Ground {
                journal: settings.journal.clone(),
                account,
                project: settings.project.clone(),
                app_name: settings.target.app.clone(),
                run: settings.run.clone(),
                aside: self.aside.clone(),
            },
            memory,
            swept: AtomicBool::new(false),
        })
    }

    async fn open_session(&self, request: OpenRequest) -> Result<ModalSession, Failure> {
        let reporter = Reporter { job: request.job.clone(), emitter: request.emitter.clone() };
        let around = Surroundings {
            host: &self.settings.host_env,
            run: &self.settings.run,
            color: self.settings.color,
        };
        let variables = variables::of_job(&request, &around)?;
        let shared = self.shared().await?;
        let opening = Opening { settings: &self.settings, shared, request: &request, reporter: &reporter };
        let (link, mounted, running) = Box::pin(opening.run()).await.map_err(Trouble::into_failure)?;
        let delta = mounted.delta;
        let started = tokio::time::Instant::now();
        let quote = shared.rates.prices().await.quote(&request.spec);
        Ok(ModalSession {
            link,
            request,
            reporter,
            running,
            delta,
            variables,
            fate: Fate::Runs,
            keyboard: self.keyboard.clone(),
            started,
            quote,
        })
    }
}

impl Shared {
    async fn link(&self, settings: &ModalSettings) -> Result<&Link, Trouble> {
        let target = settings.target.environment.as_deref();
        self.link.get_or_try_init(|| settings.access.connect(self.memory.clone(), target)).await
    }

    /// As [`link`](Self::link), and says so when it takes long.
    async fn reach(&self, settings: &ModalSettings, reporter: &Reporter) -> Result<&Link, Trouble> {
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

/// One job on its way to a sandbox.
struct Opening<'a> {
    settings: &'a ModalSettings,
    shared: &'a Shared,
    request: &'a OpenRequest,
    reporter: &'a Reporter,
}

type Opened = (Link, Mounted, super::launch::Running);

impl Opening<'_> {
    /// Twice at most: when the server does not know an id that was remembered, or the token, all is asked for anew;
    /// when the tree changed while it was sent, it is walked again.
    async fn run(&self) -> Result<Opened, Trouble> {
        let used = Used::default();
        let trouble = match self.attempt(&used).await {
            Err(Trouble::TreeChanged(_)) => return self.attempt(&Used::default()).await,
            Err(trouble) if trouble.is_gone() || trouble.is_auth() => trouble,
            done => return done,
        };
        let mut again = used.forget(&self.shared.ids).await;
        if let (true, Some(link)) = (trouble.is_auth(), self.shared.link.get()) {
            again = link.forget_auth_token();
        }
        if !again {
            return Err(trouble);
        }
        tracing::debug!(?trouble, "what was remembered is gone; asking again");
        self.attempt(&Used::default()).await
    }

    async fn attempt(&self, used: &Used) -> Result<Opened, Trouble> {
        let mut cancel = self.request.cancel.clone();
        let (link, parts, mounted) = tokio::select! {
            biased;
            _ = cancel.stopped() => return Err(Trouble::Stopped),
            prepared = Box::pin(self.prepare(used)) => prepared?,
        };
        let launch = Launch {
            link: &link,
            ground: &self.shared.ground,
            request: self.request,
            reporter: self.reporter,
            parts: &parts,
            worktree: Digest::of(self.request.root.as_os_str().as_encoded_bytes()).short(),
        };
        let running = link.board.telling(self.reporter, launch.run()).await?;
        Ok((link, mounted, running))
    }

    /// Everything that a sandbox is made from, all at once as far as one thing does not need another.
    async fn prepare(&self, used: &Used) -> Result<(Link, Parts, Mounted), Trouble> {
        let sources = self.sources();
        let (link, walked) =
            tokio::try_join!(self.shared.reach(self.settings, self.reporter), sources.walk(self.reporter))?;
        self.sweep(link);
        self.shared.rates.refresh(link, &self.shared.ground.aside).await;
        let (ids, spec) = (&self.shared.ids, &self.request.spec);
        let app_name = &self.settings.target.app;
        let context = MountContext { link, ids, used, reporter: self.reporter, app_name };
        let image = Image { link, ids, used, reporter: self.reporter, app_name, root: &self.request.root };
        let work = async {
            tokio::try_join!(
                resolve::app(link, ids, used, app_name),
                Box::pin(image.id(&spec.image)),
                self.token(link),
                Box::pin(sources.mount(walked, &context)),
                all(spec.secrets.iter().map(|secret| resolve::secret(link, ids, used, secret))),
                all(spec.volumes.values().map(|volume| resolve::volume(link, ids, used, volume))),
            )
        };
        let (app, image, (), mounted, secrets, volumes) =
            link.board.telling(self.reporter, Box::pin(work)).await?;
        self.check_folder(&mounted)?;
        let parts = Parts { app, image, mount: mounted.mount.clone(), secrets, volumes };
        Ok((link.clone(), parts, mounted))
    }

    /// Ends what dead accels left, once in a run and beside it.
    fn sweep(&self, link: &Link) {
        if self.shared.swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let sweeper = Sweeper {
            journal: self.settings.journal.clone(),
            account: self.shared.ground.account.clone(),
            environment: link.environment(),
            sandboxes: Arc::new(link.plane.clone()),
        };
        let emitter = self.reporter.emitter.clone();
        self.shared.ground.aside.spawn(async move {
            if let Some(event) = sweeper.sweep_beside_a_run().await {
                emitter.emit(event).await;
            }
        });
    }

    fn sources(&self) -> Sources {
        let mut sync = self.settings.sync.clone();
        sync.include.extend(self.request.needed_outputs.iter().cloned());
        Sources {
            root: self.request.root.clone(),
            sync,
            global_ignore: self.settings.global_ignore.clone(),
            memory: self.shared.memory.clone(),
            account: format!("{} {}", self.shared.ground.account, self.settings.target.app),
            input: if self.request.spec.tty { InputUse::OfTheJob } else { InputUse::Free },
        }
    }

    /// Only the second generation of sandboxes needs it.
    async fn token(&self, link: &Link) -> Result<(), Trouble> {
        let gpu = self.request.spec.gpu.first().map(|choice| &choice.gpu);
        if generation::kind(gpu, &link.settings) == SandboxKind::V2 {
            link.auth_token().await?;
        }
        Ok(())
    }

    fn check_folder(&self, mounted: &Mounted) -> Result<(), Failure> {
        let cwd = self.request.spec.cwd.to_string_lossy();
        let cwd = cwd.trim_start_matches("./").trim_end_matches('/');
        if cwd.is_empty() || cwd == "." || mounted.has_folder(cwd) {
            return Ok(());
        }
        Err(Failure::new(
            Cause::Command,
            format!("working folder {cwd} is not part of what travels to Modal"),
        )
        .help("create it, correct `cwd` of the job, or check `accel sync --plan`"))
    }
}

impl Backend for ModalBackend {
    fn place(&self) -> Place {
        Place::Modal
    }

    fn open(&self, request: OpenRequest) -> BoxFuture<'_, Result<Box<dyn Session>, Failure>> {
        Box::pin(async move {
            let session = self.open_session(request).await?;
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
