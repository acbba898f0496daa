//! Keeps what every attempt at a job took, for guesses and for `accel history`.
//!
//! What must stay true: a run does not wait for it. Each attempt is one line appended to a file once it is over; no
//! database is opened, but for folding a file that has grown large. A history that cannot be written is no fault of
//! the run and is not mentioned.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Sink, SinkError};
use crate::base::money::Dollars;
use crate::domain::{Cause, JobId, Place};
use crate::event::{Event, SideEnd, Stamped, Step, StepOutcome, Verdict};
use crate::plan::spec::Plan;
use crate::store::History;
use crate::store::history::{Ending, Entry, FOLD_AT, Phases, Spool, milliseconds};
use crate::workspace::facts::load_average;

pub struct HistorySink {
    plan: Arc<Plan>,
    history: History,
    spool: Spool,
    run: String,
    open: BTreeMap<Whose, Attempt>,
    /// Attempts of a job that are over.
    over: BTreeMap<JobId, u32>,
    spool_size: u64,
}

/// A job, and in a race the side.
type Whose = (JobId, Option<Place>);

/// What is known of an attempt that goes on.
struct Attempt {
    place: Place,
    began_ms: u64,
    phases: Phases,
    /// When the command started, and whether its end was told.
    command: Option<u64>,
    image_built: bool,
    warm: bool,
    bytes_sent: u64,
    cost: Option<Dollars>,
    load_percent: Option<u32>,
    /// One side of a race: another attempt is no continuation of it.
    raced: bool,
}

impl Attempt {
    fn new(place: Place, began_ms: u64) -> Self {
        Self {
            place,
            began_ms,
            phases: Phases::default(),
            command: None,
            image_built: false,
            warm: false,
            bytes_sent: 0,
            cost: None,
            load_percent: None,
            raced: false,
        }
    }

    fn step(&mut self, step: Step, outcome: StepOutcome, took: Duration) {
        self.phases.add(step, took);
        match step {
            Step::Image => self.image_built |= outcome == StepOutcome::Done,
            Step::Start => self.warm = outcome == StepOutcome::Cached,
            Step::Sync | Step::Queue | Step::Outputs | Step::Stop | Step::Race => {}
        }
    }
}

impl HistorySink {
    pub fn new(plan: Arc<Plan>, history: History) -> Self {
        let spool = Spool::new(history.database().directories().clone());
        Self {
            plan,
            history,
            spool,
            run: String::new(),
            open: BTreeMap::new(),
            over: BTreeMap::new(),
            spool_size: 0,
        }
    }

    fn end(&mut self, whose: &Whose, ended: Ending, cause: Option<Cause>, at_ms: u64) {
        let Some(attempt) = self.open.remove(whose) else { return };
        let job = &whose.0;
        let Some(planned) = self.plan.jobs.iter().find(|planned| planned.id == *job) else { return };
        let number = self.over.entry(job.clone()).or_default();
        *number += 1;
        let mut phases = attempt.phases;
        if let Some(began_ms) = attempt.command {
            phases.run_ms = at_ms.saturating_sub(began_ms);
        }
        let entry = Entry {
            run: self.run.clone(),
            job: job.clone(),
            attempt: *number,
            project: self.plan.project.clone(),
            worktree: self.plan.root.to_string_lossy().into_owned(),
            digest: planned.spec.digest().short(),
            place: attempt.place,
            started_at_ms: attempt.began_ms,
            phases,
            image_built: attempt.image_built,
            warm: attempt.warm,
            bytes_sent: attempt.bytes_sent,
            ended,
            cause,
            cost: attempt.cost,
            load_percent: attempt.load_percent,
        };
        match self.spool.append(&entry) {
            Ok(size) => self.spool_size = size,
            Err(error) => tracing::debug!(%error, "a run is not recorded"),
        }
    }

