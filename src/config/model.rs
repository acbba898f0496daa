//! The checked configuration: what the rest of accel sees of `accel.toml`.
//!
//! Every value knows where it came from ([`Origin`]). All text has been read and all units parsed; names of
//! images, jobs and profiles are known to exist. Texts marked [`Text`] may still hold `${matrix.…}`; the plan
//! fills them in.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;

use crate::base::compare::Operator;
use crate::base::duration::ExactDuration;
use crate::base::money::Dollars;
use crate::base::size::Bytes;
use crate::diag::{Location, SourceMap};
use crate::domain::{Cause, Place};

/// Which layer of configuration a value was set in, weakest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    BuiltIn,
    /// A file named by `extends`.
    Extends,
    /// accel.toml (or accel.yaml) itself.
    File,
    Profile(String),
    /// accel.local.toml.
    Local,
    /// An `ACCEL_*` variable.
    Variable(String),
    /// A command-line flag.
    Flag(String),
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub layer: Layer,
    /// Absent for built-in values, variables and flags.
    pub location: Option<Location>,
}

/// A value and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valued<T> {
    pub value: T,
    pub origin: Origin,
}

/// A key that may be set. Boxed: most keys of most jobs are not.
pub type Setting<T> = Option<Box<Valued<T>>>;

/// A string that may hold `${matrix.NAME}` placeholders (`$${matrix.NAME}` escapes one).
pub type Text = String;

/// The whole of one accel.toml with everything it extends, after precedence.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of accel.toml: every relative path is relative to it.
    pub root: PathBuf,
    pub sources: SourceMap,
    /// Chosen profile, if any.
    pub profile: Option<String>,
    /// Names of all profiles of the file.
    pub profiles: Vec<String>,
    pub project: Valued<String>,
    pub modal: ModalSettings,
    pub defaults: JobSettings,
    pub sync: SyncSettings,
    pub images: IndexMap<String, Image>,
    pub jobs: IndexMap<String, Job>,
    /// `[[route]]`, after every job's own rules.
    pub shared_routes: Vec<SharedRule>,
    /// `[profile.x] route`: replaces every job's route.
    pub profile_route: Setting<Route>,
    pub budget: Budget,
    pub mcp: McpSettings,
}

#[derive(Debug, Clone)]
pub struct ModalSettings {
    pub app: Valued<String>,
    pub environment: Option<Valued<String>>,
    pub region: Vec<Valued<String>>,
    pub cloud: Option<Valued<String>>,
}

/// `[sync]`: what travels to Modal.
#[derive(Debug, Clone)]
pub struct SyncSettings {
    pub gitignore: Valued<bool>,
    pub include: Vec<Valued<String>>,
    pub exclude: Vec<Valued<String>>,
    pub max_size: Valued<Bytes>,
}

/// One `[jobs.x]`. `settings` holds what the job says itself, with what it `extends` below it; `[defaults]`
/// are applied by the plan.
#[derive(Debug, Clone)]
pub struct Job {
    pub name: String,
    pub location: Location,
    pub settings: JobSettings,
    /// Axes in file order and combinations left out.
    pub matrix: Option<Valued<Matrix>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    pub axes: IndexMap<String, Vec<String>>,
    pub exclude: Vec<IndexMap<String, String>>,
}

/// Every key a job may have; each is absent unless set. The same keys are allowed in `[defaults]`.
#[derive(Debug, Clone, Default)]
pub struct JobSettings {
    pub desc: Setting<Text>,
    pub run: Setting<Command>,
    pub image: Setting<ImageRef>,
    pub needs: Setting<Vec<Valued<String>>>,
    pub inputs: Setting<Vec<Text>>,
    pub outputs: Setting<Vec<Text>>,
    pub cwd: Setting<Text>,
    pub cpu: Setting<Range<f64>>,
    pub memory: Setting<Range<Bytes>>,
    pub gpu: Setting<Vec<GpuText>>,
    pub timeout: Setting<Duration>,
    /// SIGTERM to SIGKILL on this machine and on Modal.
    pub stop_timeout: Setting<Duration>,
    /// Later definitions of one variable win; each keeps its own origin.
    pub env: IndexMap<String, Valued<Text>>,
    pub dotenv: Setting<Vec<Text>>,
    pub pass_env: Setting<Vec<String>>,
    pub secrets: Setting<Vec<Secret>>,
    pub volumes: Setting<IndexMap<String, Volume>>,
    pub retry: Setting<Retry>,
    /// In order; the first that applies and leads to a place not tried yet.
    pub fallback: Setting<Vec<Fallback>>,
    pub strict: Setting<bool>,
    pub warm: Setting<Warm>,
    pub route: Setting<Route>,
    /// A git ref, for the facts `changed` and `changed_files`.
    pub changed_since: Setting<String>,
    pub labels: Setting<Vec<String>>,
    pub pure: Setting<bool>,
    pub tty: Setting<bool>,
    pub ports: Setting<Vec<u16>>,
    pub network: Setting<Network>,
    pub region: Setting<Vec<String>>,
    pub cloud: Setting<String>,
    pub junit: Setting<Vec<Text>>,
    pub shard: Setting<Shard>,
    pub watch: WatchSettings,
}

