//! The wording of accel's own lines, one function per event kind. Plain, short, readable without colour.

use std::time::Duration;

use super::Verbosity;
use super::neutral::clean;
use super::style::{BAD, Colors, FAINT, GOOD, STRONG, WARN};
use crate::base::duration::ShortDuration;
use crate::base::money::Dollars;
use crate::domain::{Exit, JobId, Place};
use crate::event::{Cost, Event, Level, SUPERSEDED, SideEnd, StepOutcome, Verdict};

/// Jobs named in one line; more are counted.
const NAMED_JOBS: usize = 8;
/// Costs below this are not worth a line.
const LEAST_SAID: Dollars = Dollars(10_000);

pub(super) struct Words {
    pub colors: Colors,
}

impl Words {
    pub(super) fn routed(&self, event: &Event, verbosity: Verbosity) -> String {
        let Event::JobRouted { job, place, reason, reasons, rival, .. } = event else {
            return String::new();
        };
        let name = self.colors.paint(STRONG, job.as_str());
        let beside = rival.map(|rival| format!(" and {}", rival.place)).unwrap_or_default();
        let mut line = format!("{name} → {place}{beside}: {}", clean(reason));
        if verbosity == Verbosity::Verbose {
            for reason in reasons {
                line.push_str(&self.colors.paint(FAINT, &format!("\n  {}", clean(reason))));
            }
        }
        line
    }

    /// `side`: in a race.
    pub(super) fn started(&self, job: &JobId, side: Option<Place>, command: &str) -> String {
        let side = side.map(|side| format!(" ({side})")).unwrap_or_default();
        self.colors.paint(FAINT, &format!("{job}{side} $ {}", clean(command)))
    }

    pub(super) fn step_named(&self, job: &JobId, label: &str) -> String {
        format!("{job}: {}", clean(label))
    }

    pub(super) fn step_log(&self, job: &JobId, line: &str) -> String {
        self.colors.paint(FAINT, &format!("{job} ┆ {}", clean(line)))
    }

    /// `side`: in a race.
    pub(super) fn step_finished(&self, event: &Event, side: Option<Place>) -> String {
        let Event::StepFinished { job, step, outcome, duration } = event else { return String::new() };
        let outcome = match outcome {
            StepOutcome::Done => "done",
            StepOutcome::Cached => "nothing to do",
            StepOutcome::Failed => "failed",
        };
        let step = step.as_str();
        let side = side.map(|side| format!(" {side}:")).unwrap_or_default();
        self.colors.paint(FAINT, &format!("{job}:{side} {step} {outcome} in {}", ShortDuration(*duration)))
    }

    pub(super) fn notice(&self, event: &Event) -> String {
        let Event::Notice { job, level, text, help, .. } = event else { return String::new() };
        let label = match level {
            Level::Info => self.colors.paint(STRONG, "note"),
            Level::Warning => self.colors.paint(WARN, "warning"),
            Level::Error => self.colors.paint(BAD, "error"),
        };
        let job = job.as_ref().map(|job| format!("{job}: ")).unwrap_or_default();
        format!("{label}: {job}{}{}", clean(text), self.help(help.as_deref()))
    }

    /// `None` where it is not worth a line.
    pub(super) fn cost(&self, job: &JobId, cost: &Cost) -> Option<String> {
        let label = self.colors.paint(STRONG, "note");
        let time = ShortDuration(cost.lifetime);
        match &cost.recorded {
            Some(recorded) if recorded.cost >= LEAST_SAID => Some(format!(
                "{label}: {job}: cost {} by Modal's records so far ({time} there)",
                recorded.cost
            )),
            _ if cost.at_least >= LEAST_SAID => {
                Some(format!("{label}: {job}: cost at least {} ({time} on Modal)", cost.at_least))
            }
            _ => None,
        }
    }

    pub(super) fn fallback(&self, event: &Event) -> String {
        let Event::Fallback { job, from, to, cause, detail } = event else { return String::new() };
        let label = self.colors.paint(WARN, "fallback");
        format!("{label}: {job} moves from {from} to {to}: {cause}: {}", clean(detail))
    }

