//! What people see: accel's own words on stderr, what commands write on stdout and stderr.
//!
//! One job: its bytes as they are. Several: whole lines, each behind the job's name. Each of accel's own lines
//! comes from one event kind and one function in [`words`]. Progress is drawn on a terminal only, for steps
//! that take longer than a moment; elsewhere such a step is named once.

mod lane;
mod neutral;
mod progress;
mod screen;
mod steps;
mod style;
mod words;

use std::collections::HashMap;
use std::time::Duration;

pub use lane::LONGEST_LINE;
pub use screen::{Port, to_the_left};
pub use style::Colors;

use super::{Sink, SinkError};
use crate::domain::{Exit, JobId, Stream};
use crate::event::{Event, Level, SideEnd, Stamped, Step, Verdict};
use lane::{Lane, NameColumn};
use screen::{Elsewhere, Screen};
use steps::{Steps, Whose};
use words::Words;

/// A passed job that was alone and took at least this long gets a closing line.
pub const WORTH_A_CLOSING_LINE: Duration = Duration::from_secs(10);

/// After a stop, how often the jobs that have not ended are named.
const WAIT_NAMED_MS: u64 = 1_000;

const SIGPIPE: i32 = 13;
/// What a shell exits with after a command that SIGPIPE ended.
const AFTER_SIGPIPE: u8 = 141;

/// How much accel itself says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// `--quiet`: failures and what must not be missed.
    Quiet,
    Normal,
    /// `-v`: every reason, command and step log.
    Verbose,
}

/// How the terminal sink is to show things; found out by the caller.
#[derive(Debug, Clone, Copy)]
pub struct TerminalOptions {
    pub verbosity: Verbosity,
    /// Columns of the terminal; `None` where stderr is none.
    pub columns: Option<usize>,
    pub progress: Progress,
    pub step_logs: StepLogs,
}

/// When what a step prints, such as the log of an image's build, is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepLogs {
    /// As it comes: the step is what was asked for.
    Live,
    /// As it comes when asked for details, else its end when the step fails.
    OnFailure,
}

/// Whether moving progress may be drawn (never when stderr is no terminal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Drawn,
    Named,
}

pub struct TerminalSink {
    screen: Screen,
    options: TerminalOptions,
    words: Words,
    steps: Steps,
    layout: Layout,
    lanes: HashMap<JobId, Lane>,
    turns: usize,
    failed: Vec<String>,
    running: Vec<JobId>,
    /// When what is still running after a stop is named next.
    wait_named_at_ms: Option<u64>,
}

/// Known once the run has started.
enum Layout {
    One,
    Several(NameColumn),
}

impl TerminalSink {
    pub fn new(stdout: Port, stderr: Port, options: TerminalOptions) -> Self {
        let words = Words { colors: stderr.colors };
        let progress = if stderr.terminal { options.progress } else { Progress::Named };
        Self {
            screen: Screen::new(stdout, stderr, options.columns),
            steps: Steps::new(progress, options.columns),
            options,
            words,
            layout: Layout::One,
            lanes: HashMap::new(),
            turns: 0,
            failed: Vec::new(),
            running: Vec::new(),
            wait_named_at_ms: None,
        }
    }

    fn several(&self) -> bool {
        matches!(self.layout, Layout::Several(_))
    }

    fn says(&self, least: Verbosity) -> bool {
        self.options.verbosity >= least
    }

    fn say(&mut self, least: Verbosity, line: impl FnOnce(&Words) -> String) -> Result<(), SinkError> {
        if !self.says(least) {
            return Ok(());
        }
        let line = line(&self.words);
        self.steps.clear();
        self.screen.say(&line)
    }

    fn run_started(&mut self, planned: &[JobId]) {
        if planned.len() > 1 {
            let columns = self.options.columns.filter(|_| self.screen.is_terminal(Stream::Stderr));
            self.layout = Layout::Several(NameColumn::new(planned.iter().map(JobId::as_str), columns));
        }
    }

