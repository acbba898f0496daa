//! The commands that accel runs in a sandbox around the job's own.
//!
//! They are POSIX shell, for images with nothing but busybox. Paths are arguments, never part of a script:
//!
//! | command | arguments after `sh -c SCRIPT NAME` |
//! |---|---|
//! | `accel-run` | mount, working directory, state folder, … (see `run.sh`) |
//! | `accel-settle` | working directory, state folder, … (see `settle.sh`) |
//! | `accel-stop` | state folder, signal, kind of input |
//! | `accel-resize` | state folder, rows, columns |
//! | `accel-pack` | working directory, … ([`crate::workspace::unpack::pack_command`]) |
//!
//! The job's string runs as on this machine: under `bash -euo pipefail -c`, else `sh -eu -c`.

use std::path::Path;

use super::tree::Delta;
use crate::backend::StopReason;
use crate::plan::spec::{CommandSpec, SandboxSpec};
use crate::process::WindowSize;

const RUN: &str = include_str!("run.sh");
const SETTLE: &str = include_str!("settle.sh");
const STOP: &str = include_str!("stop.sh");
const RESIZE: &str = include_str!("resize.sh");

/// Where the tree's mount is attached: files below `tree/`, and `finish.sh`.
pub(super) const MOUNT: &str = "/__accel";
/// accel's own files in a sandbox: the job's process id; of one that is kept, what it holds.
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

/// What the job's command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing: end of file at once.
    None,
    /// A pipe.
    Standard,
    Terminal,
}

impl Input {
    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Standard => "standard",
            Self::Terminal => "terminal",
        }
    }
}

/// What distinguishes one run of the script from others.
pub(super) struct Words<'a> {
    /// Marks what accel itself has to say about a failure; the job does not learn it.
    pub(super) own: &'a str,
    /// In the environment of every process of the job.
    pub(super) mark: &'a str,
    /// What a kept sandbox was left with; `None` for a fresh one.
    pub(super) left: Option<&'a str>,
}

impl Words<'_> {
    /// The one line of a kept sandbox that is not as it was left, and in which nothing was run.
    pub(super) fn out_of_step(&self) -> String {
        format!("accel: out of step [{}]\n", self.own)
    }
}

/// Becomes the job's command. Only one that reads nothing may have a delta.
pub(super) fn run(spec: &SandboxSpec, delta: Option<&Delta>, input: Input, words: &Words<'_>) -> Vec<String> {
    let (script, size) = delta.map_or((0, 0), |delta| (delta.script_size, delta.bytes.len()));
    let folder = relative(&spec.cwd);
    let mut argv = sh(RUN, "accel-run");
    argv.extend([MOUNT, &working_directory(spec), STATE, words.own, words.mark].map(str::to_owned));
    argv.extend([script.to_string(), size.to_string(), folder, input.word().to_owned()]);
    argv.push(words.left.unwrap_or_default().to_owned());
    match &spec.command {
        CommandSpec::Shell(text) => argv.extend(["shell".to_owned(), text.clone()]),
        CommandSpec::Argv(words) => {
            argv.push("argv".to_owned());
            argv.extend(words.iter().cloned());
        }
    }
    argv
}

/// Looks at what a run left and makes the sandbox ready for the next. `edits` come on stdin, `gone` lines to take
/// away first.
pub(super) fn settle(spec: &SandboxSpec, mark: &str, word: &str, edits: &str, gone: usize) -> Vec<String> {
    let mut argv = sh(SETTLE, "accel-settle");
    argv.extend([&working_directory(spec), STATE, mark, word].map(str::to_owned));
    argv.extend([edits.len().to_string(), gone.to_string()]);
    argv
}

pub(super) fn stop(reason: StopReason, input: Input) -> Vec<String> {
    let mut argv = sh(STOP, "accel-stop");
    argv.push(STATE.to_owned());
    argv.push(reason.request().signal_name().trim_start_matches("SIG").to_owned());
    argv.push(input.word().to_owned());
    argv
}

