//! A plan run from the command line: backends, sinks and signals wired to the engine.
//!
//! The only place that knows all three. One thread runs everything that waits, one more feeds the sinks.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use crate::backend::local::environment::{Host, UvEnvironments};
use tokio::runtime::Runtime;

use crate::backend::local::{ColorHint, LocalBackend, LocalSettings, OomKills};
use crate::backend::modal::{Access, Ahead, Common, Need, Reuse};
use crate::backend::{Backend, Cancel, CancelLevel, CancelSource, StopReason};
use crate::diag::ColorChoice;
use crate::domain::Place;
use crate::engine::{self, Backends, Jitter, OutputPolicy, Parallel, RunOptions};
use crate::event::{self, Event};
use crate::plan;
use crate::plan::spec::{Plan, PlannedJob, RuleTarget};
use crate::plan::warm::Habit;
use crate::process::{Ownership, Supervisor};
use crate::redact::Secrets;
use crate::sink::terminal::{Colors, Port, Progress, StepLogs, TerminalOptions};
use crate::sink::{self, HistorySink, JsonSink, RecordSink, Sink, TerminalSink};
use crate::store::runs::Runs;
use crate::store::{Database, History};
use crate::watch::Sign;

use super::ambient::{Ambient, ColorWish};
use super::context::Context;
use super::error::CommandError;
use super::keyboard::Keyboard;
use super::modal::{Around, Modal};
use super::prewarm;
use super::printer::{Format, Printer, Verbosity};
use super::routing::{self, Quotes};
use super::runtime::Underway;
use super::secrets;
use super::signals::{Display, IgnoredSignals, Signals};

/// What the command line says about how to run.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    pub limit: Option<NonZeroUsize>,
    pub on_failure: engine::OnFailure,
    pub fallback: engine::FallbackPolicy,
    pub color: ColorWish,
    /// Which jobs keep their sandbox.
    pub warm: Habit,
    pub reuse: Reuse,
    pub recorded: Recorded,
}

/// Whether a run tells anything about the next run of the same job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    InHistory,
    /// Another command in a job's place.
    Nowhere,
}

/// Runs the plan to its exit code.
pub fn execute(
    mut plan: Plan,
    wishes: Wishes,
    underway: &Underway,
    context: &Context<'_>,
    folder: &Path,
) -> Result<u8, CommandError> {
    plan::warm::apply(&mut plan, wishes.warm);
    let plan = Arc::new(plan);
    let supervisor = Supervisor::new(Ownership::Process);
    let access = underway.access.as_ref();
    let execution = Execution {
        context,
        supervisor: &supervisor,
        folder,
        wishes,
        caller: None,
        access,
        common: Common::default(),
    };
    let prepared = execution.prepare(Arc::clone(&plan));
    let summary =
        watched(&underway.runtime, context, &supervisor, prepared.beside(), async |emitter, cancel| {
            prepared.expect_modal();
            let summary = prepared.run(emitter, cancel.watch()).await;
            execution.common.finish(cancel.watch()).await;
            summary
        })??;
    prepared.mention_unheard_of();
    execution.mention_left_ahead();
    Ok(engine::exit_code(&plan, &summary))
}

/// What stays the same over any number of runs.
pub struct Execution<'a> {
    pub context: &'a Context<'a>,
    pub supervisor: &'a Supervisor,
    pub folder: &'a Path,
    pub wishes: Wishes,
    /// Who calls, where neither a variable nor the surroundings say so.
    pub caller: Option<&'static str>,
    /// Where connecting to Modal has begun before there was a plan.
    pub access: Option<&'a Access>,
    /// What the runs share on Modal.
    pub common: Common,
}

impl Execution<'_> {
    /// After the last run: the same of what was made ahead of one.
    pub fn mention_left_ahead(&self) {
        let left = self.common.held();
        let unheard_of = left.iter().filter(|entry| entry.sandbox.is_none());
        unheard_of.for_each(|entry| self.context.printer.warning(&super::modal::left_behind(entry)));
    }

    /// A run of this plan, not begun yet.
    pub fn prepare(&self, plan: Arc<Plan>) -> PreparedRun<'_> {
        let ambient = self.context.ambient;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let color = color_hint(self.wishes.color, ambient);
        let Self { supervisor, folder, access, .. } = *self;
        let around =
            Around { supervisor, ambient, folder, access, reuse: self.wishes.reuse, common: &self.common };
        let modal = Arc::new(Modal::new(&plan, &id, color, around));
        PreparedRun { execution: self, plan, id, color, modal }
    }
}

