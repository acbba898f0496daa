//! The compiled form: sandbox specs with nothing left to look up.
//!
//! A [`Plan`] is pure data: every name resolved, every unit parsed, every default filled in. Backends read
//! these types and nothing of the configuration. Everything here serialises: `accel plan` prints it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde::Serialize;

use crate::base::digest::{Digest, DigestBuilder};
use crate::base::money::Dollars;
use crate::base::size::Bytes;
pub use crate::config::model::{
    Condition, Escalate, FallbackOn, Installer, LocalEngine, OnBusy, OnExceed, PipOptions, Poetry, Range,
    RegistryAuth, Retry, RuleTarget, Secret, Shard, StopSignal, UvSync, Volume, Warm, WatchNotify,
};
pub use crate::domain::Gpu;
use crate::domain::{JobId, Place};

/// Everything one invocation will run, in an order in which needs come first.
#[derive(Debug, Clone)]
pub struct Plan {
    pub root: PathBuf,
    pub project: String,
    pub modal: ModalTarget,
    pub sync: SyncSet,
    pub jobs: Vec<PlannedJob>,
    /// The jobs that were asked for, as against those that they need.
    pub requested: Vec<JobId>,
    pub images: BTreeMap<Digest, Arc<ImageSpec>>,
    pub budget: BudgetLimits,
    /// Where the values above were set: `project`, `modal.app`, `sync.exclude`, …; see
    /// [`PlannedJob::provenance`].
    pub provenance: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ModalTarget {
    pub app: String,
    pub environment: Option<String>,
}

impl Plan {
    /// Only these jobs; what else they need has passed already.
    pub fn part(&self, jobs: &BTreeSet<JobId>) -> Self {
        let kept: Vec<usize> =
            (0..self.jobs.len()).filter(|index| jobs.contains(&self.jobs[*index].id)).collect();
        let place = |index: &usize| kept.binary_search(index).ok();
        let mut plan = self.clone();
        plan.jobs = kept.iter().map(|index| self.jobs[*index].clone()).collect();
        for (job, index) in plan.jobs.iter_mut().zip(&kept) {
            let needs = &self.jobs[*index].needs;
            job.needs = needs.iter().filter_map(place).collect();
            job.earlier_outputs = needs
                .iter()
                .filter(|need| place(need).is_none())
                .flat_map(|need| self.outputs_up_to(*need))
                .collect();
        }
        plan.requested.retain(|job| jobs.contains(job));
        if plan.requested.is_empty() {
            plan.requested = plan.jobs.iter().map(|job| job.id.clone()).collect();
        }
        plan
    }

    /// Declared outputs of a job and of all that it needs.
    fn outputs_up_to(&self, index: usize) -> BTreeSet<String> {
        let job = &self.jobs[index];
        let mut outputs: BTreeSet<String> = job.spec.outputs.iter().flatten().cloned().collect();
        for need in &job.needs {
            outputs.extend(self.outputs_up_to(*need));
        }
        outputs
    }
}

/// What travels to Modal; relative to the root.
#[derive(Debug, Clone, Serialize)]
pub struct SyncSet {
    pub gitignore: bool,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub max_size: Bytes,
}

#[derive(Debug, Clone, Default)]
pub struct BudgetLimits {
    pub per_run: Option<Dollars>,
    pub per_day: Option<Dollars>,
    pub prewarm_per_day: Option<Dollars>,
    pub on_exceed: OnExceed,
    pub value_of_time: Option<Dollars>,
}

/// One job of the graph: the spec, and how the engine treats it.
#[derive(Debug, Clone)]
pub struct PlannedJob {
    pub id: JobId,
    /// Name in accel.toml (the id adds matrix values).
    pub name: String,
    pub desc: Option<String>,
    /// Indices into [`Plan::jobs`], always smaller than this job's own.
    pub needs: Vec<usize>,
    /// Outputs of needs that have passed already and are no part of the plan; see [`Plan::part`].
    pub earlier_outputs: Vec<String>,
    pub spec: Arc<SandboxSpec>,
    pub routing: Routing,
    /// Over all attempts; `None`: unlimited locally, Modal's maximum there.
    pub timeout: Option<Duration>,
    pub retry: Retry,
    pub fallback: Vec<FallbackSpec>,
    pub strict: bool,
    pub pure: bool,
    pub labels: Vec<String>,
    pub warm: Option<Warm>,
    pub shard: Option<Shard>,
    pub junit: Vec<String>,
    pub watch: WatchSpec,
    /// Key path of a value (`timeout`, `env.CI`) → where it was set (`accel.toml:12`, `[defaults] accel.toml:4`,
    /// `ACCEL_TIMEOUT`); built-in values have no entry.
    pub provenance: BTreeMap<String, String>,
}

impl PlannedJob {
    /// A job without a command: it passes once all that it needs has passed.
    pub fn is_group(&self) -> bool {
        matches!(&self.spec.command, CommandSpec::Shell(text) if text.is_empty())
    }
}

/// The rules that decide a job's place, strongest first; where none applies, the built-in rule does.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// The git ref that files count as changed since; `None`: the default branch.
    pub changed_since: Option<String>,
    pub rules: Vec<RoutingRule>,
}

