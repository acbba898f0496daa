//! `accel plan`: the compiled sandbox specs, and where each value came from.

use crate::cli::Outcome;
use crate::cli::args::{PlanArgs, PlanFormatArg};
use crate::cli::context::Context;
use crate::cli::outlook;
use crate::cli::printer::Format;
use crate::cli::project::Project;
use crate::cli::secrets;
use crate::plan::Selection;
use crate::plan::render::{self, PlanFormat};

pub fn run(args: &PlanArgs, context: &Context<'_>) -> Outcome {
    let project = Project::open(context)?;
    let selection =
        if args.jobs.is_empty() { Selection::everything() } else { Selection::of(args.jobs.clone()) };
    let plan = project.plan(&selection)?;
    let format = match args.format {
        _ if context.printer.format == Format::Json => PlanFormat::Json,
        PlanFormatArg::Toml => PlanFormat::Toml,
        PlanFormatArg::Json => PlanFormat::Json,
        PlanFormatArg::Yaml => PlanFormat::Yaml,
    };
    let (secrets, _) = secrets::known(&plan, context.ambient);
    context
        .printer
        .result(secrets.mask(&render::render(&plan, &outlook::of(&plan, context)?, format)).as_bytes())?;
    Ok(0)
}
