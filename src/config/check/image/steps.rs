//! The keys of one table → build steps, in their fixed order.

use indexmap::IndexMap;

use super::super::settings::variables;
use super::super::{Checker, built_in, map, place};
use super::{arguments, list, plain_texts, text};
use crate::config::codes;
use crate::config::grammar::{
    CopyKeys, DockerfileCommandKeys, Either, ImageKeys, MicromambaKeys, Placed, PoetryKeys, PrivateReposKeys,
    ProjectPath, PyprojectKeys, StepKeys, SwitchOr, Text, UvLockKeys,
};
use crate::config::model::{
    GpuText, Installer, LayerStep, Layered, PipLayer, PipOptions, Poetry, Secret, Setting, UvSync, Valued,
    Volume,
};
use crate::diag::{Diagnostic, Location};

/// User of private repositories unless said.
const DEFAULT_GIT_USER: &str = "x-access-token";

impl Checker {
    pub(super) fn pip_options_without_packages(&mut self, keys: &ImageKeys) {
        if keys.pip.is_some()
            || keys.requirements.is_some()
            || keys.pyproject.is_some()
            || keys.private_repos.is_some()
        {
            return;
        }
        // `from` and `layers` may bring packages of their own, but options of this table do not reach them.
        for (key, at) in keys.locations() {
            if ["index_url", "extra_index_url", "find_links", "pre", "installer"].contains(&key) {
                let help = "it belongs beside `pip`, `requirements` or `pyproject` in the same table";
                self.contradiction(format!("`{key}` has no packages to act on"), Some(at), None, help);
            }
        }
    }

    /// The steps of one table, in their fixed order.
    pub(super) fn steps(
        &mut self,
        mut keys: StepKeys,
        extra: &StepExtra,
        at: Location,
        layers: &mut Vec<Layered>,
    ) {
        let mut made = Made { extra, at, layers };
        packages(&mut keys, &mut made);
        made.step(keys.env.take().filter(|env| !env.value.entries.is_empty()), |env| {
            LayerStep::Env(arguments(env))
        });
        made.step(keys.workdir.take(), |workdir| LayerStep::Workdir(workdir.0));
        for copy in keys.copy.take().map(|list| list.value).unwrap_or_default() {
            self.copy(copy, &mut made);
        }
        commands(keys, &mut made);
    }

    fn copy(&mut self, copy: Placed<CopyKeys>, made: &mut Made<'_>) {
        let Placed { value: CopyKeys { from, to, ignore }, location } = copy;
        let missing = match (from, to) {
            (Some(from), Some(to)) => {
                let step = LayerStep::Copy { from: from.value.0, to: to.value.0, ignore: list(ignore) };
                return made.push(Some(location), step);
            }
            (None, _) => "from",
            (Some(_), None) => "to",
        };
        self.report(
            Diagnostic::error(codes::MISSING_KEY, format!("copy has no `{missing}`"))
                .at(location)
                .help("write { from = \"tools\", to = \"/opt/tools\" }"),
        );
    }
}

/// The steps made so far, and what each of them takes from its table.
struct Made<'a> {
    extra: &'a StepExtra,
    at: Location,
    layers: &'a mut Vec<Layered>,
}

impl Made<'_> {
    fn push(&mut self, location: Option<Location>, step: LayerStep) {
        self.layers.push(self.extra.layer(step, location.unwrap_or(self.at)));
    }

    fn step<T>(&mut self, key: Setting<T>, make: impl FnOnce(T) -> LayerStep) {
        if let Some(key) = key {
            let location = place(&key);
            self.push(location, make(key.value));
        }
    }
}