impl Routing {
    /// Where the job runs whatever the facts are; `None` where they decide.
    pub fn certain_place(&self) -> Option<Place> {
        match self.rules.first().filter(|rule| rule.when.is_empty())?.to {
            RuleTarget::Place(place) => Some(place),
            _ => None,
        }
    }
}

/// All conditions hold → `to`. A rule without conditions always applies.
#[derive(Debug, Clone)]
pub struct RoutingRule {
    pub source: RuleSource,
    /// `accel.toml:41`, `--on`, `ACCEL_ON`.
    pub origin: String,
    pub when: Vec<Condition>,
    pub to: RuleTarget,
}

/// Whose rule it is, strongest first (design §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleSource {
    /// `--on`, `ACCEL_ON`, or the profile's route.
    Forced,
    /// The job's own `route`.
    Job,
    /// `[[route]]`.
    Shared,
    /// `[defaults] route`.
    Defaults,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FallbackSpec {
    pub to: Place,
    pub on: Vec<FallbackOn>,
}

#[derive(Debug, Clone)]
pub struct WatchSpec {
    /// `None`: inputs, else the sync set.
    pub paths: Option<Vec<String>>,
    pub ignore: Vec<String>,
    /// `None`: short for one file, growing while events keep coming.
    pub debounce: Option<Duration>,
    pub on_busy: OnBusy,
    pub stop_signal: StopSignal,
    pub stop_timeout: Duration,
    pub clear: bool,
    pub notify: WatchNotify,
}

/// What a backend needs to run one command, and nothing else.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    pub command: CommandSpec,
    /// Relative to the root; `.` by default.
    pub cwd: PathBuf,
    pub image: Arc<ImageSpec>,
    /// In order; later definitions have already won.
    pub env: IndexMap<String, String>,
    /// Weakest first; weaker than `env`.
    pub dotenv: Vec<DotenvFile>,
    /// Globs over the names of local variables that may travel.
    pub pass_env: Vec<String>,
    pub secrets: Vec<Secret>,
    pub volumes: IndexMap<String, Volume>,
    pub cpu: Option<Range<f64>>,
    pub memory: Option<Range<Bytes>>,
    /// Tried in order; empty: no GPU.
    pub gpu: Vec<GpuChoice>,
    pub ports: Vec<u16>,
    pub network: NetworkSpec,
    pub region: Vec<String>,
    pub cloud: Option<String>,
    pub tty: bool,
    /// Globs, relative to the root. `None`: not declared (not cacheable).
    pub inputs: Option<Vec<String>>,
    pub outputs: Option<Vec<String>>,
    /// Between the polite signal and the kill.
    pub stop_timeout: Duration,
}

impl SandboxSpec {
    /// Of what decides how long the job takes and what it does: command, image, variables, resources.
    pub fn digest(&self) -> Digest {
        let mut digest = DigestBuilder::new("job 1");
        digest.field(self.image.digest.to_string().as_bytes());
        // Their debug form tells all their values apart; a new form makes a new job of each, once.
        digest.field(format!("{:?}", (&self.command, &self.cwd, &self.env)).as_bytes());
        digest.field(format!("{:?}", (&self.cpu, &self.memory, &self.gpu, &self.volumes)).as_bytes());
        digest.finish()
    }
}

