//! What `accel plan` shows: the plan with units as people write them and images by name.
//!
//! JSON and YAML print this view as it is; `provenance` maps a key path (`timeout`, `env.CI`) to where it was set,
//! keys without an entry are built-in.

use std::collections::BTreeMap;
use std::time::Duration;

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::spec::{
    BudgetLimits, CommandSpec, FallbackOn, FallbackSpec, GpuChoice, ImageSpec, LocalEngine, ModalTarget,
    NetworkSpec, OnBusy, OnExceed, Plan, PlannedJob, Range, Retry, RoutingRule, RuleTarget, SyncSet, Warm,
    WatchNotify, WatchSpec,
};
use super::image::image_view;
use super::outlook::Outlook;
use crate::base::duration::ExactDuration;
use crate::base::size::Bytes;
use crate::domain::JobId;

/// Raised when a field changes meaning or goes away.
const VERSION: u32 = 1;

#[derive(Debug, Serialize)]
pub struct PlanView {
    version: u32,
    project: String,
    requested: Vec<JobId>,
    modal: Value,
    sync: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modal_at_most: Option<String>,
    /// By id of the job: where it would run, and why. Depends on more than the configuration, unlike all else.
    #[serde(skip_serializing_if = "is_empty")]
    decisions: Value,
    /// Origins of `project`, `modal`, `sync` and `budget`.
    provenance: BTreeMap<String, String>,
    /// By id, in an order in which needs come first.
    jobs: IndexMap<String, Value>,
    /// By name; of several images of one name all but the first carry their digest.
    images: IndexMap<String, Value>,
}

impl PlanView {
    pub fn of(plan: &Plan, outlook: &Outlook) -> Self {
        let mut images = ImageNames::default();
        let jobs = plan.jobs.iter().map(|job| {
            let image = images.name(&job.spec.image, &job.provenance);
            (job.id.to_string(), job_view(plan, job, &image))
        });
        let jobs = jobs.collect();
        Self {
            version: VERSION,
            project: plan.project.clone(),
            requested: plan.requested.clone(),
            modal: modal_view(&plan.modal),
            sync: sync_view(&plan.sync),
            budget: budget_view(&plan.budget),
            modal_at_most: outlook.modal_at_most.clone(),
            decisions: outlook.view(),
            provenance: plan.provenance.clone(),
            jobs,
            images: images.views,
        }
    }
}

fn is_empty(table: &Value) -> bool {
    table.as_object().is_some_and(serde_json::Map::is_empty)
}

#[derive(Default)]
struct ImageNames {
    by_digest: BTreeMap<(String, crate::base::digest::Digest), String>,
    views: IndexMap<String, Value>,
}

impl ImageNames {
    fn name(&mut self, image: &ImageSpec, provenance: &BTreeMap<String, String>) -> String {
        let key = (image.name.clone(), image.digest);
        if let Some(name) = self.by_digest.get(&key) {
            return name.clone();
        }
        let taken = self.views.contains_key(&image.name);
        let name =
            if taken { format!("{} {}", image.name, image.digest.short()) } else { image.name.clone() };
        self.views.insert(name.clone(), image_view(image, provenance));
        self.by_digest.insert(key, name.clone());
        name
    }
}

fn modal_view(modal: &ModalTarget) -> Value {
    json!({ "app": modal.app, "environment": modal.environment })
}

fn sync_view(sync: &SyncSet) -> Value {
    json!({
        "gitignore": sync.gitignore,
        "include": sync.include,
        "exclude": sync.exclude,
        "max_size": exact_size(sync.max_size),
    })
}

