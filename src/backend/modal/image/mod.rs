//! An image specification → the layer requests that the official Python SDK sends for the same definition.
//!
//! Modal shares builds between clients that send equal requests, so every byte counts: [`compile()`] is pure and
//! proven against recorded requests for each [`Builder`]. What the server names by id (the parent layer, mounts,
//! secrets, volumes) stays a name in a [`LayerRequest`] until [`LayerRequest::to_wire`] is given the [`LayerIds`].
//! [`context`] says which files a layer needs from this machine; uploading them is left to others.

pub mod builder;
pub mod context;
mod dockerfile;
mod layer;
mod packages;
mod pattern;
mod step;

use indexmap::IndexMap;

use crate::plan::DEFAULT_PYTHON;
use crate::plan::spec::{BaseSpec, ImageSpec, RegistryAuth};

pub use builder::Builder;
pub use context::ContextMount;
pub use layer::{BuildOptions, BuildSecret, LayerIds, LayerRequest, Namespace, gpu_config};

/// Why an image cannot be built on Modal as it is defined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("image builder version {0:?} is not known")]
    UnknownBuilder(String),
    #[error("{0:?} is not a Python version")]
    InvalidPython(String),
    #[error("Python {version} is not available with image builder {builder}")]
    UnsupportedPython { version: String, builder: &'static str, supported: &'static [&'static str] },
    #[error("Python can only be added by series, not as {0}")]
    PythonNotASeries(String),
    #[error("free-threaded Python {0} cannot be the base of an image")]
    FreeThreadedBase(String),
    #[error("{0:?} is an option, not a package")]
    PackageIsOption(String),
    #[error("private repository {0:?} is neither on github.com nor on gitlab.com")]
    UnknownForge(String),
    #[error("private repositories need a secret with a token")]
    NoRepositorySecret,
    #[error("COPY source {0:?} holds an option or a variable")]
    CopySource(String),
    #[error("COPY source {0:?} lies outside the build context")]
    CopyOutside(String),
    #[error("a quote is not closed in: {0}")]
    UnclosedQuote(String),
    #[error("a Dockerfile of several stages cannot use a private registry")]
    StagesWithRegistrySecret,
    #[error("{0} is not UTF-8")]
    NotText(String),
    #[error("{path} cannot be read as TOML: {message}")]
    Pyproject { path: String, message: String },
    #[error("{0} is a uv workspace")]
    UvWorkspace(String),
    #[error("{path} does not list `modal`, which image builder {builder} needs")]
    NoModalDependency { path: String, builder: &'static str },
    #[error("{0:?} is not an ignore pattern")]
    BadPattern(String),
}

impl ImageError {
    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::UnknownBuilder(_) => format!(
                "accel knows {}; set MODAL_IMAGE_BUILDER_VERSION or the version of the Modal environment",
                Builder::NAMES.join(", ")
            ),
            Self::InvalidPython(_) => {
                "write a series such as \"3.12\", or a release such as \"3.12.8\"".into()
            }
            Self::UnsupportedPython { supported, .. } => format!("choose one of {}", supported.join(", ")),
            Self::PythonNotASeries(_) => "write `python = \"3.12\"`".into(),
            Self::FreeThreadedBase(_) => "use a registry image and `add_python`".into(),
            Self::PackageIsOption(_) => "put options into `extra_options`".into(),
            Self::UnknownForge(_) => "write \"github.com/owner/name@revision\"".into(),
            Self::NoRepositorySecret => {
                "name a Modal secret that holds GITHUB_TOKEN or GITLAB_TOKEN in `secrets`".into()
            }
            Self::CopySource(_) => "name the files themselves".into(),
            Self::CopyOutside(_) => "set `context` to a folder that holds the file".into(),
            Self::UnclosedQuote(_) => "close it".into(),
            Self::StagesWithRegistrySecret => "push the final stage and use it as `base`".into(),
            Self::NotText(_) => "save it as UTF-8".into(),
            Self::Pyproject { .. } => "run `uv lock --check` to see what is wrong".into(),
            Self::UvWorkspace(_) => "point `uv_lock` at one member's own project".into(),
            Self::NoModalDependency { .. } => {
                "add it, or move the Modal environment to a newer image builder".into()
            }
            Self::BadPattern(_) => "see Docker's documentation of .dockerignore".into(),
        }
    }
}

