//! `accel sync --plan`: what travels to Modal, and why a path does or does not.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::base::exit_code;
use crate::base::size::Bytes;
use crate::cli::Outcome;
use crate::cli::ambient;
use crate::cli::args::SyncArgs;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::printer::{Format, Style, Verbosity};
use crate::cli::project::Project;
use crate::plan;
use crate::plan::spec::SyncSet;
use crate::workspace::tree::{Entry, EntryKind, Explanation, Rules, Scan, TreeError, scan};

pub fn run(args: &SyncArgs, context: &Context<'_>) -> Outcome {
    let project = Project::open(context)?;
    project.mention_warnings(&context.printer);
    let sync = plan::sync_set(&project.config);
    if args.paths.is_empty() {
        list(&project, &sync, context)
    } else {
        explain(args, &project, &sync, context)
    }
}

fn rules(sync: &SyncSet) -> Result<Rules, CommandError> {
    Ok(Rules::new(sync, &[], ambient::global_ignore()).map_err(TreeError::from)?)
}

impl From<TreeError> for CommandError {
    fn from(error: TreeError) -> Self {
        let failed = Self::failed(error.to_string());
        match error.help() {
            Some(help) => failed.help(help),
            None => failed,
        }
    }
}

/// Shows also a tree that a run would refuse for its size, and says so.
fn list(project: &Project, sync: &SyncSet, context: &Context<'_>) -> Outcome {
    let root = &project.config.root;
    let unlimited = SyncSet { max_size: Bytes(u64::MAX), ..sync.clone() };
    let found = scan(root, &rules(&unlimited)?, &AtomicBool::new(false))?;
    for notice in &found.notices {
        context.printer.warning(&notice.to_string());
    }
    let plan = Plan::of(&found, root, sync);
    match context.printer.format {
        Format::Json => context.printer.json(&plan)?,
        Format::Text => context.printer.result(plan.text(context))?,
    }
    if !plan.too_large {
        return Ok(0);
    }
    let refusal =
        TreeError::TooLarge { size: Bytes(found.size), limit: sync.max_size, largest: found.largest() };
    CommandError::from(refusal).print(&context.printer);
    Ok(exit_code::ACCEL_FAILED)
}

/// What would travel, as `--json` prints it.
#[derive(Serialize)]
struct Plan<'a> {
    version: u32,
    root: &'a Path,
    files: usize,
    folders: usize,
    links: usize,
    size_bytes: u64,
    max_size_bytes: u64,
    too_large: bool,
    largest: Vec<Share>,
    entries: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Share {
    path: String,
    size_bytes: u64,
}

#[derive(Serialize)]
struct Row<'a> {
    path: &'a str,
    #[serde(flatten)]
    kind: RowKind<'a>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum RowKind<'a> {
    File { size_bytes: u64 },
    Folder,
    Link { target: &'a str },
}

impl<'a> Row<'a> {
    fn of(entry: &'a Entry) -> Self {
        let kind = match &entry.kind {
            EntryKind::File(stat) => RowKind::File { size_bytes: stat.size },
            EntryKind::Directory { .. } => RowKind::Folder,
            EntryKind::Symlink { target } => RowKind::Link { target },
        };
        Self { path: &entry.path, kind }
    }
}

impl<'a> Plan<'a> {
    fn of(scan: &'a Scan, root: &'a Path, sync: &SyncSet) -> Self {
        let count = |is: fn(&EntryKind) -> bool| scan.entries.iter().filter(|entry| is(&entry.kind)).count();
        let largest = scan.largest().into_iter();
        Self {
            version: 1,
            root,
            files: count(|kind| matches!(kind, EntryKind::File(_))),
            folders: count(|kind| matches!(kind, EntryKind::Directory { .. })),
            links: count(|kind| matches!(kind, EntryKind::Symlink { .. })),
            size_bytes: scan.size,
            max_size_bytes: sync.max_size.0,
            too_large: scan.size > sync.max_size.0,
            largest: largest.map(|(path, size)| Share { path, size_bytes: size.0 }).collect(),
            entries: scan.entries.iter().map(Row::of).collect(),
        }
    }

    fn text(&self, context: &Context<'_>) -> String {
        let printer = &context.printer;
        let mut text = String::new();
        if printer.verbosity == Verbosity::Verbose {
            self.entries.iter().for_each(|row| text.push_str(&row.text()));
        }
        let counts = [(self.files, "file"), (self.folders, "folder"), (self.links, "link")].map(counted);
        let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let counts = if counts.is_empty() { "nothing".to_owned() } else { counts };
        text.push_str(&format!(
            "{counts}: {} of at most {}\n",
            printer.paint(Style::Name, &Bytes(self.size_bytes).to_string()),
            Bytes(self.max_size_bytes)
        ));
        let shares = self.largest.iter();
        shares.for_each(|share| text.push_str(&line(Some(share.size_bytes), &share.path)));
        text
    }
}

impl Row<'_> {
    fn text(&self) -> String {
        match &self.kind {
            RowKind::File { size_bytes } => line(Some(*size_bytes), self.path),
            RowKind::Folder => line(None, &format!("{}/", self.path)),
            RowKind::Link { target } => line(None, &format!("{} -> {target}", self.path)),
        }
    }
}