fn budget_view(budget: &BudgetLimits) -> Option<Value> {
    let BudgetLimits { per_run, per_day, prewarm_per_day, on_exceed, value_of_time } = budget;
    let none = [per_run, per_day, prewarm_per_day, value_of_time].iter().all(|limit| limit.is_none());
    let dollars = |limit: &Option<crate::base::money::Dollars>| limit.map(|amount| amount.to_string());
    (!none).then(|| {
        json!({
            "per_run": dollars(per_run),
            "per_day": dollars(per_day),
            "prewarm_per_day": dollars(prewarm_per_day),
            "value_of_time": dollars(value_of_time),
            "on_exceed": match on_exceed {
                OnExceed::Local => "local",
                OnExceed::Stop => "stop",
            },
        })
    })
}

fn job_view(plan: &Plan, job: &PlannedJob, image: &str) -> Value {
    let spec = &job.spec;
    let run = match &spec.command {
        CommandSpec::Shell(text) if text.is_empty() => Value::Null,
        CommandSpec::Shell(text) => json!(text),
        CommandSpec::Argv(words) => json!(words),
    };
    let needs: Vec<&str> = job.needs.iter().map(|index| plan.jobs[*index].id.as_str()).collect();
    let dotenv: Vec<_> = spec.dotenv.iter().map(|file| file.path.display().to_string()).collect();
    let secrets: Vec<Value> = spec.secrets.iter().map(secret_view).collect();
    let volumes: IndexMap<_, _> =
        spec.volumes.iter().map(|(path, volume)| (path, volume_view(volume))).collect();
    json!({
        "desc": job.desc,
        "run": run,
        "cwd": spec.cwd.display().to_string(),
        "needs": needs,
        "image": image,
        "gpu": spec.gpu.iter().map(gpu_view).collect::<Vec<_>>(),
        "cpu": spec.cpu.map(|cpu| range_view(cpu, |cores| json!(cores))),
        "memory": spec.memory.map(|memory| range_view(memory, |bytes| json!(exact_size(bytes)))),
        "timeout": job.timeout.map(exact),
        "stop_timeout": exact(spec.stop_timeout),
        "inputs": spec.inputs,
        "outputs": spec.outputs,
        "junit": job.junit,
        "labels": job.labels,
        "dotenv": dotenv,
        "pass_env": spec.pass_env,
        "secrets": secrets,
        "ports": spec.ports,
        "region": spec.region,
        "cloud": spec.cloud,
        "tty": spec.tty,
        "pure": job.pure,
        "strict": job.strict,
        "warm": job.warm.as_ref().map(warm_view),
        "network": network_view(&spec.network),
        "shard": job.shard.as_ref().map(|shard| json!({ "count": shard.count, "runner": shard.runner })),
        "volumes": volumes,
        "fallback": fallbacks_view(&job.fallback),
        "env": spec.env,
        "retry": retry_view(&job.retry),
        "changed_since": job.routing.changed_since,
        "route": job.routing.rules.iter().map(rule_view).collect::<Vec<_>>(),
        "watch": watch_view(&job.watch),
        "provenance": job.provenance.iter().filter(|(key, _)| !key.starts_with("image.")).collect::<BTreeMap<_, _>>(),
    })
}

pub fn secret_view(secret: &super::super::spec::Secret) -> Value {
    if secret.required_keys.is_empty() {
        return json!(secret.name);
    }
    json!({ "name": secret.name, "required_keys": secret.required_keys })
}

pub fn volume_view(volume: &super::super::spec::Volume) -> Value {
    if volume.read_only { json!({ "name": volume.name, "read_only": true }) } else { json!(volume.name) }
}

fn gpu_view(choice: &GpuChoice) -> Value {
    match choice.wait {
        None => json!(choice.gpu.to_string()),
        Some(wait) => json!({ "type": choice.gpu.to_string(), "wait": exact(wait) }),
    }
}

fn range_view<T: Copy>(range: Range<T>, show: impl Fn(T) -> Value) -> Value {
    match range.limit {
        None => show(range.request),
        Some(limit) => json!([show(range.request), show(limit)]),
    }
}

fn exact(duration: Duration) -> String {
    ExactDuration(duration).to_string()
}

