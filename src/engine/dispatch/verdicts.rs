//! Verdicts: each job's own, those that follow from it, and the end of the run.

use std::time::Duration;

use super::Dispatcher;
use crate::backend::CancelLevel;
use crate::engine::{JobReport, OnFailure, Summary, exit_code};
use crate::event::{Event, Verdict};

impl Dispatcher {
    /// Gives a job its verdict, and all that follows from it.
    pub(super) async fn finish(&mut self, index: usize, verdict: Verdict) {
        let passed = verdict.passed();
        let failed = !passed && !matches!(verdict, Verdict::Cancelled { .. });
        let word = failure_word(&verdict);
        self.report(index, verdict, None).await;
        if passed {
            for ready in self.graph.passed(index) {
                self.make_ready(ready);
            }
            return;
        }
        if self.level > CancelLevel::Run {
            return;
        }
        self.skip_dependants(index, word).await;
        if failed && self.options.on_failure == OnFailure::Drain && self.drained_by.is_none() {
            self.drained_by = Some(index);
            let because = format!("`{}` {word}, and nothing new is started", self.job(index).id);
            self.skip_unstarted(&Verdict::Skipped { because }, Some(index)).await;
        }
    }

    async fn skip_dependants(&mut self, failed: usize, word: &str) {
        let mut through = vec![failed];
        while let Some(need) = through.pop() {
            for dependant in self.graph.dependants(need).to_vec() {
                if self.jobs[dependant].report.is_some() {
                    continue;
                }
                let failed_id = &self.job(failed).id;
                let because = if need == failed {
                    format!("`{failed_id}` {word}")
                } else {
                    format!("`{failed_id}` {word}, which `{}` needs", self.job(need).id)
                };
                self.report(dependant, Verdict::Skipped { because }, Some(failed)).await;
                through.push(dependant);
            }
        }
    }

    /// Gives the same verdict to every job that has neither one nor been started.
    pub(super) async fn skip_unstarted(&mut self, verdict: &Verdict, blamed: Option<usize>) {
        for index in 0..self.jobs.len() {
            if self.jobs[index].report.is_none() && self.jobs[index].began.is_none() {
                self.report(index, verdict.clone(), blamed).await;
            }
        }
    }

    async fn report(&mut self, index: usize, verdict: Verdict, blamed: Option<usize>) {
        let job = self.job(index).id.clone();
        let state = &mut self.jobs[index];
        let duration = state.began.map_or(Duration::ZERO, |began| began.elapsed());
        let place = if state.attempts > 0 { state.places.last().copied() } else { None };
        let attempts = state.attempts;
        state.routed = None;
        state.report =
            Some(JobReport { job: job.clone(), verdict: verdict.clone(), place, attempts, duration, blamed });
        self.emitter.emit(Event::JobFinished { job, verdict, place, attempts, duration }).await;
    }

    pub(super) async fn finish_run(mut self) -> Summary {
        // Nothing is left running: whatever has no verdict waits for something that will not happen.
        self.skip_unstarted(&Verdict::Cancelled { exit: None }, None).await;
        let (stopped_by, duration) = (self.stopped_by, self.began.elapsed());
        let jobs = self.jobs.into_iter().map(|job| job.report.expect("every job has a verdict")).collect();
        let summary = Summary { jobs, stopped_by, duration };
        let count = |is: fn(&Verdict) -> bool| summary.jobs.iter().filter(|job| is(&job.verdict)).count();
        let (skipped, cancelled) = (
            count(|verdict| matches!(verdict, Verdict::Skipped { .. })),
            count(|verdict| matches!(verdict, Verdict::Cancelled { .. })),
        );
        let passed = count(Verdict::passed);
        let event = Event::RunFinished {
            exit_code: exit_code(&self.plan, &summary),
            passed,
            failed: summary.jobs.len() - passed - skipped - cancelled,
            skipped,
            cancelled,
            duration,
        };
        self.emitter.emit(event).await;
        summary
    }
}

/// What happened to a job, in a sentence that starts with its name.
fn failure_word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed { .. } => "failed",
        Verdict::TimedOut { .. } => "timed out",
        Verdict::Errored { .. } => "could not be run",
        Verdict::Skipped { .. } => "was skipped",
        Verdict::Cancelled { .. } => "was cancelled",
    }
}
