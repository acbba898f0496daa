//! What is foretold of a plan, from memory alone: no process is started and no server called.

use std::time::Duration;

use super::ambient::Ambient;
use super::budget::{self, Guard};
use super::context::Context;
use super::error::CommandError;
use super::remote::ModalFacts;
use super::routing;
use super::runtime::runtime;
use crate::backend::CancelSource;
use crate::backend::modal::quote::Quote;
use crate::base::duration::ExactDuration;
use crate::base::money::Dollars;
use crate::domain::Place;
use crate::plan::render::{Foretold, ForetoldCost, Outlook};
use crate::plan::spec::{Plan, PlannedJob};
use crate::process::{Ownership, Supervisor};
use crate::route::Decision;
use crate::workspace::facts::Gatherer;

pub fn of(plan: &Plan, context: &Context<'_>) -> Result<Outlook, CommandError> {
    let folder = context.folder()?;
    let ambient: &Ambient = context.ambient;
    let supervisor = Supervisor::new(Ownership::Process);
    let source = CancelSource::default();
    let caller = routing::caller(ambient, None)?;
    let gatherer = routing::gatherer(plan, ambient, caller, &supervisor, source.watch(), &folder);
    let foreteller = Foreteller {
        plan,
        gatherer: gatherer.asking_nobody(),
        prices: ModalFacts::new(plan, ambient, ambient.directories(&folder)),
    };
    Ok(runtime()?.block_on(foreteller.foretell()))
}

struct Foreteller<'a> {
    plan: &'a Plan,
    gatherer: Gatherer,
    prices: ModalFacts,
}

impl Foreteller<'_> {
    async fn foretell(&self) -> Outlook {
        let mut guard = Guard::of(self.plan, &self.gatherer.ledger()).await;
        let mut outlook = Outlook::default();
        let mut sum: Option<(Dollars, usize)> = None;
        for job in self.plan.jobs.iter().filter(|job| !job.is_group()) {
            let decision = self.gatherer.decide(job, 1).await;
            let mut cost = None;
            if decision.place == Place::Modal {
                let quote = self.prices.quote(&job.spec);
                let (time, worst) = budget::worst_case(job, &self.plan.budget, quote.per_hour);
                let (so_far, jobs) = sum.unwrap_or_default();
                sum = Some((so_far.plus(worst), jobs + 1));
                cost = Some(self.cost(job, &quote, (time, worst), &mut guard).await);
            }
            outlook.jobs.insert(job.id.clone(), foretold(decision, cost));
        }
        outlook.modal_at_most = sum.map(|(worst, jobs)| {
            format!(
                "≥ {worst}, {jobs} job{} on Modal until the server ends them",
                if jobs == 1 { "" } else { "s" }
            )
        });
        outlook
    }

    async fn cost(
        &self,
        job: &PlannedJob,
        quote: &Quote,
        (time, worst): (Duration, Dollars),
        guard: &mut Option<Guard>,
    ) -> ForetoldCost {
        let expected = self.gatherer.sandbox_time(job).await.map(|time| quote.of(time));
        let refusal = guard.as_mut().and_then(|guard| guard.admit(job, quote, expected).err());
        ForetoldCost {
            price: quote.to_string(),
            expected: expected.map(|cost| format!("≥ {cost}")),
            at_most: format!("≥ {worst} for {}", ExactDuration(whole_seconds(time))),
            budget: refusal.map(|refusal| refusal.consequence(job, self.plan.budget.on_exceed)),
        }
    }
}

/// No less than it is.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

fn foretold(decision: Decision, cost: Option<ForetoldCost>) -> Foretold {
    let conditions = decision.rules.iter().flat_map(|rule| &rule.conditions);
    let mut not_known: Vec<String> = conditions
        .filter_map(|condition| Some(format!("{}: {}", condition.fact, condition.unknown.as_ref()?)))
        .collect();
    not_known.dedup();
    Foretold { place: decision.place, why: decision.reason, not_known, cost }
}
