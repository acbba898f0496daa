//! Starting a process, quickly and with nothing inherited that was not meant to be.
//!
//! Everything here keeps to what `posix_spawn` can do (a group of its own, a working folder, an absolute
//! program): the standard library then starts the process without copying accel's memory map, and no thread is
//! made. A `pre_exec` hook or a relative program would lose that.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::process::Pid;

use super::descendants::{Ownership, become_subreaper};
use super::terminal::Before;

/// Carried by every process that accel starts and, through it, by its descendants; a nested accel extends it.
/// How a descendant that left its process group is told from another job's.
const TOKEN: &str = "ACCEL_JOB_TOKEN";

/// What a process reads as its standard input.
#[derive(Debug, Clone)]
pub enum Input {
    /// End of file at once.
    Null,
    /// A file. A locked one stays locked until the last process that inherited it has ended, also when accel
    /// is killed.
    File(Arc<File>),
    /// accel's own, with the terminal handed over while the process runs.
    Terminal,
}

/// A process to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Absolute.
    pub program: PathBuf,
    /// What the process sees as its own name.
    pub name: OsString,
    pub args: Vec<OsString>,
    pub cwd: PathBuf,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    pub input: Input,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("working folder {} {reason}", folder.display())]
    WorkingFolder { folder: PathBuf, reason: String },
    #[error("{}: not found", .0.display())]
    NotFound(PathBuf),
    #[error("{}: {reason}", program.display())]
    NotExecutable { program: PathBuf, reason: String },
    /// No interpreter line and no known format.
    #[error("{}: not a program: no interpreter line (#!) and no known format", .0.display())]
    Format(PathBuf),
    #[error("{}: arguments and environment are too long ({bytes} bytes)", program.display())]
    TooLong { program: PathBuf, bytes: usize },
    /// Processes, memory or descriptors ran out.
    #[error("cannot start {}: {source}", program.display())]
    Resources { program: PathBuf, source: io::Error },
    #[error("cannot start {}: {source}", program.display())]
    Other { program: PathBuf, source: io::Error },
}

/// Starts processes and answers for all of them. Cheap to clone; clones share one account.
#[derive(Debug, Clone)]
pub struct Supervisor(Arc<Account>);

#[derive(Debug)]
struct Account {
    ownership: Ownership,
    state: Mutex<State>,
    /// What the terminal was before it was lent to a job; `None` while it is accel's own.
    lent: Mutex<Option<Before>>,
}

#[derive(Debug, Default)]
struct State {
    prepared: bool,
    started: u64,
    /// Every leader that has not been reaped, with its token.
    leaders: HashMap<Pid, String>,
}

/// The registered leaders, locked: while this is held no process starts and no leader is reaped.
pub(super) struct Leaders<'a>(MutexGuard<'a, State>);

impl Leaders<'_> {
    pub(super) fn contains(&self, pid: Pid) -> bool {
        self.0.leaders.contains_key(&pid)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.leaders.is_empty()
    }
}

/// A started process: the leader of its own group.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: tokio::process::Child,
    /// The leader's process id, and its group's.
    pub(super) group: Pid,
    /// Value of [`TOKEN`].
    pub(super) token: String,
    pub(super) at: Instant,
}

impl Started {
    /// The environment entry that every descendant carries unless it cleared its environment.
    pub(super) fn mark(&self) -> String {
        format!("{TOKEN}={}", self.token)
    }
}

impl Supervisor {
    pub fn new(ownership: Ownership) -> Self {
        Self(Arc::new(Account { ownership, state: Mutex::default(), lent: Mutex::default() }))
    }

    pub(super) fn lent(&self) -> &Mutex<Option<Before>> {
        &self.0.lent
    }

    /// The group of every leader that has not been reaped.
    pub(super) fn groups(&self) -> Vec<Pid> {
        self.state().leaders.keys().copied().collect()
    }

