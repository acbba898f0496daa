//! Building one environment: `uv venv`, then one call for each action of the recipe, then the marker.
//!
//! Packages are not compiled to bytecode: Python does that for what a job really imports, and the build stays as
//! quick as uv. Package names go through a file, so that no address with credentials is an argument.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::call::{Call, CallError, Log};
use super::host::Host;
use super::layout::{Marker, Site};
use super::options::{self, Taken};
use super::recipe::{Action, ActionKind, Recipe};
use super::requirements;
use super::uv::{self, Uv};
use crate::backend::{Cancel, Failure};
use crate::domain::Cause;
use crate::plan::DEFAULT_PYTHON;
use crate::plan::spec::{FileRef, ImageSpec, Installer, PipOptions, Poetry, UvSync};
use crate::store::Lock;

/// What is accepted where nobody named a version and the default is not to be had.
const ANY_PYTHON: &str = ">=3.9";

/// Whether uv may fetch a Python that is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Downloads {
    Never,
    /// Unless the user's own settings forbid it.
    Allowed,
}

/// One build, under the exclusive lock.
pub(super) struct Builder<'a> {
    pub host: &'a Host,
    pub image: &'a ImageSpec,
    pub root: &'a Path,
    pub recipe: &'a Recipe,
    pub site: &'a Site,
    pub lock: &'a Lock,
}

/// What one action comes down to.
struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    cwd: PathBuf,
    env: BTreeMap<OsString, OsString>,
    /// For people: `uv pip install`.
    title: &'static str,
}

