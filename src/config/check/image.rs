//! Image keys → images: one base, build steps in order, no circle of `from`.

use indexmap::IndexMap;

use super::settings::{gpu, secret, variables, volume_map};
use super::{Checker, built_in, cycles, map, place};
use crate::config::codes;
use crate::config::grammar::{
    DockerfileCommandKeys, Either, GpuName, ImageKeys, ItemName, LayerKeys, Map, MicromambaKeys, Placed,
    PoetryKeys, PrivateReposKeys, ProjectPath, PyprojectKeys, Scalar, StepKeys, SwitchOr, Text, UvLockKeys,
};
use crate::config::model::{
    GpuText, Image, ImageBase, Installer, LayerStep, Layered, LocalImage, PipLayer, PipOptions, Poetry,
    RegistryAuth, Secret, UvSync, Valued, Volume,
};
use crate::diag::{Diagnostic, Location};

/// User of private repositories unless said.
const DEFAULT_GIT_USER: &str = "x-access-token";

impl Checker {
    pub(super) fn images(&mut self, keys: Map<ItemName, Box<ImageKeys>>) -> IndexMap<String, Image> {
        let mut images = IndexMap::with_capacity(keys.entries.len());
        for (name, entry) in keys.entries {
            let image = self.image(Some(name.clone()), *entry.value.value, entry.key_location);
            images.insert(name, image);
        }
        self.circles_of_from(&images);
        images
    }

    fn circles_of_from(&mut self, images: &IndexMap<String, Image>) {
        let graph: cycles::Graph<'_> = images
            .iter()
            .filter_map(|(name, image)| match &image.base.value {
                ImageBase::Image(from) => Some((name.as_str(), vec![(from.as_str(), place(&image.base))])),
                _ => None,
            })
            .collect();
        for circle in cycles::find(images.keys().map(String::as_str), &graph) {
            let help = "give one of them a `base` instead of `from`";
            self.report(cycles::diagnostic(&circle, "image", ("builds on", "build on"), help));
        }
    }