    pub(super) fn side_ended(&self, event: &Event) -> String {
        let Event::SideEnded { job, place, end, .. } = event else { return String::new() };
        let (style, text) = match end {
            SideEnd::Won => (STRONG, "won".to_owned()),
            SideEnd::Lost => (FAINT, "lost, and is stopped".to_owned()),
            SideEnd::Stopped => (FAINT, "is stopped".to_owned()),
            SideEnd::Out { cause, detail } => (WARN, format!("is out: {cause}: {}", clean(detail))),
        };
        format!("{}: {job}: {place} {text}", self.colors.paint(style, "race"))
    }

    pub(super) fn retry(&self, event: &Event) -> String {
        let Event::Retry { job, attempt, cause, delay, detail, grows } = event else { return String::new() };
        let label = self.colors.paint(WARN, "retry");
        let mut line = format!("{label}: {job}, attempt {attempt} in {}: {cause}", ShortDuration(*delay));
        if !detail.is_empty() {
            line.push_str(&format!(": {}", clean(detail)));
        }
        for growth in grows {
            line.push_str(&format!("; {} {} → {}", growth.what.as_str(), growth.from, growth.to));
        }
        line
    }

    pub(super) fn cancel_raised(&self, level: &str, by: &str) -> String {
        let text = match level {
            "drain" => "finishing what runs, starting nothing new".to_owned(),
            "stop" if by == "SIGPIPE" => "stopping: nobody reads the output any more".to_owned(),
            "stop" if by == SUPERSEDED => "stopping, to start anew".to_owned(),
            "stop" => format!("stopping ({by}); once more to kill"),
            _ => "killing".to_owned(),
        };
        self.colors.paint(WARN, &text)
    }

    pub(super) fn waiting(&self, running: &[JobId]) -> String {
        let names: Vec<String> = running.iter().map(JobId::to_string).collect();
        self.colors.paint(FAINT, &format!("waiting for {}", named(&names)))
    }

    pub(super) fn job_finished(&self, job: &JobId, verdict: &Verdict, duration: Duration) -> String {
        let after = ShortDuration(duration);
        let name = self.colors.paint(STRONG, job.as_str());
        let good = self.colors.paint(GOOD, "✓");
        let bad = self.colors.paint(BAD, "✗");
        match verdict {
            Verdict::Passed => format!("{good} {name} passed in {after}"),
            Verdict::Failed { exit } => format!("{bad} {name} failed: {} after {after}", exit_words(*exit)),
            Verdict::TimedOut { limit } => {
                format!("{bad} {name} timed out: its limit is {}", ShortDuration(*limit))
            }
            Verdict::Errored { message, help, .. } => {
                format!("{bad} {name} could not be run: {}{}", clean(message), self.help(help.as_deref()))
            }
            Verdict::Skipped { because } => format!("- {name} skipped: {because}"),
            Verdict::Cancelled { exit: Some(exit) } => {
                format!("- {name} cancelled after {after}: {}", exit_words(*exit))
            }
            Verdict::Cancelled { exit: None } => format!("- {name} cancelled before its command ran"),
        }
    }

    pub(super) fn summary(&self, event: &Event, failures: &[String]) -> String {
        let Event::RunFinished { passed, failed, skipped, cancelled, duration, .. } = event else {
            return String::new();
        };
        let mut parts = vec![self.colors.paint(GOOD, &format!("{passed} passed"))];
        if *failed > 0 {
            let count = self.colors.paint(BAD, &format!("{failed} failed"));
            parts.push(format!("{count} ({})", named(failures)));
        }
        for (count, word) in [(*skipped, "skipped"), (*cancelled, "cancelled")] {
            if count > 0 {
                parts.push(format!("{count} {word}"));
            }
        }
        format!("{} in {}", parts.join(", "), ShortDuration(*duration))
    }

    fn help(&self, help: Option<&str>) -> String {
        let Some(help) = help else { return String::new() };
        format!("\n  {}: {}", self.colors.paint(STRONG, "help"), clean(help))
    }
}

fn exit_words(exit: Exit) -> String {
    match exit {
        Exit::Code(_) => exit.to_string(),
        Exit::Signal(signal) => match signal_name(signal) {
            Some(name) => format!("ended by {name}"),
            None => format!("ended by signal {signal}"),
        },
    }
}

/// Those whose numbers are the same everywhere.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

fn named(jobs: &[String]) -> String {
    let mut text = jobs.iter().take(NAMED_JOBS).cloned().collect::<Vec<_>>().join(", ");
    if jobs.len() > NAMED_JOBS {
        text.push_str(&format!(", {} more", jobs.len() - NAMED_JOBS));
    }
    text
}
