//! Races with random delays, faults and cancellations: what must hold for every one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::random::{Cancels, Fate, cancel_level, raise};
use super::random_graphs::limits_held;
use super::world::{Seen, World, falls_back, job, seconds};
use crate::backend::OutputMode;
use crate::backend::fake::{Act, Entry, Manners, Phase, Script};
use crate::domain::{Cause, JobId, Place, Stream};
use crate::engine::Parallel;
use crate::event::{Event, SideEnd, Verdict};
use crate::plan::spec::PlannedJob;

const PIECES: usize = 3;

/// What one attempt of a side does.
#[derive(Debug, Clone)]
struct Side {
    opens: u64,
    takes: u64,
    collects: u64,
    closes: u64,
    fate: Fate,
    manners: Manners,
}

#[derive(Debug, Clone)]
struct Racing {
    /// Both sides, attempt after attempt.
    modal: Vec<Side>,
    local: Vec<Side>,
    races: bool,
    timeout: Option<u64>,
    retries: u32,
    falls_back: bool,
}

#[derive(Debug, Clone)]
struct Run {
    jobs: Vec<Racing>,
    after: u64,
    limit: usize,
    cancels: Cancels,
}

fn side() -> impl Strategy<Value = Side> {
    let fate = Fate::any(6, 2);
    let manners = prop_oneof![
        4 => (0..6_u64).prop_map(|after| Manners::Obeys { after: seconds(after) }),
        1 => Just(Manners::Stubborn),
        1 => Just(Manners::Deaf),
    ];
    (0..8_u64, 0..12_u64, 0..4_u64, 0..3_u64, fate, manners).prop_map(
        |(opens, takes, collects, closes, fate, manners)| Side {
            opens,
            takes,
            collects,
            closes,
            fate,
            manners,
        },
    )
}

fn racing() -> impl Strategy<Value = Racing> {
    let sides = || prop::collection::vec(side(), 1..3);
    let limits = (prop::option::weighted(0.2, 1..20_u64), 0..3_u32, any::<bool>());
    (sides(), sides(), prop::bool::weighted(0.8), limits).prop_map(
        |(modal, local, races, (timeout, retries, falls_back))| Racing {
            modal,
            local,
            races,
            timeout,
            retries,
            falls_back,
        },
    )
}

fn run() -> impl Strategy<Value = Run> {
    let cancels =
        prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec((0..15_u64, cancel_level()), 1..4)];
    (prop::collection::vec(racing(), 1..6), 0..10_u64, 1..4_usize, cancels)
        .prop_map(|(jobs, after, limit, cancels)| Run { jobs, after, limit, cancels })
}

fn planned(index: usize, racing: &Racing) -> PlannedJob {
    let mut job = job(&format!("j{index}"), &[]);
    job.timeout = racing.timeout.map(seconds);
    job.retry.max = racing.retries;
    job.retry.on = vec![Cause::Infra, Cause::Command];
    if racing.falls_back {
        job.fallback = falls_back(Place::Local, &[Cause::Infra]);
    }
    job
}

fn script(place: Place, side: &Side) -> Script {
    let mut script = Script {
        open: Act::takes(seconds(side.opens)),
        collect: Act::takes(seconds(side.collects)),
        close: Act::takes(seconds(side.closes)),
        manners: side.manners,
        ..Script::takes(seconds(side.takes))
    };
    for piece in 0..PIECES {
        script = script.writes(Stream::Stdout, format!("{place} {piece}\n"));
    }
    side.fate.befall(&mut script);
    script
}

async fn play(run: &Run) -> (Vec<PlannedJob>, Seen) {
    let jobs: Vec<PlannedJob> =
        run.jobs.iter().enumerate().map(|(index, racing)| planned(index, racing)).collect();
    let racers = jobs.iter().zip(&run.jobs).filter(|(_, racing)| racing.races);
    let racers: Vec<JobId> = racers.map(|(job, _)| job.id.clone()).collect();
    let mut world = World::new(jobs.clone()).racing_some(run.after, racers, Place::Modal).keep_going();
    for (job, racing) in jobs.iter().zip(&run.jobs) {
        for side in &racing.modal {
            world = world.modal(&job.name, script(Place::Modal, side));
        }
        for side in &racing.local {
            world = world.local(&job.name, script(Place::Local, side));
        }
    }
    world.options.parallel = Parallel::jobs(run.limit.try_into().unwrap());
    let cancels = run.cancels.clone();
    let seen = world.run_while(|cancel| raise(cancel, cancels)).await;
    (jobs, seen)
}

