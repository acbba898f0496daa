//! One job on this machine, from its environment to its exit.

use std::ffi::OsString;
use std::path::PathBuf;

use super::command::{Invocation, Surroundings, in_shell, resolve};
use super::container::{self, Container};
use super::ground::Ground;
use super::output::AsEvents;
use super::{ColorHint, LocalSettings, OomKills, PrepareRequest, Prepared, variables};
use crate::backend::{BoxFuture, Failure, OpenRequest, OutputMode, Session};
use crate::base::exit_code;
use crate::domain::{Cause, Exit};
use crate::event::{Event, Level};
use crate::plan::spec::{CommandSpec, LocalEngine};
use crate::process::{
    Control, Ended, FindError, Input, Launch, Leftover, Observer, OutputTo, SpawnError, Supervisor,
};
use crate::workspace::dotenv;

const SIGKILL: i32 = 9;

pub(super) struct LocalSession {
    request: OpenRequest,
    supervisor: Supervisor,
    env: Vec<(OsString, OsString)>,
    color: ColorHint,
    cwd: PathBuf,
    /// Holds the environment's lock until the session is closed.
    _prepared: Prepared,
    /// Where the command runs in one.
    container: Option<Container>,
    oom_kills: OomKills,
    ground: Ground,
}

impl LocalSession {
    pub(super) async fn open(request: OpenRequest, settings: &LocalSettings) -> Result<Self, Failure> {
        let dotenv = dotenv::read(&request.root, &request.spec.dotenv).map_err(|error| unreadable(&error))?;
        let supervisor = settings.supervisor.clone();
        let oom_kills = settings.oom_kills.clone();
        let container = match request.spec.image.local.engine {
            LocalEngine::Container => Some(container::prepare(&request, settings).await?),
            LocalEngine::Host | LocalEngine::Venv => None,
        };
        let prepared = prepare(&request, settings).await?;
        let ground = Ground::prepare(&request, settings).await?;
        let cwd = ground.root().join(&request.spec.cwd);
        let env = match container {
            Some(_) => variables::of_container(&request, settings, &dotenv),
            None => variables::of_job(&request, settings, &dotenv, &prepared, &cwd),
        };
        let color = settings.color;
        Ok(Self { request, supervisor, env, color, cwd, _prepared: prepared, container, oom_kills, ground })
    }

    async fn run(&self, output: OutputMode) -> Result<Exit, Failure> {
        if matches!(&self.request.spec.command, CommandSpec::Shell(text) if text.trim().is_empty()) {
            return Ok(Exit::Code(0));
        }
        if let Some(container) = &self.container {
            return self.run_in(container, output).await;
        }
        let around = Surroundings { env: &self.env, cwd: &self.cwd };
        let invocation =
            resolve(&self.request.spec.command, around).map_err(|error| self.not_found(&error))?;
        let kills = self.oom_kills.count();
        let ended = match (self.start(&invocation, output).await, &self.request.spec.command) {
            (Err(SpawnError::Format(_)), CommandSpec::Shell(text)) if invocation.in_place_of_shell => {
                let invocation = in_shell(text, around).map_err(|error| self.not_found(&error))?;
                self.start(&invocation, output).await
            }
            (ended, _) => ended,
        };
        let ended = ended.map_err(|error| not_started(&error))?;
        self.tell(&ended).await;
        if self.oom_kills.explain(ended.exit, kills) && !self.request.cancel.level().stops() {
            return Err(out_of_memory());
        }
        Ok(ended.exit)
    }

    /// The client's processes end with the run as any job's do; a container that is left is removed after.
    async fn run_in(&self, container: &Container, output: OutputMode) -> Result<Exit, Failure> {
        let launch = container.launch(&self.request.spec, self.ground.root(), &self.cwd, self.env.clone());
        let ended = self.launch(&launch, output).await;
        if self.request.cancel.level().stops() || ended.is_err() {
            container.remove(&self.supervisor, &self.request.root).await;
        }
        let ended = ended.map_err(|error| not_started(&error))?;
        self.tell(&ended).await;
        Ok(ended.exit)
    }

    async fn start(&self, invocation: &Invocation, output: OutputMode) -> Result<Ended, SpawnError> {
        let spec = &self.request.spec;
        let launch = Launch {
            program: invocation.program.clone(),
            name: invocation.name.clone(),
            args: invocation.args.clone(),
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            input: if spec.tty { Input::Terminal } else { Input::Null },
        };
        self.launch(&launch, output).await
    }

    async fn launch(&self, launch: &Launch, output: OutputMode) -> Result<Ended, SpawnError> {
        let stop_timeout = self.request.spec.stop_timeout;
        let control = Control { cancel: self.request.cancel.clone(), stop_timeout, limit: None };
        let events = AsEvents { job: self.request.job.clone(), emitter: self.request.emitter.clone() };
        let output = match output {
            OutputMode::Inherit => OutputTo::Inherit,
            OutputMode::Events => OutputTo::Observer(&events as &dyn Observer),
        };
        self.supervisor.run(launch, output, control).await
    }

