//! The commands that accel runs in a sandbox around the job's own.
//!
//! They are POSIX shell, for images with nothing but busybox. Paths are arguments, never part of a script:
//!
//! | command | arguments after `sh -c SCRIPT NAME` |
//! |---|---|
//! | `accel-run` | mount, working directory, state folder, … (see `run.sh`) |
//! | `accel-stop` | state folder, signal |
//! | `accel-pack` | working directory, … ([`crate::workspace::unpack::pack_command`]) |
//!
//! The job's string runs as on this machine: under `bash -euo pipefail -c`, else `sh -eu -c`.

use std::path::Path;

use super::tree::Delta;
use crate::backend::StopReason;
use crate::plan::spec::{CommandSpec, SandboxSpec};

const RUN: &str = include_str!("run.sh");
const STOP: &str = include_str!("stop.sh");

/// Where the tree's mount is attached: files below `tree/`, and `finish.sh`.
pub(super) const MOUNT: &str = "/__accel";
/// accel's own files in a sandbox: the job's process id.
pub(super) const STATE: &str = "/__accel_run";
/// The job's working directory where its image names none.
const WORKSPACE: &str = "/workspace";
/// Most bytes of a command's arguments that Modal takes.
pub(super) const MOST_ARGUMENTS: usize = 65_536;

/// The job's working directory: the image's `workdir`, but never the root of the file system.
pub(super) fn working_directory(spec: &SandboxSpec) -> String {
    let named = spec.image.workdir.as_deref().map(|path| path.trim_end_matches('/'));
    named.filter(|path| path.starts_with('/')).unwrap_or(WORKSPACE).to_owned()
}

/// Becomes the job's command. `word` marks what accel itself has to say about a failure.
pub(super) fn run(spec: &SandboxSpec, delta: Option<&Delta>, word: &str) -> Vec<String> {
    let (script, size) = delta.map_or((0, 0), |delta| (delta.script_size, delta.bytes.len()));
    let folder = relative(&spec.cwd);
    let mut argv = sh(RUN, "accel-run");
    argv.extend([MOUNT, &working_directory(spec), STATE, word].map(str::to_owned));
    argv.extend([script.to_string(), size.to_string(), folder]);
    match &spec.command {
        CommandSpec::Shell(text) => argv.extend(["shell".to_owned(), text.clone()]),
        CommandSpec::Argv(words) => {
            argv.push("argv".to_owned());
            argv.extend(words.iter().cloned());
        }
    }
    argv
}

pub(super) fn stop(reason: StopReason) -> Vec<String> {
    let mut argv = sh(STOP, "accel-stop");
    argv.push(STATE.to_owned());
    argv.push(reason.signal_name().trim_start_matches("SIG").to_owned());
    argv
}

fn sh(script: &str, name: &str) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), script.to_owned(), name.to_owned()]
}

fn relative(folder: &Path) -> String {
    let text = folder.to_string_lossy();
    if text.is_empty() { ".".to_owned() } else { text.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_names_the_state_folder_and_the_signal() {
        assert_eq!(stop(StopReason::Interrupt)[3..], ["accel-stop", STATE, "INT"]);
    }
}
