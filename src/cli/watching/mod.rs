//! `accel watch`, wired: configuration and plan, runs and their showing, keys and signals around the watch loop.
//!
//! Each run has its own sinks, so that secrets and layout are those of its plan; what is said between runs is said
//! here. On a terminal one line stays at the bottom while nothing runs: verdict, duration, place, trigger, keys.

mod loader;
mod words;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::backend::modal::Common;
use crate::backend::{CancelLevel, CancelSource};
use crate::base::exit_code;
use crate::domain::Place;
use crate::engine;
use crate::event::{Event, STREAM_VERSION, Stamped, WatchCause, now_ms};
use crate::plan::spec::{Plan, WatchNotify};
use crate::plan::warm::Habit;
use crate::process::{Ownership, Supervisor};
use crate::sink::{JsonSink, Sink as _};
use crate::store::journal::warm::Parker;
use crate::store::{Database, Journal};
use crate::watch::{self, Cause, Command, Ended, Means, News, Reloaded, Run, Trigger, Work};

use super::Outcome;
use super::args::JobArgs;
use super::commands::run as run_command;
use super::context::Context;
use super::error::CommandError;
use super::execution::{self, Execution, LeftBehind, Wishes};
use super::keyboard::Keyboard;
use super::printer::{Format, Verbosity, write_stderr};
use super::runtime;
use super::signals::{IgnoredSignals, Signals};
use loader::Loader;
use words::{Keys, Verdict};

/// Erases the line that the cursor is in.
const ERASE_LINE: &str = "\r\x1b[2K";
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
        let watcher = Watcher {
            execution,
            keyboard: &keyboard,
            quit: &quit,
            loader,
            plan: RefCell::new(Arc::clone(&following.plan)),
            verdict: Cell::new(None),
            place: Cell::new(None),
            drawn: Cell::new(Drawn::Nothing),
            left_behind: RefCell::new(Box::new(Vec::new)),
        };
        let left = || watcher.left_behind.borrow()();
        tokio::select! {
            () = watch::follow(&watcher, following, rules, polling, quit.watch()) => {}
            never = signals.raise(&quit, &supervisor, &keyboard, left) => never,
        }
        watcher.erase();
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
    /// Where the run before took place.
    place: Cell<Option<Place>>,
    drawn: Cell<Drawn>,
    /// Of the last run.
    left_behind: RefCell<LeftBehind>,
}

/// What stands in the terminal's last line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drawn {
    Nothing,
    /// A line of ours, without its end.
    Line,
}

impl Work for Watcher<'_> {
    async fn run(&self, run: Run) -> Ended {
        let plan =
            Arc::new(loader::for_watching(self.plan.borrow().part(&run.jobs), self.execution.wishes.warm));
        self.announce(&run, &plan);
        let has_terminal = plan.jobs.iter().any(|job| job.spec.tty);
        if has_terminal {
            self.keyboard.release();
        }
        let summary = self.run_shown(&plan, &run).await;
        if has_terminal {
            self.keyboard.listen();
        }
        let summary = match summary {
            Ok(summary) => summary,
            Err(error) => {
                error.print(&self.execution.context.printer);
                return Ended::default();
            }
        };
        self.tell_end(&plan, &summary, &run.trigger).await;
        let passed = summary.jobs.iter().filter(|report| report.verdict.passed());
        Ended { passed: passed.map(|report| report.job.clone()).collect() }
    }

    fn reload(&self) -> Reloaded {
        let reloaded = self.loader.again(&|| self.erase());
        if let Reloaded::Changed { following, .. } = &reloaded {
            *self.plan.borrow_mut() = Arc::clone(&following.plan);
        }
        reloaded
    }

    fn tell(&self, news: News) {
        let printer = &self.execution.context.printer;
        match news {
            News::Ready { files } => {
                let jobs = self.plan.borrow().requested.clone();
                if printer.format == Format::Json {
                    return self.json(Event::WatchStarted { version: STREAM_VERSION, jobs, files });
                }
                printer.say(words::ready(&jobs, files));
            }
            News::Polling { why, help } => {
                self.erase();
                printer.warning(&words::polling(&why, help.as_deref()));
            }
            News::Away => {
                self.erase();
                printer.warning(&format!(
                    "{} is gone; waiting for it to come back",
                    self.plan.borrow().root.display()
                ));
            }
            News::Back => {
                self.erase();
                printer.say("the folder is back\n");
            }
        }
    }

    async fn command(&self) -> Command {
        loop {
            match self.keyboard.key().await {
                b'\r' | b'\n' | b'r' => return Command::Again,
                b'a' => return Command::All,
                b'm' => return Command::Move,
                b'q' => return Command::Quit,
                _ => {}
            }
        }
    }

    fn switch_place(&self) {
        let to = match self.place.get() {
            Some(Place::Modal) => Place::Local,
            Some(Place::Local) | None => Place::Modal,
        };
        self.loader.send_to(to);
    }
}

