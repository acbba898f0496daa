//! How an image is made: base, layers, Python packages, and what differs on this machine.

use indexmap::IndexMap;

use super::{GpuText, Secret, Text, Valued, Volume};
use crate::diag::Location;

/// One `[images.x]`.
#[derive(Debug, Clone)]
pub struct Image {
    /// `None` for inline images.
    pub name: Option<String>,
    pub location: Location,
    pub base: Valued<ImageBase>,
    pub python: Option<Valued<Text>>,
    /// Default gpu of the jobs that use the image.
    pub gpu: Option<Valued<Vec<GpuText>>>,
    /// In build order: the keys of the table in their fixed order, then `layers`.
    pub layers: Vec<Layered>,
    /// What the last layer that sets it says; for places that build no layers.
    pub workdir: Option<Valued<Text>>,
    /// What the layers that set variables come to; for places that build no layers.
    pub env: IndexMap<String, Valued<Text>>,
    /// Modal secrets that every build step sees.
    pub secrets: Vec<Valued<Secret>>,
    pub force_build: bool,
    pub local: LocalImage,
}

// One per image: a box would buy nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageBase {
    /// The default.
    DebianSlim,
    Micromamba,
    Scratch,
    /// A registry reference, with how to log in to a private one.
    Registry {
        reference: Text,
        auth: RegistryAuth,
        add_python: bool,
        setup: Vec<Text>,
    },
    Dockerfile {
        path: Text,
        context: Option<Text>,
        /// Docker's ignore patterns; `None`: the `.dockerignore` beside the Dockerfile or in the context.
        ignore: Option<Vec<Text>>,
        build_args: IndexMap<String, Text>,
        add_python: bool,
        auth: RegistryAuth,
        /// Variables and GPU of the build; its secrets are those of the image.
        build_env: IndexMap<String, Text>,
        build_gpu: Option<GpuText>,
    },
    /// `from = "other image"`.
    Image(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryAuth {
    Public,
    /// A secret with REGISTRY_USERNAME and REGISTRY_PASSWORD.
    Static(String),
    Aws(String),
    Gcp(String),
}

/// One build step and where it was written.
#[derive(Debug, Clone)]
pub struct Layered {
    pub step: LayerStep,
    pub gpu: Option<GpuText>,
    pub secrets: Vec<Secret>,
    /// Variables of this step alone.
    pub env: IndexMap<String, Text>,
    /// More sets of them, weaker than `env`, the weakest first.
    pub env_secrets: Vec<IndexMap<String, Text>>,
    /// Mounted while the step runs, by path; only for `run`.
    pub volumes: IndexMap<String, Volume>,
    pub force_build: bool,
    pub location: Location,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerStep {
    Apt(Vec<Text>),
    Pip(PipLayer),
    Pyproject {
        path: Text,
        optional_dependencies: Vec<Text>,
        options: PipOptions,
        installer: Installer,
    },
    /// `uv_lock`: the project's locked dependencies.
    UvSync(UvSync),
    Poetry(Poetry),
    MicromambaInstall {
        packages: Vec<Text>,
        spec_file: Option<Text>,
        channels: Vec<Text>,
    },
    PipPrivateRepos {
        repositories: Vec<Text>,
        git_user: Text,
        options: PipOptions,
    },
    Run(Vec<Text>),
    Copy {
        from: Text,
        to: Text,
        ignore: Vec<Text>,
    },
    Env(IndexMap<String, Text>),
    Workdir(Text),
    Entrypoint(Vec<Text>),
    Cmd(Vec<Text>),
    Shell(Vec<Text>),
    /// Dockerfile lines, verbatim.
    Dockerfile {
        commands: Vec<Text>,
        context: Option<Text>,
        /// Docker's ignore patterns; `None`: the context's `.dockerignore`.
        ignore: Option<Vec<Text>>,
        /// Path in the context → local file.
        context_files: IndexMap<String, Text>,
        build_args: IndexMap<String, Text>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Installer {
    Uv,
    Pip,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipLayer {
    pub packages: Vec<Text>,
    pub requirements: Vec<Text>,
    pub options: PipOptions,
    pub installer: Installer,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PipOptions {
    pub index_url: Option<Text>,
    pub extra_index_url: Option<Text>,
    pub find_links: Option<Text>,
    pub pre: bool,
    pub extra_options: Option<Text>,
    pub uv_version: Option<Text>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UvSync {
    /// Folder with pyproject.toml and uv.lock.
    pub project: Text,
    pub groups: Vec<Text>,
    pub extras: Vec<Text>,
    /// Whether uv.lock is taken as it is; otherwise it may be missing.
    pub frozen: bool,
    pub extra_options: Option<Text>,
    pub uv_version: Option<Text>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poetry {
    pub pyproject: Text,
    /// `None`: poetry.lock beside the pyproject.toml.
    pub lock: Option<Text>,
    /// Install without a lock file.
    pub ignore_lock: bool,
    pub with: Vec<Text>,
    pub without: Vec<Text>,
    pub only: Vec<Text>,
    pub version: Option<Text>,
    /// The image already has poetry: install none.
    pub preinstalled: bool,
    pub old_installer: bool,
}

/// `[images.x.local]`: how the image is made on this machine.
#[derive(Debug, Clone, Default)]
pub struct LocalImage {
    /// `None`: a virtual environment when there are pip keys, else the host.
    pub engine: Option<Valued<LocalEngine>>,
    /// Commands run once in a fresh environment.
    pub run: Vec<Valued<Text>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalEngine {
    Venv,
    Host,
    Container,
}
