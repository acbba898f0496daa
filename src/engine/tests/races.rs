//! Two places for one job: who wins, and what the other one leaves.

use super::world::{GRACE, Seen, World, falls_back, job, seconds};
use crate::backend::fake::{Act, Gate, Manners, Phase, Script};
use crate::backend::{CancelLevel, Shortage, StopReason, Workplace};
use crate::domain::{Cause, Exit, Place, Stream};
use crate::engine::Parallel;
use crate::event::{Event, SideEnd, Verdict};
use crate::plan::spec::PlannedJob;

const BUILD: &str = "build";

fn race(after: u64, modal: Script, local: Script) -> World {
    World::new(vec![job(BUILD, &[])]).racing(after).modal(BUILD, modal).local(BUILD, local)
}

/// Takes so many seconds and says where it ran.
fn script(place: Place, takes: u64) -> Script {
    Script::takes(seconds(takes)).writes(Stream::Stdout, place.as_str())
}

fn modal(takes: u64) -> Script {
    script(Place::Modal, takes)
}

fn local(takes: u64) -> Script {
    script(Place::Local, takes)
}

fn count(seen: &Seen, place: Place, phase: Phase) -> usize {
    let counts = |entry: &&crate::backend::fake::Entry| entry.place == place && entry.phase == phase;
    seen.ledger.entries().iter().filter(counts).count()
}

fn ends(seen: &Seen) -> Vec<(Place, SideEnd)> {
    let end = |event: &Event| match event {
        Event::SideEnded { place, end, .. } => Some((*place, end.clone())),
        _ => None,
    };
    seen.events.iter().filter_map(end).collect()
}

