//! `engine = "container"`: the image's own layers, built and run by docker or podman.
//!
//! The project's folder is mounted at its own path, so that the job sees and changes the same files as on the
//! host. What must stay true: an image is built once for its contents, under a lock; no container outlives its
//! job; values of variables are handed over through the environment of the client, never as arguments, but for
//! the few names that would change the client itself.

mod context;
mod dockerfile;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::environment::call::{Call, CallError, Log};
use super::{LocalSettings, shortage};
use crate::backend::{CancelSource, Failure, OpenRequest};
use crate::base::digest::Digest;
use crate::domain::Cause;
use crate::event::{Event, Step, StepOutcome};
use crate::plan::spec::{BaseSpec, CommandSpec, ImageSpec, NetworkSpec, SandboxSpec};
use crate::process::{Input, Launch, Tool, find_program};
use crate::store::{Lock, lock::Waiting};

/// In the order in which they are looked for.
const CLIENTS: [&str; 2] = ["docker", "podman"];

/// Ending a container that its client left behind takes no longer.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

/// How a string is run in an image of which nothing is known: as on the host, with the shell that it has.
const SHELL: &str = "if command -v bash >/dev/null 2>&1; then exec bash -euo pipefail -c \"$0\"; else exec sh -eu -c \"$0\"; fi";

/// What the client reads itself: a job's value for one of these is an argument, so that the client keeps its own.
const OF_THE_CLIENT: [&str; 8] =
    ["PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "TERM"];

/// A built image, ready for one job.
pub(super) struct Container {
    client: Client,
    tag: String,
    /// Of the container, unlike that of any other attempt.
    name: String,
}

#[derive(Debug, Clone)]
struct Client {
    program: PathBuf,
    env: Vec<(OsString, OsString)>,
}

impl Client {
    fn find(settings: &LocalSettings, cwd: &Path) -> Option<Self> {
        let env = settings.host_env.clone();
        let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone())?;
        let program = CLIENTS.iter().find_map(|name| find_program(OsStr::new(name), &path, cwd).ok())?;
        Some(Self { program, env })
    }

    fn is_podman(&self) -> bool {
        self.program.file_name() == Some(OsStr::new("podman"))
    }

    /// Gives the client a variable to pass on; what names it as an argument, without its value where that is possible.
    fn hand_over(&mut self, name: OsString, value: OsString) -> OsString {
        if OF_THE_CLIENT.iter().any(|own| name == *own) {
            let mut pair = name;
            pair.push("=");
            pair.push(value);
            return pair;
        }
        self.env.retain(|(other, _)| *other != name);
        self.env.push((name.clone(), value));
        name
    }

    fn call(&self, args: Vec<OsString>, cwd: &Path) -> Call {
        let env = self.env.iter().cloned().collect();
        Call { program: self.program.clone(), args, cwd: cwd.to_owned(), env }
    }
}

/// Finds the image, or builds it.
pub(super) async fn prepare(request: &OpenRequest, settings: &LocalSettings) -> Result<Container, Failure> {
    let image = &request.spec.image;
    let Some(client) = Client::find(settings, &request.root) else {
        return Err(Failure::new(
            Cause::Image,
            format!(
                "image `{}`: engine = \"container\" needs docker or podman, and neither is on PATH",
                image.name
            ),
        )
        .help("install one of them, or use `engine = \"venv\"`, or run the job with `--on modal`"));
    };
    let build = Build { request, settings, client: &client, image };
    let tag = build.image().await?;
    let run = settings.run.as_deref().unwrap_or("run");
    let run: String = run.chars().take(12).collect();
    let name = format!("accel-{run}-{}-{}", plain(request.job.as_str()), request.attempt);
    Ok(Container { client, tag, name })
}

struct Build<'a> {
    request: &'a OpenRequest,
    settings: &'a LocalSettings,
    client: &'a Client,
    image: &'a ImageSpec,
}