    fn follow(&mut self, whose: Whose, event: &Event, at_ms: u64) {
        match event {
            // The sides of a race begin when something is heard of them.
            Event::JobRouted { rival: Some(_), .. } => {}
            // Only the place is new: the attempt begins when the job is routed or tried again.
            Event::JobRouted { place, .. } => {
                self.open.insert(whose, Attempt::new(*place, at_ms));
            }
            Event::SideEnded { place, end, .. } => self.end_side(&whose, *place, end, at_ms),
            Event::Retry { cause, .. } => {
                let goes_on = self.open.get(&whose).filter(|attempt| !attempt.raced);
                let place = goes_on.map(|attempt| attempt.place);
                self.end(&whose, after_failure(*cause), Some(*cause), at_ms);
                if let Some(place) = place {
                    self.open.insert(whose, Attempt::new(place, at_ms));
                }
            }
            Event::Fallback { to, cause, .. } => {
                self.end(&whose, after_failure(*cause), Some(*cause), at_ms);
                self.open.insert(whose, Attempt::new(*to, at_ms));
            }
            Event::JobFinished { place, verdict, .. } => match (place, ending(verdict)) {
                (Some(_), Some((ended, cause))) => self.end(&whose, ended, cause, at_ms),
                _ => drop(self.open.remove(&whose)),
            },
            _ => self.within(whose, event, at_ms),
        }
    }

    fn within(&mut self, whose: Whose, event: &Event, at_ms: u64) {
        if let (Event::StepStarted { .. } | Event::JobStarted { .. }, Some(side)) = (event, whose.1) {
            self.open.entry(whose.clone()).or_insert_with(|| Attempt::new(side, at_ms));
        }
        if let Some(attempt) = self.open.get_mut(&whose) {
            within(attempt, event, at_ms);
        }
    }

    /// The winner's attempt is the job's from now on.
    fn end_side(&mut self, whose: &Whose, place: Place, end: &SideEnd, at_ms: u64) {
        let attempt = self.open.entry(whose.clone()).or_insert_with(|| Attempt::new(place, at_ms));
        attempt.raced = true;
        match end {
            SideEnd::Won => {
                if let Some(attempt) = self.open.remove(whose) {
                    self.open.insert((whose.0.clone(), None), attempt);
                }
            }
            SideEnd::Lost => self.end(whose, Ending::Lost, None, at_ms),
            SideEnd::Out { cause, .. } => self.end(whose, after_failure(*cause), Some(*cause), at_ms),
            SideEnd::Stopped => self.end(whose, Ending::Cancelled, None, at_ms),
        }
    }
}

/// What happens while an attempt goes on.
fn within(attempt: &mut Attempt, event: &Event, at_ms: u64) {
    match event {
        Event::StepProgress { step: Step::Sync, done, .. } => {
            attempt.bytes_sent = attempt.bytes_sent.max(*done);
        }
        Event::StepFinished { step, outcome, duration, .. } => attempt.step(*step, *outcome, *duration),
        Event::JobStarted { place, .. } => {
            attempt.place = *place;
            attempt.command = Some(at_ms);
            if *place == Place::Local {
                attempt.load_percent = load_average().map(|load| (load * 100.0).round() as u32);
            }
        }
        Event::CommandFinished { duration, .. } => {
            attempt.command = None;
            attempt.phases.run_ms = milliseconds(*duration);
        }
        Event::JobCost { cost, .. } => attempt.cost = Some(cost.at_least),
        _ => {}
    }
}

fn after_failure(cause: Cause) -> Ending {
    if cause == Cause::Command { Ending::Failed } else { Ending::Errored }
}

/// `None` for jobs that were never tried.
fn ending(verdict: &Verdict) -> Option<(Ending, Option<Cause>)> {
    Some(match verdict {
        Verdict::Passed => (Ending::Passed, None),
        Verdict::Failed { .. } => (Ending::Failed, Some(Cause::Command)),
        Verdict::TimedOut { .. } => (Ending::TimedOut, Some(Cause::Timeout)),
        Verdict::Errored { cause, .. } => (Ending::Errored, Some(*cause)),
        Verdict::Cancelled { .. } => (Ending::Cancelled, None),
        Verdict::Skipped { .. } => return None,
    })
}

impl Sink for HistorySink {
    fn name(&self) -> &'static str {
        "the history"
    }

    fn handle(&mut self, stamped: &Stamped) -> Result<(), SinkError> {
        match &stamped.event {
            Event::RunStarted { run, .. } => self.run.clone_from(run),
            Event::RunFinished { .. } if self.spool_size > FOLD_AT => {
                if let Err(error) = self.history.fold() {
                    tracing::debug!(%error, "the history is not folded");
                }
            }
            event => {
                if let Some(job) = event.job().cloned() {
                    self.follow((job, stamped.side), event, stamped.at_ms);
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}
