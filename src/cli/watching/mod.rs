//! `accel watch`, wired: configuration and plan, runs and their showing, keys and signals around the watch loop.
//!
//! Each run has its own sinks, so that secrets and layout are those of its plan; what is said between runs is said
//! here. On a terminal one line stays at the bottom while nothing runs: verdict, duration, place, trigger, keys.

mod line;
mod loader;
mod words;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::modal::Common;
use crate::backend::{Cancel, CancelLevel, CancelSource};
use crate::base::exit_code;
use crate::domain::{JobId, Place};
use crate::engine;
use crate::event::{Event, STREAM_VERSION, Stamped, WatchCause, now_ms};
use crate::plan::spec::{Plan, PlannedJob, WatchNotify};
use crate::plan::warm::Habit;
use crate::process::{Ownership, Supervisor};
use crate::sink::{JsonSink, Sink as _};
use crate::store::journal::warm::Parker;
use crate::store::{Database, Journal};
use crate::watch::{self, Cause, Command, Ended, Means, News, Reloaded, Run, Sign, Trigger, Work};

use super::Outcome;
use super::args::JobArgs;
use super::commands::run as run_command;
use super::context::Context;
use super::error::CommandError;
use super::execution::{self, Execution, LeftBehind, Wishes};
use super::keyboard::{Key, Keyboard};
use super::printer::{Format, write_stderr};
use super::runtime;
use super::signals::{Change, Display, IgnoredSignals, Signals};
use line::Line;
use loader::Loader;
use words::{Keys, Status};

/// How long the end of a watch may take before it is explained.
const UNSAID: Duration = Duration::from_secs(1);
/// How much longer a sandbox may take to be put in order then.
const PATIENCE: Duration = Duration::from_secs(10);
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J\x1b[3J";
const BELL: &str = "\x07";

/// How changes are to be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noticing {
    Told,
    /// `--poll`.
    Looking,
}

/// Runs jobs until told to quit. `command` is what was typed, for messages.
pub fn watch(args: &JobArgs, noticing: Noticing, command: &str, context: &Context<'_>) -> Outcome {
    let selection = run_command::selection(args, context.ambient)?;
    let loader = Loader::new(context, selection);
    let (following, rules) = loader.first(command)?;
    let supervisor = Supervisor::new(Ownership::Process);
    let warm = run_command::warm(args.warm, Habit::UnlessRefused, context.ambient)?;
    let wishes = Wishes { warm, ..run_command::wishes(args, context)? };
    let folder = context.folder()?;
    let polling = (noticing == Noticing::Looking)
        .then(|| Means::Polled { why: "asked for with --poll".to_owned(), help: None });
    runtime::runtime()?.block_on(async {
        let quit = Arc::new(CancelSource::default());
        let cannot = |error| CommandError::failed(format!("cannot start: {error}"));
        let signals = Signals::listen(IgnoredSignals::of_this_process()).map_err(cannot)?;
        let keyboard = keyboard(context);
        keyboard.listen();
        let execution = Execution {
            context,
            supervisor: &supervisor,
            folder: &folder,
            wishes,
            caller: Some("watch"),
            access: None,
            common: common(context, &folder),
        };
        let left_ahead = execution::left_ahead(&execution.common);
        let watcher = Watcher {
            execution,
            keyboard: &keyboard,
            quit: &quit,
            loader,
            plan: RefCell::new(Arc::clone(&following.plan)),
            verdict: Cell::new(None),
            places: RefCell::default(),
            line: Line::new(context, if keyboard.is_there() { Keys::Shown } else { Keys::None }),
            left_behind: RefCell::new(left_ahead),
        };
        let left = || watcher.left_behind.borrow()();
        let display = Display { keyboard: &keyboard, on_change: &|change| watcher.line.changed(change) };
        tokio::select! {
            () = async {
                watch::follow(&watcher, following, rules, polling, quit.watch()).await;
                watcher.finish().await;
            } => {}
            never = signals.raise(&quit, &supervisor, display, left) => never,
        }
        watcher.execution.mention_left_ahead();
        Ok(match quit.level() {
            CancelLevel::Run | CancelLevel::Drain => 0,
            CancelLevel::Stop(reason) => exit_code::of_signal(reason.signal()),
            CancelLevel::Kill => exit_code::INTERRUPTED,
        })
    })
}

