//! Every cause against every policy, in both directions, at every moment at which a place can fail.

use super::world::{Seen, World, falls_back, job};
use crate::backend::fake::{Act, Phase, Script};
use crate::backend::{Prospect, Shortage};
use crate::domain::{Cause, Exit, Place};
use crate::engine::FallbackPolicy;
use crate::event::{Event, Verdict};
use crate::plan::spec::{FallbackOn, FallbackSpec, PlannedJob};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Policy {
    /// No fallback is declared.
    Undeclared,
    /// One is, for every other cause.
    ForOthers,
    ForThis,
    /// Into both directions, so that one always leads back.
    Chain,
    StrictJob,
    StrictRun,
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    Opening,
    Running,
    Fetching,
}

const POLICIES: [Policy; 6] = [
    Policy::Undeclared,
    Policy::ForOthers,
    Policy::ForThis,
    Policy::Chain,
    Policy::StrictJob,
    Policy::StrictRun,
];

fn other(place: Place) -> Place {
    match place {
        Place::Local => Place::Modal,
        Place::Modal => Place::Local,
    }
}

fn declared(policy: Policy, cause: Cause, from: Place) -> Vec<FallbackSpec> {
    let others: Vec<Cause> = Cause::ALL.into_iter().filter(|named| *named != cause).collect();
    match policy {
        Policy::Undeclared => Vec::new(),
        Policy::ForOthers => falls_back(other(from), &others),
        Policy::ForThis | Policy::StrictJob | Policy::StrictRun => falls_back(other(from), &[cause]),
        Policy::Chain => [falls_back(from, &[cause]), falls_back(other(from), &[cause])].concat(),
    }
}

async fn run(policy: Policy, cause: Cause, from: Place, moment: Moment) -> Seen {
    let script = match moment {
        Moment::Opening => Script::refuses(cause),
        Moment::Running => Script::breaks(cause),
        Moment::Fetching => Script { collect: Act::fails(cause), ..Script::default() },
    };
    let strict = policy == Policy::StrictJob;
    let job = PlannedJob { fallback: declared(policy, cause, from), strict, ..job("a", &[]) };
    let mut world = World::new(vec![job]).on(from);
    world = match from {
        Place::Local => world.local("a", script),
        Place::Modal => world.modal("a", script),
    };
    if policy == Policy::StrictRun {
        world.options.fallback = FallbackPolicy::Forbidden;
    }
    world.run().await
}

#[tokio::test(start_paused = true)]
async fn a_job_moves_exactly_when_its_cause_is_named_and_nothing_forbids_it() {
    // Money has a policy of its own.
    for cause in Cause::ALL.into_iter().filter(|cause| *cause != Cause::Budget) {
        for policy in POLICIES {
            for from in [Place::Local, Place::Modal] {
                for moment in [Moment::Opening, Moment::Running, Moment::Fetching] {
                    check(&run(policy, cause, from, moment).await, policy, cause, from, moment);
                }
            }
        }
    }
}

fn check(seen: &Seen, policy: Policy, cause: Cause, from: Place, moment: Moment) {
    let case = format!("{cause} {policy:?} from {from} while {moment:?}");
    let never = matches!(cause, Cause::Command | Cause::Timeout);
    let moves = !never && matches!(policy, Policy::ForThis | Policy::Chain);
    assert_eq!(seen.verdict("a").passed(), moves, "{case}");
    let told: Vec<_> = seen
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Fallback { from, to, cause, .. } => Some((*from, *to, *cause)),
            _ => None,
        })
        .collect();
    let expected = if moves { vec![(from, other(from), cause)] } else { Vec::new() };
    assert_eq!(told, expected, "{case}");
    let report = &seen.summary.jobs[0];
    assert_eq!(report.place, Some(if moves { other(from) } else { from }), "{case}");
    assert_eq!(report.attempts, if moves { 2 } else { 1 }, "{case}");
    let opened = !matches!(moment, Moment::Opening);
    let abandoned = usize::from(moves && opened);
    assert_eq!(seen.ledger.count("a", Phase::Abandoned), abandoned, "what it wrote is taken back: {case}");
    if let Verdict::Errored { cause: told, help, .. } = seen.verdict("a") {
        let forbidden = !never && matches!(policy, Policy::StrictJob | Policy::StrictRun);
        assert_eq!((*told, help.is_some()), (cause, forbidden), "a forbidden fallback is named: {case}");
    }
}

/// The command's own failure, as against a backend that says so.
#[tokio::test(start_paused = true)]
async fn a_failed_command_never_moves() {
    for from in [Place::Local, Place::Modal] {
        let job = PlannedJob { fallback: falls_back(other(from), &Cause::ALL), ..job("a", &[]) };
        let failing = || Script::exits(Exit::Code(1));
        let seen = World::new(vec![job]).on(from).local("a", failing()).modal("a", failing()).run().await;
        assert_eq!(seen.verdict("a"), &Verdict::Failed { exit: Exit::Code(1) });
        assert_eq!(seen.summary.jobs[0].place, Some(from));
        assert_eq!(seen.ledger.count("a", Phase::Collected), 1, "outputs come back also after a failure");
        assert_eq!(seen.ledger.count("a", Phase::Abandoned), 0);
    }
}

/// What an attempt is told depends on whether a fallback could follow it.
#[tokio::test(start_paused = true)]
async fn limits_that_only_serve_a_fallback_are_set_only_where_one_can_follow() {
    let minute = super::world::seconds(60);
    let on = vec![FallbackOn::Cause(Cause::Capacity), FallbackOn::QueueLonger(minute)];
    for from in [Place::Local, Place::Modal] {
        for to in [Place::Local, Place::Modal] {
            for policy in [FallbackPolicy::AsPlanned, FallbackPolicy::Forbidden] {
                let fallback = vec![FallbackSpec { to, on: on.clone() }];
                let mut world = World::new(vec![PlannedJob { fallback, ..job("a", &[]) }]).on(from);
                world.options.fallback = policy;
                let given = world.run().await.ledger.given();
                let expected = if from != to && policy == FallbackPolicy::AsPlanned {
                    (Some(minute), Shortage::Refuse, Prospect::Another)
                } else {
                    (None, Shortage::MakeDo, Prospect::Last)
                };
                let found = (given[0].queue_limit, given[0].shortage, given[0].prospect);
                assert_eq!(found, expected, "from {from} to {to}, {policy:?}");
            }
        }
    }
}
