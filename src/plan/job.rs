//! One job and one combination of its matrix → a planned job with every default filled in.
//!
//! Strength of a key, weakest first: built-in, `[defaults]`, the image (for `gpu` alone), the job, the
//! invocation. `env` is merged name by name; every other key is taken whole. Variables and flags that arrive
//! with `[defaults]` are stronger than what a file says about the job.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use globset::Glob;
use indexmap::IndexMap;

use crate::base::quote::shell_join;
use crate::config::model::{
    Command, Config, Escalate, Fallback, JobSettings, Layer, Network, OnBusy, Retry, Route, Rule, RuleTarget,
    Setting, SharedRule, StopSignal, Text, Valued, WatchNotify, WatchSettings,
};
use crate::diag::{Diagnostic, Location};
use crate::domain::Cause;

use super::Selection;
use super::fill::Fill;
use super::image::CompiledImage;
use super::origins::Origins;
use super::select::{Node, needs};
use super::spec::{
    CommandSpec, DotenvFile, FallbackSpec, GpuChoice, NetworkSpec, PlannedJob, Routing, RoutingRule,
    RuleSource, SandboxSpec, WatchSpec,
};

/// From the polite signal to the kill.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest delay between attempts.
pub const DEFAULT_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// What a retry is for when it does not say.
pub const DEFAULT_RETRY_ON: [Cause; 1] = [Cause::Infra];

pub struct Context<'a> {
    pub config: &'a Config,
    pub selection: &'a Selection,
    pub origins: &'a Origins<'a>,
    /// Asked for by name, as against needed by another.
    pub asked: bool,
}

pub fn compile(
    context: &Context<'_>,
    node: &Node<'_>,
    image: Arc<CompiledImage>,
    findings: &mut Vec<Diagnostic>,
) -> PlannedJob {
    let fill = Fill::new(node.job, &node.values, context.origins);
    let mut job = Resolver::new(context, node, &fill);
    let spec = job.sandbox(&image);
    let planned = PlannedJob {
        id: node.id.clone(),
        name: node.job.name.clone(),
        desc: job.take("desc", |s| &s.desc).map(|desc| job.text(desc)),
        needs: node.needs.clone(),
        earlier_outputs: Vec::new(),
        spec: Arc::new(spec),
        routing: job.routing(),
        timeout: job.timeout(),
        retry: job.take("retry", |s| &s.retry).map_or_else(no_retry, |retry| retry.value.clone()),
        fallback: job
            .take("fallback", |s| &s.fallback)
            .iter()
            .flat_map(|chain| &chain.value)
            .map(fallback)
            .collect(),
        strict: job.strict(),
        pure: job.flag("pure", |s| &s.pure),
        labels: job.copied("labels", |s| &s.labels),
        warm: job.take("warm", |s| &s.warm).map(|warm| warm.value.clone()),
        shard: job.take("shard", |s| &s.shard).map(|shard| shard.value.clone()),
        junit: job.texts("junit", |s| &s.junit).unwrap_or_default(),
        watch: job.watch(),
        provenance: job.provenance,
    };
    findings.extend(fill.finish());
    planned
}

fn no_retry() -> Retry {
    Retry { max: 0, on: DEFAULT_RETRY_ON.to_vec(), backoff: DEFAULT_BACKOFF, escalate: Escalate::default() }
}

fn fallback(fallback: &Fallback) -> FallbackSpec {
    FallbackSpec { to: fallback.to, on: fallback.on.clone() }
}

/// Picks each value from where it is set and notes its origin.
struct Resolver<'a> {
    context: &'a Context<'a>,
    node: &'a Node<'a>,
    fill: &'a Fill<'a>,
    own: &'a JobSettings,
    defaults: &'a JobSettings,
    provenance: BTreeMap<String, String>,
}

impl<'a> Resolver<'a> {
    fn new(context: &'a Context<'a>, node: &'a Node<'a>, fill: &'a Fill<'a>) -> Self {
        let mut provenance = BTreeMap::new();
        if !needs(context.config, node.job).is_empty() {
            let origins = &context.origins;
            let text = match (&node.job.settings.needs, &context.config.defaults.needs) {
                (Some(own), _) => Some(origins.text(&own.origin)),
                (None, default) => default.as_ref().map(|needs| origins.defaults_text(&needs.origin)),
            };
            provenance.extend(text.map(|text| ("needs".to_owned(), text)));
        }
        let (own, defaults) = (&node.job.settings, &context.config.defaults);
        Self { context, node, fill, own, defaults, provenance }
    }