fn common(context: &Context<'_>, folder: &Path) -> Common {
    let journal = Journal::new(Database::new(context.ambient.directories(folder)));
    Common::of_loop(Parker::new(journal))
}

/// Keys need a terminal to come from and one where their effect is seen.
fn keyboard(context: &Context<'_>) -> Keyboard {
    use std::io::IsTerminal as _;
    let seen = context.ambient.stderr_is_terminal && context.printer.format == Format::Text;
    if seen && std::io::stdin().is_terminal() { Keyboard::open() } else { Keyboard::none() }
}

struct Watcher<'a> {
    execution: Execution<'a>,
    keyboard: &'a Keyboard,
    /// Ends the watch.
    quit: &'a Arc<CancelSource>,
    loader: Loader<'a>,
    plan: RefCell<Arc<Plan>>,
    /// Exit code of the run before.
    verdict: Cell<Option<u8>>,
    /// Where each job ran last.
    places: RefCell<BTreeMap<JobId, Place>>,
    line: Line<'a>,
    /// Of the last run.
    left_behind: RefCell<LeftBehind>,
}

impl Work for Watcher<'_> {
    async fn run(&self, run: Run) -> Ended {
        let plan =
            Arc::new(loader::for_watching(self.plan.borrow().part(&run.jobs), self.execution.wishes.warm));
        self.announce(&run, &plan);
        let mut cancel = run.cancel.clone();
        tokio::select! {
            biased;
            () = self.until_settled(self.quit.watch()) => {}
            // Called off before it began.
            _ = cancel.stopped() => {}
        }
        let has_terminal = plan.jobs.iter().any(|job| job.spec.tty);
        if has_terminal {
            self.keyboard.release();
        }
        let summary = self.run_shown(&plan, &run).await;
        if has_terminal {
            self.keyboard.listen();
        }
        match summary {
            Ok(summary) => self.ended(&plan, &summary, &run.trigger).await,
            Err(error) => self.never_began(&error, &plan, &run.trigger).await,
        }
    }

    fn sign(&self, sign: Sign) {
        let plan = self.plan.borrow();
        let jobs: BTreeSet<JobId> = match sign {
            Sign::Start => plan.jobs.iter().map(|job| job.id.clone()).collect(),
            Sign::Save if plan.budget.prewarm_per_day.is_none() => return,
            // Where a job has run before says most about where it runs next.
            Sign::Save => {
                let places = self.places.borrow();
                places
                    .iter()
                    .filter(|(_, place)| **place == Place::Modal)
                    .map(|(job, _)| job.clone())
                    .collect()
            }
        };
        if !jobs.is_empty() {
            let part = loader::for_watching(plan.part(&jobs), self.execution.wishes.warm);
            self.execution.prepare(Arc::new(part)).prewarm(sign);
        }
    }

    fn reload(&self) -> Reloaded {
        let reloaded = self.loader.again(&|| self.line.make_room());
        if let Reloaded::Changed { following, .. } = &reloaded {
            *self.plan.borrow_mut() = Arc::clone(&following.plan);
        }
        self.line.restore();
        reloaded
    }

    fn tell(&self, news: News) {
        let printer = &self.execution.context.printer;
        if let (News::Ready { files }, Format::Json) = (&news, printer.format) {
            let jobs = self.plan.borrow().requested.clone();
            return self.json(Event::WatchStarted { version: STREAM_VERSION, jobs, files: *files });
        }
        self.line.make_room();
        match news {
            News::Ready { files } => printer.say(words::ready(&self.plan.borrow().requested, files)),
            News::Polling { why, help } => printer.warning(&words::polling(&why, help.as_deref())),
            News::Away => {
                let root = self.plan.borrow().root.display().to_string();
                printer.warning(&format!("{root} is gone; waiting for it to come back"));
            }
            News::Back => printer.say("the folder is back\n"),
            News::Restless { path } => printer.warning(&words::restless(&path)),
            News::Queued => printer.say("once more after this run\n"),
        }
        self.line.restore();
    }

    async fn command(&self) -> Command {
        loop {
            match self.keyboard.key().await {
                Key::Pressed(b'\r' | b'\n' | b'r') => return Command::Again,
                Key::Pressed(b'a') => return Command::All,
                Key::Pressed(b'm') => return Command::Move,
                Key::Pressed(b'q') => return Command::Quit,
                Key::Pressed(_) => {}
                Key::Regained => self.line.changed(Change::Continued),
            }
        }
    }

    fn switch_place(&self) -> Option<Arc<Plan>> {
        let to = self.other_place();
        self.line.make_room();
        let sent = self.loader.send_to(to);
        if let Some(plan) = &sent {
            let places = self.places.borrow();
            let jobs = plan.jobs.iter().filter(|job| !job.is_group()).map(|job| job.id.clone());
            let (there, others): (Vec<JobId>, Vec<JobId>) =
                jobs.partition(|job| places.get(job) == Some(&to));
            self.execution.context.printer.say(words::moved(to, &there, others.len()));
            *self.plan.borrow_mut() = Arc::clone(plan);
        }
        self.line.restore();
        sent
    }
}

