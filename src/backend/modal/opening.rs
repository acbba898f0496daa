//! One job on its way to a sandbox: to one that was kept, else to a fresh one ([`super::fresh`]).
//!
//! What must stay true: what was claimed and not used goes back as it was, or is ended; nothing that a kept sandbox
//! cannot do fails the run, since there is always a fresh one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::auth_token::expiry;
use super::backend::{Core, Reuse};
use super::build::Image;
use super::common::Shared;
use super::control_plane::CallOptions;
use super::create::ask_access;
use super::definition;
use super::ids::Used;
use super::launch::{self, Running};
use super::link::Link;
use super::method::task;
use super::reporter::Reporter;
use super::router::{Router, RouterAccess};
use super::sandbox::Sandbox;
use super::sweep::Sweeper;
use super::tree::{Delta, InputUse, Sources, Walked, has_folder};
use super::trouble::Trouble;
use super::warm::record::{Record, Records};
use super::warm::{Stay, Use};
use super::wire::task_command_router as router_wire;
use crate::backend::{BoxFuture, Failure, Keep, OpenRequest};
use crate::domain::Cause;
use crate::event::{Level, Step, StepOutcome};
use crate::store::Journal;
use crate::store::journal::warm::{Claim, WarmKey, Worn};
use crate::store::journal::{JournalError, Lease, tag};
use crate::workspace::tree::{Manifest, TreeError};

/// How long a kept sandbox may take to be connected to. It runs already, unlike a fresh one.
const CONNECT: Duration = Duration::from_secs(10);
/// A token of the router that ends within this is renewed first.
const FRESH: Duration = Duration::from_secs(30);

pub(super) struct Opening<'a> {
    pub(super) core: &'a Core,
    pub(super) shared: &'a Shared,
    pub(super) request: &'a OpenRequest,
    pub(super) reporter: &'a Reporter,
}

/// A sandbox that listens, and what is to be brought to it.
pub(super) struct Opened {
    pub(super) link: Link,
    pub(super) running: Running,
    pub(super) delta: Option<Delta>,
    pub(super) stay: Option<Stay>,
}

/// A kept sandbox that was claimed.
struct Held {
    sandbox: Sandbox,
    record: Record,
    key: WarmKey,
}

enum Kept {
    Opened(Box<Opened>),
    /// None that can be used; the tree, if it was walked.
    None(Option<Walked>),
}

