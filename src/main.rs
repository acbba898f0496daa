//! The command: hands its surroundings to the library and exits with the code that comes back.

use std::panic;
use std::process::ExitCode;

use accel::base::exit_code;
use accel::cli::{self, Ambient};

fn main() -> ExitCode {
    cli::install_panic_hook();
    let code = panic::catch_unwind(|| cli::main(&Ambient::collect()));
    ExitCode::from(code.unwrap_or(exit_code::ACCEL_FAILED))
}
