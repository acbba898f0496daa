//! This machine as a backend: the host as it is, or a virtual environment made by uv.
//!
//! Owns what a job sees here: its environment, its working folder, its command. [`crate::process`] starts and
//! ends the processes; an [`Environments`] makes virtual environments. What must stay true: the host is never
//! changed, and what an image asks for that the host does not have is said, never silently left out. This is no
//! security boundary.

mod command;
mod container;
mod differences;
pub mod environment;
mod ground;
mod oom;
mod output;
mod session;
mod shortage;
mod variables;

use std::any::Any;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use indexmap::IndexMap;

pub use oom::OomKills;

use super::{Backend, BoxFuture, Cancel, Failure, OpenRequest, Session};
use crate::domain::{JobId, Place};
use crate::event::Emitter;
use crate::plan::spec::ImageSpec;
use crate::process::Supervisor;
use crate::store::Directories;

/// What the edge knows and the backend does not look up itself.
#[derive(Clone)]
pub struct LocalSettings {
    /// accel's own environment, which jobs inherit whole.
    pub host_env: Vec<(OsString, OsString)>,
    /// Given to jobs as `ACCEL_RUN`.
    pub run: Option<String>,
    pub color: ColorHint,
    pub supervisor: Supervisor,
    pub environments: Arc<dyn Environments>,
    pub directories: Directories,
    pub oom_kills: OomKills,
    /// Finds the user's own git ignore file, which reads git's settings.
    pub global_ignore: fn() -> Option<PathBuf>,
}

/// What jobs are told about colour, unless they are told something else by their own variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorHint {
    /// Nothing: what they write ends on no terminal, or they see it themselves.
    Unsaid,
    /// `NO_COLOR`.
    Never,
    /// `CLICOLOR_FORCE` and `FORCE_COLOR`.
    Always,
    /// The same where accel passes their output on: it ends on a terminal, though not directly.
    WherePassedOn,
}

/// Runs jobs on this machine.
pub struct LocalBackend {
    settings: LocalSettings,
    said: Mutex<differences::Said>,
}

impl LocalBackend {
    pub fn new(settings: LocalSettings) -> Self {
        Self { settings, said: Mutex::default() }
    }
}

impl Backend for LocalBackend {
    fn place(&self) -> Place {
        Place::Local
    }

    fn open(&self, request: OpenRequest) -> BoxFuture<'_, Result<Box<dyn Session>, Failure>> {
        Box::pin(async move {
            shortage::refuse(&request)?;
            differences::say(&request, &self.settings, &self.said).await;
            let session = session::LocalSession::open(request, &self.settings).await?;
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }
}

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
