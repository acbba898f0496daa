//! Why a command did not do its work: the kind decides the exit code and what is printed.

use std::io;

use crate::base::exit_code;
use crate::diag::{Diagnostic, SourceMap};

use super::printer::Printer;

#[derive(Debug)]
pub enum CommandError {
    /// The user has to change the command line. Exit code 2.
    Usage { message: String, help: Vec<String> },
    /// The configuration has errors. Exit code 2.
    Configuration { diagnostics: Vec<Diagnostic>, sources: SourceMap },
    /// accel could not do it. Exit code 125.
    Failed { message: String, help: Vec<String> },
}

impl CommandError {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), help: Vec::new() }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), help: Vec::new() }
    }

    #[must_use]
    pub fn help(mut self, line: impl Into<String>) -> Self {
        match &mut self {
            Self::Usage { help, .. } | Self::Failed { help, .. } => help.push(line.into()),
            Self::Configuration { .. } => {}
        }
        self
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Configuration { .. } => exit_code::USAGE,
            Self::Failed { .. } => exit_code::ACCEL_FAILED,
        }
    }

    pub fn print(&self, printer: &Printer) {
        match self {
            Self::Usage { message, help } | Self::Failed { message, help } => printer.error(message, help),
            Self::Configuration { diagnostics, sources } => printer.diagnostics(diagnostics, sources),
        }
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::failed(format!("cannot write output: {error}"))
    }
}

impl From<crate::base::files::FileError> for CommandError {
    fn from(error: crate::base::files::FileError) -> Self {
        Self::failed(error.to_string())
    }
}
