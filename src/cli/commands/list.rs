//! `accel list`: the jobs of the file, without compiling any.

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::base::quote::shell_join;
use crate::cli::Outcome;
use crate::cli::args::ListArgs;
use crate::cli::context::Context;
use crate::cli::printer::{Format, Printer, Style};
use crate::cli::project::Project;
use crate::config::model::{Command, Config, Image, ImageRef, Job, Route, SharedRule};
use crate::domain::Place;
use crate::plan;

/// Narrower lists hold names only.
const NARROW: usize = 40;
/// Descriptions get at least this, or a line of their own is not worth it.
const SHORTEST_DESCRIPTION: usize = 12;
/// Names longer than this do not push the other columns to the right.
const WIDEST_NAME: usize = 32;

pub fn run(args: &ListArgs, context: &Context<'_>) -> Outcome {
    let project = Project::open(context)?;
    if args.names {
        let names: String = project.config.jobs.keys().map(|name| format!("{name}\n")).collect();
        context.printer.result(names)?;
        return Ok(0);
    }
    let (config, printer) = (&project.config, &context.printer);
    let rows = rows(config);
    if printer.format == Format::Json {
        printer.json(&Document { version: 1, project: &config.project.value, jobs: &rows })?;
        return Ok(0);
    }
    if rows.is_empty() {
        printer.say("no jobs: add a [jobs.<name>] table to the file\n");
    }
    printer.result(table(&rows, printer))?;
    Ok(0)
}

/// The document that `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    project: &'a str,
    jobs: &'a [Row<'a>],
}

#[derive(Serialize)]
pub struct Row<'a> {
    pub name: &'a str,
    pub desc: Option<&'a str>,
    /// What runs, on one line; absent for a job that only groups others.
    pub command: Option<String>,
    /// `local`, `modal`, `auto`, `race`, `rules`, or `gpu`: Modal unless this machine has the GPU.
    pub route: &'static str,
    pub image: Option<&'a str>,
    pub needs: Vec<&'a str>,
    /// How many jobs the matrix makes of it; 1 without one.
    pub combinations: usize,
    /// `accel.toml:12`.
    pub defined_at: String,
}

pub fn rows(config: &Config) -> Vec<Row<'_>> {
    let mut positions = LineNumbers::default();
    config.jobs.values().map(|job| row(config, job, &mut positions)).collect()
}

fn row<'a>(config: &'a Config, job: &'a Job, positions: &mut LineNumbers) -> Row<'a> {
    let image = job.settings.image.as_ref().or(config.defaults.image.as_ref()).map(|image| &image.value);
    Row {
        name: &job.name,
        desc: job.settings.desc.as_ref().map(|desc| desc.value.as_str()),
        command: command(config, job),
        route: route_hint(config, job, image),
        image: image.map(|image| match image {
            ImageRef::Named(name) => name.as_str(),
            ImageRef::Inline(_) => "inline",
        }),
        needs: plan::needs_of(config, job).iter().map(|need| need.value.as_str()).collect(),
        combinations: combinations(job),
        defined_at: positions.of(config, job),
    }
}

fn command(config: &Config, job: &Job) -> Option<String> {
    let run = job.settings.run.as_ref().or(config.defaults.run.as_ref())?;
    Some(match &run.value {
        Command::Shell(text) => text.trim().to_owned(),
        Command::Argv(words) => shell_join(words.iter().map(String::as_str)),
    })
}

/// Line numbers of locations that mostly go up, without counting from the start for each.
#[derive(Default)]
struct LineNumbers {
    last: Option<(crate::diag::SourceId, usize, usize)>,
}

impl LineNumbers {
    fn of(&mut self, config: &Config, job: &Job) -> String {
        let source = config.sources.get(job.location.source);
        let at = (job.location.start as usize).min(source.text.len());
        let (from, line) = match self.last {
            Some((last, offset, line)) if last == job.location.source && offset <= at => (offset, line),
            _ => (0, 1),
        };
        let line = line + source.text.as_bytes()[from..at].iter().filter(|byte| **byte == b'\n').count();
        self.last = Some((job.location.source, at, line));
        format!("{}:{line}", source.name)
    }
}

fn combinations(job: &Job) -> usize {
    if job.matrix.is_none() { 1 } else { plan::combinations(job.matrix.as_ref()).len() }
}