/// The layers of an image in build order; the first has no parent.
///
/// `spec.workdir` is the working directory of the sandbox, not of the image: no layer is made of it.
pub fn compile(spec: &ImageSpec, builder: Builder) -> Result<Vec<LayerRequest>, ImageError> {
    let mut layers = base(spec, builder)?;
    for layer in &mut layers {
        layer.force_build = spec.force_build;
    }
    let mut forced = spec.force_build;
    for layer in &spec.layers {
        forced = layer.force_build || (forced && step::inherits_force_build(&layer.step));
        layers.extend(step::compile(layer, builder, forced)?);
    }
    Ok(layers)
}

fn base(spec: &ImageSpec, builder: Builder) -> Result<Vec<LayerRequest>, ImageError> {
    let python = spec.python.as_deref().unwrap_or(DEFAULT_PYTHON);
    match &spec.base {
        BaseSpec::None | BaseSpec::DebianSlim => Ok(vec![debian_slim(python, builder)?]),
        BaseSpec::Micromamba => Ok(vec![micromamba(python, builder)?]),
        BaseSpec::Scratch => {
            Ok(vec![LayerRequest::base("scratch", Namespace::Global, vec!["FROM scratch".into()])])
        }
        BaseSpec::Registry { reference, auth, add_python, setup } => {
            registry(reference, auth, add_python.then_some(python), setup, builder)
        }
        BaseSpec::Dockerfile { .. } => dockerfile::compile(&spec.base, python, builder),
    }
}

fn debian_slim(python: &str, builder: Builder) -> Result<LayerRequest, ImageError> {
    let version = builder.docker_hub_python(python)?;
    let mut commands = vec![format!("FROM python:{version}-slim-{}", builder.debian())];
    let requirements = builder.installs_requirements();
    if requirements {
        commands.push(builder::COPY_REQUIREMENTS.into());
    }
    commands.push("RUN apt-get update".into());
    commands.push("RUN apt-get install -y gcc gfortran build-essential".into());
    commands.push(format!("RUN pip install --upgrade {}", builder::PACKAGE_TOOLS));
    if requirements {
        commands.push(builder::INSTALL_REQUIREMENTS.into());
    }
    commands
        .push("RUN echo 'debconf debconf/frontend select Noninteractive' | debconf-set-selections".into());
    commands.push(if requirements { builder::REMOVE_REQUIREMENTS } else { builder::SLEEP }.into());
    let layer = LayerRequest::base(format!("debian_slim {python}"), Namespace::Global, commands);
    Ok(builder.with_requirements(layer))
}

fn micromamba(python: &str, builder: Builder) -> Result<LayerRequest, ImageError> {
    let version = builder.check_base_python(python)?;
    let setup = [
        "SHELL [\"/usr/local/bin/_dockerfile_shell.sh\"]".to_owned(),
        "ENV MAMBA_DOCKERFILE_ACTIVATE=1".to_owned(),
        format!("RUN micromamba install -n base -y python={version} pip -c conda-forge"),
    ];
    let mut commands =
        builder.setup_commands(&format!("mambaorg/micromamba:{}", builder.micromamba()), None, &setup)?;
    if !builder.installs_requirements() {
        commands.push(builder::SLEEP.into());
    }
    let layer = LayerRequest::base(format!("micromamba {python}"), Namespace::Global, commands);
    Ok(builder.with_requirements(layer))
}

fn registry(
    reference: &str,
    auth: &RegistryAuth,
    add_python: Option<&str>,
    setup: &[String],
    builder: Builder,
) -> Result<Vec<LayerRequest>, ImageError> {
    let title = format!("base {reference}");
    let make = |from: &str, parent: bool| -> Result<LayerRequest, ImageError> {
        let commands = builder.setup_commands(from, add_python, setup)?;
        let mut layer = LayerRequest::base(title.clone(), Namespace::Workspace, commands);
        layer.has_parent = parent;
        layer.context = add_python.map(|python| builder.python_mount(python)).transpose()?;
        layer.registry = auth.clone();
        Ok(builder.with_requirements(layer))
    };
    if add_python.is_none() || !builder.splits_from() {
        return Ok(vec![make(reference, false)?]);
    }
    let mut from = LayerRequest::base(title.clone(), Namespace::Workspace, vec![format!("FROM {reference}")]);
    from.registry = auth.clone();
    Ok(vec![from, make("base", true)?])
}

/// `name=value` pairs of a build in the order in which they were written.
type Pairs = IndexMap<String, String>;
