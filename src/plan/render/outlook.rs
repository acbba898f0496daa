//! What is foretold of the jobs of a plan: where each would run, why, and what that may cost. Texts for people.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::domain::{JobId, Place};

/// Of one job.
#[derive(Debug, Clone)]
pub struct Foretold {
    pub place: Place,
    /// The one line that a run would say.
    pub why: String,
    /// Facts that nobody was asked for: with them the place may be another one.
    pub not_known: Vec<String>,
    /// On Modal only.
    pub cost: Option<ForetoldCost>,
}

#[derive(Debug, Clone)]
pub struct ForetoldCost {
    /// `≥ $0.59/h`
    pub price: String,
    /// By earlier runs: `≥ $0.02`.
    pub expected: Option<String>,
    /// Should it run until the server ends it: `≥ $0.31 (31m)`.
    pub at_most: String,
    /// What `[budget]` says, where it says no.
    pub budget: Option<String>,
}

/// Of all jobs.
#[derive(Debug, Clone, Default)]
pub struct Outlook {
    pub jobs: BTreeMap<JobId, Foretold>,
    /// What all jobs on Modal together cost, should each run until the server ends it.
    pub modal_at_most: Option<String>,
}

impl Outlook {
    /// Beside the jobs, since it depends on more than the configuration.
    pub(super) fn view(&self) -> Value {
        let jobs: Map<String, Value> =
            self.jobs.iter().map(|(job, told)| (job.to_string(), view(told))).collect();
        jobs.into()
    }
}

fn view(foretold: &Foretold) -> Value {
    let mut view = json!({ "place": foretold.place, "why": foretold.why });
    if !foretold.not_known.is_empty() {
        view["not_known"] = json!(foretold.not_known);
    }
    if let Some(ForetoldCost { price, expected, at_most, budget }) = &foretold.cost {
        view["price"] = json!(price);
        view["at_most"] = json!(at_most);
        for (key, value) in [("expected", expected), ("over_budget", budget)] {
            if let Some(value) = value {
                view[key] = json!(value);
            }
        }
    }
    view
}