    fn take<T>(&mut self, key: &str, choose: fn(&JobSettings) -> &Setting<T>) -> Option<&'a Valued<T>> {
        let (own, default) = (choose(self.own).as_deref(), choose(self.defaults).as_deref());
        let overriding = default.filter(|default| overrides(&default.origin.layer));
        if let Some(valued) = overriding.filter(|_| own.is_none_or(|own| !overrides(&own.origin.layer))) {
            self.note(key, self.context.origins.defaults_text(&valued.origin));
            return Some(valued);
        }
        if let Some(valued) = own {
            self.note(key, self.context.origins.text(&valued.origin));
            return Some(valued);
        }
        let valued = default?;
        self.note(key, self.context.origins.defaults_text(&valued.origin));
        Some(valued)
    }

    fn note(&mut self, key: &str, origin: String) {
        self.provenance.insert(key.to_owned(), origin);
    }

    fn at<T>(&self, valued: &Valued<T>) -> Option<Location> {
        valued.origin.location.or(Some(self.node.job.location))
    }

    fn text(&self, valued: &Valued<Text>) -> String {
        self.fill.text(&valued.value, self.at(valued))
    }

    fn texts(&mut self, key: &str, choose: fn(&JobSettings) -> &Setting<Vec<Text>>) -> Option<Vec<String>> {
        let valued = self.take(key, choose)?;
        Some(self.fill.texts(&valued.value, self.at(valued)))
    }

    fn flag(&mut self, key: &str, choose: fn(&JobSettings) -> &Setting<bool>) -> bool {
        self.take(key, choose).is_some_and(|flag| flag.value)
    }

    fn copied<T: Clone + 'a>(&mut self, key: &str, choose: fn(&JobSettings) -> &Setting<Vec<T>>) -> Vec<T> {
        self.take(key, choose).map(|items| items.value.clone()).unwrap_or_default()
    }

    fn sandbox(&mut self, image: &CompiledImage) -> SandboxSpec {
        self.take("image", |s| &s.image);
        self.provenance.extend(image.provenance.clone());
        SandboxSpec {
            command: self.command(),
            cwd: self
                .take("cwd", |s| &s.cwd)
                .map_or_else(|| PathBuf::from("."), |cwd| self.fill.path(&cwd.value, self.at(cwd))),
            image: image.spec.clone(),
            env: self.env(),
            dotenv: self.dotenv(),
            pass_env: self.copied("pass_env", |s| &s.pass_env),
            secrets: self.copied("secrets", |s| &s.secrets),
            volumes: self.volumes(),
            cpu: self.take("cpu", |s| &s.cpu).map(|cpu| cpu.value),
            memory: self.take("memory", |s| &s.memory).map(|memory| memory.value),
            gpu: self.gpu(image),
            ports: self.copied("ports", |s| &s.ports),
            network: self.take("network", |s| &s.network).map_or(NetworkSpec::Open, |n| network(&n.value)),
            region: self.region(),
            cloud: self.cloud(),
            tty: self.flag("tty", |s| &s.tty),
            inputs: self.texts("inputs", |s| &s.inputs),
            outputs: self.texts("outputs", |s| &s.outputs),
            stop_timeout: self
                .take("stop_timeout", |s| &s.stop_timeout)
                .map_or(DEFAULT_STOP_TIMEOUT, |t| t.value),
        }
    }

    fn command(&mut self) -> CommandSpec {
        let Some(run) = self.take("run", |s| &s.run) else {
            if self.node.needs.is_empty() {
                let message = format!("job `{}` has nothing to run", self.node.job.name);
                let finding = Diagnostic::error("missing-run", message).at(self.node.job.location);
                self.fill.report(finding.help("add `run`, or `needs` for a job that only groups others"));
            }
            return CommandSpec::Shell(String::new());
        };
        let at = self.at(run);
        let extra: &[String] = if self.context.asked { &self.context.selection.extra_args } else { &[] };
        match &run.value {
            Command::Argv(words) => {
                let mut words = self.fill.texts(words, at);
                words.extend_from_slice(extra);
                CommandSpec::Argv(words)
            }
            Command::Shell(text) => CommandSpec::Shell(with_arguments(self.fill.text(text, at), extra)),
        }
    }

    /// Sorted by name: which of two files or tables came first does not show.
    fn env(&mut self) -> IndexMap<String, String> {
        let mut chosen: BTreeMap<&String, (&Valued<Text>, String)> = BTreeMap::new();
        for (name, value) in &self.defaults.env {
            chosen.insert(name, (value, self.context.origins.defaults_text(&value.origin)));
        }
        for (name, value) in &self.own.env {
            let kept = chosen.get(name).is_some_and(|(default, _)| overrides(&default.origin.layer));
            if !kept || overrides(&value.origin.layer) {
                chosen.insert(name, (value, self.context.origins.text(&value.origin)));
            }
        }
        let mut env = IndexMap::with_capacity(chosen.len());
        for (name, (value, origin)) in chosen {
            env.insert(name.clone(), self.text(value));
            self.note(&format!("env.{name}"), origin);
        }
        env
    }

    /// A file that only `[defaults]` names may be missing: not every checkout has every file.
    fn dotenv(&mut self) -> Vec<DotenvFile> {
        let required = self.own.dotenv.is_some();
        let Some(valued) = self.take("dotenv", |s| &s.dotenv) else { return Vec::new() };
        let at = self.at(valued);
        valued.value.iter().map(|path| DotenvFile { path: self.fill.path(path, at), required }).collect()
    }

    fn volumes(&mut self) -> IndexMap<String, super::spec::Volume> {
        let mut volumes = self.take("volumes", |s| &s.volumes).map(|v| v.value.clone()).unwrap_or_default();
        volumes.sort_unstable_keys();
        volumes
    }

    /// The job's own, else its image's, else that of `[defaults]`.
    fn gpu(&mut self, image: &CompiledImage) -> Vec<GpuChoice> {
        let forced = self.defaults.gpu.as_ref().is_some_and(|gpu| overrides(&gpu.origin.layer));
        if let Some((choices, origin)) = image.gpu.as_ref().filter(|_| self.own.gpu.is_none() && !forced) {
            self.note("gpu", origin.clone());
            return choices.clone();
        }
        let Some(valued) = self.take("gpu", |s| &s.gpu) else { return Vec::new() };
        valued.value.iter().filter_map(|gpu| self.fill.gpu(gpu)).collect()
    }

    fn region(&mut self) -> Vec<String> {
        let chosen = self.take("region", |s| &s.region);
        if let Some(region) = chosen {
            return region.value.clone();
        }
        let shared = &self.context.config.modal.region;
        if let Some(first) = shared.first() {
            self.note("region", format!("[modal] {}", self.context.origins.text(&first.origin)));
        }
        shared.iter().map(|region| region.value.clone()).collect()
    }

    fn cloud(&mut self) -> Option<String> {
        if let Some(cloud) = self.take("cloud", |s| &s.cloud) {
            return Some(cloud.value.clone());
        }
        let cloud = self.context.config.modal.cloud.as_ref()?;
        self.note("cloud", format!("[modal] {}", self.context.origins.text(&cloud.origin)));
        Some(cloud.value.clone())
    }

    fn timeout(&mut self) -> Option<Duration> {
        if let Some(timeout) = self.context.selection.timeout.as_ref().filter(|_| self.context.asked) {
            self.note("timeout", self.context.origins.text(&timeout.origin));
            return Some(timeout.value);
        }
        self.take("timeout", |s| &s.timeout).map(|timeout| timeout.value)
    }

    fn strict(&mut self) -> bool {
        if let Some(strict) = &self.context.selection.strict {
            self.note("strict", self.context.origins.text(&strict.origin));
            return strict.value;
        }
        self.flag("strict", |s| &s.strict)
    }

    /// A forced route replaces the job's own, and only that: its rules may still leave the decision open.
    fn routing(&mut self) -> Routing {
        let changed_since = self.take("changed_since", |s| &s.changed_since).map(|named| named.value.clone());
        let Context { config, selection, origins, .. } = self.context;
        let mut rules = Vec::new();
        let forced = selection.on.as_ref().or(config.profile_route.as_deref());
        match (forced, &self.own.route) {
            (Some(forced), _) => self.add_route(&mut rules, RuleSource::Forced, forced),
            (None, Some(own)) => self.add_route(&mut rules, RuleSource::Job, own),
            (None, None) => {}
        }
        let labels = self.own.labels.as_ref().or(self.defaults.labels.as_ref());
        let labels = labels.map_or(&[][..], |labels| &labels.value);
        for shared in config.shared_routes.iter().filter(|rule| applies(rule, &self.node.job.name, labels)) {
            rules.push(self.rule(RuleSource::Shared, origins.place(shared.rule.location), &shared.rule));
        }
        if let Some(route) = &self.defaults.route {
            self.add_route(&mut rules, RuleSource::Defaults, route);
        }
        Routing { changed_since, rules }
    }

    fn add_route(&self, rules: &mut Vec<RoutingRule>, source: RuleSource, route: &Valued<Route>) {
        let origins = self.context.origins;
        let whole = |to| {
            let origin = match source {
                RuleSource::Defaults => origins.defaults_text(&route.origin),
                _ => origins.text(&route.origin),
            };
            vec![RoutingRule { source, origin, when: Vec::new(), to }]
        };
        rules.extend(match &route.value {
            Route::To(place) => whole(RuleTarget::Place(*place)),
            Route::Auto => whole(RuleTarget::Auto),
            Route::Race => whole(RuleTarget::Race),
            Route::Rules(list) => {
                list.iter().map(|rule| self.rule(source, origins.place(rule.location), rule)).collect()
            }
        });
    }

    fn rule(&self, source: RuleSource, origin: String, rule: &Rule) -> RoutingRule {
        RoutingRule { source, origin, when: rule.when.clone(), to: rule.to }
    }

    fn watch(&mut self) -> WatchSpec {
        let stop_timeout = self.watched("stop_timeout", |w| &w.stop_timeout).map(|v| v.value);
        let stop_timeout =
            stop_timeout.or_else(|| self.take("stop_timeout", |s| &s.stop_timeout).map(|v| v.value));
        WatchSpec {
            paths: self.watched("paths", |w| &w.paths).map(|v| self.fill.texts(&v.value, self.at(v))),
            ignore: self
                .watched("ignore", |w| &w.ignore)
                .map(|v| self.fill.texts(&v.value, self.at(v)))
                .unwrap_or_default(),
            debounce: self.watched("debounce", |w| &w.debounce).map(|v| v.value),
            on_busy: self.watched("on_busy", |w| &w.on_busy).map_or(OnBusy::Restart, |v| v.value),
            stop_signal: self
                .watched("stop_signal", |w| &w.stop_signal)
                .map_or(StopSignal::Terminate, |v| v.value),
            stop_timeout: stop_timeout.unwrap_or(DEFAULT_STOP_TIMEOUT),
            clear: self.watched("clear", |w| &w.clear).is_some_and(|v| v.value),
            notify: self.watched("notify", |w| &w.notify).map_or(WatchNotify::Never, |v| v.value),
        }
    }

    fn watched<T>(&mut self, key: &str, choose: fn(&WatchSettings) -> &Setting<T>) -> Option<&'a Valued<T>> {
        let key = format!("watch.{key}");
        if let Some(valued) = choose(&self.own.watch) {
            self.note(&key, self.context.origins.text(&valued.origin));
            return Some(valued);
        }
        let valued = choose(&self.defaults.watch).as_ref()?;
        self.note(&key, self.context.origins.defaults_text(&valued.origin));
        Some(valued)
    }
}

