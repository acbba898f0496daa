//! One attempt at a job in one place: open, execute, collect outputs, close.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Jitter;
use super::growth::Measure;
use super::ladder::{Ladder, Stopped};
use super::policy::{Next, Situation};
use crate::backend::{Backend, Cancel, CancelLevel, Failure, Keep, OpenRequest, OutputMode, Session};
use crate::base::quote::shell_join;
use crate::domain::{Cause, Exit};
use crate::event::{Emitter, Event, Level, Verdict};
use crate::plan::spec::{CommandSpec, Plan, PlannedJob, Warm};

#[derive(Debug)]
pub(super) enum Outcome {
    Verdict(Verdict),
    /// The backend could not do its part: the dispatcher decides what follows.
    Failed(Failure),
}

impl Outcome {
    /// Why it did not succeed; `None`: it did, or there is nothing to be done about it.
    pub(super) fn cause(&self) -> Option<Cause> {
        match self {
            Self::Failed(failure) => Some(failure.cause),
            Self::Verdict(Verdict::Failed { .. }) => Some(Cause::Command),
            Self::Verdict(Verdict::TimedOut { .. }) => Some(Cause::Timeout),
            Self::Verdict(_) => None,
        }
    }
}

pub(super) struct Attempt {
    pub plan: Arc<Plan>,
    pub index: usize,
    /// From 1.
    pub number: u32,
    pub measure: Measure,
    pub situation: Situation,
    pub jitter: Jitter,
    pub backend: Arc<dyn Backend>,
    pub emitter: Emitter,
    pub cancel: Cancel,
    /// When the job's time ends, if an earlier attempt has started its clock.
    pub deadline: Option<Instant>,
    pub output: OutputMode,
}

pub(super) struct Ended {
    pub outcome: Outcome,
    pub next: Next,
    /// When the job's time ends, once its clock has started.
    pub deadline: Option<Instant>,
}

impl Attempt {
    pub(super) async fn run(mut self) -> Ended {
        let mut ladder = Ladder::new(self.cancel.clone(), self.job().spec.stop_timeout);
        ladder.start_clock(self.deadline);
        let (outcome, next) = match self.open(&mut ladder).await {
            Ok(session) => self.with_session(session, &mut ladder).await,
            Err(outcome) => self.judged(outcome),
        };
        Ended { outcome, next, deadline: self.deadline }
    }

    /// What became of the command, then of its outputs: those of an attempt that another one follows are not wanted.
    async fn with_session(&mut self, mut session: Box<dyn Session>, ladder: &mut Ladder) -> (Outcome, Next) {
        let (outcome, exit) = self.execute(session.as_mut(), ladder).await;
        let mut judged = self.judged(outcome);
        if let ((Outcome::Verdict(verdict), Next::Verdict { .. }), Some(exit)) = (&judged, exit) {
            let outcome = self.collect(session.as_mut(), ladder, verdict.clone(), exit).await;
            judged = self.judged(outcome);
        }
        if judged.1.is_another() {
            self.abandon(session.as_mut(), ladder).await;
        }
        self.close(session, ladder).await;
        judged
    }

    fn job(&self) -> &PlannedJob {
        &self.plan.jobs[self.index]
    }

    async fn open(&self, ladder: &mut Ladder) -> Result<Box<dyn Session>, Outcome> {
        if ladder.stopped().is_some() {
            return Err(Outcome::Verdict(Verdict::Cancelled { exit: None }));
        }
        let opened = ladder.supervise(self.backend.open(self.open_request(ladder))).await;
        opened.map_err(|failure| self.without_exit(ladder, failure))
    }

    fn judged(&self, outcome: Outcome) -> (Outcome, Next) {
        let next = match outcome.cause() {
            Some(cause) if self.cancel.level() == CancelLevel::Run => {
                let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
                self.situation.next(self.job(), cause, left, &self.jitter)
            }
            _ => Next::Verdict { forbidden: None },
        };
        (outcome, next)
    }

    async fn abandon(&self, session: &mut dyn Session, ladder: &mut Ladder) {
        if let Err(failure) = ladder.supervise(session.abandon()).await {
            let text = format!("outputs of this attempt may be left: {failure}");
            self.warn("outputs-left", &text, failure.help).await;
        }
    }

    async fn close(&self, session: Box<dyn Session>, ladder: &mut Ladder) {
        if let Err(failure) = ladder.supervise(session.close()).await {
            let text = format!("not everything was cleaned up: {failure}");
            self.warn("close-failed", &text, failure.help).await;
        }
    }

    fn open_request(&self, ladder: &Ladder) -> OpenRequest {
        OpenRequest {
            job: self.job().id.clone(),
            spec: Arc::clone(&self.measure.spec),
            root: self.plan.root.clone(),
            attempt: self.number,
            timeout: self.time_left(),
            queue_limit: self.situation.queue_limit(self.job()),
            shortage: self.situation.shortage(self.job()),
            prospect: self.situation.prospect(self.job()),
            keep: match self.job().warm {
                Some(Warm::Keep { idle, max }) => Some(Keep { idle, max }),
                Some(Warm::OneShot) | None => None,
            },
            needed_outputs: self.needed_outputs(),
            emitter: self.emitter.clone(),
            cancel: ladder.watch(),
        }
    }

    fn time_left(&self) -> Option<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.or(self.measure.limit)
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

    /// The exit, if there are outputs to be brought back.
    async fn execute(&mut self, session: &mut dyn Session, ladder: &mut Ladder) -> (Outcome, Option<Exit>) {
        ladder.catch_up();
        if let Some(stopped) = ladder.stopped() {
            return (Outcome::Verdict(self.stopped_verdict(stopped, None)), None);
        }
        self.announce().await;
        if self.deadline.is_none() {
            self.deadline = self.measure.limit.and_then(|limit| Instant::now().checked_add(limit));
            ladder.start_clock(self.deadline);
        }
        ladder.until_used_up(session.used_up());
        let began = Instant::now();
        let executed = ladder.supervise(session.execute(self.output)).await;
        ladder.stop_clock();
        let (job, attempt) = (self.job().id.clone(), self.number);
        self.emitter.emit(Event::CommandFinished { job, attempt, duration: began.elapsed() }).await;
        let exit = match executed {
            Ok(exit) => exit,
            Err(failure) => return (self.without_exit(ladder, failure), None),
        };
        match ladder.stopped() {
            Some(Stopped::User) => (Outcome::Verdict(Verdict::Cancelled { exit: Some(exit) }), None),
            Some(stopped) => (Outcome::Verdict(self.stopped_verdict(stopped, Some(exit))), Some(exit)),
            None if exit.success() => (Outcome::Verdict(Verdict::Passed), Some(exit)),
            None => (Outcome::Verdict(Verdict::Failed { exit }), Some(exit)),
        }
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
            Stopped::User => Verdict::Cancelled { exit },
            Stopped::Timeout => Verdict::TimedOut { limit: self.measure.limit.unwrap_or_default() },
            Stopped::Budget(failure) => errored(failure),
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
