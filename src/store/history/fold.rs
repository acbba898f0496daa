//! Lines of the spool become rows, and old rows go.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::spool::SPOOL;
use super::{Entry, History, insert};
use crate::event::now_ms;
use crate::store::Lock;
use crate::store::database::{BUSY_TIMEOUT, DatabaseError, Durability};

/// Lines that are being folded; also what a killed accel has left of that.
const TAKEN: &str = "history.folding";
/// Held by the one who folds.
const LOCK: &str = "history.lock";
/// Pause between two attempts to get a lock.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a line that is just being written is waited for.
const WRITING: Duration = Duration::from_secs(1);

/// How long entries are kept.
pub const KEPT_FOR: Duration = Duration::from_secs(180 * 24 * 60 * 60);
/// How many entries are kept: some 6 MB.
pub const KEPT: usize = 20_000;

impl History {
    /// Takes over what waits in the spool. What cannot be taken over now waits on.
    pub fn fold(&self) -> Result<(), DatabaseError> {
        let folder = self.database().directories().state_path().to_owned();
        let (spool, taken) = (folder.join(SPOOL), folder.join(TAKEN));
        if !spool.exists() && !taken.exists() {
            return Ok(());
        }
        let Some(_lock) = lock(&folder.join(LOCK)) else { return Ok(()) };
        // First what was begun.
        if taken.exists() {
            self.fold_file(&taken)?;
        }
        // It cannot be folded now, and must not be replaced.
        if taken.exists() {
            return Ok(());
        }
        match fs::rename(&spool, &taken) {
            Ok(()) => self.fold_file(&taken),
            // Nobody wrote since, or the folder cannot be changed.
            Err(_) => Ok(()),
        }
    }

    fn fold_file(&self, path: &Path) -> Result<(), DatabaseError> {
        // Locked until it is removed: a writer that still has it open would add a line that nobody reads.
        let Ok((entries, _locked)) = lines(path) else { return Ok(()) };
        let kept = self.database().write_now(Durability::Process, |connection| {
            entries.iter().try_for_each(|entry| insert(connection, entry))?;
            prune(connection, now_ms())?;
            // A database that is only in memory keeps nothing.
            Ok(connection.path().is_some_and(|path| !path.is_empty()))
        })?;
        if kept {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    /// Removes entries older than a time and those beyond the newest [`KEPT`]; returns how many went.
    pub fn prune(&self, older_than: Duration) -> Result<usize, DatabaseError> {
        let before = now_ms().saturating_sub(super::milliseconds(older_than));
        self.database().write_now(Durability::Process, |connection| remove(connection, before))
    }
}

fn prune(connection: &Connection, now_ms: u64) -> rusqlite::Result<usize> {
    remove(connection, now_ms.saturating_sub(super::milliseconds(KEPT_FOR)))
}

fn remove(connection: &Connection, before_ms: u64) -> rusqlite::Result<usize> {
    let before = i64::try_from(before_ms).unwrap_or(i64::MAX);
    let old = connection.execute("DELETE FROM attempt WHERE started_at < ?1", [before])?;
    let oldest_kept = "SELECT started_at FROM attempt ORDER BY started_at DESC LIMIT 1 OFFSET ?1";
    let many = connection.execute(
        &format!("DELETE FROM attempt WHERE started_at < ({oldest_kept})"),
        params![KEPT as i64 - 1],
    )?;
    Ok(old + many)
}

/// Every whole line, and the file, locked; other lines are of a version that is not known, or were cut off.
fn lines(path: &Path) -> io::Result<(Vec<Entry>, File)> {
    let file = File::open(path)?;
    let began = Instant::now();
    // Whoever has opened it before it was renamed writes its line first. One that is suspended while it does is left
    // its time: the file is folded later.
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if began.elapsed() >= WRITING {
            return Err(io::Error::other("it is being written"));
        }
        std::thread::sleep(PAUSE);
    }
    let mut entries = Vec::new();
    for line in BufReader::new(&file).split(b'\n') {
        entries.extend(serde_json::from_slice::<Entry>(&line?).ok());
    }
    Ok((entries, file))
}

/// `None` when somebody holds it for longer than a statement may wait.
fn lock(path: &Path) -> Option<Lock> {
    let began = Instant::now();
    loop {
        match Lock::try_exclusive(path) {
            Ok(Some(lock)) => return Some(lock),
            Ok(None) if began.elapsed() < BUSY_TIMEOUT => std::thread::sleep(PAUSE),
            Ok(None) | Err(_) => return None,
        }
    }
}
