//! What a session tells while it works.

use std::time::Duration;

use tokio::time::Instant;

use crate::base::money::Dollars;
use crate::domain::JobId;
use crate::event::{Emitter, Event, Level, Step, StepOutcome};

#[derive(Debug, Clone)]
pub(super) struct Reporter {
    pub(super) job: JobId,
    pub(super) emitter: Emitter,
}

/// A step that was announced. Steps of a session that fails are left open: the failure says the rest.
#[derive(Debug)]
pub(super) struct Begun {
    step: Step,
    at: Instant,
}

impl Reporter {
    pub(super) async fn begin(&self, step: Step, label: impl Into<String>) -> Begun {
        self.emitter.emit(Event::StepStarted { job: self.job.clone(), step, label: label.into() }).await;
        Begun { step, at: Instant::now() }
    }

    pub(super) async fn progress(&self, step: Step, done: u64, total: Option<u64>, label: impl Into<String>) {
        let job = self.job.clone();
        self.emitter.emit(Event::StepProgress { job, step, done, total, label: label.into() }).await;
    }

    pub(super) async fn log(&self, step: Step, line: impl Into<String>) {
        self.emitter.emit(Event::StepLog { job: self.job.clone(), step, line: line.into() }).await;
    }

    pub(super) async fn end(&self, begun: Begun, outcome: StepOutcome) {
        let duration = begun.at.elapsed();
        self.emitter
            .emit(Event::StepFinished { job: self.job.clone(), step: begun.step, outcome, duration })
            .await;
    }

    pub(super) async fn cost(&self, at_least: Dollars, lived: Duration) {
        self.emitter.emit(Event::Cost { job: self.job.clone(), at_least, lived }).await;
    }

    pub(super) async fn notice(
        &self,
        level: Level,
        code: &'static str,
        text: impl Into<String>,
        help: Option<&str>,
    ) {
        let help = help.map(ToOwned::to_owned);
        let job = Some(self.job.clone());
        self.emitter.emit(Event::Notice { job, level, code, text: text.into(), help }).await;
    }
}

/// `1.5 s`, for sentences.
pub(super) fn seconds(duration: Duration) -> String {
    let seconds = (duration.as_secs_f64() * 10.0).round() / 10.0;
    format!("{seconds} s")
}