/// Variables and flags are stronger than any file.
fn overrides(layer: &Layer) -> bool {
    matches!(layer, Layer::Variable(_) | Layer::Flag(_))
}

fn with_arguments(command: String, extra: &[String]) -> String {
    if extra.is_empty() {
        return command;
    }
    // A final newline would make the arguments a command of their own.
    format!("{} {}", command.trim_end(), shell_join(extra.iter().map(String::as_str)))
}

fn network(network: &Network) -> NetworkSpec {
    if network.block {
        return NetworkSpec::Blocked;
    }
    match (&network.allow_cidrs, &network.allow_domains) {
        (None, None) => NetworkSpec::Open,
        (cidrs, domains) => NetworkSpec::Allow {
            cidrs: cidrs.clone().unwrap_or_default(),
            domains: domains.clone().unwrap_or_default(),
        },
    }
}

/// A shared rule without jobs and labels is for every job; with both, either is enough.
fn applies(rule: &SharedRule, job: &str, labels: &[String]) -> bool {
    if rule.jobs.is_empty() && rule.labels.is_empty() {
        return true;
    }
    let matches =
        |glob: &String, text: &str| Glob::new(glob).is_ok_and(|glob| glob.compile_matcher().is_match(text));
    rule.jobs.iter().any(|glob| matches(glob, job))
        || rule.labels.iter().any(|glob| labels.iter().any(|label| matches(glob, label)))
}
