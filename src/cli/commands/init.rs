//! `accel init`: writes an accel.toml for what is there. Never overwrites unless told to.

use crate::base::files;
use crate::cli::Outcome;
use crate::cli::args::InitArgs;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::init::{self, Draft};
use crate::cli::printer::{Printer, Style};
use crate::config::FILE_NAMES;

/// The file that init writes.
const TARGET: &str = FILE_NAMES[0];

pub fn run(args: &InitArgs, context: &Context<'_>) -> Outcome {
    let (folder, printer) = (context.folder()?, &context.printer);
    if !args.print
        && !args.force
        && let Some(taken) = FILE_NAMES.iter().find(|name| folder.join(name).exists())
    {
        return Err(CommandError::usage(format!("{taken} is already there")).help(
            "`accel init --print` shows what would be written, `accel init --force` replaces the file",
        ));
    }
    let (draft, text) = init::draft(&folder);
    for file in &draft.not_understood {
        printer.warning(&format!("passed over {file}"));
    }
    if args.print {
        printer.result(&text)?;
        return Ok(0);
    }
    let path = folder.join(TARGET);
    if args.force {
        files::replace_shared(&path, text.as_bytes())?;
    } else {
        files::create_new(&path, text.as_bytes())?;
    }
    printer.say(summary(&draft, printer));
    Ok(0)
}

fn summary(draft: &Draft, printer: &Printer) -> String {
    let widest = draft.jobs.iter().map(|job| job.name.len()).max().unwrap_or(0);
    let mut text = format!("wrote {TARGET} with {}\n", counted(draft.jobs.len(), "job"));
    for job in &draft.jobs {
        let name = printer.paint_stderr(Style::Name, &format!("{:widest$}", job.name));
        text.push_str(&format!(
            "  {name}  {}\n",
            crate::base::quote::shell_join(job.run.iter().map(String::as_str))
        ));
    }
    text.push_str(&format!("try: accel run {}\n", draft.jobs[0].name));
    text
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
