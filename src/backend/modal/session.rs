//! One job in one sandbox.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::backend::Core;
use super::control_plane::ControlPlane;
use super::error::{ErrorKind, ModalError};
use super::exec::{Exec, Start};
use super::generation;
use super::launch::{Running, haste};
use super::limits::{Pulse, StoodStill};
use super::link::Link;
use super::method::client;
use super::opening::Opening;
use super::outputs::Outputs;
use super::purse::Tab;
use super::reporter::Reporter;
use super::retry::RetryPolicy;
use super::run::{Begun, Behind, Ended, Run, Unused};
use super::sandbox::{Haste, Sandbox};
use super::script::{self, Input, Words};
use super::settling::Closed;
use super::stdin::Feed;
use super::terminal::{self, TerminalKind};
use super::tree::Delta;
use super::trouble::Trouble;
use super::warm::{self, Stay, Use};
use super::wire::client as wire;
use crate::backend::{BoxFuture, CancelLevel, Failure, OpenRequest, OutputMode, Session};
use crate::base::duration::ExactDuration;
use crate::base::exit_code;
use crate::base::money::Dollars;
use crate::base::size::Bytes as Size;
use crate::domain::{Cause, Exit};
use crate::event::{Cost, Event, Level, RecordedCost, Step, StepOutcome};
use crate::plan::spec::CommandSpec;
use crate::process::{RawTerminal, StandardInput, Supervisor};
use crate::store::journal::Settlement;

/// How long the server may look for the addresses of ports.
const TUNNELS: Duration = Duration::from_secs(50);

const SIGKILL: i32 = 9;

pub(super) struct ModalSession {
    pub(super) core: Arc<Core>,
    pub(super) link: Link,
    pub(super) request: OpenRequest,
    pub(super) reporter: Reporter,
    pub(super) running: Running,
    pub(super) delta: Option<Delta>,
    /// How the sandbox is kept; `None`: it ends with the session.
    pub(super) stay: Option<Stay>,
    pub(super) variables: wire::SecretSource,
    pub(super) fate: Fate,
    pub(super) keyboard: Keyboard,
    /// When the sandbox was there.
    pub(super) started: Instant,
    /// Keeps the sandbox paid for.
    pub(super) tab: Option<Tab>,
}

/// accel's own input and terminal, which one job at a time may have.
#[derive(Clone)]
pub(super) struct Keyboard {
    pub(super) supervisor: Supervisor,
    /// `None` where accel's output ends elsewhere than on a terminal.
    pub(super) kind: Option<TerminalKind>,
    pub(super) turn: Arc<Mutex<()>>,
}

/// What a job reads while it runs.
struct Reads {
    input: Input,
    /// `None` where accel's own script may have it.
    feed: Option<Feed>,
    terminal: Option<RawTerminal>,
    _turn: Option<OwnedMutexGuard<()>>,
}

/// What became of the sandbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Runs,
    /// Its end was confirmed.
    Terminated,
    /// It ended by itself.
    Ended,
}

impl ModalSession {
    async fn run(&mut self, output: OutputMode) -> Result<Exit, Failure> {
        if matches!(&self.request.spec.command, CommandSpec::Shell(text) if text.trim().is_empty()) {
            return Ok(Exit::Code(0));
        }
        loop {
            let mark = warm::new_word();
            let (exit, behind) = match self.command(&mark, output).await? {
                Ended::Exit(exit, behind) => (exit, behind),
                Ended::Killed(confirmed) => {
                    if confirmed.is_ok() {
                        self.fate = Fate::Terminated;
                    }
                    return Ok(Exit::Signal(SIGKILL));
                }
                Ended::Unused(unused) => {
                    self.replace(unused).await?;
                    continue;
                }
            };
            if let (Some(stay), Behind::Nothing) = (&mut self.stay, behind) {
                stay.used = Use::Ended { mark };
            }
            return Ok(exit);
        }
    }

