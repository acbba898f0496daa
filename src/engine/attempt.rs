//! One attempt at a job in one place: open, execute, collect outputs, close.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ladder::{Ladder, Stopped};
use crate::backend::{Backend, Cancel, Failure, OpenRequest, OutputMode, Session};
use crate::base::quote::shell_join;
use crate::domain::Exit;
use crate::event::{Emitter, Event, Level, Verdict};
use crate::plan::spec::{CommandSpec, FallbackOn, Plan, PlannedJob};

#[derive(Debug)]
pub(super) enum Outcome {
    Verdict(Verdict),
    /// The backend could not do its part: the dispatcher decides what follows.
    Failed(Failure),
}

pub(super) struct Attempt {
    pub plan: Arc<Plan>,
    pub index: usize,
    /// From 1.
    pub number: u32,
    pub backend: Arc<dyn Backend>,
    pub emitter: Emitter,
    pub cancel: Cancel,
    /// When the job's time ends, if an earlier attempt has started its clock.
    pub deadline: Option<Instant>,
    pub output: OutputMode,
}

pub(super) struct Ended {
    pub outcome: Outcome,
    /// When the job's time ends, once its clock has started.
    pub deadline: Option<Instant>,
}

impl Attempt {
    pub(super) async fn run(mut self) -> Ended {
        let outcome = self.outcome().await;
        Ended { outcome, deadline: self.deadline }
    }

    fn job(&self) -> &PlannedJob {
        &self.plan.jobs[self.index]
    }

    async fn outcome(&mut self) -> Outcome {
        let mut ladder = Ladder::new(self.cancel.clone(), self.job().spec.stop_timeout);
        ladder.start_clock(self.deadline);
        if ladder.stopped().is_some() {
            return Outcome::Verdict(Verdict::Cancelled { exit: None });
        }
        let opened = ladder.supervise(self.backend.open(self.open_request(&ladder))).await;
        let mut session = match opened {
            Ok(session) => session,
            Err(failure) => return self.without_exit(&ladder, failure),
        };
        let outcome = self.with_session(session.as_mut(), &mut ladder).await;
        ladder.stop_clock();
        if let Err(failure) = ladder.supervise(session.close()).await {
            self.warn("close-failed", &format!("not everything was cleaned up: {failure}"), failure.help)
                .await;
        }
        outcome
    }

    fn open_request(&self, ladder: &Ladder) -> OpenRequest {
        OpenRequest {
            job: self.job().id.clone(),
            spec: Arc::clone(&self.job().spec),
            root: self.plan.root.clone(),
            attempt: self.number,
            timeout: self.time_left(),
            queue_limit: self.queue_limit(),
            needed_outputs: self.needed_outputs(),
            emitter: self.emitter.clone(),
            cancel: ladder.watch(),
        }
    }

    fn time_left(&self) -> Option<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.or(self.job().timeout)
    }

    fn queue_limit(&self) -> Option<Duration> {
        let limits = self.job().fallback.iter().flat_map(|fallback| &fallback.on).filter_map(|on| match on {
            FallbackOn::QueueLonger(limit) => Some(*limit),
            FallbackOn::Cause(_) => None,
        });
        limits.min()
    }

    /// Of every job below this one in the graph, each once.
    fn needed_outputs(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut waiting = self.job().needs.clone();
        let mut outputs = self.job().earlier_outputs.clone();
        while let Some(index) = waiting.pop() {
            if seen.insert(index) {
                let job = &self.plan.jobs[index];
                outputs.extend(job.spec.outputs.iter().flatten().cloned());
                outputs.extend(job.earlier_outputs.iter().cloned());
                waiting.extend(&job.needs);
            }
        }
        outputs
    }

    async fn with_session(&mut self, session: &mut dyn Session, ladder: &mut Ladder) -> Outcome {
        ladder.catch_up();
        if let Some(stopped) = ladder.stopped() {
            return Outcome::Verdict(self.stopped_verdict(stopped, None));
        }
        self.announce().await;
        if self.deadline.is_none() {
            self.deadline = self.job().timeout.and_then(|limit| Instant::now().checked_add(limit));
            ladder.start_clock(self.deadline);
        }
        let began = Instant::now();
        let executed = ladder.supervise(session.execute(self.output)).await;
        ladder.stop_clock();
        let (job, attempt) = (self.job().id.clone(), self.number);
        self.emitter.emit(Event::CommandFinished { job, attempt, duration: began.elapsed() }).await;
        let exit = match executed {
            Ok(exit) => exit,
            Err(failure) => return self.without_exit(ladder, failure),
        };
        if ladder.stopped() == Some(Stopped::ByUser) {
            return Outcome::Verdict(Verdict::Cancelled { exit: Some(exit) });
        }
        let verdict = match ladder.stopped() {
            Some(stopped) => self.stopped_verdict(stopped, Some(exit)),
            None if exit.success() => Verdict::Passed,
            None => Verdict::Failed { exit },
        };
        self.collect(session, ladder, verdict, exit).await
    }

    /// Outputs come back also when the job failed; losing them fails a job that had passed.
    async fn collect(
        &self,
        session: &mut dyn Session,
        ladder: &mut Ladder,
        verdict: Verdict,
        exit: Exit,
    ) -> Outcome {
        let Err(failure) = ladder.supervise(session.collect_outputs()).await else {
            return Outcome::Verdict(verdict);
        };
        if !verdict.passed() {
            self.warn("outputs-lost", &format!("outputs were not brought back: {failure}"), failure.help)
                .await;
            return Outcome::Verdict(verdict);
        }
        match ladder.stopped() {
            Some(stopped) => Outcome::Verdict(self.stopped_verdict(stopped, Some(exit))),
            None => Outcome::Failed(failure),
        }
    }

    async fn announce(&self) {
        let job = self.job();
        let command = match &job.spec.command {
            CommandSpec::Shell(text) => text.clone(),
            CommandSpec::Argv(words) => shell_join(words.iter().map(String::as_str)),
        };
        let (place, attempt) = (self.backend.place(), self.number);
        self.emitter.emit(Event::JobStarted { job: job.id.clone(), place, attempt, command }).await;
        if self.output == OutputMode::Inherit {
            self.emitter.shown().await;
        }
    }

    fn without_exit(&self, ladder: &Ladder, failure: Failure) -> Outcome {
        match ladder.stopped() {
            Some(stopped) => Outcome::Verdict(self.stopped_verdict(stopped, None)),
            None => Outcome::Failed(failure),
        }
    }

    fn stopped_verdict(&self, stopped: Stopped, exit: Option<Exit>) -> Verdict {
        match stopped {
            Stopped::ByUser => Verdict::Cancelled { exit },
            Stopped::ByTimeout => Verdict::TimedOut { limit: self.job().timeout.unwrap_or_default() },
        }
    }

    async fn warn(&self, code: &'static str, text: &str, help: Option<String>) {
        let job = Some(self.job().id.clone());
        self.emitter
            .emit(Event::Notice { job, level: Level::Warning, code, text: text.to_owned(), help })
            .await;
    }
}

/// A failure as a verdict.
pub(super) fn errored(failure: Failure) -> Verdict {
    let Failure { cause, message, help, exit_code } = failure;
    Verdict::Errored { cause, message, help, exit_code }
}
