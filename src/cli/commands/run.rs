//! `accel run`: the jobs that were asked for, after those that they need.

use std::num::NonZeroUsize;

use crate::backend::CancelSource;
use crate::backend::modal::Reuse;
use crate::base::quote::shell_join;
use crate::cli::Outcome;
use crate::cli::ambient::Ambient;
use crate::cli::args::{JobArgs, OnArg, RunArgs};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::execution::{self, Recorded, Wishes};
use crate::cli::not_built;
use crate::cli::printer::Style;
use crate::cli::project::Project;
use crate::cli::routing::{self, Quotes};
use crate::cli::runtime::{Underway, runtime};
use crate::cli::watching::{self, Noticing};
use crate::config::model::{Layer, Origin, Route, Valued};
use crate::config::variables;
use crate::domain::Place;
use crate::engine::{FallbackPolicy, OnFailure};
use crate::plan::spec::{CommandSpec, Plan};
use crate::plan::warm::Habit;
use crate::plan::{Purpose, Selection};
use crate::process::{Ownership, Supervisor};

pub fn run(args: &RunArgs, context: &Context<'_>) -> Outcome {
    if args.watch {
        return watching::watch(&args.jobs, Noticing::Told, "accel run --watch", context);
    }
    let printer = &context.printer;
    let selection = selection(&args.jobs, context.ambient)?;
    if args.dry_run {
        let (project, plan) = load(&selection, context)?;
        project.mention_warnings(printer);
        printer.result(outline(&plan, context)?)?;
        return Ok(0);
    }
    let on = selection.on.as_ref();
    let ((project, plan), underway) = Underway::beside(on, context.ambient, || load(&selection, context))?;
    project.mention_warnings(printer);
    not_built::refuse(&plan)?;
    execution::execute(plan, wishes(&args.jobs, context)?, &underway, context, &project.folder)
}

fn load(selection: &Selection, context: &Context<'_>) -> Result<(Project, Plan), CommandError> {
    let project = Project::open(context)?;
    if selection.requested.is_empty() {
        return Err(project.name_a_job("accel run"));
    }
    let plan = project.plan(selection)?;
    Ok((project, plan))
}

pub fn wishes(args: &JobArgs, context: &Context<'_>) -> Result<Wishes, CommandError> {
    Ok(Wishes {
        limit: limit(args, context.ambient)?,
        on_failure: on_failure(args, context.ambient)?,
        fallback: if args.strict { FallbackPolicy::Forbidden } else { FallbackPolicy::AsPlanned },
        color: context.color(),
        recorded: Recorded::InHistory,
        warm: warm(args.warm, Habit::WhereSaid, context.ambient)?,
        reuse: if args.clean { Reuse::StartOver } else { Reuse::Allowed },
    })
}

/// Flags, then variables. The configuration itself applies `ACCEL_TIMEOUT` and `ACCEL_STRICT`.
pub fn selection(args: &JobArgs, ambient: &Ambient) -> Result<Selection, CommandError> {
    Ok(Selection {
        requested: args.names.clone(),
        extra_args: args.arguments.clone(),
        on: on(args.on, ambient)?,
        timeout: args.timeout.map(|timeout| by_flag("--timeout", timeout)),
        strict: args.strict.then(|| by_flag("--strict", true)),
        purpose: Purpose::Run,
    })
}

/// `--on`, then `ACCEL_ON`.
pub(super) fn on(flag: Option<OnArg>, ambient: &Ambient) -> Result<Option<Valued<Route>>, CommandError> {
    let route = |on| match on {
        OnArg::Local => Route::To(Place::Local),
        OnArg::Modal => Route::To(Place::Modal),
        OnArg::Auto => Route::Auto,
    };
    if let Some(on) = flag {
        return Ok(Some(by_flag("--on", route(on))));
    }
    let Some(text) = ambient.variables.text(variables::ON) else { return Ok(None) };
    let on =
        OnArg::parse(text).ok_or_else(|| wrong(variables::ON, text, "set it to local, modal or auto"))?;
    let origin = Origin { layer: Layer::Variable(variables::ON.to_owned()), location: None };
    Ok(Some(Valued { value: route(on), origin }))
}

/// Whose sandboxes are kept for the next run: in CI, only if that is asked for.
pub fn warm(flag: bool, usual: Habit, ambient: &Ambient) -> Result<Habit, CommandError> {
    Ok(match routing::caller(ambient, None)? {
        _ if flag => Habit::UnlessRefused,
        "watch" => Habit::UnlessRefused,
        "ci" => Habit::Never,
        _ => usual,
    })
}

fn limit(args: &JobArgs, ambient: &Ambient) -> Result<Option<NonZeroUsize>, CommandError> {
    let Some(text) = ambient.variables.text(variables::JOBS).filter(|_| args.jobs.is_none()) else {
        return Ok(args.jobs);
    };
    text.parse().map(Some).map_err(|_| wrong(variables::JOBS, text, "set it to a number from 1 up"))
}

fn on_failure(args: &JobArgs, ambient: &Ambient) -> Result<OnFailure, CommandError> {
    let keep_going = args.keep_going || ambient.switch(variables::KEEP_GOING)?;
    Ok(if keep_going { OnFailure::KeepGoing } else { OnFailure::Drain })
}

fn wrong(name: &str, text: &str, help: &str) -> CommandError {
    CommandError::usage(format!("{name} is `{text}`")).help(help)
}

pub fn by_flag<T>(name: &str, value: T) -> Valued<T> {
    Valued { value, origin: Origin { layer: Layer::Flag(name.to_owned()), location: None } }
}

/// What would run, in order: place, job, command.
fn outline(plan: &Plan, context: &Context<'_>) -> Result<String, CommandError> {
    let supervisor = Supervisor::new(Ownership::Process);
    let source = CancelSource::default();
    let caller = routing::caller(context.ambient, None)?;
    let folder = context.folder()?;
    let gatherer = routing::gatherer(plan, context.ambient, caller, &supervisor, source.watch(), &folder);
    let decide = runtime()?.block_on(routing::decide(plan, &gatherer, Quotes::Unasked))?;
    let widest = plan.jobs.iter().map(|job| job.id.as_str().len()).max().unwrap_or(0);
    let line = |job: &crate::plan::spec::PlannedJob| {
        let name = context.printer.paint(Style::Name, &format!("{:widest$}", job.id.as_str()));
        if job.is_group() {
            let needs: Vec<&str> = job.needs.iter().map(|need| plan.jobs[*need].id.as_str()).collect();
            return format!("{name}  {:5}  after {}\n", "-", needs.join(", "));
        }
        let decision = decide(job, 1);
        let place = decision.rival.map_or(decision.place.as_str(), |_| "race");
        let command = match &job.spec.command {
            CommandSpec::Shell(text) => text.lines().collect::<Vec<_>>().join("; "),
            CommandSpec::Argv(words) => shell_join(words.iter().map(String::as_str)),
        };
        format!("{name}  {place:5}  {command}\n")
    };
    Ok(plan.jobs.iter().map(line).collect())
}
