//! Route decisions of an invocation, and who the caller is.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::Cancel;
use crate::domain::JobId;
use crate::engine;
use crate::plan::spec::{Plan, PlannedJob};
use crate::process::Supervisor;
use crate::route;
use crate::workspace::facts::{Gatherer, Surroundings};

use super::ambient::Ambient;

/// What rules may ask about this machine and this invocation.
pub fn gatherer(plan: &Plan, ambient: &Ambient, supervisor: &Supervisor, cancel: Cancel) -> Gatherer {
    Gatherer::new(Surroundings {
        root: plan.root.clone(),
        variables: ambient.variables.0.clone(),
        caller: caller(ambient),
        supervisor: supervisor.clone(),
        cancel,
    })
}

/// Decides for every job before the first one starts; retries keep their job's place.
pub async fn decide(plan: &Plan, gatherer: &Gatherer) -> engine::Decide {
    let mut decisions: BTreeMap<JobId, engine::Decision> = BTreeMap::new();
    for job in &plan.jobs {
        decisions.insert(job.id.clone(), in_short(gatherer.decide(job).await));
    }
    Arc::new(move |job: &PlannedJob, _attempt| {
        decisions.get(&job.id).cloned().expect("every job of the plan was decided")
    })
}

fn in_short(decision: route::Decision) -> engine::Decision {
    engine::Decision { place: decision.place, reason: decision.reason, reasons: decision.reasons }
}

fn caller(ambient: &Ambient) -> &'static str {
    let set = |name: &str| ambient.variables.text(name).is_some_and(|value| value != "0" && value != "false");
    if set("CI") { "ci" } else { "human" }
}
