//! Random graphs with random faults and cancellations: what must hold for every run.

use std::collections::HashMap;

use proptest::prelude::*;

use super::random::{Cancels, Fate, cancel_level, raise};
use super::world::{Seen, World, falls_back, job, seconds};
use crate::backend::fake::{Manners, Phase, Script};
use crate::domain::{Cause, Place};
use crate::engine::Parallel;
use crate::event::Verdict;
use crate::plan::spec::PlannedJob;

#[derive(Debug, Clone)]
struct Node {
    /// Chosen among earlier jobs.
    needs: Vec<prop::sample::Index>,
    fate: Fate,
    takes: u64,
    manners: Manners,
    timeout: Option<u64>,
    retries: u32,
    falls_back: bool,
}

#[derive(Debug, Clone)]
struct Run {
    nodes: Vec<Node>,
    limit: usize,
    keep_going: bool,
    cancels: Cancels,
    place: Place,
}

fn node() -> impl Strategy<Value = Node> {
    let fate = Fate::any(12, 1);
    let manners = prop_oneof![
        (0..20_u64).prop_map(|after| Manners::Obeys { after: seconds(after) }),
        Just(Manners::Stubborn),
        Just(Manners::Deaf),
    ];
    let needs = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let limits = (prop::option::weighted(0.2, 1..30_u64), 0..3_u32, any::<bool>());
    (needs, fate, 0..30_u64, manners, limits).prop_map(
        |(needs, fate, takes, manners, (timeout, retries, falls_back))| Node {
            needs,
            fate,
            takes,
            manners,
            timeout,
            retries,
            falls_back,
        },
    )
}

fn run() -> impl Strategy<Value = Run> {
    let cancels = prop_oneof![Just(Vec::new()), prop::collection::vec((0..100_u64, cancel_level()), 1..4),];
    let place = prop_oneof![Just(Place::Local), Just(Place::Modal)];
    (prop::collection::vec(node(), 1..200), 1..9_usize, any::<bool>(), cancels, place).prop_map(
        |(nodes, limit, keep_going, cancels, place)| Run { nodes, limit, keep_going, cancels, place },
    )
}

fn planned(index: usize, node: &Node) -> PlannedJob {
    let mut needs: Vec<usize> = match index {
        0 => Vec::new(),
        _ => node.needs.iter().map(|need| need.index(index)).collect(),
    };
    needs.sort_unstable();
    needs.dedup();
    let mut job = job(&format!("j{index}"), &needs);
    job.timeout = node.timeout.map(seconds);
    job.retry.max = node.retries;
    job.retry.on = vec![Cause::Infra];
    if node.falls_back {
        job.fallback = falls_back(Place::Local, &[Cause::Infra]);
    }
    job
}

fn script(node: &Node) -> Script {
    let mut script = Script { manners: node.manners, ..Script::takes(seconds(node.takes)) };
    node.fate.befall(&mut script);
    script
}

async fn play(run: &Run) -> (Vec<PlannedJob>, Seen) {
    let jobs: Vec<_> = run.nodes.iter().enumerate().map(|(index, node)| planned(index, node)).collect();
    let mut world = World::new(jobs.clone()).on(run.place);
    for (job, node) in jobs.iter().zip(&run.nodes) {
        world = world.local(&job.name, script(node)).modal(&job.name, script(node));
    }
    world.options.parallel = Parallel::jobs(run.limit.try_into().unwrap());
    if run.keep_going {
        world = world.keep_going();
    }
    let cancels = run.cancels.clone();
    let seen = world.run_while(|cancel| raise(cancel, cancels)).await;
    (jobs, seen)
}

/// No job starts before all it needs are over and have passed.
fn needs_came_first(jobs: &[PlannedJob], seen: &Seen) {
    let mut closed: HashMap<String, usize> = HashMap::new();
    for entry in seen.ledger.entries() {
        let name = entry.job.to_string();
        match entry.phase {
            Phase::Closed => *closed.entry(name).or_default() += 1,
            Phase::OpenStarted => {
                let job = jobs.iter().find(|job| job.name == name).unwrap();
                for need in &job.needs {
                    let need = &jobs[*need].name;
                    assert!(closed.contains_key(need), "{name} started before {need} was over");
                    assert!(seen.verdict(need).passed(), "{name} started although {need} did not pass");
                }
            }
            _ => {}
        }
    }
}

pub fn limits_held(limit: usize, seen: &Seen) {
    let mut live: HashMap<Place, usize> = HashMap::new();
    for entry in seen.ledger.entries() {
        let count = live.entry(entry.place).or_default();
        match entry.phase {
            Phase::OpenStarted => *count += 1,
            Phase::OpenFailed | Phase::Closed => *count -= 1,
            _ => {}
        }
        assert!(*count <= limit, "{count} at once in {}", entry.place);
    }
    assert!(live.values().all(|count| *count == 0), "something was left open");
}

/// Every skipped job says which failed job it was skipped for.
fn skips_name_a_failure(run: &Run, jobs: &[PlannedJob], seen: &Seen) {
    for (index, report) in seen.summary.jobs.iter().enumerate() {
        let Verdict::Skipped { because } = &report.verdict else { continue };
        let blamed = report.blamed.expect("a skipped job blames another");
        assert!(because.contains(&format!("`{}`", jobs[blamed].name)), "{because}");
        let verdict = &seen.summary.jobs[blamed].verdict;
        assert!(!matches!(verdict, Verdict::Passed | Verdict::Skipped { .. }), "{verdict:?}");
        assert_eq!(report.attempts, 0);
        if run.keep_going {
            let failed = |need: &usize| !seen.summary.jobs[*need].verdict.passed();
            assert!(jobs[index].needs.iter().any(failed), "skipped without a failed need");
        }
    }
}

/// With `--keep-going` and no cancellation, whatever could run did.
fn kept_going(run: &Run, jobs: &[PlannedJob], seen: &Seen) {
    if !run.keep_going || !run.cancels.is_empty() {
        return;
    }
    for (job, report) in jobs.iter().zip(&seen.summary.jobs) {
        let ready = job.needs.iter().all(|need| seen.summary.jobs[*need].verdict.passed());
        assert_eq!(ready, report.attempts > 0, "{}", job.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_keeps_its_promises(run in run()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (jobs, seen) = runtime.block_on(play(&run));
        needs_came_first(&jobs, &seen);
        limits_held(run.limit, &seen);
        skips_name_a_failure(&run, &jobs, &seen);
        kept_going(&run, &jobs, &seen);
    }
}
