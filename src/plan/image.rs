//! Images of jobs: `from` flattened, texts filled in, layers in build order, the local engine decided.
//!
//! An image that names no matrix value is compiled once, however many jobs use it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::model::{Config, Image, ImageBase, ImageRef, Job, Layer, LayerStep, Text, Valued};
use crate::diag::{Diagnostic, Location};

use super::fill::{Fill, Values, tidy};
use super::image_digest::{base_digest, layer_digest};
use super::layer;
use super::origins::Origins;
use super::spec::{BaseSpec, FileRef, GpuChoice, ImageSpec, LayerSpec, LocalEngine, LocalSpec};
use super::{Files, requirements};

/// An image and what the jobs that use it take from it.
pub struct CompiledImage {
    pub spec: Arc<ImageSpec>,
    /// Default gpu of its jobs, and where it was set.
    pub gpu: Option<(Vec<GpuChoice>, String)>,
    /// Keys such as `image.python` → where they were set.
    pub provenance: BTreeMap<String, String>,
}

/// Where the contents of named files come from.
pub trait FileSource {
    fn contents(&self, path: &Path) -> Result<Arc<[u8]>, String>;
}

/// Notes which files are named; those not read yet look empty.
pub struct Recorder<'a> {
    known: &'a Files,
    named: RefCell<BTreeSet<PathBuf>>,
}

impl<'a> Recorder<'a> {
    pub fn new(known: &'a Files) -> Self {
        Self { known, named: RefCell::default() }
    }

    pub fn into_paths(self) -> BTreeSet<PathBuf> {
        self.named.into_inner()
    }
}

impl FileSource for Recorder<'_> {
    fn contents(&self, path: &Path) -> Result<Arc<[u8]>, String> {
        self.named.borrow_mut().insert(path.to_owned());
        self.known.get(path).cloned().unwrap_or_else(|| Ok(Arc::from([])))
    }
}

/// The files that were read.
pub struct Provided<'a>(pub &'a Files);

impl FileSource for Provided<'_> {
    fn contents(&self, path: &Path) -> Result<Arc<[u8]>, String> {
        self.0.get(path).cloned().unwrap_or_else(|| Err("it was not read".to_owned()))
    }
}

pub struct Images<'a> {
    config: &'a Config,
    origins: &'a Origins<'a>,
    files: &'a dyn FileSource,
    host: Arc<CompiledImage>,
    shared: BTreeMap<&'a str, Arc<CompiledImage>>,
    of_values: BTreeMap<(&'a str, Values), Arc<CompiledImage>>,
}

impl<'a> Images<'a> {
    pub fn new(config: &'a Config, origins: &'a Origins<'a>, files: &'a dyn FileSource) -> Self {
        let host = Arc::new(host_image());
        Self { config, origins, files, host, shared: BTreeMap::new(), of_values: BTreeMap::new() }
    }

    pub fn of_job(
        &mut self,
        job: &'a Job,
        values: &Values,
        findings: &mut Vec<Diagnostic>,
    ) -> Arc<CompiledImage> {
        let image = job.settings.image.as_ref().or(self.config.defaults.image.as_ref());
        match image.map(|image| &image.value) {
            None => self.host.clone(),
            Some(ImageRef::Named(name)) => self.named(name, job, values, findings),
            Some(ImageRef::Inline(image)) => {
                let fill = Fill::new(job, values, self.origins);
                let compiled = self.compile(image, format!("job \"{}\"", job.name), &fill);
                findings.extend(fill.finish());
                Arc::new(compiled)
            }
        }
    }

    fn named(
        &mut self,
        name: &'a str,
        job: &'a Job,
        values: &Values,
        findings: &mut Vec<Diagnostic>,
    ) -> Arc<CompiledImage> {
        if let Some(known) = self.shared.get(name) {
            return known.clone();
        }
        let key = (name, values.clone());
        if let Some(known) = self.of_values.get(&key) {
            return known.clone();
        }
        let Some(image) = self.config.images.get(name) else {
            findings.push(Diagnostic::error("unknown-image", format!("unknown image `{name}`")));
            return self.host.clone();
        };
        let fill = Fill::new(job, values, self.origins);
        let compiled = Arc::new(self.compile(image, name.to_owned(), &fill));
        if fill.used_values() {
            self.of_values.insert(key, compiled.clone());
        } else {
            self.shared.insert(name, compiled.clone());
        }
        findings.extend(fill.finish());
        compiled
    }

    fn compile(&self, image: &Image, name: String, fill: &Fill<'_>) -> CompiledImage {
        let chain = self.chain(image);
        let reader = Reader { files: self.files, fill };
        let mut provenance = BTreeMap::new();
        let mut note = |key: &str, origin: &crate::config::model::Origin| {
            provenance.insert(format!("image.{key}"), self.origins.text(origin));
        };
        let python = chain.iter().find_map(|image| image.python.as_ref());
        if let Some(python) = python {
            note("python", &python.origin);
        }
        let workdir = chain.iter().find_map(|image| image.workdir.as_ref());
        if let Some(workdir) = workdir {
            note("workdir", &workdir.origin);
        }
        // The chain ends in the image that everything else is built on.
        let bottom = chain[chain.len() - 1];
        note("base", &bottom.base.origin);
        let engine = chain.iter().find_map(|image| image.local.engine.as_ref());
        if let Some(engine) = engine {
            note("local.engine", &engine.origin);
        }
        let base = layer::base(bottom, &reader);
        let python_text = python.map(|python| fill.text(&python.value, python.origin.location));
        let mut below = base_digest(&base, python_text.as_deref(), bottom.force_build);
        let mut layers: Vec<LayerSpec> = Vec::new();
        for image in chain.iter().rev() {
            for (index, mut layer) in self.layers_of(image, &reader).into_iter().enumerate() {
                // What is forced forces all above it: the base of the bottom image, else the image's first layer.
                layer.force_build |= index == 0 && image.force_build && !std::ptr::eq(*image, bottom);
                layer.digest = layer_digest(below, &layer);
                below = layer.digest;
                layers.push(layer);
            }
        }
        let gpu = chain.iter().find_map(|image| image.gpu.as_ref());
        CompiledImage {
            gpu: gpu.map(|gpu| {
                let choices = gpu.value.iter().filter_map(|gpu| fill.gpu(gpu)).collect();
                (choices, format!("image {name}, {}", self.origins.text(&gpu.origin)))
            }),
            spec: Arc::new(ImageSpec {
                digest: below,
                local: LocalSpec {
                    engine: engine.map_or_else(|| default_engine(&layers, python), |engine| engine.value),
                    run: local_run(&chain, fill),
                },
                workdir: workdir.map(|path| fill.text(&path.value, path.origin.location)),
                name,
                base,
                python: python_text,
                force_build: bottom.force_build,
                layers,
            }),
            provenance,
        }
    }