    pub(super) fn ownership(&self) -> Ownership {
        self.0.ownership
    }

    pub(super) fn leaders(&self) -> Leaders<'_> {
        Leaders(self.state())
    }

    /// To be called once the leader has been reaped.
    pub(super) fn forget(&self, leader: Pid) {
        self.state().leaders.remove(&leader);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The account stays sound whatever panicked while it was held: each change is one insertion or removal.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlike that of any other living run: of this process, this account, this launch.
    fn token(&self, launch: &Launch, number: u64) -> String {
        let own = format!("{}.{:x}.{number}", std::process::id(), Arc::as_ptr(&self.0).addr());
        match launch.env.iter().rev().find(|(name, _)| name == TOKEN) {
            Some((_, outer)) => format!("{}/{own}", outer.display()),
            None => own,
        }
    }

    /// Starts the process and registers it in one step, so that nobody takes it for an orphan.
    pub(super) fn spawn(&self, launch: &Launch, stdio: impl Fn() -> Stdio) -> Result<Started, SpawnError> {
        let mut state = self.state();
        if !state.prepared {
            become_subreaper();
            state.prepared = true;
        }
        state.started += 1;
        let token = self.token(launch, state.started);
        let mut command = command(launch, &token).map_err(|error| explain(launch, error))?;
        command.stdout(stdio()).stderr(stdio());
        let child = tokio::process::Command::from(command).spawn().map_err(|error| explain(launch, error))?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .expect("a process that was just started has an id");
        state.leaders.insert(group, token.clone());
        Ok(Started { child, group, token, at: Instant::now() })
    }
}

fn command(launch: &Launch, token: &str) -> io::Result<std::process::Command> {
    let mut command = std::process::Command::new(&launch.program);
    command
        .arg0(&launch.name)
        .args(&launch.args)
        .current_dir(&launch.cwd)
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .env(TOKEN, token)
        .process_group(0)
        .stdin(match &launch.input {
            Input::Null => Stdio::null(),
            Input::File(file) => Stdio::from(file.try_clone()?),
            Input::Terminal => Stdio::inherit(),
        });
    Ok(command)
}

/// The system says "no such file" for a missing folder and a missing program alike; this tells them apart.
fn explain(launch: &Launch, source: io::Error) -> SpawnError {
    use rustix::io::Errno;

    if let Some(reason) = folder_fault(&launch.cwd) {
        return SpawnError::WorkingFolder { folder: launch.cwd.clone(), reason };
    }
    let program = launch.program.clone();
    match Errno::from_io_error(&source) {
        Some(Errno::NOENT) if !program.exists() => SpawnError::NotFound(program),
        Some(Errno::NOENT) => SpawnError::NotExecutable {
            program,
            reason: "the interpreter it names (first line, or program loader) does not exist".to_owned(),
        },
        Some(Errno::ACCESS | Errno::PERM | Errno::ISDIR) => {
            SpawnError::NotExecutable { program, reason: "permission denied".to_owned() }
        }
        Some(Errno::NOEXEC) => SpawnError::Format(program),
        Some(Errno::TOOBIG) => SpawnError::TooLong { program, bytes: length(launch) },
        Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => {
            SpawnError::Resources { program, source }
        }
        _ => SpawnError::Other { program, source },
    }
}

fn folder_fault(folder: &Path) -> Option<String> {
    match folder.metadata() {
        Ok(found) if !found.is_dir() => Some("is not a folder".to_owned()),
        Ok(_) => rustix::fs::access(folder, rustix::fs::Access::EXEC_OK)
            .err()
            .map(|_| "may not be entered (permission denied)".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("does not exist".to_owned()),
        Err(error) => Some(format!("cannot be used: {error}")),
    }
}

fn length(launch: &Launch) -> usize {
    let args: usize = launch.args.iter().map(|arg| arg.len() + 1).sum();
    let env: usize = launch.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    args + env
}
