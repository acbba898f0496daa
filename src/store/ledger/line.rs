//! One line of the ledger: how it lies in the database, and what it comes to.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Account, Need, Whose, number};
use crate::base::money::Dollars;
use crate::store::journal::LeaseId;

const MS_PER_HOUR: f64 = 3_600_000.0;

/// Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub per_hour: Dollars,
    /// From the beginning on, not on top of what it has cost.
    pub held: Dollars,
    pub began_ms: u64,
    /// When the server ends the sandbox by itself.
    pub expires_ms: u64,
    pub ended_ms: Option<u64>,
    /// Absent while it goes on.
    pub spent: Option<Dollars>,
    /// No run has used the sandbox yet.
    pub is_ahead: bool,
}

const COLUMNS: &str = "per_hour, held, began_at, expires_at, ended_at, spent, prewarm";

impl Line {
    pub(super) fn insert(
        &self,
        connection: &Connection,
        whose: &Whose<'_>,
        need: Need,
    ) -> rusqlite::Result<()> {
        connection
            .execute(
                "INSERT INTO spend (lease, run, project, job, per_hour, held, began_at, expires_at, prewarm)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    whose.lease.as_str(),
                    whose.run,
                    whose.project,
                    whose.job,
                    number(self.per_hour.0),
                    number(self.held.0),
                    number(self.began_ms),
                    number(self.expires_ms),
                    match need {
                        Need::Run => 0,
                        Need::Expected { .. } => 1,
                        Need::Coming => 2,
                    },
                ],
            )
            .map(drop)
    }

    /// The line of a sandbox that goes on, with its run and its project.
    pub(super) fn open(
        connection: &Connection,
        lease: &LeaseId,
    ) -> rusqlite::Result<Option<(Self, String, String)>> {
        let query =
            format!("SELECT {COLUMNS}, run, project FROM spend WHERE lease = ?1 AND ended_at IS NULL");
        let read = |row: &Row<'_>| Ok((read(row)?, row.get(7)?, row.get(8)?));
        connection.prepare_cached(&query)?.query_row([lease.as_str()], read).optional()
    }

    pub(super) fn end(
        &self,
        connection: &Connection,
        lease: &LeaseId,
        ended_ms: u64,
        spent: Dollars,
    ) -> rusqlite::Result<()> {
        let change = "UPDATE spend SET ended_at = ?2, spent = ?3 WHERE lease = ?1 AND ended_at IS NULL";
        connection
            .execute(change, params![lease.as_str(), number(ended_ms.max(self.began_ms)), number(spent.0)])
            .map(drop)
    }

    pub(super) fn of_run(connection: &Connection, run: &str) -> rusqlite::Result<Vec<Self>> {
        let query = format!("SELECT {COLUMNS} FROM spend WHERE run = ?1");
        connection.prepare_cached(&query)?.query_map([run], read)?.collect()
    }

    /// Those that cost something after a moment.
    pub(super) fn since(
        connection: &Connection,
        project: Option<&str>,
        moment_ms: u64,
    ) -> rusqlite::Result<Vec<Self>> {
        let query = format!(
            "SELECT {COLUMNS} FROM spend
             WHERE (ended_at IS NULL OR ended_at >= ?1) AND (?2 IS NULL OR project = ?2)"
        );
        connection.prepare_cached(&query)?.query_map(params![number(moment_ms), project], read)?.collect()
    }

    /// Those of sandboxes that no run had asked for, as far as they cost something after a moment.
    pub(super) fn prewarm_since(
        connection: &Connection,
        project: &str,
        moment_ms: u64,
    ) -> rusqlite::Result<Vec<Self>> {
        let query = format!(
            "SELECT {COLUMNS} FROM spend WHERE (ended_at IS NULL OR ended_at >= ?1) AND project = ?2 AND prewarm = 1"
        );
        connection.prepare_cached(&query)?.query_map(params![number(moment_ms), project], read)?.collect()
    }

    /// What it has cost until then.
    pub(super) fn so_far(&self, now_ms: u64) -> Dollars {
        self.between(self.began_ms, now_ms)
    }

    /// By its price, as far as the sandbox can have been there.
    fn between(&self, from_ms: u64, to_ms: u64) -> Dollars {
        let from = from_ms.max(self.began_ms);
        let to = to_ms.min(self.expires_ms);
        let time = to.saturating_sub(from) as f64;
        Dollars((self.per_hour.0 as f64 * time / MS_PER_HOUR).round() as u64)
    }

    /// What of it falls to the time after `since_ms`, now.
    fn account(&self, since_ms: u64, now_ms: u64) -> Account {
        if let (Some(ended_ms), Some(spent)) = (self.ended_ms, self.spent) {
            let whole = ended_ms.saturating_sub(self.began_ms);
            let part = ended_ms.saturating_sub(since_ms.max(self.began_ms));
            let share = if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
            return Account { spent: Dollars((spent.0 as f64 * share).round() as u64), held: Dollars(0) };
        }
        let gone = now_ms >= self.expires_ms;
        let held = if gone { Dollars(0) } else { self.held.less(self.so_far(now_ms)) };
        Account { spent: self.between(since_ms, now_ms), held }
    }
}

/// What is spent and held, as far as it is in the way of runs.
pub(super) fn account<'a>(lines: impl Iterator<Item = &'a Line>, since_ms: u64, now_ms: u64) -> Account {
    let of_line = |line: &Line| {
        let account = line.account(since_ms, now_ms);
        if line.is_ahead { Account { held: Dollars(0), ..account } } else { account }
    };
    sum(lines.map(of_line))
}

/// All that is spent and held.
pub(super) fn promised<'a>(lines: impl Iterator<Item = &'a Line>, since_ms: u64, now_ms: u64) -> Account {
    sum(lines.map(|line| line.account(since_ms, now_ms)))
}

fn sum(accounts: impl Iterator<Item = Account>) -> Account {
    accounts.fold(Account::default(), |sum, account| Account {
        spent: sum.spent.plus(account.spent),
        held: sum.held.plus(account.held),
    })
}

fn read(row: &Row<'_>) -> rusqlite::Result<Line> {
    let number = |at: usize| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let optional = |at: usize| row.get::<_, Option<i64>>(at).map(|value| value.map(i64::unsigned_abs));
    Ok(Line {
        per_hour: Dollars(number(0)?),
        held: Dollars(number(1)?),
        began_ms: number(2)?,
        expires_ms: number(3)?,
        ended_ms: optional(4)?,
        spent: optional(5)?.map(Dollars),
        is_ahead: number(6)? != 0,
    })
}