impl Watcher<'_> {
    /// Other than where runs go now; Modal for those that go both ways.
    fn other_place(&self) -> Place {
        let places = self.places.borrow();
        let certain = |job: &PlannedJob| places.get(&job.id).copied().or_else(|| job.routing.certain_place());
        let plan = self.plan.borrow();
        let mut jobs = plan.jobs.iter().filter(|job| !job.is_group());
        let all_on_modal = match self.loader.sent_to() {
            Some(place) => place == Place::Modal,
            None => jobs.all(|job| certain(job) == Some(Place::Modal)),
        };
        if all_on_modal { Place::Local } else { Place::Modal }
    }

    async fn run_shown(&self, plan: &Arc<Plan>, run: &Run) -> Result<engine::Summary, CommandError> {
        let context = self.execution.context;
        let prepared = self.execution.prepare(Arc::clone(plan));
        *self.left_behind.borrow_mut() = prepared.left_behind();
        let (emitter, shown) = execution::show(context, &mut prepared.beside(), self.quit)?;
        let summary = prepared.run(emitter, run.cancel.clone()).await;
        shown.finish(context).await;
        prepared.mention_unheard_of();
        summary
    }

    /// What the run before has left is put in order while its verdict is told already.
    async fn until_settled(&self, cancel: Cancel) {
        let told = self.execution.common.settled(cancel).await;
        if told.is_empty() {
            return;
        }
        let (plan, context) = (self.plan.borrow().clone(), self.execution.context);
        if let Err(error) = execution::tell(told, &plan, context, self.quit).await {
            error.print(&context.printer);
        }
    }

    /// After the last run.
    async fn finish(&self) {
        let kill = CancelSource::default();
        self.line.give_way();
        tokio::select! {
            biased;
            () = self.until_settled(kill.watch()) => {}
            never = self.quit.watch().relay(&kill) => match never {},
            never = self.hurry(&kill) => match never {},
        }
        self.execution.common.finish(self.quit.watch()).await;
    }

    /// Says what is waited for, and waits not much longer.
    async fn hurry(&self, kill: &CancelSource) -> Infallible {
        tokio::time::sleep(UNSAID).await;
        self.execution.context.printer.say(words::IN_ORDER);
        let _ =
            tokio::time::timeout(PATIENCE, async { while self.command().await != Command::Quit {} }).await;
        kill.raise(CancelLevel::Kill);
        std::future::pending().await
    }

    fn announce(&self, run: &Run, plan: &Plan) {
        let Trigger { cause, paths, count } = &run.trigger;
        let printer = &self.execution.context.printer;
        if printer.format == Format::Json {
            let jobs = run.jobs.iter().cloned().collect();
            let cause = cause_of(*cause);
            return self.json(Event::WatchTriggered { cause, jobs, paths: paths.clone(), count: *count });
        }
        self.line.give_way();
        let settings = watch::requested(&self.plan.borrow()).map(|job| job.watch.clear);
        if settings == Some(true) && self.execution.context.ambient.stderr_is_terminal {
            write_stderr(CLEAR_SCREEN);
        }
        if *cause != Cause::Start {
            let jobs: Vec<_> = plan.requested.iter().collect();
            printer.say(words::triggered(&words::trigger(&run.trigger), &jobs, printer));
        }
    }

    async fn ended(&self, plan: &Plan, summary: &engine::Summary, trigger: &Trigger) -> Ended {
        let placed = summary.jobs.iter().filter_map(|report| Some((report.job.clone(), report.place?)));
        let placed: BTreeMap<JobId, Place> = placed.collect();
        let places: BTreeSet<Place> = placed.values().copied().collect();
        self.places.borrow_mut().extend(placed);
        let status = Status {
            jobs: plan.jobs.len(),
            exit_code: engine::exit_code(plan, summary),
            duration: summary.duration,
            places: places.into_iter().collect(),
            trigger: words::trigger(trigger),
            kept: false,
        };
        if summary.stopped_by.is_none() || self.execution.context.printer.format == Format::Json {
            self.tell_end(status).await;
        }
        let passed = summary.jobs.iter().filter(|report| report.verdict.passed());
        Ended { passed: passed.map(|report| report.job.clone()).collect() }
    }

    /// Something is missing that every run needs, or no job may run.
    async fn never_began(&self, error: &CommandError, plan: &Plan, trigger: &Trigger) -> Ended {
        error.print(&self.execution.context.printer);
        self.tell_end(Status {
            jobs: plan.jobs.len(),
            exit_code: error.exit_code(),
            duration: Duration::ZERO,
            places: Vec::new(),
            trigger: words::trigger(trigger),
            kept: false,
        })
        .await;
        Ended::default()
    }

    /// The verdict, for people and programs; with attention only where it is another than before.
    async fn tell_end(&self, status: Status) {
        if self.execution.context.printer.format == Format::Json {
            let Status { exit_code, duration, places, .. } = status;
            return self.json(Event::WatchWaiting { exit_code, duration, places });
        }
        let before = self.verdict.replace(Some(status.exit_code));
        let changed = before.is_some_and(|before| (before == 0) != (status.exit_code == 0));
        let (requested, settings) = {
            let plan = self.plan.borrow();
            (plan.requested.clone(), watch::requested(&plan).map(|job| job.watch.notify))
        };
        let notification = status.notification(&requested);
        self.line.tell(status);
        match settings.filter(|_| changed) {
            Some(WatchNotify::Bell) if self.execution.context.ambient.stderr_is_terminal => {
                write_stderr(BELL);
            }
            Some(WatchNotify::Desktop) => {
                let (title, text) = notification;
                loader::notify_desktop(&self.execution, &title, &text).await;
            }
            _ => {}
        }
    }

    /// One event of the stream that is no run's.
    fn json(&self, event: Event) {
        let unread = execution::stop_unread(self.quit);
        let Ok(stdout) = self.execution.context.printer.watched_stdout(unread) else { return };
        let mut sink = JsonSink::new(stdout);
        let _ = sink.handle(&Stamped { at_ms: now_ms(), side: None, event }).and_then(|()| sink.flush());
    }
}

fn cause_of(cause: Cause) -> WatchCause {
    match cause {
        Cause::Start => WatchCause::Start,
        Cause::Change => WatchCause::Change,
        Cause::Configuration => WatchCause::Configuration,
        Cause::Key => WatchCause::Key,
    }
}
