//! `accel image`: the environments that accel has made on this machine; those on Modal are next door.

use std::sync::Arc;

use serde::Serialize;

use crate::backend::local::PrepareRequest;
use crate::backend::local::environment::{
    EnvironmentInfo, Freshness, PruneMode, PruneRequest, PrunedOutcome, UvEnvironments, environments,
    of_image, prune,
};
use crate::backend::{CancelSource, Failure};
use crate::base::exit_code;
use crate::base::size::Bytes;
use crate::cli::Outcome;
use crate::cli::args::{ImageBuildArgs, ImageCommand, ImagePruneArgs, PlaceArg};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::execution::{self, Beside};
use crate::cli::printer::{Format, Style};
use crate::cli::project::Project;
use crate::cli::runtime;
use crate::cli::secrets;
use crate::domain::JobId;
use crate::event::Emitter;
use crate::plan::Selection;
use crate::plan::spec::{ImageSpec, LocalEngine};
use crate::process::{Ownership, Supervisor};

use super::image_on_modal;

pub fn run(command: &ImageCommand, context: &Context<'_>) -> Outcome {
    match command {
        ImageCommand::Ls(args) if args.on == PlaceArg::Modal => image_on_modal::list(context),
        ImageCommand::Ls(_) => list(context),
        ImageCommand::Build(args) => build(args, context),
        ImageCommand::Prune(args) => remove(args, context),
    }
}

/// One environment, as `--json` prints it.
#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    path: String,
    image: Option<&'a str>,
    summary: Option<&'a str>,
    python: Option<&'a str>,
    size_bytes: u64,
    last_used: Option<String>,
    complete: bool,
}

impl<'a> From<&'a EnvironmentInfo> for Row<'a> {
    fn from(info: &'a EnvironmentInfo) -> Self {
        Self {
            key: &info.key,
            path: info.path.display().to_string(),
            image: info.image.as_deref(),
            summary: info.summary.as_deref(),
            python: info.python.as_deref(),
            size_bytes: info.size.0,
            last_used: info
                .last_used
                .and_then(|time| jiff::Timestamp::try_from(time).ok())
                .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            complete: info.complete,
        }
    }
}

fn list(context: &Context<'_>) -> Outcome {
    let directories = context.ambient.directories(&context.folder()?);
    let found = environments(directories.cache_path())?;
    let rows: Vec<Row<'_>> = found.iter().map(Row::from).collect();
    if context.printer.format == Format::Json {
        context.printer.json(&rows)?;
        return Ok(0);
    }
    if found.is_empty() {
        context.printer.say("no environments yet: a run makes those that it needs\n");
    }
    let mut text = String::new();
    for info in &found {
        text.push_str(&line(info, context));
    }
    if found.len() > 1 {
        let total = Bytes(found.iter().map(|info| info.size.0).sum());
        context
            .printer
            .say(format!("{} environments, {total}; files shared with uv's cache count too\n", found.len()));
    }
    context.printer.result(text)?;
    Ok(0)
}

fn line(info: &EnvironmentInfo, context: &Context<'_>) -> String {
    let printer = &context.printer;
    let name = info.image.as_deref().unwrap_or("(incomplete)");
    let used = info.last_used.and_then(|time| jiff::Timestamp::try_from(time).ok());
    format!(
        "{}  {}  {:>9}  {}  {}\n",
        info.key,
        printer.paint(Style::Name, &format!("{name:12}")),
        info.size.to_string(),
        used.map_or_else(|| "never used".to_owned(), |time| time.strftime("%Y-%m-%d").to_string()),
        info.summary.as_deref().unwrap_or_default(),
    )
}

