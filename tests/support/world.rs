//! One isolated world per test: its own HOME, XDG folders, PATH, locale, terminal and project.
//!
//! ```ignore
//! let world = World::new().file("accel.toml", "version = 1\n[jobs.hi]\nrun = 'echo hi'\n");
//! world.accel(["run", "hi"]).run().code(0).stdout("hi\n");
//! ```
//!
//! Nothing of the real environment reaches accel but what a test asks for. Every command has a deadline as a
//! safety net: reaching it kills all that the command started and fails the test with what was said until then.
//! Nothing waits for time to pass.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

#[path = "watchdog.rs"]
mod watchdog;

use watchdog::Watchdog;

pub use rustix::process::Signal;

/// Longest a command may take before the test is failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// The same where environments may be built with the package index.
const BUILD_DEADLINE: Duration = Duration::from_secs(240);

const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that decide how the package index is reached and trusted.
const NETWORK_VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "PIP_INDEX_URL",
];

pub struct World {
    folder: tempfile::TempDir,
    env: Vec<(OsString, OsString)>,
    deadline: Duration,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("accel-world-").tempdir().unwrap();
        // A canonical path, so that what accel prints and what tests expect agree.
        let world = Self { folder, env: Vec::new(), deadline: DEADLINE };
        for name in ["project", "home", "cache", "state", "config", "runtime", "tmp", "bin"] {
            fs::create_dir(world.root().join(name)).unwrap();
        }
        fs::set_permissions(world.root().join("runtime"), fs::Permissions::from_mode(0o700)).unwrap();
        world
    }

    /// The folder that holds all of this world.
    pub fn root(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    /// The folder that commands run in.
    pub fn project(&self) -> PathBuf {
        self.root().join("project")
    }

    pub fn home(&self) -> PathBuf {
        self.root().join("home")
    }

    /// `$XDG_CACHE_HOME`; accel's own is `accel` inside.
    pub fn cache(&self) -> PathBuf {
        self.root().join("cache")
    }

    /// `$XDG_STATE_HOME`.
    pub fn state(&self) -> PathBuf {
        self.root().join("state")
    }

    /// A path within the project.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.project().join(relative)
    }

    /// Writes a file of the project, with the folders above it.
    pub fn file(self, relative: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Self {
        self.write(relative, contents);
        self
    }

    pub fn write(&self, relative: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Writes an executable of the project.
    pub fn script(self, relative: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Self {
        self.write(&relative, contents);
        fs::set_permissions(self.path(relative), fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// Puts an executable first on PATH.
    pub fn command(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        let path = self.root().join("bin").join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    pub fn read(&self, relative: impl AsRef<Path>) -> String {
        let path = self.path(relative);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
    }

    pub fn exists(&self, relative: impl AsRef<Path>) -> bool {
        self.path(relative).symlink_metadata().is_ok()
    }

    /// A variable for every command of this world.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Several at once, such as those that lead to the tests' Modal.
    pub fn envs(
        self,
        variables: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Self {
        variables.into_iter().fold(self, |world, (name, value)| world.env(name, value))
    }

    /// What [`env`](Self::env) was given.
    pub fn variables(&self) -> &[(OsString, OsString)] {
        &self.env
    }

    /// For what takes longer than other tests.
    pub fn with_time(mut self, more: Duration) -> Self {
        self.deadline += more;
        self
    }

    /// Adds the PATH of whoever runs the tests (python, uv) and what reaching the package index needs.
    pub fn with_host_tools(self) -> Self {
        let host = std::env::var_os("PATH").unwrap_or_default();
        let mut path = self.search_path();
        path.push(":");
        path.push(host);
        let mut world = self.env("PATH", path);
        world.deadline = BUILD_DEADLINE;
        for name in NETWORK_VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                world = world.env(*name, value);
            }
        }
        world
    }

    fn search_path(&self) -> OsString {
        let mut path = self.root().join("bin").into_os_string();
        path.push(":");
        path.push(SYSTEM_PATH);
        path
    }

    /// An invocation of the real binary, to be configured and run.
    pub fn accel<I, S>(&self, arguments: I) -> Invocation
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut invocation = self.program(env!("CARGO_BIN_EXE_accel"));
        invocation.command.args(arguments);
        invocation
    }

    /// Any other program, in the same isolation.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Invocation {
        let root = self.root();
        let mut command = Command::new(program);
        command
            .current_dir(self.project())
            .env_clear()
            .env("PATH", self.search_path())
            .env("HOME", root.join("home"))
            .env("XDG_CACHE_HOME", root.join("cache"))
            .env("XDG_STATE_HOME", root.join("state"))
            .env("XDG_CONFIG_HOME", root.join("config"))
            .env("XDG_RUNTIME_DIR", root.join("runtime"))
            .env("TMPDIR", root.join("tmp"))
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .process_group(0);
        Invocation {
            command,
            stdin: None,
            stdin_file: None,
            stdout: None,
            stderr: None,
            deadline: self.deadline,
            root,
        }
    }
}

/// A command that has not started.
pub struct Invocation {
    command: Command,
    stdin: Option<Vec<u8>>,
    stdin_file: Option<fs::File>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    deadline: Duration,
    root: PathBuf,
}

impl Invocation {
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Another working folder than the project.
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Bytes for standard input, which is otherwise empty.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// A file as standard input; for [`run`](Self::run).
    pub fn stdin_from(mut self, file: fs::File) -> Self {
        self.stdin_file = Some(file);
        self
    }

    /// Standard output goes there instead of being collected.
    pub fn stdout_to(mut self, pipe: PipeWriter) -> Self {
        self.stdout = Some(pipe.into());
        self
    }

    /// Standard output and standard error are that terminal instead of being collected.
    pub fn terminal(mut self, terminal: OwnedFd) -> Self {
        self.stderr = Some(terminal.try_clone().unwrap());
        self.stdout = Some(terminal);
        self
    }

    /// Runs to the end and collects everything.
    #[track_caller]
    pub fn run(self) -> Finished {
        let stdin = self.stdin.clone().unwrap_or_default();
        let mut running = self.spawn();
        let pipe = running.child.stdin.take();
        let writer = std::thread::spawn(move || {
            // The command may end without reading all of it.
            let _ = pipe.map(|mut pipe| pipe.write_all(&stdin));
        });
        let finished = running.finish();
        writer.join().unwrap();
        finished
    }

    /// Starts without waiting: for signals and for output while it runs.
    #[track_caller]
    pub fn spawn(mut self) -> Running {
        let described = format!("{:?}", self.command);
        self.command.stdin(self.stdin_file.take().map_or_else(Stdio::piped, Stdio::from));
        self.command.stderr(self.stderr.take().map_or_else(Stdio::piped, Stdio::from));
        self.command.stdout(self.stdout.take().map_or_else(Stdio::piped, Stdio::from));
        let mark = watchdog::mark(&mut self.command);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{described}: {error}"));
        // It holds the given standard output open.
        drop(self.command);
        let watchdog = Watchdog::start(rustix::process::Pid::from_child(&child), mark, self.deadline);
        let stdout = child.stdout.take().map_or_else(Stream::ended, Stream::follow);
        let stderr = child.stderr.take().map_or_else(Stream::ended, Stream::follow);
        Running { child, stdout, stderr, watchdog, described, root: self.root }
    }
}

/// A command that runs.
pub struct Running {
    child: Child,
    stdout: Stream,
    stderr: Stream,
    watchdog: Watchdog,
    described: String,
    root: PathBuf,
}

impl Running {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Waits until standard output has said `text`; panics when it ends without.
    #[track_caller]
    pub fn wait_for_stdout(&mut self, text: &str) -> &mut Self {
        self.stdout.wait_for(text);
        self
    }

    #[track_caller]
    pub fn wait_for_stderr(&mut self, text: &str) -> &mut Self {
        self.stderr.wait_for(text);
        self
    }

    /// Waits until standard error has said `text` so many times in all.
    #[track_caller]
    pub fn wait_for_stderr_times(&mut self, text: &str, times: usize) -> &mut Self {
        self.stderr.wait_for_times(text, times);
        self
    }

    /// Sends a signal to accel alone, not to its group.
    #[track_caller]
    pub fn signal(&mut self, signal: Signal) -> &mut Self {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        assert!(
            ignored >> (signal.as_raw() - 1) & 1 == 0,
            "{signal:?} is ignored by whoever started the tests, as for a background command of a shell"
        );
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
        self
    }

    /// Takes standard input; dropping it closes the pipe.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Closes the reading end of standard output, as `head` does when it has enough.
    pub fn close_stdout(&mut self) -> &mut Self {
        self.stdout.close();
        self
    }

    /// Waits for the end of the command and of its output.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        let stdout = self.stdout.rest();
        let stderr = self.stderr.rest();
        let killed = self.watchdog.end();
        let finished = Finished { status, stdout, stderr, described: self.described, root: self.root };
        assert!(
            killed.is_none(),
            "ran into the deadline; killed {}: {finished:?}",
            killed.unwrap_or_default()
        );
        finished
    }
}

/// A pipe read by its own thread, in pieces that arrive.
struct Stream {
    pieces: Option<mpsc::Receiver<Vec<u8>>>,
    seen: Vec<u8>,
    closing: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Stream {
    /// Nothing comes.
    fn ended() -> Self {
        Self::follow(std::io::empty())
    }

    fn follow(pipe: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = mpsc::channel();
        let closing = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stop = std::sync::Arc::clone(&closing);
        std::thread::spawn(move || {
            let mut pipe = BufReader::with_capacity(64 * 1024, pipe);
            while let Ok(piece) = pipe.fill_buf().map(<[u8]>::to_vec) {
                if piece.is_empty() || sender.send(piece.clone()).is_err() {
                    break;
                }
                pipe.consume(piece.len());
                if stop.load(std::sync::atomic::Ordering::SeqCst) {
                    break;
                }
            }
        });
        Self { pieces: Some(pieces), seen: Vec::new(), closing }
    }

    /// The reader ends, and with it the pipe, after the piece that it is waiting for.
    fn close(&mut self) {
        self.closing.store(true, std::sync::atomic::Ordering::SeqCst);
        self.pieces = None;
    }

    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        self.wait_for_times(text, 1);
    }

    #[track_caller]
    fn wait_for_times(&mut self, text: &str, times: usize) {
        while String::from_utf8_lossy(&self.seen).matches(text).count() < times {
            match self.pieces.as_ref().and_then(|pieces| pieces.recv().ok()) {
                Some(piece) => self.seen.extend(piece),
                None => panic!("ended without {text:?}: {}", String::from_utf8_lossy(&self.seen)),
            }
        }
    }

    fn rest(mut self) -> Vec<u8> {
        if let Some(pieces) = self.pieces.take() {
            pieces.iter().for_each(|piece| self.seen.extend(piece));
        }
        self.seen
    }
}

/// A command that has ended, with assertions that show everything when they fail.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    described: String,
    root: PathBuf,
}

