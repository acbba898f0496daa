//! The one owner of run state: starts attempts, sees their outcomes, gives verdicts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::attempt::{Attempt, Ended, Outcome, errored};
use super::graph::Graph;
use super::policy::{Next, Situation};
use super::slots::Slots;
use super::{Backends, Decide, Decision, JobReport, OnFailure, OutputPolicy, RunOptions, Summary, exit_code};
use crate::backend::{Cancel, CancelLevel, Failure, OutputMode, StopReason};
use crate::domain::{Cause, Place};
use crate::event::{Emitter, Event, STREAM_VERSION, SUPERSEDED, Verdict};
use crate::plan::spec::{Plan, PlannedJob};

pub(super) struct Dispatcher {
    plan: Arc<Plan>,
    options: RunOptions,
    backends: Backends,
    decide: Decide,
    emitter: Emitter,
    cancel: Cancel,
    level: CancelLevel,
    stopped_by: Option<StopReason>,
    graph: Graph,
    slots: Slots,
    jobs: Vec<JobState>,
    work: JoinSet<Work>,
    /// Which job each running piece of work belongs to, for work that ends in a panic.
    owners: HashMap<Id, Owner>,
    /// The job after whose failure nothing new starts.
    drained_by: Option<usize>,
    began: Instant,
}

/// A finished piece of work.
enum Work {
    Attempt(Ended),
    /// The delay before a retry is over.
    Waited,
}

#[derive(Clone, Copy)]
struct Owner {
    job: usize,
    /// The place whose slot the work holds.
    slot: Option<Place>,
}

#[derive(Default)]
struct JobState {
    attempts: u32,
    retries: u32,
    /// Every place tried, the latest last.
    places: Vec<Place>,
    /// A place chosen for want of another: rules are not asked again.
    fell_back_to: Option<Place>,
    began: Option<Instant>,
    deadline: Option<Instant>,
    /// Why it runs where it runs; said when it starts.
    routed: Option<Box<Event>>,
    report: Option<JobReport>,
}

impl Dispatcher {
    pub(super) fn new(
        plan: Arc<Plan>,
        options: RunOptions,
        backends: Backends,
        decide: Decide,
        emitter: Emitter,
        cancel: Cancel,
    ) -> Self {
        Self {
            level: CancelLevel::Run,
            stopped_by: None,
            graph: Graph::new(&plan.jobs),
            slots: Slots::new(options.parallel),
            jobs: plan.jobs.iter().map(|_| JobState::default()).collect(),
            work: JoinSet::new(),
            owners: HashMap::new(),
            drained_by: None,
            began: Instant::now(),
            plan,
            options,
            backends,
            decide,
            emitter,
            cancel,
        }
    }

