//! The lease journal: every sandbox that accel ever asked for, written down before it is asked for.
//!
//! ```text
//! intended → created → running → stopping → settled
//!                       ↑ claim  ↓ park
//!                         parked
//! ```
//!
//! What must stay true: the intent is on the disk before the create call is sent; a [`Lease`] is made by the journal
//! alone and is used up by settling it; a lease is settled at most once; a lease whose owner lives is never taken
//! over. What a lease costs is in the ledger by the same transactions ([`super::ledger`]). An owner is one accel
//! process; it lives as long as its lock file is locked, so that no guess about process ids is needed: a killed
//! process has let go, a suspended one has not. A parked lease has no owner: it belongs to nobody until it is claimed
//! ([`warm`]). Who ends leftover sandboxes is `backend::modal::sweep`.

mod host;
mod record;
pub mod warm;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::Lock;
use super::database::{Database, DatabaseError, Durability};
use super::ledger::{self, Exceeded, Whose};
use crate::base::files::FileError;
use crate::base::money::Dollars;
use crate::event::now_ms;
use host::{host_word, make_private};
use record::{COLUMNS, insert, select, time};
pub use record::{Entry, Intent, LeaseId, LeaseState, Purpose, SandboxKind, Settlement, tag};

/// Grace after a sandbox's own end of life before a lease that nobody owns up to may be ended: clocks differ.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    File(#[from] FileError),
    /// Nothing was written.
    #[error("{0}")]
    Exceeded(Exceeded),
}

impl JournalError {
    pub fn help(&self) -> &'static str {
        "set ACCEL_STATE_DIR to a directory on a local disk that you can write to"
    }
}

/// Cheap to clone; nothing is opened before it is used.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    database: Database,
    owner: Mutex<Option<Arc<Owner>>>,
    host: Mutex<Option<String>>,
}

/// This process, as owner of leases. Its lock file goes when the last lease and the journal are gone.
#[derive(Debug)]
struct Owner {
    id: String,
    /// Taken on drop; `None` where the file system has no locks. Such an owner says so in its id.
    lock: Option<Lock>,
    /// What it still has to settle, as far as this process knows.
    held: Mutex<BTreeMap<LeaseId, Entry>>,
}

/// Begins the id of an owner whose life cannot be told from a lock.
const UNLOCKED: &str = "unlocked-";

/// Proof that an owner is dead.
enum DeadOwner {
    /// Its lock, now ours.
    Locked(Lock),
    /// Nothing that it owned can live.
    Overdue,
}

impl Owner {
    /// Notes a lease, or what has become of it.
    fn hold(&self, entry: &Entry) {
        self.notes().insert(entry.lease.clone(), entry.clone());
    }

    fn let_go(&self, lease: &LeaseId) {
        self.notes().remove(lease);
    }

    fn held(&self) -> Vec<Entry> {
        self.notes().values().cloned().collect()
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Entry>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // A file that stays is taken away by the next sweep.
        let _ = self.lock.take().map(Lock::remove);
    }
}

/// A promise to end one sandbox. Dropped without [`settle`](Self::settle) it stays in the journal, for the sweep
/// of a later run.
#[derive(Debug)]
#[must_use = "a lease that is not settled is left to the next sweep"]
pub struct Lease {
    database: Database,
    entry: Entry,
    /// Holds the owner's lock as long as the lease lives.
    owner: Arc<Owner>,
    /// What the ledger holds for it.
    held: Dollars,
    /// What it has cost, once that was measured.
    spent: Option<Dollars>,
}

impl Journal {
    pub fn new(database: Database) -> Self {
        Self(Arc::new(Shared { database, owner: Mutex::default(), host: Mutex::default() }))
    }

    pub fn database(&self) -> &Database {
        &self.0.database
    }

