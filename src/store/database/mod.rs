//! The one SQLite database of accel: `<state>/accel.db`.
//!
//! Owns opening, the schema and its migrations, and what happens to a database that cannot be used. What must stay
//! true: nothing is opened before [`Database::write`] or [`Database::read`] is first called; any number of accel
//! processes may use it at once; a fault of the database never fails a run. A damaged file is moved aside, a file of
//! a newer accel is left alone, and where nothing can be written accel goes on in memory; each is said once
//! ([`Database::take_notices`]). What the tables mean is left to [`super::journal`], [`super::ledger`],
//! [`super::remembered`] and [`super::runs`]. No secret is ever stored.

mod open;
mod schema;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::Directories;
use open::Opened;

/// How long a statement waits for other processes.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a write must have reached the disk when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives loss of power.
    Disk,
    /// Survives the end of this process; what the system had not written yet is lost with the power.
    Process,
}

/// A statement that failed although the database is sound.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} accel's state database: {source}")]
pub struct DatabaseError {
    pub action: &'static str,
    pub source: rusqlite::Error,
}

impl DatabaseError {
    /// The remedy.
    pub fn help(&self) -> &'static str {
        "set ACCEL_STATE_DIR to a directory on a local disk that you can write to"
    }
}

/// Cheap to clone; all clones share one connection, opened when first needed.
#[derive(Debug, Clone)]
pub struct Database(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directories: Directories,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    notices: Vec<String>,
}

impl Database {
    pub fn new(directories: Directories) -> Self {
        Self(Arc::new(Shared { directories, state: Mutex::default() }))
    }

    pub fn directories(&self) -> &Directories {
        &self.0.directories
    }

    /// Whether it is open, or there is a file to open.
    pub fn exists(&self) -> bool {
        self.lock().connection.is_some() || self.0.directories.state_path().join(open::FILE).exists()
    }

    /// What the user should hear about the state of the database; each text once.
    pub fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().notices)
    }

    /// Runs `query` off the thread that waits for other things.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let database = self.clone();
        off_thread(move || database.read_now(query)).await
    }

    /// Runs `change` in one transaction, which has ended as `durability` says when this returns. Goes on when the
    /// future is dropped.
    pub async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        change: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let database = self.clone();
        off_thread(move || database.write_now(durability, change)).await
    }

    /// As [`read`](Self::read), for threads that may block.
    pub fn read_now<T>(
        &self,
        query: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        self.use_connection(|connection| query(connection))
            .map_err(|source| DatabaseError { action: "read", source })
    }

    /// As [`write`](Self::write), for threads that may block.
    pub fn write_now<T>(
        &self,
        durability: Durability,
        change: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let synchronous = match durability {
            Durability::Disk => "FULL",
            Durability::Process => "NORMAL",
        };
        self.use_connection(|connection| {
            connection.pragma_update(None, "synchronous", synchronous)?;
            // Immediate: a transaction that starts by reading could not wait for other writers.
            let transaction =
                rusqlite::Transaction::new_unchecked(connection, rusqlite::TransactionBehavior::Immediate)?;
            let done = change(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })
        .map_err(|source| DatabaseError { action: "write", source })
    }

    /// Opens what is not open, and begins anew where the file turns out to be damaged.
    fn use_connection<T>(
        &self,
        work: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, rusqlite::Error> {
        let mut state = self.lock();
        let first = work(self.connection(&mut state)?);
        let Err(error) = first else { return first };
        if is_damage(&error) {
            state.connection = None;
            let replaced = open::replace(&self.0.directories, &error);
            return work(accept(&mut state, replaced)?);
        }
        if is_unwritable(&error) {
            state.connection = None;
            return work(accept(&mut state, open::in_memory(&error.to_string()))?);
        }
        Err(error)
    }

    fn connection<'a>(&self, state: &'a mut State) -> Result<&'a Connection, rusqlite::Error> {
        if state.connection.is_none() {
            let opened = open::open(&self.0.directories);
            accept(state, opened)?;
        }
        Ok(state.connection.as_ref().expect("just opened"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(state: &mut State, opened: rusqlite::Result<Opened>) -> rusqlite::Result<&Connection> {
    let opened = opened?;
    state.notices.extend(opened.notice);
    Ok(state.connection.insert(opened.connection))
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, so nobody will ever read the answer.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The file is no sound database.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        || matches!(
            error,
            rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..)
        )
}

/// Nothing can be written here: a full disk, a read-only home.
fn is_unwritable(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::ReadOnly
                | ErrorCode::DiskFull
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::SystemIoFailure
        )
    )
}

#[cfg(test)]
mod tests;