impl std::fmt::Debug for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\n{}\n--- stdout\n{}\n--- stderr\n{}",
            self.described,
            self.status,
            self.stdout_text(),
            self.stderr_text()
        )
    }
}

impl Finished {
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    #[track_caller]
    pub fn code(&self, expected: i32) -> &Self {
        assert_eq!(self.status.code(), Some(expected), "{self:?}");
        self
    }

    /// Ended by a signal itself, as against reporting one in its code.
    #[track_caller]
    pub fn killed_by(&self, signal: Signal) -> &Self {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "{self:?}");
        self
    }

    #[track_caller]
    pub fn stdout(&self, expected: &str) -> &Self {
        assert_eq!(self.stdout_text(), expected, "{self:?}");
        self
    }

    #[track_caller]
    pub fn stderr(&self, expected: &str) -> &Self {
        assert_eq!(self.stderr_text(), expected, "{self:?}");
        self
    }

    #[track_caller]
    pub fn stdout_has(&self, part: &str) -> &Self {
        assert!(self.stdout_text().contains(part), "no {part:?} in stdout of {self:?}");
        self
    }

    #[track_caller]
    pub fn stderr_has(&self, part: &str) -> &Self {
        assert!(self.stderr_text().contains(part), "no {part:?} in stderr of {self:?}");
        self
    }

    #[track_caller]
    pub fn stdout_lacks(&self, part: &str) -> &Self {
        assert!(!self.stdout_text().contains(part), "{part:?} in stdout of {self:?}");
        self
    }

    #[track_caller]
    pub fn stderr_lacks(&self, part: &str) -> &Self {
        assert!(!self.stderr_text().contains(part), "{part:?} in stderr of {self:?}");
        self
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Standard output as one JSON document per line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout_text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// Both streams and the exit code, for snapshots: the world's folder and every duration replaced.
    pub fn transcript(&self) -> String {
        let code = self.status.code().map_or_else(|| self.status.to_string(), |code| code.to_string());
        let mut transcript = format!("exit code: {code}\n");
        for (name, text) in [("stdout", self.stdout_text()), ("stderr", self.stderr_text())] {
            if !text.is_empty() {
                transcript.push_str(&format!("--- {name}\n{}", self.redact(&text)));
            }
        }
        transcript
    }

    /// Replaces what differs from run to run: this world's folder, and durations such as `1.2s` or `35ms`.
    pub fn redact(&self, text: &str) -> String {
        redact_durations(&text.replace(&*self.root.to_string_lossy(), "[WORLD]"))
    }
}

fn redact_durations(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let word_before = rest[..start].chars().next_back();
        result.push_str(&rest[..start]);
        rest = &rest[start..];
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let after = &rest[number..];
        let unit = after.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(after.len());
        let free = !word_before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"');
        let measured = rest[..number].contains('.') || &after[..unit] == "ms";
        if free && measured && matches!(&after[..unit], "ms" | "s") {
            result.push_str("[TIME]");
            rest = &after[unit..];
        } else {
            result.push_str(&rest[..number]);
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

#[test]
fn durations_are_redacted_and_limits_are_not() {
    assert_eq!(redact_durations("ok test 1.2s, 35ms; v1.2 py3s"), "ok test [TIME], [TIME]; v1.2 py3s");
    assert_eq!(redact_durations("timeout 10s, accel.toml:12"), "timeout 10s, accel.toml:12");
}
