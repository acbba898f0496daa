//! One base or build step of accel.toml → its compiled form.

use std::path::{Path, PathBuf};

use crate::base::digest::Digest;
use crate::config::model::{
    Image, ImageBase, LayerStep, Layered, PipLayer, PipOptions, Poetry, Secret, UvSync,
};
use crate::diag::Location;

use super::fill::{Fill, tidy};
use super::image::{Reader, reads_secrets};
use super::pyproject;
use super::spec::{BaseSpec, LayerSpec, StepSpec};

/// The base of the image that all else is built on.
pub fn base(image: &Image, reader: &Reader<'_>) -> BaseSpec {
    let (fill, at) = (reader.fill, image.base.origin.location.or(Some(image.location)));
    match &image.base.value {
        ImageBase::DebianSlim | ImageBase::Image(_) => BaseSpec::DebianSlim,
        ImageBase::Micromamba => BaseSpec::Micromamba,
        ImageBase::Scratch => BaseSpec::Scratch,
        ImageBase::Registry { reference, auth, add_python, setup } => BaseSpec::Registry {
            reference: fill.text(reference, at),
            auth: auth.clone(),
            add_python: *add_python,
            setup: fill.texts(setup, at),
        },
        ImageBase::Dockerfile {
            path,
            context,
            ignore,
            build_args,
            add_python,
            auth,
            build_env,
            build_gpu,
        } => BaseSpec::Dockerfile {
            file: reader.file(path, at),
            context: folder(context.as_ref(), fill, at),
            ignore: ignore.as_ref().map(|patterns| fill.texts(patterns, at)),
            build_args: fill.map(build_args, at),
            add_python: *add_python,
            auth: auth.clone(),
            secrets: image.secrets.iter().map(|secret| secret.value.clone()).collect(),
            env: fill.map(build_env, at),
            gpu: build_gpu.as_ref().and_then(|gpu| fill.gpu(gpu)).map(|choice| choice.gpu),
        },
    }
}

/// The layer without its digest, which depends on the layers below.
pub fn compile(layer: &Layered, image: &Image, reader: &Reader<'_>, origin: String) -> LayerSpec {
    let fill = reader.fill;
    LayerSpec {
        step: step(&layer.step, Some(layer.location), reader),
        gpu: layer.gpu.as_ref().and_then(|gpu| fill.gpu(gpu)).map(|choice| choice.gpu),
        secrets: secrets(layer, image),
        env: fill.map(&layer.env, Some(layer.location)),
        env_secrets: layer.env_secrets.iter().map(|set| fill.map(set, Some(layer.location))).collect(),
        volumes: layer.volumes.clone(),
        force_build: layer.force_build,
        digest: Digest::of(&[]),
        origin,
    }
}

/// The image's secrets, then the layer's own; each once.
fn secrets(layer: &Layered, image: &Image) -> Vec<Secret> {
    let mut secrets: Vec<Secret> = Vec::new();
    let of_image = image.secrets.iter().map(|secret| &secret.value).filter(|_| reads_secrets(&layer.step));
    for secret in of_image.chain(&layer.secrets) {
        if !secrets.contains(secret) {
            secrets.push(secret.clone());
        }
    }
    secrets
}

