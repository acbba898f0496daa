//! Merged keys → checked configuration: names are resolved, circles, contradictions and rules that can never
//! fire are found. Every finding is collected; the configuration is only used when none is an error.

mod cycles;
mod image;
mod job;
mod race;
mod route;
mod settings;
mod texts;

use std::collections::HashMap;
use std::path::PathBuf;

use super::codes;
use super::grammar::{DocumentKeys, ImageKeys, ItemName, JobKeys, Map, RouteValue};
use super::model::{Config, Layer, Origin, Setting, Valued};
use super::reader::Placeholder;
use crate::base::suggest::nearest;
use crate::diag::{Diagnostic, Location, SourceMap};

/// What there is besides the keys themselves.
pub struct Context {
    pub root: PathBuf,
    pub profile: Option<String>,
    pub profiles: Vec<String>,
    pub profile_route: Setting<RouteValue>,
    pub placeholders: Vec<Placeholder>,
}

/// Where each name of a kind is defined.
type Names = HashMap<String, Location>;

pub struct Checker {
    diagnostics: Vec<Diagnostic>,
    jobs: Names,
    images: Names,
    placeholders: Vec<Placeholder>,
    sources: SourceMap,
    suggestions_left: usize,
}

/// Most unknown names that a near one is looked for: the search goes over all names.
const MAX_SUGGESTIONS: usize = 50;

/// Checks everything; `sources` is handed on into the configuration.
pub fn check(mut keys: DocumentKeys, context: Context, sources: SourceMap) -> (Config, Vec<Diagnostic>) {
    let jobs: Map<ItemName, Box<JobKeys>> = take(&mut keys.jobs);
    let images: Map<ItemName, Box<ImageKeys>> = take(&mut keys.images);
    let mut checker = Checker {
        diagnostics: Vec::new(),
        jobs: jobs.entries.iter().map(|(name, entry)| (name.clone(), entry.key_location)).collect(),
        images: images.entries.iter().map(|(name, entry)| (name.clone(), entry.key_location)).collect(),
        placeholders: context.placeholders,
        sources,
        suggestions_left: MAX_SUGGESTIONS,
    };
    let images = checker.images(images);
    let mut defaults = keys.defaults.take().map(|keys| *keys.value).unwrap_or_default();
    checker.forbid_in_defaults(&mut defaults);
    let defaults = checker.settings(defaults);
    let jobs = checker.jobs(jobs);
    let shared_routes = checker.shared_routes(take_list(&mut keys.route), &jobs);
    let profile_route = context.profile_route.map(|route| Box::new(checker.route(*route)));
    let routes =
        race::Routes { profile: profile_route.as_deref(), shared: &shared_routes, defaults: &defaults };
    checker.races(&jobs, &routes);
    let project = project_name(&mut keys, &context.root);
    let config = Config {
        profile: context.profile,
        profiles: context.profiles,
        modal: settings::modal(keys.modal.take().map(|keys| keys.value).unwrap_or_default(), &project.value),
        project,
        defaults,
        sync: settings::sync(keys.sync.take().map(|keys| keys.value).unwrap_or_default()),
        images,
        jobs,
        shared_routes,
        profile_route,
        budget: checker.budget(keys.budget.take().map(|keys| keys.value).unwrap_or_default()),
        mcp: checker.mcp(keys.mcp.take().map(|keys| keys.value).unwrap_or_default()),
        root: context.root,
        sources: checker.sources,
    };
    (config, checker.diagnostics)
}

fn take<T: Default>(key: &mut Setting<T>) -> T {
    key.take().map(|valued| valued.value).unwrap_or_default()
}

fn take_list<T>(key: &mut Setting<Vec<T>>) -> Vec<T> {
    take(key)
}

/// `[project] name`, else the folder's name.
fn project_name(keys: &mut DocumentKeys, root: &std::path::Path) -> Valued<String> {
    let named = keys.project.take().and_then(|project| project.value.name);
    if let Some(name) = named {
        return map(name, |name| name.0);
    }
    let folder = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let cleaned: String = folder
        .chars()
        .take(48)
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .collect();
    built_in(if cleaned.is_empty() { "project".to_owned() } else { cleaned })
}

/// A value that nobody wrote.
pub fn built_in<T>(value: T) -> Valued<T> {
    Valued { value, origin: Origin { layer: Layer::BuiltIn, location: None } }
}

/// A [`Valued`], boxed or not.
pub trait Held {
    type Value;
    fn take(self) -> Valued<Self::Value>;
}

impl<T> Held for Valued<T> {
    type Value = T;
    fn take(self) -> Self {
        self
    }
}

impl<T> Held for Box<Valued<T>> {
    type Value = T;
    fn take(self) -> Valued<T> {
        *self
    }
}

pub fn map<H: Held, U>(held: H, change: impl FnOnce(H::Value) -> U) -> Valued<U> {
    let Valued { value, origin } = held.take();
    Valued { value: change(value), origin }
}

/// The same for a key of a table.
pub fn set<T, U>(key: Setting<T>, change: impl FnOnce(T) -> U) -> Setting<U> {
    key.map(|key| Box::new(map(key, change)))
}

/// A value that was written somewhere has a location; what was not cannot be wrong.
fn place<T>(valued: &Valued<T>) -> Option<Location> {
    valued.origin.location
}

impl Checker {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    fn unknown_name(
        &mut self,
        code: &'static str,
        kind: &str,
        name: &str,
        location: impl Into<Option<Location>>,
        known: impl Fn(&Self) -> &Names,
    ) {
        self.suggestions_left = self.suggestions_left.saturating_sub(1);
        if self.suggestions_left == 0 {
            let help = format!("define `[{kind}s.{name}]`, or name another {kind}");
            self.report(Diagnostic::error(code, format!("unknown {kind} `{name}`")).at(location).help(help));
            return;
        }
        let mut names: Vec<&str> = known(self).keys().map(String::as_str).collect();
        names.sort_unstable();
        let found = Diagnostic::error(code, format!("unknown {kind} `{name}`")).at(location);
        // Any two names of a letter are near each other.
        let near = nearest(name, names.iter().copied()).filter(|_| name.chars().count() > 2);
        let found = match near {
            Some(near) => found.label(format!("did you mean `{near}`?")).help(format!("write `{near}`")),
            None if names.is_empty() => found.help(format!("define `[{kind}s.{name}]`")),
            None if names.len() > 20 => {
                found.help(format!("define `[{kind}s.{name}]`, or name another {kind}"))
            }
            None => found.help(format!("known {kind}s: {}", names.join(", "))),
        };
        self.report(found);
    }

    fn contradiction(
        &mut self,
        message: impl Into<String>,
        at: Option<Location>,
        other: Option<Location>,
        help: &str,
    ) {
        let mut found = Diagnostic::error(codes::CONTRADICTION, message).at(at).help(help);
        if let Some(other) = other {
            found = found.related(other, "the other is here");
        }
        self.report(found);
    }
}