/// Packages of the system, then of Python.
fn packages(keys: &mut StepKeys, made: &mut Made<'_>) {
    let options = pip_options(keys);
    let installer = keys.installer.take().map_or(Installer::Uv, |installer| installer.value);
    made.step(keys.apt.take(), |apt| LayerStep::Apt(plain_texts(apt)));
    made.step(keys.micromamba.take(), micromamba_step);
    made.step(keys.private_repos.take(), |repositories| private_repos_step(repositories, options.clone()));
    let (pip, requirements) = (keys.pip.take(), keys.requirements.take());
    if pip.is_some() || requirements.is_some() {
        let location = pip
            .as_ref()
            .and_then(|key| place(key))
            .or_else(|| requirements.as_ref().and_then(|key| place(key)));
        let requirements = requirements.map(|list| list.value.into_iter().map(|path| path.0).collect());
        made.push(
            location,
            LayerStep::Pip(PipLayer {
                packages: list(pip),
                requirements: requirements.unwrap_or_default(),
                options: options.clone(),
                installer,
            }),
        );
    }
    made.step(keys.pyproject.take(), |pyproject| pyproject_step(pyproject, options.clone(), installer));
    if let Some(lock) = keys.uv_lock.take() {
        let location = place(&lock);
        if let Some(sync) = uv_sync(lock.value, &options) {
            made.push(location, LayerStep::UvSync(sync));
        }
    }
    made.step(keys.poetry.take(), |poetry| LayerStep::Poetry(poetry_step(poetry)));
}

/// What runs while the image is built, and what it runs by default.
fn commands(keys: StepKeys, made: &mut Made<'_>) {
    made.step(keys.shell, |shell| LayerStep::Shell(shell.0));
    made.step(keys.run, |run| LayerStep::Run(plain_texts(run)));
    made.step(keys.dockerfile_commands, dockerfile_step);
    made.step(keys.entrypoint, |entrypoint| LayerStep::Entrypoint(entrypoint.0));
    made.step(keys.cmd, |cmd| LayerStep::Cmd(cmd.0));
}

/// What an explicit layer says about its step.
#[derive(Default)]
pub(super) struct StepExtra {
    pub gpu: Option<GpuText>,
    pub secrets: Vec<Secret>,
    pub volumes: IndexMap<String, Volume>,
    pub env: IndexMap<String, String>,
    pub env_secrets: Vec<IndexMap<String, String>>,
    pub force_build: bool,
}

impl StepExtra {
    fn layer(&self, step: LayerStep, location: Location) -> Layered {
        Layered {
            step,
            gpu: self.gpu.clone(),
            secrets: self.secrets.clone(),
            volumes: self.volumes.clone(),
            env: self.env.clone(),
            env_secrets: self.env_secrets.clone(),
            force_build: self.force_build,
            location,
        }
    }
}

/// The keys of a table that are steps, as against options of steps. pip and requirements are one step.
pub(super) fn step_names(keys: &StepKeys) -> Vec<(&'static str, Location)> {
    const OPTIONS: [&str; 7] =
        ["index_url", "extra_index_url", "find_links", "pre", "extra_options", "uv_version", "installer"];
    let mut names = keys.locations();
    names.retain(|(name, _)| {
        let with_pip = *name == "requirements" && keys.pip.is_some();
        !with_pip && !OPTIONS.contains(name)
    });
    names
}

pub(super) fn note_effects(
    keys: &StepKeys,
    env: &mut IndexMap<String, Valued<String>>,
    workdir: &mut Option<Valued<String>>,
) {
    if let Some(set) = &keys.env {
        env.extend(variables(set.value.clone()));
    }
    if let Some(set) = &keys.workdir {
        *workdir = Some(map(set.clone(), |text| text.0));
    }
}

fn pip_options(keys: &mut StepKeys) -> PipOptions {
    PipOptions {
        index_url: text(&mut keys.index_url),
        extra_index_url: text(&mut keys.extra_index_url),
        find_links: text(&mut keys.find_links),
        pre: keys.pre.take().is_some_and(|pre| pre.value),
        extra_options: text(&mut keys.extra_options),
        uv_version: text(&mut keys.uv_version),
    }
}

fn micromamba_step(value: Either<Vec<Text>, MicromambaKeys>) -> LayerStep {
    match value {
        Either::Short(packages) => LayerStep::MicromambaInstall {
            packages: plain_texts(packages),
            spec_file: None,
            channels: Vec::new(),
        },
        Either::Long(keys) => LayerStep::MicromambaInstall {
            packages: list(keys.packages),
            spec_file: keys.spec_file.map(|path| path.value.0),
            channels: list(keys.channels),
        },
    }
}

