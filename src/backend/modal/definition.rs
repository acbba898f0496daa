//! A job's spec → the sandbox message, as the official SDK sets it.
//!
//! Pure. Both generations of sandboxes share the message. The main process only waits; the job runs by exec.

use std::time::Duration;

use super::image::gpu_config;
use super::wire::client as wire;
use crate::backend::Keep;
use crate::base::size::Bytes;
use crate::domain::Gpu;
use crate::plan::spec::{NetworkSpec, Range, SandboxSpec};
use wire::network_access::NetworkAccessType;

/// For the start of the sandbox, the copy of the tree and the way of the outputs, on top of the job's own time.
const BOOT: Duration = Duration::from_secs(10 * 60);
const MARGIN: Duration = Duration::from_secs(60);
/// The longest that a sandbox may live.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// A sandbox in which nothing runs ends after this long: what a machine that vanished costs at most. Longer than
/// connecting to a sandbox may take.
pub(super) const IDLE: Duration = Duration::from_secs(10 * 60);
/// Longer than a sandbox may live.
const WAIT_FOR_EVER: [&str; 2] = ["sleep", "172800"];
const MIB: u64 = 1 << 20;

/// Ids of what the sandbox is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) app: String,
    pub(super) image: String,
    pub(super) mount: String,
    pub(super) secrets: Vec<String>,
    /// In the order of the spec's volumes.
    pub(super) volumes: Vec<String>,
}

/// The server never ends an idle sandbox earlier, or it might end one that is still starting.
const LEAST_IDLE: Duration = Duration::from_secs(60);

/// The limits that the server puts on a sandbox: they hold also when this machine is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) lifetime: Duration,
    pub(super) idle: Duration,
}

/// A sandbox that is kept may be taken for a last run just before it reaches `max`, and lives to the end of that.
/// `most` is how long one run may last for what it may cost.
pub(super) fn limits(
    timeout: Option<Duration>,
    keep: Option<Keep>,
    spec: &SandboxSpec,
    most: Option<Duration>,
) -> Limits {
    let needed = lifetime(timeout, spec);
    let one_run = most.map_or(needed, |most| most.min(needed));
    match keep {
        None => Limits { lifetime: one_run, idle: IDLE },
        Some(keep) => Limits {
            lifetime: one_run.saturating_add(keep.max).min(LONGEST_LIFE),
            idle: keep.idle.max(LEAST_IDLE),
        },
    }
}

/// How long the server lets a sandbox live that is not kept.
pub fn lifetime(timeout: Option<Duration>, spec: &SandboxSpec) -> Duration {
    timeout.map_or(LONGEST_LIFE, |timeout| one_run(timeout, spec))
}

fn one_run(timeout: Duration, spec: &SandboxSpec) -> Duration {
    timeout.saturating_add(BOOT + MARGIN).saturating_add(spec.stop_timeout).min(LONGEST_LIFE)
}

/// What must be left of a kept sandbox's life for another run. A job without a limit takes what there is.
pub(super) fn needed_life(timeout: Option<Duration>, spec: &SandboxSpec) -> Duration {
    timeout.map_or(Duration::ZERO, |timeout| one_run(timeout, spec))
}

pub(super) fn sandbox(spec: &SandboxSpec, parts: &Parts, gpu: Option<&Gpu>, limits: Limits) -> wire::Sandbox {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let volumes = spec.volumes.iter().zip(&parts.volumes).map(|((path, volume), id)| wire::VolumeMount {
        volume_id: id.clone(),
        mount_path: path.clone(),
        allow_background_commits: true,
        read_only: volume.read_only,
        sub_path: None,
    });
    let placement = wire::SchedulerPlacement { regions: spec.region.clone(), ..Default::default() };
    wire::Sandbox {
        entrypoint_args: WAIT_FOR_EVER.map(str::to_owned).to_vec(),
        mount_ids: vec![parts.mount.clone()],
        image_id: parts.image.clone(),
        secret_ids: parts.secrets.clone(),
        resources: Some(resources(spec, gpu)),
        timeout_secs: seconds(limits.lifetime),
        idle_timeout_secs: Some(seconds(limits.idle)),
        volume_mounts: volumes.collect(),
        scheduler_placement: (!spec.region.is_empty()).then_some(placement),
        cloud_provider_str: spec.cloud.clone().unwrap_or_default(),
        network_access: Some(network(&spec.network)),
        open_ports_oneof: Some(wire::sandbox::OpenPortsOneof::OpenPorts(ports(&spec.ports))),
        ..Default::default()
    }
}

fn resources(spec: &SandboxSpec, gpu: Option<&Gpu>) -> wire::Resources {
    // Whole thousandths of a core, cut as the SDK does.
    let (milli_cpu, milli_cpu_max) = range(spec.cpu.as_ref(), |cores| (cores * 1000.0) as u32);
    let mib = |bytes: &Bytes| u32::try_from(bytes.0.div_ceil(MIB)).unwrap_or(u32::MAX);
    let (memory_mb, memory_mb_max) = range(spec.memory.as_ref(), mib);
    wire::Resources {
        memory_mb,
        memory_mb_max,
        milli_cpu,
        milli_cpu_max,
        gpu_config: Some(gpu_config(gpu)),
        ..Default::default()
    }
}

/// Request and limit; 0 leaves either to the server.
fn range<T>(range: Option<&Range<T>>, unit: impl Fn(&T) -> u32) -> (u32, u32) {
    range.map_or((0, 0), |range| (unit(&range.request), range.limit.as_ref().map_or(0, &unit)))
}

fn network(network: &NetworkSpec) -> wire::NetworkAccess {
    let (kind, cidrs, domains) = match network {
        NetworkSpec::Open => (NetworkAccessType::Open, Vec::new(), Vec::new()),
        NetworkSpec::Blocked => (NetworkAccessType::Blocked, Vec::new(), Vec::new()),
        NetworkSpec::Allow { cidrs, domains } => {
            (NetworkAccessType::Allowlist, cidrs.clone(), domains.clone())
        }
    };
    wire::NetworkAccess { network_access_type: kind as i32, allowed_cidrs: cidrs, allowed_domains: domains }
}

fn ports(ports: &[u16]) -> wire::PortSpecs {
    let port = |port: &u16| wire::PortSpec { port: u32::from(*port), ..Default::default() };
    wire::PortSpecs { ports: ports.iter().map(port).collect() }
}