    /// Writes the intent down, and in the ledger what is held for it. Both are on the disk when this returns.
    pub async fn intend(&self, intent: Intent) -> Result<Lease, JournalError> {
        let owner = self.owner();
        let entry = Entry {
            lease: intent.lease,
            state: LeaseState::Intended,
            account: intent.account,
            owner: owner.id.clone(),
            pid: std::process::id(),
            run: intent.run,
            project: intent.project,
            job: intent.job,
            host: self.host(),
            worktree: intent.worktree,
            app: intent.app,
            environment: intent.environment,
            kind: intent.kind,
            purpose: intent.purpose,
            sandbox: None,
            intended_at_ms: now_ms(),
            changed_at_ms: now_ms(),
            expires_at_ms: intent.expires_at_ms,
            settled: None,
            idle_ends_at_ms: None,
        };
        let (written, wanted) = (entry.clone(), intent.hold);
        owner.hold(&entry);
        let write = move |connection: &Connection| {
            let granted = ledger::hold(connection, &whose(&written), &wanted)?;
            if granted.is_ok() {
                insert(connection, &written)?;
            }
            Ok(granted)
        };
        let granted = match self.0.database.write(Durability::Disk, write).await {
            Ok(granted) => granted.map_err(JournalError::Exceeded),
            Err(error) => Err(error.into()),
        };
        match granted {
            Ok(held) => Ok(Lease { database: self.0.database.clone(), entry, owner, held, spent: None }),
            Err(error) => {
                owner.let_go(&entry.lease);
                Err(error)
            }
        }
    }

    /// What this process has not settled yet, oldest first. From memory, for those who have no time for the disk: an
    /// intent whose writing is under way is among them, a lease that was dropped stays.
    pub fn held(&self) -> Vec<Entry> {
        let owner = self.0.owner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut held = owner.map_or_else(Vec::new, |owner| owner.held());
        held.sort_by_key(|entry| entry.intended_at_ms);
        held
    }

    /// Every lease that is not settled, oldest first.
    pub async fn unsettled(&self) -> Result<Vec<Entry>, JournalError> {
        let query = format!("SELECT {COLUMNS} FROM lease WHERE state <> 'settled' ORDER BY intended_at, id");
        Ok(self.0.database.read(move |connection| select(connection, &query, [])).await?)
    }

    /// Leases by id, sandbox, run or job, newest first. A run or lease may be shortened to
    /// [`SHORTEST_PREFIX`] characters or more.
    pub async fn find(&self, text: &str) -> Result<Vec<Entry>, JournalError> {
        let query = format!(
            "SELECT {COLUMNS} FROM lease
             WHERE id = ?1 OR sandbox = ?1 OR run = ?1 OR job = ?1
                OR (?2 AND (substr(run, 1, length(?1)) = ?1 OR substr(id, 1, length(?1)) = ?1))
             ORDER BY intended_at DESC, id"
        );
        let (text, shortened) = (text.to_owned(), text.len() >= SHORTEST_PREFIX);
        Ok(self
            .0
            .database
            .read(move |connection| select(connection, &query, params![text, shortened]))
            .await?)
    }

    /// The lease that a sandbox's tag names, settled or not.
    pub async fn by_lease(&self, lease: &str) -> Result<Option<Entry>, JournalError> {
        let query = format!("SELECT {COLUMNS} FROM lease WHERE id = ?1");
        let lease = lease.to_owned();
        let found = self.0.database.read(move |connection| select(connection, &query, [&lease])).await?;
        Ok(found.into_iter().next())
    }

    /// Whether the process that made the lease still runs. Where that cannot be known: until the sandbox's own end
    /// of life and [`EXPIRY_GRACE`]. A parked lease has no owner and is left alone while the server keeps its sandbox.
    pub fn owner_lives(&self, entry: &Entry) -> bool {
        if entry.state == LeaseState::Parked {
            return warm::is_kept(entry, now_ms());
        }
        match self.dead_owner(entry) {
            Ok(dead) => dead.is_none(),
            Err(_) => !is_overdue(entry),
        }
    }

