//! The project that a command works on: its configuration, found and checked.

use std::path::PathBuf;

use crate::config::model::Config;
use crate::diag::{Diagnostic, Severity};
use crate::plan::Selection;
use crate::plan::spec::Plan;
use crate::workspace;

use super::ambient::{ACCEL_CONFIG, ACCEL_PROFILE, Ambient};
use super::args::GlobalArgs;
use super::error::CommandError;
use super::printer::Printer;

pub struct Project {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
    /// The folder that the command works in; the configuration may lie above it.
    pub folder: PathBuf,
}

impl Project {
    /// Compiles what is asked for, reading the files that its images name.
    pub fn plan(&self, selection: &Selection) -> Result<Plan, CommandError> {
        workspace::plan(&self.config, selection).map_err(|diagnostics| CommandError::Configuration {
            diagnostics,
            sources: self.config.sources.clone(),
        })
    }

    /// One line; `accel check` shows them whole.
    pub fn mention_warnings(&self, printer: &Printer) {
        let count = self.warnings.iter().filter(|finding| finding.severity == Severity::Warning).count();
        if count > 0 {
            let noun = if count == 1 { "warning" } else { "warnings" };
            printer.warning(&format!("{count} {noun} in the configuration: see `accel check`"));
        }
    }

    /// Where a job has to be named and none was.
    pub fn name_a_job(&self, command: &str) -> CommandError {
        const SHOWN: usize = 12;
        let names: Vec<&str> = self.config.jobs.keys().map(String::as_str).collect();
        let error = CommandError::usage(format!("{command} needs the name of a job"));
        match names.len() {
            0 => error.help("there are no jobs yet: add a [jobs.<name>] table to the file"),
            1..=SHOWN => error.help(format!("the jobs are: {}", names.join(", "))),
            more => error.help(format!("there are {more} jobs: `accel list` shows them")),
        }
    }
}
