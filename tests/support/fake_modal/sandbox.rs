//! Sandboxes: definition, place, life and end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use accel::backend::modal::wire::client as wire;
use accel::backend::modal::wire::task_command_router as router_wire;
use tokio::process::Command;
use tokio::sync::watch;
use tonic::Status;
use wire::generic_result::GenericStatus;

use super::process::{self, Descriptor, Exec, Stream, Streams};
use super::state::{self, State, now};
use super::world::World;
use super::{Shared, image, install, storage};

/// What every sandbox of accel carries.
const TAGS: [&str; 6] =
    ["accel-project", "accel-job", "accel-run", "accel-lease", "accel-host", "accel-expires"];

/// What happens to a sandbox from its creation on.
#[derive(Debug, Clone)]
pub enum Fate {
    Runs,
    /// Never gets a place.
    QueuedForever,
    PlacedAfter(Duration),
    /// The creation is answered with an error.
    Refused(Status),
    Dies(Moment, Death),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before it gets a place.
    Start,
    /// When its first command was started.
    Exec,
    /// When its commands have printed so many bytes.
    Output(usize),
}

/// How a sandbox ends when nobody asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    OutOfMemory,
    MemoryManagerEviction,
    MemoryThrashingEviction,
    InternalFailure,
    InitFailure,
    Idle,
    Timeout,
    Terminated,
    /// A number that no client knows yet.
    Unknown,
}

impl Death {
    pub(super) fn result(self) -> wire::GenericResult {
        let (status, exitcode, exception) = match self {
            Self::OutOfMemory => (GenericStatus::KernelOomKill as i32, 137, "out of memory"),
            Self::MemoryManagerEviction => (GenericStatus::MemoryManagerEviction as i32, 137, "evicted"),
            Self::MemoryThrashingEviction => (GenericStatus::MemoryThrashingEviction as i32, 137, "evicted"),
            Self::InternalFailure => (GenericStatus::InternalFailure as i32, 1, "worker lost"),
            Self::InitFailure => (GenericStatus::InitFailure as i32, 1, "cannot mount the image"),
            Self::Idle => (GenericStatus::IdleTimeout as i32, 0, ""),
            Self::Timeout => (GenericStatus::Timeout as i32, 124, ""),
            Self::Terminated => (GenericStatus::Terminated as i32, 137, ""),
            Self::Unknown => (77, 1, ""),
        };
        wire::GenericResult { status, exitcode, exception: exception.into(), ..Default::default() }
    }
}

/// What the router does for a sandbox that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterDeath {
    NotFound,
    /// The worker is gone with it: no answer.
    Silent,
}

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

/// A request to create, of either kind.
pub struct Create {
    pub version: Version,
    pub app_id: String,
    pub definition: wire::Sandbox,
    pub tags: Vec<wire::SandboxTag>,
    pub sources: Vec<wire::SecretSource>,
    pub key: Option<String>,
}

impl Create {
    /// Creates a sandbox, or finds the one that the same attempt made before.
    pub async fn apply(self, shared: &Shared) -> Result<String, Status> {
        let packages = self.packages(shared).await?;
        let mut state = state::lock(shared);
        if let Some(id) = self.key.as_ref().and_then(|key| state.created.get(key)) {
            return Ok(id.clone());
        }
        self.check(&mut state)?;
        let fate = self.fate(&mut state);
        if let Fate::Refused(status) = fate {
            return Err(status);
        }
        let key = self.key.clone();
        let sandbox = self.make(&mut state, fate, packages)?;
        let id = sandbox.id.clone();
        if let Some(key) = key {
            state.created.insert(key, id.clone());
        }
        state.sandboxes.insert(id.clone(), sandbox);
        drop(state);
        live(shared, &id);
        Ok(id)
    }

    /// The environment with the packages of its image.
    async fn packages(&self, shared: &Shared) -> Result<Option<PathBuf>, Status> {
        let installs = {
            let state = state::lock(shared);
            let image = state.images.get(&self.definition.image_id);
            let installs = image.map_or_else(Vec::new, |image| image.installs.clone());
            if state.install_packages { installs } else { Vec::new() }
        };
        if installs.is_empty() {
            return Ok(None);
        }
        let made = tokio::task::spawn_blocking(move || install::environment(&installs)).await;
        made.expect("installing does not panic").map(Some).map_err(Status::internal)
    }