impl Watcher<'_> {
    async fn run_shown(&self, plan: &Arc<Plan>, run: &Run) -> Result<engine::Summary, CommandError> {
        let context = self.execution.context;
        let prepared = self.execution.prepare(Arc::clone(plan));
        *self.left_behind.borrow_mut() = prepared.left_behind();
        let (emitter, shown) = execution::show(context, &mut prepared.beside(), self.quit)?;
        let summary = prepared.run(emitter, run.cancel.clone()).await;
        shown.finish(context);
        prepared.mention_unheard_of();
        summary
    }

    fn announce(&self, run: &Run, plan: &Plan) {
        let Trigger { cause, paths, count } = &run.trigger;
        let printer = &self.execution.context.printer;
        if printer.format == Format::Json {
            let jobs = run.jobs.iter().cloned().collect();
            let cause = cause_of(*cause);
            return self.json(Event::WatchTriggered { cause, jobs, paths: paths.clone(), count: *count });
        }
        self.erase();
        let settings = watch::requested(&self.plan.borrow()).map(|job| job.watch.clear);
        if settings == Some(true) && self.execution.context.ambient.stderr_is_terminal {
            write_stderr(CLEAR_SCREEN);
        }
        if *cause != Cause::Start {
            let jobs: Vec<_> = plan.requested.iter().collect();
            printer.say(words::triggered(&words::trigger(&run.trigger), &jobs, printer));
        }
    }

    /// The verdict, for people and programs.
    async fn tell_end(&self, plan: &Plan, summary: &engine::Summary, trigger: &Trigger) {
        let exit_code = engine::exit_code(plan, summary);
        let places: BTreeSet<Place> = summary.jobs.iter().filter_map(|report| report.place).collect();
        let places: Vec<Place> = places.into_iter().collect();
        self.place.set(places.last().copied().or(self.place.get()));
        let duration = summary.duration;
        let context = self.execution.context;
        if context.printer.format == Format::Json {
            return self.json(Event::WatchWaiting { exit_code, duration, places });
        }
        let verdict = match summary.stopped_by {
            Some(_) => Verdict::Stopped,
            None => Verdict::Ended(exit_code),
        };
        let keys = if self.keyboard.is_there() { Keys::Shown } else { Keys::None };
        let line =
            words::status(verdict, duration, &places, &words::trigger(trigger), keys, &context.printer);
        if summary.stopped_by.is_none() {
            self.draw(&line);
            self.attract_attention(exit_code, &line).await;
            self.verdict.set(Some(exit_code));
        }
    }

    /// Only where the verdict is another than before.
    async fn attract_attention(&self, exit_code: u8, line: &str) {
        if self.verdict.get().is_none_or(|before| (before == 0) == (exit_code == 0)) {
            return;
        }
        let notify = watch::requested(&self.plan.borrow()).map(|job| job.watch.notify);
        let to_terminal = self.execution.context.ambient.stderr_is_terminal;
        match notify {
            Some(WatchNotify::Bell) if to_terminal => write_stderr(BELL),
            Some(WatchNotify::Desktop) => loader::notify_desktop(&self.execution, line).await,
            _ => {}
        }
    }

    /// A line that stays until something else is said; elsewhere than on a terminal, a line as any other.
    fn draw(&self, line: &str) {
        let context = self.execution.context;
        if context.printer.verbosity == Verbosity::Quiet {
            return;
        }
        if context.ambient.stderr_is_terminal {
            write_stderr(&words::cut(line, context.ambient.width()));
            self.drawn.set(Drawn::Line);
        } else {
            write_stderr(&format!("{line}\n"));
        }
    }

    fn erase(&self) {
        if self.drawn.replace(Drawn::Nothing) == Drawn::Line {
            write_stderr(ERASE_LINE);
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