fn shown(seen: &Seen) -> String {
    let text = |event: &Event| match event {
        Event::Output { data, .. } => Some(String::from_utf8(data.to_vec()).unwrap()),
        _ => None,
    };
    seen.events.iter().filter_map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn whoever_is_first_wins_and_the_other_is_stopped() {
    let seen = race(5, modal(60), local(10)).run().await;
    let report = &seen.summary.jobs[0];
    assert_eq!((report.place, report.attempts, report.duration), (Some(Place::Local), 1, seconds(15)));
    assert_eq!(report.verdict, Verdict::Passed);
    assert_eq!(shown(&seen), "local");
    assert_eq!(count(&seen, Place::Modal, Phase::CollectStarted), 0, "the loser brings nothing home");
    assert_eq!(ends(&seen), [(Place::Local, SideEnd::Won), (Place::Modal, SideEnd::Lost)]);
    for given in seen.ledger.given() {
        assert!(matches!(given.workplace, Workplace::Copy(_)), "each side has a tree of its own");
        assert_eq!((given.attempt, given.shortage), (1, Shortage::Refuse));
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_side_is_not_started_when_the_first_is_quick() {
    let seen = race(5, modal(4), local(0)).run().await;
    assert_eq!(seen.summary.duration, seconds(4));
    assert_eq!((shown(&seen).as_str(), seen.started(BUILD)), ("modal", 1));
    assert_eq!(ends(&seen), [(Place::Modal, SideEnd::Won)]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_comes_first_ends_the_race() {
    let failing = Script { exit: Exit::Code(3), ..local(2) };
    let seen = race(1, modal(60), failing).run().await;
    assert_eq!(*seen.verdict(BUILD), Verdict::Failed { exit: Exit::Code(3) });
    assert_eq!((seen.exit_code, seen.summary.duration, shown(&seen).as_str()), (3, seconds(3), "local"));
    assert_eq!(count(&seen, Place::Local, Phase::Collected), 1, "outputs come back after a failure, too");
}

#[tokio::test(start_paused = true)]
async fn a_side_that_cannot_do_its_part_leaves_the_other_running() {
    let seen = race(60, Script::refuses(Cause::Unreachable), local(10)).run().await;
    assert!(seen.verdict(BUILD).passed());
    assert_eq!(seen.summary.duration, seconds(10), "the other starts at once");
    let (place, end) = ends(&seen).remove(0);
    assert!(matches!((place, end), (Place::Modal, SideEnd::Out { cause: Cause::Unreachable, .. })));

    let seen = race(2, modal(30), Script::refuses(Cause::Capacity)).run().await;
    assert!(seen.verdict(BUILD).passed());
    assert_eq!((seen.summary.duration, shown(&seen).as_str()), (seconds(30), "modal"));

    let broken = Script { execute: Act::fails(Cause::Preempted), ..modal(0) };
    let broken = Script { execute: Act { takes: seconds(20), ..broken.execute.clone() }, ..broken };
    let seen = race(2, broken, local(30)).run().await;
    assert_eq!((seen.summary.jobs[0].place, shown(&seen).as_str()), (Some(Place::Local), "local"));
}

#[tokio::test(start_paused = true)]
async fn money_that_ends_leaves_the_race_to_the_other_side() {
    let seen = race(2, Script { paid: Some(seconds(5)), ..modal(60) }, local(20)).run().await;
    assert_eq!((seen.summary.jobs[0].place, shown(&seen).as_str()), (Some(Place::Local), "local"));
    assert!(matches!(ends(&seen)[0], (Place::Modal, SideEnd::Out { cause: Cause::Budget, .. })));
}

#[tokio::test(start_paused = true)]
async fn outputs_that_cannot_be_had_cost_the_race() {
    let lost = Script { collect: Act { takes: seconds(1), ..Act::fails(Cause::Infra) }, ..modal(10) };
    let seen = race(5, lost.clone(), local(20)).run().await;
    assert_eq!((seen.summary.jobs[0].place, seen.summary.duration), (Some(Place::Local), seconds(25)));
    assert_eq!(shown(&seen), "local");
    // Whoever is done meanwhile waits for the claim, and has it.
    let seen =
        race(5, Script { collect: Act { takes: seconds(9), ..lost.collect.clone() }, ..lost }, local(6));
    let seen = seen.run().await;
    assert_eq!((seen.summary.jobs[0].place, seen.summary.duration), (Some(Place::Local), seconds(19)));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_the_other_side_comes_home_while_one_does() {
    let slow = Script { collect: Act::takes(seconds(30)), ..modal(10) };
    let seen = race(5, slow, local(10)).run().await;
    assert_eq!((seen.summary.jobs[0].place, seen.summary.duration), (Some(Place::Modal), seconds(40)));
    assert_eq!(count(&seen, Place::Local, Phase::CollectStarted), 0);
    assert_eq!(ends(&seen), [(Place::Modal, SideEnd::Won), (Place::Local, SideEnd::Lost)]);
}

#[tokio::test(start_paused = true)]
async fn a_loser_that_does_not_stop_is_killed_soon() {
    let stubborn = Script { manners: Manners::Stubborn, ..modal(600) };
    let seen = race(0, stubborn, local(10)).run().await;
    assert_eq!(seen.summary.duration, seconds(10) + super::super::race::LOSER_GRACE);
    assert!(super::super::race::LOSER_GRACE < GRACE);
}

#[tokio::test(start_paused = true)]
async fn both_out_is_an_error_and_a_retry_is_another_race() {
    let refuses = |cause| Script::refuses(cause);
    let fallback = falls_back(Place::Local, &[Cause::Infra, Cause::Unreachable]);
    let mut planned = PlannedJob { fallback, ..job(BUILD, &[]) };
    planned.retry.max = 1;
    planned.retry.on = vec![Cause::Infra];
    let world = World::new(vec![planned]).racing(5);
    let world = world.modal(BUILD, refuses(Cause::Unreachable)).local(BUILD, refuses(Cause::Infra));
    let seen = world.modal(BUILD, modal(3)).local(BUILD, local(1)).run().await;
    assert!(seen.verdict(BUILD).passed());
    assert_eq!((seen.summary.jobs[0].attempts, shown(&seen).as_str()), (2, "modal"));
    assert!(!seen.events.iter().any(|event| matches!(event, Event::Fallback { .. })));
    assert_eq!(seen.events.iter().filter(|event| matches!(event, Event::JobRouted { .. })).count(), 1);

    let seen = race(5, refuses(Cause::Unreachable), refuses(Cause::Image)).run().await;
    assert!(
        matches!(seen.verdict(BUILD), Verdict::Errored { cause: Cause::Image, .. }),
        "the last one counts"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_command_is_raced_again_only_where_a_retry_names_it() {
    let mut planned = job(BUILD, &[]);
    planned.retry.max = 1;
    planned.retry.on = vec![Cause::Command];
    let failing = Script { exit: Exit::Code(1), ..modal(1) };
    let seen = World::new(vec![planned]).racing(5).modal(BUILD, failing).modal(BUILD, modal(2)).run().await;
    assert!(seen.verdict(BUILD).passed());
    assert_eq!(count(&seen, Place::Modal, Phase::Collected), 1, "only the last attempt's outputs are wanted");
}

#[tokio::test(start_paused = true)]
async fn one_clock_runs_for_both_sides() {
    let planned = PlannedJob { timeout: Some(seconds(20)), ..job(BUILD, &[]) };
    let world = World::new(vec![planned]).racing(15).modal(BUILD, modal(60)).local(BUILD, local(60));
    let seen = world.run().await;
    assert_eq!(*seen.verdict(BUILD), Verdict::TimedOut { limit: seconds(20) });
    assert_eq!(seen.summary.duration, seconds(20));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_stops_both_sides() {
    let gate = Gate::default();
    let waiting = Script { execute: Act::waits(&gate), ..modal(0) };
    let seen = race(1, waiting, local(600));
    let seen = seen
        .run_while(|cancel| async move {
            gate.reached().await;
            tokio::time::sleep(seconds(5)).await;
            cancel.raise(CancelLevel::Stop(StopReason::Interrupt));
        })
        .await;
    assert!(matches!(seen.verdict(BUILD), Verdict::Cancelled { exit: Some(_) }));
    assert_eq!((seen.exit_code, shown(&seen).as_str()), (130, ""));
    assert_eq!(ends(&seen).iter().filter(|(_, end)| *end == SideEnd::Stopped).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_second_side_takes_only_a_slot_that_no_job_waits_for() {
    let jobs = vec![job(BUILD, &[]), job("a", &[]), job("b", &[])];
    let racing = vec![jobs[0].id.clone()];
    let mut world = World::new(jobs).racing_some(1, racing, Place::Local);
    world.options.parallel = Parallel::jobs(1.try_into().unwrap());
    let world = world.modal(BUILD, modal(60)).local(BUILD, local(1));
    let world = world.local("a", Script::takes(seconds(10))).local("b", Script::takes(seconds(10)));
    let seen = world.run().await;
    assert_eq!(seen.summary.jobs[0].duration, seconds(21), "after both");
}

#[tokio::test(start_paused = true)]
async fn what_a_side_prints_alone_is_shown_as_it_comes() {
    let gate = Gate::default();
    let world = race(1, Script::refuses(Cause::Infra), Script { execute: Act::waits(&gate), ..local(0) });
    let seen = world.run_while(|_| async move {
        gate.reached().await;
        gate.open();
    });
    let seen = seen.await;
    let at = |is: fn(&Event) -> bool| seen.events.iter().position(is).unwrap();
    let output = at(|event| matches!(event, Event::Output { .. }));
    assert!(output < at(|event| matches!(event, Event::CommandFinished { .. })));
}
