//! Which files there are, and their keys merged: what they extend, themselves, accel.local.toml.

use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::grammar::{DocumentKeys, Grammar, Placed, ProfileKeys, RouteValue, overlay_key};
use super::model::{Layer, Setting};
use super::reader::{Placeholder, Reader};
use super::{FILE_NAMES, LOCAL_FILE_NAME, LoadRequest, MAX_FILE_SIZE, codes, tree, variables};
use crate::base::suggest::nearest;
use crate::diag::{Diagnostic, Location, SourceMap};

/// Everything that was read.
#[derive(Clone, Default)]
pub struct Read {
    /// The folder of the file; `None`: there is no file to go on with.
    pub root: Option<PathBuf>,
    pub sources: SourceMap,
    pub diagnostics: Vec<Diagnostic>,
    pub keys: DocumentKeys,
    pub placeholders: Vec<Placeholder>,
    /// accel.local.toml, kept apart because a profile comes below it.
    local: Option<DocumentKeys>,
}

impl Read {
    pub fn profile_names(&self) -> Vec<String> {
        self.keys.profile.iter().flat_map(|profiles| profiles.value.0.keys().cloned()).collect()
    }
}

/// Finds and reads every file.
pub fn read(request: &LoadRequest) -> Read {
    let mut files =
        Files { display_base: request.display_base.clone(), read: Read::default(), open: Vec::new() };
    let Some(path) = files.find(request) else { return files.read };
    let Some(keys) = files.file(&path, Layer::File, None) else { return files.read };
    let root = folder(&path);
    files.read.keys = keys;
    let local = root.join(LOCAL_FILE_NAME);
    if local.is_file() {
        files.read.local = files.file(&local, Layer::Local, None);
    }
    files.read.root = Some(root);
    if let Some(profiles) = files.read.local.as_mut().and_then(|local| local.profile.take()) {
        overlay_key(&mut files.read.keys.profile, Some(profiles));
    }
    files.read
}

/// One text on its own.
pub fn read_text(name: &str, text: &str) -> Read {
    let mut files = Files { display_base: PathBuf::new(), read: Read::default(), open: Vec::new() };
    if text.len() as u64 > MAX_FILE_SIZE {
        files.report(files.too_large(name, None));
        return files.read;
    }
    let Some(mut keys) = files.document(Path::new(name), text.into(), &Layer::File) else {
        return files.read;
    };
    keys.extends = None;
    files.read.keys = keys;
    files.read.root = Some(PathBuf::from("."));
    files.read
}

