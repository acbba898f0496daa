//! `accel` alone: what it is for, and what can be run here.

use crate::cli::Outcome;
use crate::cli::args;
use crate::cli::commands::list;
use crate::cli::context::Context;
use crate::cli::printer::Style;
use crate::cli::project::Project;

pub fn run(context: &Context<'_>) -> Outcome {
    let printer = &context.printer;
    let mut text = args::short_help(printer.stdout_color);
    if let Ok(project) = Project::open(context)
        && !project.config.jobs.is_empty()
    {
        let heading = format!("Jobs of {}:", project.config.project.value);
        text.push_str(&format!("\n{}\n", printer.paint(Style::Name, &heading)));
        text.push_str(&list::table(&list::rows(&project.config), printer));
    }
    printer.result(text)?;
    Ok(0)
}
