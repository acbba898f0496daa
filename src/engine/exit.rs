//! The exit code of a run (design §3.4): documented API.

use super::Summary;
use crate::backend::StopReason;
use crate::base::exit_code as code;
use crate::event::Verdict;
use crate::plan::spec::Plan;

/// - stopped by a signal with something unfinished: 128 + the signal (130, 143, 129), 141 when nobody read the
///   output any more;
/// - every requested job passed: 0;
/// - one job was requested: its own code, 124 when it timed out, what its failure says when it could not be run
///   (125, 126, 127); when it was skipped, the code of the job that it was skipped for;
/// - several were requested: 1.
///
/// With `--keep-going` a failed job that none of the requested ones needed cannot exist: the plan holds only
/// requested jobs and their needs.
pub fn exit_code(plan: &Plan, summary: &Summary) -> u8 {
    let cancelled = |verdict: &Verdict| matches!(verdict, Verdict::Cancelled { .. });
    if summary.jobs.iter().any(|job| cancelled(&job.verdict)) {
        return code::of_signal(summary.stopped_by.unwrap_or(StopReason::Interrupt).signal());
    }
    if summary.jobs.iter().all(|job| job.verdict.passed()) {
        return 0;
    }
    let [requested] = plan.requested.as_slice() else { return code::SOME_FAILED };
    let own = summary.jobs.iter().position(|report| report.job == *requested);
    own.map_or(code::SOME_FAILED, |index| code_of(summary, index))
}

fn code_of(summary: &Summary, index: usize) -> u8 {
    let report = &summary.jobs[index];
    match &report.verdict {
        Verdict::Passed => 0,
        Verdict::Failed { exit } => exit.shell_code(),
        Verdict::TimedOut { .. } => code::TIMED_OUT,
        Verdict::Errored { exit_code, .. } => *exit_code,
        // A skipped job blames one that was started, so this goes one step deep.
        Verdict::Skipped { .. } => report.blamed.map_or(code::SOME_FAILED, |blamed| code_of(summary, blamed)),
        Verdict::Cancelled { .. } => code::INTERRUPTED,
    }
}