fn private_repos_step(value: Either<Vec<Text>, PrivateReposKeys>, options: PipOptions) -> LayerStep {
    let (repositories, git_user) = match value {
        Either::Short(repositories) => (plain_texts(repositories), None),
        Either::Long(mut keys) => (list(keys.repositories), text(&mut keys.git_user)),
    };
    let git_user = git_user.unwrap_or_else(|| DEFAULT_GIT_USER.to_owned());
    LayerStep::PipPrivateRepos { repositories, git_user, options }
}

fn pyproject_step(
    value: Either<ProjectPath, PyprojectKeys>,
    options: PipOptions,
    installer: Installer,
) -> LayerStep {
    let (path, optional_dependencies) = match value {
        Either::Short(path) => (Some(path.0), Vec::new()),
        Either::Long(keys) => (keys.path.map(|path| path.value.0), list(keys.optional_dependencies)),
    };
    let path = path.unwrap_or_else(|| "pyproject.toml".to_owned());
    LayerStep::Pyproject { path, optional_dependencies, options, installer }
}

fn uv_sync(value: Either<SwitchOr<ProjectPath>, UvLockKeys>, options: &PipOptions) -> Option<UvSync> {
    let plain = |project: String| UvSync {
        project,
        groups: Vec::new(),
        extras: Vec::new(),
        frozen: true,
        extra_options: options.extra_options.clone(),
        uv_version: options.uv_version.clone(),
    };
    match value {
        Either::Short(SwitchOr::Switch(false)) => None,
        Either::Short(SwitchOr::Switch(true)) => Some(plain(".".to_owned())),
        Either::Short(SwitchOr::Value(project)) => Some(plain(project.0)),
        Either::Long(mut keys) => Some(UvSync {
            project: keys.project.map_or_else(|| ".".to_owned(), |project| project.value.0),
            groups: list(keys.groups),
            extras: list(keys.extras),
            frozen: keys.frozen.is_none_or(|frozen| frozen.value),
            extra_options: text(&mut keys.extra_options).or_else(|| options.extra_options.clone()),
            uv_version: text(&mut keys.uv_version).or_else(|| options.uv_version.clone()),
        }),
    }
}

fn poetry_step(value: Either<ProjectPath, PoetryKeys>) -> Poetry {
    let mut keys = match value {
        Either::Short(path) => PoetryKeys { pyproject: Some(Box::new(built_in(path))), ..Default::default() },
        Either::Long(keys) => keys,
    };
    let pyproject = keys.pyproject.take().map_or_else(|| "pyproject.toml".to_owned(), |path| path.value.0);
    let (lock, ignore_lock) = match keys.lock.take().map(|lock| lock.value) {
        None | Some(SwitchOr::Switch(true)) => (None, false),
        Some(SwitchOr::Switch(false)) => (None, true),
        Some(SwitchOr::Value(path)) => (Some(path.0), false),
    };
    Poetry {
        pyproject,
        lock,
        ignore_lock,
        with: list(keys.with),
        without: list(keys.without),
        only: list(keys.only),
        version: text(&mut keys.version),
        preinstalled: keys.preinstalled.is_some_and(|there| there.value),
        old_installer: keys.old_installer.is_some_and(|old| old.value),
    }
}

fn dockerfile_step(value: Either<Vec<Text>, DockerfileCommandKeys>) -> LayerStep {
    let keys = match value {
        Either::Short(commands) => {
            DockerfileCommandKeys { commands: Some(Box::new(built_in(commands))), ..Default::default() }
        }
        Either::Long(keys) => keys,
    };
    let files = keys.context_files.map(|files| files.value.entries).unwrap_or_default();
    LayerStep::Dockerfile {
        commands: list(keys.commands),
        context: keys.context.map(|path| path.value.0),
        ignore: keys.ignore.map(|list| plain_texts(list.value)),
        context_files: files.into_iter().map(|(there, here)| (there, here.value.value.0)).collect(),
        build_args: keys.build_args.map(|args| arguments(args.value)).unwrap_or_default(),
    }
}
