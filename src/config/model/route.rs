//! Where jobs run: routes, their rules, and the facts that rules test.

use std::fmt;
use std::time::Duration;

use crate::base::compare::Operator;
use crate::base::duration::ExactDuration;
use crate::base::money::Dollars;
use crate::base::size::Bytes;
use crate::diag::Location;
use crate::domain::Place;

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
