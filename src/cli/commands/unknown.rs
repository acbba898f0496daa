//! A word that is no command: most likely a job, or a slip of the finger.

use crate::base::suggest::nearest;
use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::project::Project;

/// Says what was probably meant.
pub fn explain(word: &str, context: &Context<'_>) -> CommandError {
    let error = CommandError::usage(format!("`{word}` is no command of accel"));
    let project = Project::open(context).ok();
    let jobs: Vec<&str> =
        project.iter().flat_map(|project| project.config.jobs.keys().map(String::as_str)).collect();
    if jobs.contains(&word) {
        return error.help(format!("it is a job: run it with `accel run {word}`"));
    }
    let commands = args::command_names();
    let slips = commands.iter().map(String::as_str).filter(|command| is_slip(word, command));
    if let Some(command) = nearest(word, slips) {
        return error.help(format!("did you mean `accel {command}`?"));
    }
    match nearest(word, jobs) {
        Some(job) => error.help(format!("did you mean `accel run {job}`?")),
        None => error.help("`accel --help` shows the commands"),
    }
}

/// One slip for every three letters: `lisst` is `list`, `test` is not.
fn is_slip(word: &str, command: &str) -> bool {
    strsim::damerau_levenshtein(word, command) * 3 <= word.chars().count()
}
