//! The keys of an image and of its explicit layers.

use serde_json::{Value as Json, json};

use super::{
    AnyKey, Definitions, GpuEntry, GpuName, Grammar, Map, MountPath, Placed, Plain, ProjectPath, Scalar,
    SecretEntry, Text, VariableName, VolumeEntry, keys,
};
use crate::config::codes;
use crate::config::model::{Installer, LocalEngine};
use crate::config::reader::Reader;
use crate::config::tree::{Node, Value};

/// A table with the keys of build steps besides its own, so that images and explicit layers take the same ones.
macro_rules! with_steps {
    (
        $(#[doc = $about:literal])*
        $name:ident as $spoken:literal { $($own:tt)* }
        steps { $( $(#[doc = $doc:literal])* $step:ident : $type:ty ),* $(,)? }
    ) => {
        keys! {
            $(#[doc = $about])*
            $name as $spoken { $($own)* $( $(#[doc = $doc])* $step: $type ),* }
        }

        impl $name {
            /// Moves the keys of build steps out.
            pub fn take_steps(&mut self) -> StepKeys {
                StepKeys { $( $step: self.$step.take() ),* }
            }
        }
    };
}

macro_rules! step_tables {
    ($( { $($head:tt)* } )*) => {
        $(
            with_steps! {
                $($head)*
                steps {
                    /// Debian packages, installed with apt.
                    apt: Vec<Text>,
                    /// conda packages for `base = "micromamba"`: a list, or `{ packages, spec_file, channels }`.
                    micromamba: Either<Vec<Text>, MicromambaKeys>,
                    /// Private Git repositories installed with pip: a list, or `{ repositories, git_user }`.
                    /// The first of `secrets` holds the token.
                    private_repos: Either<Vec<Text>, PrivateReposKeys>,
                    /// Python packages: `["pytest>=8"]`.
                    pip: Vec<Text>,
                    /// Requirements files.
                    requirements: Vec<ProjectPath>,
                    /// A pyproject.toml whose dependencies are installed: its path, or `{ path, optional_dependencies }`.
                    pyproject: Either<ProjectPath, PyprojectKeys>,
                    /// Dependencies as uv.lock says: true, the folder of pyproject.toml and uv.lock, or
                    /// `{ project, groups, extras, frozen, extra_options, uv_version }`.
                    uv_lock: Either<SwitchOr<ProjectPath>, UvLockKeys>,
                    /// Dependencies as poetry.lock says: the path of pyproject.toml, or
                    /// `{ pyproject, lock, with, without, only, version, preinstalled, old_installer }`.
                    poetry: Either<ProjectPath, PoetryKeys>,
                    /// Package index instead of PyPI.
                    index_url: Text,
                    /// Package index besides it.
                    extra_index_url: Text,
                    /// Page or folder with links to packages.
                    find_links: Text,
                    /// Allows pre-releases.
                    pre: bool,
                    /// More options for the installer, as one text.
                    extra_options: Text,
                    /// Version of uv that installs on Modal.
                    uv_version: Text,
                    /// uv or pip. Default: uv.
                    installer: Installer,
                    /// Environment variables of the image; in an explicit layer with another step: of that step alone.
                    env: Map<VariableName, Scalar>,
                    /// Working folder of later steps and of jobs.
                    workdir: Text,
                    /// Files and folders that go into the image: `{ from = "tools", to = "/opt/tools" }`.
                    copy: Vec<Placed<CopyKeys>>,
                    /// Shell commands.
                    run: Vec<Text>,
                    /// Dockerfile lines, verbatim: a list, or `{ commands, context, ignore, context_files, build_args }`.
                    dockerfile_commands: Either<Vec<Text>, DockerfileCommandKeys>,
                    /// Entrypoint of the image.
                    entrypoint: Argv,
                    /// Default command of the image.
                    cmd: Argv,
                    /// Shell that later `run` steps use.
                    shell: Argv,
                }
            }
        )*
    };
}

step_tables! {
    {
        /// Build steps.
        StepKeys as "build steps" {}
    }
    {
        /// One explicit layer: one build step with its options.
        LayerKeys as "a layer" {
            /// The build step needs this GPU.
            gpu: GpuName,
            /// Modal secrets that the build step sees.
            secrets: Vec<SecretEntry>,
            /// More sets of variables of this step alone, weaker than `env`; on Modal each is a secret of its own.
            env_secrets: Vec<Map<VariableName, Scalar>>,
            /// Modal volumes that the build step sees, by mount path.
            volumes: Map<MountPath, VolumeEntry>,
            /// Builds again even where the layer is cached.
            force_build: bool,
        }
    }
    {
        /// What jobs run in. Steps of the table are built in the order in which they are listed here,
        /// then `layers`.
        ImageKeys as "an image" {
            /// `debian_slim` (default), `micromamba`, `scratch`, or a registry reference.
            base: Text,
            /// Another image of this file to build on.
            from: Placed<Plain>,
            /// A Dockerfile to build on.
            dockerfile: ProjectPath,
            /// Folder that the Dockerfile's COPY reads. Default: the folder of accel.toml.
            context: ProjectPath,
            /// Build arguments of the Dockerfile.
            build_args: Map<AnyKey, Scalar>,
            /// Patterns of files that the Dockerfile's COPY does not see, as in .dockerignore. Default: .dockerignore.
            ignore: Vec<Text>,
            /// Environment variables of the Dockerfile's build.
            build_env: Map<VariableName, Scalar>,
            /// The Dockerfile's build needs this GPU.
            build_gpu: GpuName,
            /// Installs Python into a base that has none.
            add_python: bool,
            /// Dockerfile lines that run on a registry base before anything else.
            setup: Vec<Text>,
            /// Modal secret with REGISTRY_USERNAME and REGISTRY_PASSWORD for a private registry.
            registry_secret: Plain,
            /// Modal secret with AWS credentials for Elastic Container Registry.
            ecr_secret: Plain,
            /// Modal secret with a service account for Google Artifact Registry.
            gcp_secret: Plain,
            /// Python version: `"3.12"`.
            python: PythonVersion,
            /// Default gpu of the jobs that use the image.
            gpu: Vec<GpuEntry>,
            /// Modal secrets that every build step sees.
            secrets: Vec<SecretEntry>,
            /// Builds again even where the image is cached.
            force_build: bool,
            /// Steps in explicit order, after those of the table.
            layers: Vec<Placed<LayerKeys>>,
            /// How the image is made on this machine.
            local: LocalImageKeys,
        }
    }
}

keys! {
    /// conda packages.
    MicromambaKeys as "micromamba" {
        /// Packages to install.
        packages: Vec<Text>,
        /// File that lists packages.
        spec_file: ProjectPath,
        /// Channels to take them from.
        channels: Vec<Text>,
    }
}

keys! {
    /// Private Git repositories installed with pip.
    PrivateReposKeys as "private_repos" {
        /// `github.com/owner/name@ref` or `gitlab.com/…`.
        repositories: Vec<Text>,
        /// User that the token belongs to.
        git_user: Text,
    }
}

keys! {
    /// A pyproject.toml whose dependencies are installed.
    PyprojectKeys as "pyproject" {
        /// Its path. Default: pyproject.toml.
        path: ProjectPath,
        /// Groups of optional dependencies.
        optional_dependencies: Vec<Text>,
    }
}

keys! {
    /// Dependencies as uv.lock says.
    UvLockKeys as "uv_lock" {
        /// Folder of pyproject.toml and uv.lock. Default: the folder of accel.toml.
        project: ProjectPath,
        /// Dependency groups.
        groups: Vec<Text>,
        /// Extras.
        extras: Vec<Text>,
        /// Takes uv.lock as it is. Default: true. With false uv may resolve anew, and uv.lock may be missing.
        frozen: bool,
        /// More options for `uv sync`, as one text.
        extra_options: Text,
        /// Version of uv on Modal.
        uv_version: Text,
    }
}

keys! {
    /// Dependencies as poetry.lock says.
    PoetryKeys as "poetry" {
        /// Path of pyproject.toml. Default: pyproject.toml.
        pyproject: ProjectPath,
        /// Path of poetry.lock, or false to go without. Default: poetry.lock beside pyproject.toml.
        lock: SwitchOr<ProjectPath>,
        /// Groups besides the main one.
        with: Vec<Text>,
        /// Groups to leave out.
        without: Vec<Text>,
        /// These groups alone.
        only: Vec<Text>,
        /// Version of poetry.
        version: Text,
        /// The image already has poetry. Default: false.
        preinstalled: bool,
        /// Uses poetry's old installer. Default: false.
        old_installer: bool,
    }
}

keys! {
    /// Dockerfile lines with what they read.
    DockerfileCommandKeys as "dockerfile_commands" {
        /// The lines.
        commands: Vec<Text>,
        /// Folder that COPY reads. Default: the folder of accel.toml.
        context: ProjectPath,
        /// Patterns of files that COPY does not see. Default: the folder's .dockerignore.
        ignore: Vec<Text>,
        /// More files of the context: path there = path here.
        context_files: Map<AnyKey, ProjectPath>,
        /// Build arguments.
        build_args: Map<AnyKey, Scalar>,
    }
}

keys! {
    /// A file or folder that goes into the image.
    CopyKeys as "copy" {
        /// Path here.
        from: ProjectPath,
        /// Absolute path there.
        to: Text,
        /// Patterns to leave out, as in .dockerignore.
        ignore: Vec<Text>,
    }
}

keys! {
    /// How an image is made on this machine.
    LocalImageKeys as "[images.x.local]" {
        /// venv, host or container. Default: venv with Python packages, else host.
        engine: LocalEngine,
        /// Shell commands run once in a fresh environment, in place of the image's.
        run: Vec<Placed<Text>>,
    }
}

/// A short form, or a table.
#[derive(Debug, Clone)]
pub enum Either<Short, Long> {
    Short(Short),
    Long(Long),
}

impl<Short: Grammar, Long: Grammar> Grammar for Either<Short, Long> {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        match node.value {
            Value::Table(_) => Long::decode(node, reader).map(Self::Long),
            _ => Short::decode(node, reader).map(Self::Short),
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [Short::schema(definitions), Long::schema(definitions)] })
    }

    fn overlay(&mut self, stronger: Self) {
        match (self, stronger) {
            (Self::Long(weaker), Self::Long(stronger)) => weaker.overlay(stronger),
            (weaker, stronger) => *weaker = stronger,
        }
    }
}

/// true, false, or a value.
#[derive(Debug, Clone)]
pub enum SwitchOr<T> {
    Switch(bool),
    Value(T),
}

impl<T: Grammar> Grammar for SwitchOr<T> {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        match node.value {
            Value::Bool(value) => Some(Self::Switch(value)),
            _ => T::decode(node, reader).map(Self::Value),
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [{ "type": "boolean" }, T::schema(definitions)] })
    }
}

/// A list of words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argv(pub Vec<String>);

impl Grammar for Argv {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Value::List(items) = &node.value else {
            reader.wrong_type(node, "a list of words");
            return None;
        };
        let words = items.iter().map(|item| Text::decode(item, reader)).collect::<Vec<_>>();
        words.into_iter().map(|word| word.map(|word| word.0)).collect::<Option<_>>().map(Self)
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "array", "items": { "type": "string" } })
    }
}

/// `"3.12"` or `"3.12.8"`; a TOML number is taken as it is spelt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PythonVersion(pub String);

impl Grammar for PythonVersion {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Scalar(text) = Scalar::decode(node, reader)?;
        if crate::base::interpolate::may_hold_placeholder(&text) {
            return Some(Self(text));
        }
        let numbers = text.split('.').collect::<Vec<_>>();
        let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let free_threaded =
            text.strip_suffix('t').is_some_and(|text| text.split('.').all(|part| number(&part)));
        if !(2..=3).contains(&numbers.len()) || !(numbers.iter().all(number) || free_threaded) {
            let message = format!("`{text}` is no Python version");
            reader.bad_text(codes::BAD_VALUE, node, message, "write \"3.12\" or \"3.12.8\"");
            return None;
        }
        Some(Self(text))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": ["string", "number"], "examples": ["3.12"] })
    }
}
