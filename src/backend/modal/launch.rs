//! From ids to a sandbox that listens: the lease, the create call, the wait for a machine, the connection.
//!
//! What must stay true: no create call without a lease; a create call that was sent is never dropped but for a kill,
//! and what it made is ended; whoever gives up waiting for a machine takes the request back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::control_plane::CallOptions;
use super::create::{Created, ask_access, create, renewal};
use super::definition::{self, Parts};
use super::error::{ErrorKind, ModalError};
use super::generation;
use super::link::{Link, insecure_router};
use super::method::client;
use super::prewarm::Need;
use super::purse::{self, Purse};
use super::quote::{Prices, Quote};
use super::refusal;
use super::reporter::{Reporter, seconds};
use super::router::{Router, RouterAccess};
use super::sandbox::{Death, Haste, Sandbox};
use super::trouble::Trouble;
use super::wire::client as wire;
use crate::backend::{BoxFuture, CancelLevel, Failure, OpenRequest};
use crate::domain::{Cause, Gpu};
use crate::event::{Level, Step, StepOutcome, now_ms};
use crate::plan::spec::GpuChoice;
use crate::store::journal::{Intent, JournalError, LeaseId, Purpose, SandboxKind, Settlement, tag};
use crate::store::ledger::{self, Hold};
use crate::store::{Journal, Lease};

/// Between two questions whether a machine was found.
const POLL: Duration = Duration::from_millis(500);
/// For a kind of GPU with another to try after it, where the job says nothing.
const USUAL_WAIT: Duration = Duration::from_secs(120);
/// For the last one; longer than this nothing is going to come.
const LONGEST_WAIT: Duration = Duration::from_secs(21 * 60);
/// A wait longer than this is shown.
const UNSHOWN_WAIT: Duration = Duration::from_secs(1);
/// What a kill waits for the answer of a create call.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// What does not differ between the sandboxes of a run.
pub(super) struct Ground {
    pub(super) journal: Journal,
    pub(super) account: String,
    pub(super) project: String,
    pub(super) app_name: String,
    pub(super) run: String,
    pub(super) purse: Arc<Purse>,
    /// Work beside the jobs: create calls that nobody waits for any more, until what they made is ended; the sweep.
    pub(super) aside: TaskTracker,
}

pub(super) struct Launch<'a> {
    pub(super) link: &'a Link,
    pub(super) ground: &'a Ground,
    pub(super) request: &'a OpenRequest,
    pub(super) reporter: &'a Reporter,
    pub(super) parts: &'a Parts,
    pub(super) prices: &'a Prices,
    pub(super) worktree: String,
    /// Where no run has asked for the sandbox.
    pub(super) need: Option<Need>,
}

/// A sandbox whose router answers.
pub(super) struct Running {
    pub(super) sandbox: Sandbox,
    pub(super) router: Router,
    pub(super) task: String,
    /// Where the router is.
    pub(super) url: String,
    /// Where open ports are reached, if the server has said so already.
    pub(super) tunnels: Vec<wire::TunnelData>,
    /// What it costs.
    pub(super) quote: Quote,
}

/// What one attempt at a kind of machine came to.
enum Attempt {
    Placed(Box<Running>),
    /// None to be had.
    Refused(String),
    /// None came in time.
    TooLong,
}

