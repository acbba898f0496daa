//! Job keys → jobs: `extends` resolved, names known, nothing that contradicts itself.

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;

use super::{Checker, cycles, map, place};
use crate::config::codes;
use crate::config::grammar::{Grammar, ItemName, JobKeys, Map, MatrixValues};
use crate::config::model::{Fallback, Job, JobSettings, Matrix, Route, RuleTarget, Valued, Warm};
use crate::diag::{Diagnostic, Location};
use crate::domain::{Cause, Place};

type Entries = IndexMap<String, crate::config::grammar::MapEntry<Box<JobKeys>>>;

/// Most combinations of one matrix, before `exclude`.
const MAX_COMBINATIONS: usize = 1_000;

impl Checker {
    pub(super) fn jobs(&mut self, keys: Map<ItemName, Box<JobKeys>>) -> IndexMap<String, Job> {
        let entries = self.extended(keys.entries);
        let mut jobs = IndexMap::with_capacity(entries.len());
        for (name, entry) in entries {
            let mut keys = *entry.value.value;
            let matrix = keys.matrix.take().map(|matrix| self.matrix(*matrix));
            self.repeated(&keys);
            let settings = self.settings(keys);
            self.needs_exist(&settings);
            self.consistent(&settings);
            let job = Job { name: name.clone(), location: entry.key_location, settings, matrix };
            self.placeholders_of(&job);
            jobs.insert(name, job);
        }
        self.circles_of_needs(&jobs);
        self.outputs_once(&jobs);
        jobs
    }

    /// `[defaults]` takes the keys of a job, but for those that only make sense for one.
    pub(super) fn forbid_in_defaults(&mut self, keys: &mut JobKeys) {
        let said = [
            keys.extends.take().map(|key| ("extends", place(&key))),
            keys.needs.take().map(|key| ("needs", place(&key))),
            keys.run.take().map(|key| ("run", place(&key))),
            keys.matrix.take().map(|key| ("matrix", place(&key))),
        ];
        for (key, at) in said.into_iter().flatten() {
            let message = format!("`{key}` belongs to one job, not to [defaults]");
            self.contradiction(message, at, None, "move it into the jobs that it is for");
        }
    }

    /// Lays each job on top of the one that it extends.
    fn extended(&mut self, mut entries: Entries) -> Entries {
        let order: Vec<String> = entries.keys().cloned().collect();
        let bases: HashMap<String, (String, Option<Location>)> = entries
            .iter()
            .filter_map(|(name, entry)| {
                let base = entry.value.value.extends.as_ref()?;
                Some((name.clone(), (base.value.0.clone(), place(base))))
            })
            .collect();
        if bases.is_empty() {
            return entries;
        }
        let graph: cycles::Graph<'_> =
            bases.iter().map(|(name, (base, at))| (name.as_str(), vec![(base.as_str(), *at)])).collect();
        let circles = cycles::find(order.iter().map(String::as_str), &graph);
        let circular: HashSet<&str> = circles.iter().flatten().map(|(name, _)| *name).collect();
        for circle in &circles {
            self.report(cycles::diagnostic(
                circle,
                "job",
                ("extends", "extend"),
                "remove `extends` from one of them",
            ));
        }
        let mut done: HashSet<&str> = circular;
        for name in bases.keys() {
            // From the job down to the first that needs nothing more, then back up.
            let mut chain = Vec::new();
            let mut at = name.as_str();
            while let (false, Some((base, location))) = (done.contains(at), bases.get(at)) {
                if !entries.contains_key(base) {
                    self.unknown_name(codes::UNKNOWN_JOB, "job", base, *location, |checker| &checker.jobs);
                    done.insert(at);
                    break;
                }
                chain.push((at, base.as_str()));
                done.insert(at);
                at = base;
            }
            for (name, base) in chain.into_iter().rev() {
                let Some(mut merged) = entries.get(base).map(|entry| entry.value.value.clone()) else {
                    continue;
                };
                if let Some(entry) = entries.get_mut(name) {
                    merged.extends = None;
                    merged.overlay(std::mem::take(&mut entry.value.value));
                    entry.value.value = merged;
                }
            }
        }
        entries
    }

