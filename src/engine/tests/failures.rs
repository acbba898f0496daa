//! Timeouts, retries, fallbacks, and backends that break.

use std::sync::Arc;

use super::world::{GRACE, Seen, World, falls_back, job, seconds};
use crate::backend::fake::{Act, Manners, Phase, Script};
use crate::backend::{Backend, BoxFuture, Failure, OpenRequest, Session};
use crate::domain::{Cause, Exit, Place};
use crate::event::{Event, Level, Verdict};
use crate::plan::spec::{FallbackOn, PlannedJob};

fn timed(limit: u64) -> PlannedJob {
    PlannedJob { timeout: Some(seconds(limit)), ..job("a", &[]) }
}

fn retried(max: u32, on: &[Cause]) -> PlannedJob {
    let mut job = job("a", &[]);
    job.retry.max = max;
    job.retry.on = on.to_vec();
    job
}

fn errored_cause(seen: &Seen) -> Option<Cause> {
    match seen.verdict("a") {
        Verdict::Errored { cause, .. } => Some(*cause),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_stops_politely() {
    let mut script = Script::takes(seconds(3600));
    script.manners = Manners::Obeys { after: seconds(1) };
    let seen = World::new(vec![timed(2)]).local("a", script).run().await;
    assert_eq!(seen.verdict("a"), &Verdict::TimedOut { limit: seconds(2) });
    assert_eq!(seen.summary.duration, seconds(3));
    assert_eq!(seen.exit_code, 124);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_kills_what_does_not_listen_when_the_grace_is_over() {
    let mut script = Script::takes(seconds(3600));
    script.manners = Manners::Stubborn;
    let seen = World::new(vec![timed(2)]).local("a", script).run().await;
    assert_eq!(seen.verdict("a"), &Verdict::TimedOut { limit: seconds(2) });
    assert_eq!(seen.summary.duration, seconds(2) + GRACE);
}

#[tokio::test(start_paused = true)]
async fn the_command_s_own_124_is_no_timeout() {
    let seen = World::new(vec![timed(2)]).local("a", Script::exits(Exit::Code(124))).run().await;
    assert_eq!(seen.verdict("a"), &Verdict::Failed { exit: Exit::Code(124) });
}

#[tokio::test(start_paused = true)]
async fn making_the_image_does_not_eat_the_job_s_time() {
    let script = Script { open: Act::takes(seconds(600)), ..Script::takes(seconds(1)) };
    let seen = World::new(vec![timed(2)]).local("a", script).run().await;
    assert_eq!(seen.verdict("a"), &Verdict::Passed);
}

#[tokio::test(start_paused = true)]
async fn the_timeout_covers_all_attempts() {
    let mut broken = Script::takes(seconds(6));
    broken.execute.failure = Some(Failure::new(Cause::Infra, "lost"));
    let job = PlannedJob { timeout: Some(seconds(10)), ..retried(5, &[Cause::Infra]) };
    let seen = World::new(vec![job]).local("a", broken).run().await;
    // 6 s, 2 s of back-off, then 2 s of the second attempt.
    assert_eq!(seen.verdict("a"), &Verdict::TimedOut { limit: seconds(10) });
    assert_eq!(seen.summary.duration, seconds(10));
    assert_eq!(seen.started("a"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_could_not_begin_in_time_is_not_made() {
    let mut broken = Script::takes(seconds(9));
    broken.execute.failure = Some(Failure::new(Cause::Infra, "lost"));
    let job = PlannedJob { timeout: Some(seconds(10)), ..retried(5, &[Cause::Infra]) };
    let seen = World::new(vec![job]).local("a", broken).run().await;
    assert_eq!(errored_cause(&seen), Some(Cause::Infra));
    assert_eq!(seen.summary.duration, seconds(9));
}

#[tokio::test(start_paused = true)]
async fn retries_back_off_and_then_pass() {
    let seen = World::new(vec![retried(3, &[Cause::Infra])])
        .local("a", Script::breaks(Cause::Infra))
        .local("a", Script::refuses(Cause::Infra))
        .local("a", Script::default())
        .run()
        .await;
    assert_eq!(seen.verdict("a"), &Verdict::Passed);
    assert_eq!(seen.summary.jobs[0].attempts, 3);
    let delays: Vec<_> = seen
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Retry { attempt, delay, .. } => Some((*attempt, *delay)),
            _ => None,
        })
        .collect();
    assert_eq!(delays, [(2, seconds(2)), (3, seconds(4))]);
}

#[tokio::test(start_paused = true)]
async fn rules_may_send_a_retry_elsewhere_but_not_a_job_that_fell_back() {
    let routed =
        |seen: &Seen| seen.events.iter().filter(|event| matches!(event, Event::JobRouted { .. })).count();
    let by_attempt = |attempt| if attempt == 1 { Place::Local } else { Place::Modal };
    let seen = World::new(vec![retried(2, &[Cause::Infra])])
        .deciding(by_attempt)
        .local("a", Script::breaks(Cause::Infra))
        .run()
        .await;
    assert_eq!(seen.summary.jobs[0].place, Some(Place::Modal));
    assert_eq!(routed(&seen), 2);

    let job =
        PlannedJob { fallback: falls_back(Place::Local, &[Cause::Auth]), ..retried(2, &[Cause::Infra]) };
    let seen = World::new(vec![job])
        .on(Place::Modal)
        .modal("a", Script::refuses(Cause::Auth))
        .local("a", Script::breaks(Cause::Infra))
        .local("a", Script::default())
        .run()
        .await;
    assert_eq!((seen.summary.jobs[0].place, routed(&seen)), (Some(Place::Local), 1));
    assert_eq!(seen.verdict("a"), &Verdict::Passed);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_retry_holds_no_slot() {
    let mut world = World::new(vec![retried(1, &[Cause::Infra]), job("b", &[])])
        .local("a", Script::breaks(Cause::Infra))
        .local("a", Script::default())
        .local("b", Script::takes(seconds(2)));
    world.options.parallel = crate::engine::Parallel::jobs(1.try_into().unwrap());
    assert_eq!(world.run().await.summary.duration, seconds(2));
}

#[tokio::test(start_paused = true)]
async fn a_failed_command_is_retried_only_when_asked_by_name() {
    let run = async |on: &[Cause]| {
        let world = World::new(vec![retried(1, on)]).local("a", Script::exits(Exit::Code(1)));
        world.run().await.started("a")
    };
    assert_eq!(run(&[Cause::Infra, Cause::Oom]).await, 1);
    assert_eq!(run(&[Cause::Command]).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_command_and_a_timeout_never_fall_back() {
    for script in [Script::exits(Exit::Code(1)), Script::takes(seconds(3600))] {
        let job = PlannedJob { fallback: falls_back(Place::Local, &Cause::ALL), ..timed(5) };
        let seen = World::new(vec![job]).on(Place::Modal).modal("a", script).run().await;
        assert_eq!(seen.summary.jobs[0].place, Some(Place::Modal));
        assert!(!seen.verdict("a").passed());
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_too_long_for_a_machine_falls_back() {
    let mut job = job("a", &[]);
    job.fallback = falls_back(Place::Local, &[]);
    job.fallback[0].on.push(FallbackOn::QueueLonger(seconds(45)));
    let seen = World::new(vec![job]).on(Place::Modal).modal("a", Script::refuses(Cause::Queue)).run().await;
    assert_eq!(seen.summary.jobs[0].place, Some(Place::Local));
    assert_eq!(seen.verdict("a"), &Verdict::Passed);
}

#[tokio::test(start_paused = true)]
async fn retries_come_before_the_fallback_and_no_place_is_tried_twice() {
    let mut job = retried(1, &[Cause::Infra]);
    job.fallback =
        [falls_back(Place::Local, &[Cause::Infra]), falls_back(Place::Modal, &[Cause::Infra])].concat();
    let seen = World::new(vec![job])
        .on(Place::Modal)
        .modal("a", Script::breaks(Cause::Infra))
        .local("a", Script::breaks(Cause::Infra))
        .run()
        .await;
    let entries = seen.ledger.entries();
    let places: Vec<_> =
        entries.iter().filter(|entry| entry.phase == Phase::OpenStarted).map(|entry| entry.place).collect();
    assert_eq!(places, [Place::Modal, Place::Modal, Place::Local]);
    assert_eq!(errored_cause(&seen), Some(Cause::Infra));
}

#[tokio::test(start_paused = true)]
async fn a_place_without_a_backend_is_an_error_of_the_job() {
    let mut world = World::new(vec![job("a", &[])]).on(Place::Modal);
    world.modal = None;
    let seen = world.run().await;
    assert_eq!(errored_cause(&seen), Some(Cause::Infra));
    assert_eq!(seen.exit_code, 125);
}

#[tokio::test(start_paused = true)]
async fn lost_outputs_fail_a_job_that_passed_and_only_warn_about_one_that_failed() {
    let lost = |exit| Script { exit, collect: Act::fails(Cause::Infra), ..Script::default() };
    let passed = World::new(vec![job("a", &[])]).local("a", lost(Exit::Code(0))).run().await;
    assert_eq!(errored_cause(&passed), Some(Cause::Infra));
    let failed = World::new(vec![job("a", &[])]).local("a", lost(Exit::Code(7))).run().await;
    assert_eq!(failed.verdict("a"), &Verdict::Failed { exit: Exit::Code(7) });
    assert!(warned(&failed, "outputs-lost"));
}

#[tokio::test(start_paused = true)]
async fn a_close_that_fails_keeps_the_verdict_and_warns() {
    let script = Script { close: Act::fails(Cause::Infra), ..Script::exits(Exit::Code(7)) };
    let seen = World::new(vec![job("a", &[])]).local("a", script).run().await;
    assert_eq!(seen.verdict("a"), &Verdict::Failed { exit: Exit::Code(7) });
    assert!(warned(&seen, "close-failed"));
    assert_eq!(seen.exit_code, 7);
}

fn warned(seen: &Seen, expected: &str) -> bool {
    let is = |event: &Event| matches!(event, Event::Notice { code, level: Level::Warning, .. } if *code == expected);
    seen.events.iter().any(is)
}

/// A backend with a fault of its own.
struct Panicking;

impl Backend for Panicking {
    fn place(&self) -> Place {
        Place::Modal
    }

    fn open(&self, _: OpenRequest) -> BoxFuture<'_, Result<Box<dyn Session>, Failure>> {
        Box::pin(async { panic!("a fault inside") })
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_inside_costs_one_job_and_no_slot() {
    let mut world =
        World::new(vec![job("a", &[]), job("b", &[]), job("c", &[])]).on(Place::Modal).keep_going();
    world.options.parallel = crate::engine::Parallel::jobs(1.try_into().unwrap());
    let seen = world.with_modal(Arc::new(Panicking)).run().await;
    for name in ["a", "b", "c"] {
        assert!(matches!(seen.verdict(name), Verdict::Errored { exit_code: 125, .. }));
    }
}