    /// Makes an unsettled lease of a dead owner, or one that is parked, ours. `None` when its owner lives, it was
    /// settled or claimed meanwhile, or another accel was faster.
    pub async fn take_over(&self, entry: &Entry) -> Result<Option<Lease>, JournalError> {
        if entry.state == LeaseState::Parked {
            return self.take_parked(entry).await;
        }
        // Held until the line names us, so that nobody else sees the dead owner in between.
        let Some(dead) = self.dead_owner(entry)? else { return Ok(None) };
        let owner = self.owner();
        let (lease, before, after) = (entry.lease.clone(), entry.owner.clone(), owner.id.clone());
        let taken = self
            .0
            .database
            .write(Durability::Disk, move |connection| {
                connection.execute(
                    "UPDATE lease SET owner = ?3, pid = ?4, changed_at = ?5
                     WHERE id = ?1 AND owner = ?2 AND state NOT IN ('settled', 'parked')",
                    params![lease.0, before, after, std::process::id(), time(now_ms())],
                )
            })
            .await?;
        if self.unsettled_of(&entry.owner).await? == 0 {
            dead.bury();
        }
        if taken != 1 {
            return Ok(None);
        }
        let entry = Entry { owner: owner.id.clone(), pid: std::process::id(), ..entry.clone() };
        owner.hold(&entry);
        let held = Dollars(0);
        Ok(Some(Lease { database: self.0.database.clone(), entry, owner, held, spent: None }))
    }

    /// Forgets leases settled before `time`.
    pub async fn forget_settled(&self, before_ms: u64) -> Result<usize, JournalError> {
        let forget = move |connection: &Connection| {
            connection
                .execute("DELETE FROM lease WHERE state = 'settled' AND changed_at < ?1", [time(before_ms)])
        };
        Ok(self.0.database.write(Durability::Process, forget).await?)
    }

    /// Removes lock files of dead owners that left nothing.
    pub async fn remove_dead_owners(&self) -> Result<(), JournalError> {
        let Ok(folder) = fs::read_dir(self.0.database.directories().state_path().join("owners")) else {
            return Ok(());
        };
        for path in folder.filter_map(|entry| Some(entry.ok()?.path())) {
            let Some(owner) = path.file_stem().and_then(|name| name.to_str()) else { continue };
            if let Ok(Some(dead)) = Lock::try_exclusive(&path)
                && self.unsettled_of(owner).await? == 0
            {
                let _ = dead.remove();
            }
        }
        Ok(())
    }

    /// A word for this machine and user in tags: random, so that it tells nothing about either. Machines that
    /// share a home have different ones.
    pub fn host(&self) -> String {
        let mut host = self.0.host.lock().unwrap_or_else(PoisonError::into_inner);
        host.get_or_insert_with(|| host_word(self.0.database.directories().state_path())).clone()
    }

    async fn unsettled_of(&self, owner: &str) -> Result<i64, JournalError> {
        let owner = owner.to_owned();
        let count = move |connection: &Connection| {
            let query = "SELECT count(*) FROM lease WHERE owner = ?1 AND state NOT IN ('settled', 'parked')";
            connection.query_row(query, [&owner], |row| row.get(0))
        };
        Ok(self.0.database.read(count).await?)
    }

    /// `None` if the owner lives, or another accel is taking over what it left.
    fn dead_owner(&self, entry: &Entry) -> Result<Option<DeadOwner>, FileError> {
        if entry.owner.starts_with(UNLOCKED) {
            return Ok(is_overdue(entry).then_some(DeadOwner::Overdue));
        }
        Ok(Lock::try_exclusive(&self.owner_path(&entry.owner))?.map(DeadOwner::Locked))
    }

    fn owner(&self) -> Arc<Owner> {
        let mut owner = self.0.owner.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(owner.get_or_insert_with(|| Arc::new(self.new_owner())))
    }

    fn new_owner(&self) -> Owner {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let path = self.owner_path(&id);
        let folder = path.parent().expect("a file in the state directory");
        let locked = self.0.database.directories().open_state().is_ok() && make_private(folder).is_ok();
        match locked.then(|| Lock::try_exclusive(&path).ok().flatten()).flatten() {
            Some(lock) => Owner { id, lock: Some(lock), held: Mutex::default() },
            None => Owner { id: format!("{UNLOCKED}{id}"), lock: None, held: Mutex::default() },
        }
    }

    fn owner_path(&self, owner: &str) -> PathBuf {
        self.0.database.directories().state_path().join("owners").join(format!("{owner}.lock"))
    }
}

/// Fewest characters of a shortened id.
pub const SHORTEST_PREFIX: usize = 4;

