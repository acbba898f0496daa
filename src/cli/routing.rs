//! Route decisions of an invocation, and who the caller is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::backend::Cancel;
use crate::backend::modal::quote::{Prices, Quote, WORKSPACE};
use crate::base::money::Dollars;
use crate::domain::{JobId, Place};
use crate::engine;
use crate::event;
use crate::plan::spec::{OnExceed, Plan, PlannedJob};
use crate::process::Supervisor;
use crate::route;
use crate::store::{Database, History};
use crate::workspace::facts::{Gatherer, Surroundings};

use super::ambient::{self, Ambient};
use super::budget::{Guard, Refusal};
use super::error::CommandError;
use super::modal::Modal;
use super::remote::ModalFacts;
use crate::config::model::Fact;
use crate::config::variables;

/// What rules may ask about this machine and this invocation.
pub fn gatherer(
    plan: &Plan,
    ambient: &Ambient,
    caller: &'static str,
    supervisor: &Supervisor,
    cancel: Cancel,
    folder: &Path,
) -> Gatherer {
    let directories = ambient.directories(folder);
    Gatherer::new(Surroundings {
        root: plan.root.clone(),
        project: plan.project.clone(),
        variables: ambient.variables.0.clone(),
        caller,
        supervisor: supervisor.clone(),
        cancel,
        sync: plan.sync.clone(),
        global_ignore: ambient::global_ignore,
        history: History::new(Database::new(directories.clone())),
        remote: Arc::new(ModalFacts::new(plan, ambient, directories)),
        value_of_time: plan.budget.value_of_time,
    })
}

/// Whether decisions for Modal say what they cost.
#[derive(Clone, Copy)]
pub enum Quotes<'a> {
    By(&'a Modal),
    Unasked,
}

/// Decides for every attempt at every job before the first one starts, so that facts are gathered once and the
/// engine need not wait. Jobs whose rules do not look at the attempt keep their place. A job whose place would cost
/// more than `[budget]` leaves runs here, or nothing is run at all.
pub async fn decide(
    plan: &Plan,
    gatherer: &Gatherer,
    quotes: Quotes<'_>,
) -> Result<engine::Decide, CommandError> {
    let mut treasurer = match quotes {
        Quotes::By(modal) => Some(Treasurer::new(plan, gatherer, modal).await),
        Quotes::Unasked => None,
    };
    let mut decisions: BTreeMap<JobId, Vec<engine::Decision>> = BTreeMap::new();
    for job in &plan.jobs {
        let mut of_job = Vec::new();
        for attempt in 1..=attempts(job) {
            let decision = in_short(gatherer.decide(job, attempt).await);
            of_job.push(match &mut treasurer {
                Some(treasurer) if decision.place == Place::Modal && !job.is_group() => {
                    treasurer.weigh(job, attempt, decision).await?
                }
                _ => decision,
            });
        }
        decisions.insert(job.id.clone(), of_job);
    }
    Ok(Arc::new(move |job: &PlannedJob, attempt| {
        let of_job = decisions.get(&job.id).expect("every job of the plan was decided");
        let index = (attempt as usize).clamp(1, of_job.len()) - 1;
        of_job[index].clone()
    }))
}

/// How many attempts can be decided differently.
fn attempts(job: &PlannedJob) -> u32 {
    let mut conditions = job.routing.rules.iter().flat_map(|rule| &rule.when);
    if conditions.any(|condition| condition.fact == Fact::Attempt) { 1 + job.retry.max } else { 1 }
}

/// Says of jobs on Modal what they cost, and keeps those here that `[budget]` has no money for.
struct Treasurer<'a> {
    plan: &'a Plan,
    gatherer: &'a Gatherer,
    modal: &'a Modal,
    guard: Option<Guard>,
    prices: OnceCell<Prices>,
}

impl<'a> Treasurer<'a> {
    async fn new(plan: &'a Plan, gatherer: &'a Gatherer, modal: &'a Modal) -> Self {
        let guard = Guard::of(plan, &gatherer.ledger()).await;
        Self { plan, gatherer, modal, guard, prices: OnceCell::new() }
    }

