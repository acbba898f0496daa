//! Everything that happens during a run, as a closed set of events.
//!
//! Owns the event types and the channel they travel on. The engine and the backends emit; sinks consume;
//! nothing visible reaches the user in any other way. Events are facts: a sink never changes a run. The JSON
//! form is versioned ([`STREAM_VERSION`]) and described by `schemas/events.schema.json`.

mod channel;
mod cost;

use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

pub use channel::{CHANNEL_CAPACITY, Delivery, Emitter, End, Receiver, Valve, channel, now_ms};
pub use cost::{Cost, Quote, RecordedCost};

use crate::domain::{Cause, Exit, JobId, Place, Stream};

/// Version of the `--json` stream. Raised when a field changes meaning or goes away; additions keep it.
pub const STREAM_VERSION: u32 = 1;

/// Who stops a run in favour of a newer one.
pub const SUPERSEDED: &str = "a newer run";

/// An event and the moment it happened.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(title = "One line of accel's --json stream")]
pub struct Stamped {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// In a race: the place that it is about. Absent where it is about the job, or no race is run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<Place>,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First event of every run.
    RunStarted {
        version: u32,
        accel: String,
        run: String,
        requested: Vec<JobId>,
        planned: Vec<JobId>,
    },
    /// A place was chosen. `reason` is the one line that people see; `reasons` are all of them.
    JobRouted {
        job: JobId,
        place: Place,
        reason: String,
        reasons: Vec<String>,
        /// What it costs there at least; absent on this machine.
        #[serde(skip_serializing_if = "Option::is_none")]
        quote: Option<Quote>,
        /// In a race: the other place.
        #[serde(skip_serializing_if = "Option::is_none")]
        rival: Option<Rival>,
    },
    /// One side of a race is over and cleaned up. A side that wins or loses has run the command; what it printed is
    /// only sent of the one that wins.
    SideEnded {
        job: JobId,
        place: Place,
        attempt: u32,
        #[serde(flatten)]
        end: SideEnd,
    },
    /// A longer piece of work that is not the command itself.
    StepStarted {
        job: JobId,
        step: Step,
        label: String,
    },
    StepProgress {
        job: JobId,
        step: Step,
        done: u64,
        total: Option<u64>,
        label: String,
    },
    /// A line of a step's own log (an image build, say).
    StepLog {
        job: JobId,
        step: Step,
        line: String,
    },
    StepFinished {
        job: JobId,
        step: Step,
        outcome: StepOutcome,
        #[serde(rename = "duration_ms", serialize_with = "millis")]
        #[schemars(with = "u64")]
        duration: Duration,
    },
    /// The command starts.
    JobStarted {
        job: JobId,
        place: Place,
        attempt: u32,
        command: String,
    },
    /// Bytes that the command wrote. Never sent for a job whose output goes straight to accel's own.
    Output {
        job: JobId,
        stream: Stream,
        #[serde(serialize_with = "text_or_base64", rename = "data")]
        #[schemars(with = "OutputData")]
        data: Bytes,
    },
    /// The command is over, whatever came of it; `duration` is the command's own time.
    CommandFinished {
        job: JobId,
        attempt: u32,
        #[serde(rename = "duration_ms", serialize_with = "millis")]
        #[schemars(with = "u64")]
        duration: Duration,
    },
    /// Something the user should know; `code` is stable.
    Notice {
        job: Option<JobId>,
        level: Level,
        code: &'static str,
        text: String,
        help: Option<String>,
    },
    /// A sandbox has ended; one such event for each that a job had.
    JobCost {
        job: JobId,
        #[serde(flatten)]
        cost: Cost,
    },
    /// The job moves to another place because of an infrastructure fault.
    Fallback {
        job: JobId,
        from: Place,
        to: Place,
        cause: Cause,
        detail: String,
    },
    /// The job is tried again.
    Retry {
        job: JobId,
        /// The number of the attempt that follows.
        attempt: u32,
        cause: Cause,
        detail: String,
        /// What the attempt gets more of than the last one (`retry.escalate`).
        grows: Vec<Growth>,
        #[serde(rename = "delay_ms", serialize_with = "millis")]
        #[schemars(with = "u64")]
        delay: Duration,
    },
    /// The cancel level rose (it never falls). `by` is a signal, the key `q` of a watch, or [`SUPERSEDED`].
    CancelRaised {
        level: String,
        by: String,
    },
    JobFinished {
        job: JobId,
        #[serde(flatten)]
        verdict: Verdict,
        /// Where it ran last; absent when it was never started.
        place: Option<Place>,
        /// How often it was started, fallbacks included.
        attempts: u32,
        #[serde(rename = "duration_ms", serialize_with = "millis")]
        #[schemars(with = "u64")]
        duration: Duration,
    },
    /// `accel watch` follows the folder of accel.toml.
    WatchStarted {
        version: u32,
        jobs: Vec<JobId>,
        /// Files that are followed.
        files: usize,
    },
    /// A watch begins a run; before the run's own first event.
    WatchTriggered {
        cause: WatchCause,
        jobs: Vec<JobId>,
        /// What changed, relative to the folder of accel.toml: the first hundred.
        paths: Vec<String>,
        /// How many paths changed.
        count: usize,
    },
    /// A watch waits for the next change; after the run's own last event. What there is to tell of a sandbox that the
    /// run has left comes as notices before the next run, or at the end of the watch.
    WatchWaiting {
        exit_code: u8,
        #[serde(rename = "duration_ms", serialize_with = "millis")]
        #[schemars(with = "u64")]
        duration: Duration,
        /// Where the jobs ran, each once.
        places: Vec<Place>,
    },
    /// Last event of every run.
    RunFinished {
        exit_code: u8,
        passed: usize,
        failed: usize,
        skipped: usize,
        cancelled: usize,
        #[serde(rename = "duration_ms", serialize_with = "millis")]
        #[schemars(with = "u64")]
        duration: Duration,
    },
}

