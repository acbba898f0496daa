//! The command line: arguments in, one library operation, its result printed, an exit code out.
//!
//! Owns argument parsing ([`args`]), what surrounds the process ([`ambient`]), the wording of command errors
//! ([`error`]) and the only writer of command results ([`printer`]). Each command is one file of `commands`:
//! parse → one operation → print. The meaning of jobs, images and runs is left to the layers below.

pub mod ambient;
pub mod args;
pub mod commands;
pub mod error;
pub mod execution;
mod init;
pub mod not_built;
pub mod printer;
pub mod signals;

pub use ambient::Ambient;

use std::path::{Path, PathBuf};

use crate::base::exit_code;
use ambient::ColorWish;
use args::{Cli, Command, GlobalArgs, Parsed, Rendered};
use error::CommandError;
use printer::{Format, Printer, Verbosity};

pub type Outcome = Result<u8, CommandError>;

/// Runs one command line to its exit code.
pub fn main(ambient: &Ambient) -> u8 {
    match args::parse(&ambient.arguments) {
        Parsed::Run(cli) => run(ambient, *cli),
        Parsed::Print(rendered) => show(ambient, &rendered),
    }
}

fn run(ambient: &Ambient, cli: Cli) -> u8 {
    let printer = printer(ambient, Some(&cli.global));
    dispatch(ambient, &cli, &printer).unwrap_or_else(|error| {
        error.print(&printer);
        error.exit_code()
    })
}

fn dispatch(ambient: &Ambient, cli: &Cli, printer: &Printer) -> Outcome {
    let Some(command) = &cli.command else {
        printer.result(args::short_help())?;
        return Ok(0);
    };
    match command {
        Command::Init(args) => commands::init::run(args, &folder(ambient, &cli.global)?, printer),
        Command::Completions { shell } => commands::completions::run(*shell, printer),
    }
}

/// The folder to work in: the current one, or `-C` from there.
fn folder(ambient: &Ambient, global: &GlobalArgs) -> Result<PathBuf, CommandError> {
    let current = ambient.folder.as_ref();
    let folder = match (&global.directory, current) {
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

/// Help and version go to stdout, usage errors to stderr.
fn show(ambient: &Ambient, rendered: &Rendered) -> u8 {
    let printer = printer(ambient, None);
    let stream_color = if rendered.code == 0 { printer.stdout_color } else { printer.stderr_color };
    let text = rendered.text(stream_color);
    if rendered.code != 0 {
        printer::write_stderr(text);
        return rendered.code;
    }
    printer.result(text).map_or(exit_code::ACCEL_FAILED, |()| 0)
}

fn printer(ambient: &Ambient, global: Option<&GlobalArgs>) -> Printer {
    let wish = global.map_or(ColorWish::Auto, |global| global.color.into());
    let verbosity = match global {
        Some(global) if global.quiet => Verbosity::Quiet,
        Some(global) if global.verbose > 0 => Verbosity::Verbose,
        _ => Verbosity::Normal,
    };
    let json = global.is_some_and(|global| global.json);
    Printer {
        format: if json { Format::Json } else { Format::Text },
        stdout_color: ambient.color(wish, ambient.stdout_is_terminal),
        stderr_color: ambient.color(wish, ambient.stderr_is_terminal),
        width: ambient.width(),
        list_width: ambient.list_width(),
        verbosity,
    }
}

/// Replaces Rust's panic report, which is for programmers, by one line that says what to do.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let message = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        printer::write_stderr(&format!(
            "error: accel {} broke{place}: {message}\nhelp: this is a mistake in accel; please report this line\n",
            env!("CARGO_PKG_VERSION")
        ));
    }));
}