/// The folder of a file; `.` for a bare name.
fn folder(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

struct Files {
    display_base: PathBuf,
    read: Read,
    /// The chain of files that extend each other down to the one being read, with where each is named.
    open: Vec<(PathBuf, Option<Location>)>,
}

impl Files {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.read.diagnostics.push(diagnostic);
    }

    fn find(&mut self, request: &LoadRequest) -> Option<PathBuf> {
        if let Some(path) = &request.explicit {
            if path.is_file() {
                return Some(path.clone());
            }
            let message = format!("there is no configuration file {}", self.shown(path));
            self.report(
                Diagnostic::error(codes::NO_CONFIG, message)
                    .help("check the path given with --config or ACCEL_CONFIG"),
            );
            return None;
        }
        for folder in request.start.ancestors() {
            let found: Vec<PathBuf> =
                FILE_NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
            let Some((first, others)) = found.split_first() else { continue };
            for other in others {
                let message = format!("{} is not read beside {}", self.shown(other), self.shown(first));
                self.report(
                    Diagnostic::warning(codes::IGNORED_FILE, message).help("keep one of the two files"),
                );
            }
            return Some(first.clone());
        }
        let message = format!("no accel.toml in {} or any folder above it", request.start.display());
        self.report(
            Diagnostic::error(codes::NO_CONFIG, message)
                .help("run `accel init` to write one, or name a file with --config"),
        );
        None
    }

    fn shown(&self, path: &Path) -> String {
        let relative = path.strip_prefix(&self.display_base).unwrap_or(path);
        relative.display().to_string()
    }

    /// One file and what it extends, merged. `named_at`: the `extends` entry.
    fn file(&mut self, path: &Path, layer: Layer, named_at: Option<Location>) -> Option<DocumentKeys> {
        let path = normalized(path);
        if let Some(at) = self.open.iter().position(|(open, _)| *open == path) {
            self.circle(at, named_at);
            return None;
        }
        let text = self.text(&path, named_at)?;
        let mut keys = self.document(&path, text, &layer)?;
        let Some(extends) = keys.extends.take() else { return Some(keys) };
        if layer == Layer::Local {
            self.report(
                Diagnostic::error(codes::CONTRADICTION, format!("{LOCAL_FILE_NAME} cannot extend"))
                    .at(extends.origin.location)
                    .help("move `extends` to accel.toml"),
            );
            return Some(keys);
        }
        self.open.push((path.clone(), named_at));
        let below = self.extended(&path, extends.value);
        self.open.pop();
        let Some(mut merged) = below else { return Some(keys) };
        let own_routes = keys.route.take();
        merged.overlay(keys);
        prepend_routes(&mut merged, own_routes);
        Some(merged)
    }

    /// The keys of one text.
    fn document(&mut self, path: &Path, text: Arc<str>, layer: &Layer) -> Option<DocumentKeys> {
        let source = self.read.sources.add_file(self.shown(path), path, Arc::clone(&text));
        if let Some(refused) = tree::refuse_bracket_towers(source, &text) {
            self.report(refused);
            return None;
        }
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        let parsed = if is_yaml { tree::parse_yaml(source, &text) } else { tree::parse_toml(source, &text) };
        self.read.diagnostics.extend(parsed.diagnostics);
        let mut reader = Reader::new(layer.clone());
        let keys = DocumentKeys::decode(&parsed.root, &mut reader);
        super::reader::find_credentials(&parsed.root, &mut reader);
        self.read.diagnostics.append(&mut reader.diagnostics);
        self.read.placeholders.append(&mut reader.placeholders);
        keys
    }

    fn extended(&mut self, path: &Path, names: Vec<Placed<super::grammar::Plain>>) -> Option<DocumentKeys> {
        let mut merged: Option<DocumentKeys> = None;
        for name in names {
            let target = folder(path).join(&name.value.0);
            let Some(mut keys) = self.file(&target, Layer::Extends, Some(name.location)) else { continue };
            merged = Some(match merged.take() {
                None => keys,
                Some(mut weaker) => {
                    let routes = keys.route.take();
                    weaker.overlay(keys);
                    prepend_routes(&mut weaker, routes);
                    weaker
                }
            });
        }
        merged
    }

    fn circle(&mut self, from: usize, named_at: Option<Location>) {
        let names: Vec<String> = self.open[from..].iter().map(|(path, _)| self.shown(path)).collect();
        let first = names.first().cloned().unwrap_or_default();
        let message = format!("files extend each other in a circle: {} → {first}", names.join(" → "));
        let mut found =
            Diagnostic::error(codes::CYCLE, message).at(named_at).help("remove one of these `extends`");
        for (path, location) in &self.open[from + 1..] {
            if let Some(location) = location {
                found = found.related(*location, format!("{} is extended here", self.shown(path)));
            }
        }
        self.report(found);
    }

    fn too_large(&self, shown: &str, named_at: Option<Location>) -> Diagnostic {
        Diagnostic::error(codes::TOO_LARGE, format!("{shown} is larger than {MAX_FILE_SIZE} bytes"))
            .at(named_at)
            .help("split it with `extends`")
    }

    fn text(&mut self, path: &Path, named_at: Option<Location>) -> Option<Arc<str>> {
        let shown = self.shown(path);
        let failed = |message: String| {
            Diagnostic::error(codes::UNREADABLE, message)
                .at(named_at)
                .help("check the path and who may read it")
        };
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            self.report(failed(format!("{shown} is not a file")));
            return None;
        }
        let mut bytes = Vec::new();
        let outcome =
            fs::File::open(path).and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes));
        if let Err(error) = outcome {
            self.report(failed(format!("cannot read {shown}: {error}")));
            return None;
        }
        if bytes.len() as u64 > MAX_FILE_SIZE {
            self.report(self.too_large(&shown, named_at));
            return None;
        }
        match String::from_utf8(bytes) {
            Ok(text) => Some(text.into()),
            Err(error) => {
                let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = good.iter().filter(|b| **b == b'\n').count() + 1;
                self.report(
                    Diagnostic::error(codes::UNREADABLE, format!("{shown} is not UTF-8 in line {line}"))
                        .at(named_at)
                        .help("save the file as UTF-8"),
                );
                None
            }
        }
    }
}

