//! An image as a Dockerfile: the same layers in the same order, and the files that they name.
//!
//! Pure but for folders, which are read when the build context is laid out. What must stay true: no address with
//! credentials gets into the text, where the image's history would keep it.

use std::path::PathBuf;

use indexmap::IndexMap;

use crate::base::quote::{shell_join, shell_quote};
use crate::net::credentials;
use crate::plan::DEFAULT_PYTHON;
use crate::plan::spec::{BaseSpec, FileRef, ImageSpec, Installer, LayerSpec, PipOptions, StepSpec};

/// Where uv is taken from, as Modal's own builders do.
const UV: &str = "COPY --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv";

/// The text, and what has to lie beside it.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    pub text: String,
    pub context: Vec<ContextFile>,
    has_uv: bool,
}

/// Something of the build context.
#[derive(Debug, Clone)]
pub(super) enum ContextFile {
    Contents {
        at: String,
        contents: std::sync::Arc<[u8]>,
    },
    /// A file or a folder of the project.
    Tree {
        at: String,
        from: PathBuf,
        ignore: Vec<String>,
    },
}

/// What a Dockerfile cannot say.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum RenderError {
    #[error("a package index with credentials would stay in the image ({0})")]
    Credentials(String),
    #[error("packages from private repositories cannot be installed with engine = \"container\" ({0})")]
    PrivateRepositories(String),
}

impl RenderError {
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "give the index without them, or use `engine = \"venv\"`",
            Self::PrivateRepositories(_) => "use `engine = \"venv\"` for this image on this machine",
        }
    }
}

/// `base` stands for a base that was built from a Dockerfile of its own.
pub(super) fn render(image: &ImageSpec, base: Option<&str>) -> Result<Rendered, RenderError> {
    let mut rendered = Rendered::default();
    rendered.base(image, base);
    for (number, layer) in image.layers.iter().enumerate() {
        rendered.layer(number, layer)?;
    }
    for command in &image.local.run {
        rendered.run("", command);
    }
    Ok(rendered)
}

impl Rendered {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    fn base(&mut self, image: &ImageSpec, base: Option<&str>) {
        let python = image.python.as_deref().unwrap_or(DEFAULT_PYTHON);
        let add_python = match &image.base {
            BaseSpec::None | BaseSpec::DebianSlim => {
                self.line(format!("FROM python:{python}-slim-bookworm"));
                false
            }
            BaseSpec::Micromamba => {
                self.line("FROM mambaorg/micromamba:latest\nUSER root\nENV PATH=/opt/conda/bin:$PATH");
                self.line(format!("RUN micromamba install -n base -y -c conda-forge python={python} pip"));
                false
            }
            BaseSpec::Scratch => {
                self.line("FROM scratch");
                false
            }
            BaseSpec::Registry { reference, add_python, setup, .. } => {
                self.line(format!("FROM {reference}"));
                setup.iter().for_each(|line| self.line(line));
                *add_python
            }
            BaseSpec::Dockerfile { add_python, .. } => {
                self.line(format!("FROM {}", base.unwrap_or_default()));
                *add_python
            }
        };
        if add_python {
            self.uv();
            self.line(format!(
                "RUN UV_PYTHON_INSTALL_DIR=/opt/python UV_PYTHON_BIN_DIR=/usr/local/bin /.uv/uv python install --default --preview {python}"
            ));
        }
    }

    fn uv(&mut self) {
        if !std::mem::replace(&mut self.has_uv, true) {
            self.line(UV);
        }
    }

