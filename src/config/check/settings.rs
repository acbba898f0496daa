//! The small tables: where on Modal, what travels, budget, agents. And job keys as settings.

use std::time::Duration;

use globset::Glob;
use indexmap::IndexMap;

use super::{Checker, Held, built_in, map, place, set};
use crate::base::size::Bytes;
use crate::config::codes;
use crate::config::grammar::{
    BudgetKeys, EscalateKeys, FallbackChain, GpuEntry, ImageValue, JobKeys, McpKeys, ModalKeys, NetworkKeys,
    OrLimit, PathGlob, Placed, Plain, RetryKeys, SecretEntry, ShardKeys, SyncKeys, WarmValue, WatchKeys,
};
use crate::config::model::{
    Budget, Escalate, Fallback, FallbackOn, GpuText, ImageRef, JobSettings, McpExec, McpSettings,
    ModalSettings, Network, Origin, Range, Retry, Secret, Setting, Shard, SyncSettings, Valued, Volume, Warm,
    WatchSettings,
};
use crate::diag::Diagnostic;
use crate::domain::{Cause, Place};

/// `[sync] max_size` unless set.
pub const DEFAULT_MAX_SIZE: Bytes = Bytes(300_000_000);
/// `fallback` without `on`.
pub const DEFAULT_FALLBACK_ON: [Cause; 4] = [Cause::Unreachable, Cause::Auth, Cause::Capacity, Cause::Queue];
/// `retry` without `backoff`.
pub const DEFAULT_BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// `retry` without `on`.
pub const DEFAULT_RETRY_ON: [Cause; 2] = [Cause::Infra, Cause::Preempted];

pub fn modal(keys: ModalKeys, project: &str) -> ModalSettings {
    ModalSettings {
        app: keys.app.map_or_else(|| built_in(format!("accel-{project}")), |app| map(app, |app| app.0)),
        environment: keys.environment.map(|name| map(name, |name| name.0)),
        region: keys
            .region
            .map(each)
            .unwrap_or_default()
            .into_iter()
            .map(|v| map(v, |region: Plain| region.0))
            .collect(),
        cloud: keys.cloud.map(|cloud| map(cloud, |cloud| cloud.0)),
    }
}

pub fn sync(keys: SyncKeys) -> SyncSettings {
    let globs = |list: Setting<Vec<Placed<PathGlob>>>| {
        list.map(each).unwrap_or_default().into_iter().map(|glob| map(glob, |glob| glob.0)).collect()
    };
    SyncSettings {
        gitignore: keys.gitignore.map_or_else(|| built_in(true), |set| *set),
        include: globs(keys.include),
        exclude: globs(keys.exclude),
        max_size: keys.max_size.map_or_else(|| built_in(DEFAULT_MAX_SIZE), |size| *size),
    }
}

impl Checker {
    pub(super) fn budget(&mut self, keys: BudgetKeys) -> Budget {
        let budget = Budget {
            per_run: keys.per_run,
            per_day: keys.per_day,
            prewarm_per_day: keys.prewarm_per_day,
            on_exceed: keys.on_exceed,
            value_of_time: keys.value_of_time,
        };
        self.check_caps(&budget);
        budget
    }

    /// Caps that cannot both be meant.
    fn check_caps(&mut self, budget: &Budget) {
        let Some(per_day) = &budget.per_day else { return };
        for (name, cap) in [("per_run", &budget.per_run), ("prewarm_per_day", &budget.prewarm_per_day)] {
            let Some(cap) = cap.as_ref().filter(|cap| cap.value > per_day.value) else { continue };
            let text = format!("`{name}` allows more than `per_day`, which is {}", per_day.value);
            let help = "make it the smaller one, or remove it";
            self.contradiction(text, cap.origin.location, per_day.origin.location, help);
        }
    }
}

/// The items of a list, each with the list's layer and its own place.
pub fn each<T>(list: impl Held<Value = Vec<Placed<T>>>) -> Vec<Valued<T>> {
    let list = list.take();
    let layer = list.origin.layer;
    let valued = |item: Placed<T>| Valued {
        value: item.value,
        origin: Origin { layer: layer.clone(), location: Some(item.location) },
    };
    list.value.into_iter().map(valued).collect()
}

fn texts(list: Vec<PathGlob>) -> Vec<String> {
    list.into_iter().map(|item| item.0).collect()
}

fn range<T, U>(value: OrLimit<T>, change: impl Fn(T) -> U) -> Range<U> {
    Range { request: change(value.request), limit: value.limit.map(change) }
}

pub fn secret(entry: SecretEntry) -> Secret {
    Secret { name: entry.name, required_keys: entry.required_keys }
}