fn line(size: Option<u64>, path: &str) -> String {
    let size = size.map(|size| Bytes(size).to_string()).unwrap_or_default();
    format!("{size:>10}  {path}\n")
}

fn counted((count, noun): (usize, &str)) -> Option<String> {
    match count {
        0 => None,
        1 => Some(format!("1 {noun}")),
        more => Some(format!("{more} {noun}s")),
    }
}

/// An answer, as `--json` prints it.
#[derive(Serialize)]
struct Answer {
    path: String,
    travels: bool,
    reason: String,
    because_of: Option<String>,
    exists: bool,
}

fn explain(args: &SyncArgs, project: &Project, sync: &SyncSet, context: &Context<'_>) -> Outcome {
    let (root, rules) = (&project.config.root, rules(sync)?);
    let mut answers = Vec::new();
    for asked in &args.paths {
        let path = relative(asked, &project.folder, root)?;
        let explanation = rules.explain(root, &path);
        answers.push((explanation, root.join(&path).symlink_metadata().is_ok()));
    }
    if context.printer.format == Format::Json {
        let answers: Vec<Answer> =
            answers.into_iter().map(|(answer, exists)| Answer::of(answer, exists)).collect();
        context.printer.json(&answers)?;
        return Ok(0);
    }
    let text = answers.iter().map(|(explanation, exists)| {
        format!("{explanation}{}\n", if *exists { "" } else { " (nothing is there now)" })
    });
    context.printer.result(text.collect::<String>())?;
    Ok(0)
}

impl Answer {
    fn of(explanation: Explanation, exists: bool) -> Self {
        let Explanation { path, travels, reason, because_of } = explanation;
        Self { path, travels, reason, because_of, exists }
    }
}

/// A path as typed in `folder`, relative to the project; links are not followed. A final `/` stays.
fn relative(asked: &Path, folder: &Path, root: &Path) -> Result<String, CommandError> {
    let mut place = PathBuf::new();
    for part in folder.join(asked).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(place.pop()),
            part => place.push(part),
        }
    }
    let outside = || {
        CommandError::usage(format!("{} is not within the project", asked.display()))
            .help(format!("the project is {}; nothing else travels", root.display()))
    };
    let below = place.strip_prefix(root).map_err(|_| outside())?;
    let Some(text) = below.to_str() else {
        return Err(CommandError::usage(format!(
            "{} is not UTF-8, and such names cannot travel",
            below.display()
        )));
    };
    if text.is_empty() {
        return Err(
            CommandError::usage("the project itself is what travels").help("ask about a path within it")
        );
    }
    let is_folder = asked.as_os_str().as_encoded_bytes().ends_with(b"/");
    Ok(format!("{text}{}", if is_folder { "/" } else { "" }))
}