    fn output(&mut self, job: &JobId, stream: Stream, data: &[u8]) -> Result<(), SinkError> {
        self.steps.clear();
        let Layout::Several(column) = self.layout else { return self.screen.raw(stream, data) };
        if !self.lanes.contains_key(job) {
            self.lanes.insert(job.clone(), Lane::new(&column.fit(job.as_str()), self.turns, &self.screen));
            self.turns += 1;
        }
        match self.lanes.get_mut(job) {
            Some(lane) => lane.push(stream, data, &mut self.screen),
            None => Ok(()),
        }
    }

    fn job_finished(&mut self, event: &Event) -> Result<(), SinkError> {
        let Event::JobFinished { job, verdict, attempts, duration, .. } = event else { return Ok(()) };
        if let Some(mut lane) = self.lanes.remove(job) {
            lane.end(&mut self.screen)?;
        }
        self.steps.end_job(job);
        self.running.retain(|running| running != job);
        let least = match verdict {
            Verdict::Passed if self.several() || *duration >= WORTH_A_CLOSING_LINE => Verbosity::Normal,
            Verdict::Passed => Verbosity::Verbose,
            // Hundreds of jobs that never began say nothing that the summary does not.
            Verdict::Cancelled { .. } if *attempts == 0 => Verbosity::Verbose,
            Verdict::Skipped { .. } | Verdict::Cancelled { .. } => Verbosity::Normal,
            // `| head` had enough of a job that writes to accel's own stdout: its exit code says so.
            Verdict::Failed { exit: Exit::Signal(SIGPIPE) | Exit::Code(AFTER_SIGPIPE) }
                if !self.several() =>
            {
                Verbosity::Verbose
            }
            Verdict::Failed { .. } | Verdict::TimedOut { .. } | Verdict::Errored { .. } => {
                self.failed.push(job.to_string());
                Verbosity::Quiet
            }
        };
        self.say(least, |words| words.job_finished(job, verdict, *duration))?;
        self.screen.written_to(Elsewhere::Nothing);
        Ok(())
    }

    fn run_finished(&mut self, event: &Event) -> Result<(), SinkError> {
        self.steps.clear();
        if !self.several() {
            return Ok(());
        }
        let failed = std::mem::take(&mut self.failed);
        self.say(Verbosity::Normal, |words| words.summary(event, &failed))
    }

    fn notice(&mut self, event: &Event) -> Result<(), SinkError> {
        let Event::Notice { level, .. } = event else { return Ok(()) };
        let least = if *level == Level::Info { Verbosity::Normal } else { Verbosity::Quiet };
        self.say(least, |words| words.notice(event))
    }

    /// Says, once a second after a stop, what the run waits for.
    fn name_waiting(&mut self, now_ms: u64) -> Result<Option<Duration>, SinkError> {
        let Some(at_ms) = self.wait_named_at_ms.filter(|_| !self.running.is_empty()) else {
            return Ok(None);
        };
        if now_ms < at_ms {
            return Ok(Some(Duration::from_millis(at_ms - now_ms)));
        }
        self.wait_named_at_ms = Some(now_ms + WAIT_NAMED_MS);
        let running = std::mem::take(&mut self.running);
        let said = self.say(Verbosity::Normal, |words| words.waiting(&running));
        self.running = running;
        said.map(|()| Some(Duration::from_millis(WAIT_NAMED_MS)))
    }

    /// From which verbosity on logs are shown as they come.
    fn live_logs(&self) -> Verbosity {
        match self.options.step_logs {
            StepLogs::Live => Verbosity::Normal,
            StepLogs::OnFailure => Verbosity::Verbose,
        }
    }

    /// The log of a step: at once when asked for, else its end once the step has failed.
    fn step_failed(&mut self, job: &JobId, log: Vec<String>) -> Result<(), SinkError> {
        if self.says(self.live_logs()) {
            return Ok(());
        }
        for line in log {
            self.say(Verbosity::Quiet, |words| words.step_log(job, &line))?;
        }
        Ok(())
    }
}