    fn fate(&self, state: &mut State) -> Fate {
        let gpu = self.definition.resources.as_ref().and_then(|it| it.gpu_config.as_ref());
        let of_gpu = gpu.and_then(|gpu| state.gpu_fates.get(&gpu.gpu_type)).cloned();
        of_gpu.or_else(|| state.fates.pop_front()).unwrap_or(Fate::Runs)
    }

    fn check(&self, state: &mut State) -> Result<(), Status> {
        let definition = &self.definition;
        let life = definition.timeout_secs;
        if life == 0 || life > state.longest_life {
            state.violation(format!("a sandbox with a life of {life} s"));
            return Err(Status::invalid_argument("timeout must be between 1 second and 24 hours"));
        }
        let missing: Vec<_> =
            TAGS.iter().filter(|tag| !self.tags.iter().any(|has| has.tag_name == **tag)).collect();
        if !missing.is_empty() {
            state.violation(format!("a sandbox without the tags {missing:?}"));
        }
        let gpu = definition.resources.as_ref().and_then(|it| it.gpu_config.as_ref());
        if self.version == Version::V2 && gpu.is_some_and(|gpu| !gpu.gpu_type.is_empty()) {
            return Err(Status::invalid_argument("GPUs are not supported by V2 Sandboxes"));
        }
        let known = [
            ("App", state.apps.values().any(|id| *id == self.app_id)),
            ("Image", state.images.get(&definition.image_id).is_some_and(|image| image.is_built())),
            ("Mount", definition.mount_ids.iter().all(|id| state.mounts.contains_key(id))),
            ("Volume", definition.volume_mounts.iter().all(|it| state.volumes.contains_key(&it.volume_id))),
            ("Secret", self.secret_ids().all(|id| state.secrets.contains_key(id))),
        ];
        if let Some((what, _)) = known.iter().find(|(_, known)| !known) {
            return Err(Status::not_found(format!("{what} not found")));
        }
        let name = definition.name.as_deref().unwrap_or_default();
        let taken = |other: &Sandbox| {
            other.app_id == self.app_id
                && other.result.borrow().is_none()
                && other.definition.name.as_deref() == Some(name)
        };
        if !name.is_empty() && state.sandboxes.values().any(taken) {
            return Err(Status::already_exists(format!("Sandbox with name {name} already exists")));
        }
        Ok(())
    }

    fn secret_ids(&self) -> impl Iterator<Item = &String> {
        let of_sources = self.sources.iter().filter_map(|source| match &source.source {
            Some(wire::secret_source::Source::SecretId(id)) => Some(id),
            _ => None,
        });
        self.definition.secret_ids.iter().chain(of_sources)
    }

    fn make(self, state: &mut State, fate: Fate, packages: Option<PathBuf>) -> Result<Sandbox, Status> {
        let id = match self.version {
            Version::V1 => state.new_id("sb"),
            // Any other shape than that of V1 is V2.
            Version::V2 => format!("{}V2XXV", state.new_id("sb")),
        };
        let suffix = if self.version == Version::V1 { "F" } else { "V" };
        let task_id = format!("{}{suffix}", state.new_id("ta"));
        let image = &state.images[&self.definition.image_id];
        let mut environment = image.environment.clone();
        let workdir = self.definition.workdir.clone().unwrap_or_else(|| image.workdir.clone());
        let of_ids = if self.sources.is_empty() { self.definition.secret_ids.clone() } else { Vec::new() };
        for secret in of_ids {
            environment.extend(state.secrets[&secret].clone());
        }
        environment.extend(storage::values(state, &self.sources)?);
        let mut world = World::new(state.folder().join("sandboxes").join(&id));
        world.own(&workdir);
        lay_out(state, &self.definition, &mut world, &workdir)
            .map_err(|error| Status::internal(format!("cannot lay out the sandbox: {error}")))?;
        Ok(Sandbox {
            id,
            task_id,
            version: self.version,
            app_id: self.app_id,
            definition: self.definition,
            tags: self.tags,
            created_at: now(),
            execs: BTreeMap::new(),
            main: None,
            forgotten: false,
            fate,
            packages,
            environment,
            workdir,
            world,
            placed: watch::Sender::new(false),
            result: watch::Sender::new(None),
        })
    }
}

