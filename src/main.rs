//! The command: hands its surroundings to the library and exits with the code that comes back.

use std::process::ExitCode;

use accel::cli::{self, Ambient};

fn main() -> ExitCode {
    ExitCode::from(cli::guarded(|| cli::main(&Ambient::collect())))
}