/// One run of a plan.
pub struct PreparedRun<'a> {
    execution: &'a Execution<'a>,
    plan: Arc<Plan>,
    id: String,
    color: ColorHint,
    modal: Arc<Modal>,
}

impl PreparedRun<'_> {
    /// What goes with the showing of this run; says which secrets cannot be hidden.
    pub fn beside(&self) -> Beside {
        let Execution { context, folder, wishes, .. } = self.execution;
        let (ambient, printer) = (context.ambient, &context.printer);
        let (secrets, unmasked) = secrets::known(&self.plan, ambient);
        if self.plan.jobs.len() > 1 || printer.format == Format::Json {
            unmasked.iter().for_each(|unmasked| printer.warning(&unmasked.text()));
        }
        let database = Database::new(ambient.directories(folder));
        let runs = Runs::new(database.clone());
        let record = RecordSink::new(runs, self.plan.project.as_str(), self.plan.root.to_string_lossy());
        let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(record)];
        if wishes.recorded == Recorded::InHistory {
            sinks.push(Box::new(HistorySink::new(Arc::clone(&self.plan), History::new(database))));
        }
        Beside { secrets, sinks, step_logs: StepLogs::OnFailure, left_behind: self.left_behind() }
    }

    /// Sentences about what outlives accel when it leaves at once.
    pub fn left_behind(&self) -> LeftBehind {
        let (modal, ahead) = (Arc::clone(&self.modal), left_ahead(&self.execution.common));
        // What the run itself has left may still be put in order.
        Box::new(move || {
            let all: BTreeSet<String> = modal.left_behind().into_iter().chain(ahead()).collect();
            all.into_iter().collect()
        })
    }

    /// Runs the plan to its end.
    pub async fn run(
        &self,
        emitter: event::Emitter,
        cancel: Cancel,
    ) -> Result<engine::Summary, CommandError> {
        let Execution { context, supervisor, folder, caller, .. } = self.execution;
        let (ambient, plan, modal) = (context.ambient, &self.plan, &self.modal);
        let backends = backends(&self.id, self.color, supervisor, ambient, folder, modal);
        let caller = routing::caller(ambient, *caller)?;
        let gatherer = routing::gatherer(plan, ambient, caller, supervisor, cancel.clone(), folder);
        let run = async {
            let decide = routing::decide(plan, &gatherer, Quotes::By(modal)).await;
            self.settle_expectations(decide.as_ref().ok());
            let decide = decide?;
            Ok(engine::run(Arc::clone(plan), self.options(), backends, decide, emitter, cancel).await)
        };
        let summary = beside_connecting(modal, plan, run).await;
        modal.finish().await;
        summary
    }

    /// Begins on Modal what may be of use there: at the start by what the history says of the jobs, at a save for all of
    /// them.
    pub fn prewarm(&self, sign: Sign) {
        let was_there = |job: &PlannedJob| sign == Sign::Save || self.was_there(job);
        prewarm::begin(&self.modal, &self.plan, &prewarm::candidates(&self.plan, sign, was_there));
    }

    /// Of jobs whose place the facts decide, where that is worth something to the user.
    fn expect_modal(&self) {
        if self.plan.budget.prewarm_per_day.is_none() {
            return;
        }
        let mut candidates = prewarm::candidates(&self.plan, Sign::Start, |job| self.was_there(job));
        candidates.retain(|candidate| candidate.ahead == Ahead::Sandbox(Need::Expected));
        prewarm::begin(&self.modal, &self.plan, &candidates);
    }

    /// Whether the job's last run was on Modal.
    fn was_there(&self, job: &PlannedJob) -> bool {
        let Execution { context, folder, .. } = self.execution;
        let history = History::new(Database::new(context.ambient.directories(folder)));
        let last = history.recent(&self.plan.project, &job.id).unwrap_or_default();
        last.first().is_some_and(|entry| entry.place == Place::Modal)
    }

    /// The facts have decided. Without a decision nothing is run.
    fn settle_expectations(&self, decide: Option<&engine::Decide>) {
        if !self.execution.common.is_prewarming() {
            return;
        }
        let comes = |job: &&PlannedJob| decide.is_some_and(|decide| decide(job, 1).place == Place::Modal);
        let coming = self.plan.jobs.iter().filter(comes).map(|job| job.id.clone()).collect();
        prewarm::call_off_but(&self.modal, &self.plan, &coming);
    }

    /// After all has been shown: warns of sandboxes that may be left and that nobody knows by name.
    pub fn mention_unheard_of(&self) {
        self.modal.unheard_of().iter().for_each(|text| self.execution.context.printer.warning(text));
    }

    fn options(&self) -> RunOptions {
        let Execution { context, wishes, .. } = self.execution;
        RunOptions {
            run: self.id.clone(),
            parallel: parallel(wishes.limit, self.plan.jobs.len()),
            on_failure: wishes.on_failure,
            fallback: wishes.fallback,
            output: match context.printer.format {
                Format::Text => OutputPolicy::InheritWhenAlone,
                Format::Json => OutputPolicy::Events,
            },
            jitter: Jitter::random(),
        }
    }
}