impl DeadOwner {
    /// Removes its lock file, once nothing is left of it.
    fn bury(self) {
        if let Self::Locked(lock) = self {
            // A file that stays is removed by `accel prune`.
            let _ = lock.remove();
        }
    }
}

fn whose(entry: &Entry) -> Whose<'_> {
    Whose {
        lease: &entry.lease,
        run: &entry.run,
        project: &entry.project,
        job: &entry.job,
        began_ms: entry.intended_at_ms,
        expires_ms: entry.expires_at_ms,
    }
}

fn is_overdue(entry: &Entry) -> bool {
    now_ms() >= entry.expires_at_ms.saturating_add(millis(EXPIRY_GRACE))
}

impl Lease {
    pub fn id(&self) -> &LeaseId {
        &self.entry.lease
    }

    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// What the ledger held for it in the beginning.
    pub fn held(&self) -> Dollars {
        self.held
    }

    /// What the sandbox has cost: written down when it is settled.
    pub fn note_spent(&mut self, spent: Dollars) {
        self.spent = Some(spent);
    }

    /// The tags that the sandbox must carry, so that it is found when its id was lost.
    pub fn tags(&self) -> [(&'static str, String); 6] {
        let entry = &self.entry;
        [
            (tag::PROJECT, entry.project.clone()),
            (tag::JOB, entry.job.clone()),
            (tag::RUN, entry.run.clone()),
            (tag::LEASE, entry.lease.0.clone()),
            (tag::HOST, entry.host.clone()),
            (tag::EXPIRES, (entry.expires_at_ms / 1000).to_string()),
        ]
    }

    /// The server made the sandbox.
    pub async fn created(&mut self, sandbox: &str) -> Result<(), JournalError> {
        self.entry.sandbox = Some(sandbox.to_owned());
        self.enter(LeaseState::Created).await
    }

    /// Nothing is held for it any more: the sandbox is about to be ended, or another one takes its place.
    pub async fn release(&self) -> Result<(), JournalError> {
        let id = self.entry.lease.clone();
        let change = move |connection: &Connection| ledger::park(connection, &id, None);
        Ok(self.database.write(Durability::Process, change).await?)
    }

    /// A machine was found after a wait that costs nothing.
    pub async fn placed(&self) -> Result<(), JournalError> {
        let id = self.entry.lease.clone();
        let change = move |connection: &Connection| ledger::begin(connection, &id, now_ms());
        Ok(self.database.write(Durability::Process, change).await?)
    }

    /// The command was started.
    pub async fn running(&mut self) -> Result<(), JournalError> {
        self.enter(LeaseState::Running).await
    }

    /// The sandbox's end is about to be asked for.
    pub async fn stopping(&mut self) -> Result<(), JournalError> {
        self.enter(LeaseState::Stopping).await
    }

    /// The sandbox is gone, or never was. False when somebody else has settled the lease before.
    pub async fn settle(self, how: Settlement) -> Result<bool, JournalError> {
        let (id, spent) = (self.entry.lease.clone(), self.spent);
        let changed = self
            .database
            .write(Durability::Disk, move |connection| {
                ledger::settle(connection, &id, how, spent, now_ms())?;
                connection.execute(
                    "UPDATE lease SET state = 'settled', settled = ?2, changed_at = ?3
                     WHERE id = ?1 AND state <> 'settled'",
                    params![id.0, how, time(now_ms())],
                )
            })
            .await?;
        self.owner.let_go(&self.entry.lease);
        Ok(changed == 1)
    }

    async fn enter(&mut self, state: LeaseState) -> Result<(), JournalError> {
        self.entry.state = state;
        self.entry.changed_at_ms = now_ms();
        self.owner.hold(&self.entry);
        let entry = self.entry.clone();
        // A sandbox whose id was lost is found by its tags, so only the intent has to be on the disk.
        let change = move |connection: &Connection| {
            connection.execute(
                "UPDATE lease SET state = ?2, sandbox = ?3, changed_at = ?4 WHERE id = ?1 AND state <> 'settled'",
                params![entry.lease.0, entry.state, entry.sandbox, time(entry.changed_at_ms)],
            )
        };
        self.database.write(Durability::Process, change).await?;
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
