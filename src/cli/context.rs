//! What every command gets besides its own arguments.

use std::path::{Path, PathBuf};

use super::ambient::{Ambient, ColorWish};
use super::args::GlobalArgs;
use super::error::CommandError;
use super::printer::{Format, Printer, Verbosity};
use crate::config::variables::JSON;

pub struct Context<'a> {
    pub ambient: &'a Ambient,
    pub global: &'a GlobalArgs,
    pub printer: Printer,
}

impl<'a> Context<'a> {
    pub fn new(ambient: &'a Ambient, global: &'a GlobalArgs) -> Self {
        Self { ambient, global, printer: printer(ambient, Some(global)) }
    }

    pub fn color(&self) -> ColorWish {
        self.global.color.into()
    }

    /// The folder to work in: the current one, or `-C` from there.
    pub fn folder(&self) -> Result<PathBuf, CommandError> {
        let folder = match (&self.global.directory, &self.ambient.folder) {
            (Some(directory), _) if directory.is_absolute() => directory.clone(),
            (directory, Ok(current)) => current.join(directory.as_deref().unwrap_or(Path::new(""))),
            (_, Err(error)) => {
                return Err(CommandError::failed(format!("cannot tell the current folder: {error}")));
            }
        };
        folder
            .canonicalize()
            .map_err(|error| CommandError::usage(format!("cannot work in {}: {error}", folder.display())))
    }
}

/// How to print, from the flags where there are any.
pub fn printer(ambient: &Ambient, global: Option<&GlobalArgs>) -> Printer {
    let wish = global.map_or(ColorWish::Auto, |global| global.color.into());
    let verbosity = match global {
        Some(global) if global.quiet => Verbosity::Quiet,
        Some(global) if global.verbose > 0 => Verbosity::Verbose,
        _ => Verbosity::Normal,
    };
    let json = global.is_some_and(|global| global.json) || ambient.switch(JSON).unwrap_or(false);
    Printer {
        format: if json { Format::Json } else { Format::Text },
        stdout_color: ambient.color(wish, ambient.stdout_is_terminal),
        stderr_color: ambient.color(wish, ambient.stderr_is_terminal),
        width: ambient.width(),
        list_width: ambient.list_width(),
        verbosity,
    }
}