    pub(super) fn image(&mut self, name: Option<String>, mut keys: ImageKeys, location: Location) -> Image {
        self.pip_options_without_packages(&keys);
        let base = self.base(&mut keys);
        let python = keys.python.take().map(|python| map(python, |python| python.0));
        let steps = keys.take_steps();
        let mut layers = Vec::new();
        let (mut env, mut workdir) = (IndexMap::new(), None);
        let extra = StepExtra::default();
        note_effects(&steps, &mut env, &mut workdir);
        self.steps(steps, &extra, location, &mut layers);
        for Placed { value: mut layer, location } in
            keys.layers.take().map(|list| list.value).unwrap_or_default()
        {
            let steps = layer.take_steps();
            let only_env = step_names(&steps).len() == usize::from(steps.env.is_some());
            if only_env {
                note_effects(&steps, &mut env, &mut workdir);
            } else if let Some(workdir_set) = &steps.workdir {
                workdir = Some(map(workdir_set.clone(), |text| text.0));
            }
            self.layer(layer, steps, location, &mut layers);
        }
        let local = keys.local.take().map(|local| local.value).unwrap_or_default();
        let layer_of_secrets = keys.secrets.take();
        let secrets = layer_of_secrets.map(|list| {
            let origin = list.origin;
            let valued = |entry| Valued { value: secret(entry), origin: origin.clone() };
            list.value.into_iter().map(valued).collect()
        });
        Image {
            name,
            location,
            base,
            python,
            gpu: keys.gpu.take().map(|list| map(list, |list| list.into_iter().map(gpu).collect())),
            layers,
            workdir,
            env,
            secrets: secrets.unwrap_or_default(),
            force_build: keys.force_build.is_some_and(|force| force.value),
            local: LocalImage {
                engine: local.engine,
                run: local
                    .run
                    .map(super::settings::each)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|text| map(text, |text| text.0))
                    .collect(),
            },
        }
    }

    fn base(&mut self, keys: &mut ImageKeys) -> Valued<ImageBase> {
        self.one_base(keys);
        let auth = self.auth(keys);
        let add_python = keys.add_python.as_ref().is_some_and(|add| add.value);
        if let Some(from) = keys.from.take() {
            let Placed { value: name, location } = from.value;
            if !self.images.contains_key(&name.0) {
                self.unknown_name(codes::UNKNOWN_IMAGE, "image", &name.0, location, |checker| {
                    &checker.images
                });
            }
            return Valued { value: ImageBase::Image(name.0), origin: from.origin };
        }
        if let Some(dockerfile) = keys.dockerfile.take() {
            let context = keys.context.take().map(|context| context.value.0);
            let build_args = keys.build_args.take().map(|args| arguments(args.value)).unwrap_or_default();
            let ignore = keys.ignore.take().map(|list| plain_texts(list.value));
            let build_env = keys.build_env.take().map(|env| arguments(env.value)).unwrap_or_default();
            let build_gpu = keys.build_gpu.take().and_then(build_gpu);
            return map(dockerfile, |path| ImageBase::Dockerfile {
                path: path.0,
                context,
                ignore,
                build_args,
                add_python,
                auth,
                build_env,
                build_gpu,
            });
        }
        let setup = keys.setup.take().map(|list| plain_texts(list.value)).unwrap_or_default();
        let Some(base) = keys.base.take() else { return built_in(ImageBase::DebianSlim) };
        map(base, |Text(reference)| match reference.as_str() {
            "debian_slim" => ImageBase::DebianSlim,
            "micromamba" => ImageBase::Micromamba,
            "scratch" => ImageBase::Scratch,
            _ => ImageBase::Registry { reference, auth, add_python, setup },
        })
    }

    /// Reports keys that cannot stand beside each other or beside this kind of base.
    fn one_base(&mut self, keys: &ImageKeys) {
        let base = keys.base.as_ref().map(|base| ("base", place(base)));
        let from = keys.from.as_ref().map(|from| ("from", place(from)));
        let dockerfile = keys.dockerfile.as_ref().map(|dockerfile| ("dockerfile", place(dockerfile)));
        let said: Vec<_> = [base, from, dockerfile].into_iter().flatten().collect();
        if let [(first, first_at), (second, second_at), ..] = said.as_slice() {
            let message = format!("`{second}` and `{first}` both say what the image is built on");
            self.contradiction(message, *second_at, *first_at, "keep one of the two");
            return;
        }
        if let Some(base) = keys.base.as_ref()
            && let Some((message, help)) = bad_reference(&base.value.0)
        {
            self.report(Diagnostic::error(codes::BAD_VALUE, message).at(place(base)).help(help));
        }
        let built_in_base = keys.base.as_ref().is_none_or(|base| is_built_in(&base.value.0));
        let registry = !built_in_base;
        let only = |key: Option<(&'static str, Option<Location>)>, allowed: bool, help| match key {
            Some((key, at)) if !allowed => Some((key, at, help)),
            _ => None,
        };
        let has_dockerfile = keys.dockerfile.is_some();
        let needs_dockerfile = "it belongs to `dockerfile = \"…\"`";
        let needs_registry = "it belongs to a base from a registry";
        let found = [
            only(keys.context.as_ref().map(|key| ("context", place(key))), has_dockerfile, needs_dockerfile),
            only(
                keys.build_args.as_ref().map(|key| ("build_args", place(key))),
                has_dockerfile,
                needs_dockerfile,
            ),
            only(keys.ignore.as_ref().map(|key| ("ignore", place(key))), has_dockerfile, needs_dockerfile),
            only(
                keys.build_env.as_ref().map(|key| ("build_env", place(key))),
                has_dockerfile,
                needs_dockerfile,
            ),
            only(
                keys.build_gpu.as_ref().map(|key| ("build_gpu", place(key))),
                has_dockerfile,
                needs_dockerfile,
            ),
            only(keys.setup.as_ref().map(|key| ("setup", place(key))), registry, needs_registry),
            only(
                keys.add_python.as_ref().map(|key| ("add_python", place(key))),
                registry || has_dockerfile,
                "it belongs to a base from a registry or to a Dockerfile",
            ),
        ];
        for (key, at, help) in found.into_iter().flatten() {
            self.contradiction(format!("`{key}` has nothing to act on here"), at, None, help);
        }
    }

    fn auth(&mut self, keys: &mut ImageKeys) -> RegistryAuth {
        let said = [
            keys.registry_secret
                .take()
                .map(|key| ("registry_secret", place(&key), RegistryAuth::Static(key.value.0))),
            keys.ecr_secret.take().map(|key| ("ecr_secret", place(&key), RegistryAuth::Aws(key.value.0))),
            keys.gcp_secret.take().map(|key| ("gcp_secret", place(&key), RegistryAuth::Gcp(key.value.0))),
        ];
        let mut said = said.into_iter().flatten();
        let Some((first, first_at, auth)) = said.next() else { return RegistryAuth::Public };
        if let Some((second, second_at, _)) = said.next() {
            let message = format!("`{second}` and `{first}` are two ways to log in to one registry");
            self.contradiction(message, second_at, Some(first_at).flatten(), "keep one of the two");
        }
        let base_is_remote =
            keys.dockerfile.is_some() || keys.base.as_ref().is_some_and(|base| !is_built_in(&base.value.0));
        if !base_is_remote {
            let message = format!("`{first}` has no registry to log in to");
            self.contradiction(
                message,
                first_at,
                None,
                "it belongs to a base from a registry or to a Dockerfile",
            );
        }
        auth
    }

    fn pip_options_without_packages(&mut self, keys: &ImageKeys) {
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

    fn layer(&mut self, keys: LayerKeys, steps: StepKeys, location: Location, layers: &mut Vec<Layered>) {
        let names = step_names(&steps);
        let steps_beside_env = names.iter().filter(|(name, _)| *name != "env").collect::<Vec<_>>();
        if names.is_empty() {
            self.report(
                Diagnostic::error(codes::MISSING_KEY, "a layer without a build step")
                    .at(location)
                    .help("give it one: apt, pip, run, copy, …"),
            );
        }
        if let [(first, first_at), (second, second_at), ..] = steps_beside_env.as_slice() {
            let message = format!("`{second}` and `{first}` are two steps in one layer");
            self.contradiction(
                message,
                Some(*second_at),
                Some(*first_at),
                "write a `[[…layers]]` entry for each",
            );
        }
        let mut steps = steps;
        let env = match steps_beside_env.is_empty() {
            true => IndexMap::new(),
            false => steps.env.take().map(|env| arguments(env.value)).unwrap_or_default(),
        };
        let extra = StepExtra {
            gpu: keys.gpu.and_then(build_gpu),
            secrets: keys
                .secrets
                .map(|list| list.value.into_iter().map(secret).collect())
                .unwrap_or_default(),
            volumes: keys.volumes.map(|volumes| volume_map(volumes.value)).unwrap_or_default(),
            env,
            force_build: keys.force_build.is_some_and(|force| force.value),
        };
        self.steps(steps, &extra, location, layers);
    }

    /// The steps of one table, in their fixed order.
    fn steps(&mut self, mut keys: StepKeys, extra: &StepExtra, at: Location, layers: &mut Vec<Layered>) {
        let options = pip_options(&mut keys);
        let installer = keys.installer.take().map_or(Installer::Uv, |installer| installer.value);
        let mut push = |location: Option<Location>, step: LayerStep| {
            layers.push(extra.layer(step, location.unwrap_or(at)));
        };
        if let Some(apt) = keys.apt {
            push(place(&apt), LayerStep::Apt(plain_texts(apt.value)));
        }
        if let Some(micromamba) = keys.micromamba {
            push(place(&micromamba), micromamba_step(micromamba.value));
        }
        if let Some(repositories) = keys.private_repos {
            push(place(&repositories), private_repos_step(repositories.value, options.clone()));
        }
        let location =
            keys.pip.as_ref().and_then(place).or_else(|| keys.requirements.as_ref().and_then(place));
        if keys.pip.is_some() || keys.requirements.is_some() {
            let packages = keys.pip.map(|list| plain_texts(list.value)).unwrap_or_default();
            let requirements = keys
                .requirements
                .map(|list| list.value.into_iter().map(|path| path.0).collect())
                .unwrap_or_default();
            let options = options.clone();
            push(location, LayerStep::Pip(PipLayer { packages, requirements, options, installer }));
        }
        if let Some(pyproject) = keys.pyproject {
            push(place(&pyproject), pyproject_step(pyproject.value, options.clone(), installer));
        }
        if let Some(lock) = keys.uv_lock {
            let location = place(&lock);
            if let Some(sync) = uv_sync(lock.value, &options) {
                push(location, LayerStep::UvSync(sync));
            }
        }
        if let Some(poetry) = keys.poetry {
            push(place(&poetry), LayerStep::Poetry(poetry_step(poetry.value)));
        }
        if let Some(env) = keys.env.filter(|env| !env.value.entries.is_empty()) {
            push(place(&env), LayerStep::Env(arguments(env.value)));
        }
        if let Some(workdir) = keys.workdir {
            push(place(&workdir), LayerStep::Workdir(workdir.value.0));
        }
        for Placed { value: copy, location } in keys.copy.map(|list| list.value).unwrap_or_default() {
            match (copy.from, copy.to) {
                (Some(from), Some(to)) => {
                    let ignore = copy.ignore.map(|list| plain_texts(list.value)).unwrap_or_default();
                    push(Some(location), LayerStep::Copy { from: from.value.0, to: to.value.0, ignore });
                }
                (from, _) => self.diagnostics.push(
                    Diagnostic::error(
                        codes::MISSING_KEY,
                        format!("copy has no `{}`", if from.is_none() { "from" } else { "to" }),
                    )
                    .at(location)
                    .help("write { from = \"tools\", to = \"/opt/tools\" }"),
                ),
            }
        }
        let mut push = |location: Option<Location>, step: LayerStep| {
            layers.push(extra.layer(step, location.unwrap_or(at)));
        };
        if let Some(shell) = keys.shell {
            push(place(&shell), LayerStep::Shell(shell.value.0));
        }
        if let Some(run) = keys.run {
            push(place(&run), LayerStep::Run(plain_texts(run.value)));
        }
        if let Some(commands) = keys.dockerfile_commands {
            push(place(&commands), dockerfile_step(commands.value));
        }
        if let Some(entrypoint) = keys.entrypoint {
            push(place(&entrypoint), LayerStep::Entrypoint(entrypoint.value.0));
        }
        if let Some(cmd) = keys.cmd {
            push(place(&cmd), LayerStep::Cmd(cmd.value.0));
        }
    }
}