impl Launch<'_> {
    pub(super) async fn run(&self) -> Result<Running, Trouble> {
        let begun = self.reporter.begin(Step::Start, "starting the sandbox").await;
        let started = Instant::now();
        let choices = &self.request.spec.gpu;
        let count = choices.len().max(1);
        // A refusal says more than a wait that was too long.
        let (mut refusals, mut cause) = (Vec::new(), Cause::Queue);
        for at in 0..count {
            let choice = choices.get(at);
            let left = self.request.queue_limit.map(|limit| limit.saturating_sub(started.elapsed()));
            let own = own_wait(choice, at + 1 == count);
            let limit = left.map_or(own, |left| left.min(own));
            match self.attempt(choice.map(|choice| &choice.gpu), limit).await? {
                Attempt::Placed(running) => {
                    self.reporter.end(begun, StepOutcome::Done).await;
                    return Ok(*running);
                }
                Attempt::TooLong if left.is_some_and(|left| left <= own) => {
                    return Err(self.queued_too_long(started.elapsed()).into());
                }
                Attempt::TooLong => refusals.push(about(choice, &format!("none within {}", seconds(limit)))),
                Attempt::Refused(reason) => {
                    cause = Cause::Capacity;
                    refusals.push(about(choice, &reason));
                }
            }
            if let (Some(refusal), Some(next)) = (refusals.last(), choices.get(at + 1)) {
                let text = format!("{refusal}; trying {}", next.gpu);
                self.reporter.notice(Level::Info, "next-gpu", text, None).await;
            }
        }
        Err(refusal::no_machine(cause, choices, &refusals).into())
    }

    async fn attempt(&self, gpu: Option<&Gpu>, limit: Duration) -> Result<Attempt, Trouble> {
        let kind = generation::kind(gpu, &self.link.settings);
        let spec = &self.request.spec;
        let quote = self.prices.quote_with(spec, gpu);
        let most = self.ground.purse.most(quote.per_hour, spec.stop_timeout);
        let limits = definition::limits(self.request.timeout, self.request.keep, spec, most);
        if self.request.cancel.level().stops() {
            return Err(Trouble::Stopped);
        }
        let lease = self.intend(kind, limits.lifetime, &quote).await?;
        let definition = definition::sandbox(spec, self.parts, gpu, limits);
        let call = self.create_call(kind, definition, &lease);
        let asked = Instant::now();
        let (lease, created) = match self.until_answered(lease, kind, call, limit).await? {
            Answer::Created(made) => *made,
            Answer::Refused(reason) => return Ok(Attempt::Refused(reason)),
            Answer::TooLong => return Ok(Attempt::TooLong),
        };
        let options = CallOptions { sandbox_token: created.token.clone() };
        let sandbox = Sandbox { link: self.link.clone(), lease, kind, id: created.sandbox.clone(), options };
        let limit = limit.saturating_sub(asked.elapsed());
        match self.until_ready(&sandbox, created, gpu, limit).await {
            Ok(Some(Ready { router, task, url, tunnels })) => {
                if asked.elapsed() > UNSHOWN_WAIT {
                    sandbox.placed().await;
                }
                Ok(Attempt::Placed(Box::new(Running { sandbox, router, task, url, tunnels, quote })))
            }
            Ok(None) => {
                self.take_back(sandbox).await;
                Ok(Attempt::TooLong)
            }
            Err(trouble) => {
                self.take_back(sandbox).await;
                Err(trouble)
            }
        }
    }

    /// Ends a sandbox that will not be used. What cannot be ended stays in the journal.
    async fn take_back(&self, sandbox: Sandbox) {
        if let Err(failure) = sandbox.end(self.haste()).await {
            let help = failure.help.as_deref();
            self.reporter.notice(Level::Warning, "close-failed", failure.message.clone(), help).await;
        }
    }

    fn haste(&self) -> Haste {
        haste(self.request.cancel.level())
    }

    async fn intend(&self, kind: SandboxKind, lifetime: Duration, quote: &Quote) -> Result<Lease, Failure> {
        let ground = self.ground;
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let intent = Intent {
            lease: LeaseId::new(),
            account: ground.account.clone(),
            project: tag::value(&ground.project),
            job: tag::value(self.request.job.as_str()),
            run: ground.run.clone(),
            worktree: self.worktree.clone(),
            app: ground.app_name.clone(),
            environment: self.link.environment(),
            kind,
            purpose: if self.request.keep.is_some() { Purpose::Warm } else { Purpose::OneShot },
            expires_at_ms: now_ms().saturating_add(lifetime_ms),
            hold: self.hold(quote, lifetime)?,
        };
        ground.journal.intend(intent).await.map_err(|error| match error {
            JournalError::Exceeded(exceeded) => purse::exceeded(&exceeded),
            error => Failure::new(
                Cause::Infra,
                format!("no sandbox was started, since it could not be noted: {error}"),
            )
            .help(error.help()),
        })
    }

    fn hold(&self, quote: &Quote, lifetime: Duration) -> Result<Hold, Failure> {
        let purse = &self.ground.purse;
        match (self.need, self.request.keep) {
            (Some(Need::Expected), Some(keep)) => purse.hold_expected(quote, keep.idle),
            (Some(_), _) => {
                let hold = purse.hold(&self.request.job, quote, lifetime)?;
                Ok(Hold { need: ledger::Need::Coming, ..hold })
            }
            (None, _) => purse.hold(&self.request.job, quote, lifetime),
        }
    }

    fn create_call(
        &self,
        kind: SandboxKind,
        definition: wire::Sandbox,
        lease: &Lease,
    ) -> BoxFuture<'static, Result<Created, ModalError>> {
        let (link, app_id) = (self.link.clone(), self.parts.app.clone());
        let tag =
            |(name, value): (&str, String)| wire::SandboxTag { tag_name: name.to_owned(), tag_value: value };
        let tags = lease.tags().map(tag).to_vec();
        Box::pin(async move { create(&link, kind, app_id, (definition, tags)).await })
    }

    /// Waits for the answer of a create call: to the end when the run is stopped, then what it made is ended; a
    /// little when it is killed; `limit` in any case.
    async fn until_answered(
        &self,
        mut lease: Lease,
        kind: SandboxKind,
        mut call: BoxFuture<'static, Result<Created, ModalError>>,
        limit: Duration,
    ) -> Result<Answer, Trouble> {
        let mut cancel = self.request.cancel.clone();
        let mut seen = CancelLevel::Drain;
        let too_long = tokio::time::sleep(limit);
        tokio::pin!(too_long);
        let mut abandon_at = None;
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut call => break answer,
                level = cancel.above(seen) => {
                    seen = level;
                    if level == CancelLevel::Kill {
                        abandon_at = Some(Instant::now() + LAST_WAIT);
                    }
                }
                // The intent stays in the journal: the next sweep finds the sandbox by its tags.
                () = reached(abandon_at) => return Err(Trouble::Stopped),
                () = &mut too_long, if !seen.stops() => {
                    self.forsake(lease, kind, call);
                    return Ok(Answer::TooLong);
                }
            }
        };
        let created = match answer {
            Ok(created) => created,
            Err(error) => return self.not_created(lease, error).await,
        };
        if let Err(error) = lease.created(&created.sandbox).await {
            tracing::debug!(%error, "the journal does not name the sandbox");
        }
        if seen.stops() {
            self.take_back(adopt(self.link, lease, kind, &created)).await;
            return Err(Trouble::Stopped);
        }
        Ok(Answer::Created(Box::new((lease, created))))
    }

    async fn not_created(&self, lease: Lease, error: ModalError) -> Result<Answer, Trouble> {
        let unknown =
            matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Service | ErrorKind::DeadlineExceeded);
        if !unknown && let Err(error) = lease.settle(Settlement::NeverCreated).await {
            tracing::debug!(%error, "a lease is not settled");
        }
        match error.kind {
            ErrorKind::Exhausted => Ok(Answer::Refused(error.message)),
            ErrorKind::InvalidRequest => Err(refusal::of_sandbox(&error).into()),
            _ => Err(error.into()),
        }
    }

    /// Leaves a create call to itself; what it makes is ended at once.
    fn forsake(
        &self,
        mut lease: Lease,
        kind: SandboxKind,
        call: BoxFuture<'static, Result<Created, ModalError>>,
    ) {
        let link = self.link.clone();
        self.ground.aside.spawn(async move {
            let Ok(created) = call.await else { return };
            let noted = lease.created(&created.sandbox).await;
            let ended = adopt(&link, lease, kind, &created).end(Haste::Usual).await;
            tracing::debug!(?noted, ?ended, "a sandbox that came too late was ended");
        });
    }

    /// A machine, then the router on it. `None` when no machine came in time.
    async fn until_ready(
        &self,
        sandbox: &Sandbox,
        created: Created,
        gpu: Option<&Gpu>,
        limit: Duration,
    ) -> Result<Option<Ready>, Trouble> {
        let mut cancel = self.request.cancel.clone();
        let work = async {
            let task = match created.task {
                Some(task) => task,
                None => match self.until_placed(sandbox, gpu, limit).await? {
                    Some(task) => task,
                    None => return Ok(None),
                },
            };
            let access = match created.access {
                Some(access) => access,
                None => ask_access(self.link, sandbox.kind, &sandbox.id, &task).await?,
            };
            let url = access.url.clone();
            let router = connect(self.link, sandbox, &task, access).await?;
            Ok(Some(Ready { router, task, url, tunnels: created.tunnels }))
        };
        tokio::select! {
            biased;
            _ = cancel.stopped() => Err(Trouble::Stopped),
            ready = work => ready,
        }
    }

    /// Asks until there is a machine; `None` after `limit`.
    async fn until_placed(
        &self,
        sandbox: &Sandbox,
        gpu: Option<&Gpu>,
        limit: Duration,
    ) -> Result<Option<String>, Trouble> {
        let method = match sandbox.kind {
            SandboxKind::V1 => client::SANDBOX_GET_TASK_ID,
            SandboxKind::V2 => client::SANDBOX_GET_TASK_ID_V2,
        };
        let (clock, mut shown) = (self.link.clock(), None);
        let started = clock.awake();
        loop {
            let request =
                wire::SandboxGetTaskIdRequest { sandbox_id: sandbox.id.clone(), ..Default::default() };
            let answer = self.link.plane.call_with(method, request, &sandbox.options).await?;
            if let Some(task) = answer.task_id.filter(|task| !task.is_empty()) {
                if let Some(begun) = shown {
                    self.reporter.end(begun, StepOutcome::Done).await;
                }
                return Ok(Some(task));
            }
            if let Some(result) = answer.task_result {
                return Err(Death::Result(result).into_failure().into());
            }
            let waited = clock.awake().duration_since(started);
            if waited >= limit {
                return Ok(None);
            }
            if waited >= UNSHOWN_WAIT {
                let what = gpu.map_or("a machine".to_owned(), ToString::to_string);
                if shown.is_none() {
                    shown = Some(self.reporter.begin(Step::Queue, format!("waiting for {what}")).await);
                }
                let label = format!("waiting for {what}, {} of {}", seconds(waited), seconds(limit));
                self.reporter.progress(Step::Queue, waited.as_secs(), Some(limit.as_secs()), label).await;
            }
            clock.sleep(POLL.min(limit.saturating_sub(waited))).await;
        }
    }

    fn queued_too_long(&self, waited: Duration) -> Failure {
        Failure::new(Cause::Queue, format!("no machine within {}", seconds(waited)))
            .help("raise the limit of `fallback`, or allow other GPUs: gpu = [\"L4\", \"A10\"]")
    }
}