/// Puts mounts and volumes below the folder that stands for `/`.
fn lay_out(
    state: &State,
    definition: &wire::Sandbox,
    world: &mut World,
    workdir: &str,
) -> std::io::Result<()> {
    for folder in ["/tmp", "/root", workdir] {
        std::fs::create_dir_all(world.place(folder))?;
    }
    let copied = image::copied_files(state, &definition.image_id);
    for file in copied.iter().chain(definition.mount_ids.iter().flat_map(|id| &state.mounts[id])) {
        place_file(state, file, world)?;
    }
    for mount in &definition.volume_mounts {
        let folder = state.volume_folder(&mount.volume_id).join(mount.sub_path.as_deref().unwrap_or(""));
        std::fs::create_dir_all(&folder)?;
        let place = world.place(&mount.mount_path);
        std::fs::create_dir_all(place.parent().unwrap_or(&place))?;
        // A volume hides what an image has at its path; the working directory may have been made there.
        let _ = std::fs::remove_dir(&place);
        std::os::unix::fs::symlink(folder, place)?;
        world.own(&mount.mount_path);
    }
    Ok(())
}

fn place_file(state: &State, file: &wire::MountFile, world: &mut World) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let place = world.place(&file.filename);
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::copy(state.content_path(&file.sha256_hex), &place)?;
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(file.mode.unwrap_or(0o644)))?;
    // The folder is the mount's as a whole, unless the file lies where other things lie too.
    match file.filename.trim_start_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["root" | "tmp" | "home" | "opt" | "mnt" | "usr" | "etc" | "var" | "srv", ..] => {
            world.own(&file.filename);
            let folder = Path::new(&file.filename).parent().and_then(Path::to_str).unwrap_or("/");
            if folder.matches('/').count() > 1 {
                world.own(folder);
            }
        }
        [first, ..] => world.own(&format!("/{first}")),
        [] => {}
    }
    Ok(())
}

/// Sees a sandbox through its life.
fn live(shared: &Shared, id: &str) {
    let (shared, id) = (shared.clone(), id.to_owned());
    tokio::spawn(async move {
        let (fate, life) = with(&shared, &id, |it| (it.fate.clone(), it.definition.timeout_secs));
        match fate {
            Fate::QueuedForever => return,
            Fate::PlacedAfter(delay) => tokio::time::sleep(delay).await,
            Fate::Dies(Moment::Start, death) => return with(&shared, &id, |it| it.end(death.result())),
            Fate::Runs | Fate::Dies(..) | Fate::Refused(_) => {}
        }
        with(&shared, &id, Sandbox::start);
        if let Some(main) = with(&shared, &id, |it| it.main.clone()) {
            tokio::spawn(end_with_main(shared.clone(), id.clone(), main));
        }
        if let Some(idle) = with(&shared, &id, |it| it.definition.idle_timeout_secs) {
            tokio::spawn(end_when_idle(shared.clone(), id.clone(), Duration::from_secs(idle.into())));
        }
        tokio::time::sleep(Duration::from_secs(life.into())).await;
        with(&shared, &id, |it| it.end(Death::Timeout.result()));
    });
}

async fn end_with_main(shared: Shared, id: String, main: Arc<Exec>) {
    let mut exit = main.exit();
    let Ok(exit) = exit.wait_for(Option::is_some).await.map(|exit| *exit) else { return };
    // What it printed last is there to be read.
    let mut output = main.output(Descriptor::Stdout);
    let drained = output.wait_for(|output| output.ended);
    let _ = tokio::time::timeout(Duration::from_secs(1), drained).await;
    let exitcode = match exit {
        Some(process::Exit::Code(code)) => code,
        Some(process::Exit::Signal(signal)) => 128 + signal,
        None => return,
    };
    let status = if exitcode == 0 { GenericStatus::Success } else { GenericStatus::Failure } as i32;
    with(&shared, &id, |it| it.end(wire::GenericResult { status, exitcode, ..Default::default() }));
}