/// What a job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A string: run by a shell, strict.
    Shell(Text),
    /// An array: argv, no shell.
    Argv(Vec<Text>),
}

/// `image = "py"` or `image = { from = "py", python = "…" }`.
#[derive(Debug, Clone)]
pub enum ImageRef {
    Named(String),
    Inline(Box<Image>),
}

/// A request with an optional hard limit: `4` or `[4, 8]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range<T> {
    pub request: T,
    pub limit: Option<T>,
}

/// One entry of `gpu`: `"A100-40GB:2"`, with an optional wait before the next is tried.
/// The text is checked by the plan after matrix values are in ([`crate::plan::spec::Gpu`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuText {
    pub text: Text,
    pub wait: Option<Duration>,
    pub location: Location,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    pub name: String,
    pub required_keys: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Attempts after the first.
    pub max: u32,
    pub on: Vec<Cause>,
    /// First and longest delay.
    pub backoff: (Duration, Duration),
    pub escalate: Escalate,
}

/// What grows with each retry. Factors are greater than one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Escalate {
    pub memory: Option<f64>,
    pub timeout: Option<f64>,
    /// Go on to the next entry of `gpu`.
    pub next_gpu: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    pub to: Place,
    pub on: Vec<FallbackOn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FallbackOn {
    Cause(Cause),
    /// `"queue>45s"`: waited longer than this for a machine.
    QueueLonger(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warm {
    OneShot,
    Keep { idle: Duration, max: Duration },
}

impl Warm {
    /// `warm` without `idle`.
    pub const USUAL_IDLE: Duration = Duration::from_secs(10 * 60);
    /// `warm` without `max`.
    pub const USUAL_MAX: Duration = Duration::from_secs(4 * 3600);
    pub const USUAL: Self = Self::Keep { idle: Self::USUAL_IDLE, max: Self::USUAL_MAX };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub block: bool,
    /// `None`: open.
    pub allow_cidrs: Option<Vec<String>>,
    pub allow_domains: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub count: u32,
    /// `runner = "pytest"`: accel splits the tests itself.
    pub runner: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct WatchSettings {
    pub paths: Setting<Vec<Text>>,
    pub ignore: Setting<Vec<Text>>,
    pub debounce: Setting<Duration>,
    pub on_busy: Setting<OnBusy>,
    pub stop_signal: Setting<StopSignal>,
    pub stop_timeout: Setting<Duration>,
    pub clear: Setting<bool>,
    pub notify: Setting<WatchNotify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBusy {
    Queue,
    Restart,
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchNotify {
    Never,
    Bell,
    Desktop,
}

/// Signals a job may ask to be stopped with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopSignal {
    Hangup,
    Interrupt,
    Quit,
    Terminate,
    Kill,
    User1,
    User2,
}

impl StopSignal {
    /// As kill(1) knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Terminate => "SIGTERM",
            Self::Kill => "SIGKILL",
            Self::User1 => "SIGUSR1",
            Self::User2 => "SIGUSR2",
        }
    }
}

/// `route = …`.
#[derive(Debug, Clone, PartialEq)]
pub enum Route {
    To(Place),
    Auto,
    /// Both places; only for jobs marked `pure`.
    Race,
    Rules(Vec<Rule>),
}

/// One rule: all conditions hold → `to`. No condition: the default.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub when: Vec<Condition>,
    pub to: RuleTarget,
    pub location: Location,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleTarget {
    Place(Place),
    Auto,
    Race,
}

/// A `[[route]]` entry: a rule for the jobs it names by glob or label (both empty: every job).
#[derive(Debug, Clone, PartialEq)]
pub struct SharedRule {
    pub jobs: Vec<String>,
    pub labels: Vec<String>,
    pub rule: Rule,
}

/// One fact and what it is tested against; the tests inside are ORed.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub fact: Fact,
    pub tests: Vec<FactTest>,
    pub location: Location,
}

/// The facts of design §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    Changed,
    ChangedFiles,
    SyncBytes,
    P50,
    P90,
    Runs,
    LocalCpus,
    LocalLoad,
    LocalMemory,
    LocalGpu,
    LocalGpuMemory,
    OnBattery,
    ModalReady,
    Branch,
    Env,
    Ci,
    Caller,
    Labels,
    Gpu,
    Os,
    Arch,
    Attempt,
    Cost,
    Warm,
}

