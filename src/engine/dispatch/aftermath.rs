//! What follows an attempt that did not pass: another one, another place, or the verdict.

use std::time::Duration;

use super::{Dispatcher, Work};
use crate::backend::CancelLevel;
use crate::domain::{Cause, Place};
use crate::engine::attempt::{Ended, Outcome, errored};
use crate::engine::growth;
use crate::engine::policy::Next;
use crate::event::{Event, Growth, Verdict};

impl Dispatcher {
    pub(super) async fn after_attempt(&mut self, index: usize, ended: Ended) {
        let Ended { place, outcome, next, deadline } = ended;
        self.jobs[index].deadline = deadline;
        self.jobs[index].note_place(place);
        // A run that is being stopped begins nothing.
        let next = if self.level > CancelLevel::Run { Next::Verdict { forbidden: None } } else { next };
        match (next, outcome.cause()) {
            (Next::Retry { delay }, Some(cause)) => self.retry(index, cause, delay, outcome).await,
            (Next::Fallback { to }, Some(cause)) => self.fall_back(index, to, cause, outcome).await,
            (Next::Verdict { forbidden: Some(place) }, _) => {
                let mut verdict = verdict_of(outcome);
                if let Verdict::Errored { help, .. } = &mut verdict {
                    help.get_or_insert_with(|| format!("`strict` forbids the fallback to {place}"));
                }
                self.finish(index, verdict).await;
            }
            _ => self.finish(index, verdict_of(outcome)).await,
        }
    }

    async fn retry(&mut self, index: usize, cause: Cause, delay: Duration, outcome: Outcome) {
        let grows = self.grow(index, cause);
        let (job, attempt) = (self.job(index).id.clone(), self.jobs[index].attempts + 1);
        let detail = detail_of(outcome);
        self.emitter.emit(Event::Retry { job, attempt, cause, detail, grows, delay }).await;
        let mut cancel = self.cancel.clone();
        let task = self.work.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = cancel.stopped() => {}
            }
            Work::Waited
        });
        self.owners.insert(task.id(), index);
    }

    /// Counts a retry, and gives the job what grows with it.
    fn grow(&mut self, index: usize, cause: Cause) -> Vec<Growth> {
        let retries = self.jobs[index].retries;
        let before = growth::measure(self.job(index), retries);
        let after = growth::measure(self.job(index), retries + 1);
        let more = growth::more_time(self.job(index), retries).unwrap_or_default();
        let state = &mut self.jobs[index];
        state.retries += 1;
        state.deadline = match cause {
            // The new limit is for the new attempt.
            Cause::Timeout => None,
            _ => state.deadline.and_then(|deadline| deadline.checked_add(more)),
        };
        growth::between(&before, &after)
    }

    pub(super) async fn after_delay(&mut self, index: usize) {
        if self.level.stops() {
            return self.finish(index, Verdict::Cancelled { exit: None }).await;
        }
        match self.jobs[index].fell_back_to {
            Some(place) => self.slots.enqueue(place, index),
            None => self.make_ready(index),
        }
    }

    async fn fall_back(&mut self, index: usize, to: Place, cause: Cause, outcome: Outcome) {
        let detail = detail_of(outcome);
        let from = *self.jobs[index].places.last().expect("a job that falls back has been somewhere");
        let job = self.job(index).id.clone();
        self.emitter.emit(Event::Fallback { job, from, to, cause, detail }).await;
        self.jobs[index].note_place(to);
        self.jobs[index].fell_back_to = Some(to);
        self.slots.enqueue(to, index);
    }
}

fn verdict_of(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Verdict(verdict) => verdict,
        Outcome::Failed(failure) => errored(failure),
    }
}

/// What is said of an outcome besides its cause.
fn detail_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed(failure) => failure.message,
        Outcome::Verdict(Verdict::Failed { exit }) => exit.to_string(),
        Outcome::Verdict(_) => String::new(),
    }
}