    /// The image and those it is `from`, topmost first.
    fn chain<'i>(&self, image: &'i Image) -> Vec<&'i Image>
    where
        'a: 'i,
    {
        let mut chain = vec![image];
        while let ImageBase::Image(name) = &chain[chain.len() - 1].base.value {
            match self.config.images.get(name) {
                Some(next) if chain.len() <= self.config.images.len() => chain.push(next),
                _ => break,
            }
        }
        chain
    }

    /// An image's own layers; its `env` and `workdir` are among them.
    fn layers_of(&self, image: &Image, reader: &Reader<'_>) -> Vec<LayerSpec> {
        let layers = image.layers.iter();
        layers.map(|layer| layer::compile(layer, image, reader, self.origins.place(layer.location))).collect()
    }
}

/// A virtual environment when something is to be put into it or a Python is named; else the host as it is.
fn default_engine(layers: &[LayerSpec], python: Option<&Valued<Text>>) -> LocalEngine {
    let named_python = python.is_some_and(|python| python.origin.layer != Layer::BuiltIn);
    if named_python || layers.iter().any(|layer| layer.step.installs_python()) {
        LocalEngine::Venv
    } else {
        LocalEngine::Host
    }
}

/// Commands of the bottom image first, as its layers are.
fn local_run(chain: &[&Image], fill: &Fill<'_>) -> Vec<String> {
    let commands = chain.iter().rev().flat_map(|image| &image.local.run);
    commands.map(|command| fill.text(&command.value, command.origin.location)).collect()
}

fn host_image() -> CompiledImage {
    let spec = ImageSpec {
        name: "host".to_owned(),
        digest: base_digest(&BaseSpec::None, None, false),
        base: BaseSpec::None,
        python: None,
        force_build: false,
        layers: Vec::new(),
        workdir: None,
        local: LocalSpec { engine: LocalEngine::Host, run: Vec::new() },
    };
    CompiledImage { spec: Arc::new(spec), gpu: None, provenance: BTreeMap::new() }
}

const PATHS_ARE_RELATIVE: &str =
    "paths are relative to the folder of accel.toml: create the file or correct the path";

/// Files of an image, with what cannot be read reported.
pub struct Reader<'a> {
    files: &'a dyn FileSource,
    pub fill: &'a Fill<'a>,
}

impl Reader<'_> {
    /// A file that the image cannot be made without; empty when it is missing, which is then reported.
    pub fn file(&self, text: &str, at: Option<Location>) -> FileRef {
        self.file_at(&self.fill.path(text, at), at)
    }

    pub fn file_at(&self, path: &Path, at: Option<Location>) -> FileRef {
        self.needed(path, at, PATHS_ARE_RELATIVE)
    }

    /// The lock file of a project that is to be installed just as locked.
    pub fn uv_lock(&self, path: &Path, at: Option<Location>) -> FileRef {
        self.needed(path, at, "make it with `uv lock`, or write `frozen = false` in `uv_lock` to go without")
    }

    fn needed(&self, path: &Path, at: Option<Location>, help: &str) -> FileRef {
        let contents = self.files.contents(path).unwrap_or_else(|reason| {
            self.report_missing(path, &reason, at, help);
            Arc::from([])
        });
        FileRef { path: path.to_owned(), contents }
    }

    /// A file that may be missing.
    pub fn optional_file(&self, path: &Path) -> Option<FileRef> {
        let contents = self.files.contents(path).ok()?;
        Some(FileRef { path: path.to_owned(), contents })
    }

    /// A requirements file with the files that its `-r` lines name in their place.
    pub fn requirements(&self, text: &str, at: Option<Location>) -> FileRef {
        let file = self.file(text, at);
        let contents = requirements::inline(&file, &|path| {
            let path = tidy(path);
            let missing = |reason: &String| self.report_missing(&path, reason, at, PATHS_ARE_RELATIVE);
            self.files.contents(&path).inspect_err(missing).ok()
        });
        FileRef { contents, ..file }
    }

    fn report_missing(&self, path: &Path, reason: &str, at: Option<Location>, help: &str) {
        let message = format!("cannot read `{}`: {reason}", path.display());
        self.fill.report(Diagnostic::error("missing-file", message).at(at).help(help));
    }
}

/// Whether a step's build reads secrets.
pub fn reads_secrets(step: &LayerStep) -> bool {
    !matches!(
        step,
        LayerStep::Env(_)
            | LayerStep::Workdir(_)
            | LayerStep::Copy { .. }
            | LayerStep::Entrypoint(_)
            | LayerStep::Cmd(_)
            | LayerStep::Shell(_)
    )
}
