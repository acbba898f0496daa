//! The keys of a job.

use std::time::Duration;

use super::job_values::FallbackChain;
use super::job_values::{
    Backoff, Cidr, GpuEntry, GpuName, ImageValue, MatrixValues, SecretEntry, VolumeEntry, WarmValue,
};
use super::{
    Cores, Factor, GitRef, Map, Memory, MountPath, NameGlob, ObjectName, OrLimit, PathGlob, Placed, Plain,
    Port, ProjectPath, RouteValue, Scalar, Text, VariableName, Whole, keys,
};
use crate::config::model::{Command, FallbackOn, OnBusy, StopSignal, WatchNotify};
use crate::domain::{Cause, Place};

keys! {
    /// What to run, in which image, with what, and where.
    JobKeys as "a job" {
        /// One line about the job, shown by `accel list`.
        desc: Text,
        /// The job that this one takes every key from that it does not set itself.
        extends: Plain,
        /// The command. A string runs in a strict shell (`bash -euo pipefail -c`, else `sh -eu -c`), a list is
        /// argv without a shell. Arguments after `--` are appended. Without it the job only groups its needs.
        run: Command,
        /// The image the job runs in: a name from `[images]`, or a table of image keys. Default: none.
        image: ImageValue,
        /// Jobs that must succeed before this one starts.
        needs: Vec<Placed<Plain>>,
        /// Globs of the files that the result depends on.
        inputs: Vec<PathGlob>,
        /// Globs of the files that the job makes: brought back from Modal, and restored when the result is cached.
        /// Declared, even empty, together with `inputs`: the result may be cached.
        outputs: Vec<PathGlob>,
        /// Working folder, relative to accel.toml. Default: its folder.
        cwd: ProjectPath,
        /// Cores, or `[request, limit]`.
        cpu: OrLimit<Cores>,
        /// Memory, or `[request, limit]`; a bare number is MiB.
        memory: OrLimit<Memory>,
        /// GPUs to try in order: `"L4"`, `"A100-40GB:2"`, or `{ type = "A10", wait = "30s" }`.
        gpu: Vec<GpuEntry>,
        /// Longest time over all attempts; a bare number is seconds.
        timeout: Duration,
        /// From the polite signal to the kill. Default: 10s.
        stop_timeout: Duration,
        /// Environment variables.
        env: Map<VariableName, Scalar>,
        /// Files of `KEY=value` lines, weaker than `env`.
        dotenv: Vec<ProjectPath>,
        /// Globs over the names of local variables that travel to Modal; nothing else does.
        pass_env: Vec<NameGlob>,
        /// Modal secrets: names, or `{ name = "…", required_keys = ["…"] }`.
        secrets: Vec<SecretEntry>,
        /// Modal volumes by mount path: a name, or `{ name = "…", read_only = true }`.
        volumes: Map<MountPath, VolumeEntry>,
        /// Whether and when a failed attempt is repeated.
        retry: RetryKeys,
        /// Where to run when the chosen place cannot; of a list, the first that applies and leads elsewhere.
        fallback: FallbackChain,
        /// Never falls back.
        strict: bool,
        /// Keeps the sandbox on Modal for the next run: `{ idle = "10m", max = "4h" }`; false: one run each, which is
        /// also what single runs do where nothing is said, and CI and jobs with `tty` in any case.
        warm: WarmValue,
        /// Where the job runs: `local`, `modal`, `auto`, `race`, or rules of which the first that holds decides.
        route: RouteValue,
        /// Files count as changed since they branched off from this commit: a branch, a tag, `HEAD~1`. Default: the
        /// default branch.
        changed_since: GitRef,
        /// Words that shared rules and the command line can select by.
        labels: Vec<Placed<Plain>>,
        /// The job changes nothing but its outputs, so that running it twice does no harm: it may race.
        pure: bool,
        /// Connects standard input, and the terminal where there is one, to the job; also on Modal.
        tty: bool,
        /// Ports that are reachable from outside while the job runs on Modal.
        ports: Vec<Placed<Port>>,
        /// What a job on Modal may reach. Default: everything.
        network: NetworkKeys,
        /// Modal regions.
        region: Vec<Plain>,
        /// Cloud provider, as Modal names it.
        cloud: Plain,
        /// JUnit reports that the job writes; accel shows what failed.
        junit: Vec<PathGlob>,
        /// Splits the job into parts that run side by side.
        shard: ShardKeys,
        /// One job per combination: axis = values, and combinations to leave out under `exclude`.
        matrix: MatrixValues,
        /// How `accel watch` treats the job.
        watch: WatchKeys,
    }
}

