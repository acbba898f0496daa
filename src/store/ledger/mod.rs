//! What sandboxes have cost and may still cost: the ledger behind `[budget]`.
//!
//! Owns the table `spend`: one line for each sandbox that was ever asked for, written in the same transaction as the
//! lease's intent and settled in the same transaction as the lease ([`super::journal`]). So the ledger is as old as the
//! call that costs, a killed accel loses none of it, and any number of accels at once see each other's lines before
//! they add their own.
//!
//! A line *holds* an amount before the sandbox is asked for: what the job is expected to cost, else the first
//! [`SLICE`] of it. While the job runs and has used up what is held, it asks for more; so jobs beside each other share
//! a cap without one of them holding its worst case, and nothing is spent that was not held before.
//!
//! What must stay true:
//! - no line is added and none grows when a cap would be exceeded by what is spent and held together;
//! - a sandbox that is made before a run asks for it ([`Need`]) has a line of its own until a run uses it;
//!   what is held for it, beyond what it has cost, is in the way of others of its kind alone, not of runs;
//! - a sandbox that is kept between runs has one line for each run that used it, the last of which goes on;
//! - a line that nobody settles (its accel was killed) costs its price for the time since it began, at most until
//!   the server ends the sandbox by itself; whoever settles its lease settles the line. It never stays open for good.
//!
//! Amounts are lower bounds, as all quotes are: Modal bills the higher of request and use. Image builds are not in it.

use std::fmt;
use std::time::Duration;

use rusqlite::{Connection, params};
use serde::Serialize;

use super::database::{Database, DatabaseError, Durability};
use super::journal::{LeaseId, Settlement};
use crate::base::money::Dollars;
use crate::event::now_ms;

mod line;

use line::Line;

/// How much of a run is paid ahead at a time, where nothing is known of how long it takes, and whenever it takes longer.
pub const SLICE: Duration = Duration::from_secs(5 * 60);

/// How long lines are kept after their sandbox has ended.
pub const KEPT_FOR: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// What may be spent; `None`: any amount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// By one `accel run`, over all its jobs.
    pub per_run: Option<Dollars>,
    /// By the project, from midnight to midnight.
    pub per_day: Option<Dollars>,
}

impl Caps {
    pub fn any(&self) -> bool {
        self.per_run.is_some() || self.per_day.is_some()
    }
}

/// What a sandbox costs, and what is to be held for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hold {
    pub per_hour: Dollars,
    pub amount: Wanted,
    pub caps: Caps,
    pub need: Need,
}

/// Who needs the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Need {
    #[default]
    Run,
    /// No run has asked for it yet; one will.
    Coming,
    /// One may; all sandboxes for such may cost the project this much in a day.
    Expected { per_day: Dollars },
}

/// How much is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All of it, or nothing.
    Exactly(Dollars),
    /// So much, or what is left of the caps if that is less, but not nothing.
    UpTo(Dollars),
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Exactly(Dollars(0))
    }
}

/// Sums over lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// By sandboxes that have ended, and so far by those that live.
    #[serde(rename = "spent_microdollars")]
    pub spent: Dollars,
    /// For sandboxes that live, on top of what they have spent.
    #[serde(rename = "held_microdollars")]
    pub held: Dollars,
}

impl Account {
    pub fn total(&self) -> Dollars {
        self.spent.plus(self.held)
    }

    #[must_use]
    pub fn and_held(self, more: Dollars) -> Self {
        Self { held: self.held.plus(more), ..self }
    }
}

/// Which of the caps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    Run,
    Day,
    /// Of what is spent ahead of need.
    Prewarm,
}

/// More was wanted than a cap leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    pub cap: Cap,
    pub limit: Dollars,
    pub account: Account,
    /// `None`: any amount would be too much.
    pub wanted: Option<Dollars>,
}

/// `budget.per_day of $5.00 would be exceeded: $4.90 spent today, $0.08 held for running jobs, ≥ $0.05 expected for
/// this one`, `budget.per_run of $0.50 is used up: $0.50 spent by this run`
impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, when) = match self.cap {
            Cap::Run => ("per_run", "by this run"),
            Cap::Day => ("per_day", "today"),
            Cap::Prewarm => ("prewarm_per_day", "today on sandboxes that no run had asked for"),
        };
        let Account { spent, held } = self.account;
        let word = if self.wanted.is_some() { "would be exceeded" } else { "is used up" };
        write!(f, "budget.{key} of {} {word}: {spent} spent {when}", self.limit)?;
        if held != Dollars(0) {
            write!(f, ", {held} held for running jobs")?;
        }
        match self.wanted {
            Some(wanted) => write!(f, ", ≥ {wanted} expected for this one"),
            None => Ok(()),
        }
    }
}

impl Exceeded {
    /// The remedy.
    pub fn help(&self) -> &'static str {
        match self.cap {
            Cap::Run => "raise `per_run` of [budget], or run here: --on local",
            Cap::Day => {
                "raise `per_day` of [budget], or run here: --on local; `accel history` shows what was spent"
            }
            Cap::Prewarm => "raise `prewarm_per_day` of [budget]; runs begin without it, a little later",
        }
    }
}