    /// Starts the command and follows it to its end.
    async fn command(&mut self, mark: &str, output: OutputMode) -> Result<Ended, Failure> {
        let word = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        let delta = self.delta.take();
        let reads = self.reads(output).await;
        let left = self.stay.as_ref().and_then(Stay::word).map(ToOwned::to_owned);
        let words = Words { own: &word, mark, left: left.as_deref() };
        let argv = script::run(&self.request.spec, delta.as_ref(), reads.input, &words);
        fits(&argv)?;
        let script = || Feed::Script(delta.map_or_else(Bytes::new, |delta| delta.bytes.into()));
        let feed = reads.feed.unwrap_or_else(script);
        let kind = self.keyboard.kind.clone().unwrap_or_default();
        let terminal = reads.terminal.as_ref().map(|raw| terminal::described(&kind, raw.size()));
        if let Some(stay) = &mut self.stay {
            stay.used = Use::Unclear;
        }
        let start = Start { argv, secrets: vec![self.variables.clone()], terminal };
        let Running { router, task, .. } = &self.running;
        let is_kept = self.stay.as_ref().is_some_and(|stay| stay.record.is_some());
        let begun = if is_kept {
            let (exec, starting) = Exec::begin(router, self.link.clock(), task, start);
            Begun::Starting(exec, starting, words.out_of_step())
        } else {
            match self.start(start).await? {
                Some(exec) => Begun::Started(exec),
                None => return Ok(Ended::Exit(Exit::Signal(SIGKILL), Behind::Processes)),
            }
        };
        let run = Run {
            sandbox: &self.running.sandbox,
            router: &self.running.router,
            task: &self.running.task,
            reporter: &self.reporter,
            cancel: self.request.cancel.clone(),
            word,
            input: reads.input,
            terminal: reads.terminal,
            supervisor: &self.keyboard.supervisor,
        };
        let (ended, ()) = tokio::join!(run.follow(begun, feed), self.tell_ports());
        ended
    }

    /// Waits for the start of the first command in a fresh sandbox; `None` when the run is killed meanwhile.
    async fn start(&mut self, start: Start) -> Result<Option<Exec>, Failure> {
        let mut cancel = self.request.cancel.clone();
        let Running { sandbox, router, task, .. } = &self.running;
        let starting = Exec::start(router, self.link.clock(), task, start);
        let exec = tokio::select! {
            biased;
            started = starting => started,
            _ = cancel.above(CancelLevel::Stop(crate::backend::StopReason::Terminate)) => return Ok(None),
            death = sandbox.late_death() => {
                self.fate = Fate::Ended;
                return Err(death.into_failure());
            }
        };
        match exec {
            Ok(exec) => Ok(Some(exec)),
            Err(error) => Err(self.not_started(error).await),
        }
    }

    /// accel's own input for a job at the terminal; with the terminal where in- and output are one.
    async fn reads(&self, output: OutputMode) -> Reads {
        let nothing = Reads { input: Input::None, feed: None, terminal: None, _turn: None };
        if !self.request.spec.tty {
            return nothing;
        }
        let Ok(turn) = Arc::clone(&self.keyboard.turn).try_lock_owned() else {
            let text = "another job reads standard input; this one gets none";
            self.reporter.notice(Level::Warning, "input-taken", text, None).await;
            return nothing;
        };
        let shown_as_it_is = output == OutputMode::Inherit && self.keyboard.kind.is_some();
        // What accel has said so far is to be on the screen before the terminal changes.
        self.reporter.emitter.shown().await;
        let terminal = shown_as_it_is.then(|| RawTerminal::enter(&self.keyboard.supervisor)).flatten();
        let (input, feed) = match terminal {
            Some(_) => (Input::Terminal, Feed::Keys(StandardInput::open())),
            None => (Input::Standard, Feed::Standard(StandardInput::open())),
        };
        Reads { input, feed: Some(feed), terminal, _turn: Some(turn) }
    }