/// A file of `KEY=value` lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DotenvFile {
    /// Relative to the root.
    pub path: PathBuf,
    /// False for files that only `[defaults]` names: those may be missing.
    pub required: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandSpec {
    /// For `bash -euo pipefail -c`, else `sh -eu -c`; extra arguments already appended, quoted.
    /// Empty: the job only groups what it needs.
    Shell(String),
    Argv(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuChoice {
    pub gpu: Gpu,
    /// How long to wait for this one before the next is tried.
    pub wait: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkSpec {
    Open,
    Blocked,
    Allow { cidrs: Vec<String>, domains: Vec<String> },
}

/// One image: an ordered list of layers, one digest. `from = "…"` has been flattened.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// Name in accel.toml, or `job "x"` for inline images, or `host` for none.
    pub name: String,
    /// Over base, python, layers and the contents of every file they name.
    pub digest: Digest,
    pub base: BaseSpec,
    /// `major.minor` or full; `None`: accel's default ([`crate::plan::DEFAULT_PYTHON`]) where one is needed.
    pub python: Option<String>,
    /// Builds the base again even if it is known, and with it everything above.
    pub force_build: bool,
    pub layers: Vec<LayerSpec>,
    pub workdir: Option<String>,
    pub local: LocalSpec,
}

impl ImageSpec {
    /// The files whose contents are part of it.
    pub fn files(&self) -> Vec<&FileRef> {
        let mut files: Vec<&FileRef> = self.layers.iter().flat_map(|layer| layer.step.files()).collect();
        if let BaseSpec::Dockerfile { file, .. } = &self.base {
            files.push(file);
        }
        files
    }
}

// One per image: a box would buy nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseSpec {
    /// No image: the host locally, `debian_slim` on Modal.
    None,
    DebianSlim,
    Micromamba,
    Scratch,
    Registry {
        reference: String,
        auth: RegistryAuth,
        add_python: bool,
        setup: Vec<String>,
    },
    Dockerfile {
        file: FileRef,
        context: PathBuf,
        /// Docker's ignore patterns; `None`: the `.dockerignore` beside the Dockerfile or in the context.
        ignore: Option<Vec<String>>,
        build_args: IndexMap<String, String>,
        add_python: bool,
        auth: RegistryAuth,
        secrets: Vec<Secret>,
        env: IndexMap<String, String>,
        gpu: Option<Gpu>,
    },
}

/// A file that is part of an image, with the contents it was planned with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRef {
    /// Relative to the root.
    pub path: PathBuf,
    pub contents: Arc<[u8]>,
}

#[derive(Debug, Clone)]
pub struct LayerSpec {
    pub step: StepSpec,
    pub gpu: Option<Gpu>,
    pub secrets: Vec<Secret>,
    pub env: IndexMap<String, String>,
    /// More variables of the step alone, weaker than `env`, the weakest set first.
    pub env_secrets: Vec<IndexMap<String, String>>,
    /// Mounted while the step runs, by path; only for [`StepSpec::Run`].
    pub volumes: IndexMap<String, Volume>,
    pub force_build: bool,
    /// Digest of this layer and all below it.
    pub digest: Digest,
    /// `accel.toml:31`, for messages about a failed build.
    pub origin: String,
}

impl LayerSpec {
    /// All variables of the step alone, for places that do not keep the sets apart.
    pub fn variables(&self) -> IndexMap<String, String> {
        self.env_secrets
            .iter()
            .chain([&self.env])
            .flatten()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

impl StepSpec {
    fn files(&self) -> Vec<&FileRef> {
        match self {
            Self::Pip { requirements, .. } => requirements.iter().collect(),
            Self::Pyproject { file, .. } => vec![file],
            Self::UvSync { pyproject, lock, .. } | Self::Poetry { pyproject, lock, .. } => {
                std::iter::once(pyproject).chain(lock).collect()
            }
            Self::MicromambaInstall { spec_file, .. } => spec_file.iter().collect(),
            _ => Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepSpec {
    Apt(Vec<String>),
    Pip {
        packages: Vec<String>,
        requirements: Vec<FileRef>,
        options: PipOptions,
        installer: Installer,
    },
    Pyproject {
        file: FileRef,
        dependencies: Vec<String>,
        options: PipOptions,
        installer: Installer,
    },
    UvSync {
        sync: UvSync,
        pyproject: FileRef,
        lock: Option<FileRef>,
    },
    Poetry {
        poetry: Poetry,
        pyproject: FileRef,
        lock: Option<FileRef>,
    },
    MicromambaInstall {
        packages: Vec<String>,
        spec_file: Option<FileRef>,
        channels: Vec<String>,
    },
    PipPrivateRepos {
        repositories: Vec<String>,
        git_user: String,
        options: PipOptions,
    },
    Run(Vec<String>),
    /// `from` is relative to the root: a file or a folder, read when the layer is built.
    Copy {
        from: PathBuf,
        to: String,
        ignore: Vec<String>,
    },
    Env(IndexMap<String, String>),
    Workdir(String),
    Entrypoint(Vec<String>),
    Cmd(Vec<String>),
    Shell(Vec<String>),
    Dockerfile {
        commands: Vec<String>,
        context: PathBuf,
        /// Docker's ignore patterns; `None`: the context's `.dockerignore`.
        ignore: Option<Vec<String>>,
        /// Path in the context, which need not exist here → file sent along.
        context_files: IndexMap<String, FileRef>,
        build_args: IndexMap<String, String>,
    },
}

impl StepSpec {
    /// Whether the step installs Python packages: what a virtual environment can hold.
    pub fn installs_python(&self) -> bool {
        matches!(
            self,
            Self::Pip { .. }
                | Self::Pyproject { .. }
                | Self::UvSync { .. }
                | Self::Poetry { .. }
                | Self::PipPrivateRepos { .. }
        )
    }
}

/// How the image is made on this machine; the engine is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSpec {
    pub engine: LocalEngine,
    pub run: Vec<String>,
}