pub fn gpu(entry: GpuEntry) -> GpuText {
    GpuText { text: entry.text, wait: entry.wait, location: entry.location }
}

impl Checker {
    pub(super) fn mcp(&mut self, keys: McpKeys) -> McpSettings {
        let jobs = set(keys.jobs, |globs| globs.into_iter().map(|glob| glob.0).collect::<Vec<_>>());
        for glob in jobs.iter().flat_map(|globs| &globs.value) {
            if !self.matches_a_job(glob) {
                let location = jobs.as_ref().and_then(|jobs| place(jobs));
                self.unknown_name(codes::UNKNOWN_JOB, "job", glob, location, |checker| &checker.jobs);
            }
        }
        McpSettings { jobs, exec: keys.exec.map_or_else(|| built_in(McpExec::None), |exec| *exec) }
    }

    pub(super) fn matches_a_job(&self, glob: &str) -> bool {
        if self.jobs.contains_key(glob) {
            return true;
        }
        let Ok(glob) = Glob::new(glob) else { return true };
        let matcher = glob.compile_matcher();
        self.jobs.keys().any(|name| matcher.is_match(name))
    }

    /// Job keys as settings. Keys that are not settings (`extends`, `matrix`) have been taken out.
    pub(super) fn settings(&mut self, keys: JobKeys) -> JobSettings {
        let image = keys.image.and_then(|image| self.image_ref(*image)).map(Box::new);
        let network = keys.network.and_then(|network| self.network(*network)).map(Box::new);
        JobSettings {
            desc: set(keys.desc, |desc| desc.0),
            run: keys.run,
            image,
            needs: keys.needs.map(|needs| {
                let origin = needs.origin.clone();
                let value = each(needs).into_iter().map(|name| map(name, |name| name.0)).collect();
                Box::new(Valued { value, origin })
            }),
            inputs: set(keys.inputs, texts),
            outputs: set(keys.outputs, texts),
            cwd: set(keys.cwd, |cwd| cwd.0),
            cpu: set(keys.cpu, |cpu| range(cpu, |cores| cores.0)),
            memory: set(keys.memory, |memory| range(memory, |memory| memory.0)),
            gpu: set(keys.gpu, |list| list.into_iter().map(gpu).collect()),
            timeout: keys.timeout,
            stop_timeout: keys.stop_timeout,
            env: keys.env.map(|env| variables(env.value)).unwrap_or_default(),
            dotenv: set(keys.dotenv, |list| list.into_iter().map(|path| path.0).collect()),
            pass_env: set(keys.pass_env, |list| list.into_iter().map(|glob| glob.0).collect()),
            secrets: set(keys.secrets, |list| list.into_iter().map(secret).collect()),
            volumes: set(keys.volumes, volume_map),
            retry: set(keys.retry, retry_settings),
            fallback: keys.fallback.map(|chain| Box::new(self.fallback(*chain))),
            strict: keys.strict,
            warm: set(keys.warm, warm_settings),
            route: keys.route.map(|route| Box::new(self.route(*route))),
            changed_since: set(keys.changed_since, |named| named.0),
            labels: set(keys.labels, |list| list.into_iter().map(|label| label.value.0).collect()),
            pure: keys.pure,
            tty: keys.tty,
            ports: set(keys.ports, |list| list.into_iter().map(|port| port.value.0).collect()),
            network,
            region: set(keys.region, |list| list.into_iter().map(|region| region.0).collect()),
            cloud: set(keys.cloud, |cloud| cloud.0),
            junit: set(keys.junit, texts),
            shard: keys.shard.and_then(|keys| self.shard(*keys)).map(Box::new),
            watch: keys.watch.map(|watch| watch_settings(watch.value)).unwrap_or_default(),
        }
    }

    fn image_ref(&mut self, image: Valued<ImageValue>) -> Option<Valued<ImageRef>> {
        let origin = image.origin;
        let value = match image.value {
            ImageValue::Named(name) => {
                if !self.images.contains_key(&name) {
                    self.unknown_name(codes::UNKNOWN_IMAGE, "image", &name, origin.location, |checker| {
                        &checker.images
                    });
                }
                ImageRef::Named(name)
            }
            ImageValue::Inline(keys) => ImageRef::Inline(Box::new(self.image(None, *keys, origin.location?))),
        };
        Some(Valued { value, origin })
    }

