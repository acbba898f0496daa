//! The one owner of run state: starts attempts, sees their outcomes, gives verdicts.
//!
//! This file starts things; what follows an attempt is in [`aftermath`], what follows a verdict in [`verdicts`].

mod aftermath;
mod verdicts;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::attempt::{Attempt, Ended, errored};
use super::graph::Graph;
use super::policy::Situation;
use super::race::Race;
use super::slots::{Slot, Slots};
use super::{Backends, Decide, Decision, JobReport, OutputPolicy, RunOptions, Summary, growth};
use crate::backend::{Backend, Cancel, CancelLevel, Failure, OutputMode, StopReason};
use crate::domain::{Cause, Place};
use crate::event::{Emitter, Event, Rival, STREAM_VERSION, SUPERSEDED, Verdict};
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
    owners: HashMap<Id, usize>,
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

#[derive(Default)]
struct JobState {
    attempts: u32,
    retries: u32,
    /// Every place tried, the latest last.
    places: Vec<Place>,
    /// A place chosen for want of another: rules are not asked again.
    fell_back_to: Option<Place>,
    /// What was decided last.
    way: Option<Way>,
    began: Option<Instant>,
    deadline: Option<Instant>,
    /// Why it runs where it runs; said when it starts.
    routed: Option<Box<Event>>,
    report: Option<JobReport>,
}

/// A place, and in a race the other one.
type Way = (Place, Option<Rival>);

impl JobState {
    fn note_place(&mut self, place: Place) {
        self.places.retain(|tried| *tried != place);
        self.places.push(place);
    }
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
        let mut slots = self.slots.changes();
        loop {
            self.start_ready().await;
            if self.work.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                _ = self.cancel.above(self.level) => self.follow_cancel().await,
                Some(ended) = self.work.join_next_with_id() => self.settle(ended).await,
                () = slots.next() => {}
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
        let Decision { place, reason, reasons, quote, rival } =
            (self.decide)(self.job(index), self.jobs[index].attempts + 1);
        let rival = rival.filter(|rival| rival.place != place && self.backends.contains_key(&rival.place));
        self.slots.enqueue(place, index);
        if self.jobs[index].way.replace((place, rival)) == Some((place, rival)) {
            return;
        }
        let job = self.job(index).id.clone();
        let state = &mut self.jobs[index];
        if let Some(rival) = rival {
            state.note_place(rival.place);
        }
        state.note_place(place);
        state.routed = Some(Box::new(Event::JobRouted { job, place, reason, reasons, quote, rival }));
    }

    async fn start_ready(&mut self) {
        while let Some((slot, index)) = self.slots.take() {
            if self.jobs[index].report.is_none() {
                self.start(index, slot).await;
            }
        }
    }

    async fn start(&mut self, index: usize, slot: Slot) {
        if self.job(index).is_group() {
            return self.finish(index, Verdict::Passed).await;
        }
        if let Some(routed) = self.jobs[index].routed.take() {
            self.emitter.emit(*routed).await;
        }
        let (place, state) = (slot.place(), &mut self.jobs[index]);
        state.began.get_or_insert_with(Instant::now);
        let rival = state.way.and_then(|(_, rival)| rival);
        let Some(backend) = self.backends.get(&place) else {
            let failure = Failure::new(Cause::Infra, format!("this accel has no backend for {place}"));
            return self.finish(index, errored(failure)).await;
        };
        state.attempts += 1;
        let attempt = self.attempt(index, backend);
        let second = rival.and_then(|rival| Some((self.backends.get(&rival.place)?, rival.after)));
        let task = match second {
            Some((backend, after)) => {
                let race = Race::new(attempt, self.attempt(index, backend), after);
                let slots = self.slots.clone();
                self.work.spawn(async move { Work::Attempt(race.run(slot, slots).await) })
            }
            None => self.work.spawn(async move {
                let ended = attempt.run().await;
                drop(slot);
                Work::Attempt(ended)
            }),
        };
        self.owners.insert(task.id(), index);
    }

    /// The job's present attempt, in the place of this backend.
    fn attempt(&self, index: usize, backend: &Arc<dyn Backend>) -> Attempt {
        let state = &self.jobs[index];
        Attempt {
            plan: Arc::clone(&self.plan),
            index,
            number: state.attempts,
            measure: growth::measure(&self.plan.jobs[index], state.retries),
            situation: Situation {
                policy: self.options.fallback,
                retries: state.retries,
                tried: state.places.clone(),
                on_exceed: self.plan.budget.on_exceed,
            },
            jitter: self.options.jitter.clone(),
            backend: Arc::clone(backend),
            emitter: self.emitter.clone(),
            cancel: self.cancel.clone(),
            deadline: state.deadline,
            output: self.output_mode(index),
            entrant: None,
        }
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
        // What has stopped the job is known before its end: it decides the exit code and what becomes of the others.
        self.follow_cancel().await;
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let job = self.owners.remove(&id).expect("all work has an owner");
        match ended {
            Ok((_, Work::Attempt(ended))) => self.after_attempt(job, ended).await,
            Ok((_, Work::Waited)) => self.after_delay(job).await,
            Err(error) => {
                let failure = Failure::new(Cause::Infra, format!("accel failed inside: {error}"));
                self.finish(job, errored(failure)).await;
            }
        }
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
            CancelLevel::Stop(StopReason::Quit) => ("stop", "q"),
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
}
