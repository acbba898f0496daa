//! `accel run`: the jobs that were asked for, after those that they need.

use std::time::Duration;

use crate::base::quote::shell_join;
use crate::cli::Outcome;
use crate::cli::ambient::{ACCEL_ON, ACCEL_STRICT, ACCEL_TIMEOUT, Ambient};
use crate::cli::args::{OnArg, RunArgs};
use crate::cli::error::CommandError;
use crate::cli::execution::{self, Wishes};
use crate::cli::not_built;
use crate::cli::printer::{Printer, Style};
use crate::cli::project::Project;
use crate::cli::routing::{self, Router};
use crate::base::duration::{DURATION_HELP, parse_duration};
use crate::config::model::{Layer, Origin, Route, Valued};
use crate::domain::Place;
use crate::engine::{FallbackPolicy, OnFailure};
use crate::plan::Selection;
use crate::plan::spec::{CommandSpec, Plan};

pub fn run(args: &RunArgs, project: &Project, ambient: &Ambient, printer: &Printer) -> Outcome {
    if args.jobs.is_empty() {
        return Err(project.name_a_job("accel run"));
    }
    let selection = selection(args, ambient)?;
    let strict = selection.strict.is_some();
    let plan = project.plan(&selection)?;
    project.mention_warnings(printer);
    let router = Router::new(&project.config, ambient);
    if args.dry_run {
        printer.result(outline(&plan, &router, printer))?;
        return Ok(0);
    }
    not_built::refuse(&plan)?;
    let wishes = Wishes {
        limit: args.parallel,
        on_failure: if args.keep_going { OnFailure::KeepGoing } else { OnFailure::Drain },
        fallback: if strict { FallbackPolicy::Forbidden } else { FallbackPolicy::AsPlanned },
        color: args.color(),
    };
    execution::execute(plan, wishes, routing::decider(router), ambient, &project.folder, printer)
}

/// Flags, then variables.
fn selection(args: &RunArgs, ambient: &Ambient) -> Result<Selection, CommandError> {
    Ok(Selection {
        requested: args.jobs.clone(),
        extra_args: args.arguments.clone(),
        on: on(args, ambient)?,
        timeout: timeout(args, ambient)?,
        strict: strict(args, ambient)?,
    })
}

fn on(args: &RunArgs, ambient: &Ambient) -> Result<Option<Valued<Route>>, CommandError> {
    let route = |on| match on {
        OnArg::Local => Route::To(Place::Local),
        OnArg::Modal => Route::To(Place::Modal),
        OnArg::Auto => Route::Auto,
    };
    if let Some(on) = args.on {
        return Ok(Some(by_flag("--on", route(on))));
    }
    let Some(text) = ambient.variables.text(ACCEL_ON) else { return Ok(None) };
    let on = OnArg::parse(text).ok_or_else(|| {
        CommandError::usage(format!("{ACCEL_ON} is `{text}`")).help("set it to local, modal or auto")
    })?;
    Ok(Some(by_variable(ACCEL_ON, route(on))))
}

fn timeout(args: &RunArgs, ambient: &Ambient) -> Result<Option<Valued<Duration>>, CommandError> {
    if let Some(timeout) = args.timeout {
        return Ok(Some(by_flag("--timeout", timeout)));
    }
    let Some(text) = ambient.variables.text(ACCEL_TIMEOUT) else { return Ok(None) };
    let timeout = parse_duration(text)
        .map_err(|error| CommandError::usage(format!("{ACCEL_TIMEOUT}: {error}")).help(DURATION_HELP))?;
    Ok(Some(by_variable(ACCEL_TIMEOUT, timeout)))
}

fn strict(args: &RunArgs, ambient: &Ambient) -> Result<Option<Valued<bool>>, CommandError> {
    if args.strict {
        return Ok(Some(by_flag("--strict", true)));
    }
    match ambient.variables.text(ACCEL_STRICT) {
        None | Some("0" | "false") => Ok(None),
        Some("1" | "true") => Ok(Some(by_variable(ACCEL_STRICT, true))),
        Some(text) => Err(CommandError::usage(format!("{ACCEL_STRICT} is `{text}`")).help("set it to 1 or 0")),
    }
}

fn by_flag<T>(name: &str, value: T) -> Valued<T> {
    Valued { value, origin: Origin { layer: Layer::Flag(name.to_owned()), location: None } }
}

fn by_variable<T>(name: &str, value: T) -> Valued<T> {
    Valued { value, origin: Origin { layer: Layer::Variable(name.to_owned()), location: None } }
}

/// What would run, in order: place, job, command.
fn outline(plan: &Plan, router: &Router, printer: &Printer) -> String {
    let widest = plan.jobs.iter().map(|job| job.id.as_str().len()).max().unwrap_or(0);
    let line = |job: &crate::plan::spec::PlannedJob| {
        let place = router.decide(job, 1).place.as_str();
        let command = match &job.spec.command {
            CommandSpec::Shell(text) => text.lines().collect::<Vec<_>>().join("; "),
            CommandSpec::Argv(words) => shell_join(words.iter().map(String::as_str)),
        };
        let name = printer.paint(Style::Name, &format!("{:widest$}", job.id.as_str()));
        format!("{name}  {place:5}  {command}\n")
    };
    plan.jobs.iter().map(line).collect()
}
