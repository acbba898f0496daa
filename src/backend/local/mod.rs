//! This machine as a backend: the host as it is, or a virtual environment made by uv.
//!
//! Owns what a job sees here: its environment, its working folder, its command. `crate::process` starts and
//! ends the processes; an [`Environments`] makes virtual environments. What must stay true: the host is never
//! changed, and what an image asks for that the host does not have is said, never silently left out. This is no
//! security boundary.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;

use super::{BoxFuture, Cancel, Failure};
use crate::domain::JobId;
use crate::event::Emitter;
use crate::plan::spec::ImageSpec;

/// Makes the virtual environments that images with Python packages need on this machine.
pub trait Environments: Send + Sync {
    /// Returns a complete environment for the image: found, or built now. Progress goes out as
    /// [`Step::Image`](crate::event::Step::Image) events. Only called for images whose engine is `venv`.
    fn prepare<'a>(&'a self, request: PrepareRequest<'a>) -> BoxFuture<'a, Result<Prepared, Failure>>;
}

/// What an environment is prepared for.
#[derive(Debug, Clone)]
pub struct PrepareRequest<'a> {
    pub image: &'a Arc<ImageSpec>,
    /// The folder of accel.toml.
    pub root: &'a Path,
    pub job: &'a JobId,
    pub emitter: &'a Emitter,
    /// A stop or kill ends the preparation early, as a failure.
    pub cancel: Cancel,
}

/// What an environment adds to a job. The image's own `env` layers are not part of it: the session adds them.
#[derive(Clone, Default)]
pub struct Prepared {
    /// Folders to put before the job's PATH, first one first.
    pub path_prefix: Vec<PathBuf>,
    /// Variables that win over the host's and the job's (`VIRTUAL_ENV`).
    pub env: IndexMap<String, String>,
    /// Variables of the host that must not reach the job (`PYTHONHOME`).
    pub unset: Vec<String>,
    /// Kept until the session closes: a lock that says the environment is in use.
    pub in_use: Option<Arc<dyn Any + Send + Sync>>,
}