    fn layer(&mut self, number: usize, layer: &LayerSpec) -> Result<(), RenderError> {
        let folder = format!(".accel/{number}");
        let export = exports(&layer.variables());
        match &layer.step {
            StepSpec::Apt(packages) => self.run(
                &export,
                &format!(
                    "apt-get update && apt-get install -y --no-install-recommends {} && rm -rf /var/lib/apt/lists/*",
                    join(packages)
                ),
            ),
            StepSpec::Pip { packages, requirements, options, installer } => {
                let files: Vec<String> = requirements
                    .iter()
                    .enumerate()
                    .map(|(index, file)| self.send(&format!("{folder}/{index}"), file))
                    .collect();
                let files = files.iter().flat_map(|file| ["-r".to_owned(), file.clone()]).collect::<Vec<_>>();
                self.install(layer, &export, &[files, packages.clone()].concat(), options, *installer)?;
            }
            StepSpec::Pyproject { dependencies, options, installer, .. } => {
                self.install(layer, &export, dependencies, options, *installer)?;
            }
            StepSpec::UvSync { sync, pyproject, lock } => {
                let project = self.project(&folder, pyproject, lock.as_ref().map(|lock| ("uv.lock", lock)));
                self.uv();
                let mut words = vec!["/.uv/uv", "sync", "--project", &project, "--no-install-workspace", "--inexact"];
                sync.groups.iter().for_each(|group| words.extend(["--group", group]));
                sync.extras.iter().for_each(|extra| words.extend(["--extra", extra]));
                if sync.frozen {
                    words.push("--frozen");
                }
                let extra = sync.extra_options.as_deref().unwrap_or_default();
                checked(layer, extra)?;
                let command = format!("UV_PROJECT_ENVIRONMENT=/.uv/.venv {} {extra}", shell_join(words));
                self.run(&export, command.trim_end());
                self.line("ENV VIRTUAL_ENV=/.uv/.venv PATH=/.uv/.venv/bin:$PATH");
            }
            StepSpec::Poetry { poetry, pyproject, lock } => {
                let project = self.project(&folder, pyproject, lock.as_ref().map(|lock| ("poetry.lock", lock)));
                let package = poetry.version.as_ref().map_or("poetry".to_owned(), |v| format!("poetry=={v}"));
                let mut words = vec!["--no-root".to_owned(), "--no-interaction".to_owned()];
                for (option, groups) in
                    [("--with", &poetry.with), ("--without", &poetry.without), ("--only", &poetry.only)]
                {
                    if !groups.is_empty() {
                        words.extend([option.to_owned(), groups.join(",")]);
                    }
                }
                self.run(
                    &export,
                    &format!(
                        "python -m pip install {} && cd {project} && POETRY_VIRTUALENVS_CREATE=false poetry install {}",
                        shell_quote(&package),
                        join(&words)
                    ),
                );
            }
            StepSpec::MicromambaInstall { packages, spec_file, channels } => {
                let mut words = packages.clone();
                channels.iter().for_each(|channel| words.extend(["-c".to_owned(), channel.clone()]));
                if let Some(file) = spec_file {
                    words.extend(["-f".to_owned(), self.send(&folder, file)]);
                }
                self.run(&export, &format!("micromamba install -n base -y {}", join(&words)));
            }
            StepSpec::PipPrivateRepos { .. } => {
                return Err(RenderError::PrivateRepositories(layer.origin.clone()));
            }
            StepSpec::Run(commands) => commands.iter().for_each(|command| self.run(&export, command)),
            StepSpec::Copy { from, to, ignore } => {
                let at = match from.file_name() {
                    Some(name) => format!("{folder}/{}", name.display()),
                    None => folder,
                };
                self.context.push(ContextFile::Tree { at: at.clone(), from: from.clone(), ignore: ignore.clone() });
                self.line(format!("COPY {}", json(&[at, to.clone()])));
            }
            StepSpec::Env(env) => env.iter().for_each(|(name, value)| self.line(format!("ENV {name}={}", quoted(value)))),
            StepSpec::Workdir(folder) => self.line(format!("WORKDIR {folder}")),
            StepSpec::Entrypoint(words) => self.line(format!("ENTRYPOINT {}", json(words))),
            StepSpec::Cmd(words) => self.line(format!("CMD {}", json(words))),
            StepSpec::Shell(words) => self.line(format!("SHELL {}", json(words))),
            StepSpec::Dockerfile { commands, context, ignore, context_files, build_args } => {
                if commands.iter().any(|command| copies(command)) {
                    let ignore = ignore.clone().unwrap_or_default();
                    self.context.push(ContextFile::Tree { at: String::new(), from: context.clone(), ignore });
                }
                for (at, file) in context_files {
                    self.context.push(ContextFile::Contents { at: at.clone(), contents: file.contents.clone() });
                }
                build_args.iter().for_each(|(name, value)| self.line(format!("ARG {name}={}", quoted(value))));
                commands.iter().for_each(|command| self.line(command));
            }
        }
        Ok(())
    }

