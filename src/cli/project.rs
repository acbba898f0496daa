//! The project that a command works on: its configuration, found and checked.

use std::path::PathBuf;

use crate::config::model::{Config, Layer};
use crate::config::{self, EveryProfile, LoadError, LoadRequest, Loaded};
use crate::diag::{Diagnostic, Severity};
use crate::plan::Selection;
use crate::plan::spec::Plan;
use crate::workspace;
use std::collections::BTreeMap;

use super::ambient::Ambient;
use super::context::Context;
use super::error::CommandError;
use super::printer::Printer;

pub struct Project {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
    /// The folder that the command works in; the configuration may lie above it.
    pub folder: PathBuf,
}

impl Project {
    /// Finds the file and checks it.
    pub fn open(context: &Context<'_>) -> Result<Self, CommandError> {
        let request = Self::request(context)?;
        let folder = request.start.clone();
        match config::load(&request) {
            Ok(Loaded { config, warnings }) => Ok(Self { config, warnings, folder }),
            Err(error) => Err(error.into()),
        }
    }

    /// The project once for each profile of its file, the chosen one first. Warnings are those of all, at the first.
    pub fn open_every_profile(context: &Context<'_>) -> Result<Vec<Self>, CommandError> {
        let request = Self::request(context)?;
        let EveryProfile { configs, mut warnings } = config::load_every_profile(&request)?;
        let project =
            |config| Self { config, warnings: std::mem::take(&mut warnings), folder: request.start.clone() };
        Ok(configs.into_iter().map(project).collect())
    }

    fn request(context: &Context<'_>) -> Result<LoadRequest, CommandError> {
        let folder = context.folder()?;
        Ok(LoadRequest {
            explicit: context.global.config.as_ref().map(|file| folder.join(file)),
            profile: context
                .global
                .profile
                .clone()
                .map(|profile| (profile, Layer::Flag("--profile".to_owned()))),
            variables: accel_variables(context.ambient)?,
            display_base: folder.clone(),
            start: folder,
        })
    }

    /// The file itself, as it is shown.
    pub fn file(&self) -> &str {
        self.config.sources.first().map_or("accel.toml", |source| &source.name)
    }

    /// Compiles what is asked for, reading the files that its images name.
    pub fn plan(&self, selection: &Selection) -> Result<Plan, CommandError> {
        workspace::plan(&self.config, selection).map_err(|diagnostics| CommandError::Configuration {
            diagnostics,
            sources: self.config.sources.clone(),
        })
    }

    /// A few are shown whole; of more, `accel check` shows them all.
    pub fn mention_warnings(&self, printer: &Printer) {
        const FEW: usize = 3;
        if self.warnings.len() <= FEW {
            return printer.diagnostics(&self.warnings, &self.config.sources);
        }
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

impl From<LoadError> for CommandError {
    fn from(error: LoadError) -> Self {
        Self::Configuration { diagnostics: error.diagnostics, sources: error.sources }
    }
}

/// The variables that configuration reads; a value that is not text is an error of its own.
fn accel_variables(ambient: &Ambient) -> Result<BTreeMap<String, String>, CommandError> {
    let mut found = BTreeMap::new();
    for (name, value) in &ambient.variables.0 {
        let Some(name) = name.to_str().filter(|name| name.starts_with("ACCEL_")) else { continue };
        let value = value.to_str().ok_or_else(|| {
            CommandError::usage(format!("the value of {name} is not UTF-8"))
                .help("set it to text, or unset it")
        })?;
        found.insert(name.to_owned(), value.to_owned());
    }
    Ok(found)
}
