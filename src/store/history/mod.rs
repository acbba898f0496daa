//! What every run took: one entry for each attempt at a job, in whichever place.
//!
//! Owns the table `attempt` and the file that entries wait in ([`Spool`]). Whoever runs a job only appends a line to
//! that file, so that a plain run opens no database; whoever reads folds the lines into the table first. What must
//! stay true: an entry is recorded once, however often its line is folded; a killed accel loses no entry whose line was
//! written; losing all of it costs better guesses, never correctness. No output and no secret is stored.

mod fold;
mod spool;

use std::time::Duration;

use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::database::{Database, DatabaseError};
use crate::base::money::Dollars;
use crate::domain::{Cause, JobId, Place};
use crate::event::Step;

pub use fold::{KEPT, KEPT_FOR};
pub use spool::{FOLD_AT, Spool};

/// How many runs of a job in one place guesses are made from: the newest ones.
pub const RECENT: usize = 50;

/// One attempt at a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub run: String,
    pub job: JobId,
    /// From 1.
    pub attempt: u32,
    pub project: String,
    /// The folder of accel.toml.
    pub worktree: String,
    /// Of the command, the image and what the job asks for; entries with the same one are of the same job.
    pub digest: String,
    pub place: Place,
    /// Milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    pub phases: Phases,
    /// The image was not there yet.
    #[serde(default)]
    pub image_built: bool,
    /// The sandbox was there already.
    #[serde(default)]
    pub warm: bool,
    /// What was sent of the working tree.
    #[serde(default)]
    pub bytes_sent: u64,
    /// Load average of this machine over a minute when the command started, times 100; absent elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_percent: Option<u32>,
    pub ended: Ending,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// What it cost at least, in millionths of a dollar; absent for attempts that cost nothing.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "cost_microdollars")]
    pub cost: Option<Dollars>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Passed,
    /// The command ran and failed.
    Failed,
    TimedOut,
    /// accel or its backend could not run the command to its end.
    Errored,
    Cancelled,
    /// In a race: the other place was first.
    Lost,
}

impl Ending {
    pub const ALL: [Self; 6] =
        [Self::Passed, Self::Failed, Self::TimedOut, Self::Errored, Self::Cancelled, Self::Lost];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Errored => "errored",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// How long each part took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Phases {
    pub sync_ms: u64,
    pub image_ms: u64,
    pub queue_ms: u64,
    pub start_ms: u64,
    /// The command itself.
    pub run_ms: u64,
    pub outputs_ms: u64,
}

impl Phases {
    /// Adds to the part that a step is; stopping is no part of its own, and a race is around the command.
    pub fn add(&mut self, step: Step, took: Duration) {
        let part = match step {
            Step::Sync => &mut self.sync_ms,
            Step::Image => &mut self.image_ms,
            Step::Queue => &mut self.queue_ms,
            Step::Start => &mut self.start_ms,
            Step::Outputs => &mut self.outputs_ms,
            Step::Stop | Step::Race => return,
        };
        *part = part.saturating_add(milliseconds(took));
    }

    pub fn total(&self) -> Duration {
        let parts = [self.sync_ms, self.image_ms, self.queue_ms, self.start_ms, self.run_ms, self.outputs_ms];
        Duration::from_millis(parts.into_iter().fold(0, u64::saturating_add))
    }

    /// The parts that took any time, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        [
            ("sync", self.sync_ms),
            ("image", self.image_ms),
            ("queue", self.queue_ms),
            ("start", self.start_ms),
            ("run", self.run_ms),
            ("outputs", self.outputs_ms),
        ]
        .into_iter()
        .filter(|(_, ms)| *ms > 0)
        .map(|(name, ms)| (name, Duration::from_millis(ms)))
    }
}

pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The smallest value that this share of the values does not exceed (nearest rank); `None` of no values.
pub fn percentile(values: &[Duration], percent: u32) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent as usize).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Which entries are asked for; `None` is any.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub project: Option<String>,
    pub job: Option<String>,
    pub limit: usize,
}

/// The recorded runs of this machine. Cheap to clone; nothing is opened before it is asked.
#[derive(Debug, Clone)]
pub struct History(Database);

impl History {
    pub fn new(database: Database) -> Self {
        Self(database)
    }

    pub fn database(&self) -> &Database {
        &self.0
    }

    /// Takes over what waits. False where nothing was ever recorded: then no database is made for asking.
    fn begun(&self) -> Result<bool, DatabaseError> {
        self.fold()?;
        Ok(self.0.exists())
    }

    /// Newest first.
    pub fn entries(&self, filter: &Filter) -> Result<Vec<Entry>, DatabaseError> {
        if !self.begun()? {
            return Ok(Vec::new());
        }
        let query = format!(
            "SELECT {COLUMNS} FROM attempt
             WHERE (?1 IS NULL OR project = ?1) AND (?2 IS NULL OR job = ?2)
             ORDER BY started_at DESC, attempt DESC LIMIT ?3"
        );
        self.0.read_now(|connection| {
            let mut query = connection.prepare_cached(&query)?;
            let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
            query.query_map(params![filter.project, filter.job, limit], read)?.collect()
        })
    }