/// Connects to Modal while facts are gathered and needs are run, if some job is certain to go there.
async fn beside_connecting<T>(modal: &Modal, plan: &Plan, run: impl Future<Output = T>) -> T {
    let certain = |job: &PlannedJob| {
        let rule = job.routing.rules.iter().find(|rule| rule.when.is_empty());
        job.routing.rules.iter().all(|rule| rule.to == RuleTarget::Place(Place::Modal)) && rule.is_some()
    };
    if !plan.jobs.iter().any(certain) {
        return run.await;
    }
    let connecting = modal.warm_up();
    tokio::pin!(run, connecting);
    tokio::select! {
        biased;
        done = &mut run => done,
        () = &mut connecting => run.await,
    }
}

/// Sentences about what outlives accel when it leaves at once.
pub type LeftBehind = Box<dyn Fn() -> Vec<String>>;

/// The same of what is made ahead of runs, or put in order after them.
pub fn left_ahead(common: &Common) -> LeftBehind {
    let common = common.clone();
    Box::new(move || common.held().iter().map(super::modal::left_behind).collect())
}

/// What goes with the showing of events.
pub struct Beside {
    /// Shown by no sink.
    pub secrets: Secrets,
    /// Sinks other than the one that shows.
    pub sinks: Vec<Box<dyn Sink>>,
    pub step_logs: StepLogs,
    pub left_behind: LeftBehind,
}

impl Beside {
    /// For work that leaves nothing behind.
    pub fn with_secrets(secrets: Secrets) -> Self {
        let left_behind = Box::new(Vec::new);
        Self { secrets, sinks: Vec::new(), step_logs: StepLogs::OnFailure, left_behind }
    }
}

/// Does `work` while sinks show its events, and signals climb the ladder. When the reader of standard output goes
/// away, nobody wants the rest: that is a request to stop.
pub fn watched<T>(
    runtime: &Runtime,
    context: &Context<'_>,
    supervisor: &Supervisor,
    mut beside: Beside,
    work: impl AsyncFnOnce(event::Emitter, &CancelSource) -> T,
) -> Result<T, CommandError> {
    let source = Arc::new(CancelSource::default());
    runtime.block_on(async {
        let (emitter, shown) = show(context, &mut beside, &source)?;
        let signals = Signals::listen(IgnoredSignals::of_this_process()).map_err(cannot_start)?;
        let keyboard = Keyboard::none();
        let display = Display { keyboard: &keyboard, on_change: &|_| {} };
        let shown_to_the_end = async {
            let done = work(emitter, &source).await;
            shown.finish(context).await;
            done
        };
        Ok(tokio::select! {
            done = shown_to_the_end => done,
            never = signals.raise(&source, supervisor, display, &beside.left_behind) => never,
        })
    })
}

fn cannot_start(error: std::io::Error) -> CommandError {
    CommandError::failed(format!("cannot start: {error}"))
}

/// The running thread that shows events.
pub struct Shown {
    thread: sink::SinkThread,
    end: event::End,
}

impl Shown {
    /// Waits until all has been shown; every emitter has to be gone.
    pub async fn finish(self, context: &Context<'_>) {
        self.end.reached().await;
        for failure in self.thread.join() {
            context.printer.error(&format!("cannot write to {}: {}", failure.sink, failure.error), &[]);
        }
    }
}

/// Starts to show what is emitted. When the reader of standard output goes away, `source` is told to stop.
pub fn show(
    context: &Context<'_>,
    beside: &mut Beside,
    source: &Arc<CancelSource>,
) -> Result<(event::Emitter, Shown), CommandError> {
    let (emitter, mut receiver) = event::channel();
    let end = receiver.end();
    let stop = stop_unread(source);
    let shown = sink(&context.printer, context.ambient, beside.step_logs, stop).map_err(cannot_start)?;
    let mut sinks = vec![shown];
    sinks.extend(std::mem::take(&mut beside.sinks));
    let secrets = std::mem::take(&mut beside.secrets);
    let thread = sink::start(receiver, sinks, secrets).map_err(cannot_start)?;
    Ok((emitter, Shown { thread, end }))
}