fn build(args: &ImageBuildArgs, context: &Context<'_>) -> Outcome {
    let project = Project::open(context)?;
    let plan = project.plan(&Selection::everything())?;
    let named = |image: &&Arc<ImageSpec>| args.images.is_empty() || args.images.contains(&image.name);
    if let Some(unknown) =
        args.images.iter().find(|name| !plan.images.values().any(|image| image.name == **name))
    {
        return Err(unknown_image(unknown, &project));
    }
    let images: Vec<Arc<ImageSpec>> = plan.images.values().filter(named).cloned().collect();
    if args.on == PlaceArg::Modal {
        return image_on_modal::build(args, plan, images, &project, context);
    }
    let freshness = if args.force { Freshness::Rebuilt } else { Freshness::Ready };
    let supervisor = Supervisor::new(Ownership::Process);
    let makers = UvEnvironments::new(execution::host(context.ambient, &project.folder, &supervisor));
    let mut failures: Vec<Failure> = Vec::new();
    let mut made = 0;
    let (secrets, _) = secrets::known(&plan, context.ambient);
    let beside = Beside::with_secrets(secrets);
    execution::watched(&runtime::runtime()?, context, &supervisor, beside, async |emitter, source| {
        for image in images.iter().filter(|image| image.local.engine == LocalEngine::Venv) {
            match make(&makers, image, &project, &emitter, source, freshness).await {
                Ok(()) => made += 1,
                Err(failure) => failures.push(failure),
            }
            if source.level().stops() {
                break;
            }
        }
    })?;
    for failure in &failures {
        context.printer.error(&failure.message, failure.help.as_slice());
    }
    if made > 0 {
        context.printer.say(format!("{made} image{} ready\n", if made == 1 { "" } else { "s" }));
    } else if failures.is_empty() {
        context.printer.say("no image of these needs an environment on this machine\n");
    }
    Ok(failures.first().map_or(0, |_| exit_code::ACCEL_FAILED))
}

async fn make(
    makers: &UvEnvironments,
    image: &Arc<ImageSpec>,
    project: &Project,
    emitter: &Emitter,
    source: &CancelSource,
    freshness: Freshness,
) -> Result<(), Failure> {
    let job = JobId::new(image.name.as_str());
    let root = &project.config.root;
    let request = PrepareRequest { image, root, job: &job, emitter, cancel: source.watch() };
    makers.make(request, freshness).await.map(drop)
}

fn unknown_image(name: &str, project: &Project) -> CommandError {
    let error = CommandError::usage(format!("no job uses an image `{name}`"));
    let names = project.config.images.keys().map(String::as_str);
    match crate::base::suggest::nearest(name, names.clone()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("the images are: {}", names.collect::<Vec<_>>().join(", "))),
    }
}

fn remove(args: &ImagePruneArgs, context: &Context<'_>) -> Outcome {
    let directories = context.ambient.directories(&context.folder()?);
    let cache = directories.cache_path();
    let keep = if args.all { Vec::new() } else { needed_here(context)? };
    let request = PruneRequest { older_than: args.older_than, keep };
    let mode = if args.dry_run { PruneMode::DryRun } else { PruneMode::Remove };
    let pruned = prune(cache, &request, mode)?;
    let mut text = String::new();
    let mut freed = 0;
    for entry in &pruned {
        let outcome = match entry.outcome {
            PrunedOutcome::Removed => "removed",
            PrunedOutcome::WouldRemove => "would remove",
            PrunedOutcome::InUse => "in use, kept:",
        };
        if entry.outcome != PrunedOutcome::InUse {
            freed += entry.environment.size.0;
        }
        let name = entry.environment.image.as_deref().unwrap_or("(incomplete)");
        text.push_str(&format!("{outcome} {} {name} {}\n", entry.environment.key, entry.environment.size));
    }
    context.printer.result(text)?;
    context.printer.say(format!("{} {}\n", if args.dry_run { "would free" } else { "freed" }, Bytes(freed)));
    Ok(0)
}

/// Keys of the environments that the configuration here needs; none where there is no configuration.
fn needed_here(context: &Context<'_>) -> Result<Vec<String>, CommandError> {
    let project = match Project::open(context) {
        Ok(project) => project,
        Err(error) if error.is_missing_file() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let plan = project.plan(&Selection::everything())?;
    let directories = context.ambient.directories(&project.folder);
    let venvs = plan.images.values().filter(|image| image.local.engine == LocalEngine::Venv);
    venvs.map(|image| Ok(of_image(image, &project.config.root, directories.cache_path())?.key)).collect()
}
