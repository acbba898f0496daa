//! `accel completions`: the script that teaches a shell accel's command line.

use crate::cli::Outcome;
use crate::cli::args::{self, Shell};
use crate::cli::context::Context;

pub fn run(shell: Shell, context: &Context<'_>) -> Outcome {
    context.printer.result(args::completions(shell))?;
    Ok(0)
}