/// Shows events that are no run's any more, by the jobs of this plan.
pub async fn tell(
    events: Vec<Event>,
    plan: &Plan,
    context: &Context<'_>,
    source: &Arc<CancelSource>,
) -> Result<(), CommandError> {
    let (secrets, _) = secrets::known(plan, context.ambient);
    let (emitter, shown) = show(context, &mut Beside::with_secrets(secrets), source)?;
    for event in events {
        emitter.emit(event).await;
    }
    drop(emitter);
    shown.finish(context).await;
    Ok(())
}

/// Nobody wants what nobody reads.
pub fn stop_unread(source: &Arc<CancelSource>) -> impl FnOnce() + Send + use<> {
    let source = Arc::downgrade(source);
    move || {
        if let Some(source) = source.upgrade() {
            source.raise(CancelLevel::Stop(StopReason::Unread));
        }
    }
}

fn parallel(limit: Option<NonZeroUsize>, jobs: usize) -> Parallel {
    match limit {
        Some(limit) => Parallel::jobs(limit),
        // Asking for the number of cores reads files; one job does not need it.
        None if jobs == 1 => Parallel::cores(NonZeroUsize::MIN),
        None => Parallel::cores(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)),
    }
}

fn backends(
    run: &str,
    color: ColorHint,
    supervisor: &Supervisor,
    ambient: &Ambient,
    folder: &Path,
    modal: &Arc<Modal>,
) -> Backends {
    let settings = LocalSettings {
        host_env: ambient.variables.0.clone(),
        run: Some(run.to_owned()),
        color,
        supervisor: supervisor.clone(),
        directories: ambient.directories(folder),
        oom_kills: OomKills::default(),
        global_ignore: super::ambient::global_ignore,
        environments: Arc::new(UvEnvironments::new(host(ambient, folder, supervisor))),
    };
    let local: Arc<dyn Backend> = Arc::new(LocalBackend::new(settings));
    BTreeMap::from([(Place::Local, local), (Place::Modal, Arc::clone(modal) as _)])
}

/// What this machine gives to the making of environments.
pub fn host(ambient: &Ambient, folder: &Path, supervisor: &Supervisor) -> Host {
    Host {
        supervisor: supervisor.clone(),
        directories: ambient.directories(folder),
        variables: ambient.variables.0.iter().cloned().collect(),
        network: ambient.network(),
    }
}

/// A job that has the terminal itself looks at it; others are told what their output ends on.
fn color_hint(wish: ColorWish, ambient: &Ambient) -> ColorHint {
    match wish {
        ColorWish::Never => ColorHint::Never,
        ColorWish::Always => ColorHint::Always,
        ColorWish::Auto => match ambient.color(wish, ambient.stdout_is_terminal) {
            ColorChoice::Ansi => ColorHint::WherePassedOn,
            ColorChoice::Plain => ColorHint::Unsaid,
        },
    }
}

fn sink(
    printer: &Printer,
    ambient: &Ambient,
    step_logs: StepLogs,
    when_unread: impl FnOnce() + Send + 'static,
) -> std::io::Result<Box<dyn Sink>> {
    if printer.format == Format::Json {
        return Ok(Box::new(JsonSink::new(printer.watched_stdout(when_unread)?)));
    }
    let stdout = Port {
        writer: printer.watched_stdout(when_unread)?,
        terminal: ambient.stdout_is_terminal,
        colors: colors(printer.stdout_color),
    };
    let stderr = Port {
        writer: printer.stderr()?,
        terminal: ambient.stderr_is_terminal,
        colors: colors(printer.stderr_color),
    };
    let options = TerminalOptions {
        verbosity: match printer.verbosity {
            Verbosity::Quiet => sink::terminal::Verbosity::Quiet,
            Verbosity::Normal => sink::terminal::Verbosity::Normal,
            Verbosity::Verbose => sink::terminal::Verbosity::Verbose,
        },
        columns: ambient.stderr_is_terminal.then(|| ambient.width()),
        progress: Progress::Drawn,
        step_logs,
    };
    Ok(Box::new(TerminalSink::new(stdout, stderr, options)))
}

fn colors(choice: ColorChoice) -> Colors {
    match choice {
        ColorChoice::Ansi => Colors::Allowed,
        ColorChoice::Plain => Colors::Plain,
    }
}
