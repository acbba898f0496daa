//! `accel image --on modal`: images built ahead of their jobs, and what is known of them.

use std::sync::Arc;

use serde::Serialize;

use crate::backend::local::ColorHint;
use crate::backend::modal::standing::{BuildState, ImageStanding, LayerChange, LayerStanding};
use crate::backend::modal::{Common, ImageBuild, Reuse};
use crate::backend::{CancelSource, Failure};
use crate::base::exit_code;
use crate::cli::Outcome;
use crate::cli::args::ImageBuildArgs;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::execution::{self, Beside};
use crate::cli::modal::{Around, Modal};
use crate::cli::printer::{Format, Printer, Style, Verbosity};
use crate::cli::project::Project;
use crate::cli::{runtime, secrets};
use crate::domain::JobId;
use crate::event::Emitter;
use crate::plan::Selection;
use crate::plan::spec::{BaseSpec, ImageSpec, Plan};
use crate::process::{Ownership, Supervisor};
use crate::sink::terminal::StepLogs;

type Done<T> = Vec<(String, Result<T, Failure>)>;

/// Prints the ids of what was built; the logs go where those of a run go.
pub(super) fn build(
    args: &ImageBuildArgs,
    plan: Plan,
    images: Vec<Arc<ImageSpec>>,
    project: &Project,
    context: &Context<'_>,
) -> Outcome {
    let done = each(plan, images, project, context, async |modal, image, asked| {
        let mut spec = ImageSpec::clone(image);
        spec.force_build |= args.force;
        modal.backend().build_image(asked.of(&spec)).await
    })?;
    if done.is_empty() {
        context.printer.say("no job uses an image of its own\n");
    }
    report_built(&done, context)
}

/// Whom a question is asked for.
struct Asked<'a> {
    root: &'a std::path::Path,
    job: &'a JobId,
    emitter: &'a Emitter,
    source: &'a CancelSource,
}