    /// What the user should know about the end, beyond the exit code.
    async fn tell(&self, ended: &Ended) {
        if ended.ignored_stop {
            let seconds = self.request.spec.stop_timeout.as_secs_f64();
            let text = format!("did not stop within {seconds} s and was killed");
            self.notice("killed-after-grace", text, Some("raise `stop_timeout` if it needs longer")).await;
        }
        if !ended.leftovers.is_empty() {
            let text = format!("left processes running; they were killed: {}", names(&ended.leftovers));
            let help = "a job ends with its command: stop background processes before, or wait for them";
            self.notice("leaky", text, Some(help)).await;
        }
        if !ended.unkillable.is_empty() {
            let text = format!("processes could not be killed: {}", names(&ended.unkillable));
            self.notice("unkillable", text, None).await;
        }
    }

    async fn notice(&self, code: &'static str, text: String, help: Option<&str>) {
        let job = Some(self.request.job.clone());
        let help = help.map(ToOwned::to_owned);
        self.request.emitter.emit(Event::Notice { job, level: Level::Warning, code, text, help }).await;
    }

    /// A missing folder makes every program in it missing, too; it is the folder that is to be named then.
    fn not_found(&self, error: &FindError) -> Failure {
        if !self.cwd.is_dir() {
            return missing_folder(&format!("working folder {} does not exist", self.cwd.display()));
        }
        let code = match error {
            FindError::NotFound(_) => exit_code::NOT_FOUND,
            FindError::NotExecutable(_) => exit_code::NOT_EXECUTABLE,
        };
        Failure::new(Cause::Command, error.to_string()).exit_code(code).help(match error {
            FindError::NotFound(_) => "install it, or correct the command or the PATH of the job",
            FindError::NotExecutable(_) => "make it executable with `chmod +x`, or name its interpreter",
        })
    }
}

impl Session for LocalSession {
    fn execute(&mut self, output: OutputMode) -> BoxFuture<'_, Result<Exit, Failure>> {
        variables::hint_color(&mut self.env, self.color, output);
        Box::pin(self.run(output))
    }

    fn collect_outputs(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.ground.bring_home(&self.request))
    }

    fn abandon(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.ground.take_back())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(self.ground.close())
    }
}

fn out_of_memory() -> Failure {
    let killed = exit_code::of_signal(SIGKILL);
    Failure::new(Cause::Oom, "killed: the memory of this machine, or of its container, ran out")
        .help("run it on Modal with the memory that it needs, or ask for that: fallback = { to = \"modal\", on = [\"oom\"] }")
        .exit_code(killed)
}

/// No cause to try again or elsewhere: the file is wrong wherever the job runs.
fn unreadable(error: &dotenv::DotenvError) -> Failure {
    Failure::new(Cause::Command, error.to_string()).help(error.help()).exit_code(exit_code::USAGE)
}

async fn prepare(request: &OpenRequest, settings: &LocalSettings) -> Result<Prepared, Failure> {
    let image = &request.spec.image;
    match image.local.engine {
        LocalEngine::Host | LocalEngine::Container => Ok(Prepared::default()),
        LocalEngine::Venv => {
            let request = PrepareRequest {
                image,
                root: &request.root,
                job: &request.job,
                emitter: &request.emitter,
                cancel: request.cancel.clone(),
            };
            settings.environments.prepare(request).await
        }
    }
}

fn not_started(error: &SpawnError) -> Failure {
    let failure = |cause| Failure::new(cause, error.to_string());
    match error {
        SpawnError::WorkingFolder { .. } => missing_folder(&error.to_string()),
        SpawnError::NotFound(_) => failure(Cause::Command).exit_code(exit_code::NOT_FOUND),
        SpawnError::NotExecutable { .. } => failure(Cause::Command)
            .exit_code(exit_code::NOT_EXECUTABLE)
            .help("check its permissions and its first line"),
        SpawnError::Format(_) => failure(Cause::Command)
            .exit_code(exit_code::NOT_EXECUTABLE)
            .help("give it a first line such as #!/bin/sh, or name its interpreter"),
        SpawnError::TooLong { .. } => failure(Cause::Command)
            .exit_code(exit_code::NOT_EXECUTABLE)
            .help("pass long lists in a file, or unset large variables"),
        SpawnError::Resources { .. } => failure(Cause::Capacity)
            .help("this machine is out of processes, memory or descriptors; try fewer jobs at once with -j"),
        SpawnError::Other { .. } => failure(Cause::Infra),
    }
}

fn missing_folder(message: &str) -> Failure {
    Failure::new(Cause::Command, message).help("create it, or correct `cwd` of the job")
}

/// `sleep (pid 12), python (pid 13)`, bounded.
fn names(leftovers: &[Leftover]) -> String {
    const SHOWN: usize = 5;
    let mut shown: Vec<String> = leftovers
        .iter()
        .take(SHOWN)
        .map(|leftover| format!("{} (pid {})", leftover.name, leftover.pid))
        .collect();
    if leftovers.len() > SHOWN {
        shown.push(format!("{} more", leftovers.len() - SHOWN));
    }
    shown.join(", ")
}
