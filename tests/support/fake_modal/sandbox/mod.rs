//! Sandboxes: what they are, what tests see of them, and their commands.
//!
//! [`create`] makes them from a request, [`fate`] sees them through life and death, [`command`] gives a command its
//! surroundings.

mod command;
mod create;
mod fate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use accel::backend::modal::wire::client as wire;
use accel::backend::modal::wire::task_command_router as router_wire;
use tokio::sync::watch;
use tonic::Status;

use super::process::{self, Exec, Stream, Streams};
use super::state;
use super::world::World;
use super::{Shared, image, install, storage};

use command::in_terminal;
pub use create::Create;
pub use fate::{AfterDeath, Death, Fate, Moment, meet_fate};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// What tests look at.
#[derive(Debug, Clone)]
pub struct SandboxView {
    pub id: String,
    pub task_id: String,
    pub version: Version,
    pub definition: wire::Sandbox,
    pub tags: BTreeMap<String, String>,
    /// Values of every variable that came from secrets and from the image.
    pub environment: BTreeMap<String, String>,
    /// Set once it has ended.
    pub result: Option<wire::GenericResult>,
    pub execs: usize,
}

pub struct Sandbox {
    pub id: String,
    pub task_id: String,
    pub version: Version,
    pub app_id: String,
    pub definition: wire::Sandbox,
    pub tags: Vec<wire::SandboxTag>,
    pub created_at: f64,
    pub execs: BTreeMap<String, Arc<Exec>>,
    pub main: Option<Arc<Exec>>,
    /// Its id is unknown from now on.
    pub forgotten: bool,
    fate: Fate,
    packages: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    workdir: String,
    world: World,
    placed: watch::Sender<bool>,
    result: watch::Sender<Option<wire::GenericResult>>,
}

fn with<T>(shared: &Shared, id: &str, act: impl FnOnce(&mut Sandbox) -> T) -> T {
    act(state::lock(shared).sandboxes.get_mut(id).expect("sandboxes stay in the books"))
}

impl Sandbox {
    pub fn view(&self) -> SandboxView {
        SandboxView {
            id: self.id.clone(),
            task_id: self.task_id.clone(),
            version: self.version,
            definition: self.definition.clone(),
            tags: self.tags.iter().map(|tag| (tag.tag_name.clone(), tag.tag_value.clone())).collect(),
            environment: self.environment.clone(),
            result: self.result.borrow().clone(),
            execs: self.execs.len(),
        }
    }

    pub fn root(&self) -> &Path {
        self.world.root()
    }

    pub fn placed(&self) -> watch::Receiver<bool> {
        self.placed.subscribe()
    }

    pub fn result(&self) -> watch::Receiver<Option<wire::GenericResult>> {
        self.result.subscribe()
    }

    /// The first end counts.
    pub fn end(&mut self, result: wire::GenericResult) {
        let first = self.result.send_if_modified(|old| {
            let first = old.is_none();
            if first {
                *old = Some(result);
            }
            first
        });
        if !first {
            return;
        }
        for exec in self.execs.values().chain(&self.main) {
            exec.lose();
        }
        process::kill_marked(&self.marker());
    }

    fn marker(&self) -> String {
        format!("FAKE_MODAL_ROOT={}\0", self.root().display())
    }

    fn start(&mut self) {
        if self.result.borrow().is_some() {
            return;
        }
        let arguments = self.definition.entrypoint_args.clone();
        if !arguments.is_empty() {
            let command = self.command(&arguments, BTreeMap::new(), None);
            let kept = Streams { stdout: Stream::Kept, stderr: Stream::Kept };
            self.main = Some(Exec::start(command, kept, None));
        }
        self.placed.send_replace(true);
    }

    /// Starts a command; starting it again does nothing.
    pub fn exec(
        &mut self,
        request: &router_wire::TaskExecStartRequest,
        environment: BTreeMap<String, String>,
    ) -> Result<(), Status> {
        if self.execs.contains_key(&request.exec_id) {
            return Ok(());
        }
        if request.exec_id.is_empty() || request.command_args.is_empty() {
            return Err(Status::invalid_argument("a command needs an id and arguments"));
        }
        if let Some(workdir) = &request.workdir {
            self.world.own(workdir);
        }
        let mut command = self.command(&request.command_args, environment, request.workdir.as_deref());
        let pty = request.pty_info.as_ref().filter(|pty| pty.enabled);
        if let Some(pty) = pty {
            command = in_terminal(&command, pty);
        }
        let stdout = if request.stdout_config == 0 { Stream::Dropped } else { Stream::Kept };
        let stderr = match request.stderr_config {
            0 => Stream::Dropped,
            1 => Stream::Kept,
            _ => Stream::Joined,
        };
        let timeout = request.timeout_secs.map(|seconds| Duration::from_secs(seconds.into()));
        let exec = Exec::start(command, Streams { stdout, stderr }, timeout);
        self.execs.insert(request.exec_id.clone(), exec);
        Ok(())
    }

    /// When and how it dies, unless later or never.
    pub fn doom(&self) -> Option<(Moment, Death)> {
        match self.fate {
            Fate::Dies(moment, death) => Some((moment, death)),
            _ => None,
        }
    }
}