    async fn weigh(
        &mut self,
        job: &PlannedJob,
        attempt: u32,
        decision: engine::Decision,
    ) -> Result<engine::Decision, CommandError> {
        let quote = self.prices.get_or_init(|| self.modal.prices()).await.quote(&job.spec);
        let expected = self.gatherer.sandbox_time(job).await.map(|time| quote.of(time));
        if let Some(expected) = expected {
            self.modal.purse().expect(&job.id, expected);
        }
        // One attempt at a time costs, and those that follow are held back when they come.
        if let (Some(guard), 1) = (&mut self.guard, attempt)
            && let Err(refusal) = guard.admit(job, &quote, expected)
        {
            let on_exceed = self.plan.budget.on_exceed;
            if job.strict || on_exceed == OnExceed::Stop {
                return Err(refusal.into_error(job, on_exceed));
            }
            return Ok(kept_here(decision, &refusal));
        }
        Ok(quoted(decision, quote, expected))
    }
}

/// With what a run on Modal costs at least, by the prices that accel knows.
fn quoted(decision: engine::Decision, quote: Quote, expected: Option<Dollars>) -> engine::Decision {
    let engine::Decision { place, reason, mut reasons, rival, .. } = decision;
    let worth_a_word = expected.filter(|cost| !cost.is_next_to_nothing());
    let expectation = worth_a_word.map(|cost| format!(", ≥ {cost} expected")).unwrap_or_default();
    let whose = if quote.source == WORKSPACE { "the workspace's prices" } else { "published prices" };
    reasons.push(format!("costs {quote}{expectation} by {whose} of {}", quote.as_of));
    let reason = format!("{reason}, {quote}{expectation}");
    let quote = event::Quote { expected, ..quote.into() };
    engine::Decision { place, reason, reasons, quote: Some(quote), rival }
}

fn kept_here(decision: engine::Decision, refusal: &Refusal) -> engine::Decision {
    let mut reasons = decision.reasons;
    reasons.push(refusal.to_string());
    let reason = format!("{refusal}; else on modal: {}", decision.reason);
    engine::Decision { place: Place::Local, reason, reasons, quote: None, rival: None }
}

fn in_short(decision: route::Decision) -> engine::Decision {
    engine::Decision {
        place: decision.place,
        reason: decision.reason,
        reasons: decision.reasons,
        quote: None,
        rival: decision.rival,
    }
}

/// What the fact `caller` can be.
const CALLERS: [&str; 4] = ["human", "ci", "agent", "watch"];

/// Variables that coding agents set for the commands they run.
const AGENT_VARIABLES: [&str; 8] = [
    "AI_AGENT",        // any: a shared convention
    "CLAUDECODE",      // Claude Code
    "CURSOR_AGENT",    // Cursor
    "GEMINI_CLI",      // Gemini CLI
    "CODEX_SANDBOX",   // Codex CLI
    "AUGMENT_AGENT",   // Augment
    "OPENCODE_CLIENT", // opencode
    "COPILOT_CLI",     // GitHub Copilot CLI
];

/// Who calls: as `ACCEL_CALLER` says, else `known`, else as the surroundings show. An agent within CI is an agent.
pub fn caller(ambient: &Ambient, known: Option<&'static str>) -> Result<&'static str, CommandError> {
    if let Some(text) = ambient.variables.text(variables::CALLER) {
        return CALLERS.into_iter().find(|caller| *caller == text).ok_or_else(|| {
            CommandError::usage(format!("{} is `{text}`", variables::CALLER))
                .help(format!("set it to one of {}", CALLERS.join(", ")))
        });
    }
    if let Some(known) = known {
        return Ok(known);
    }
    let set = |name: &str| ambient.variables.text(name).is_some_and(|value| value != "0" && value != "false");
    Ok(if AGENT_VARIABLES.into_iter().any(set) {
        "agent"
    } else if set("CI") {
        "ci"
    } else {
        "human"
    })
}