impl Caps {
    /// Whether so much more fits; `day` and `run` are what is spent and held already.
    pub fn admit(&self, run: Account, day: Account, wanted: Wanted) -> Result<Dollars, Exceeded> {
        let caps = [(Cap::Run, self.per_run, run), (Cap::Day, self.per_day, day)];
        let mut granted = match wanted {
            Wanted::Exactly(amount) | Wanted::UpTo(amount) => amount,
        };
        for (cap, limit, account) in caps {
            let Some(limit) = limit else { continue };
            granted = granted.min(admit_one(cap, limit, account, wanted)?);
        }
        Ok(granted)
    }
}

/// What one cap grants.
fn admit_one(cap: Cap, limit: Dollars, account: Account, wanted: Wanted) -> Result<Dollars, Exceeded> {
    let left = limit.less(account.total());
    match wanted {
        _ if left == Dollars(0) => Err(Exceeded { cap, limit, account, wanted: None }),
        Wanted::Exactly(amount) if amount > left => {
            Err(Exceeded { cap, limit, account, wanted: Some(amount) })
        }
        Wanted::Exactly(amount) => Ok(amount),
        Wanted::UpTo(amount) => Ok(amount.min(left)),
    }
}

/// What `time` costs.
pub fn price(per_hour: Dollars, time: Duration) -> Dollars {
    // Millionths of a dollar: rounding is of no consequence.
    Dollars((per_hour.0 as f64 * time.as_secs_f64() / SECONDS_PER_HOUR).round() as u64)
}

/// For how long `amount` lasts; `None`: for ever.
pub fn lasts(per_hour: Dollars, amount: Dollars) -> Option<Duration> {
    if per_hour.0 == 0 {
        return None;
    }
    Duration::try_from_secs_f64(amount.0 as f64 / per_hour.0 as f64 * SECONDS_PER_HOUR).ok()
}

const SECONDS_PER_HOUR: f64 = 3600.0;

/// Whose sandbox it is, as its lease says.
pub(super) struct Whose<'a> {
    pub lease: &'a LeaseId,
    pub run: &'a str,
    pub project: &'a str,
    pub job: &'a str,
    pub began_ms: u64,
    pub expires_ms: u64,
}

/// Adds a line, in the transaction of the intent; what was granted.
pub(super) fn hold(
    connection: &Connection,
    whose: &Whose<'_>,
    hold: &Hold,
) -> rusqlite::Result<Result<Dollars, Exceeded>> {
    let granted = admit(connection, whose, hold)?;
    if let Ok(granted) = granted {
        begin_line(connection, whose, hold, granted)?;
    }
    Ok(granted)
}

/// Ends the line of the run that used a kept sandbox last, and begins that of the next one; what was granted.
pub(super) fn turn(
    connection: &Connection,
    whose: &Whose<'_>,
    hold: &Hold,
) -> rusqlite::Result<Result<Dollars, Exceeded>> {
    let granted = admit(connection, whose, hold)?;
    if let Ok(granted) = granted {
        settle(connection, whose.lease, Settlement::Ended, None, whose.began_ms)?;
        begin_line(connection, whose, hold, granted)?;
    }
    Ok(granted)
}

fn admit(
    connection: &Connection,
    whose: &Whose<'_>,
    hold: &Hold,
) -> rusqlite::Result<Result<Dollars, Exceeded>> {
    forget(connection, whose.began_ms)?;
    if let Need::Expected { per_day: limit } = hold.need {
        let midnight = midnight_ms(whose.began_ms);
        let lines = Line::prewarm_since(connection, whose.project, midnight)?;
        let account = line::promised(lines.iter(), midnight, whose.began_ms);
        if let Err(exceeded) = admit_one(Cap::Prewarm, limit, account, hold.amount) {
            return Ok(Err(exceeded));
        }
    }
    let (run, day) = accounts(connection, whose.run, whose.project, whose.began_ms, &hold.caps)?;
    Ok(hold.caps.admit(run, day, hold.amount))
}

fn begin_line(
    connection: &Connection,
    whose: &Whose<'_>,
    hold: &Hold,
    granted: Dollars,
) -> rusqlite::Result<()> {
    let line = Line {
        per_hour: hold.per_hour,
        held: granted,
        began_ms: whose.began_ms,
        expires_ms: whose.expires_ms,
        ended_ms: None,
        spent: None,
        is_ahead: hold.need != Need::Run,
    };
    line.insert(connection, whose, hold.need)
}

/// No run uses the sandbox now: nothing is held for it, unless no run ever has, and it costs until it is used again, at most until `ends_ms`.
pub(super) fn park(connection: &Connection, lease: &LeaseId, ends_ms: Option<u64>) -> rusqlite::Result<()> {
    let change = "UPDATE spend SET held = iif(prewarm = 0, 0, held), expires_at = min(expires_at, coalesce(?2, expires_at))
                  WHERE lease = ?1 AND ended_at IS NULL";
    connection.execute(change, params![lease.as_str(), ends_ms.map(number)]).map(drop)
}

