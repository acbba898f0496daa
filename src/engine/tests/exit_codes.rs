//! The documented exit codes, by table.

use std::time::Duration;

use super::world::{job, plan};
use crate::backend::StopReason;
use crate::domain::{Cause, Exit, JobId, Place};
use crate::engine::{JobReport, Summary, exit_code};
use crate::event::Verdict;

fn failed(code: u8) -> Verdict {
    Verdict::Failed { exit: Exit::Code(code) }
}

fn errored(exit_code: u8) -> Verdict {
    Verdict::Errored { cause: Cause::Infra, message: String::new(), help: None, exit_code }
}

fn skipped() -> Verdict {
    Verdict::Skipped { because: "`need` failed".to_owned() }
}

/// The plan is `need`, then `job`, which needs it. A skipped job blames `need`.
fn check(requested: &[&str], need: Verdict, job_verdict: Verdict, stop: Option<StopReason>, expected: u8) {
    let plan = plan(vec![job("need", &[]), job("job", &[0])], requested);
    let report = |name: &str, verdict: &Verdict| JobReport {
        job: JobId::new(name),
        verdict: verdict.clone(),
        place: Some(Place::Local),
        attempts: 1,
        duration: Duration::ZERO,
        blamed: matches!(verdict, Verdict::Skipped { .. }).then_some(0),
    };
    let jobs = vec![report("need", &need), report("job", &job_verdict)];
    let summary = Summary { jobs, stopped_by: stop, duration: Duration::ZERO };
    assert_eq!(exit_code(&plan, &summary), expected, "{requested:?} {need:?} {job_verdict:?}");
}

#[test]
fn one_job_asked_for() {
    let one = |verdict, expected| check(&["job"], Verdict::Passed, verdict, None, expected);
    one(Verdict::Passed, 0);
    one(failed(1), 1);
    one(failed(42), 42);
    one(failed(124), 124);
    one(Verdict::Failed { exit: Exit::Signal(9) }, 137);
    one(Verdict::Failed { exit: Exit::Signal(11) }, 139);
    one(Verdict::TimedOut { limit: Duration::ZERO }, 124);
    one(errored(125), 125);
    one(errored(126), 126);
    one(errored(127), 127);
}

#[test]
fn one_job_asked_for_whose_need_failed() {
    let need = |verdict, expected| check(&["job"], verdict, skipped(), None, expected);
    need(failed(3), 3);
    need(Verdict::TimedOut { limit: Duration::ZERO }, 124);
    need(errored(125), 125);
}

#[test]
fn several_asked_for() {
    let both = |need, job, expected| check(&["need", "job"], need, job, None, expected);
    both(Verdict::Passed, Verdict::Passed, 0);
    both(Verdict::Passed, failed(42), 1);
    both(failed(42), skipped(), 1);
    both(errored(125), skipped(), 1);
}

#[test]
fn stopped_by_a_signal() {
    let cancelled = || Verdict::Cancelled { exit: Some(Exit::Code(0)) };
    let stopped = |reason, expected| check(&["job"], Verdict::Passed, cancelled(), reason, expected);
    stopped(Some(StopReason::Interrupt), 130);
    stopped(Some(StopReason::Terminate), 143);
    stopped(Some(StopReason::Hangup), 129);
    stopped(Some(StopReason::Unread), 141);
    stopped(None, 130);
    check(&["job"], Verdict::Passed, Verdict::Passed, Some(StopReason::Interrupt), 0);
    check(&["job"], Verdict::Passed, failed(5), Some(StopReason::Interrupt), 5);
}
