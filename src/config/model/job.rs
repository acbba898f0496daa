//! What a job may say: command, image, resources, retries, fallback, watching.

use std::time::Duration;

use indexmap::IndexMap;

use super::{Image, Route, Setting, Text, Valued};
use crate::base::size::Bytes;
use crate::diag::Location;
use crate::domain::{Cause, Place};

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
