//! `accel exec` and `accel shell`: any command in the environment of a job or an image.
//!
//! A plan of one job that is made for the occasion: what the job or image says about its environment stays, and what
//! it says about a run (needs, outputs, retries, fallback, timeout) goes.

use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::CancelSource;
use crate::backend::modal::Reuse;
use crate::base::suggest::nearest;
use crate::cli::Outcome;
use crate::cli::args::{ExecArgs, ShellArgs};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::execution::{self, Recorded, Wishes};
use crate::cli::project::Project;
use crate::cli::routing::{self, Quotes};
use crate::cli::runtime::{Underway, runtime};
use crate::config::model::{Command, ImageRef, Job, JobSettings, Layer, Origin, Valued};
use crate::domain::Place;
use crate::engine::{FallbackPolicy, OnFailure};
use crate::plan::Selection;
use crate::plan::spec::{CommandSpec, Plan};
use crate::plan::warm::Habit;
use crate::process::{Ownership, Supervisor};

use super::run::{by_flag, on, warm};

pub fn exec(args: &ExecArgs, context: &Context<'_>) -> Outcome {
    let selection = Selection {
        on: on(args.on, context.ambient)?,
        timeout: args.timeout.map(|timeout| by_flag("--timeout", timeout)),
        ..Selection::of([args.name.clone()])
    };
    let load = || load(&selection, CommandSpec::Argv(args.command.clone()), context);
    let ((folder, mut plan), underway) = Underway::beside(selection.on.as_ref(), context.ambient, load)?;
    if args.timeout.is_none() {
        plan.jobs[0].timeout = None;
    }
    execution::execute(plan, wishes(context)?, &underway, context, &folder)
}

pub fn shell(args: &ShellArgs, context: &Context<'_>) -> Outcome {
    let selection = Selection { on: on(args.on, context.ambient)?, ..Selection::of([args.name.clone()]) };
    let load = || load(&selection, CommandSpec::Argv(vec![]), context);
    let ((folder, mut plan), underway) = Underway::beside(selection.on.as_ref(), context.ambient, load)?;
    plan.jobs[0].timeout = None;
    let command = match place(&plan, context)? {
        Place::Local => vec![context.ambient.variables.text("SHELL").unwrap_or("sh").to_owned()],
        Place::Modal => ["sh", "-c", SHELL_OF_IMAGE].map(str::to_owned).to_vec(),
    };
    Arc::make_mut(&mut plan.jobs[0].spec).command = CommandSpec::Argv(command);
    execution::execute(plan, wishes(context)?, &underway, context, &folder)
}

/// The folder that the command works in, and the plan of its one job.
fn load(
    selection: &Selection,
    command: CommandSpec,
    context: &Context<'_>,
) -> Result<(PathBuf, Plan), CommandError> {
    let mut project = Project::open(context)?;
    let plan = plan(&mut project, selection, command)?;
    Ok((project.folder, plan))
}

/// The user's own shell may not be there, and nothing says which ones are.
const SHELL_OF_IMAGE: &str = "if command -v bash >/dev/null 2>&1; then exec bash; fi; exec sh";

fn wishes(context: &Context<'_>) -> Result<Wishes, CommandError> {
    Ok(Wishes {
        limit: None,
        on_failure: OnFailure::Drain,
        fallback: FallbackPolicy::Forbidden,
        color: context.color(),
        recorded: Recorded::Nowhere,
        warm: warm(false, Habit::WhereSaid, context.ambient)?,
        reuse: Reuse::Allowed,
    })
}

fn plan(project: &mut Project, selection: &Selection, command: CommandSpec) -> Result<Plan, CommandError> {
    let [name] = selection.requested.as_slice() else {
        return Err(CommandError::usage("one name is needed"));
    };
    let known = project.config.jobs.contains_key(name) || name.contains('[');
    if !known {
        add_job_of_image(project, name)?;
    }
    let mut plan = project.plan(selection)?;
    if let [first, _, ..] = plan.requested.as_slice() {
        return Err(CommandError::usage(format!("`{name}` is {} jobs", plan.requested.len()))
            .help(format!("choose one of them, such as '{first}'")));
    }
    let asked = plan.requested.first().cloned();
    let jobs = std::mem::take(&mut plan.jobs);
    let job = jobs.into_iter().find(|job| Some(&job.id) == asked.as_ref());
    let mut job = job.ok_or_else(|| CommandError::usage(format!("`{name}` is no job")))?;
    job.needs.clear();
    job.fallback.clear();
    job.retry.max = 0;
    job.junit.clear();
    job.shard = None;
    // What is true of the job's own command need not be of another.
    job.pure = false;
    let spec = Arc::make_mut(&mut job.spec);
    spec.command = command;
    // accel's own standard input, and the terminal with it.
    spec.tty = true;
    spec.inputs = None;
    spec.outputs = None;
    plan.jobs = vec![job];
    Ok(plan)
}

/// A job that says nothing but which image it uses; `[defaults]` count for it as for any other.
fn add_job_of_image(project: &mut Project, name: &str) -> Result<(), CommandError> {
    let Some(image) = project.config.images.get(name) else { return Err(unknown(project, name)) };
    let origin = Origin { layer: Layer::BuiltIn, location: None };
    let reference = Valued { value: ImageRef::Named(name.to_owned()), origin: origin.clone() };
    let settings = JobSettings {
        image: Some(Box::new(reference)),
        // In the place of the command, which is set when all else is compiled.
        run: Some(Box::new(Valued { value: Command::Argv(vec!["true".to_owned()]), origin })),
        ..JobSettings::default()
    };
    let job = Job { name: name.to_owned(), location: image.location, settings, matrix: None };
    project.config.jobs.insert(name.to_owned(), job);
    Ok(())
}

fn unknown(project: &Project, name: &str) -> CommandError {
    let (jobs, images) = (&project.config.jobs, &project.config.images);
    let names = || jobs.keys().chain(images.keys()).map(String::as_str);
    let error = CommandError::usage(format!("there is no job and no image `{name}`"));
    match nearest(name, names()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None if names().count() == 0 => {
            error.help("add a [jobs.<name>] or an [images.<name>] table to the file")
        }
        None => error.help(format!("known are {}", names().collect::<Vec<_>>().join(", "))),
    }
}

/// Where the rules send it, known before the run: what can be offered differs.
fn place(plan: &Plan, context: &Context<'_>) -> Result<Place, CommandError> {
    let supervisor = Supervisor::new(Ownership::Process);
    let source = CancelSource::default();
    let caller = routing::caller(context.ambient, None)?;
    let folder = context.folder()?;
    let gatherer = routing::gatherer(plan, context.ambient, caller, &supervisor, source.watch(), &folder);
    let decide = runtime()?.block_on(routing::decide(plan, &gatherer, Quotes::Unasked))?;
    Ok(decide(&plan.jobs[0], 1).place)
}