pub(super) fn resize(size: WindowSize) -> Vec<String> {
    let mut argv = sh(RESIZE, "accel-resize");
    argv.extend([STATE.to_owned(), size.rows.to_string(), size.columns.to_string()]);
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
mod settle_tests;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_stop_names_the_state_folder_and_the_signal() {
        assert_eq!(stop(StopReason::Interrupt, Input::None)[3..], ["accel-stop", STATE, "INT", "none"]);
        assert_eq!(stop(StopReason::Unread, Input::None)[3..], ["accel-stop", STATE, "TERM", "none"]);
    }

    /// The shells that images have; those that this machine lacks are named.
    fn shells() -> Vec<Vec<&'static str>> {
        let shells = [vec!["sh"], vec!["dash"], vec!["bash", "--posix"], vec!["busybox", "sh"]];
        let has = |shell: &Vec<&str>| {
            let works = Command::new(shell[0]).args(&shell[1..]).args(["-c", "true"]).output();
            let works = works.is_ok_and(|output| output.status.success());
            if !works {
                println!("skipped: there is no {} here", shell[0]);
            }
            works
        };
        shells.into_iter().filter(has).collect()
    }

    #[test]
    fn every_shell_makes_the_tree_and_becomes_the_command() {
        for shell in shells() {
            let folder = tempfile::tempdir().unwrap();
            let at = |path: &str| folder.path().join(path);
            fs::create_dir_all(at("mount/tree/d")).unwrap();
            fs::write(at("mount/tree/d/-odd 'name"), "old").unwrap();
            fs::write(at("mount/finish.sh"), "mkdir -p ./empty || return 1\nchmod 0600 \"./d/-odd 'name\"\n")
                .unwrap();
            let text = "put 81 5 './new file' || return 1\ngone ./gone || return 1\n";
            let script = format!("{text}{}", "\n".repeat(80 - text.len()));
            let words = ["mount", "work", "state"].map(|path| at(path).to_string_lossy().into_owned());
            let mut child = Command::new(shell[0])
                .args(&shell[1..])
                .args(["-c", RUN, "accel-run"])
                .args(&words)
                .args(["word", "mark", "80", "85", "d", "none", "", "shell"])
                .arg("cat; cat -- \"./-odd 'name\" '../new file'; stat -c %a ./-* ../empty; exit 7")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(format!("{script}fresh").as_bytes()).unwrap();
            drop(stdin);
            let pid = child.id();
            let output = child.wait_with_output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "oldfresh600\n755\n", "{shell:?}");
            assert_eq!(output.status.code(), Some(7), "{shell:?}");
            assert_eq!(fs::read_to_string(at("state/pid")).unwrap().trim(), pid.to_string(), "{shell:?}");
        }
    }

    #[test]
    fn what_a_command_reads_is_not_touched_before() {
        for shell in shells() {
            let folder = tempfile::tempdir().unwrap();
            let at = |path: &str| folder.path().join(path);
            fs::create_dir_all(at("mount/tree")).unwrap();
            fs::write(at("mount/finish.sh"), "mkdir -p ./empty || return 1\n").unwrap();
            let words = ["mount", "work", "state"].map(|path| at(path).to_string_lossy().into_owned());
            for (input, expected) in [("none", ""), ("standard", "all of it\n"), ("terminal", "all of it\n")]
            {
                let mut child = Command::new(shell[0])
                    .args(&shell[1..])
                    .args(["-c", RUN, "accel-run"])
                    .args(&words)
                    .args(["word", "mark", "0", "0", ".", input, "", "argv", "cat"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                // A command without input may be gone already.
                let _ = child.stdin.take().unwrap().write_all(b"all of it\n");
                let output = child.wait_with_output().unwrap();
                assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{shell:?} {input}");
            }
        }
    }

    #[test]
    fn a_delta_that_did_not_arrive_whole_is_not_applied() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path).to_string_lossy().into_owned();
        fs::create_dir_all(at("mount")).unwrap();
        fs::write(at("mount/finish.sh"), "").unwrap();
        let output = Command::new("sh")
            .args([
                "-c",
                RUN,
                "accel-run",
                &at("mount"),
                &at("work"),
                &at("state"),
                "word",
                "mark",
                "5",
                "60",
                ".",
                "none",
                "",
                "shell",
                "true",
            ])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, "accel: the changes of the tree did not arrive whole [word]\n");
    }
}