    fn matrix(&mut self, keys: Valued<MatrixValues>) -> Valued<Matrix> {
        let location = place(&keys);
        if keys.value.axes.entries.is_empty() {
            self.report(
                Diagnostic::error(codes::BAD_VALUE, "a matrix without an axis")
                    .at(location)
                    .help("name an axis and its values: matrix = { python = [\"3.12\", \"3.13\"] }"),
            );
        }
        let sizes = keys.value.axes.entries.values().map(|entry| entry.value.value.len());
        if sizes.fold(1, usize::saturating_mul) > MAX_COMBINATIONS {
            self.report(
                Diagnostic::error(
                    codes::TOO_LARGE,
                    format!("a matrix with more than {MAX_COMBINATIONS} combinations"),
                )
                .at(location)
                .help("give it fewer axes or values: what `exclude` leaves out counts too"),
            );
        }
        for (axis, entry) in &keys.value.axes.entries {
            let mut seen = HashSet::new();
            for value in &entry.value.value {
                if !seen.insert(&value.0) {
                    self.diagnostics.push(
                        Diagnostic::error(codes::DUPLICATE, format!("axis `{axis}` has `{}` twice", value.0))
                            .at(place(&entry.value))
                            .help("keep one of the two"),
                    );
                }
            }
        }
        for combination in &keys.value.exclude {
            for (axis, value) in &combination.value.entries {
                self.excluded(
                    &keys.value,
                    axis,
                    &value.value.value.0,
                    value.key_location,
                    place(&value.value),
                );
            }
        }
        map(keys, |keys| Matrix {
            axes: keys
                .axes
                .entries
                .into_iter()
                .map(|(axis, entry)| (axis, entry.value.value.into_iter().map(|value| value.0).collect()))
                .collect(),
            exclude: keys
                .exclude
                .into_iter()
                .map(|combination| {
                    combination
                        .value
                        .entries
                        .into_iter()
                        .map(|(axis, entry)| (axis, entry.value.value.0))
                        .collect()
                })
                .collect(),
        })
    }

    fn excluded(
        &mut self,
        matrix: &MatrixValues,
        axis: &str,
        value: &str,
        key: Location,
        at: Option<Location>,
    ) {
        let Some(values) = matrix.axes.entries.get(axis) else {
            let axes: Vec<&str> = matrix.axes.entries.keys().map(String::as_str).collect();
            self.report(
                Diagnostic::error(codes::UNKNOWN_KEY, format!("the matrix has no axis `{axis}`"))
                    .at(key)
                    .help(format!("axes: {}", axes.join(", "))),
            );
            return;
        };
        if !values.value.value.iter().any(|known| known.0 == value) {
            self.report(
                Diagnostic::error(
                    codes::NEVER_FIRES,
                    format!("axis `{axis}` has no value `{value}` to leave out"),
                )
                .at(at)
                .help("leave out a value that the axis has"),
            );
        }
    }

    /// The same entry twice in one list.
    fn repeated(&mut self, keys: &JobKeys) {
        let needs = keys
            .needs
            .iter()
            .flat_map(|list| &list.value)
            .map(|need| ("need", need.value.0.clone(), need.location));
        let labels = keys
            .labels
            .iter()
            .flat_map(|list| &list.value)
            .map(|label| ("label", label.value.0.clone(), label.location));
        let ports = keys
            .ports
            .iter()
            .flat_map(|list| &list.value)
            .map(|port| ("port", port.value.0.to_string(), port.location));
        let secrets = keys
            .secrets
            .iter()
            .flat_map(|list| &list.value)
            .map(|secret| ("secret", secret.name.clone(), secret.location));
        let mut seen: HashMap<(&str, String), Location> = HashMap::new();
        for (kind, name, location) in needs.chain(labels).chain(ports).chain(secrets) {
            let Some(first) = seen.get(&(kind, name.clone())) else {
                seen.insert((kind, name), location);
                continue;
            };
            self.diagnostics.push(
                Diagnostic::error(codes::DUPLICATE, format!("{kind} `{name}` is listed twice"))
                    .at(location)
                    .label("listed again")
                    .related(*first, "first listed here")
                    .help("keep one of the two"),
            );
        }
    }

