//! A throw-away Python environment that holds the official `modal` package.
//!
//! Made once per build folder and shared by all tests and test processes; a half-made one is never used. Where
//! there is no Python or no package index, tests skip with a printed reason.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The release that the tests compare with.
const MODAL_VERSION: &str = "1.6.4";

/// The interpreter of an environment with `modal` installed, or `None` with the reason printed.
#[allow(clippy::print_stdout, reason = "a skipped test says why")]
pub fn with_modal() -> Option<PathBuf> {
    match environment() {
        Ok(interpreter) => Some(interpreter),
        Err(reason) => {
            println!("skipped: no environment with the package modal: {reason}");
            None
        }
    }
}

/// Runs a script and returns what it printed; a script that fails is a failed test.
pub fn output(interpreter: &Path, script: &str) -> String {
    let output = Command::new(interpreter).args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn environment() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("modal-{MODAL_VERSION}"));
    let lock = std::fs::File::create(folder.with_extension("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let interpreter = folder.join("bin/python");
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(interpreter);
    }
    let _ = std::fs::remove_dir_all(&folder);
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let requirement = format!("modal=={MODAL_VERSION}");
    run(Command::new(&interpreter).args(["-m", "pip", "install", "--quiet", &requirement]))?;
    std::fs::write(complete, "").map_err(|error| error.to_string())?;
    Ok(interpreter)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{:?}: {}", command.get_program(), errors.lines().last().unwrap_or("failed")))
}