fn route_hint(config: &Config, job: &Job, image: Option<&ImageRef>) -> &'static str {
    if let Some(route) = &config.profile_route {
        return hint(&route.value);
    }
    if let Some(route) = &job.settings.route {
        return hint(&route.value);
    }
    if config.shared_routes.iter().any(|shared| concerns(shared, job)) {
        return "rules";
    }
    if let Some(route) = &config.defaults.route {
        return hint(&route.value);
    }
    let gpu = job.settings.gpu.is_some() || config.defaults.gpu.is_some() || image_has_gpu(config, image);
    if gpu { "gpu" } else { Place::Local.as_str() }
}

fn hint(route: &Route) -> &'static str {
    match route {
        Route::To(place) => place.as_str(),
        Route::Auto => "auto",
        Route::Race => "race",
        Route::Rules(_) => "rules",
    }
}

/// Whether a shared rule can name the job; globs count as if they matched.
fn concerns(shared: &SharedRule, job: &Job) -> bool {
    let everyone = shared.jobs.is_empty() && shared.labels.is_empty();
    let by_name = shared.jobs.iter().any(|glob| {
        *glob == job.name
            || globset::Glob::new(glob).is_ok_and(|glob| glob.compile_matcher().is_match(&job.name))
    });
    let labels = job.settings.labels.as_ref().map(|labels| labels.value.as_slice()).unwrap_or_default();
    everyone || by_name || shared.labels.iter().any(|label| labels.contains(label))
}

fn image_has_gpu(config: &Config, image: Option<&ImageRef>) -> bool {
    let found: Option<&Image> = match image {
        Some(ImageRef::Named(name)) => config.images.get(name),
        Some(ImageRef::Inline(image)) => Some(image),
        None => None,
    };
    found.is_some_and(|image| image.gpu.is_some())
}

/// Columns as wide as they need to be, within what a terminal has.
pub fn table(rows: &[Row<'_>], printer: &Printer) -> String {
    if printer.list_width.is_some_and(|width| width < NARROW) {
        return rows.iter().map(|row| format!("{}\n", printer.paint(Style::Name, row.name))).collect();
    }
    let columns = Columns::of(rows);
    let mut text = String::new();
    for row in rows {
        columns.write(row, printer, &mut text);
    }
    text
}

struct Columns {
    name: usize,
    route: usize,
    image: usize,
}

impl Columns {
    fn of(rows: &[Row<'_>]) -> Self {
        let widest = |of: &dyn Fn(&Row<'_>) -> usize| rows.iter().map(of).max().unwrap_or(0);
        Self {
            name: widest(&|row| shown_name(row).width()).min(WIDEST_NAME),
            route: widest(&|row| row.route.len()),
            image: widest(&|row| row.image.map_or(0, UnicodeWidthStr::width)),
        }
    }

    fn write(&self, row: &Row<'_>, printer: &Printer, text: &mut String) {
        let name = shown_name(row);
        text.push_str(&printer.paint(Style::Name, &name));
        pad(text, name.width(), self.name);
        text.push_str("  ");
        text.push_str(&printer.paint(Style::Dim, row.route));
        pad(text, row.route.len(), self.route);
        if self.image > 0 {
            let image = row.image.unwrap_or_default();
            text.push_str("  ");
            text.push_str(&printer.paint(Style::Dim, image));
            pad(text, image.width(), self.image);
        }
        if let Some(words) = described(row) {
            let gap = if self.image > 0 { self.image + 2 } else { 0 };
            let used = name.width().max(self.name) + 2 + self.route + gap + 2;
            let words = fitting(&words, printer.list_width.map(|width| width.saturating_sub(used)));
            let style = if row.desc.is_some() { Style::Plain } else { Style::Dim };
            text.push_str("  ");
            text.push_str(&printer.paint(style, &words));
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
}

fn shown_name(row: &Row<'_>) -> String {
    if row.combinations == 1 { row.name.to_owned() } else { format!("{} (x{})", row.name, row.combinations) }
}

fn pad(text: &mut String, used: usize, width: usize) {
    text.extend(std::iter::repeat_n(' ', width.saturating_sub(used)));
}

/// The description, else what the job does.
fn described(row: &Row<'_>) -> Option<String> {
    let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let needs = || (!row.needs.is_empty()).then(|| format!("needs {}", row.needs.join(", ")));
    row.desc.map(first_line).or_else(|| row.command.as_deref().map(first_line)).or_else(needs)
}

/// As much as there is room for.
fn fitting(line: &str, room: Option<usize>) -> String {
    match room {
        Some(room) if room < SHORTEST_DESCRIPTION => String::new(),
        Some(room) if line.width() > room => {
            let mut used = 1;
            let fits = |c: &char| {
                used += unicode_width::UnicodeWidthChar::width(*c).unwrap_or(0);
                used <= room
            };
            line.chars().take_while(fits).chain(['…']).collect()
        }
        _ => line.to_owned(),
    }
}
