//! What an image or a job asks for that this machine does not give: said once, never silent.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::{Mutex, PoisonError};

use super::{LocalSettings, shortage};
use crate::backend::OpenRequest;
use crate::base::digest::Digest;
use crate::base::size::Bytes;
use crate::domain::JobId;
use crate::event::{Event, Level};
use crate::plan::spec::{BaseSpec, ImageSpec, LayerSpec, LocalEngine, NetworkSpec, SandboxSpec, StepSpec};
use crate::process::find_program;

/// Whose differences have been said.
#[derive(Debug, Default)]
pub(super) struct Said {
    images: HashSet<Digest>,
    jobs: HashSet<JobId>,
}

/// One difference, as the user reads it.
struct Difference {
    level: Level,
    code: &'static str,
    text: String,
    help: Option<String>,
}

pub(super) async fn say(request: &OpenRequest, settings: &LocalSettings, said: &Mutex<Said>) {
    let image = &request.spec.image;
    let (image_is_new, job_is_new) = {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        (said.images.insert(image.digest), said.jobs.insert(request.job.clone()))
    };
    let of_image = if image_is_new { of_image(image, request, settings) } else { Vec::new() };
    let of_job = if job_is_new { of_job(request) } else { Vec::new() };
    for Difference { level, code, text, help } in of_image.into_iter().chain(of_job) {
        request.emitter.emit(Event::Notice { job: Some(request.job.clone()), level, code, text, help }).await;
    }
}

fn of_image(image: &ImageSpec, request: &OpenRequest, settings: &LocalSettings) -> Vec<Difference> {
    let mut differences: Vec<Difference> = build_secrets(image).into_iter().collect();
    if image.local.engine == LocalEngine::Container {
        return differences;
    }
    let skipped = skipped_layers(image);
    if !skipped.is_empty() {
        differences.push(Difference {
            level: Level::Info,
            code: "layers-not-applied",
            text: format!("image {}: {} not applied to this machine", image.name, list(&skipped)),
            help: Some(format!(
                "the host is used as it is; set `[images.{}.local]` `run` or `engine = \"container\"` to change that",
                image.name
            )),
        });
    }
    let missing = missing_tools(image, request, settings);
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(String::as_str).collect();
        differences.push(Difference {
            level: Level::Warning,
            code: "tools-missing",
            text: format!("image {}: {} not found on this machine's PATH", image.name, list(&names)),
            help: Some("install them here, or run the job on Modal".to_owned()),
        });
    }
    differences
}

/// Secrets that steps of the image see on Modal: steps that are made here do without.
fn build_secrets(image: &ImageSpec) -> Option<Difference> {
    let is_made = |layer: &&LayerSpec| match image.local.engine {
        LocalEngine::Container => true,
        LocalEngine::Venv => layer.step.installs_python(),
        LocalEngine::Host => false,
    };
    let of_base = match (&image.base, image.local.engine) {
        (BaseSpec::Dockerfile { secrets, .. }, LocalEngine::Container) => secrets.as_slice(),
        _ => &[],
    };
    let of_layers = image.layers.iter().filter(is_made).flat_map(|layer| &layer.secrets);
    let mut names: Vec<&str> = Vec::new();
    for secret in of_base.iter().chain(of_layers) {
        if !names.contains(&secret.name.as_str()) {
            names.push(&secret.name);
        }
    }
    if names.is_empty() {
        return None;
    }
    Some(Difference {
        level: Level::Warning,
        code: "build-secrets-not-here",
        text: format!("image {}: Modal secrets are not read by its steps here: {}", image.name, list(&names)),
        help: Some(
            match image.local.engine {
                LocalEngine::Container => {
                    "build it on Modal, or take what it needs from an image that is there"
                }
                _ => "put their variables in the environment of accel",
            }
            .to_owned(),
        ),
    })
}