/// What an explicit layer says about its step.
#[derive(Default)]
struct StepExtra {
    gpu: Option<GpuText>,
    secrets: Vec<Secret>,
    volumes: IndexMap<String, Volume>,
    env: IndexMap<String, String>,
    force_build: bool,
}

impl StepExtra {
    fn layer(&self, step: LayerStep, location: Location) -> Layered {
        Layered {
            step,
            gpu: self.gpu.clone(),
            secrets: self.secrets.clone(),
            volumes: self.volumes.clone(),
            env: self.env.clone(),
            force_build: self.force_build,
            location,
        }
    }
}

/// The keys of a table that are steps, as against options of steps. pip and requirements are one step.
fn step_names(keys: &StepKeys) -> Vec<(&'static str, Location)> {
    const OPTIONS: [&str; 7] =
        ["index_url", "extra_index_url", "find_links", "pre", "extra_options", "uv_version", "installer"];
    let mut names = keys.locations();
    names.retain(|(name, _)| {
        let with_pip = *name == "requirements" && keys.pip.is_some();
        !with_pip && !OPTIONS.contains(name)
    });
    names
}

fn note_effects(
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

fn is_built_in(reference: &str) -> bool {
    matches!(reference, "debian_slim" | "micromamba" | "scratch")
}

/// A reference is `[registry/]name[:tag][@digest]`; placeholders are filled in later.
fn bad_reference(reference: &str) -> Option<(String, String)> {
    let bad = reference.is_empty() || reference.contains(char::is_whitespace);
    if bad {
        let help = "write debian_slim, micromamba, scratch or a registry reference such as \"ubuntu:24.04\"";
        return Some((format!("`{reference}` is no base"), help.to_owned()));
    }
    let near = crate::base::suggest::nearest(reference, ["debian_slim", "micromamba", "scratch"])?;
    (!is_built_in(reference) && !reference.contains([':', '/', '@', '$'])).then(|| {
        (
            format!("unknown base `{reference}`"),
            format!("did you mean `{near}`? a registry reference has a tag: \"{reference}:latest\""),
        )
    })
}

fn build_gpu(gpu: Valued<GpuName>) -> Option<GpuText> {
    let location = place(&gpu)?;
    Some(GpuText { text: gpu.value.0, wait: None, location })
}

fn plain_texts(list: Vec<Text>) -> Vec<String> {
    list.into_iter().map(|text| text.0).collect()
}

fn arguments<K>(keys: Map<K, Scalar>) -> IndexMap<String, String> {
    keys.entries.into_iter().map(|(name, entry)| (name, entry.value.value.0)).collect()
}

fn text(key: &mut Option<Valued<Text>>) -> Option<String> {
    key.take().map(|text| text.value.0)
}

fn list(key: Option<Valued<Vec<Text>>>) -> Vec<String> {
    key.map(|list| plain_texts(list.value)).unwrap_or_default()
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
        Either::Short(path) => PoetryKeys { pyproject: Some(built_in(path)), ..Default::default() },
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
            DockerfileCommandKeys { commands: Some(built_in(commands)), ..Default::default() }
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