fn step(step: &LayerStep, at: Option<Location>, reader: &Reader<'_>) -> StepSpec {
    let fill = reader.fill;
    match step {
        LayerStep::Apt(packages) => StepSpec::Apt(fill.texts(packages, at)),
        LayerStep::Pip(pip) => pip_step(pip, at, reader),
        LayerStep::Pyproject { path, optional_dependencies, options, installer } => {
            let file = reader.file(path, at);
            let groups = fill.texts(optional_dependencies, at);
            let dependencies = pyproject::dependencies(&file, &groups).unwrap_or_else(|finding| {
                fill.report(finding.at(at));
                Vec::new()
            });
            StepSpec::Pyproject {
                file,
                dependencies,
                options: options_of(options, fill, at),
                installer: *installer,
            }
        }
        LayerStep::UvSync(sync) => uv_sync(sync, at, reader),
        LayerStep::Poetry(poetry) => poetry_step(poetry, at, reader),
        LayerStep::MicromambaInstall { packages, spec_file, channels } => StepSpec::MicromambaInstall {
            packages: fill.texts(packages, at),
            spec_file: spec_file.as_ref().map(|path| reader.file(path, at)),
            channels: fill.texts(channels, at),
        },
        LayerStep::PipPrivateRepos { repositories, git_user, options } => StepSpec::PipPrivateRepos {
            repositories: fill.texts(repositories, at),
            git_user: fill.text(git_user, at),
            options: options_of(options, fill, at),
        },
        LayerStep::Run(commands) => StepSpec::Run(fill.texts(commands, at)),
        LayerStep::Copy { from, to, ignore } => StepSpec::Copy {
            from: fill.path(from, at),
            to: fill.text(to, at),
            ignore: fill.texts(ignore, at),
        },
        LayerStep::Env(env) => StepSpec::Env(fill.map(env, at)),
        LayerStep::Workdir(path) => StepSpec::Workdir(fill.text(path, at)),
        LayerStep::Entrypoint(words) => StepSpec::Entrypoint(fill.texts(words, at)),
        LayerStep::Cmd(words) => StepSpec::Cmd(fill.texts(words, at)),
        LayerStep::Shell(words) => StepSpec::Shell(fill.texts(words, at)),
        LayerStep::Dockerfile { commands, context, ignore, context_files, build_args } => {
            StepSpec::Dockerfile {
                commands: fill.texts(commands, at),
                context: folder(context.as_ref(), fill, at),
                ignore: ignore.as_ref().map(|patterns| fill.texts(patterns, at)),
                context_files: context_files
                    .iter()
                    .map(|(path, file)| (path.clone(), reader.file(file, at)))
                    .collect(),
                build_args: fill.map(build_args, at),
            }
        }
    }
}

fn pip_step(pip: &PipLayer, at: Option<Location>, reader: &Reader<'_>) -> StepSpec {
    StepSpec::Pip {
        packages: reader.fill.texts(&pip.packages, at),
        requirements: pip.requirements.iter().map(|path| reader.requirements(path, at)).collect(),
        options: options_of(&pip.options, reader.fill, at),
        installer: pip.installer,
    }
}

fn options_of(options: &PipOptions, fill: &Fill<'_>, at: Option<Location>) -> PipOptions {
    PipOptions {
        index_url: fill.option(options.index_url.as_ref(), at),
        extra_index_url: fill.option(options.extra_index_url.as_ref(), at),
        find_links: fill.option(options.find_links.as_ref(), at),
        pre: options.pre,
        extra_options: fill.option(options.extra_options.as_ref(), at),
        uv_version: fill.option(options.uv_version.as_ref(), at),
    }
}

/// The lock file must be there where it is to be obeyed to the letter.
fn uv_sync(sync: &UvSync, at: Option<Location>, reader: &Reader<'_>) -> StepSpec {
    let fill = reader.fill;
    let project = fill.path(&sync.project, at);
    let lock = tidy(&project.join("uv.lock"));
    StepSpec::UvSync {
        pyproject: reader.file_at(&tidy(&project.join("pyproject.toml")), at),
        lock: if sync.frozen { Some(reader.uv_lock(&lock, at)) } else { reader.optional_file(&lock) },
        sync: UvSync {
            project: text_of(&project),
            groups: fill.texts(&sync.groups, at),
            extras: fill.texts(&sync.extras, at),
            frozen: sync.frozen,
            extra_options: fill.option(sync.extra_options.as_ref(), at),
            uv_version: fill.option(sync.uv_version.as_ref(), at),
        },
    }
}

fn poetry_step(poetry: &Poetry, at: Option<Location>, reader: &Reader<'_>) -> StepSpec {
    let fill = reader.fill;
    let pyproject = reader.file(&poetry.pyproject, at);
    let lock = match &poetry.lock {
        _ if poetry.ignore_lock => None,
        Some(path) => Some(reader.file(path, at)),
        None => Some(reader.file_at(&tidy(&pyproject.path.with_file_name("poetry.lock")), at)),
    };
    StepSpec::Poetry {
        poetry: Poetry {
            pyproject: text_of(&pyproject.path),
            lock: lock.as_ref().map(|lock| text_of(&lock.path)),
            with: fill.texts(&poetry.with, at),
            without: fill.texts(&poetry.without, at),
            only: fill.texts(&poetry.only, at),
            version: fill.option(poetry.version.as_ref(), at),
            old_installer: poetry.old_installer,
            ignore_lock: poetry.ignore_lock,
            preinstalled: poetry.preinstalled,
        },
        pyproject,
        lock,
    }
}

fn folder(context: Option<&String>, fill: &Fill<'_>, at: Option<Location>) -> PathBuf {
    context.map_or_else(|| PathBuf::from("."), |path| fill.path(path, at))
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
