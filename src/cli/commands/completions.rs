//! `accel completions`: the script that teaches a shell accel's command line.

use crate::cli::Outcome;
use crate::cli::args::{self, Shell};
use crate::cli::printer::Printer;

pub fn run(shell: Shell, printer: &Printer) -> Outcome {
    printer.result(args::completions(shell))?;
    Ok(0)
}