keys! {
    /// Whether and when a failed attempt is repeated.
    RetryKeys as "retry" {
        /// Attempts after the first. Default: 0.
        max: Whole<0, 100>,
        /// Causes that are retried. Default: infra, preempted. `timeout` needs `escalate.timeout`.
        on: Vec<Cause>,
        /// First and longest delay: `"2s..30s"`, or one duration for both.
        backoff: Backoff,
        /// What grows with each retry.
        escalate: EscalateKeys,
    }
}

keys! {
    /// What grows with each retry.
    EscalateKeys as "escalate" {
        /// Factor on memory: `"x2"`.
        memory: Factor,
        /// Factor on the timeout: `"x2"`. After a timeout the clock begins anew with it.
        timeout: Factor,
        /// Goes on to the next entry of `gpu`.
        next_gpu: bool,
    }
}

keys! {
    /// Where to run when the chosen place cannot.
    FallbackKeys as "fallback" {
        /// The place to fall back to.
        to: Place,
        /// Causes: unreachable, auth, capacity, queue, infra, image, oom, preempted, or `"queue>45s"`. Default:
        /// unreachable, auth, capacity, queue.
        on: Vec<FallbackOn>,
    }
}

keys! {
    /// How long a sandbox is kept for the next run.
    WarmKeys as "warm" {
        /// Ends after this long without a run; a minute at least. Default: 10m.
        idle: Duration,
        /// Used for no other run at this age. Default: 4h.
        max: Duration,
    }
}

keys! {
    /// What a job on Modal may reach.
    NetworkKeys as "network" {
        /// Nothing at all.
        block: bool,
        /// Only these address ranges.
        allow_cidrs: Vec<Cidr>,
        /// Only these domains.
        allow_domains: Vec<Plain>,
    }
}

keys! {
    /// Splits a job into parts that run side by side.
    ShardKeys as "shard" {
        /// How many parts; each sees ACCEL_SHARD_INDEX and ACCEL_SHARD_TOTAL.
        count: Whole<1, 1000>,
        /// The test runner whose tests accel splits itself: `pytest`.
        runner: Plain,
    }
}

keys! {
    /// How `accel watch` treats the job.
    WatchKeys as "watch" {
        /// Files and folders that trigger a run. Default: inputs, else the sync set.
        paths: Vec<PathGlob>,
        /// Globs that never trigger a run; outputs and what accel writes never do.
        ignore: Vec<PathGlob>,
        /// Quiet time before a run starts. Default: short for one file, growing while events keep coming.
        debounce: Duration,
        /// What a change does while the job runs: queue, restart or ignore. Default: restart.
        on_busy: OnBusy,
        /// The signal that stops a run. Default: SIGTERM.
        stop_signal: StopSignal,
        /// From that signal to the kill. Default: the job's `stop_timeout`.
        stop_timeout: Duration,
        /// Clears the screen before each run.
        clear: bool,
        /// Tells when a run has ended: never, bell or desktop.
        notify: WatchNotify,
    }
}

keys! {
    /// A Modal secret.
    SecretKeys as "a secret" {
        /// Its name at Modal.
        name: ObjectName,
        /// Keys that it must hold.
        required_keys: Vec<Plain>,
    }
}

keys! {
    /// A Modal volume.
    VolumeKeys as "a volume" {
        /// Its name at Modal.
        name: ObjectName,
        /// Mounted without the right to write.
        read_only: bool,
    }
}

keys! {
    /// A GPU to try.
    GpuKeys as "a gpu" {
        /// Kind and count: `"A100-40GB:2"`.
        r#type: GpuName,
        /// How long to wait for it before the next is tried.
        wait: Duration,
    }
}
