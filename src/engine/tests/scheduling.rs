use super::world::{World, job, seconds};
use crate::backend::OutputMode;
use crate::backend::fake::{Phase, Script};
use crate::domain::Exit;
use crate::engine::{OutputPolicy, Parallel};
use crate::event::Verdict;

fn order(seen: &super::world::Seen, phase: fn(Phase) -> bool) -> Vec<String> {
    let entries = seen.ledger.entries();
    entries.iter().filter(|entry| phase(entry.phase)).map(|entry| entry.job.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn needs_come_first_and_a_shared_need_runs_once() {
    let jobs = vec![job("base", &[]), job("left", &[0]), job("right", &[0]), job("top", &[1, 2])];
    let seen = World::new(jobs).local("left", Script::takes(seconds(5))).run().await;
    assert_eq!(order(&seen, |phase| phase == Phase::Closed), ["base", "right", "left", "top"]);
    assert_eq!(seen.exit_code, 0);
    assert_eq!(seen.started("base"), 1);
}

#[tokio::test(start_paused = true)]
async fn independent_jobs_run_side_by_side_within_the_limit() {
    let jobs: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| job(name, &[])).collect();
    let mut world = World::new(jobs);
    for name in ["a", "b", "c", "d"] {
        world = world.local(name, Script::takes(seconds(10)));
    }
    let seen = world.run().await;
    assert_eq!(seen.summary.duration, seconds(20));
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_all_modal_jobs_run_at_once() {
    let names: Vec<String> = (0..50).map(|index| format!("job-{index}")).collect();
    let mut world = World::new(names.iter().map(|name| job(name, &[])).collect());
    world.options.parallel = Parallel::cores(2.try_into().unwrap());
    for name in &names {
        world = world.modal(name, Script::takes(seconds(10)));
    }
    let seen = world.on(crate::domain::Place::Modal).run().await;
    assert_eq!(seen.summary.duration, seconds(10));
}

#[tokio::test(start_paused = true)]
async fn only_a_job_alone_in_its_plan_inherits_the_output() {
    let mode_of = async |jobs, policy| {
        let mut world = World::new(jobs);
        world.options.output = policy;
        let entries = world.run().await.ledger.entries();
        entries
            .iter()
            .find_map(|entry| match entry.phase {
                Phase::ExecuteStarted(mode) => Some(mode),
                _ => None,
            })
            .unwrap()
    };
    let one = || vec![job("a", &[])];
    let two = || vec![job("a", &[]), job("b", &[0])];
    assert_eq!(mode_of(one(), OutputPolicy::InheritWhenAlone).await, OutputMode::Inherit);
    assert_eq!(mode_of(one(), OutputPolicy::Events).await, OutputMode::Events);
    assert_eq!(mode_of(two(), OutputPolicy::InheritWhenAlone).await, OutputMode::Events);
}

#[tokio::test(start_paused = true)]
async fn a_failure_skips_what_depends_on_it_and_stops_new_starts() {
    let jobs =
        vec![job("lint", &[]), job("slow", &[]), job("test", &[0]), job("deploy", &[2]), job("later", &[1])];
    let seen = World::new(jobs)
        .local("lint", Script::exits(Exit::Code(3)))
        .local("slow", Script::takes(seconds(60)))
        .run()
        .await;
    let skipped = |because: &str| Verdict::Skipped { because: because.to_owned() };
    assert_eq!(seen.verdict("lint"), &Verdict::Failed { exit: Exit::Code(3) });
    assert_eq!(seen.verdict("slow"), &Verdict::Passed, "what runs is allowed to finish");
    assert_eq!(seen.verdict("test"), &skipped("`lint` failed"));
    assert_eq!(seen.verdict("deploy"), &skipped("`lint` failed, which `test` needs"));
    assert_eq!(seen.verdict("later"), &skipped("`lint` failed, and nothing new is started"));
    assert_eq!(seen.exit_code, 1);
}

#[tokio::test(start_paused = true)]
async fn keep_going_finishes_what_does_not_depend_on_the_failure() {
    let jobs = vec![job("lint", &[]), job("test", &[0]), job("build", &[]), job("pack", &[2])];
    let seen = World::new(jobs).local("lint", Script::exits(Exit::Code(1))).keep_going().run().await;
    assert_eq!(seen.verdict("pack"), &Verdict::Passed);
    assert_eq!(seen.verdict("test"), &Verdict::Skipped { because: "`lint` failed".to_owned() });
    assert_eq!(seen.started("test"), 0);
}
