//! What happens where money ends: before a job and in the middle of it.

use super::world::{GRACE, Seen, World, job, seconds};
use crate::backend::fake::{Manners, Phase, Script};
use crate::domain::{Cause, Place};
use crate::engine::FallbackPolicy;
use crate::event::{Event, Verdict};
use crate::plan::spec::{OnExceed, PlannedJob};

async fn refused(on_exceed: OnExceed, strict: bool, policy: FallbackPolicy) -> Seen {
    let job = PlannedJob { strict, ..job("a", &[]) };
    let mut plan = super::world::plan(vec![job], &["a"]);
    plan.budget.on_exceed = on_exceed;
    let mut world = World::of_plan(plan).on(Place::Modal).modal("a", Script::refuses(Cause::Budget));
    world.options.fallback = policy;
    world.run().await
}

#[tokio::test(start_paused = true)]
async fn a_job_without_money_runs_here_only_where_that_is_wanted_and_allowed() {
    use FallbackPolicy::{AsPlanned, Forbidden};
    for (on_exceed, strict, policy, moves) in [
        (OnExceed::Local, false, AsPlanned, true),
        (OnExceed::Local, true, AsPlanned, false),
        (OnExceed::Local, false, Forbidden, false),
        (OnExceed::Stop, false, AsPlanned, false),
    ] {
        let seen = refused(on_exceed, strict, policy).await;
        let case = format!("{on_exceed:?} {strict} {policy:?}");
        assert_eq!(seen.verdict("a").passed(), moves, "{case}");
        let told = seen.events.iter().any(|event| {
            matches!(
                event,
                Event::Fallback { from: Place::Modal, to: Place::Local, cause: Cause::Budget, .. }
            )
        });
        assert_eq!(told, moves, "{case}");
    }
}

/// Half of its work is done: it neither moves nor is it tried again.
#[tokio::test(start_paused = true)]
async fn a_job_that_has_spent_all_is_stopped_politely_and_ends_there() {
    for manners in [Manners::Obeys { after: seconds(1) }, Manners::Stubborn] {
        let mut job = job("a", &[]);
        job.retry.max = 3;
        job.retry.on = vec![Cause::Infra, Cause::Timeout];
        let mut plan = super::world::plan(vec![job], &["a"]);
        plan.budget.on_exceed = OnExceed::Local;
        let script = Script { manners, paid: Some(seconds(5)), ..Script::takes(seconds(3600)) };
        let seen = World::of_plan(plan).on(Place::Modal).modal("a", script).run().await;
        let Verdict::Errored { cause, message, exit_code, .. } = seen.verdict("a") else {
            panic!("{:?}", seen.verdict("a"))
        };
        assert_eq!((*cause, message.as_str(), *exit_code), (Cause::Budget, "all is spent", 125));
        let grace = if manners == Manners::Stubborn { GRACE } else { seconds(1) };
        assert_eq!(seen.summary.duration, seconds(5) + grace);
        assert_eq!((seen.started("a"), seen.summary.jobs[0].place), (1, Some(Place::Modal)));
        assert_eq!(seen.ledger.count("a", Phase::Collected), 1, "what it has written comes back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ends_before_its_money_is_left_alone() {
    let script = Script { paid: Some(seconds(5)), ..Script::takes(seconds(4)) };
    let seen = World::new(vec![job("a", &[])]).on(Place::Modal).modal("a", script).run().await;
    assert_eq!(seen.verdict("a"), &Verdict::Passed);
}