    /// A fresh sandbox instead of a kept one in which nothing was run.
    async fn replace(&mut self, unused: Unused) -> Result<(), Failure> {
        self.stay = None;
        let why = match unused {
            Unused::OutOfStep => "is not as it was left",
            Unused::Died => "has ended",
            Unused::NotStarted(error) if is_refusal(&error) => "has ended",
            // It may run the command after all.
            Unused::NotStarted(error) => match self.running.sandbox.has_died().await {
                Some(_) => "has ended",
                None => return Err(error.into_failure()),
            },
        };
        let shared = self.core.shared()?;
        let opening = Opening { core: &self.core, shared, request: &self.request, reporter: &self.reporter };
        opening.tell(why).await;
        self.running.sandbox.release().await;
        let opened = opening.fresh(None).await.map_err(Trouble::into_failure)?;
        if let Some(tab) = &self.tab {
            tab.turn(&opened.running.sandbox.lease, &opened.running.quote);
        }
        let old = std::mem::replace(&mut self.running, opened.running);
        opening.end(old.sandbox);
        (self.delta, self.stay) = (opened.delta, opened.stay);
        Ok(())
    }

    async fn not_started(&self, error: ModalError) -> Failure {
        match self.running.sandbox.has_died().await {
            Some(death) => death.into_failure(),
            None => error.into_failure(),
        }
    }

    /// Where the job's ports are reached from outside, beside the command.
    async fn tell_ports(&self) {
        if self.request.spec.ports.is_empty() {
            return;
        }
        let tunnels = match self.running.tunnels.as_slice() {
            [] => self.ask_tunnels().await,
            known => known.to_vec(),
        };
        for tunnel in tunnels {
            let port = if tunnel.port == 443 { String::new() } else { format!(":{}", tunnel.port) };
            let text = format!("port {} is at https://{}{port}", tunnel.container_port, tunnel.host);
            self.reporter.notice(Level::Info, "port", text, None).await;
        }
    }

    async fn ask_tunnels(&self) -> Vec<wire::TunnelData> {
        let Sandbox { kind, id, options, .. } = &self.running.sandbox;
        let request =
            wire::SandboxGetTunnelsRequest { sandbox_id: id.clone(), timeout: TUNNELS.as_secs_f32() };
        match self.link.plane.call_with(generation::tunnels(*kind), request, options).await {
            Ok(answer) => answer.tunnels,
            Err(error) => {
                let text = format!("the addresses of the ports are not known: {error}");
                self.reporter.notice(Level::Warning, "port", text, None).await;
                Vec::new()
            }
        }
    }

    async fn collect(&mut self) -> Result<(), Failure> {
        let patterns = self.request.spec.outputs.clone().unwrap_or_default();
        if patterns.is_empty() {
            return Ok(());
        }
        if self.fate != Fate::Runs {
            return Err(Failure::new(Cause::Infra, "the sandbox was ended before they could be fetched"));
        }
        let begun = self.reporter.begin(Step::Outputs, "fetching outputs").await;
        let directory = script::working_directory(&self.request.spec);
        let argv = crate::workspace::unpack::pack_command(&directory, &patterns);
        fits(&argv)?;
        let outputs = Outputs { root: self.request.root.clone(), patterns };
        let start = Start { argv, ..Start::default() };
        let starting = Exec::start(&self.running.router, self.link.clock(), &self.running.task, start);
        let pulse = Pulse::new();
        let given_up = self.end_of_fetching(&pulse);
        tokio::pin!(given_up);
        let exec = tokio::select! {
            biased;
            started = starting => started.map_err(|error| Trouble::from(error).into_failure())?,
            failure = &mut given_up => return Err(failure),
        };
        let report = outputs.receive(&exec, &pulse, given_up).await.map_err(Trouble::into_failure)?;
        let count = report.written.len();
        let label = format!("{count} of {} files changed, {}", count + report.unchanged, Size(report.bytes));
        self.reporter.progress(Step::Outputs, report.bytes, Some(report.bytes), label).await;
        self.reporter.end(begun, StepOutcome::Done).await;
        Ok(())
    }
}

impl ModalSession {
    /// What ends the fetching of outputs before its time.
    async fn end_of_fetching(&self, pulse: &Pulse) -> Failure {
        let mut cancel = self.request.cancel.clone();
        let level = cancel.level();
        let limit = self.link.limits.download;
        tokio::select! {
            biased;
            death = self.running.sandbox.late_death() => death.into_failure(),
            _ = cancel.above(level) => Failure::new(Cause::Infra, "stopped"),
            StoodStill = pulse.stops(limit) => {
                let text = format!("the outputs came to a halt: nothing arrived for {}", ExactDuration(limit));
                Failure::new(Cause::Infra, text).help("run again; results that are large are better kept in a volume")
            }
        }
    }
}

