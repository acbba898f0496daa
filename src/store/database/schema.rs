//! The tables, as a list of steps from each version to the next.
//!
//! A released step is never edited: what it made lies on disks. `user_version` counts the steps taken.

use rusqlite::{Connection, ffi};

/// Times are milliseconds since the Unix epoch, money is millionths of a dollar.
const STEPS: [&str; 5] = [
    "
    CREATE TABLE lease (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        account TEXT NOT NULL,
        owner TEXT NOT NULL,
        pid INTEGER NOT NULL,
        run TEXT NOT NULL,
        project TEXT NOT NULL,
        job TEXT NOT NULL,
        host TEXT NOT NULL,
        worktree TEXT NOT NULL,
        app TEXT NOT NULL,
        environment TEXT NOT NULL,
        backend TEXT NOT NULL,
        purpose TEXT NOT NULL,
        sandbox TEXT,
        intended_at INTEGER NOT NULL,
        changed_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        settled TEXT
    ) STRICT;
    CREATE INDEX lease_unsettled ON lease (state) WHERE state <> 'settled';
    CREATE INDEX lease_run ON lease (run);

    CREATE TABLE remembered (
        account TEXT NOT NULL,
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        id TEXT NOT NULL,
        used_at INTEGER NOT NULL,
        PRIMARY KEY (account, kind, key)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE job_run (
        run TEXT NOT NULL,
        job TEXT NOT NULL,
        project TEXT NOT NULL,
        worktree TEXT NOT NULL,
        place TEXT NOT NULL,
        log TEXT NOT NULL,
        started_at INTEGER NOT NULL,
        finished_at INTEGER,
        verdict TEXT,
        PRIMARY KEY (run, job)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX job_run_started ON job_run (started_at);
",
    "
    CREATE TABLE attempt (
        run TEXT NOT NULL,
        job TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        project TEXT NOT NULL,
        worktree TEXT NOT NULL,
        digest TEXT NOT NULL,
        place TEXT NOT NULL,
        started_at INTEGER NOT NULL,
        sync_ms INTEGER NOT NULL,
        image_ms INTEGER NOT NULL,
        queue_ms INTEGER NOT NULL,
        start_ms INTEGER NOT NULL,
        run_ms INTEGER NOT NULL,
        outputs_ms INTEGER NOT NULL,
        image_built INTEGER NOT NULL,
        warm INTEGER NOT NULL,
        bytes_sent INTEGER NOT NULL,
        ended TEXT NOT NULL,
        cause TEXT,
        cost INTEGER,
        load_percent INTEGER,
        PRIMARY KEY (run, job, attempt)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX attempt_job ON attempt (project, job, place, started_at);
    CREATE INDEX attempt_started ON attempt (started_at);
",
    "
    ALTER TABLE lease ADD COLUMN warm_key TEXT;
    ALTER TABLE lease ADD COLUMN warm_image TEXT;
    ALTER TABLE lease ADD COLUMN reuse_until INTEGER;
    ALTER TABLE lease ADD COLUMN idle_ends_at INTEGER;
    CREATE INDEX lease_warm ON lease (warm_key) WHERE state = 'parked';
",
    "
    CREATE TABLE spend (
        id INTEGER PRIMARY KEY,
        lease TEXT NOT NULL,
        run TEXT NOT NULL,
        project TEXT NOT NULL,
        job TEXT NOT NULL,
        per_hour INTEGER NOT NULL,
        held INTEGER NOT NULL,
        began_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        ended_at INTEGER,
        spent INTEGER
    ) STRICT;
    CREATE INDEX spend_lease ON spend (lease);
    CREATE INDEX spend_run ON spend (run);
    CREATE INDEX spend_ended ON spend (ended_at);
",
    "
    ALTER TABLE spend ADD COLUMN prewarm INTEGER NOT NULL DEFAULT 0;
",
];

/// The version that this accel reads and writes.
pub(super) const VERSION: usize = STEPS.len();

/// A version beyond this was written by no accel.
const PLAUSIBLE: usize = 10_000;

pub(super) fn version(connection: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match usize::try_from(version) {
        Ok(version) if version <= PLAUSIBLE => Ok(version),
        _ => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), None)),
    }
}

/// Takes the missing steps, each whole or not at all.
pub(super) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    for (done, step) in STEPS.iter().enumerate().skip(version(connection)?) {
        let transaction =
            rusqlite::Transaction::new_unchecked(connection, rusqlite::TransactionBehavior::Immediate)?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", i64::try_from(done + 1).unwrap_or(i64::MAX))?;
        transaction.commit()?;
    }
    Ok(())
}