    fn needs_exist(&mut self, settings: &JobSettings) {
        for need in settings.needs.iter().flat_map(|needs| &needs.value) {
            if !self.jobs.contains_key(&need.value) {
                self.unknown_name(codes::UNKNOWN_JOB, "job", &need.value, place(need), |checker| {
                    &checker.jobs
                });
            }
        }
    }

    /// Keys that exclude each other within one job.
    fn consistent(&mut self, settings: &JobSettings) {
        let strict = settings.strict.as_ref().filter(|strict| strict.value);
        if let (Some(strict), Some(fallback)) = (strict, &settings.fallback) {
            let help = "keep one of the two";
            self.contradiction("a strict job never falls back", place(fallback), place(strict), help);
        }
        let blocked = settings.network.as_ref().filter(|network| network.value.block);
        if let (Some(network), Some(ports)) =
            (blocked, settings.ports.as_ref().filter(|ports| !ports.value.is_empty()))
        {
            let message = "ports cannot be reached while the network is blocked";
            self.contradiction(message, place(ports), place(network), "remove `ports`, or `network.block`");
        }
        let tty = settings.tty.as_ref().filter(|tty| tty.value);
        if let (Some(tty), Some(shard)) = (tty, settings.shard.as_ref().filter(|shard| shard.value.count > 1))
        {
            let message = "several shards cannot share one terminal";
            self.contradiction(message, place(tty), place(shard), "remove `tty` or `shard`");
        }
        if let (Some(tty), Some(junit)) = (tty, settings.inputs.as_ref().and(settings.outputs.as_ref())) {
            let message = "a job at the terminal has no result to keep";
            self.contradiction(message, place(tty), place(junit), "remove `tty`, or `outputs`");
        }
        self.limits(settings);
        self.fallback_elsewhere(settings);
        self.lifetimes(settings);
        self.escalation(settings);
    }

    fn limits(&mut self, settings: &JobSettings) {
        let cpu = settings.cpu.as_ref();
        let low_cpu = cpu.filter(|cpu| cpu.value.limit.is_some_and(|limit| limit < cpu.value.request));
        if let Some(cpu) = low_cpu {
            self.contradiction(
                "the cpu limit is below the request",
                place(cpu),
                None,
                "write [request, limit]",
            );
        }
        let memory = settings.memory.as_ref();
        let low =
            memory.filter(|memory| memory.value.limit.is_some_and(|limit| limit < memory.value.request));
        if let Some(memory) = low {
            self.contradiction(
                "the memory limit is below the request",
                place(memory),
                None,
                "write [request, limit]",
            );
        }
    }