impl Fact {
    pub const ALL: [Self; 24] = [
        Self::Changed,
        Self::ChangedFiles,
        Self::SyncBytes,
        Self::P50,
        Self::P90,
        Self::Runs,
        Self::LocalCpus,
        Self::LocalLoad,
        Self::LocalMemory,
        Self::LocalGpu,
        Self::LocalGpuMemory,
        Self::OnBattery,
        Self::ModalReady,
        Self::Branch,
        Self::Env,
        Self::Ci,
        Self::Caller,
        Self::Labels,
        Self::Gpu,
        Self::Os,
        Self::Arch,
        Self::Attempt,
        Self::Cost,
        Self::Warm,
    ];

    /// As accel.toml spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::ChangedFiles => "changed_files",
            Self::SyncBytes => "sync_bytes",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::Runs => "runs",
            Self::LocalCpus => "local_cpus",
            Self::LocalLoad => "local_load",
            Self::LocalMemory => "local_memory",
            Self::LocalGpu => "local_gpu",
            Self::LocalGpuMemory => "local_gpu_memory",
            Self::OnBattery => "on_battery",
            Self::ModalReady => "modal_ready",
            Self::Branch => "branch",
            Self::Env => "env",
            Self::Ci => "ci",
            Self::Caller => "caller",
            Self::Labels => "labels",
            Self::Gpu => "gpu",
            Self::Os => "os",
            Self::Arch => "arch",
            Self::Attempt => "attempt",
            Self::Cost => "cost",
            Self::Warm => "warm",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fact| fact.as_str() == text)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum FactTest {
    Is(bool),
    Count(Operator, f64),
    Size(Operator, Bytes),
    Duration(Operator, Duration),
    Money(Operator, Dollars),
    /// A glob over the fact's text; a leading `!` negates.
    Glob(String),
    /// `env = { NAME = "glob" }`; `None`: the variable is set at all.
    Variable {
        name: String,
        glob: Option<String>,
    },
}