/// The events of one job, attempt by attempt.
fn attempts<'a>(seen: &'a Seen, job: &JobId) -> Vec<Vec<&'a Event>> {
    let mut attempts = vec![Vec::new()];
    for event in seen.events.iter().filter(|event| event.job() == Some(job)) {
        if let Event::Retry { .. } = event {
            attempts.push(Vec::new());
        } else if let Some(last) = attempts.last_mut() {
            last.push(event);
        }
    }
    attempts
}

fn winners(events: &[&Event]) -> Vec<Place> {
    let won = |event: &&Event| match event {
        Event::SideEnded { place, end: SideEnd::Won, .. } => Some(*place),
        _ => None,
    };
    events.iter().filter_map(won).collect()
}

fn output(events: &[&Event]) -> String {
    let data = |event: &&Event| match event {
        Event::Output { data, .. } => Some(String::from_utf8_lossy(data).into_owned()),
        _ => None,
    };
    events.iter().filter_map(data).collect()
}

fn whole(place: Place) -> String {
    (0..PIECES).map(|piece| format!("{place} {piece}\n")).collect()
}

/// One winner at most in each attempt, and exactly one where a command decided; its output, and only its.
fn one_claim_decides(seen: &Seen, job: &PlannedJob) {
    let report = seen.summary.jobs.iter().find(|report| report.job == job.id).unwrap();
    let attempts = attempts(seen, &job.id);
    for (number, events) in (1..).zip(&attempts) {
        let shown = output(events);
        let ran = |place| {
            let runs = |entry: &Entry| {
                (entry.attempt, entry.place, entry.phase)
                    == (number, place, Phase::ExecuteStarted(OutputMode::Events))
            };
            seen.ledger.entries().iter().any(|entry| entry.job == job.id && runs(entry))
        };
        match winners(events)[..] {
            [] => assert!(
                [String::new(), whole(Place::Local), whole(Place::Modal)].contains(&shown),
                "mixed: {shown}"
            ),
            [winner] if ran(winner) => assert_eq!(shown, whole(winner)),
            // The job's time was over before there was a command.
            [_] => assert_eq!(shown, ""),
            _ => panic!("several winners"),
        }
    }
    let last = winners(attempts.last().unwrap());
    match report.verdict {
        Verdict::Passed | Verdict::Failed { .. } | Verdict::TimedOut { .. } => {
            assert_eq!(last, [report.place.unwrap()], "{:?}", report.verdict);
        }
        Verdict::Errored { .. } | Verdict::Cancelled { .. } | Verdict::Skipped { .. } => {
            assert_eq!(last, [], "{:?}", report.verdict);
        }
    }
}

/// Outputs come from one side at a time, and only the winner's are home.
fn no_outputs_mix(seen: &Seen, job: &PlannedJob) {
    let mut bringing = false;
    let mut home: BTreeMap<u32, Vec<Place>> = BTreeMap::new();
    for entry in seen.ledger.entries().into_iter().filter(|entry| entry.job == job.id) {
        match entry.phase {
            Phase::CollectStarted => assert!(!std::mem::replace(&mut bringing, true), "both at once"),
            Phase::CollectFailed => bringing = false,
            Phase::Collected => {
                bringing = false;
                home.entry(entry.attempt).or_default().push(entry.place);
            }
            _ => {}
        }
    }
    for (number, events) in (1..).zip(attempts(seen, &job.id)) {
        let home = home.remove(&number).unwrap_or_default();
        assert!(home.is_empty() || home == winners(&events), "{home:?}");
    }
}

/// Every side that was begun has told its end before the job's verdict.
fn nothing_goes_on_after_the_verdict(seen: &Seen, job: &PlannedJob) {
    let events: Vec<&Event> = seen.events.iter().filter(|event| event.job() == Some(&job.id)).collect();
    assert!(matches!(events.last(), Some(Event::JobFinished { .. })), "{:?}", events.last());
    let ends = events.iter().filter(|event| matches!(event, Event::SideEnded { .. })).count();
    assert!(seen.started(job.id.as_str()) <= ends);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_race_keeps_its_promises(run in run()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (jobs, seen) = runtime.block_on(play(&run));
        limits_held(run.limit, &seen);
        for (job, _) in jobs.iter().zip(&run.jobs).filter(|(_, racing)| racing.races) {
            one_claim_decides(&seen, job);
            no_outputs_mix(&seen, job);
            nothing_goes_on_after_the_verdict(&seen, job);
        }
    }
}