    fn fallback_elsewhere(&mut self, settings: &JobSettings) {
        let (Some(fallback), Some(route)) = (&settings.fallback, &settings.route) else { return };
        let places: Vec<Place> = match &route.value {
            Route::To(place) => vec![*place],
            Route::Rules(rules) if ends_with_default(rules) => {
                let fixed = rules.iter().map(|rule| match rule.to {
                    RuleTarget::Place(place) => Some(place),
                    RuleTarget::Auto | RuleTarget::Race => None,
                });
                fixed.collect::<Option<Vec<_>>>().unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let never = fallback.value.iter().find(|entry| places.iter().all(|place| *place == entry.to));
        if let Some(Fallback { to, .. }) = never.filter(|_| !places.is_empty()) {
            self.diagnostics.push(
                Diagnostic::error(
                    codes::NEVER_FIRES,
                    format!("falls back to {to}, where the job runs anyway"),
                )
                .at(place(fallback))
                .related_to(place(route), "the only place of the job")
                .help("fall back to the other place, or remove `fallback`"),
            );
        }
    }

    fn lifetimes(&mut self, settings: &JobSettings) {
        if let Some(warm) = &settings.warm
            && let Warm::Keep { idle, max } = warm.value
            && idle > max
        {
            let help = "make `idle` the shorter one";
            self.contradiction(
                "a warm sandbox would end by age before it can be idle",
                place(warm),
                None,
                help,
            );
        }
        if let Some(timeout) = settings.timeout.as_ref().filter(|timeout| timeout.value.is_zero()) {
            self.report(
                Diagnostic::error(codes::BAD_VALUE, "a job without any time")
                    .at(place(timeout))
                    .help("write a duration above zero: \"10m\""),
            );
        }
    }

    fn escalation(&mut self, settings: &JobSettings) {
        let Some(retry) = &settings.retry else { return };
        let escalate = &retry.value.escalate;
        let grows = escalate.memory.is_some() || escalate.timeout.is_some() || escalate.next_gpu;
        if retry.value.max == 0 && grows {
            self.diagnostics.push(
                Diagnostic::error(codes::NEVER_FIRES, "nothing escalates without a retry")
                    .at(place(retry))
                    .help("add `max = 2`, or remove `escalate`"),
            );
        }
        if retry.value.on.contains(&Cause::Timeout) && escalate.timeout.is_none() {
            self.diagnostics.push(
                Diagnostic::error(
                    codes::NEVER_FIRES,
                    "no time is left after a timeout, which is for all attempts",
                )
                .at(place(retry))
                .help("add `escalate = { timeout = \"x2\" }`, or remove `timeout` from `on`"),
            );
        }
    }

    fn circles_of_needs(&mut self, jobs: &IndexMap<String, Job>) {
        let graph: cycles::Graph<'_> = jobs
            .iter()
            .filter_map(|(name, job)| {
                let needs = job.settings.needs.as_ref()?;
                let edges = needs.value.iter().map(|need| (need.value.as_str(), place(need))).collect();
                Some((name.as_str(), edges))
            })
            .collect();
        for circle in cycles::find(jobs.keys().map(String::as_str), &graph) {
            let help = "remove one of these needs: no order can satisfy them all";
            self.report(cycles::diagnostic(&circle, "job", ("needs", "need"), help));
        }
    }

    /// Two jobs that say the same output: the plan refuses to run both in one go. What one job takes from
    /// another by `extends` is one saying.
    fn outputs_once(&mut self, jobs: &IndexMap<String, Job>) {
        let mut claimed: HashMap<&str, (&str, Option<Location>)> = HashMap::new();
        for (name, job) in jobs {
            let Some(outputs) = &job.settings.outputs else { continue };
            let location = place(outputs);
            for output in
                outputs.value.iter().filter(|output| !output.starts_with('!') && !output.contains("${"))
            {
                match claimed.get(output.as_str()) {
                    Some((other, at)) if *at != location => {
                        let found = Diagnostic::warning(
                            codes::DUPLICATE,
                            format!("jobs `{other}` and `{name}` both make `{output}`"),
                        );
                        self.diagnostics.push(
                            found.at(location).related_to(*at, &format!("`{other}` makes it here")).help(
                                "give each job outputs of its own: accel refuses to run both in one go",
                            ),
                        );
                    }
                    Some(_) => {}
                    None => {
                        claimed.insert(output, (name, location));
                    }
                }
            }
        }
    }
}

pub(super) fn ends_with_default(rules: &[crate::config::model::Rule]) -> bool {
    rules.last().is_some_and(|rule| rule.when.is_empty())
}

trait RelatedTo {
    fn related_to(self, location: Option<Location>, label: &str) -> Self;
}

impl RelatedTo for Diagnostic {
    fn related_to(self, location: Option<Location>, label: &str) -> Self {
        match location {
            Some(location) => self.related(location, label),
            None => self,
        }
    }
}
