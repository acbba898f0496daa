//! One attempt at a job in one place: open, execute, collect outputs, close.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Jitter;
use super::growth::Measure;
use super::ladder::{Ladder, Stopped};
use super::policy::{Next, Situation};
use super::race::Entrant;
use crate::backend::{
    Backend, Cancel, CancelLevel, Failure, Keep, OpenRequest, OutputMode, Session, Shortage, Workplace,
};
use crate::base::quote::shell_join;
use crate::domain::{Cause, Exit, Place};
use crate::event::{Emitter, Event, Level, Verdict};
use crate::plan::spec::{CommandSpec, Plan, PlannedJob, Warm};

#[derive(Debug)]
pub(super) enum Outcome {
    Verdict(Verdict),
    /// The backend could not do its part: the dispatcher decides what follows.
    Failed(Failure),
}

impl Outcome {
    /// Whether the command came to an end that says something about the job.
    fn decides(&self) -> bool {
        !matches!(self, Self::Failed(_) | Self::Verdict(Verdict::Cancelled { .. }))
    }

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
    /// In a race.
    pub entrant: Option<Entrant>,
}

pub(super) struct Ended {
    pub place: Place,
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
            Err(outcome) => self.without_session(outcome, &mut ladder).await,
        };
        Ended { place: self.backend.place(), outcome, next, deadline: self.deadline }
    }

    /// The job's time may be over before there is a session.
    async fn without_session(&self, outcome: Outcome, ladder: &mut Ladder) -> (Outcome, Next) {
        if let Some(entrant) = self.entrant.as_ref().filter(|_| outcome.decides())
            && let Some(hold) = ladder.supervise(entrant.claim.hold()).await
        {
            hold.win(self.backend.place());
        }
        self.judged(outcome)
    }

    async fn with_session(&mut self, mut session: Box<dyn Session>, ladder: &mut Ladder) -> (Outcome, Next) {
        let (outcome, exit) = self.execute(session.as_mut(), ladder).await;
        let judged = match &self.entrant {
            Some(entrant) => self.contend(entrant, session.as_mut(), ladder, outcome, exit).await,
            None => self.bring_home(session.as_mut(), ladder, outcome, exit).await,
        };
        if judged.1.is_another() {
            self.abandon(session.as_mut(), ladder).await;
        }
        self.close(session, ladder).await;
        judged
    }

    /// What became of the command, then of its outputs: those of an attempt that another one follows are not wanted.
    async fn bring_home(
        &self,
        session: &mut dyn Session,
        ladder: &mut Ladder,
        outcome: Outcome,
        exit: Option<Exit>,
    ) -> (Outcome, Next) {
        let judged = self.judged(outcome);
        if let ((Outcome::Verdict(verdict), Next::Verdict { .. }), Some(exit)) = (&judged, exit) {
            let outcome = self.collect(session, ladder, verdict.clone(), exit).await;
            return self.judged(outcome);
        }
        judged
    }

    /// In a race: a command that came to its end wins, unless the other side was first. What it printed is shown then.
    async fn contend(
        &self,
        entrant: &Entrant,
        session: &mut dyn Session,
        ladder: &mut Ladder,
        outcome: Outcome,
        exit: Option<Exit>,
    ) -> (Outcome, Next) {
        if !outcome.decides() {
            return self.judged(outcome);
        }
        let hold = ladder.supervise(entrant.claim.hold()).await;
        ladder.catch_up();
        let (None, Some(hold)) = (ladder.stopped().filter(|stopped| *stopped == Stopped::User), hold) else {
            return self.judged(Outcome::Verdict(Verdict::Cancelled { exit }));
        };
        let judged = self.bring_home(session, ladder, outcome, exit).await;
        if judged.0.decides() {
            hold.win(self.backend.place());
            entrant.held.release().await;
        }
        judged
    }

    pub(super) fn job(&self) -> &PlannedJob {
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
            shortage: match self.entrant {
                // The other side may have what is missing here.
                Some(_) => Shortage::Refuse,
                None => self.situation.shortage(self.job()),
            },
            prospect: self.situation.prospect(self.job()),
            keep: match self.job().warm {
                Some(Warm::Keep { idle, max }) => Some(Keep { idle, max }),
                Some(Warm::OneShot) | None => None,
            },
            workplace: match self.entrant {
                Some(_) => Workplace::Copy(self.plan.sync.clone()),
                None => Workplace::Project,
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
            return (self.stopped_outcome(stopped, None), None);
        }
        self.announce().await;
        if self.deadline.is_none() {
            let deadline = self.measure.limit.and_then(|limit| Instant::now().checked_add(limit));
            self.deadline = match &self.entrant {
                // The job's clock starts with its first command.
                Some(entrant) => entrant.claim.deadline(deadline),
                None => deadline,
            };
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
            Some(stopped) => (self.stopped_outcome(stopped, Some(exit)), Some(exit)),
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
            Some(stopped) => self.stopped_outcome(stopped, Some(exit)),
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
            Some(stopped) => self.stopped_outcome(stopped, None),
            None => Outcome::Failed(failure),
        }
    }

    fn stopped_outcome(&self, stopped: Stopped, exit: Option<Exit>) -> Outcome {
        Outcome::Verdict(match stopped {
            Stopped::User => Verdict::Cancelled { exit },
            Stopped::Timeout => Verdict::TimedOut { limit: self.measure.limit.unwrap_or_default() },
            // The other side of a race costs nothing, or is paid for.
            Stopped::Budget(failure) if self.entrant.is_some() => return Outcome::Failed(failure),
            Stopped::Budget(failure) => errored(failure),
        })
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
