//! What grows with each retry, what it is told with, and what becomes of the attempts before.

use std::sync::Arc;
use std::time::Duration;

use super::world::{Seen, World, falls_back, job, seconds};
use crate::backend::fake::{Given, Phase, Script};
use crate::base::size::Bytes;
use crate::domain::{Cause, Exit, Gpu, Place};
use crate::event::{Event, Grown, Verdict};
use crate::plan::spec::{Escalate, GpuChoice, PlannedJob, Range, SandboxSpec};

const GIB: u64 = 1 << 30;

fn growing(max: u32, on: &[Cause], escalate: Escalate) -> PlannedJob {
    let mut job = job("a", &[]);
    let gpu = ["L4", "A10", "H100"].map(|text| GpuChoice { gpu: Gpu::parse(text).unwrap(), wait: None });
    let memory = Range { request: Bytes(GIB), limit: Some(Bytes(3 * GIB)) };
    job.spec =
        Arc::new(SandboxSpec { memory: Some(memory), gpu: gpu.into(), ..SandboxSpec::clone(&job.spec) });
    job.retry.max = max;
    job.retry.on = on.to_vec();
    job.retry.escalate = escalate;
    job
}

fn given<T>(seen: &Seen, part: impl Fn(&Given) -> T) -> Vec<T> {
    seen.ledger.given().iter().map(part).collect()
}

fn told(seen: &Seen) -> Vec<String> {
    let one = |event: &Event| match event {
        Event::Retry { grows, .. } => {
            let texts = grows
                .iter()
                .map(|growth| format!("{} {} to {}", growth.what.as_str(), growth.from, growth.to));
            Some(texts.collect::<Vec<_>>().join(", "))
        }
        _ => None,
    };
    seen.events.iter().filter_map(one).collect()
}

#[tokio::test(start_paused = true)]
async fn memory_time_and_gpu_grow_with_each_retry_and_are_told() {
    let escalate = Escalate { memory: Some(2.0), timeout: Some(1.5), next_gpu: true };
    let job = PlannedJob { timeout: Some(seconds(100)), ..growing(3, &[Cause::Oom], escalate) };
    let seen = World::new(vec![job]).on(Place::Modal).modal("a", Script::breaks(Cause::Oom)).run().await;
    let memory = given(&seen, |given| given.spec.memory.map(|memory| (memory.request.0, memory.limit)));
    let expected = [1, 2, 4, 8].map(|factor| Some((factor * GIB, Some(Bytes(factor * 3 * GIB)))));
    assert_eq!(memory, expected);
    let gpus = given(&seen, |given| given.spec.gpu.len());
    assert_eq!(gpus, [3, 2, 1, 1], "the last one stays");
    assert_eq!(
        told(&seen),
        [
            "memory 1GiB to 2GiB, timeout 1m40s to 2m30s, gpu L4 to A10",
            "memory 2GiB to 4GiB, timeout 2m30s to 3m45s, gpu A10 to H100",
            "memory 4GiB to 8GiB, timeout 3m45s to 5m37s",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn memory_stops_growing_where_there_is_no_more() {
    let escalate = Escalate { memory: Some(1000.0), ..Escalate::default() };
    let seen = World::new(vec![growing(2, &[Cause::Oom], escalate)])
        .on(Place::Modal)
        .modal("a", Script::breaks(Cause::Oom))
        .run()
        .await;
    let memory = given(&seen, |given| given.spec.memory.map(|memory| memory.request.0 / GIB));
    assert_eq!(memory, [Some(1), Some(336), Some(336)]);
    assert_eq!(told(&seen), ["memory 1GiB to 336GiB", ""]);
}

#[tokio::test(start_paused = true)]
async fn nothing_grows_that_is_not_told_to() {
    let seen = World::new(vec![growing(1, &[Cause::Infra], Escalate::default())])
        .local("a", Script::breaks(Cause::Infra))
        .run()
        .await;
    let memory = given(&seen, |given| given.spec.memory.map(|memory| memory.request.0));
    assert_eq!(memory, [Some(GIB); 2]);
    assert_eq!(told(&seen), [""]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_retried_only_with_more_time_and_then_from_the_start() {
    let run = async |timeout: Option<f64>| {
        let escalate = Escalate { timeout, ..Escalate::default() };
        let job = PlannedJob { timeout: Some(seconds(10)), ..growing(1, &[Cause::Timeout], escalate) };
        World::new(vec![job]).local("a", Script::takes(seconds(15))).run().await
    };
    let same = run(None).await;
    assert_eq!(same.verdict("a"), &Verdict::TimedOut { limit: seconds(10) });
    assert_eq!(same.started("a"), 1);
    let longer = run(Some(2.0)).await;
    assert_eq!(longer.verdict("a"), &Verdict::Passed);
    assert_eq!(given(&longer, |given| given.timeout), [Some(seconds(10)), Some(seconds(20))]);
    assert_eq!(longer.summary.duration, seconds(10 + 2 + 15));
    let short = run(Some(1.2)).await;
    assert_eq!(short.verdict("a"), &Verdict::TimedOut { limit: seconds(12) });
}

#[tokio::test(start_paused = true)]
async fn a_grown_limit_covers_the_attempts_before() {
    let mut broken = Script::takes(seconds(6));
    broken.execute.failure = Some(crate::backend::Failure::new(Cause::Infra, "lost"));
    let escalate = Escalate { timeout: Some(2.0), ..Escalate::default() };
    let job = PlannedJob { timeout: Some(seconds(10)), ..growing(1, &[Cause::Infra], escalate) };
    let seen = World::new(vec![job]).local("a", broken).local("a", Script::takes(seconds(3600))).run().await;
    assert_eq!(seen.verdict("a"), &Verdict::TimedOut { limit: seconds(20) });
    assert_eq!(seen.summary.duration, seconds(20));
}

#[tokio::test(start_paused = true)]
async fn outputs_of_an_attempt_that_is_repeated_are_not_fetched_but_taken_back() {
    let mut job = growing(1, &[Cause::Command], Escalate::default());
    job.fallback = falls_back(Place::Local, &[Cause::Infra]);
    let seen = World::new(vec![job])
        .on(Place::Modal)
        .modal("a", Script::exits(Exit::Code(1)))
        .modal("a", Script::exits(Exit::Code(2)))
        .run()
        .await;
    assert_eq!(seen.verdict("a"), &Verdict::Failed { exit: Exit::Code(2) });
    let entries = seen.ledger.entries();
    let of = |attempt| -> Vec<Phase> {
        let kept = [Phase::Collected, Phase::Abandoned, Phase::Closed];
        let of_attempt = entries.iter().filter(|entry| entry.attempt == attempt);
        of_attempt.map(|entry| entry.phase).filter(|phase| kept.contains(phase)).collect()
    };
    assert_eq!(of(1), [Phase::Abandoned, Phase::Closed]);
    assert_eq!(of(2), [Phase::Collected, Phase::Closed]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_says_why_and_how_long_it_waits() {
    let seen =
        World::new(vec![growing(1, &[Cause::Oom], Escalate { memory: Some(2.0), ..Escalate::default() })])
            .local("a", Script::refuses(Cause::Oom))
            .local("a", Script::default())
            .run()
            .await;
    let event = seen.events.iter().find(|event| matches!(event, Event::Retry { .. })).unwrap();
    let Event::Retry { attempt, cause, delay, detail, grows, .. } = event else { unreachable!() };
    assert_eq!((*attempt, *cause, *delay), (2, Cause::Oom, Duration::from_secs(2)));
    assert_eq!((detail.as_str(), grows[0].what), ("scripted oom failure", Grown::Memory));
}
