//! The command line: arguments in, one library operation, its result printed, an exit code out.
//!
//! Owns argument parsing ([`args`]), what surrounds the process ([`ambient`]), the wording of command errors
//! ([`error`]) and the only writer of command results ([`printer`]). Each command is one file of `commands`:
//! parse → one operation → print. The meaning of jobs, images and runs is left to the layers below.

pub mod account;
pub mod ambient;
pub mod args;
pub mod budget;
mod commands;
pub mod context;
pub mod error;
pub mod execution;
pub mod held;
mod help;
mod init;
pub mod keyboard;
pub mod modal;
pub mod not_built;
mod outlook;
pub mod prewarm;
mod printer;
pub mod project;
pub mod remote;
pub mod routing;
pub mod runtime;
pub mod secrets;
pub mod signals;
mod watching;

pub use ambient::Ambient;

use std::panic::{self, UnwindSafe};

use crate::base::exit_code;
use crate::process::FoundTerminal;
use args::{Cli, Command, Parsed, Rendered};
use context::Context;
use error::CommandError;

pub type Outcome = Result<u8, CommandError>;

/// Runs one command line to its exit code.
pub fn main(ambient: &Ambient) -> u8 {
    match args::parse(&ambient.arguments) {
        Parsed::Run(cli) => run(ambient, &cli),
        Parsed::Print(rendered) => show(ambient, &rendered),
        Parsed::Unknown(unknown) => {
            let context = Context::new(ambient, &unknown.global);
            commands::unknown::explain(&unknown.word, &context).print(&context.printer);
            exit_code::USAGE
        }
    }
}

fn run(ambient: &Ambient, cli: &Cli) -> u8 {
    let context = Context::new(ambient, &cli.global);
    dispatch(cli.command.as_ref(), &context).unwrap_or_else(|error| {
        error.print(&context.printer);
        error.exit_code()
    })
}

fn dispatch(command: Option<&Command>, context: &Context<'_>) -> Outcome {
    let Some(command) = command else { return commands::welcome::run(context) };
    match command {
        Command::Run(args) => commands::run::run(args, context),
        Command::Watch(args) => commands::watch::run(args, context),
        Command::List(args) => commands::list::run(args, context),
        Command::Check => commands::check::run(context),
        Command::Plan(args) => commands::plan::run(args, context),
        Command::Explain(args) => commands::explain::run(args, context),
        Command::Image(command) => commands::image::run(command, context),
        Command::Exec(args) => commands::adhoc::exec(args, context),
        Command::Shell(args) => commands::adhoc::shell(args, context),
        Command::Sync(args) => commands::sync::run(args, context),
        Command::Ps => commands::ps::run(context),
        Command::Stop(args) => commands::stop::run(args, context),
        Command::Logs(args) => commands::logs::run(args, context),
        Command::History(args) => commands::history::run(args, context),
        Command::Prune(args) => commands::prune::run(args, context),
        Command::Init(args) => commands::init::run(args, context),
        Command::Schema => commands::schema::run(context),
        Command::Completions { shell } => commands::completions::run(*shell, context),
        Command::Doctor => commands::doctor::run(context),
    }
}

/// Help and version go to stdout, usage errors to stderr.
fn show(ambient: &Ambient, rendered: &Rendered) -> u8 {
    let printer = context::printer(ambient, None);
    let stream_color = if rendered.code == 0 { printer.stdout_color } else { printer.stderr_color };
    let text = rendered.text(stream_color);
    if rendered.code != 0 {
        printer::write_stderr(text);
        return rendered.code;
    }
    printer.result(text).map_or(exit_code::ACCEL_FAILED, |()| 0)
}

/// Runs a command to its exit code; one that panics has failed as accel.
pub fn guarded(command: impl FnOnce() -> u8 + UnwindSafe) -> u8 {
    install_panic_hook();
    panic::catch_unwind(command).unwrap_or(exit_code::ACCEL_FAILED)
}

/// Replaces Rust's panic report, which is for programmers, by one line that says what to do.
fn install_panic_hook() {
    let terminal = FoundTerminal::look();
    panic::set_hook(Box::new(move |panic| {
        // In a raw one, lines would begin where the last one ended.
        terminal.restore();
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