impl Builder<'_> {
    /// After this the environment is complete, or gone.
    pub async fn build(&self, log: &Log<'_>, cancel: Cancel) -> Result<(), Failure> {
        self.clear()?;
        let built = self.fill(log, &cancel).await;
        match built {
            Ok(()) => self.complete(),
            Err(failure) => {
                // The first failure is the one to tell; what is left is debris, removed before the next build.
                let _ = self.site.clear();
                Err(failure)
            }
        }
    }

    async fn fill(&self, log: &Log<'_>, cancel: &Cancel) -> Result<(), Failure> {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&self.site.staging)
            .map_err(|error| self.failure(format!("{}: {error}", self.site.staging.display())))?;
        let uv = uv::find_or_install(self.host, self.recipe.uv_version.as_deref(), log, cancel).await?;
        self.create(&uv, log, cancel).await?;
        for (number, action) in self.recipe.actions.iter().enumerate() {
            let command = self.command(&uv, number, action)?;
            let title = command.title;
            log.take_tail();
            self.call(command, log, cancel)
                .await
                .map_err(|error| self.explain(action, title, &error, log))?;
        }
        Ok(())
    }

    fn complete(&self) -> Result<(), Failure> {
        if let Some(file) = requirements::changed(&self.recipe.files, self.root) {
            let _ = self.site.clear();
            let message = format!("{} changed while the environment was built", file.path.display());
            return Err(self.failure(message).help("run again"));
        }
        let marker = Marker {
            image: self.image.name.clone(),
            summary: self.recipe.summary(),
            python: self.site.python_version().unwrap_or_default(),
            built_at: jiff::Timestamp::now().as_second(),
        };
        self.site.complete(&marker).map_err(|error| self.failure(error.to_string()))?;
        let _ = fs::remove_dir_all(&self.site.staging);
        Ok(())
    }

    fn clear(&self) -> Result<(), Failure> {
        self.site.clear().map_err(|error| self.failure(error.to_string()))
    }

    /// The empty environment, with a Python that is here if one will do: the network is the last resort.
    async fn create(&self, uv: &Uv, log: &Log<'_>, cancel: &Cancel) -> Result<(), Failure> {
        let named = self.recipe.python.as_deref();
        let request = named.unwrap_or(DEFAULT_PYTHON);
        let local = [Some(request), named.is_none().then_some(ANY_PYTHON)];
        for python in local.into_iter().flatten() {
            match self.quietly(self.venv(uv, python, Downloads::Never), cancel).await {
                Ok(said) => return self.announce_python(python, &said, log).await,
                Err((CallError::Stopped, _)) => return Err(self.stopped()),
                // A Python was found, and something else is wrong with it.
                Err((error, said)) if self.site.folder.exists() => {
                    let message = format!("uv venv --python {python} {error}\n{said}");
                    return Err(self.failure(message.trim_end().to_owned()));
                }
                Err(_) => {}
            }
        }
        let error = match self.call(self.venv(uv, request, Downloads::Allowed), log, cancel).await {
            Ok(()) => return Ok(()),
            Err(CallError::Stopped) => return Err(self.stopped()),
            Err(error) => error,
        };
        let name = &self.image.name;
        let message = format!(
            "python {request} was not found on this machine and could not be downloaded (uv venv {error})\n{}",
            log.take_tail()
        );
        Err(self.failure(message).help(format!(
            "install Python {request} (`uv python install {request}`, or your system's packages), \
             or name one that is here: `python = \"…\"` in [images.{name}]"
        )))
    }

    /// What uv said of a Python that was here; which one, where nobody named it.
    async fn announce_python(&self, python: &str, said: &str, log: &Log<'_>) -> Result<(), Failure> {
        for line in said.lines() {
            log.line(line).await;
        }
        if python == ANY_PYTHON {
            let found = self.site.python_version().unwrap_or_default();
            log.line(&format!(
                "python {found}: {DEFAULT_PYTHON}, the default, is not installed here; \
                 set `python` in [images.{}] to choose one, on this machine and on Modal",
                self.image.name
            ))
            .await;
        }
        Ok(())
    }

    fn venv(&self, uv: &Uv, python: &str, downloads: Downloads) -> Command {
        let mut args = words(&["venv", "--no-project", "--python", python]);
        if downloads == Downloads::Never {
            args.push("--no-python-downloads".into());
        }
        if self.wants_pip() {
            args.push("--seed".into());
        }
        args.push(self.site.folder.clone().into());
        let mut env = self.host.installer_env();
        if let Some(ActionKind::Install { options, .. }) =
            self.recipe.actions.first().map(|first| &first.kind)
            && let Ok(taken) = options::take(options, Installer::Uv)
        {
            taken.set_indexes(&mut env, Installer::Uv);
        }
        Command { program: uv.program.clone(), args, cwd: self.root.to_owned(), env, title: "uv venv" }
    }

    fn wants_pip(&self) -> bool {
        let pip =
            |action: &Action| matches!(action.kind, ActionKind::Install { installer: Installer::Pip, .. });
        self.recipe.actions.iter().any(pip)
    }

    fn command(&self, uv: &Uv, number: usize, action: &Action) -> Result<Command, Failure> {
        let mut command = match &action.kind {
            ActionKind::Install { packages, requirements, options, installer } => {
                self.install(uv, number, packages, requirements, options, *installer)
            }
            ActionKind::UvSync { sync, pyproject, lock } => {
                self.uv_sync(uv, number, sync, pyproject, lock.as_ref())
            }
            ActionKind::Poetry { poetry, pyproject, lock } => {
                self.poetry(uv, number, poetry, pyproject, lock.as_ref())
            }
            ActionKind::PrivateRepos { repositories, git_user, options } => {
                self.private_repositories(uv, number, repositories, git_user, options)
            }
            ActionKind::Run(text) => Ok(self.shell(text)),
        }?;
        command.env.extend(action.env.iter().map(|(name, value)| (name.into(), value.into())));
        Ok(command)
    }

    fn install(
        &self,
        uv: &Uv,
        number: usize,
        packages: &[String],
        requirements: &[PathBuf],
        options: &PipOptions,
        installer: Installer,
    ) -> Result<Command, Failure> {
        let taken = options::take(options, installer).map_err(|error| self.failure(error.to_string()))?;
        let mut env = self.host.installer_env();
        taken.set_indexes(&mut env, installer);
        let (program, mut args, title) = match installer {
            Installer::Uv => {
                let mut args = words(&["pip", "install", "--python"]);
                args.push(self.site.python().into());
                (uv.program.clone(), args, "uv pip install")
            }
            Installer::Pip => {
                let args = words(&["-m", "pip", "install", "--no-input", "--disable-pip-version-check"]);
                (self.site.python(), args, "pip install")
            }
        };
        args.extend(taken.args.iter().map(OsString::from));
        if !packages.is_empty() {
            let list = self.site.staging.join(format!("packages-{number}.txt"));
            self.write(&list, packages.join("\n").as_bytes())?;
            args.extend(["-r".into(), list.into()]);
        }
        for file in requirements {
            args.extend(["-r".into(), self.root.join(file).into()]);
        }
        Ok(Command { program, args, cwd: self.root.to_owned(), env, title })
    }

    /// On a copy of project and lock file: the project's folder is not changed, and what the key covers is all
    /// that counts. Packages of earlier layers stay (`--inexact`). The copy's own `[tool.uv]` is obeyed.
    fn uv_sync(
        &self,
        uv: &Uv,
        number: usize,
        sync: &UvSync,
        pyproject: &FileRef,
        lock: Option<&FileRef>,
    ) -> Result<Command, Failure> {
        let project = self.copy_project(number, pyproject, lock.map(|lock| ("uv.lock", lock)))?;
        let mut args = words(&["sync", "--inexact", "--no-install-workspace", "--python"]);
        args.push(self.site.python().into());
        args.extend(sync.groups.iter().map(|group| format!("--group={group}").into()));
        args.extend(sync.extras.iter().map(|extra| format!("--extra={extra}").into()));
        if sync.frozen {
            args.push("--frozen".into());
        }
        let mut taken = Taken::default();
        let extra = options::words(sync.extra_options.as_deref());
        taken.add_words(extra.map_err(|error| self.failure(error.to_string()))?);
        args.extend(taken.args.iter().map(OsString::from));
        let mut env = self.host.installer_env();
        taken.set_indexes(&mut env, Installer::Uv);
        env.remove(std::ffi::OsStr::new("UV_NO_CONFIG"));
        env.insert("UV_PROJECT_ENVIRONMENT".into(), self.site.folder.clone().into());
        Ok(Command { program: uv.program.clone(), args, cwd: project, env, title: "uv sync" })
    }

    /// Poetry itself runs in an environment of its own that uv keeps; it installs into the active one.
    fn poetry(
        &self,
        uv: &Uv,
        number: usize,
        poetry: &Poetry,
        pyproject: &FileRef,
        lock: Option<&FileRef>,
    ) -> Result<Command, Failure> {
        let project = self.copy_project(number, pyproject, lock.map(|lock| ("poetry.lock", lock)))?;
        let from = poetry.version.as_ref().map_or("poetry".to_owned(), |v| format!("poetry=={v}"));
        let mut args = words(&["tool", "run", "--no-project", "--from", &from, "poetry", "install"]);
        args.extend(words(&["--no-root", "--no-interaction"]));
        for (option, groups) in
            [("--with", &poetry.with), ("--without", &poetry.without), ("--only", &poetry.only)]
        {
            if !groups.is_empty() {
                args.extend([option.into(), groups.join(",").into()]);
            }
        }
        let mut env = self.host.installer_env();
        env.insert("VIRTUAL_ENV".into(), self.site.folder.clone().into());
        if poetry.old_installer {
            env.insert("POETRY_EXPERIMENTAL_NEW_INSTALLER".into(), "false".into());
        }
        Ok(Command { program: uv.program.clone(), args, cwd: project, env, title: "poetry install" })
    }

    /// The token is given to git through its configuration in the environment, never in an address.
    fn private_repositories(
        &self,
        uv: &Uv,
        number: usize,
        repositories: &[String],
        git_user: &str,
        options: &PipOptions,
    ) -> Result<Command, Failure> {
        let packages: Vec<String> =
            repositories.iter().map(|repository| format!("git+https://{repository}")).collect();
        let mut command = self.install(uv, number, &packages, &[], options, Installer::Uv)?;
        command.title = "uv pip install (private repositories)";
        let mut count = 0;
        for (host, variable) in [("github.com", "GITHUB_TOKEN"), ("gitlab.com", "GITLAB_TOKEN")] {
            let Some(token) = self.host.variable(variable).and_then(|token| token.to_str()) else { continue };
            let key = format!("http.https://{host}/.extraHeader");
            command.env.insert(format!("GIT_CONFIG_KEY_{count}").into(), key.into());
            let value = format!("Authorization: Basic {}", basic(git_user, token));
            command.env.insert(format!("GIT_CONFIG_VALUE_{count}").into(), value.into());
            count += 1;
        }
        command.env.insert("GIT_CONFIG_COUNT".into(), count.to_string().into());
        command.env.insert("GIT_TERMINAL_PROMPT".into(), "0".into());
        Ok(command)
    }

    /// A command of `[images.x.local] run`: strict, as every command, with the environment active.
    fn shell(&self, text: &str) -> Command {
        let (program, options) = match self.host.programs("bash").into_iter().next() {
            Some(bash) => (bash, ["-euo", "pipefail", "-c"].as_slice()),
            None => (PathBuf::from("/bin/sh"), ["-eu", "-c"].as_slice()),
        };
        let mut args = words(options);
        args.push(text.into());
        let mut env = self.host.installer_env();
        let mut path = OsString::from(self.site.bin());
        path.push(":");
        path.push(self.host.path());
        env.insert("PATH".into(), path);
        env.insert("VIRTUAL_ENV".into(), self.site.folder.clone().into());
        Command { program, args, cwd: self.root.to_owned(), env, title: "command" }
    }

    fn copy_project(
        &self,
        number: usize,
        pyproject: &FileRef,
        lock: Option<(&str, &FileRef)>,
    ) -> Result<PathBuf, Failure> {
        let folder = self.site.staging.join(format!("project-{number}"));
        fs::create_dir(&folder).map_err(|error| self.failure(format!("{}: {error}", folder.display())))?;
        self.write(&folder.join("pyproject.toml"), &pyproject.contents)?;
        if let Some((name, lock)) = lock {
            self.write(&folder.join(name), &lock.contents)?;
        }
        Ok(folder)
    }

    fn write(&self, path: &Path, contents: &[u8]) -> Result<(), Failure> {
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(contents))
            .map_err(|error| self.failure(format!("cannot write {}: {error}", path.display())))
    }

    async fn call(&self, command: Command, log: &Log<'_>, cancel: &Cancel) -> Result<(), CallError> {
        let Command { program, args, cwd, env, .. } = command;
        Call { program, args, cwd, env }.run(&self.host.supervisor, self.lock, log, cancel).await
    }

    /// As [`call`](Self::call), with what it says handed back instead of shown.
    async fn quietly(&self, command: Command, cancel: &Cancel) -> Result<String, (CallError, String)> {
        let Command { program, args, cwd, env, .. } = command;
        Call { program, args, cwd, env }.quietly(&self.host.supervisor, self.lock, cancel).await
    }

    fn explain(&self, action: &Action, title: &str, error: &CallError, log: &Log<'_>) -> Failure {
        if let CallError::Stopped = error {
            return self.stopped();
        }
        let origins = action.origins.join(", ");
        self.failure(format!("{title} {error} ({origins})\n{}", log.take_tail()).trim_end().to_owned())
    }

    fn stopped(&self) -> Failure {
        self.failure("stopped while the environment was built".to_owned())
    }

    fn failure(&self, message: String) -> Failure {
        Failure::new(Cause::Image, format!("image `{}`: {message}", self.image.name))
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn basic(user: &str, token: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{token}"))
}