    /// The newest [`RECENT`] entries of a job in each place, newest first.
    pub fn recent(&self, project: &str, job: &JobId) -> Result<Vec<Entry>, DatabaseError> {
        if !self.begun()? {
            return Ok(Vec::new());
        }
        let query = format!(
            "SELECT {COLUMNS} FROM attempt WHERE project = ?1 AND job = ?2 AND place = ?3
             ORDER BY started_at DESC, attempt DESC LIMIT ?4"
        );
        self.0.read_now(|connection| {
            let mut query = connection.prepare_cached(&query)?;
            let mut found = Vec::new();
            for place in [Place::Local, Place::Modal] {
                let of_place = params![project, job.as_str(), place.as_str(), RECENT as i64];
                for entry in query.query_map(of_place, read)? {
                    found.push(entry?);
                }
            }
            found.sort_by_key(|entry: &Entry| std::cmp::Reverse((entry.started_at_ms, entry.attempt)));
            Ok(found)
        })
    }

    /// When the newest run of a job that passed in a folder began, in milliseconds since the Unix epoch.
    pub fn last_passed(&self, worktree: &str, job: &JobId) -> Result<Option<u64>, DatabaseError> {
        if !self.begun()? {
            return Ok(None);
        }
        let query =
            "SELECT max(started_at) FROM attempt WHERE worktree = ?1 AND job = ?2 AND ended = 'passed'";
        self.0.read_now(|connection| connection.query_row(query, params![worktree, job.as_str()], moment))
    }

    /// When the newest run on Modal that the tree of a folder was sent for began, in milliseconds since the Unix epoch.
    pub fn last_sent(&self, worktree: &str) -> Result<Option<u64>, DatabaseError> {
        if !self.begun()? {
            return Ok(None);
        }
        let query = "SELECT max(started_at) FROM attempt
                     WHERE worktree = ?1 AND place = 'modal' AND ended IN ('passed', 'failed')";
        self.0.read_now(|connection| connection.query_row(query, [worktree], moment))
    }
}

fn moment(row: &Row<'_>) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(0)?.map(i64::unsigned_abs))
}

const COLUMNS: &str = "run, job, attempt, project, worktree, digest, place, started_at, sync_ms, image_ms, \
                       queue_ms, start_ms, run_ms, outputs_ms, image_built, warm, bytes_sent, ended, cause, cost, load_percent";

fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let number = |at: usize| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let place: String = row.get(6)?;
    let ended: String = row.get(17)?;
    let cause: Option<String> = row.get(18)?;
    Ok(Entry {
        run: row.get(0)?,
        job: JobId::new(row.get::<_, String>(1)?.as_str()),
        attempt: row.get(2)?,
        project: row.get(3)?,
        worktree: row.get(4)?,
        digest: row.get(5)?,
        place: if place == Place::Modal.as_str() { Place::Modal } else { Place::Local },
        started_at_ms: number(7)?,
        phases: Phases {
            sync_ms: number(8)?,
            image_ms: number(9)?,
            queue_ms: number(10)?,
            start_ms: number(11)?,
            run_ms: number(12)?,
            outputs_ms: number(13)?,
        },
        image_built: row.get(14)?,
        warm: row.get(15)?,
        bytes_sent: number(16)?,
        ended: Ending::ALL.into_iter().find(|known| known.as_str() == ended).unwrap_or(Ending::Errored),
        cause: cause.and_then(|text| Cause::ALL.into_iter().find(|known| known.as_str() == text)),
        cost: row.get::<_, Option<i64>>(19)?.map(|cost| Dollars(cost.unsigned_abs())),
        load_percent: row.get(20)?,
    })
}

/// An entry that is there already stays as it is.
fn insert(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let Phases { sync_ms, image_ms, queue_ms, start_ms, run_ms, outputs_ms } = entry.phases;
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let statement = format!(
        "INSERT OR IGNORE INTO attempt ({COLUMNS}) VALUES
         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)"
    );
    connection
        .prepare_cached(&statement)?
        .execute(params![
            entry.run,
            entry.job.as_str(),
            entry.attempt,
            entry.project,
            entry.worktree,
            entry.digest,
            entry.place.as_str(),
            number(entry.started_at_ms),
            number(sync_ms),
            number(image_ms),
            number(queue_ms),
            number(start_ms),
            number(run_ms),
            number(outputs_ms),
            entry.image_built,
            entry.warm,
            number(entry.bytes_sent),
            entry.ended.as_str(),
            entry.cause.map(Cause::as_str),
            entry.cost.map(|cost| number(cost.0)),
            entry.load_percent,
        ])
        .map(drop)
}

#[cfg(test)]
mod tests;
