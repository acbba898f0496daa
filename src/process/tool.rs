//! Helper programs (uv, git, docker): run to the end, their output kept within a bound.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::output::{Observer, OutputTo};
use super::run::Control;
use super::spawn::{Launch, SpawnError, Supervisor};
use crate::backend::{BoxFuture, Cancel};
use crate::domain::{Exit, JobId, Stream};
use crate::event::{Emitter, Event, Step};

/// Of stdout, this much is kept from the beginning: answers are short.
const KEPT_STDOUT: usize = 1024 * 1024;

/// Of stderr, this much is kept from the end: where the error is.
const KEPT_STDERR: usize = 64 * 1024;

/// A longer line of a step's log is passed on in pieces.
const LONGEST_LINE: usize = 8 * 1024;

/// Between the polite signal and the kill.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A helper program to run.
#[derive(Debug, Clone)]
pub struct Tool {
    pub launch: Launch,
    /// `None`: as long as it takes.
    pub limit: Option<Duration>,
    /// Lines of both streams go out as events of this step.
    pub log: Option<StepLog>,
}

/// The step whose log a tool writes.
#[derive(Debug, Clone)]
pub struct StepLog {
    pub emitter: Emitter,
    pub job: JobId,
    pub step: Step,
}

/// What a tool that ran to its end left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutput {
    pub exit: Exit,
    /// The first mebibyte.
    pub stdout: Vec<u8>,
    /// The last 64 KiB, as text.
    pub stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("{program} was stopped after {} s", limit.as_secs())]
    TimedOut { program: String, limit: Duration },
    #[error("{program} was stopped")]
    Cancelled { program: String },
}

impl Supervisor {
    /// Runs a tool. A failing exit is no error; a stop or a kill on the way is.
    pub async fn run_tool(&self, tool: &Tool, cancel: Cancel) -> Result<ToolOutput, ToolError> {
        let program = tool.launch.name.display().to_string();
        let level = cancel.clone();
        let control = Control { cancel, stop_timeout: STOP_TIMEOUT, limit: tool.limit };
        let kept = Kept { log: tool.log.clone(), state: Mutex::default() };
        let ended = self.run(&tool.launch, OutputTo::Observer(&kept), control).await?;
        kept.last_lines().await;
        if let Some(limit) = tool.limit.filter(|_| ended.timed_out) {
            return Err(ToolError::TimedOut { program, limit });
        }
        if level.level().stops() {
            return Err(ToolError::Cancelled { program });
        }
        let state = kept.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let stderr = Vec::from(state.stderr);
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ok(ToolOutput { exit: ended.exit, stdout: state.stdout, stderr })
    }
}

#[derive(Default)]
struct State {
    stdout: Vec<u8>,
    stderr: VecDeque<u8>,
    /// The unfinished line of each stream.
    lines: [Vec<u8>; 2],
}

struct Kept {
    log: Option<StepLog>,
    state: Mutex<State>,
}

impl Observer for Kept {
    fn output(&self, stream: Stream, chunk: Bytes) -> BoxFuture<'_, ()> {
        let lines = self.keep(stream, &chunk);
        Box::pin(self.emit(lines))
    }
}

impl Kept {
    /// Keeps the chunk and returns the lines that it completes.
    fn keep(&self, stream: Stream, chunk: &[u8]) -> Vec<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match stream {
            Stream::Stdout => {
                let room = KEPT_STDOUT.saturating_sub(state.stdout.len());
                state.stdout.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            Stream::Stderr => {
                state.stderr.extend(chunk);
                let surplus = state.stderr.len().saturating_sub(KEPT_STDERR);
                state.stderr.drain(..surplus);
            }
        }
        if self.log.is_none() {
            return Vec::new();
        }
        split_lines(&mut state.lines[usize::from(stream == Stream::Stderr)], chunk)
    }

    async fn last_lines(&self) {
        let lines = std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).lines);
        self.emit(lines.into_iter().filter(|line| !line.is_empty()).collect()).await;
    }

    async fn emit(&self, lines: Vec<Vec<u8>>) {
        let Some(log) = &self.log else { return };
        for line in lines {
            let line = String::from_utf8_lossy(&line).into_owned();
            log.emitter.emit(Event::StepLog { job: log.job.clone(), step: log.step, line }).await;
        }
    }
}

/// Takes the whole lines out of `partial` + `chunk`, without their ends; `partial` keeps the rest, bounded.
fn split_lines(partial: &mut Vec<u8>, chunk: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
        partial.extend_from_slice(piece);
        if partial.last() == Some(&b'\n') {
            partial.pop();
            partial.pop_if(|last| *last == b'\r');
            lines.push(std::mem::take(partial));
        } else if partial.len() > LONGEST_LINE {
            lines.push(std::mem::take(partial));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_any_chunking_and_long_ones_are_cut() {
        let split = |chunks: &[&str]| {
            let mut partial = Vec::new();
            let mut lines: Vec<_> =
                chunks.iter().flat_map(|chunk| split_lines(&mut partial, chunk.as_bytes())).collect();
            lines.push(partial);
            lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(split(&["a\nb", "c\r", "\n", "d"]), ["a", "bc", "d"]);
        assert_eq!(split(&["\n\n"]), ["", "", ""]);
        let long = "x".repeat(LONGEST_LINE + 1);
        assert_eq!(split(&[&long, "y"]), [long.as_str(), "y"]);
    }
}