/// The sandbox is there only now: what it waited for a machine costs nothing.
pub(super) fn begin(connection: &Connection, lease: &LeaseId, now_ms: u64) -> rusqlite::Result<()> {
    let change = "UPDATE spend SET began_at = ?2 WHERE lease = ?1 AND ended_at IS NULL";
    connection.execute(change, params![lease.as_str(), number(now_ms)]).map(drop)
}

/// In the transaction that settles the lease. `spent` where it was measured.
pub(super) fn settle(
    connection: &Connection,
    lease: &LeaseId,
    how: Settlement,
    spent: Option<Dollars>,
    now_ms: u64,
) -> rusqlite::Result<()> {
    let Some((line, ..)) = Line::open(connection, lease)? else { return Ok(()) };
    let ended_ms = now_ms.min(line.expires_ms);
    let spent = match how {
        Settlement::NeverCreated => Dollars(0),
        Settlement::Terminated | Settlement::Ended | Settlement::Expired => {
            spent.unwrap_or_else(|| line.so_far(ended_ms))
        }
    };
    line.end(connection, lease, ended_ms, spent)
}

fn forget(connection: &Connection, now_ms: u64) -> rusqlite::Result<()> {
    let before = now_ms.saturating_sub(u64::try_from(KEPT_FOR.as_millis()).unwrap_or(u64::MAX));
    connection
        .execute(
            "DELETE FROM spend WHERE ended_at < ?1 OR (ended_at IS NULL AND expires_at < ?1)",
            [number(before)],
        )
        .map(drop)
}

/// Of the run and of the project's day; a cap that is not set is not looked up.
fn accounts(
    connection: &Connection,
    run: &str,
    project: &str,
    now_ms: u64,
    caps: &Caps,
) -> rusqlite::Result<(Account, Account)> {
    let of_run = match caps.per_run {
        Some(_) => line::account(Line::of_run(connection, run)?.iter(), 0, now_ms),
        None => Account::default(),
    };
    let midnight = midnight_ms(now_ms);
    let of_day = match caps.per_day {
        Some(_) => line::account(Line::since(connection, Some(project), midnight)?.iter(), midnight, now_ms),
        None => Account::default(),
    };
    Ok((of_run, of_day))
}

/// When the day began here, in milliseconds since the Unix epoch.
fn midnight_ms(now_ms: u64) -> u64 {
    let start = i64::try_from(now_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .and_then(|now| now.to_zoned(jiff::tz::TimeZone::system()).start_of_day().ok())
        .and_then(|start| u64::try_from(start.timestamp().as_millisecond()).ok());
    start.unwrap_or_default()
}

/// SQLite's numbers are signed.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads the ledger, and lets lines grow. Cheap to clone; nothing is opened before it is asked.
#[derive(Debug, Clone)]
pub struct Ledger(Database);

impl Ledger {
    pub fn new(database: Database) -> Self {
        Self(database)
    }

    /// Since midnight, of a project or of all. Zero where nothing was ever recorded: no database is made for asking.
    pub async fn today(&self, project: Option<&str>) -> Result<Account, DatabaseError> {
        if !self.0.exists() {
            return Ok(Account::default());
        }
        let project = project.map(str::to_owned);
        let sum = move |connection: &Connection| {
            let now = now_ms();
            let midnight = midnight_ms(now);
            let lines = Line::since(connection, project.as_deref(), midnight)?;
            Ok(line::account(lines.iter(), midnight, now))
        };
        self.0.read(sum).await
    }

    /// Holds another [`SLICE`] for a sandbox that goes on, or as much of it as a cap leaves; returns all that is held.
    pub async fn extend(
        &self,
        lease: &LeaseId,
        caps: Caps,
    ) -> Result<Result<Dollars, Exceeded>, DatabaseError> {
        let lease = lease.clone();
        let change = move |connection: &Connection| {
            let Some((line, run, project)) = Line::open(connection, &lease)? else {
                return Ok(Ok(Dollars(0)));
            };
            let now = now_ms();
            let (of_run, of_day) = accounts(connection, &run, &project, now, &caps)?;
            let granted = match caps.admit(of_run, of_day, Wanted::UpTo(price(line.per_hour, SLICE))) {
                Ok(granted) => granted,
                Err(exceeded) => return Ok(Err(exceeded)),
            };
            let held = line.held.max(line.so_far(now)).plus(granted);
            connection.execute(
                "UPDATE spend SET held = ?2 WHERE lease = ?1 AND ended_at IS NULL",
                params![lease.as_str(), number(held.0)],
            )?;
            Ok(Ok(held))
        };
        self.0.write(Durability::Process, change).await
    }
}

#[cfg(test)]
mod tests;
