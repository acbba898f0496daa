//! Leases of sandboxes that are kept between runs.
//!
//! What must stay true: a parked lease is claimed by one accel at a time, whatever processes ask at once; nobody
//! claims a sandbox that the server may have ended by its limits, or that is too old to be used again. A parked
//! lease outlives the accel that parked it; whatever process dies while it holds one leaves an ordinary leftover.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::record::{COLUMNS, read, select, time};
use super::{Entry, Journal, JournalError, Lease, LeaseState, Owner, UNLOCKED, millis, whose};
use crate::base::money::Dollars;
use crate::event::now_ms;
use crate::store::database::Durability;
use crate::store::ledger::{self, Hold, Whose};

/// What a sandbox is kept for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmKey {
    /// A digest of account, worktree and all that a sandbox is defined by except the image's contents.
    pub definition: String,
    /// The id of the built image.
    pub image: String,
}

/// How long a parked sandbox may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// After this long without work the server ends it.
    pub idle: Duration,
    /// Not claimed any more after this, in milliseconds since the Unix epoch.
    pub reuse_until_ms: u64,
}

/// What a run wants of a parked sandbox.
#[derive(Debug, Clone)]
pub struct Claim {
    /// It must live for this long at least.
    pub needed: Duration,
    pub run: String,
    pub job: String,
    pub hold: Hold,
}

/// Several runs in a row, which come back for what they park. Lives as long as any of its clones.
#[derive(Debug, Clone)]
pub struct Parker {
    journal: Journal,
    /// Made when the first sandbox is parked.
    owner: Arc<OnceLock<Arc<Owner>>>,
}

impl Parker {
    pub fn new(journal: Journal) -> Self {
        Self { journal, owner: Arc::default() }
    }

    fn id(&self) -> String {
        self.owner.get_or_init(|| self.journal.owner()).id.clone()
    }
}

/// Why nobody uses a parked sandbox any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worn {
    /// The server has ended it.
    Idle,
    /// Its life would not last for another run, or it has reached the age that it may have.
    Old,
    OtherImage,
}

impl Journal {
    /// Gives a sandbox back for the next run that has the same key, in the name of `parker`, if there is one.
    pub async fn park(
        &self,
        lease: Lease,
        key: WarmKey,
        limits: Limits,
        parker: Option<&Parker>,
    ) -> Result<(), JournalError> {
        let parker = parker.map_or_else(|| lease.owner.id.clone(), Parker::id);
        let now = now_ms();
        let (id, idle_ends) = (lease.entry.lease.clone(), now.saturating_add(millis(limits.idle)));
        let change = move |connection: &Connection| {
            connection.execute(
                "UPDATE lease SET state = 'parked', warm_key = ?2, warm_image = ?3, reuse_until = ?4,
                 idle_ends_at = ?5, changed_at = ?6, owner = ?7 WHERE id = ?1 AND state <> 'settled'",
                params![
                    id.0,
                    key.definition,
                    key.image,
                    time(limits.reuse_until_ms),
                    time(idle_ends),
                    time(now),
                    parker
                ],
            )?;
            ledger::park(connection, &id, Some(idle_ends))
        };
        self.0.database.write(Durability::Process, change).await?;
        lease.owner.let_go(&lease.entry.lease);
        Ok(())
    }

    /// Makes the parked sandbox that was used last ours, if one fits and lives for another `needed` at least. What is
    /// held for the run goes into the ledger with it.
    pub async fn claim(&self, key: &WarmKey, claim: Claim) -> Result<Option<Lease>, JournalError> {
        let owner = self.owner();
        let (key, owner_id) = (key.clone(), owner.id.clone());
        let (now, needed) = (now_ms(), claim.needed);
        let change = move |connection: &Connection| {
            let query = format!(
                "SELECT {COLUMNS} FROM lease WHERE state = 'parked' AND warm_key = ?1 AND warm_image = ?2
                 AND reuse_until > ?3 AND idle_ends_at > ?3 AND expires_at > ?4
                 ORDER BY changed_at DESC, id LIMIT 1"
            );
            let until = time(now.saturating_add(millis(needed)));
            let found = connection
                .query_row(&query, params![key.definition, key.image, time(now), until], read)
                .optional()?;
            let Some(entry) = found else { return Ok(Ok(None)) };
            let whose = Whose { run: &claim.run, job: &claim.job, began_ms: now, ..whose(&entry) };
            let held = match ledger::turn(connection, &whose, &claim.hold)? {
                Ok(held) => held,
                Err(exceeded) => return Ok(Err(exceeded)),
            };
            own(connection, &entry, &owner_id, LeaseState::Running)?;
            Ok(Ok(Some((entry, held))))
        };
        let found = self.0.database.write(Durability::Process, change).await?;
        let found = found.map_err(JournalError::Exceeded)?;
        Ok(found.map(|(entry, held)| self.lease_of(entry, owner, LeaseState::Running, held)))
    }

    /// Gives back what was claimed and not used: the server's own clock of idleness has gone on.
    pub async fn unclaim(&self, lease: Lease, parker: Option<&Parker>) -> Result<(), JournalError> {
        let entry = lease.entry.clone();
        let parker = parker.map_or_else(|| lease.owner.id.clone(), Parker::id);
        let change = move |connection: &Connection| {
            connection.execute(
                "UPDATE lease SET state = 'parked', idle_ends_at = ?2, owner = ?3
                 WHERE id = ?1 AND state = 'running'",
                params![entry.lease.0, entry.idle_ends_at_ms.map(time), parker],
            )?;
            ledger::park(connection, &entry.lease, entry.idle_ends_at_ms)
        };
        self.0.database.write(Durability::Process, change).await?;
        lease.owner.let_go(&lease.entry.lease);
        Ok(())
    }

