//! `accel doctor`: what accel needs from this machine, whether it is there, and what to do where it is not.

mod modal;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::backend::CancelSource;
use crate::base::exit_code;
use crate::cli::Outcome;
use crate::cli::ambient::Ambient;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::printer::{Format, Printer, Style};
use crate::cli::project::Project;
use crate::cli::runtime::runtime;
use crate::process::{Input, Launch, Ownership, Supervisor, Tool, find_program};
use crate::store::Directories;

/// A tool that does not tell its version within this is broken.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// Fewer watches than this do not cover a project of usual size.
const FEW_WATCHES: u64 = 65_536;
/// Fewer inotify instances than this are used up by editors.
const FEW_INSTANCES: u64 = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
pub struct Finding {
    pub subject: &'static str,
    pub health: Health,
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, health: Health::Ok, found: found.into(), remedy: None }
    }

    fn warn(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, health: Health::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, health: Health::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

pub fn run(context: &Context<'_>) -> Outcome {
    let (ambient, printer, folder) = (context.ambient, &context.printer, &context.folder()?);
    let runtime = runtime()?;
    let project = Project::open(context);
    let environment = project.as_ref().ok().and_then(|project| project.config.modal.environment.as_ref());
    let tools = Tools { ambient, folder, supervisor: Supervisor::new(Ownership::Process) };
    let mut findings = vec![configuration(&project)];
    findings.extend(runtime.block_on(tools.findings()));
    findings.extend(directories(ambient, folder));
    findings.extend(file_watching());
    let environment = environment.map(|name| name.value.as_str());
    findings.extend(runtime.block_on(modal::findings(ambient, environment)));
    // A look-up of a name that hangs is not waited for.
    runtime.shutdown_background();
    report(&findings, printer)?;
    let failed = findings.iter().any(|finding| finding.health == Health::Fail);
    Ok(if failed { exit_code::ACCEL_FAILED } else { 0 })
}

fn report(findings: &[Finding], printer: &Printer) -> Result<(), CommandError> {
    if printer.format == Format::Json {
        #[derive(Serialize)]
        struct Document<'a> {
            version: u32,
            accel: &'a str,
            findings: &'a [Finding],
        }
        printer.json(&Document { version: 1, accel: env!("CARGO_PKG_VERSION"), findings })?;
        return Ok(());
    }
    let widest = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let health = match finding.health {
            Health::Ok => printer.paint(Style::Good, "ok  "),
            Health::Warn => printer.paint(Style::Warning, "warn"),
            Health::Fail => printer.paint(Style::Error, "fail"),
        };
        text.push_str(&format!("{health}  {:widest$}  {}\n", finding.subject, finding.found));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("      {:widest$}  {remedy}\n", ""));
        }
    }
    printer.result(text)?;
    Ok(())
}

fn configuration(project: &Result<Project, CommandError>) -> Finding {
    match project {
        Ok(project) => {
            let (jobs, file) = (project.config.jobs.len(), project.file());
            Finding::ok("configuration", format!("{file}, {jobs} {}", if jobs == 1 { "job" } else { "jobs" }))
        }
        Err(error) if error.is_missing_file() => {
            Finding::warn("configuration", "no accel.toml here or above", "`accel init` writes one")
        }
        Err(error) => Finding::fail("configuration", error.summary(), "`accel check` shows what is wrong"),
    }
}

struct Tools<'a> {
    ambient: &'a Ambient,
    folder: &'a Path,
    supervisor: Supervisor,
}

