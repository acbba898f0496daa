//! The closed sets of words that accel.toml, plans and events share.
//!
//! Owns their spelling, once. Whatever is written here is user-visible contract: renaming a variant changes
//! the grammar, the event stream or both.

mod gpu;

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use gpu::{GPU_KINDS, Gpu, GpuError, MAX_GPU_COUNT};

/// Where a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// This machine.
    Local,
    /// A Modal sandbox.
    Modal,
}

impl Place {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Modal => "modal",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a job did not succeed (design §3.7). Everything but `Command` is not the job's own doing: only that is never
/// answered by another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Transport or server fault.
    Infra,
    /// The server could not be reached, or did not answer.
    Unreachable,
    /// Credentials are missing or refused.
    Auth,
    /// No machine of the asked kind is to be had.
    Capacity,
    /// Waited longer for a machine than allowed.
    Queue,
    /// The image or environment could not be built.
    Image,
    /// Out of memory.
    Oom,
    /// The machine was taken away.
    Preempted,
    /// The timeout over all attempts passed.
    Timeout,
    /// What may be spent is spent (`[budget]`).
    Budget,
    /// The command itself failed, or the job asks for what cannot be: a secret that does not exist, say.
    Command,
}

impl Cause {
    pub const ALL: [Self; 11] = [
        Self::Infra,
        Self::Unreachable,
        Self::Auth,
        Self::Capacity,
        Self::Queue,
        Self::Image,
        Self::Oom,
        Self::Preempted,
        Self::Timeout,
        Self::Budget,
        Self::Command,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Infra => "infra",
            Self::Unreachable => "unreachable",
            Self::Auth => "auth",
            Self::Capacity => "capacity",
            Self::Queue => "queue",
            Self::Image => "image",
            Self::Oom => "oom",
            Self::Preempted => "preempted",
            Self::Timeout => "timeout",
            Self::Budget => "budget",
            Self::Command => "command",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A planned job's identity: the job's name, with its matrix values when it has any
/// (`matrix-test[python=3.12]`). Unique within a plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct JobId(#[schemars(with = "String")] Arc<str>);

impl JobId {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One of a command's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Code(u8),
    Signal(i32),
}

impl Exit {
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The code a shell would report: the code itself, or 128 + signal.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => crate::base::exit_code::of_signal(signal),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}