impl Build<'_> {
    /// The tag of the image, which exists when this returns.
    async fn image(&self) -> Result<String, Failure> {
        let folder =
            tempfile::tempdir().map_err(|error| self.failure(&format!("temporary folder: {error}")))?;
        let base = self.base_tag();
        let rendered = dockerfile::render(self.image, base.as_deref())
            .map_err(|error| self.failure(&error.to_string()).help(error.help()))?;
        let digest = context::lay_out(&rendered, &self.request.root, folder.path())
            .map_err(|error| self.failure(&format!("build context: {error}")))?;
        let tag = format!("accel/{}:{}", plain(&self.image.name).to_lowercase(), digest.short());
        // Only docker knows what a context of the user's own holds by now; its cache makes asking cheap.
        if base.is_none() && !self.image.force_build && self.exists(&tag).await {
            return Ok(tag);
        }
        let lock = self.lock(&digest).await?;
        if base.is_none() && !self.image.force_build && self.exists(&tag).await {
            return Ok(tag);
        }
        let log = Log::new(&self.request.emitter, &self.request.job);
        let (began, job) = (Instant::now(), self.request.job.clone());
        let label = format!("image {}: {} build", self.image.name, self.client_name());
        self.request.emitter.emit(Event::StepStarted { job: job.clone(), step: Step::Image, label }).await;
        let built = self.build(&tag, base.as_deref(), folder.path(), &lock, &log).await;
        let outcome = if built.is_ok() { StepOutcome::Done } else { StepOutcome::Failed };
        let finished = Event::StepFinished { job, step: Step::Image, outcome, duration: began.elapsed() };
        self.request.emitter.emit(finished).await;
        built.map(|()| tag)
    }

    async fn build(
        &self,
        tag: &str,
        base: Option<&str>,
        folder: &Path,
        lock: &Lock,
        log: &Log<'_>,
    ) -> Result<(), Failure> {
        if let (BaseSpec::Dockerfile { file, context, build_args, .. }, Some(base)) = (&self.image.base, base)
        {
            let root = &self.request.root;
            let mut args = words(&["build", "-t", base, "-f"]);
            args.push(root.join(&file.path).into());
            let mut client = self.client.clone();
            for (name, value) in build_args {
                args.push("--build-arg".into());
                args.push(client.hand_over(name.into(), value.into()));
            }
            args.push(root.join(context).into());
            self.call(&client, args, lock, log).await?;
        }
        let mut args = words(&["build", "-t", tag, "-f"]);
        args.push(folder.join(context::DOCKERFILE).into());
        if self.image.force_build {
            args.push("--no-cache".into());
        }
        args.push(folder.into());
        self.call(self.client, args, lock, log).await
    }

    async fn call(
        &self,
        client: &Client,
        args: Vec<OsString>,
        lock: &Lock,
        log: &Log<'_>,
    ) -> Result<(), Failure> {
        let call = client.call(args, &self.request.root);
        match call.run(&self.settings.supervisor, lock, log, &self.request.cancel).await {
            Ok(()) => Ok(()),
            Err(CallError::Stopped) => Err(self.failure("stopped while it was built")),
            Err(error) => {
                let message = format!("{} build {error}\n{}", self.client_name(), log.take_tail());
                Err(self.failure(message.trim_end()))
            }
        }
    }

    /// For a base with a Dockerfile of its own.
    fn base_tag(&self) -> Option<String> {
        let BaseSpec::Dockerfile { file, .. } = &self.image.base else { return None };
        let digest =
            Digest::of(format!("{}:{}", self.request.root.display(), file.path.display()).as_bytes());
        Some(format!("accel/base:{}", digest.short()))
    }

    async fn exists(&self, tag: &str) -> bool {
        let call =
            self.client.call(words(&["image", "inspect", "--format", "{{.Id}}", tag]), &self.request.root);
        call.answer(&self.settings.supervisor, &self.request.cancel).await.is_some()
    }

    async fn lock(&self, digest: &Digest) -> Result<Lock, Failure> {
        let cache = self.settings.directories.open_cache();
        let folder =
            cache.map_err(|error| self.failure(&error.to_string()).help(error.help()))?.join("containers");
        crate::base::files::create_dir_all(&folder).map_err(|error| self.failure(&error.to_string()))?;
        let path = folder.join(format!("{}.lock", digest.short()));
        let what = format!("image `{}`", self.image.name);
        let waiting = Waiting { what: &what, emitter: &self.request.emitter, job: Some(&self.request.job) };
        let mut cancel = self.request.cancel.clone();
        tokio::select! {
            lock = Lock::exclusive(&path, waiting) => lock.map_err(|error| self.failure(&error.to_string())),
            _ = cancel.stopped() => Err(self.failure("stopped while waiting for its build")),
        }
    }

    fn client_name(&self) -> &str {
        if self.client.is_podman() { "podman" } else { "docker" }
    }

    fn failure(&self, message: &str) -> Failure {
        Failure::new(Cause::Image, format!("image `{}`: {message}", self.image.name))
    }
}

