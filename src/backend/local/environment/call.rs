//! Calling an installer: its output goes out line by line as the step's log, its end decides.
//!
//! What must stay true: while any process of a call lives, the lock of the environment is held, also when accel
//! itself is killed (the lock's descriptor is the call's standard input). No credential leaves in a line.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command as Program;

use crate::backend::Cancel;
use crate::domain::{Exit, JobId};
use crate::event::{Emitter, Event, Step};
use crate::net::credentials;
use crate::store::Lock;

/// Lines of a failed call that are repeated in the failure.
const TAIL_LINES: usize = 25;
/// A line longer than this is cut: a tool that writes no line ends must not fill the memory.
const LINE_LIMIT: usize = 8 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Call {
    /// Absolute.
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub cwd: PathBuf,
    pub env: BTreeMap<OsString, OsString>,
}

/// Why a call did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("cannot start {}: {reason}", program.display())]
    Start { program: PathBuf, reason: String },
    #[error("ended with {0}")]
    Failed(Exit),
    #[error("stopped")]
    Stopped,
}

/// Where the lines of one build go.
pub(super) struct Log<'a> {
    pub emitter: &'a Emitter,
    pub job: &'a JobId,
    tail: Mutex<VecDeque<String>>,
}

impl<'a> Log<'a> {
    pub fn new(emitter: &'a Emitter, job: &'a JobId) -> Self {
        Self { emitter, job, tail: Mutex::default() }
    }

    pub async fn line(&self, line: &str) {
        let line = credentials::redact(line.trim_end()).into_owned();
        {
            let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line.clone());
        }
        self.emitter.emit(Event::StepLog { job: self.job.clone(), step: Step::Image, line }).await;
    }

    /// The last lines; starts anew.
    pub fn take_tail(&self) -> String {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<String> = tail.drain(..).collect();
        lines.join("\n")
    }

    async fn copy(&self, from: Option<impl AsyncRead + Unpin>) {
        let Some(from) = from else { return };
        let mut lines = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = tokio::io::AsyncReadExt::take(&mut lines, LINE_LIMIT as u64);
            match bounded.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => self.line(&String::from_utf8_lossy(&line)).await,
            }
        }
    }
}

impl Call {
    pub async fn run(
        &self,
        lock: Option<&Lock>,
        log: &Log<'_>,
        cancel: &mut Cancel,
    ) -> Result<(), CallError> {
        let start = |reason: std::io::Error| CallError::Start {
            program: self.program.clone(),
            reason: reason.to_string(),
        };
        let stdin = match lock {
            Some(lock) => Stdio::from(lock.descriptor().map_err(start)?),
            None => Stdio::null(),
        };
        let mut child = Program::new(&self.program)
            .args(&self.args)
            .current_dir(&self.cwd)
            .env_clear()
            .envs(&self.env)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .map_err(start)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            tokio::join!(log.copy(stdout), log.copy(stderr));
            child.wait().await
        };
        let status = tokio::select! {
            status = work => status.map_err(start)?,
            _ = cancel.stopped() => return Err(CallError::Stopped),
        };
        use std::os::unix::process::ExitStatusExt;
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (Some(code), _) => Err(CallError::Failed(Exit::Code(u8::try_from(code).unwrap_or(u8::MAX)))),
            (None, signal) => Err(CallError::Failed(Exit::Signal(signal.unwrap_or_default()))),
        }
    }
}

impl Call {
    /// What a short call says on stdout. `Err`: it failed or was stopped.
    pub async fn output(&self, cancel: &mut Cancel) -> Result<String, CallError> {
        let start = |reason: std::io::Error| CallError::Start {
            program: self.program.clone(),
            reason: reason.to_string(),
        };
        let mut command = Program::new(&self.program);
        command
            .args(&self.args)
            .current_dir(&self.cwd)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::select! {
            output = command.output() => output.map_err(start)?,
            _ = cancel.stopped() => return Err(CallError::Stopped),
        };
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
