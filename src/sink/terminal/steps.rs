//! The steps under way: which of them have taken long enough to be shown, and the end of each one's log.

use std::collections::VecDeque;
use std::time::Duration;

use super::Progress;
use super::progress::{Bars, Line};
use crate::domain::{JobId, Place};
use crate::event::{Step, StepOutcome};

/// A step shorter than this is never seen on a terminal.
const DRAWN_AFTER_MS: u64 = 500;
/// Where nothing can be drawn, a step that takes longer is named once.
const NAMED_AFTER_MS: u64 = 2_000;
/// Between two frames: ten a second.
const FRAME: Duration = Duration::from_millis(100);
/// Lines of a step's log that are kept in case it fails, and bytes kept of each.
const LOG_LINES: usize = 30;
const LOG_LINE_BYTES: usize = 1_000;

pub(super) struct Steps {
    running: Vec<Running>,
    progress: Progress,
    bars: Bars,
}

struct Running {
    job: JobId,
    /// In a race.
    side: Option<Place>,
    step: Step,
    label: String,
    since_ms: u64,
    /// Drawn or named.
    shown: bool,
    done: u64,
    total: Option<u64>,
    log: VecDeque<String>,
}

/// A job, and in a race the side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'a> {
    pub job: &'a JobId,
    pub side: Option<Place>,
}

/// What is to be shown now.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub named: Vec<(JobId, String)>,
    pub draws: bool,
    pub again: Option<Duration>,
}

impl Steps {
    pub(super) fn new(progress: Progress, columns: Option<usize>) -> Self {
        Self { running: Vec::new(), progress, bars: Bars::new(columns) }
    }

    pub(super) fn start(&mut self, whose: Whose<'_>, step: Step, label: &str, at_ms: u64) {
        self.running.push(Running {
            job: whose.job.clone(),
            side: whose.side,
            step,
            label: whose.label(label),
            since_ms: at_ms,
            shown: false,
            done: 0,
            total: None,
            log: VecDeque::new(),
        });
    }

    pub(super) fn progress(
        &mut self,
        whose: Whose<'_>,
        step: Step,
        done: u64,
        total: Option<u64>,
        label: &str,
    ) {
        let Some(running) = self.find(whose, step) else { return };
        (running.done, running.total) = (done, total);
        if step == Step::Race {
            // The last line of what is held back.
            running.log = VecDeque::from([label.to_owned()]);
            return;
        }
        running.label = whose.label(label);
    }

    pub(super) fn log(&mut self, whose: Whose<'_>, step: Step, line: &str) {
        let Some(running) = self.find(whose, step) else { return };
        if running.log.len() == LOG_LINES {
            running.log.pop_front();
        }
        let end = (0..=LOG_LINE_BYTES.min(line.len())).rev().find(|at| line.is_char_boundary(*at));
        running.log.push_back(line[..end.unwrap_or(0)].to_owned());
    }

    /// Returns the end of the log of a step that failed.
    pub(super) fn finish(&mut self, whose: Whose<'_>, step: Step, outcome: StepOutcome) -> Vec<String> {
        let at = self.running.iter().position(|running| running.is(whose, step));
        let Some(at) = at else { return Vec::new() };
        let ended = self.running.remove(at);
        self.clear();
        if outcome == StepOutcome::Failed { ended.log.into() } else { Vec::new() }
    }

    pub(super) fn end_job(&mut self, job: &JobId) {
        self.running.retain(|running| running.job != *job);
    }

    /// Takes what is drawn off the screen, so that lines can be written; the next frame draws it again.
    pub(super) fn clear(&mut self) {
        self.bars.clear();
    }

    pub(super) fn due(&mut self, now_ms: u64) -> Due {
        let mut due = Due::default();
        for running in &mut self.running {
            let age = now_ms.saturating_sub(running.since_ms);
            let again = match (self.progress, running.shown) {
                (Progress::Named, true) => continue,
                (Progress::Drawn, true) => FRAME,
                (Progress::Named, false) if age >= NAMED_AFTER_MS => {
                    running.shown = true;
                    due.named.push((running.job.clone(), running.label.clone()));
                    continue;
                }
                (Progress::Drawn, false) if age >= DRAWN_AFTER_MS => {
                    running.shown = true;
                    FRAME
                }
                (Progress::Named, false) => Duration::from_millis(NAMED_AFTER_MS - age),
                (Progress::Drawn, false) => Duration::from_millis(DRAWN_AFTER_MS - age),
            };
            due.draws |= running.shown;
            due.again = Some(due.again.map_or(again, |earlier| earlier.min(again)));
        }
        due
    }

    pub(super) fn draw(&mut self) {
        let shown = self.running.iter().filter(|running| running.shown);
        self.bars.draw(shown.map(|running| Line {
            job: running.job.as_str(),
            label: &running.label,
            detail: running.log.back().map(String::as_str).unwrap_or_default(),
            done: running.done,
            total: running.total,
        }));
    }

    fn find(&mut self, whose: Whose<'_>, step: Step) -> Option<&mut Running> {
        self.running.iter_mut().find(|running| running.is(whose, step))
    }
}

impl Running {
    fn is(&self, whose: Whose<'_>, step: Step) -> bool {
        self.job == *whose.job && self.side == whose.side && self.step == step
    }
}

impl Whose<'_> {
    fn label(self, label: &str) -> String {
        match self.side {
            Some(side) => format!("{side}: {label}"),
            None => label.to_owned(),
        }
    }
}
