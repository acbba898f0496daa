//! A plan run from the command line: backends, sinks and signals wired to the engine.
//!
//! The only place that knows all three. One thread runs everything that waits, one more feeds the sinks.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use crate::backend::local::environment::{Host, UvEnvironments};
use crate::backend::local::{ColorHint, LocalBackend, LocalSettings};
use crate::backend::{Backend, CancelSource};
use crate::diag::ColorChoice;
use crate::domain::Place;
use crate::engine::{self, Backends, Jitter, OutputPolicy, Parallel, RunOptions};
use crate::event;
use crate::plan::spec::{Plan, PlannedJob, RuleTarget};
use crate::process::{Ownership, Supervisor};
use crate::redact::Secrets;
use crate::sink::terminal::{Colors, Port, Progress, TerminalOptions};
use crate::sink::{self, HistorySink, JsonSink, RecordSink, Sink, TerminalSink};
use crate::store::runs::Runs;
use crate::store::{Database, History};

use super::ambient::{Ambient, ColorWish};
use super::context::Context;
use super::error::CommandError;
use super::modal::Modal;
use super::printer::{Format, Printer, Verbosity};
use super::routing;
use super::secrets;
use super::signals::{IgnoredSignals, Signals};

/// What the command line says about how to run.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    pub limit: Option<NonZeroUsize>,
    pub on_failure: engine::OnFailure,
    pub fallback: engine::FallbackPolicy,
    pub color: ColorWish,
    pub recorded: Recorded,
}

/// Whether a run tells anything about the next run of the same job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    InHistory,
    /// Another command in a job's place.
    Nowhere,
}

/// The runtime of commands that wait: one thread, made only by them.
pub fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::failed(format!("cannot start: {error}")))
}

/// Runs the plan to its exit code.
pub fn execute(plan: Plan, wishes: Wishes, context: &Context<'_>, folder: &Path) -> Result<u8, CommandError> {
    let plan = Arc::new(plan);
    let run = uuid::Uuid::new_v4().simple().to_string();
    let supervisor = Supervisor::new(Ownership::Process);
    let color = color_hint(&plan, wishes.color, context.ambient);
    let modal = Arc::new(Modal::new(&plan, &run, color, context.ambient, folder));
    let backends = backends(&run, color, &supervisor, context.ambient, folder, &modal);
    let options = RunOptions {
        run,
        parallel: parallel(wishes.limit, plan.jobs.len()),
        on_failure: wishes.on_failure,
        fallback: wishes.fallback,
        output: match context.printer.format {
            Format::Text => OutputPolicy::InheritWhenAlone,
            Format::Json => OutputPolicy::Events,
        },
        jitter: Jitter::random(),
    };
    let (secrets, unmasked) = secrets::known(&plan, context.ambient);
    if plan.jobs.len() > 1 || context.printer.format == Format::Json {
        unmasked.iter().for_each(|unmasked| context.printer.warning(&unmasked.text()));
    }
    let database = Database::new(context.ambient.directories(folder));
    let runs = Runs::new(database.clone());
    let record = RecordSink::new(runs, plan.project.as_str(), plan.root.to_string_lossy());
    let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(record)];
    if wishes.recorded == Recorded::InHistory {
        sinks.push(Box::new(HistorySink::new(Arc::clone(&plan), History::new(database))));
    }
    let beside = Beside {
        secrets,
        sinks,
        left_behind: Box::new({
            let modal = Arc::clone(&modal);
            move || modal.left_behind()
        }),
    };
    let summary = watched(context, &supervisor, beside, async |emitter, cancel| {
        let gatherer = routing::gatherer(&plan, context.ambient, &supervisor, cancel.watch(), folder)?;
        let run = async {
            let decide = routing::decide(&plan, &gatherer).await;
            engine::run(Arc::clone(&plan), options, backends, decide, emitter, cancel.watch()).await
        };
        let summary = beside_connecting(&modal, &plan, run).await;
        modal.finish().await;
        Ok::<_, CommandError>(summary)
    })??;
    modal.unheard_of().iter().for_each(|text| context.printer.warning(text));
    Ok(engine::exit_code(&plan, &summary))
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

/// What goes with the showing of events.
pub struct Beside {
    /// Shown by no sink.
    pub secrets: Secrets,
    /// Sinks other than the one that shows.
    pub sinks: Vec<Box<dyn Sink>>,
    /// Sentences about what outlives accel when it leaves at once.
    pub left_behind: Box<dyn Fn() -> Vec<String>>,
}

impl Beside {
    /// For work that leaves nothing behind.
    pub fn with_secrets(secrets: Secrets) -> Self {
        Self { secrets, sinks: Vec::new(), left_behind: Box::new(Vec::new) }
    }
}

/// Does `work` while sinks show its events, and signals climb the ladder.
pub fn watched<T>(
    context: &Context<'_>,
    supervisor: &Supervisor,
    mut beside: Beside,
    work: impl AsyncFnOnce(event::Emitter, &CancelSource) -> T,
) -> Result<T, CommandError> {
    let cannot = |error: std::io::Error| CommandError::failed(format!("cannot start: {error}"));
    let runtime = runtime()?;
    let (emitter, receiver) = event::channel();
    let shown = sink(&context.printer, context.ambient).map_err(cannot)?;
    let mut sinks = vec![shown];
    sinks.extend(std::mem::take(&mut beside.sinks));
    let thread = sink::start(receiver, sinks, beside.secrets).map_err(cannot)?;
    let source = CancelSource::default();
    let done = runtime.block_on(async {
        let signals = Signals::listen(IgnoredSignals::of_this_process())?;
        tokio::select! {
            done = work(emitter, &source) => Ok(done),
            never = signals.raise(&source, supervisor, &beside.left_behind) => never,
        }
    });
    // Every emitter is gone with the work, so this ends once all has been shown.
    for failure in thread.join() {
        context.printer.error(&format!("cannot write to {}: {}", failure.sink, failure.error), &[]);
    }
    done.map_err(cannot)
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

/// A job that is alone has the terminal itself; those behind prefixes are told what their output ends on.
fn color_hint(plan: &Plan, wish: ColorWish, ambient: &Ambient) -> ColorHint {
    match wish {
        ColorWish::Never => ColorHint::Never,
        ColorWish::Always => ColorHint::Always,
        ColorWish::Auto if plan.jobs.len() == 1 => ColorHint::Unsaid,
        ColorWish::Auto => match ambient.color(wish, ambient.stdout_is_terminal) {
            ColorChoice::Ansi => ColorHint::Always,
            ColorChoice::Plain => ColorHint::Unsaid,
        },
    }
}

fn sink(printer: &Printer, ambient: &Ambient) -> std::io::Result<Box<dyn Sink>> {
    if printer.format == Format::Json {
        return Ok(Box::new(JsonSink::new(printer.stdout()?)));
    }
    let stdout = Port {
        writer: printer.stdout()?,
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
    };
    Ok(Box::new(TerminalSink::new(stdout, stderr, options)))
}

fn colors(choice: ColorChoice) -> Colors {
    match choice {
        ColorChoice::Ansi => Colors::Allowed,
        ColorChoice::Plain => Colors::Plain,
    }
}
