//! From the words of the command line to a command, or to the help, version or usage error to print instead.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser};

use super::{Cli, GlobalArgs};
use crate::base::exit_code;
use crate::diag::ColorChoice;

/// What the arguments ask for, or what to print instead.
pub enum Parsed {
    Run(Box<Cli>),
    Print(Rendered),
    Unknown(Box<UnknownCommand>),
}

/// A first word that names no command.
pub struct UnknownCommand {
    pub word: String,
    /// What could be read beside it.
    pub global: GlobalArgs,
}

/// The names of the commands.
pub fn command_names() -> Vec<String> {
    Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

fn unknown_command(arguments: &[OsString], error: &clap::Error) -> Option<UnknownCommand> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    // A wrong word after a command that has commands of its own is left to clap.
    let known =
        matches.subcommand_name().is_some_and(|name| command_names().iter().any(|known| known == name));
    let global = GlobalArgs::from_arg_matches(&matches).ok()?;
    (!known).then(|| UnknownCommand { word: word.clone(), global })
}

/// Help, version or a usage error.
pub struct Rendered {
    plain: String,
    styled: String,
    /// 0 for help and version.
    pub code: u8,
}

impl Rendered {
    pub fn text(&self, color: ColorChoice) -> &str {
        match color {
            ColorChoice::Plain => &self.plain,
            ColorChoice::Ansi => &self.styled,
        }
    }
}

pub fn parse(arguments: &[OsString]) -> Parsed {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => Parsed::Run(Box::new(cli)),
        Err(error) => match unknown_command(arguments, &error) {
            Some(unknown) => Parsed::Unknown(Box::new(unknown)),
            None => Parsed::Print(Rendered {
                plain: error.render().to_string(),
                styled: error.render().ansi().to_string(),
                code: if error.use_stderr() { exit_code::USAGE } else { 0 },
            }),
        },
    }
}

/// The short help.
pub fn short_help(color: ColorChoice) -> String {
    let help = Cli::command().render_help();
    match color {
        ColorChoice::Plain => help.to_string(),
        ColorChoice::Ansi => help.ansi().to_string(),
    }
}