/// A sandbox is idle while no command runs.
async fn end_when_idle(shared: Shared, id: String, limit: Duration) {
    let mut idle_since = tokio::time::Instant::now();
    loop {
        tokio::time::sleep((limit / 10).max(Duration::from_millis(10))).await;
        let (ended, busy) = with(&shared, &id, |it| {
            let busy = it.execs.values().any(|exec| exec.exit().borrow().is_none());
            (it.result.borrow().is_some(), busy)
        });
        if ended {
            return;
        }
        if busy {
            idle_since = tokio::time::Instant::now();
        } else if idle_since.elapsed() >= limit {
            return with(&shared, &id, |it| it.end(Death::Idle.result()));
        }
    }
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

    fn command(
        &self,
        arguments: &[String],
        environment: BTreeMap<String, String>,
        workdir: Option<&str>,
    ) -> Command {
        let arguments: Vec<_> = arguments.iter().map(|text| self.world.rewrite(text)).collect();
        let mut command = Command::new(&arguments[0]);
        let workdir = self.world.place(workdir.unwrap_or(&self.workdir));
        let _ = std::fs::create_dir_all(&workdir);
        command.args(&arguments[1..]).current_dir(&workdir).env_clear();
        command.env("PATH", self.search_path()).env("LANG", "C.UTF-8");
        command.envs(network_variables());
        command.env("HOME", self.world.place("/root")).env("TMPDIR", self.world.place("/tmp"));
        command.env("FAKE_MODAL_ROOT", self.root());
        command.env("MODAL_SANDBOX_ID", &self.id).env("MODAL_TASK_ID", &self.task_id);
        for (name, value) in self.environment.clone().into_iter().chain(environment) {
            let value = value.replace("$PATH", &self.search_path());
            command.env(name, self.world.rewrite(&value));
        }
        command
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

    fn search_path(&self) -> String {
        match &self.packages {
            Some(packages) => format!("{}:{}", packages.join("bin").display(), search_path()),
            None => search_path(),
        }
    }

    /// When and how it dies, unless later or never.
    pub fn doom(&self) -> Option<(Moment, Death)> {
        match self.fate {
            Fate::Dies(moment, death) => Some((moment, death)),
            _ => None,
        }
    }
}

/// Lets a doomed sandbox die after its command has printed enough.
pub async fn meet_fate(shared: Shared, id: String, exec: Arc<Exec>) {
    let Some((moment, death)) = with(&shared, &id, |it| it.doom()) else { return };
    let bytes = match moment {
        Moment::Output(bytes) => bytes,
        Moment::Exec | Moment::Start => 0,
    };
    let (mut stdout, mut stderr) = (exec.output(Descriptor::Stdout), exec.output(Descriptor::Stderr));
    loop {
        let printed = stdout.borrow_and_update().bytes.len() + stderr.borrow_and_update().bytes.len();
        if printed >= bytes {
            return with(&shared, &id, |it| it.end(death.result()));
        }
        if stdout.borrow().ended && stderr.borrow().ended {
            return;
        }
        tokio::select! {
            _ = stdout.changed() => {}
            _ = stderr.changed() => {}
        }
    }
}

/// How the package index is reached and trusted: the network of the sandboxes is that of this machine.
fn network_variables() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    let names = [
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "https_proxy",
        "http_proxy",
        "no_proxy",
        "PIP_INDEX_URL",
    ];
    names.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// The tests' own, with Python first.
fn search_path() -> String {
    static PATH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    PATH.get_or_init(|| {
        let path = std::env::var("PATH").unwrap_or_default();
        let script = "import os, sys; print(os.path.dirname(sys.executable))";
        let python = std::process::Command::new("python3").args(["-c", script]).output();
        match python {
            Ok(output) if output.status.success() => {
                format!("{}:{path}", String::from_utf8_lossy(&output.stdout).trim())
            }
            _ => path,
        }
    })
    .clone()
}

/// Runs a command in a terminal of its own; Python's library does what is needed on every system.
const TERMINAL: &str = r"
import fcntl, os, pty, struct, sys, termios
rows, columns = int(sys.argv[1]), int(sys.argv[2])
pid, terminal = pty.fork()
if pid == 0:
    try:
        os.execvp(sys.argv[3], sys.argv[3:])
    finally:
        os._exit(127)
if rows and columns:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
import select
sources = [0, terminal]
while True:
    ready, _, _ = select.select(sources, [], [])
    if terminal in ready:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            data = b''
        if not data:
            break
        os.write(1, data)
    if 0 in ready:
        data = os.read(0, 65536)
        if data:
            os.write(terminal, data)
        else:
            os.write(terminal, b'\x04')
            sources.remove(0)
_, status = os.waitpid(pid, 0)
code = os.waitstatus_to_exitcode(status)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
";

fn in_terminal(command: &Command, pty: &wire::PtyInfo) -> Command {
    let inner = command.as_std();
    let mut outer = Command::new("python3");
    outer.args(["-c", TERMINAL, &pty.winsz_rows.to_string(), &pty.winsz_cols.to_string()]);
    outer.arg(inner.get_program()).args(inner.get_args()).env_clear();
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if !pty.env_term.is_empty() {
        outer.env("TERM", &pty.env_term);
    }
    outer.current_dir(inner.get_current_dir().map_or_else(PathBuf::new, Path::to_owned));
    outer
}