impl Opening<'_> {
    pub(super) async fn run(&self) -> Result<Opened, Trouble> {
        let Some(keep) = self.request.keep else { return self.fresh(None).await };
        let kept = match self.kept(keep).await {
            // The tree changed while it was read.
            Err(Trouble::TreeChanged(_)) => self.kept(keep).await?,
            kept => kept?,
        };
        match kept {
            Kept::Opened(opened) => Ok(*opened),
            Kept::None(walked) => self.fresh(walked).await,
        }
    }

    fn journal(&self) -> &Journal {
        &self.core.settings.journal
    }

    async fn unclaim(&self, lease: Lease) -> Result<(), JournalError> {
        self.journal().unclaim(lease, self.core.settings.common.parker()).await
    }

    fn records(&self) -> Option<Records> {
        self.shared.memory.as_deref().map(Records::new)
    }

    pub(super) fn definition(&self) -> String {
        self.shared.definition(&self.core.settings, self.request)
    }

    /// A fault of the journal is like having nothing.
    async fn kept(&self, keep: Keep) -> Result<Kept, Trouble> {
        let definition = self.definition();
        self.until_settled(&definition).await?;
        let coming = self.core.settings.common.prewarming().coming(&definition);
        if coming.is_none() && !self.journal().has_any_parked(&definition).await.unwrap_or(false) {
            self.note_started_over(&definition);
            return Ok(Kept::None(None));
        }
        let mut held = None;
        let mut cancel = self.request.cancel.clone();
        let kept = {
            let reusing: BoxFuture<'_, Result<Kept, Trouble>> =
                Box::pin(self.reuse(keep, (&definition, coming), &mut held));
            tokio::select! {
                biased;
                _ = cancel.stopped() => Err(Trouble::Stopped),
                kept = reusing => kept,
            }
        };
        match held.take() {
            Some(held) if held.record.word.is_some() => {
                if let Err(error) = self.unclaim(held.sandbox.lease).await {
                    tracing::debug!(%error, "a kept sandbox is left to the next sweep");
                }
            }
            // Nothing has ever run in it.
            Some(held) => self.end(held.sandbox),
            None => {}
        }
        kept
    }

    /// What was run before in the same sandbox may have left it to be put in order.
    async fn until_settled(&self, definition: &str) -> Result<(), Trouble> {
        let under_way = self.core.settings.common.settling().coming(definition);
        if under_way.is_empty() {
            return Ok(());
        }
        let begun = self.reporter.begin(Step::Start, "putting the warm sandbox in order").await;
        let mut cancel = self.request.cancel.clone();
        tokio::select! {
            biased;
            () = all_of(&under_way) => {}
            _ = cancel.stopped() => return Err(Trouble::Stopped),
        }
        self.reporter.end(begun, StepOutcome::Done).await;
        Ok(())
    }

    async fn reuse(
        &self,
        keep: Keep,
        (definition, coming): (&str, Option<CancellationToken>),
        held: &mut Option<Held>,
    ) -> Result<Kept, Trouble> {
        let sources = self.sources();
        let claiming: BoxFuture<'_, Result<_, Trouble>> = Box::pin(async {
            if let Some(coming) = coming
                && !self.journal().has_parked(definition).await.unwrap_or(false)
            {
                // Says so itself when it takes long.
                self.shared.reach(&self.core.settings, self.reporter).await?;
                self.until_there(coming).await;
                // Nothing came: what was in the way is for a fresh one to meet, and to tell.
                if !self.journal().has_any_parked(definition).await.unwrap_or(false) {
                    return Ok(None);
                }
            }
            self.claim(definition.to_owned(), held).await
        });
        let (walked, claimed) = tokio::join!(sources.walk(self.reporter), claiming);
        let walked = walked?;
        let (link, router) = match claimed {
            Ok(Some(claimed)) => claimed,
            Ok(None) => return Ok(Kept::None(Some(walked))),
            // A fresh one would not be reached either.
            Err(trouble) if self.shared.link.get().is_none() => return Err(trouble),
            Err(trouble) => {
                tracing::debug!(?trouble, "no kept sandbox is used");
                return Ok(Kept::None(Some(walked)));
            }
        };
        check_folder(self.request, &walked.manifest)?;
        let record = &held.as_ref().expect("it was just claimed").record;
        let delta = self.tell_change(&walked, || sources.change_of(&record.held(), &walked)).await?;
        let Held { sandbox, record, key } = held.take().expect("as before");
        let Some(delta) = delta else {
            self.discard(sandbox, "lacks too much of what has changed").await;
            return Ok(Kept::None(Some(walked)));
        };
        let stay = Stay {
            keep,
            key,
            reuse_until_ms: record.reuse_until_ms,
            tree: walked.manifest,
            used: Use::Untouched,
            record: Some(record.clone()),
        };
        let Record { task, url, .. } = record;
        // Of a list of GPUs nobody knows which it got: the cheapest.
        let quote = self.shared.rates.prices().await.quote(&self.request.spec);
        let running = Running { sandbox, router, task, url, tunnels: Vec::new(), quote };
        Ok(Kept::Opened(Box::new(Opened {
            link,
            running,
            delta: Some(delta).filter(|delta| delta.changes > 0),
            stay: Some(stay),
        })))
    }

    /// What has to be sent, as a step of the run.
    pub(super) async fn tell_change(
        &self,
        walked: &Walked,
        compare: impl FnOnce() -> Result<Option<Delta>, TreeError>,
    ) -> Result<Option<Delta>, Trouble> {
        let step = self.reporter.begin(Step::Sync, walked.label()).await;
        let Some(delta) = compare()? else { return Ok(None) };
        let outcome = if delta.changes == 0 { StepOutcome::Cached } else { StepOutcome::Done };
        self.reporter.progress(Step::Sync, delta.bytes.len() as u64, None, delta.label()).await;
        self.reporter.end(step, outcome).await;
        Ok(Some(delta))
    }

    /// One is being made already.
    async fn until_there(&self, coming: CancellationToken) {
        if coming.is_cancelled() {
            return;
        }
        let begun = self.reporter.begin(Step::Start, "starting the sandbox").await;
        coming.cancelled().await;
        self.reporter.end(begun, StepOutcome::Done).await;
    }

    /// Takes a kept sandbox into `held` and connects to it. Asks the control plane nothing while the router's token
    /// is good and the image is known.
    async fn claim(
        &self,
        definition: String,
        held: &mut Option<Held>,
    ) -> Result<Option<(Link, Router)>, Trouble> {
        let link = self.shared.reach(&self.core.settings, self.reporter).await?;
        let used = Used::default();
        let image = self.image(link, &used);
        let image: BoxFuture<'_, Result<String, Trouble>> = Box::pin(image.id(&self.request.spec.image));
        let image = image.await?;
        let key = WarmKey { definition, image };
        self.retire(link, &key).await;
        self.sweep(link);
        let Some((sandbox, record)) = self.take(link, &key).await? else { return Ok(None) };
        let taken = held.insert(Held { sandbox, record, key });
        let connected = tokio::time::timeout(CONNECT, self.connect(link, taken)).await;
        match connected {
            Ok(Ok(router)) => Ok(Some((link.clone(), router))),
            Ok(Err(trouble)) => {
                tracing::debug!(?trouble, "a kept sandbox is out of reach");
                self.discard_held(held, "has ended").await;
                Ok(None)
            }
            Err(_) => {
                self.discard_held(held, "does not answer").await;
                Ok(None)
            }
        }
    }

    async fn take(&self, link: &Link, key: &WarmKey) -> Result<Option<(Sandbox, Record)>, Trouble> {
        let needed = definition::needed_life(self.request.timeout, &self.request.spec);
        let quote = self.shared.rates.prices().await.quote(&self.request.spec);
        let longest = definition::lifetime(self.request.timeout, &self.request.spec);
        let claim = Claim {
            needed,
            run: self.core.settings.run.clone(),
            job: tag::value(self.request.job.as_str()),
            hold: self.core.settings.purse.hold(&self.request.job, &quote, longest)?,
        };
        let lease = match self.journal().claim(key, claim).await {
            Ok(Some(lease)) => lease,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::debug!(%error, "no kept sandbox can be claimed");
                return Ok(None);
            }
        };
        self.core.settings.common.prewarming().claimed(&key.definition, lease.id());
        let record = self.records().and_then(|records| records.load(lease.id()));
        let (kind, id) = (lease.entry().kind, lease.entry().sandbox.clone().unwrap_or_default());
        let token = record.as_ref().and_then(|record| record.sandbox_token.clone());
        let options = CallOptions { sandbox_token: token };
        let sandbox = Sandbox { link: link.clone(), lease, kind, id, options };
        let Some(record) = record else {
            self.discard(sandbox, "left no record").await;
            return Ok(None);
        };
        Ok(Some((sandbox, record)))
    }

    async fn connect(&self, link: &Link, held: &Held) -> Result<Router, Trouble> {
        let Held { sandbox, record, .. } = held;
        let standing = self.shared.take_router(sandbox.lease.id());
        let is_old = expiry(record.jwt.reveal()).is_some_and(|ends| ends <= link.clock().now() + FRESH);
        let access = if is_old {
            ask_access(link, sandbox.kind, &sandbox.id, &record.task).await?
        } else {
            RouterAccess { url: record.url.clone(), jwt: record.jwt.clone() }
        };
        let router = match standing.filter(|_| !is_old) {
            Some(router) => router,
            None => launch::connect(link, sandbox, &record.task, access).await?,
        };
        if !self.request.spec.volumes.is_empty() {
            // What others have written to them since.
            let request =
                router_wire::TaskReloadVolumesRequest { task_id: record.task.clone(), ..Default::default() };
            router.call(task::RELOAD_VOLUMES, request).await?;
        }
        Ok(router)
    }

    /// Ends kept sandboxes that cannot be used any more; with [`Reuse::StartOver`] all of them, once.
    async fn retire(&self, link: &Link, key: &WarmKey) {
        let needed = definition::needed_life(self.request.timeout, &self.request.spec);
        let mut worn = self.journal().worn_out(key, needed).await.unwrap_or_default();
        if self.note_started_over(&key.definition) {
            let all = self.journal().all_parked(&key.definition).await.unwrap_or_default();
            worn = all.into_iter().map(|entry| (entry, None)).collect();
        }
        for (entry, why) in worn {
            let Ok(Some(lease)) = self.journal().take_over(&entry).await else { continue };
            match why {
                Some(Worn::Idle) => self.tell("was idle for too long").await,
                Some(Worn::Old) => self.tell("is too old for another run").await,
                Some(Worn::OtherImage) => self.tell("has an older image").await,
                None => {}
            }
            let Some(id) = entry.sandbox.clone() else { continue };
            let options = CallOptions::default();
            self.end(Sandbox { link: link.clone(), lease, kind: entry.kind, id, options });
        }
    }

    /// Whether all that is kept is to be given up now.
    fn note_started_over(&self, definition: &str) -> bool {
        let settings = &self.core.settings;
        settings.reuse == Reuse::StartOver && settings.common.start_over(definition)
    }

    async fn discard_held(&self, held: &mut Option<Held>, why: &str) {
        if let Some(held) = held.take() {
            self.discard(held.sandbox, why).await;
        }
    }

    async fn discard(&self, sandbox: Sandbox, why: &str) {
        self.tell(why).await;
        sandbox.release().await;
        self.end(sandbox);
    }

    pub(super) async fn tell(&self, why: &str) {
        let text = format!("the warm sandbox {why}: a fresh one takes its place");
        self.reporter.notice(Level::Info, "warm-replaced", text, None).await;
    }

    /// Beside the run. What cannot be ended stays in the journal.
    pub(super) fn end(&self, sandbox: Sandbox) {
        let haste = launch::haste(self.request.cancel.level());
        self.core.aside.spawn(async move {
            if let Err(error) = sandbox.end(haste).await {
                tracing::debug!(%error, "a kept sandbox is not ended");
            }
        });
    }

    pub(super) fn image<'b>(&'b self, link: &'b Link, used: &'b Used) -> Image<'b> {
        let (ids, app_name) = (&self.shared.ids, &self.core.settings.target.app);
        Image { link, ids, used, reporter: self.reporter, app_name, root: &self.request.root }
    }

    /// Ends what dead accels left, once in a run and beside it.
    pub(super) fn sweep(&self, link: &Link) {
        if self.core.swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let sweeper = Sweeper {
            journal: self.journal().clone(),
            account: self.shared.account.clone(),
            environment: link.environment(),
            sandboxes: Arc::new(link.plane.clone()),
        };
        let emitter = self.reporter.emitter.clone();
        self.core.aside.spawn(async move {
            if let Some(event) = sweeper.sweep_beside_a_run().await {
                emitter.emit(event).await;
            }
        });
    }

    pub(super) fn sources(&self) -> Sources {
        let mut sync = self.core.settings.sync.clone();
        sync.include.extend(self.request.needed_outputs.iter().cloned());
        Sources {
            root: self.request.root.clone(),
            sync,
            global_ignore: self.core.settings.global_ignore.clone(),
            memory: self.shared.memory.clone(),
            account: format!("{} {}", self.shared.account, self.core.settings.target.app),
            input: if self.request.spec.tty { InputUse::OfTheJob } else { InputUse::Free },
        }
    }
}

pub(super) async fn all_of(ends: &[CancellationToken]) {
    for end in ends {
        end.cancelled().await;
    }
}

pub(super) fn check_folder(request: &OpenRequest, tree: &Manifest) -> Result<(), Failure> {
    let cwd = request.spec.cwd.to_string_lossy();
    let cwd = cwd.trim_start_matches("./").trim_end_matches('/');
    if cwd.is_empty() || cwd == "." || has_folder(tree, cwd) {
        return Ok(());
    }
    Err(Failure::new(Cause::Command, format!("working folder {cwd} is not part of what travels to Modal"))
        .help("create it, correct `cwd` of the job, or check `accel sync --plan`"))
}