    pub(super) async fn run(mut self) -> Summary {
        self.emit_started().await;
        self.follow_cancel().await;
        for root in self.graph.roots() {
            self.make_ready(root);
        }
        loop {
            self.start_ready().await;
            if self.work.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                _ = self.cancel.above(self.level) => self.follow_cancel().await,
                Some(ended) = self.work.join_next_with_id() => self.settle(ended).await,
            }
        }
        self.finish_run().await
    }

    async fn emit_started(&self) {
        let event = Event::RunStarted {
            version: STREAM_VERSION,
            accel: env!("CARGO_PKG_VERSION").to_owned(),
            run: self.options.run.clone(),
            requested: self.plan.requested.clone(),
            planned: self.plan.jobs.iter().map(|job| job.id.clone()).collect(),
        };
        self.emitter.emit(event).await;
    }

    fn job(&self, index: usize) -> &PlannedJob {
        &self.plan.jobs[index]
    }

    /// Decides the place of a job's next attempt, and queues it there.
    fn make_ready(&mut self, index: usize) {
        if self.jobs[index].report.is_some() {
            return;
        }
        let Decision { place, reason, reasons, quote } =
            (self.decide)(self.job(index), self.jobs[index].attempts + 1);
        self.slots.enqueue(place, index);
        if self.jobs[index].places.last() == Some(&place) {
            return;
        }
        let job = self.job(index).id.clone();
        self.jobs[index].places.push(place);
        self.jobs[index].routed = Some(Box::new(Event::JobRouted { job, place, reason, reasons, quote }));
    }

    async fn start_ready(&mut self) {
        while let Some((place, index)) = self.slots.take() {
            if self.jobs[index].report.is_some() {
                self.slots.release(place);
                continue;
            }
            self.start(index, place).await;
        }
    }

    async fn start(&mut self, index: usize, place: Place) {
        if self.job(index).is_group() {
            self.slots.release(place);
            return self.finish(index, Verdict::Passed).await;
        }
        if let Some(routed) = self.jobs[index].routed.take() {
            self.emitter.emit(*routed).await;
        }
        let state = &mut self.jobs[index];
        state.began.get_or_insert_with(Instant::now);
        let Some(backend) = self.backends.get(&place) else {
            self.slots.release(place);
            let failure = Failure::new(Cause::Infra, format!("this accel has no backend for {place}"));
            return self.finish(index, errored(failure)).await;
        };
        state.attempts += 1;
        let attempt = Attempt {
            plan: Arc::clone(&self.plan),
            index,
            number: state.attempts,
            backend: Arc::clone(backend),
            emitter: self.emitter.clone(),
            cancel: self.cancel.clone(),
            deadline: state.deadline,
            output: self.output_mode(index),
        };
        let task = self.work.spawn(async move { Work::Attempt(attempt.run().await) });
        self.owners.insert(task.id(), Owner { job: index, slot: Some(place) });
    }

    /// Only a job that is alone in its plan may write straight to accel's own stdout and stderr, and one that
    /// talks with a person at the terminal.
    fn output_mode(&self, index: usize) -> OutputMode {
        let direct = self.plan.jobs.len() == 1 || self.job(index).spec.tty;
        match self.options.output {
            OutputPolicy::InheritWhenAlone if direct => OutputMode::Inherit,
            _ => OutputMode::Events,
        }
    }

    async fn settle(&mut self, ended: Result<(Id, Work), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Owner { job, slot } = self.owners.remove(&id).expect("all work has an owner");
        if let Some(place) = slot {
            self.slots.release(place);
        }
        match ended {
            Ok((_, Work::Attempt(ended))) => self.after_attempt(job, ended).await,
            Ok((_, Work::Waited)) => self.after_delay(job).await,
            Err(error) => {
                let failure = Failure::new(Cause::Infra, format!("accel failed inside: {error}"));
                self.finish(job, errored(failure)).await;
            }
        }
    }

    async fn after_attempt(&mut self, index: usize, ended: Ended) {
        self.jobs[index].deadline = ended.deadline;
        let cause = match &ended.outcome {
            Outcome::Failed(failure) => failure.cause,
            Outcome::Verdict(Verdict::Failed { .. }) => Cause::Command,
            Outcome::Verdict(verdict) => return self.finish(index, verdict.clone()).await,
        };
        match self.next(index, cause) {
            Next::Retry { delay } => self.retry(index, cause, delay).await,
            Next::Fallback { to } => self.fall_back(index, to, cause, ended.outcome).await,
            Next::Verdict { forbidden } => {
                let mut verdict = verdict_of(ended.outcome);
                if let (Verdict::Errored { help, .. }, Some(place)) = (&mut verdict, forbidden) {
                    help.get_or_insert_with(|| format!("`strict` forbids the fallback to {place}"));
                }
                self.finish(index, verdict).await;
            }
        }
    }

    fn next(&self, index: usize, cause: Cause) -> Next {
        if self.level > CancelLevel::Run {
            return Next::Verdict { forbidden: None };
        }
        let state = &self.jobs[index];
        let situation = Situation {
            job: self.job(index),
            policy: self.options.fallback,
            cause,
            retries: state.retries,
            tried: &state.places,
            time_left: state.deadline.map(|at| at.saturating_duration_since(Instant::now())),
        };
        situation.next(&self.options.jitter)
    }

    async fn retry(&mut self, index: usize, cause: Cause, delay: Duration) {
        self.jobs[index].retries += 1;
        let (job, attempt) = (self.job(index).id.clone(), self.jobs[index].attempts + 1);
        self.emitter.emit(Event::Retry { job, attempt, cause, delay }).await;
        let mut cancel = self.cancel.clone();
        let task = self.work.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = cancel.stopped() => {}
            }
            Work::Waited
        });
        self.owners.insert(task.id(), Owner { job: index, slot: None });
    }

    async fn after_delay(&mut self, index: usize) {
        if self.level.stops() {
            return self.finish(index, Verdict::Cancelled { exit: None }).await;
        }
        match self.jobs[index].fell_back_to {
            Some(place) => self.slots.enqueue(place, index),
            None => self.make_ready(index),
        }
    }

    async fn fall_back(&mut self, index: usize, to: Place, cause: Cause, outcome: Outcome) {
        let detail = match outcome {
            Outcome::Failed(failure) => failure.message,
            Outcome::Verdict(_) => String::new(),
        };
        let from = *self.jobs[index].places.last().expect("a job that falls back has been somewhere");
        let job = self.job(index).id.clone();
        self.emitter.emit(Event::Fallback { job, from, to, cause, detail }).await;
        self.jobs[index].places.push(to);
        self.jobs[index].fell_back_to = Some(to);
        self.slots.enqueue(to, index);
    }

    /// Gives a job its verdict, and all that follows from it.
    async fn finish(&mut self, index: usize, verdict: Verdict) {
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
    async fn skip_unstarted(&mut self, verdict: &Verdict, blamed: Option<usize>) {
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

    /// Takes over the run's cancel level. Running attempts follow it themselves.
    async fn follow_cancel(&mut self) {
        let level = self.cancel.level();
        if level <= self.level {
            return;
        }
        self.level = level;
        let (name, by) = match level {
            CancelLevel::Run => return,
            CancelLevel::Drain => ("drain", "request"),
            CancelLevel::Stop(StopReason::Superseded(_)) => ("stop", SUPERSEDED),
            CancelLevel::Stop(reason) => ("stop", reason.signal_name()),
            CancelLevel::Kill => ("kill", "repeated signal"),
        };
        match level {
            CancelLevel::Stop(reason) => self.stopped_by = Some(reason),
            CancelLevel::Kill => _ = self.stopped_by.get_or_insert(StopReason::Interrupt),
            CancelLevel::Run | CancelLevel::Drain => {}
        }
        self.emitter.emit(Event::CancelRaised { level: name.to_owned(), by: by.to_owned() }).await;
        self.skip_unstarted(&Verdict::Cancelled { exit: None }, None).await;
    }

    async fn finish_run(mut self) -> Summary {
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

fn verdict_of(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Verdict(verdict) => verdict,
        Outcome::Failed(failure) => errored(failure),
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