/// The kinds of layers that change a system, as accel.toml names them.
fn skipped_layers(image: &ImageSpec) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    for layer in &image.layers {
        let kind = match &layer.step {
            StepSpec::Apt(_) => "apt",
            StepSpec::Run(_) => "run",
            StepSpec::Copy { .. } => "copy",
            StepSpec::MicromambaInstall { .. } => "micromamba",
            StepSpec::Dockerfile { .. } => "dockerfile",
            _ => continue,
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// Of the apt packages that are known to bring a program of a known name, those whose program is not here.
fn missing_tools(image: &ImageSpec, request: &OpenRequest, settings: &LocalSettings) -> Vec<String> {
    let path = settings.host_env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let path = path.unwrap_or_default();
    let packages = image.layers.iter().filter_map(|layer| match &layer.step {
        StepSpec::Apt(packages) => Some(packages),
        _ => None,
    });
    let is_missing = |program: &str| find_program(OsStr::new(program), path, &request.root).is_err();
    packages
        .flatten()
        .filter_map(|package| program_of(package))
        .filter(|program| is_missing(program))
        .map(ToOwned::to_owned)
        .collect()
}

/// The program that an apt package is asked for; `None` for libraries and whatever is not in the table.
fn program_of(package: &str) -> Option<&'static str> {
    let name = package.split(['=', '/', ':']).next().unwrap_or(package);
    const PROGRAMS: &[(&str, &str)] = &[
        ("awscli", "aws"),
        ("bash", "bash"),
        ("build-essential", "cc"),
        ("bzip2", "bzip2"),
        ("clang", "clang"),
        ("cmake", "cmake"),
        ("curl", "curl"),
        ("ffmpeg", "ffmpeg"),
        ("file", "file"),
        ("g++", "g++"),
        ("gcc", "gcc"),
        ("gdb", "gdb"),
        ("gfortran", "gfortran"),
        ("git", "git"),
        ("git-lfs", "git-lfs"),
        ("golang", "go"),
        ("graphviz", "dot"),
        ("gzip", "gzip"),
        ("htop", "htop"),
        ("imagemagick", "convert"),
        ("jq", "jq"),
        ("make", "make"),
        ("nano", "nano"),
        ("netcat-openbsd", "nc"),
        ("ninja-build", "ninja"),
        ("nodejs", "node"),
        ("npm", "npm"),
        ("openssh-client", "ssh"),
        ("pandoc", "pandoc"),
        ("patchelf", "patchelf"),
        ("poppler-utils", "pdftotext"),
        ("postgresql-client", "psql"),
        ("procps", "ps"),
        ("redis-server", "redis-server"),
        ("ripgrep", "rg"),
        ("rsync", "rsync"),
        ("rustc", "rustc"),
        ("sox", "sox"),
        ("sqlite3", "sqlite3"),
        ("strace", "strace"),
        ("sudo", "sudo"),
        ("tesseract-ocr", "tesseract"),
        ("tmux", "tmux"),
        ("tree", "tree"),
        ("unzip", "unzip"),
        ("valgrind", "valgrind"),
        ("vim", "vim"),
        ("wget", "wget"),
        ("xz-utils", "xz"),
        ("zip", "zip"),
        ("zstd", "zstd"),
    ];
    PROGRAMS.iter().find(|(package, _)| *package == name).map(|(_, program)| *program)
}

fn of_job(request: &OpenRequest) -> Vec<Difference> {
    let spec = &request.spec;
    let mut differences = match spec.image.local.engine {
        LocalEngine::Container => Vec::new(),
        LocalEngine::Host | LocalEngine::Venv => limits(spec, shortage::memory()),
    };
    differences.extend(network(spec));
    let mut warn = |code, text: String, help: &str| {
        let help = Some(help.to_owned());
        differences.push(Difference { level: Level::Warning, code, text, help });
    };
    if let Some(missing) = shortage::missing_gpu(&spec.gpu, &shortage::gpus()) {
        let help = "run it with `--on modal`, or let it fall back: fallback = { to = \"modal\", on = [\"capacity\"] }";
        warn("gpu-not-here", format!("{missing}, so it runs without"), help);
    }
    if !spec.secrets.is_empty() {
        let names: Vec<&str> = spec.secrets.iter().map(|secret| secret.name.as_str()).collect();
        let text = format!("Modal secrets are not read on this machine: {}", list(&names));
        warn("secrets-not-here", text, "put their variables in a `dotenv` file or in the environment");
    }
    if !spec.volumes.is_empty() {
        let paths: Vec<&str> = spec.volumes.keys().map(String::as_str).collect();
        let text = format!("Modal volumes are not mounted on this machine: {}", list(&paths));
        warn("volumes-not-here", text, "the job finds whatever those folders hold here");
    }
    differences
}

/// `cpu` and `memory` bound nothing here; more memory than there is will be missed.
fn limits(spec: &SandboxSpec, here: Option<Bytes>) -> Vec<Difference> {
    let cpu = spec.cpu.map(|cpu| format!("cpu = {}", cpu.request));
    let memory = spec.memory.map(|memory| format!("memory = {}", memory.request));
    let asked: Vec<String> = cpu.into_iter().chain(memory).collect();
    if asked.is_empty() {
        return Vec::new();
    }
    let mut differences = vec![Difference {
        level: Level::Info,
        code: "limits-not-applied",
        text: format!("{} not applied to this machine", asked.join(", ")),
        help: None,
    }];
    if let (Some(memory), Some(here)) = (spec.memory, here)
        && memory.request > here
    {
        differences.push(Difference {
            level: Level::Warning,
            code: "memory-not-here",
            text: format!("asks for {} of memory; this machine has {here}", memory.request),
            help: Some("run it with `--on modal`, or ask for less".to_owned()),
        });
    }
    differences
}

/// What the job may reach on Modal and what it may reach here; a container can be cut off, and no more.
fn network(spec: &SandboxSpec) -> Option<Difference> {
    let text = match (&spec.network, spec.image.local.engine) {
        (NetworkSpec::Open, _) | (NetworkSpec::Blocked, LocalEngine::Container) => return None,
        (NetworkSpec::Blocked, _) => "network is not blocked on this machine",
        (NetworkSpec::Allow { .. }, LocalEngine::Container) => {
            "network allow-lists are not applied to containers: the job reaches everything"
        }
        (NetworkSpec::Allow { .. }, _) => "network allow-lists are not applied to this machine",
    };
    let help = match spec.image.local.engine {
        LocalEngine::Container => "cut it off with network = { block = true }, or run it with `--on modal`",
        _ => "run it with `--on modal`",
    };
    Some(Difference {
        level: Level::Warning,
        code: "network-not-limited",
        text: text.to_owned(),
        help: Some(help.to_owned()),
    })
}

fn list(names: &[&str]) -> String {
    names.join(", ")
}
