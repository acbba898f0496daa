//! What a job on Modal costs, as events tell it. Amounts are US dollars as decimal numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::base::money::Dollars;

/// A lower bound of a rate: Modal bills the higher of what is requested and what is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Quote {
    /// US dollars per hour, at least.
    #[serde(rename = "at_least_usd_per_hour", serialize_with = "usd")]
    #[schemars(with = "f64")]
    pub per_hour: Dollars,
    /// US dollars that the job is expected to cost at least, by its earlier runs; absent where none are known.
    #[serde(rename = "expected_usd", serialize_with = "some_usd", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<f64>")]
    pub expected: Option<Dollars>,
    /// A GPU that is not part of the amount, since its price is not known.
    pub unpriced: Option<String>,
    /// When the prices were entered or asked for: `2026-06`, `2026-06-30`.
    pub as_of: String,
    /// Where they come from: an address, or `workspace` for what the workspace pays.
    pub source: String,
}

/// What the sandbox of one attempt has cost.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Cost {
    /// The quote for the time that the sandbox was there; what Modal bills may be more.
    #[serde(rename = "at_least_usd", serialize_with = "usd")]
    #[schemars(with = "f64")]
    pub at_least: Dollars,
    /// From the sandbox's start to its end.
    #[serde(rename = "lifetime_ms", serialize_with = "super::millis")]
    #[schemars(with = "u64")]
    pub lifetime: Duration,
    pub quote: Quote,
    /// What Modal had recorded when the sandbox ended. Usually absent: usage is recorded minutes later.
    pub recorded: Option<RecordedCost>,
}

/// Modal's own estimate, as far as it has come.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RecordedCost {
    #[serde(rename = "usd", serialize_with = "usd")]
    #[schemars(with = "f64")]
    pub cost: Dollars,
    /// By resource, with the server's names and amounts: `CPU`, `Memory`, kinds of GPU.
    pub by_resource: BTreeMap<String, String>,
    pub billed_cpu_core_seconds: f64,
    pub billed_memory_gib_seconds: f64,
}

fn usd<S: Serializer>(amount: &Dollars, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(amount.0 as f64 / 1e6)
}

fn some_usd<S: Serializer>(amount: &Option<Dollars>, serializer: S) -> Result<S::Ok, S::Error> {
    match amount {
        Some(amount) => usd(amount, serializer),
        None => serializer.serialize_none(),
    }
}
