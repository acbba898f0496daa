//! What is begun on Modal before a run is known to go there: for jobs that may, and that keep their sandbox.
//!
//! What must stay true: where nothing is certain, nothing that costs money is begun without `budget.prewarm_per_day`.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::backend::modal::{Ahead, Need};
use crate::backend::{CancelSource, Keep, OpenRequest, Prospect, Shortage, Workplace};
use crate::config::model::{FallbackOn, RuleTarget};
use crate::domain::{JobId, Place};
use crate::event;
use crate::plan::spec::{Plan, PlannedJob, Warm};
use crate::watch::Sign;

use super::modal::Modal;

/// A job that may use a sandbox of Modal soon.
pub struct Candidate {
    pub job: JobId,
    /// What is begun for it.
    pub ahead: Ahead,
}

/// The jobs of the plan for which something may be begun. A job that needs others would let its sandbox wait for them.
/// `was_there` tells of jobs whose place the facts decide whether their last run was on Modal: that says most about the
/// next.
pub fn candidates(plan: &Plan, sign: Sign, was_there: impl Fn(&PlannedJob) -> bool) -> Vec<Candidate> {
    let begins = |job: &&PlannedJob| {
        let keeps = matches!(job.warm, Some(Warm::Keep { .. })) && !job.spec.tty;
        // A GPU is not risked; a wait for a machine that may lead elsewhere is the run's own.
        let waits = job.fallback.iter().flat_map(|fallback| &fallback.on);
        let waits = waits.into_iter().any(|on| matches!(on, FallbackOn::QueueLonger(_)));
        let is_plain = job.spec.gpu.is_empty() && !waits;
        keeps && is_plain && job.needs.is_empty() && !job.is_group()
    };
    let is_paid = plan.budget.prewarm_per_day.is_some();
    let ahead = |job: &PlannedJob| match (sign, job.routing.certain_place()) {
        (Sign::Start, Some(Place::Modal)) => Some(Ahead::Sandbox(Need::Coming)),
        _ if !may_go(job) => None,
        _ if is_paid && was_there(job) => Some(Ahead::Sandbox(Need::Expected)),
        (Sign::Start, _) => Some(Ahead::Connection),
        (Sign::Save, _) => None,
    };
    let jobs = plan.jobs.iter().filter(begins);
    jobs.filter_map(|job| Some(Candidate { job: job.id.clone(), ahead: ahead(job)? })).collect()
}

/// Whether some rule may send the job to Modal alone.
fn may_go(job: &PlannedJob) -> bool {
    let goes = |target: &RuleTarget| matches!(target, RuleTarget::Place(Place::Modal) | RuleTarget::Auto);
    job.routing.certain_place() != Some(Place::Local) && job.routing.rules.iter().any(|rule| goes(&rule.to))
}

/// Begins it; returns at once.
pub fn begin(modal: &Modal, plan: &Plan, candidates: &[Candidate]) {
    for candidate in candidates {
        if let Some(request) = request(plan, &candidate.job) {
            modal.backend().prewarm(&request, candidate.ahead);
        }
    }
}

/// Only these jobs come to Modal; what was made for others is ended.
pub fn call_off_but(modal: &Modal, plan: &Plan, jobs: &BTreeSet<JobId>) {
    let coming: Vec<OpenRequest> = jobs.iter().filter_map(|job| request(plan, job)).collect();
    modal.backend().call_off_but(&coming);
}

fn request(plan: &Plan, job: &JobId) -> Option<OpenRequest> {
    let job = plan.jobs.iter().find(|planned| planned.id == *job)?;
    let Some(Warm::Keep { idle, max }) = job.warm else { return None };
    let (emitter, _) = event::channel();
    Some(OpenRequest {
        job: job.id.clone(),
        spec: Arc::clone(&job.spec),
        root: plan.root.clone(),
        attempt: 1,
        timeout: job.timeout,
        queue_limit: None,
        shortage: Shortage::Refuse,
        prospect: Prospect::Last,
        keep: Some(Keep { idle, max }),
        workplace: Workplace::Project,
        needed_outputs: job.earlier_outputs.clone(),
        emitter,
        cancel: CancelSource::default().watch(),
    })
}
