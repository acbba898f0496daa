//! `accel check`: every mistake in accel.toml and in what it names, all at once.

use serde::Serialize;

use crate::base::exit_code;
use crate::cli::Outcome;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::printer::Format;
use crate::cli::project::Project;
use crate::diag::{Diagnostic, Location, Severity, SourceMap};
use crate::plan::Selection;

pub fn run(context: &Context<'_>) -> Outcome {
    let outcome = inspect(context);
    if context.printer.format == Format::Json {
        return json(outcome, context);
    }
    let project = outcome?;
    context.printer.diagnostics(&project.warnings, &project.config.sources);
    context.printer.result(verdict(&project))?;
    Ok(0)
}

/// Reads, checks and compiles every job with every profile.
fn inspect(context: &Context<'_>) -> Result<Project, CommandError> {
    let projects = Project::open_every_profile(context)?;
    for project in projects.iter().filter(|project| !project.config.jobs.is_empty()) {
        project.plan(&Selection::everything())?;
    }
    Ok(projects.into_iter().next().expect("there is at least the chosen profile"))
}

fn verdict(project: &Project) -> String {
    let counted = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let (jobs, images) = (project.config.jobs.len(), project.config.images.len());
    let mut text = format!("{}: {}, {}", project.file(), counted(jobs, "job"), counted(images, "image"));
    if !project.warnings.is_empty() {
        text.push_str(&format!(", {}", counted(project.warnings.len(), "warning")));
    }
    text.push_str(", no errors\n");
    text
}

/// The document that `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    valid: bool,
    diagnostics: Vec<Finding<'a>>,
}

#[derive(Serialize)]
struct Finding<'a> {
    severity: &'static str,
    code: &'static str,
    message: &'a str,
    #[serde(flatten)]
    position: Option<Position<'a>>,
    label: &'a str,
    related: Vec<Related<'a>>,
    help: &'a [String],
}

#[derive(Serialize)]
struct Related<'a> {
    #[serde(flatten)]
    position: Position<'a>,
    label: &'a str,
}

/// Lines and columns count from 1, columns in characters; offsets are bytes.
#[derive(Serialize)]
struct Position<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    start: u32,
    end: u32,
}

fn json(outcome: Result<Project, CommandError>, context: &Context<'_>) -> Outcome {
    let (diagnostics, sources, valid) = match &outcome {
        Ok(project) => (&project.warnings, &project.config.sources, true),
        Err(CommandError::Configuration { diagnostics, sources }) => (diagnostics, sources, false),
        Err(_) => return outcome.map(|_| 0),
    };
    let diagnostics = diagnostics.iter().map(|diagnostic| finding(diagnostic, sources)).collect();
    context.printer.json(&Document { version: 1, valid, diagnostics })?;
    Ok(if valid { 0 } else { exit_code::USAGE })
}

fn finding<'a>(diagnostic: &'a Diagnostic, sources: &'a SourceMap) -> Finding<'a> {
    Finding {
        severity: match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        code: diagnostic.code,
        message: &diagnostic.message,
        position: diagnostic.location.map(|location| position(location, sources)),
        label: &diagnostic.label,
        related: diagnostic
            .related
            .iter()
            .map(|(location, label)| Related { position: position(*location, sources), label })
            .collect(),
        help: &diagnostic.help,
    }
}

fn position(location: Location, sources: &SourceMap) -> Position<'_> {
    let (line, column) = sources.line_column(location);
    Position {
        file: &sources.get(location.source).name,
        line,
        column,
        start: location.start,
        end: location.end,
    }
}
