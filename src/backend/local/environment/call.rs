//! Calling an installer: its output goes out line by line as the step's log, its end decides.
//!
//! What must stay true: while any process of a call lives, the lock of the environment is held, also when accel
//! itself is killed (the lock's descriptor is the call's standard input). No credential leaves in a line.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::backend::{BoxFuture, Cancel};
use crate::domain::{Exit, JobId, Stream};
use crate::event::{Emitter, Event, Step};
use crate::net::credentials;
use crate::process::{Control, Input, Launch, Observer, OutputTo, SpawnError, Supervisor, Tool, ToolError};
use crate::store::Lock;

/// Lines of a failed call that are repeated in the failure.
const TAIL_LINES: usize = 25;
/// A longer line is passed on in pieces: a tool that writes no line ends must not fill the memory.
const LONGEST_LINE: usize = 8 * 1024;
/// Between the polite signal and the kill of an installer.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// A program that does not say its version in this time is not the one that was looked for.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Call {
    /// Absolute.
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub cwd: PathBuf,
    pub env: BTreeMap<OsString, OsString>,
}

/// Why a call did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("could not be started: {0}")]
    Start(#[from] SpawnError),
    #[error("could not be given the lock: {0}")]
    Lock(std::io::Error),
    #[error("ended with {0}")]
    Failed(Exit),
    #[error("was stopped")]
    Stopped,
}

/// Where the lines of one build go.
pub struct Log<'a> {
    pub emitter: &'a Emitter,
    pub job: &'a JobId,
    state: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    tail: VecDeque<String>,
    /// The unfinished line of stdout and of stderr.
    partial: [Vec<u8>; 2],
}

impl<'a> Log<'a> {
    pub fn new(emitter: &'a Emitter, job: &'a JobId) -> Self {
        Self { emitter, job, state: Mutex::default() }
    }

    pub async fn line(&self, line: &str) {
        let line = credentials::redact(line.trim_end()).into_owned();
        self.with(|lines| {
            if lines.tail.len() == TAIL_LINES {
                lines.tail.pop_front();
            }
            lines.tail.push_back(line.clone());
        });
        self.emitter.emit(Event::StepLog { job: self.job.clone(), step: Step::Image, line }).await;
    }

    /// The last lines; starts anew.
    pub fn take_tail(&self) -> String {
        self.with(|lines| std::mem::take(&mut lines.tail)).into_iter().collect::<Vec<_>>().join("\n")
    }

    async fn bytes(&self, stream: Stream, chunk: Bytes) {
        let whole = self.with(|lines| {
            let partial = &mut lines.partial[usize::from(stream == Stream::Stderr)];
            chunk
                .split_inclusive(|byte| *byte == b'\n')
                .filter_map(|piece| join(partial, piece))
                .collect::<Vec<_>>()
        });
        for line in whole {
            self.line(&line).await;
        }
    }

    /// What a program wrote last, without a line end.
    async fn finish(&self) {
        for rest in self.with(|lines| std::mem::take(&mut lines.partial)) {
            if !rest.is_empty() {
                self.line(&String::from_utf8_lossy(&rest)).await;
            }
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Lines) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Adds a piece to an unfinished line; the line, when it is whole or too long.
fn join(partial: &mut Vec<u8>, piece: &[u8]) -> Option<String> {
    partial.extend_from_slice(piece);
    let whole = partial.ends_with(b"\n") || partial.len() > LONGEST_LINE;
    whole.then(|| String::from_utf8_lossy(&std::mem::take(partial)).into_owned())
}

impl Observer for Log<'_> {
    fn output(&self, stream: Stream, chunk: Bytes) -> BoxFuture<'_, ()> {
        Box::pin(self.bytes(stream, chunk))
    }
}

impl Call {
    pub async fn run(
        self,
        supervisor: &Supervisor,
        lock: &Lock,
        log: &Log<'_>,
        cancel: &Cancel,
    ) -> Result<(), CallError> {
        let lock = lock.descriptor().map_err(CallError::Lock)?;
        let launch = self.launch(Input::File(Arc::new(lock)));
        let control = Control { cancel: cancel.clone(), stop_timeout: STOP_TIMEOUT, limit: None };
        let ended = supervisor.run(&launch, OutputTo::Observer(log), control).await?;
        log.finish().await;
        match ended.exit {
            _ if cancel.level().stops() => Err(CallError::Stopped),
            exit if exit.success() => Ok(()),
            exit => Err(CallError::Failed(exit)),
        }
    }

    /// As [`run`](Self::run), with what the program says on stderr handed back; credentials hidden.
    pub async fn quietly(
        self,
        supervisor: &Supervisor,
        lock: &Lock,
        cancel: &Cancel,
    ) -> Result<String, (CallError, String)> {
        let wordless = |error: CallError| (error, String::new());
        let lock = lock.descriptor().map_err(|error| wordless(CallError::Lock(error)))?;
        let tool = Tool { launch: self.launch(Input::File(Arc::new(lock))), limit: None, log: None };
        let output = supervisor.run_tool(&tool, cancel.clone()).await.map_err(|error| match error {
            ToolError::Spawn(error) => wordless(CallError::Start(error)),
            ToolError::TimedOut { .. } | ToolError::Cancelled { .. } => wordless(CallError::Stopped),
        })?;
        let said = credentials::redact(&output.stderr).into_owned();
        if output.exit.success() { Ok(said) } else { Err((CallError::Failed(output.exit), said)) }
    }

    /// What a short call says on stdout; `None` when it fails.
    pub async fn answer(self, supervisor: &Supervisor, cancel: &Cancel) -> Option<String> {
        let tool = Tool { launch: self.launch(Input::Null), limit: Some(QUESTION_LIMIT), log: None };
        let answer: Result<_, ToolError> = supervisor.run_tool(&tool, cancel.clone()).await;
        let answer = answer.ok().filter(|answer| answer.exit.success())?;
        String::from_utf8(answer.stdout).ok()
    }

    pub fn launch(self, input: Input) -> Launch {
        Launch {
            name: self.program.clone().into(),
            program: self.program,
            args: self.args,
            cwd: self.cwd,
            env: self.env.into_iter().collect(),
            input,
        }
    }
}