/// As accel.toml writes it, in the largest unit that loses nothing: `8GiB`, `300MB`.
fn exact_size(size: Bytes) -> String {
    const UNITS: [(&str, u64); 8] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("KB", 1_000),
    ];
    let unit = UNITS.iter().find(|(_, bytes)| size.0 != 0 && size.0.is_multiple_of(*bytes));
    unit.map_or_else(|| format!("{}B", size.0), |(name, bytes)| format!("{}{name}", size.0 / bytes))
}

fn warm_view(warm: &Warm) -> Value {
    match warm {
        Warm::OneShot => json!(false),
        Warm::Keep { idle, max } => json!({ "idle": exact(*idle), "max": exact(*max) }),
    }
}

fn network_view(network: &NetworkSpec) -> Value {
    match network {
        NetworkSpec::Open => json!("open"),
        NetworkSpec::Blocked => json!("blocked"),
        NetworkSpec::Allow { cidrs, domains } => json!({ "allow_cidrs": cidrs, "allow_domains": domains }),
    }
}

/// As it would be written: one, or a list.
fn fallbacks_view(fallbacks: &[FallbackSpec]) -> Option<Value> {
    match fallbacks {
        [] => None,
        [one] => Some(fallback_view(one)),
        several => Some(several.iter().map(fallback_view).collect()),
    }
}

fn fallback_view(fallback: &FallbackSpec) -> Value {
    let on = fallback.on.iter().map(|on| match on {
        FallbackOn::Cause(cause) => cause.to_string(),
        FallbackOn::QueueLonger(wait) => format!("queue>{}", exact(*wait)),
    });
    json!({ "to": fallback.to, "on": on.collect::<Vec<_>>() })
}

fn retry_view(retry: &Retry) -> Value {
    if retry.max == 0 {
        return json!({ "max": 0 });
    }
    let (first, longest) = retry.backoff;
    let factor = |factor: Option<f64>| factor.map(|factor| format!("x{factor}"));
    let escalate = &retry.escalate;
    let escalate = json!({
        "memory": factor(escalate.memory),
        "timeout": factor(escalate.timeout),
        "gpu": escalate.next_gpu.then_some("next"),
    });
    let grows = escalate.as_object().is_some_and(|table| table.values().any(|value| !value.is_null()));
    json!({
        "max": retry.max,
        "on": retry.on,
        "backoff": format!("{}..{}", exact(first), exact(longest)),
        "escalate": grows.then_some(escalate),
    })
}

fn rule_view(rule: &RoutingRule) -> Value {
    let to = match rule.to {
        RuleTarget::Place(place) => place.as_str(),
        RuleTarget::Auto => "auto",
        RuleTarget::Race => "race",
    };
    let when: IndexMap<&str, Value> = rule
        .when
        .iter()
        .map(|condition| {
            let mut tests: Vec<String> = condition.tests.iter().map(ToString::to_string).collect();
            let tests = if tests.len() == 1 { json!(tests.remove(0)) } else { json!(tests) };
            (condition.fact.as_str(), tests)
        })
        .collect();
    json!({ "to": to, "when": (!when.is_empty()).then_some(when), "source": rule.source, "origin": rule.origin })
}

fn watch_view(watch: &WatchSpec) -> Value {
    json!({
        "paths": watch.paths,
        "ignore": watch.ignore,
        "debounce": watch.debounce.map(exact),
        "on_busy": match watch.on_busy {
            OnBusy::Queue => "queue",
            OnBusy::Restart => "restart",
            OnBusy::Ignore => "ignore",
        },
        "stop_signal": watch.stop_signal.name(),
        "stop_timeout": exact(watch.stop_timeout),
        "clear": watch.clear,
        "notify": match watch.notify {
            WatchNotify::Never => "never",
            WatchNotify::Bell => "bell",
            WatchNotify::Desktop => "desktop",
        },
    })
}

pub fn engine_name(engine: LocalEngine) -> &'static str {
    match engine {
        LocalEngine::Venv => "venv",
        LocalEngine::Host => "host",
        LocalEngine::Container => "container",
    }
}