impl Container {
    /// The client's call that runs the job. `variables`: what the job is given.
    pub(super) fn launch(
        &self,
        spec: &SandboxSpec,
        root: &Path,
        cwd: &Path,
        variables: Vec<(OsString, OsString)>,
    ) -> Launch {
        let mut args = words(&["run", "--rm", "--init", "--name", &self.name]);
        if spec.tty {
            args.push("--interactive".into());
            // The clients refuse to make a terminal where there is none.
            if rustix::termios::isatty(rustix::stdio::stdin()) {
                args.push("--tty".into());
            }
        }
        let mut mount = root.as_os_str().to_owned();
        mount.push(":");
        mount.push(root);
        let cwd: PathBuf = cwd.components().collect();
        args.extend([OsString::from("--volume"), mount, "--workdir".into(), cwd.into()]);
        self.user(&mut args);
        limits(spec, &mut args);
        let mut client = self.client.clone();
        for (name, value) in variables {
            args.push("--env".into());
            args.push(client.hand_over(name, value));
        }
        args.push(self.tag.clone().into());
        match &spec.command {
            CommandSpec::Argv(argv) => args.extend(argv.iter().map(OsString::from)),
            CommandSpec::Shell(text) => args.extend(words(&["sh", "-c", SHELL, text])),
        }
        Launch {
            name: client.program.clone().into(),
            program: client.program,
            args,
            cwd: root.to_owned(),
            env: client.env,
            input: if spec.tty { Input::Terminal } else { Input::Null },
        }
    }

    /// Files that the job writes belong to whoever runs accel.
    fn user(&self, args: &mut Vec<OsString>) {
        let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
        if self.client.is_podman() && !user.is_root() {
            args.push("--userns=keep-id".into());
        }
        args.push("--user".into());
        args.push(format!("{}:{}", user.as_raw(), group.as_raw()).into());
        if !user.is_root() {
            args.extend(words(&["--env", "HOME=/tmp"]));
        }
    }

    /// Ends a container whose client was killed, or did not pass the signal on.
    pub(super) async fn remove(&self, supervisor: &crate::process::Supervisor, root: &Path) {
        let call = self.client.call(words(&["rm", "--force", &self.name]), root);
        let tool = Tool { launch: call.launch(Input::Null), limit: Some(REMOVE_LIMIT), log: None };
        // What cannot be reached cannot be removed; the client has said why by then.
        let _ = supervisor.run_tool(&tool, CancelSource::default().watch()).await;
    }
}

fn limits(spec: &SandboxSpec, args: &mut Vec<OsString>) {
    if matches!(spec.network, NetworkSpec::Blocked) {
        args.extend(words(&["--network", "none"]));
    }
    if let Some(cpu) = spec.cpu {
        args.extend(words(&["--cpus", &cpu.limit.unwrap_or(cpu.request).to_string()]));
    }
    if let Some(memory) = spec.memory {
        args.extend(words(&["--memory", &memory.limit.unwrap_or(memory.request).0.to_string()]));
    }
    for port in &spec.ports {
        args.extend(words(&["--publish", &format!("127.0.0.1:{port}:{port}")]));
    }
    if !spec.gpu.is_empty() && shortage::gpus() != shortage::Gpus::None {
        args.extend(words(&["--gpus", "all"]));
    }
}

/// For names of images and containers.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect::<String>()
        .trim_matches('-')
        .to_owned()
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}