/// A machine that was found, and the router on it.
struct Ready {
    router: Router,
    task: String,
    url: String,
    tunnels: Vec<wire::TunnelData>,
}

/// What became of a create call.
enum Answer {
    Created(Box<(Lease, Created)>),
    Refused(String),
    TooLong,
}

/// A worker may take minutes to start; a sandbox that dies meanwhile says why.
pub(super) async fn connect(
    link: &Link,
    sandbox: &Sandbox,
    task: &str,
    access: RouterAccess,
) -> Result<Router, Trouble> {
    let url = access.url.clone();
    if !url.starts_with("https://") && !link.is_loopback() {
        return Err(insecure_router(&url).into());
    }
    let renew = renewal(link, sandbox.kind, &sandbox.id, task);
    let (throttle, clock) = (link.plane.throttle(), Arc::clone(link.clock()));
    let connecting = Router::connect(&link.connector, access, renew, throttle, clock);
    tokio::select! {
        biased;
        connected = connecting => Ok(connected?),
        death = sandbox.late_death() => Err(death.into_failure().into()),
    }
}

fn adopt(link: &Link, lease: Lease, kind: SandboxKind, created: &Created) -> Sandbox {
    let options = CallOptions { sandbox_token: created.token.clone() };
    Sandbox { link: link.clone(), lease, kind, id: created.sandbox.clone(), options }
}

pub(super) fn haste(level: CancelLevel) -> Haste {
    if level == CancelLevel::Kill { Haste::Now } else { Haste::Usual }
}

fn own_wait(choice: Option<&GpuChoice>, last: bool) -> Duration {
    let usual = if last { LONGEST_WAIT } else { USUAL_WAIT };
    choice.and_then(|choice| choice.wait).unwrap_or(usual)
}

/// What became of the wish for a GPU, or for any machine.
fn about(choice: Option<&GpuChoice>, what: &str) -> String {
    choice.map_or_else(|| what.to_owned(), |choice| format!("{}: {what}", choice.gpu))
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
