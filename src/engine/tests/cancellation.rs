//! Stop and kill at every phase: the session is closed exactly once ([`World`] checks it after each run).

use super::world::{GRACE, World, falls_back, job, seconds};
use crate::backend::CancelLevel::{Drain, Kill, Stop};
use crate::backend::StopReason::{Hangup, Interrupt, Terminate};
use crate::backend::fake::{Act, Gate, Manners, Phase, Script};
use crate::domain::{Cause, Exit, Place};
use crate::event::{Event, Verdict};

const NEVER: Verdict = Verdict::Cancelled { exit: None };

/// A script that stops at the gate in one of its phases and ignores cancellation.
fn held(gate: &Gate, set: impl Fn(&mut Script, Act)) -> Script {
    let mut script = Script { manners: Manners::Deaf, ..Script::default() };
    set(&mut script, Act::waits(gate));
    script
}

/// Raises a stop while the script is held in that phase, then lets it go on.
async fn stopped_in(set: impl Fn(&mut Script, Act)) -> (Verdict, usize) {
    let gate = Gate::default();
    let world = World::new(vec![job("a", &[]), job("b", &[0])]).local("a", held(&gate, set));
    let seen = world
        .run_while(|cancel| async move {
            gate.reached().await;
            cancel.raise(Stop(Interrupt));
            // The clock is paused: it moves on once everybody has seen the stop.
            tokio::time::sleep(seconds(1)).await;
            gate.open();
        })
        .await;
    assert_eq!(seen.started("b"), 0, "nothing starts after a stop");
    (seen.verdict("a").clone(), seen.ledger.count("a", Phase::Closed))
}

#[tokio::test(start_paused = true)]
async fn a_stop_at_any_phase_closes_once() {
    assert_eq!(stopped_in(|script, act| script.open = act).await, (NEVER, 1));
    let cancelled = Verdict::Cancelled { exit: Some(Exit::Code(0)) };
    assert_eq!(stopped_in(|script, act| script.execute = act).await, (cancelled, 1));
    assert_eq!(stopped_in(|script, act| script.collect = act).await, (Verdict::Passed, 1));
    assert_eq!(stopped_in(|script, act| script.close = act).await, (Verdict::Passed, 1));
}

#[tokio::test(start_paused = true)]
async fn an_open_that_gives_up_is_cancelled_not_failed() {
    let script = Script { open: Act::takes(seconds(60)), ..Script::default() };
    let mut job = job("a", &[]);
    job.retry.max = 3;
    job.retry.on = vec![Cause::Infra];
    job.fallback = falls_back(Place::Modal, &[Cause::Infra]);
    let seen = World::new(vec![job])
        .local("a", script)
        .run_while(|cancel| async move {
            tokio::time::sleep(seconds(1)).await;
            cancel.raise(Stop(Interrupt));
        })
        .await;
    assert_eq!(seen.verdict("a"), &NEVER);
    assert_eq!(seen.ledger.count("a", Phase::OpenFailed), 1);
    assert_eq!(seen.summary.duration, seconds(1));
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_in_a_run_that_was_stopped_before_it_began() {
    let world = World::new(vec![job("a", &[]), job("b", &[0])]);
    world.cancel.raise(Stop(Interrupt));
    let seen = world.run().await;
    assert_eq!((seen.verdict("a"), seen.verdict("b")), (&NEVER, &NEVER));
    assert!(seen.ledger.entries().is_empty());
    assert_eq!(seen.exit_code, 130);
}

#[tokio::test(start_paused = true)]
async fn each_signal_reaches_the_job_and_the_exit_code() {
    for (reason, code) in [(Interrupt, 130), (Terminate, 143), (Hangup, 129)] {
        let seen = World::new(vec![job("a", &[])])
            .local("a", Script::takes(seconds(3600)))
            .run_while(|cancel| async move {
                tokio::time::sleep(seconds(1)).await;
                cancel.raise(Stop(reason));
            })
            .await;
        let exit = Some(Exit::Signal(reason.signal()));
        assert_eq!(seen.verdict("a"), &Verdict::Cancelled { exit });
        assert_eq!(seen.exit_code, code);
        let raised = seen.events.iter().find_map(|event| match event {
            Event::CancelRaised { level, by } => Some((level.clone(), by.clone())),
            _ => None,
        });
        assert_eq!(raised, Some(("stop".to_owned(), reason.signal_name().to_owned())));
    }
}

async fn stubborn(second: Option<u64>) -> std::time::Duration {
    let script = Script { manners: Manners::Stubborn, ..Script::takes(seconds(3600)) };
    let seen = World::new(vec![job("a", &[])])
        .local("a", script)
        .run_while(|cancel| async move {
            tokio::time::sleep(seconds(1)).await;
            cancel.raise(Stop(Interrupt));
            if let Some(second) = second {
                tokio::time::sleep(seconds(second)).await;
                cancel.raise(Kill);
            }
        })
        .await;
    assert_eq!(seen.verdict("a"), &Verdict::Cancelled { exit: Some(Exit::Signal(9)) });
    seen.summary.duration
}

#[tokio::test(start_paused = true)]
async fn what_does_not_listen_is_killed_after_the_grace_or_at_the_second_signal() {
    assert_eq!(stubborn(None).await, seconds(1) + GRACE);
    assert_eq!(stubborn(Some(2)).await, seconds(3));
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_running_jobs_finish_and_starts_nothing() {
    let seen = World::new(vec![job("a", &[]), job("b", &[0])])
        .local("a", Script::takes(seconds(5)))
        .run_while(|cancel| async move {
            tokio::time::sleep(seconds(1)).await;
            cancel.raise(Drain);
        })
        .await;
    assert_eq!((seen.verdict("a"), seen.verdict("b")), (&Verdict::Passed, &NEVER));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_for_a_retry() {
    let mut job = job("a", &[]);
    job.retry.max = 1;
    job.retry.on = vec![Cause::Infra];
    job.retry.backoff = (seconds(600), seconds(600));
    let seen = World::new(vec![job])
        .local("a", Script::breaks(Cause::Infra))
        .run_while(|cancel| async move {
            tokio::time::sleep(seconds(1)).await;
            cancel.raise(Stop(Interrupt));
        })
        .await;
    assert_eq!(seen.verdict("a"), &NEVER);
    assert_eq!(seen.summary.duration, seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_after_everything_passed_changes_nothing() {
    let gate = Gate::default();
    let script = Script { close: Act::waits(&gate), ..Script::default() };
    let seen = World::new(vec![job("a", &[])])
        .local("a", script)
        .run_while(|cancel| async move {
            gate.reached().await;
            cancel.raise(Stop(Interrupt));
            gate.open();
        })
        .await;
    assert_eq!(seen.exit_code, 0);
}