    /// Parked leases that no run of this key can use any more, each with the reason.
    pub async fn worn_out(
        &self,
        key: &WarmKey,
        needed: Duration,
    ) -> Result<Vec<(Entry, Option<Worn>)>, JournalError> {
        let (key, now) = (key.clone(), now_ms());
        let query = format!(
            "SELECT {COLUMNS}, warm_image <> ?2 AS other FROM lease WHERE state = 'parked' AND warm_key = ?1
             AND (warm_image <> ?2 OR reuse_until <= ?3 OR idle_ends_at <= ?3 OR expires_at <= ?4)"
        );
        let until = now.saturating_add(millis(needed));
        let ask = move |connection: &Connection| {
            let values = params![key.definition, key.image, time(now), time(until)];
            let line = |row: &Row<'_>| {
                let entry = read(row)?;
                let idle = entry.idle_ends_at_ms.is_none_or(|ends| ends <= now);
                let why = match (idle, row.get::<_, bool>("other")?) {
                    (true, _) => Worn::Idle,
                    (false, true) => Worn::OtherImage,
                    (false, false) => Worn::Old,
                };
                Ok((entry, Some(why)))
            };
            connection.prepare_cached(&query)?.query_map(values, line)?.collect()
        };
        Ok(self.0.database.read(ask).await?)
    }

    /// Every parked lease of a definition, usable or not.
    pub async fn all_parked(&self, definition: &str) -> Result<Vec<Entry>, JournalError> {
        let definition = definition.to_owned();
        let query = format!("SELECT {COLUMNS} FROM lease WHERE state = 'parked' AND warm_key = ?1");
        let ask = move |connection: &Connection| select(connection, &query, [&definition]);
        Ok(self.0.database.read(ask).await?)
    }

    /// Whether there is one of those.
    pub async fn has_any_parked(&self, definition: &str) -> Result<bool, JournalError> {
        Ok(!self.all_parked(definition).await?.is_empty())
    }

    /// Whether a claim could find something, whatever the contents of the image. One look at the database.
    pub async fn has_parked(&self, definition: &str) -> Result<bool, JournalError> {
        let definition = definition.to_owned();
        let query = "SELECT EXISTS (SELECT 1 FROM lease WHERE state = 'parked' AND warm_key = ?1
                     AND reuse_until > ?2 AND idle_ends_at > ?2 AND expires_at > ?2)";
        let ask = move |connection: &Connection| {
            connection.query_row(query, params![definition, time(now_ms())], |row| row.get(0))
        };
        Ok(self.0.database.read(ask).await?)
    }

    /// As [`has_parked`](Self::has_parked), of those that a run has used before.
    pub async fn has_used(&self, definition: &str) -> Result<bool, JournalError> {
        let definition = definition.to_owned();
        let query = "SELECT EXISTS (SELECT 1 FROM lease WHERE state = 'parked' AND warm_key = ?1
                     AND reuse_until > ?2 AND idle_ends_at > ?2 AND expires_at > ?2
                     AND NOT EXISTS (SELECT 1 FROM spend
                                     WHERE spend.lease = lease.id AND ended_at IS NULL AND prewarm <> 0))";
        let ask = move |connection: &Connection| {
            connection.query_row(query, params![definition, time(now_ms())], |row| row.get(0))
        };
        Ok(self.0.database.read(ask).await?)
    }

    /// Whether whoever parked the lease still runs and will come back for it. False where that cannot be known.
    pub fn parker_lives(&self, entry: &Entry) -> bool {
        entry.state == LeaseState::Parked
            && !entry.owner.starts_with(UNLOCKED)
            && matches!(self.dead_owner(entry), Ok(None))
    }

    /// For whoever ends it.
    pub(super) async fn take_parked(&self, entry: &Entry) -> Result<Option<Lease>, JournalError> {
        let owner = self.owner();
        let (wanted, owner_id) = (entry.clone(), owner.id.clone());
        let change = move |connection: &Connection| own(connection, &wanted, &owner_id, LeaseState::Stopping);
        let taken = self.0.database.write(Durability::Disk, change).await?;
        Ok((taken == 1).then(|| self.lease_of(entry.clone(), owner, LeaseState::Stopping, Dollars(0))))
    }

    fn lease_of(&self, entry: Entry, owner: Arc<Owner>, state: LeaseState, held: Dollars) -> Lease {
        let entry = Entry { owner: owner.id.clone(), pid: std::process::id(), state, ..entry };
        owner.hold(&entry);
        Lease { database: self.0.database.clone(), entry, owner, held, spent: None }
    }
}

fn own(connection: &Connection, entry: &Entry, owner: &str, state: LeaseState) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE lease SET state = ?2, owner = ?3, pid = ?4, changed_at = ?5, idle_ends_at = NULL
         WHERE id = ?1 AND state = 'parked'",
        params![entry.lease.0, state, owner, std::process::id(), time(now_ms())],
    )
}

/// Whether the server may still have the sandbox of a parked lease.
pub fn is_kept(entry: &Entry, now_ms: u64) -> bool {
    entry.state == LeaseState::Parked
        && now_ms < entry.expires_at_ms
        && entry.idle_ends_at_ms.is_some_and(|ends| now_ms < ends)
}
