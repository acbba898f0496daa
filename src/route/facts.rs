//! What rules may ask about the world.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::auto::Memory;
use crate::base::duration::ShortDuration;
use crate::base::money::Dollars;
use crate::base::size::Bytes;
use crate::config::model::Fact;

/// A fact as it was found.
#[derive(Debug, Clone, PartialEq)]
pub enum FactValue {
    Is(bool),
    Count(f64),
    Size(Bytes),
    Duration(Duration),
    Money(Dollars),
    Text(String),
    /// No, and why.
    IsNot(String),
    /// Changed paths, labels, GPUs.
    Texts(Vec<String>),
    /// Not known, and why.
    Unknown(String),
}

/// Supplies facts on demand. Implementations gather each at most once.
///
/// | fact | value |
/// |---|---|
/// | `changed` | paths that differ from the merge base with the default branch, uncommitted and untracked ones included |
/// | `changed_files` | how many these are |
/// | `local_cpus`, `runs`, `attempt` | a number |
/// | `local_load` | load average of one minute divided by the number of cpus: 1 is fully busy |
/// | `local_memory` | available memory |
/// | `local_gpu` | a name per GPU |
/// | `sync_bytes` / `p50`, `p90` / `cost` | a size / a duration / dollars |
/// | `branch`, `os`, `arch`, `caller` | a text |
/// | `ci`, `on_battery`, `modal_ready`, `warm` | yes or no |
///
/// `labels` and `gpu` are the job's own and never asked for here; `env` is asked by name.
pub trait Facts {
    fn get(&self, fact: Fact) -> FactValue;

    /// The value of an environment variable.
    fn variable(&self, name: &str) -> Option<String>;

    /// What earlier runs of the job took, and what there would be to send: for `auto`.
    fn memory(&self) -> Memory;
}

/// Facts given beforehand; the rest is not known.
#[derive(Debug, Clone, Default)]
pub struct KnownFacts {
    pub values: BTreeMap<Fact, FactValue>,
    pub variables: BTreeMap<String, String>,
    pub memory: Memory,
}

impl Facts for KnownFacts {
    fn get(&self, fact: Fact) -> FactValue {
        self.values.get(&fact).cloned().unwrap_or_else(|| FactValue::Unknown("not gathered".to_owned()))
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn memory(&self) -> Memory {
        self.memory.clone()
    }
}

/// As shown to people: `2`, `1.5GiB`, `true`, `src/a.py and 3 more`.
impl fmt::Display for FactValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(value) => write!(f, "{value}"),
            Self::IsNot(why) => write!(f, "false: {why}"),
            Self::Count(count) => write!(f, "{}", (count * 100.0).round() / 100.0),
            Self::Size(size) => write!(f, "{size}"),
            Self::Duration(duration) => write!(f, "{}", ShortDuration(*duration)),
            Self::Money(amount) => write!(f, "{amount}"),
            Self::Text(text) => f.write_str(text),
            Self::Texts(texts) => match texts.as_slice() {
                [] => f.write_str("none"),
                [one] => f.write_str(one),
                [one, two] => write!(f, "{one}, {two}"),
                [one, two, rest @ ..] => write!(f, "{one}, {two} and {} more", rest.len()),
            },
            Self::Unknown(why) => write!(f, "unknown: {why}"),
        }
    }
}

impl Serialize for FactValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Is(value) => serializer.serialize_bool(*value),
            Self::IsNot(_) => serializer.serialize_bool(false),
            Self::Count(count) => serializer.serialize_f64(*count),
            Self::Texts(texts) => serializer.collect_seq(texts),
            Self::Unknown(_) => serializer.serialize_none(),
            other => serializer.collect_str(other),
        }
    }
}