/// Rules of a stronger layer come before those of a weaker one.
fn prepend_routes(keys: &mut DocumentKeys, stronger: Setting<Vec<Placed<super::grammar::SharedRouteKeys>>>) {
    let Some(mut stronger) = stronger else { return };
    if let Some(weaker) = keys.route.take() {
        stronger.value.extend(weaker.value);
    }
    keys.route = Some(stronger);
}

/// Without `.` and `..`, so that the same file has one name.
fn normalized(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if parts.file_name().is_some() => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

/// The chosen profile and what it says about routes.
pub struct Profile {
    pub name: Option<String>,
    pub all: Vec<String>,
    pub route: Setting<RouteValue>,
}

/// Lays the chosen profile, then accel.local.toml, on top of the file's keys.
pub fn choose_profile(request: &LoadRequest, read: &mut Read, diagnostics: &mut Vec<Diagnostic>) -> Profile {
    let profiles = read.keys.profile.take().map(|profiles| profiles.value.0).unwrap_or_default();
    let all: Vec<String> = profiles.keys().cloned().collect();
    let asked = match &request.profile {
        Some((name, layer)) => Some((name.clone(), flag_name(layer))),
        None => request
            .variables
            .get(variables::PROFILE)
            .filter(|name| !name.is_empty())
            .map(|name| (name.clone(), variables::PROFILE.to_owned())),
    };
    let mut route = None;
    let mut chosen = None;
    if let Some((name, asked_by)) = asked {
        match profiles.into_iter().find(|(known, _)| *known == name) {
            Some((_, (_, mut keys))) => {
                route = keys.route.take();
                lay_profile(&mut read.keys, keys);
                chosen = Some(name);
            }
            None => {
                let source = read.sources.add_text(asked_by, name.as_str());
                let found = Diagnostic::error(codes::UNKNOWN_PROFILE, format!("unknown profile `{name}`"))
                    .at(Location::new(source, 0..name.len()));
                diagnostics.push(match nearest(&name, all.iter().map(String::as_str)) {
                    Some(near) => found.help(format!("did you mean `{near}`?")),
                    None if all.is_empty() => found.help(format!("define [profile.{name}]")),
                    None => found.help(format!("profiles: {}", all.join(", "))),
                });
            }
        }
    }
    if let Some(mut local) = read.local.take() {
        let routes = local.route.take();
        read.keys.overlay(local);
        prepend_routes(&mut read.keys, routes);
    }
    Profile { name: chosen, all, route }
}

fn flag_name(layer: &Layer) -> String {
    match layer {
        Layer::Flag(name) | Layer::Variable(name) => name.clone(),
        _ => "--profile".to_owned(),
    }
}

fn lay_profile(keys: &mut DocumentKeys, profile: ProfileKeys) {
    overlay_key(&mut keys.project, profile.project);
    overlay_key(&mut keys.modal, profile.modal);
    overlay_key(&mut keys.defaults, profile.defaults);
    overlay_key(&mut keys.sync, profile.sync);
    overlay_key(&mut keys.images, profile.images);
    overlay_key(&mut keys.jobs, profile.jobs);
    overlay_key(&mut keys.budget, profile.budget);
    overlay_key(&mut keys.mcp, profile.mcp);
}