/// As accel.toml writes it: `<=3`, `docs/**`, `NAME=glob`.
impl fmt::Display for FactTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(expected) => write!(f, "{expected}"),
            Self::Count(operator, bound) => write!(f, "{operator}{bound}"),
            Self::Size(operator, bound) => write!(f, "{operator}{bound}"),
            Self::Duration(operator, bound) => write!(f, "{operator}{}", ExactDuration(*bound)),
            Self::Money(operator, bound) => write!(f, "{operator}{bound}"),
            Self::Glob(glob) => f.write_str(glob),
            Self::Variable { name, glob: Some(glob) } => write!(f, "{name}={glob}"),
            Self::Variable { name, glob: None } => f.write_str(name),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Budget {
    pub per_run: Setting<Dollars>,
    pub per_day: Setting<Dollars>,
    pub prewarm_per_day: Setting<Dollars>,
    pub on_exceed: Setting<OnExceed>,
    /// Dollars an hour of waiting is worth (`route = "auto"`).
    pub value_of_time: Setting<Dollars>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnExceed {
    Local,
    #[default]
    Stop,
}

#[derive(Debug, Clone)]
pub struct McpSettings {
    /// `None`: every job.
    pub jobs: Setting<Vec<String>>,
    pub exec: Valued<McpExec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum McpExec {
    None,
    Modal,
    Any,
}

/// One `[images.x]`.
#[derive(Debug, Clone)]
pub struct Image {
    /// `None` for inline images.
    pub name: Option<String>,
    pub location: Location,
    pub base: Valued<ImageBase>,
    pub python: Option<Valued<Text>>,
    /// Default gpu of the jobs that use the image.
    pub gpu: Option<Valued<Vec<GpuText>>>,
    /// In build order: the keys of the table in their fixed order, then `layers`.
    pub layers: Vec<Layered>,
    /// What the last layer that sets it says; for places that build no layers.
    pub workdir: Option<Valued<Text>>,
    /// What the layers that set variables come to; for places that build no layers.
    pub env: IndexMap<String, Valued<Text>>,
    /// Modal secrets that every build step sees.
    pub secrets: Vec<Valued<Secret>>,
    pub force_build: bool,
    pub local: LocalImage,
}

// One per image: a box would buy nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageBase {
    /// The default.
    DebianSlim,
    Micromamba,
    Scratch,
    /// A registry reference, with how to log in to a private one.
    Registry {
        reference: Text,
        auth: RegistryAuth,
        add_python: bool,
        setup: Vec<Text>,
    },
    Dockerfile {
        path: Text,
        context: Option<Text>,
        /// Docker's ignore patterns; `None`: the `.dockerignore` beside the Dockerfile or in the context.
        ignore: Option<Vec<Text>>,
        build_args: IndexMap<String, Text>,
        add_python: bool,
        auth: RegistryAuth,
        /// Variables and GPU of the build; its secrets are those of the image.
        build_env: IndexMap<String, Text>,
        build_gpu: Option<GpuText>,
    },
    /// `from = "other image"`.
    Image(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryAuth {
    Public,
    /// A secret with REGISTRY_USERNAME and REGISTRY_PASSWORD.
    Static(String),
    Aws(String),
    Gcp(String),
}

/// One build step and where it was written.
#[derive(Debug, Clone)]
pub struct Layered {
    pub step: LayerStep,
    pub gpu: Option<GpuText>,
    pub secrets: Vec<Secret>,
    /// Variables of this step alone.
    pub env: IndexMap<String, Text>,
    /// More sets of them, weaker than `env`, the weakest first.
    pub env_secrets: Vec<IndexMap<String, Text>>,
    /// Mounted while the step runs, by path; only for `run`.
    pub volumes: IndexMap<String, Volume>,
    pub force_build: bool,
    pub location: Location,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerStep {
    Apt(Vec<Text>),
    Pip(PipLayer),
    Pyproject {
        path: Text,
        optional_dependencies: Vec<Text>,
        options: PipOptions,
        installer: Installer,
    },
    /// `uv_lock`: the project's locked dependencies.
    UvSync(UvSync),
    Poetry(Poetry),
    MicromambaInstall {
        packages: Vec<Text>,
        spec_file: Option<Text>,
        channels: Vec<Text>,
    },
    PipPrivateRepos {
        repositories: Vec<Text>,
        git_user: Text,
        options: PipOptions,
    },
    Run(Vec<Text>),
    Copy {
        from: Text,
        to: Text,
        ignore: Vec<Text>,
    },
    Env(IndexMap<String, Text>),
    Workdir(Text),
    Entrypoint(Vec<Text>),
    Cmd(Vec<Text>),
    Shell(Vec<Text>),
    /// Dockerfile lines, verbatim.
    Dockerfile {
        commands: Vec<Text>,
        context: Option<Text>,
        /// Docker's ignore patterns; `None`: the context's `.dockerignore`.
        ignore: Option<Vec<Text>>,
        /// Path in the context → local file.
        context_files: IndexMap<String, Text>,
        build_args: IndexMap<String, Text>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Installer {
    Uv,
    Pip,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipLayer {
    pub packages: Vec<Text>,
    pub requirements: Vec<Text>,
    pub options: PipOptions,
    pub installer: Installer,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PipOptions {
    pub index_url: Option<Text>,
    pub extra_index_url: Option<Text>,
    pub find_links: Option<Text>,
    pub pre: bool,
    pub extra_options: Option<Text>,
    pub uv_version: Option<Text>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UvSync {
    /// Folder with pyproject.toml and uv.lock.
    pub project: Text,
    pub groups: Vec<Text>,
    pub extras: Vec<Text>,
    /// Whether uv.lock is taken as it is; otherwise it may be missing.
    pub frozen: bool,
    pub extra_options: Option<Text>,
    pub uv_version: Option<Text>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poetry {
    pub pyproject: Text,
    /// `None`: poetry.lock beside the pyproject.toml.
    pub lock: Option<Text>,
    /// Install without a lock file.
    pub ignore_lock: bool,
    pub with: Vec<Text>,
    pub without: Vec<Text>,
    pub only: Vec<Text>,
    pub version: Option<Text>,
    /// The image already has poetry: install none.
    pub preinstalled: bool,
    pub old_installer: bool,
}

/// `[images.x.local]`: how the image is made on this machine.
#[derive(Debug, Clone, Default)]
pub struct LocalImage {
    /// `None`: a virtual environment when there are pip keys, else the host.
    pub engine: Option<Valued<LocalEngine>>,
    /// Commands run once in a fresh environment.
    pub run: Vec<Valued<Text>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalEngine {
    Venv,
    Host,
    Container,
}
