//! The cancel ladder of one attempt: follows the run's cancellation, adds the job's timeout and the end of what it may
//! cost, and turns a polite stop into a kill when the grace is over.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{BoxFuture, Cancel, CancelLevel, CancelSource, Failure, StopReason};

/// Why an attempt was told to stop. The first reason stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stopped {
    User,
    Timeout,
    Budget(Failure),
}

pub(super) struct Ladder {
    job: CancelSource,
    run: Cancel,
    seen: CancelLevel,
    grace: Duration,
    deadline: Option<Instant>,
    /// Suspended time that the deadline makes up for.
    suspended: Duration,
    kill_at: Option<Instant>,
    used_up: Option<BoxFuture<'static, Failure>>,
    stopped: Option<Stopped>,
}

impl Ladder {
    pub(super) fn new(run: Cancel, grace: Duration) -> Self {
        let mut ladder = Self {
            job: CancelSource::beside(&run),
            seen: CancelLevel::Run,
            suspended: run.suspended(),
            run,
            grace,
            deadline: None,
            kill_at: None,
            used_up: None,
            stopped: None,
        };
        ladder.catch_up();
        ladder
    }

    /// Takes over what the run's cancellation says now, without waiting.
    pub(super) fn catch_up(&mut self) {
        let level = self.run.level();
        if level > self.seen {
            self.follow(level);
        }
    }

    pub(super) fn watch(&self) -> Cancel {
        self.job.watch()
    }

    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.stopped.clone()
    }

    /// The job is told to stop once this resolves.
    pub(super) fn until_used_up(&mut self, used_up: Option<BoxFuture<'static, Failure>>) {
        self.used_up = used_up;
    }

    /// The job's time ends then, unless [`stop_clock`](Self::stop_clock) comes first.
    pub(super) fn start_clock(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
        self.suspended = self.run.suspended();
    }

    pub(super) fn stop_clock(&mut self) {
        self.deadline = None;
    }

    /// Awaits the work to its own end while the ladder goes on.
    pub(super) async fn supervise<F: Future>(&mut self, work: F) -> F::Output {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                output = &mut work => return output,
                level = self.run.above(self.seen) => self.follow(level),
                () = reached(self.kill_at) => self.kill(),
                () = reached(self.deadline) => self.time_out(),
                failure = spent(&mut self.used_up) => self.overspend(failure),
            }
        }
    }

    fn follow(&mut self, level: CancelLevel) {
        self.seen = level;
        match level {
            CancelLevel::Run | CancelLevel::Drain => {}
            CancelLevel::Stop(reason) => self.stop(reason, Stopped::User),
            CancelLevel::Kill => {
                self.stopped.get_or_insert(Stopped::User);
                self.kill();
            }
        }
    }

    fn time_out(&mut self) {
        let suspended = self.run.suspended();
        let more = suspended.saturating_sub(self.suspended);
        self.suspended = suspended;
        if !more.is_zero() {
            self.deadline = self.deadline.and_then(|deadline| deadline.checked_add(more));
            return;
        }
        self.deadline = None;
        self.stop(StopReason::Terminate, Stopped::Timeout);
    }

    fn overspend(&mut self, failure: Failure) {
        self.used_up = None;
        self.stop(StopReason::Terminate, Stopped::Budget(failure));
    }

    fn stop(&mut self, reason: StopReason, why: Stopped) {
        self.stopped.get_or_insert(why);
        self.job.raise(CancelLevel::Stop(reason));
        self.kill_at.get_or_insert_with(|| Instant::now() + self.grace);
    }

    fn kill(&mut self) {
        self.kill_at = None;
        self.job.raise(CancelLevel::Kill);
    }
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn spent(used_up: &mut Option<BoxFuture<'static, Failure>>) -> Failure {
    match used_up {
        Some(used_up) => used_up.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn suspended_time_is_not_counted() {
        let source = CancelSource::default();
        let cancel = source.watch();
        let mut ladder = Ladder::new(source.watch(), Duration::ZERO);
        ladder.start_clock(Some(Instant::now() + Duration::from_secs(3)));
        cancel.note_suspension(Duration::from_secs(5));
        ladder.supervise(tokio::time::sleep(Duration::from_secs(7))).await;
        assert_eq!(ladder.stopped(), None);
        ladder.supervise(tokio::time::sleep(Duration::from_secs(2))).await;
        assert_eq!(ladder.stopped(), Some(Stopped::Timeout));
    }
}