    fn network(&mut self, keys: Valued<NetworkKeys>) -> Option<Valued<Network>> {
        let location = place(&keys);
        let NetworkKeys { block, allow_cidrs, allow_domains } = keys.value;
        let block = block.is_some_and(|block| block.value);
        if block && (allow_cidrs.is_some() || allow_domains.is_some()) {
            let help = "leave out `block`: what is not in a list is blocked anyway";
            self.contradiction("`block` leaves nothing to allow", location, None, help);
        }
        let value = Network {
            block,
            allow_cidrs: allow_cidrs.map(|list| list.value.into_iter().map(|cidr| cidr.0).collect()),
            allow_domains: allow_domains.map(|list| list.value.into_iter().map(|domain| domain.0).collect()),
        };
        Some(Valued { value, origin: keys.origin })
    }

    fn fallback(&mut self, chain: Valued<FallbackChain>) -> Valued<Vec<Fallback>> {
        let mut fallbacks = Vec::new();
        for Placed { value: keys, location } in chain.value.0 {
            let to = keys.to.map_or(Place::Local, |to| to.value);
            let on = match keys.on {
                Some(on) => on.value,
                None => DEFAULT_FALLBACK_ON.map(FallbackOn::Cause).into(),
            };
            if on.is_empty() {
                self.report(
                    Diagnostic::error(codes::NEVER_FIRES, "a fallback on nothing never happens")
                        .at(location)
                        .help("name causes: on = [\"unreachable\", \"capacity\"], or leave `fallback` out"),
                );
            }
            fallbacks.push(Fallback { to, on });
        }
        Valued { value: fallbacks, origin: chain.origin }
    }

    fn shard(&mut self, keys: Valued<ShardKeys>) -> Option<Valued<Shard>> {
        let location = place(&keys);
        let ShardKeys { count, runner } = keys.value;
        if let Some(runner) = runner.as_ref().filter(|runner| runner.value.0 != "pytest") {
            self.report(
                Diagnostic::error(
                    codes::BAD_VALUE,
                    format!("accel cannot split the tests of `{}`", runner.value.0),
                )
                .at(place(runner))
                .help("write \"pytest\", or leave `runner` out and split by ACCEL_SHARD_INDEX"),
            );
        }
        let Some(count) = count else {
            self.report(
                Diagnostic::error(codes::MISSING_KEY, "shard has no `count`")
                    .at(location)
                    .help("add `count = 4`"),
            );
            return None;
        };
        let value = Shard { count: count.value.0, runner: runner.map(|runner| runner.value.0) };
        Some(Valued { value, origin: keys.origin })
    }
}

pub fn variables<K>(
    env: crate::config::grammar::Map<K, crate::config::grammar::Scalar>,
) -> IndexMap<String, Valued<String>> {
    env.entries.into_iter().map(|(name, entry)| (name, map(entry.value, |value| value.0))).collect()
}

pub fn volume_map<K>(
    volumes: crate::config::grammar::Map<K, crate::config::grammar::VolumeEntry>,
) -> IndexMap<String, Volume> {
    let volume =
        |entry: crate::config::grammar::VolumeEntry| Volume { name: entry.name, read_only: entry.read_only };
    volumes.entries.into_iter().map(|(path, entry)| (path, volume(entry.value.value))).collect()
}

fn retry_settings(keys: RetryKeys) -> Retry {
    let escalate = keys.escalate.map(|keys| keys.value).unwrap_or_default();
    let EscalateKeys { memory, timeout, next_gpu } = escalate;
    Retry {
        max: keys.max.map_or(0, |max| max.value.0),
        on: keys.on.map_or_else(|| DEFAULT_RETRY_ON.into(), |on| on.value),
        backoff: keys.backoff.map_or(DEFAULT_BACKOFF, |backoff| (backoff.value.0, backoff.value.1)),
        escalate: Escalate {
            memory: memory.map(|factor| factor.value.0),
            timeout: timeout.map(|factor| factor.value.0),
            next_gpu: next_gpu.is_some_and(|next| next.value),
        },
    }
}

fn warm_settings(value: WarmValue) -> Warm {
    match value {
        WarmValue::OneShot => Warm::OneShot,
        WarmValue::Keep(keys) => Warm::Keep {
            idle: keys.idle.map_or(Warm::USUAL_IDLE, |idle| idle.value),
            max: keys.max.map_or(Warm::USUAL_MAX, |max| max.value),
        },
    }
}

fn watch_settings(keys: WatchKeys) -> WatchSettings {
    WatchSettings {
        paths: set(keys.paths, texts),
        ignore: set(keys.ignore, texts),
        debounce: keys.debounce,
        on_busy: keys.on_busy,
        stop_signal: keys.stop_signal,
        stop_timeout: keys.stop_timeout,
        clear: keys.clear,
        notify: keys.notify,
    }
}