impl Sink for TerminalSink {
    fn name(&self) -> &'static str {
        "the terminal"
    }

    fn handle(&mut self, stamped: &Stamped) -> Result<(), SinkError> {
        let side = stamped.side;
        match &stamped.event {
            Event::RunStarted { planned, .. } => self.run_started(planned),
            Event::JobRouted { .. } => {
                let verbosity = self.options.verbosity;
                self.say(Verbosity::Normal, |words| words.routed(&stamped.event, verbosity))?;
            }
            Event::StepStarted { job, step, label } => {
                self.steps.start(Whose { job, side }, *step, label, stamped.at_ms);
            }
            Event::StepProgress { job, step, done, total, label } => {
                self.steps.progress(Whose { job, side }, *step, *done, *total, label);
            }
            Event::StepLog { job, step, line } => {
                self.steps.log(Whose { job, side }, *step, line);
                self.say(self.live_logs(), |words| words.step_log(job, line))?;
            }
            Event::StepFinished { job, step, outcome, .. } => {
                let log = self.steps.finish(Whose { job, side }, *step, *outcome);
                self.step_failed(job, log)?;
                // The end of a race has a line of its own.
                if *step != Step::Race {
                    self.say(Verbosity::Verbose, |words| words.step_finished(&stamped.event, side))?;
                }
            }
            Event::JobStarted { job, attempt, command, .. } => {
                if *attempt == 1 && !self.running.contains(job) {
                    self.running.push(job.clone());
                }
                self.say(Verbosity::Verbose, |words| words.started(job, side, command))?;
                if !self.several() {
                    self.screen.written_to(Elsewhere::Perhaps);
                }
            }
            Event::Output { job, stream, data } => self.output(job, *stream, data)?,
            Event::Notice { .. } => self.notice(&stamped.event)?,
            Event::JobCost { job, cost } => {
                if let Some(line) = self.words.cost(job, cost) {
                    self.say(Verbosity::Normal, |_| line)?;
                }
            }
            Event::SideEnded { end, .. } => {
                let least = match end {
                    SideEnd::Won => Verbosity::Normal,
                    SideEnd::Lost | SideEnd::Stopped => Verbosity::Verbose,
                    SideEnd::Out { .. } => Verbosity::Quiet,
                };
                self.say(least, |words| words.side_ended(&stamped.event))?;
            }
            Event::Fallback { .. } => self.say(Verbosity::Quiet, |words| words.fallback(&stamped.event))?,
            Event::Retry { .. } => self.say(Verbosity::Normal, |words| words.retry(&stamped.event))?,
            Event::CancelRaised { level, by } => {
                self.wait_named_at_ms.get_or_insert(stamped.at_ms + WAIT_NAMED_MS);
                self.say(Verbosity::Quiet, |words| words.cancel_raised(level, by))?;
            }
            // The notice about what it cost says it where it matters.
            Event::CommandFinished { .. } => {}
            Event::JobFinished { .. } => self.job_finished(&stamped.event)?,
            Event::RunFinished { .. } => self.run_finished(&stamped.event)?,
            // Said between runs, by whoever owns the line that is drawn there.
            Event::WatchStarted { .. } | Event::WatchTriggered { .. } | Event::WatchWaiting { .. } => {}
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.screen.flush()
    }

    fn redraw(&mut self, now_ms: u64) -> Result<Option<Duration>, SinkError> {
        let due = self.steps.due(now_ms);
        for (job, label) in due.named {
            self.say(Verbosity::Normal, |words| words.step_named(&job, &label))?;
        }
        if due.draws && self.says(Verbosity::Normal) {
            self.screen.flush()?;
            self.steps.draw();
        }
        let wait = self.name_waiting(now_ms)?;
        Ok([due.again, wait].into_iter().flatten().min())
    }
}

#[cfg(test)]
mod tests;