impl Event {
    /// The one job that it is about.
    pub fn job(&self) -> Option<&JobId> {
        match self {
            Self::JobRouted { job, .. }
            | Self::StepStarted { job, .. }
            | Self::StepProgress { job, .. }
            | Self::StepLog { job, .. }
            | Self::StepFinished { job, .. }
            | Self::JobStarted { job, .. }
            | Self::Output { job, .. }
            | Self::CommandFinished { job, .. }
            | Self::JobCost { job, .. }
            | Self::Fallback { job, .. }
            | Self::SideEnded { job, .. }
            | Self::Retry { job, .. }
            | Self::JobFinished { job, .. } => Some(job),
            Self::Notice { job, .. } => job.as_ref(),
            Self::RunStarted { .. }
            | Self::CancelRaised { .. }
            | Self::RunFinished { .. }
            | Self::WatchStarted { .. }
            | Self::WatchTriggered { .. }
            | Self::WatchWaiting { .. } => None,
        }
    }
}

/// The second side of a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Rival {
    pub place: Place,
    /// How long the first side is ahead of it, unless the first cannot do its part.
    #[serde(rename = "after_ms", serialize_with = "millis")]
    #[schemars(with = "u64")]
    pub after: Duration,
}

/// How one side of a race ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum SideEnd {
    /// What its command did is what the job did.
    Won,
    /// The other side was first; this one was stopped.
    Lost,
    /// It could not do its part, and left the race to the other.
    Out { cause: Cause, detail: String },
    /// The run was stopped before there was a winner.
    Stopped,
}

/// Why a watch begins a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WatchCause {
    /// The first run.
    Start,
    Change,
    /// accel.toml says something else.
    Configuration,
    /// A key was pressed.
    Key,
}

/// Something of which an attempt gets more than the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Growth {
    pub what: Grown,
    /// As people read it: `8GiB`, `10m`, `L4`.
    pub from: String,
    pub to: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grown {
    Memory,
    /// The limit over all attempts.
    Timeout,
    /// The first GPU that is asked for.
    Gpu,
}

impl Grown {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Timeout => "timeout",
            Self::Gpu => "gpu",
        }
    }
}

/// The kinds of work around a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Making the image or virtual environment.
    Image,
    /// Walking, hashing and uploading the tree.
    Sync,
    /// Waiting for a machine.
    Queue,
    /// Starting the sandbox.
    Start,
    /// Bringing outputs back.
    Outputs,
    /// Stopping what is left.
    Stop,
    /// The command, while its output is held back for the end of a race.
    Race,
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Sync => "sync",
            Self::Queue => "queue",
            Self::Start => "start",
            Self::Outputs => "outputs",
            Self::Stop => "stop",
            Self::Race => "race",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    Done,
    /// Nothing had to be done.
    Cached,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    Warning,
    Error,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    /// The command ran and failed.
    Failed {
        exit: Exit,
    },
    TimedOut {
        #[serde(rename = "limit_ms", serialize_with = "millis")]
        #[schemars(with = "u64")]
        limit: Duration,
    },
    /// accel or its backend could not run the command to its end.
    Errored {
        cause: Cause,
        message: String,
        help: Option<String>,
        exit_code: u8,
    },
    /// Not started.
    Skipped {
        because: String,
    },
    /// Stopped by the user; `exit` is absent when the command never started.
    Cancelled {
        exit: Option<Exit>,
    },
}

impl Verdict {
    pub fn passed(&self) -> bool {
        matches!(self, Self::Passed)
    }
}

/// The JSON Schema of one line of the `--json` stream, as it is kept in `schemas/events.schema.json`.
pub fn schema() -> String {
    let schema = schemars::schema_for!(Stamped);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain JSON");
    text.push('\n');
    text
}

fn millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// The JSON form of output bytes: text where they are UTF-8, else base64.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OutputData {
    Text(String),
    Base64(String),
}

fn text_or_base64<S: serde::Serializer>(data: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    use base64::Engine as _;
    match std::str::from_utf8(data) {
        Ok(text) => OutputData::Text(text.to_owned()),
        Err(_) => OutputData::Base64(base64::engine::general_purpose::STANDARD.encode(data)),
    }
    .serialize(serializer)
}

#[cfg(test)]
mod tests {
    /// `UPDATE_SCHEMAS=1 cargo test` writes the file anew.
    #[test]
    fn the_committed_schema_is_that_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/events.schema.json");
        let schema = super::schema();
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas")).unwrap();
            std::fs::write(path, &schema).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == schema,
            "schemas/events.schema.json is stale: UPDATE_SCHEMAS=1 cargo test event"
        );
    }
}