impl Tools<'_> {
    async fn findings(&self) -> Vec<Finding> {
        vec![
            self.shell(),
            self.uv().await,
            self.python().await,
            self.git().await,
            self.gpu().await,
            self.container_engine().await,
        ]
    }

    fn shell(&self) -> Finding {
        if let Some(bash) = self.find("bash") {
            return Finding::ok("shell", bash.display().to_string());
        }
        match self.find("sh") {
            Some(sh) => Finding::warn(
                "shell",
                format!("{} (no bash)", sh.display()),
                "commands written as strings run without `pipefail`; install bash for the same behaviour everywhere",
            ),
            None => Finding::fail("shell", "neither bash nor sh on PATH", "put bash or sh on PATH"),
        }
    }

    async fn uv(&self) -> Finding {
        match self.version("uv", &["--version"]).await {
            Found::Version(version) => Finding::ok("uv", version),
            Found::Broken(why) => Finding::fail("uv", why, "repair or remove the uv that is first on PATH"),
            Found::Absent => Finding::ok("uv", "not on PATH; accel fetches its own when an image needs it"),
        }
    }

    async fn python(&self) -> Finding {
        for name in ["python3", "python"] {
            match self.version(name, &["--version"]).await {
                Found::Version(version) => return Finding::ok("python", version),
                Found::Broken(_) | Found::Absent => {}
            }
        }
        Finding::ok("python", "not on PATH; uv fetches one for images that need it")
    }

    async fn git(&self) -> Finding {
        match self.version("git", &["--version"]).await {
            Found::Version(version) => Finding::ok("git", version),
            Found::Broken(why) => {
                Finding::warn("git", why, "rules on changed files and branches need a working git")
            }
            Found::Absent => Finding::warn(
                "git",
                "not on PATH",
                "rules on changed files and branches need git; install it",
            ),
        }
    }

    async fn gpu(&self) -> Finding {
        let query = ["--query-gpu=name,memory.total", "--format=csv,noheader"];
        match self.version("nvidia-smi", &query).await {
            Found::Version(name) => Finding::ok("gpu", name),
            Found::Broken(why) => {
                Finding::warn("gpu", why, "repair the NVIDIA driver, or leave GPU jobs to Modal")
            }
            Found::Absent => Finding::ok("gpu", "none; jobs with a gpu are routed to Modal"),
        }
    }

    async fn container_engine(&self) -> Finding {
        for name in ["docker", "podman"] {
            if let Found::Version(version) = self.version(name, &["--version"]).await {
                return Finding::ok("containers", version);
            }
        }
        Finding::ok(
            "containers",
            "neither docker nor podman; only images with engine = \"container\" need one",
        )
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        let path = self.ambient.variables.get("PATH").unwrap_or_default();
        find_program(name.as_ref(), path, self.folder).ok()
    }

    /// The first line that a tool prints when it is asked for its version.
    async fn version(&self, name: &str, arguments: &[&str]) -> Found {
        let Some(program) = self.find(name) else { return Found::Absent };
        let launch = Launch {
            program,
            name: name.into(),
            args: arguments.iter().map(OsString::from).collect(),
            cwd: self.folder.to_owned(),
            env: self.ambient.variables.0.clone(),
            input: Input::Null,
        };
        let tool = Tool { launch, limit: Some(VERSION_LIMIT), log: None };
        match self.supervisor.run_tool(&tool, CancelSource::default().watch()).await {
            Ok(output) if output.exit.success() => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                Found::Version(text.lines().next().unwrap_or("it prints no version").trim().to_owned())
            }
            Ok(output) => Found::Broken(format!("`{name}` fails with {}", output.exit)),
            Err(error) => Found::Broken(error.to_string()),
        }
    }
}

enum Found {
    Version(String),
    Broken(String),
    Absent,
}

fn directories(ambient: &Ambient, folder: &Path) -> Vec<Finding> {
    let directories = ambient.directories(folder);
    vec![
        directory("cache", directories.cache_path(), &directories, Directories::open_cache),
        directory("state", directories.state_path(), &directories, Directories::open_state),
    ]
}

fn directory<'d>(
    subject: &'static str,
    path: &Path,
    directories: &'d Directories,
    open: impl Fn(&'d Directories) -> Result<&'d Path, crate::store::DirectoryError>,
) -> Finding {
    let remedy =
        || format!("set ACCEL_{}_DIR to a directory that you own and can write to", subject.to_uppercase());
    let opened = match open(directories) {
        Ok(opened) => opened,
        Err(error) => return Finding::fail(subject, error.to_string(), error.help()),
    };
    match tempfile::tempfile_in(opened) {
        Ok(_) => Finding::ok(subject, path.display().to_string()),
        Err(error) => {
            Finding::fail(subject, format!("cannot write to {}: {error}", path.display()), remedy())
        }
    }
}

/// Linux's limits on watching files; other systems have none that matter.
fn file_watching() -> Option<Finding> {
    let limit = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?.trim().parse().ok()
    };
    let (watches, instances) = (limit("max_user_watches")?, limit("max_user_instances")?);
    let found = format!("{watches} inotify watches, {instances} instances");
    if watches >= FEW_WATCHES && instances >= FEW_INSTANCES {
        return Some(Finding::ok("watching", found));
    }
    let remedy =
        "raise the limits: sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512";
    Some(Finding::warn("watching", found, remedy))
}