    /// As Docker's own shell form, but for texts that it would take for several instructions.
    fn run(&mut self, export: &str, command: &str) {
        let command = format!("{export}{command}");
        match command.contains('\n') {
            true => self.line(format!("RUN {}", json(&["/bin/sh".to_owned(), "-c".to_owned(), command]))),
            false => self.line(format!("RUN {command}")),
        }
    }

    fn install(
        &mut self,
        layer: &LayerSpec,
        export: &str,
        words: &[String],
        options: &PipOptions,
        installer: Installer,
    ) -> Result<(), RenderError> {
        if words.is_empty() {
            return Ok(());
        }
        let mut flags = Vec::new();
        for (flag, value) in [
            ("--index-url", &options.index_url),
            ("--extra-index-url", &options.extra_index_url),
            ("--find-links", &options.find_links),
        ] {
            if let Some(value) = value {
                flags.extend([flag.to_owned(), value.clone()]);
            }
        }
        let (program, pre) = match installer {
            Installer::Uv => {
                self.uv();
                (
                    "/.uv/uv pip install --break-system-packages --python \"$(command -v python)\"",
                    "--prerelease=allow",
                )
            }
            Installer::Pip => ("python -m pip install", "--pre"),
        };
        if options.pre {
            flags.push(pre.to_owned());
        }
        let command = format!(
            "{program} {} {} {}",
            join(words),
            join(&flags),
            options.extra_options.as_deref().unwrap_or_default()
        );
        checked(layer, &command)?;
        self.run(export, &command.split_whitespace().collect::<Vec<_>>().join(" "));
        Ok(())
    }

    /// Adds a file to the image; where it lies there.
    fn send(&mut self, at: &str, file: &FileRef) -> String {
        let name = file.path.file_name().unwrap_or_default().display();
        let (at, to) = (format!("{at}/{name}"), format!("/{at}/{name}"));
        self.context.push(ContextFile::Contents { at: at.clone(), contents: file.contents.clone() });
        self.line(format!("COPY {}", json(&[at, to.clone()])));
        to
    }

    fn project(&mut self, folder: &str, pyproject: &FileRef, lock: Option<(&str, &FileRef)>) -> String {
        self.send(folder, pyproject);
        if let Some((_, lock)) = lock {
            self.send(folder, lock);
        }
        format!("/{folder}")
    }
}

fn checked(layer: &LayerSpec, command: &str) -> Result<(), RenderError> {
    let clean = credentials::redact(command) == command;
    clean.then_some(()).ok_or_else(|| RenderError::Credentials(layer.origin.clone()))
}

fn copies(command: &str) -> bool {
    let word = command.split_whitespace().next().unwrap_or_default();
    word.eq_ignore_ascii_case("COPY") || word.eq_ignore_ascii_case("ADD")
}

fn exports(env: &IndexMap<String, String>) -> String {
    env.iter().map(|(name, value)| format!("export {name}={}; ", shell_quote(value))).collect()
}

fn join(words: &[String]) -> String {
    shell_join(words.iter().map(String::as_str))
}

fn json(words: &[String]) -> String {
    serde_json::to_string(words).expect("words are plain JSON")
}

/// A value of `ENV` and `ARG`, of which Docker expands nothing.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$"))
}