impl<'a> Asked<'a> {
    fn of(&self, image: &'a ImageSpec) -> ImageBuild<'a> {
        ImageBuild {
            image,
            root: self.root,
            job: self.job,
            emitter: self.emitter,
            cancel: self.source.watch(),
        }
    }
}

/// One image after the other, until told to stop.
fn each<T>(
    plan: Plan,
    images: Vec<Arc<ImageSpec>>,
    project: &Project,
    context: &Context<'_>,
    ask: impl AsyncFn(&Modal, &ImageSpec, Asked<'_>) -> Result<T, Failure>,
) -> Result<Done<T>, CommandError> {
    let (plan, run) = (Arc::new(plan), uuid::Uuid::new_v4().simple().to_string());
    let supervisor = Supervisor::new(Ownership::Process);
    let around = Around {
        supervisor: &supervisor,
        ambient: context.ambient,
        folder: &project.folder,
        access: None,
        reuse: Reuse::Allowed,
        common: &Common::default(),
    };
    let modal = Modal::new(&plan, &run, ColorHint::Unsaid, around);
    let (secrets, _) = secrets::known(&plan, context.ambient);
    let beside = Beside { step_logs: StepLogs::Live, ..Beside::with_secrets(secrets) };
    let mut done = Vec::new();
    execution::watched(&runtime::runtime()?, context, &supervisor, beside, async |emitter, source| {
        let own = |image: &&Arc<ImageSpec>| !matches!(image.base, BaseSpec::None) || !image.layers.is_empty();
        for image in images.iter().filter(own) {
            let job = &JobId::new(image.name.as_str());
            let asked = Asked { root: &project.config.root, job, emitter: &emitter, source };
            done.push((image.name.clone(), ask(&modal, image, asked).await));
            if source.level().stops() {
                break;
            }
        }
    })?;
    Ok(done)
}

fn report_built(done: &Done<String>, context: &Context<'_>) -> Outcome {
    #[derive(Serialize)]
    struct Built<'a> {
        image: &'a str,
        id: &'a str,
    }
    let built = done.iter().filter_map(|(image, id)| Some(Built { image, id: id.as_deref().ok()? }));
    let built: Vec<Built<'_>> = built.collect();
    if context.printer.format == Format::Json {
        // Beside the events of the build, one line as well.
        let lines = built.iter().filter_map(|built| serde_json::to_string(built).ok());
        context.printer.result(lines.map(|line| line + "\n").collect::<String>())?;
    } else {
        let lines = built.iter().map(|built| format!("{}  {}\n", built.image, built.id));
        context.printer.result(lines.collect::<String>())?;
    }
    Ok(report_failures(done, &context.printer))
}

fn report_failures<T>(done: &Done<T>, printer: &Printer) -> u8 {
    let failures: Vec<&Failure> = done.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
    for failure in &failures {
        printer.error(&failure.message, failure.help.as_slice());
    }
    failures.first().map_or(0, |_| exit_code::ACCEL_FAILED)
}

/// What Modal has of the images that jobs use.
pub(super) fn list(context: &Context<'_>) -> Outcome {
    let project = Project::open(context)?;
    let plan = project.plan(&Selection::everything())?;
    let images = plan.images.values().cloned().collect();
    let done = each(plan, images, &project, context, async |modal, image, asked| {
        modal.backend().image_standing(asked.of(image)).await
    })?;
    let known: Vec<&ImageStanding> = done.iter().filter_map(|(_, standing)| standing.as_ref().ok()).collect();
    if context.printer.format == Format::Json {
        let rows: Vec<Row<'_>> = known.iter().copied().map(Row::from).collect();
        context.printer.json(&rows)?;
        return Ok(report_failures(&done, &context.printer));
    }
    if done.is_empty() {
        context.printer.say("no job uses an image of its own\n");
    }
    let widest = known.iter().map(|image| image.name.chars().count()).max().unwrap_or(0);
    let lines = known.iter().map(|image| lines(image, widest, &context.printer));
    context.printer.result(lines.collect::<String>())?;
    Ok(report_failures(&done, &context.printer))
}

fn lines(image: &ImageStanding, widest: usize, printer: &Printer) -> String {
    let (word, detail) = match &image.state {
        BuildState::Built { id } => ("built", id.clone()),
        BuildState::Gone { id } => ("gone", format!("Modal no longer has {id}; the next run builds it")),
        BuildState::Changed => ("changed", change(&image.layers)),
        BuildState::NotBuilt => ("not built", "accel has not built it from here".to_owned()),
    };
    let count = image.layers.len();
    let layers = if count == 1 { "1 layer".to_owned() } else { format!("{count} layers") };
    let name = printer.paint(Style::Name, &format!("{:widest$}", image.name));
    let mut text = format!("{name}  {word:9}  {layers}, builder {}  {detail}\n", image.builder);
    if printer.verbosity == Verbosity::Verbose {
        for (at, layer) in image.layers.iter().enumerate() {
            let mark = match layer.change {
                LayerChange::None => "",
                LayerChange::Changed => "  changed",
                LayerChange::Above => "  above the change",
            };
            text.push_str(&format!("  {}/{count}: {}{mark}\n", at + 1, described(layer)));
        }
    }
    text
}

/// `layer 2 since the last build: apt install git (accel.toml:7)`
fn change(layers: &[LayerStanding]) -> String {
    let changed = layers.iter().position(|layer| layer.change == LayerChange::Changed);
    match changed {
        Some(at) => format!("layer {} since the last build: {}", at + 1, described(&layers[at])),
        None => String::new(),
    }
}

fn described(layer: &LayerStanding) -> String {
    match layer.origin.as_str() {
        "" => layer.title.clone(),
        origin => format!("{} ({origin})", layer.title),
    }
}

/// One image, as `--json` prints it.
#[derive(Serialize)]
struct Row<'a> {
    image: &'a str,
    /// `built`, `gone`, `changed` or `not_built`.
    state: &'static str,
    id: Option<&'a str>,
    builder: &'a str,
    layers: Vec<LayerRow<'a>>,
}

#[derive(Serialize)]
struct LayerRow<'a> {
    title: &'a str,
    /// Where accel.toml says so; `null` for the base.
    origin: Option<&'a str>,
    /// Different from the last build, or above a layer that is.
    changed: bool,
}

impl<'a> From<&'a ImageStanding> for Row<'a> {
    fn from(image: &'a ImageStanding) -> Self {
        let (state, id) = match &image.state {
            BuildState::Built { id } => ("built", Some(id.as_str())),
            BuildState::Gone { id } => ("gone", Some(id.as_str())),
            BuildState::Changed => ("changed", None),
            BuildState::NotBuilt => ("not_built", None),
        };
        let layers = image.layers.iter().map(|layer| LayerRow {
            title: &layer.title,
            origin: Some(layer.origin.as_str()).filter(|origin| !origin.is_empty()),
            changed: layer.change != LayerChange::None,
        });
        Self { image: &image.name, state, id, builder: image.builder, layers: layers.collect() }
    }
}