impl Session for ModalSession {
    /// Output always travels over the wire, so it always goes out as events.
    fn execute(&mut self, output: OutputMode) -> BoxFuture<'_, Result<Exit, Failure>> {
        Box::pin(async move {
            let (board, reporter) = (self.link.board.clone(), self.reporter.clone());
            board.telling(&reporter, self.run(output)).await
        })
    }

    fn collect_outputs(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.collect())
    }

    fn used_up(&mut self) -> Option<BoxFuture<'static, Failure>> {
        self.tab.clone().map(|tab| Box::pin(tab.used_up()) as BoxFuture<'static, Failure>)
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async move {
            let Self { core, link, request, reporter, mut running, stay, fate, started, .. } = *self;
            let haste = haste(request.cancel.level());
            let (lifetime, quote) = (started.elapsed(), running.quote.clone());
            let at_least = quote.of(lifetime);
            if stay.is_none() {
                running.sandbox.lease.note_spent(at_least);
            }
            // What is recorded of a kept sandbox is that of other runs as well.
            let recording = stay.is_none().then(|| recorded(link.plane.clone(), &running.sandbox));
            let recording = async { recording?.await };
            let ending = async {
                match (fate, stay) {
                    (Fate::Runs, Some(stay)) if haste == Haste::Usual => {
                        Closed { core, link, request, running, stay }.keep(&reporter).await
                    }
                    (Fate::Runs | Fate::Ended, _) => running.sandbox.end(haste).await,
                    (Fate::Terminated, _) => {
                        running.sandbox.settle(Settlement::Terminated).await;
                        Ok(())
                    }
                }
            };
            let (ended, recorded) = beside(ending, recording).await;
            let cost = Cost { at_least, lifetime, quote: quote.into(), recorded };
            reporter.emitter.emit(Event::JobCost { job: reporter.job.clone(), cost }).await;
            ended
        })
    }
}

/// Does the work, and hands over what something beside it came to by then.
async fn beside<T, U>(
    work: impl Future<Output = T>,
    aside: impl Future<Output = Option<U>>,
) -> (T, Option<U>) {
    tokio::pin!(work, aside);
    tokio::select! {
        biased;
        done = &mut work => (done, None),
        extra = &mut aside => (work.await, extra),
    }
}

/// What Modal has recorded of the sandbox's cost so far. Not asked for twice: usually it is nothing.
fn recorded(plane: ControlPlane, sandbox: &Sandbox) -> impl Future<Output = Option<RecordedCost>> + use<> {
    let request = wire::SandboxGetStatsRequest { sandbox_id: sandbox.id.clone(), ..Default::default() };
    let options = sandbox.options.clone();
    async move {
        let method = client::SANDBOX_GET_STATS.with_retry(RetryPolicy::NONE);
        let stats = plane.call_with(method, request, &options).await.ok()?;
        let recorded = RecordedCost {
            cost: Dollars::from_decimal(&stats.cost?)?,
            by_resource: stats.cost_by_resource.into_iter().collect(),
            billed_cpu_core_seconds: stats.billed_cpu_core_seconds,
            billed_memory_gib_seconds: stats.billed_memory_gib_seconds,
        };
        let amounts = [recorded.billed_cpu_core_seconds, recorded.billed_memory_gib_seconds];
        amounts.iter().all(|amount| amount.is_finite() && *amount >= 0.0).then_some(recorded)
    }
}

/// Whether the sandbox has said that it started nothing.
fn is_refusal(error: &ModalError) -> bool {
    matches!(error.kind, ErrorKind::NotFound | ErrorKind::Auth | ErrorKind::Conflict)
}

/// Modal takes no longer argument lists.
pub(super) fn fits(argv: &[String]) -> Result<(), Failure> {
    let size: usize = argv.iter().map(|word| word.len() + 1).sum();
    if size <= script::MOST_ARGUMENTS {
        return Ok(());
    }
    let text = format!("the command is longer than Modal takes ({size} of {} bytes)", script::MOST_ARGUMENTS);
    Err(Failure::new(Cause::Command, text)
        .exit_code(exit_code::NOT_EXECUTABLE)
        .help("put it into a script file of the project"))
}
