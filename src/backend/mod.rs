//! Places where a command can run, behind one contract.
//!
//! A [`Backend`] turns a sandbox spec into a [`Session`]; a session runs one command at a time and is consumed
//! by closing it. A backend reads specs, never configuration; it emits steps, logs and output, never prints.
//! What must stay true: whatever `open` began is ended by `close` or by `open`'s own failure; after `close`
//! no command of the session lives, but for a warm sandbox within its lease, which may still be put in order.

pub mod cancel;
pub mod fake;
pub mod local;
pub mod modal;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{Cause, Exit, JobId, Place};
use crate::event::Emitter;
use crate::plan::spec::{SandboxSpec, SyncSet};

pub use cancel::{Cancel, CancelLevel, CancelSource, StopReason};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a session is opened for.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    pub job: JobId,
    pub spec: Arc<SandboxSpec>,
    /// The folder of accel.toml.
    pub root: PathBuf,
    /// From 1.
    pub attempt: u32,
    /// What is left of the job's time, over all attempts.
    pub timeout: Option<Duration>,
    /// How long the job may wait for a machine before it fails with [`Cause::Queue`].
    pub queue_limit: Option<Duration>,
    pub shortage: Shortage,
    pub prospect: Prospect,
    /// For how long what the job ran in is kept for the next run, where a place can keep it; `None`: not at all.
    pub keep: Option<Keep>,
    pub workplace: Workplace,
    /// Declared outputs of the jobs that this one needs, relative to the root: they travel even if they are ignored.
    pub needed_outputs: Vec<String>,
    pub emitter: Emitter,
    pub cancel: Cancel,
}

/// What to do where a place has less than the job asks for (a GPU, memory) and could run it nevertheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Warn and run with what is there.
    MakeDo,
    /// Fail with [`Cause::Capacity`]: another place is to be tried.
    Refuse,
}

/// Whether another attempt may follow this one, so that what it writes may have to be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    Last,
    Another,
}

/// How long a sandbox is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Without work.
    pub idle: Duration,
    /// From its creation on; a run that has begun goes on.
    pub max: Duration,
}

/// What the command works in.
#[derive(Debug, Clone)]
pub enum Workplace {
    /// The project, or what stands for it in the place.
    Project,
    /// A copy of what travels, even where the project itself is at hand: nothing is written there but by
    /// [`Session::collect_outputs`].
    Copy(SyncSet),
}

/// Where a command's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputMode {
    /// Straight to accel's own stdout and stderr: nothing needs the bytes.
    Inherit,
    /// As `Output` events.
    Events,
}

pub trait Backend: Send + Sync {
    fn place(&self) -> Place;

    /// Makes everything ready: environment or image, tree, sandbox.
    fn open(&self, request: OpenRequest) -> BoxFuture<'_, Result<Box<dyn Session>, Failure>>;
}

pub trait Session: Send {
    /// Runs the spec's command to its end. A cancelled command is no failure: its exit is returned.
    /// All output has been emitted when this returns.
    fn execute(&mut self, output: OutputMode) -> BoxFuture<'_, Result<Exit, Failure>>;

    /// Brings declared outputs to the project; nothing to do where the command already ran in it.
    fn collect_outputs(&mut self) -> BoxFuture<'_, Result<(), Failure>>;

    /// Takes back what the command has put into the project's declared outputs: another attempt follows. Nothing to do
    /// where outputs only come with [`collect_outputs`](Self::collect_outputs).
    fn abandon(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Resolves when all is spent that the session may cost; the command is then to be stopped. `None`: it may cost
    /// anything, or nothing. Asked for once.
    fn used_up(&mut self) -> Option<BoxFuture<'static, Failure>> {
        None
    }

    /// Ends the session. Called exactly once, also after failure and cancellation.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>>;
}

/// Why a backend could not do its part. Never a failed command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub cause: Cause,
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// 125 unless a shell would say 126 or 127.
    pub exit_code: u8,
}

impl Failure {
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), help: None, exit_code: crate::base::exit_code::ACCEL_FAILED }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn exit_code(mut self, code: u8) -> Self {
        self.exit_code = code;
        self
    }
}
