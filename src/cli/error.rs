//! Why a command did not do its work: the kind decides the exit code and what is printed.

use std::collections::BTreeSet;
use std::io;

use crate::base::exit_code;
use crate::config::codes;
use crate::diag::{Diagnostic, Severity, SourceMap};

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

    /// No accel.toml was found.
    pub fn is_missing_file(&self) -> bool {
        let Self::Configuration { diagnostics, .. } = self else { return false };
        diagnostics.iter().any(|diagnostic| diagnostic.code == codes::NO_CONFIG)
    }

    /// One line without details.
    pub fn summary(&self) -> String {
        match self {
            Self::Usage { message, .. } | Self::Failed { message, .. } => message.clone(),
            Self::Configuration { diagnostics, sources } => counts(diagnostics, sources),
        }
    }

    pub fn print(&self, printer: &Printer) {
        match self {
            Self::Usage { message, help } | Self::Failed { message, help } => printer.error(message, help),
            Self::Configuration { diagnostics, sources } => {
                printer.diagnostics(diagnostics, sources);
                if diagnostics.iter().any(|diagnostic| diagnostic.location.is_some()) {
                    printer.say(format!("{}\n", counts(diagnostics, sources)));
                }
            }
        }
    }
}

/// `3 errors, 1 warning in accel.toml`.
fn counts(diagnostics: &[Diagnostic], sources: &SourceMap) -> String {
    let of = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let counted = |count, noun: &str| match count {
        0 => None,
        1 => Some(format!("1 {noun}")),
        more => Some(format!("{more} {noun}s")),
    };
    let counts = [counted(of(Severity::Error), "error"), counted(of(Severity::Warning), "warning")];
    let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let located = diagnostics.iter().filter_map(|diagnostic| diagnostic.location);
    let files: BTreeSet<&str> = located.map(|location| sources.get(location.source).name.as_str()).collect();
    if files.is_empty() {
        return counts;
    }
    format!("{counts} in {}", files.into_iter().collect::<Vec<_>>().join(", "))
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
