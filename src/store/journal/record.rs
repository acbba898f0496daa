//! Lines of the journal: their words, and how they lie in the database.

use rusqlite::{Connection, Row, params};
use serde::Serialize;

use crate::store::ledger::Hold;

/// Names of the tags that every sandbox carries.
pub mod tag {
    pub const PROJECT: &str = "accel-project";
    pub const JOB: &str = "accel-job";
    pub const RUN: &str = "accel-run";
    pub const LEASE: &str = "accel-lease";
    /// A random word for this machine and user, see [`super::super::Journal::host`].
    pub const HOST: &str = "accel-host";
    /// Seconds since the Unix epoch.
    pub const EXPIRES: &str = "accel-expires";

    /// A text as the value of a tag: plain characters, not too many.
    pub fn value(text: &str) -> String {
        const LONGEST: usize = 63;
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        text.chars().map(plain).take(LONGEST).collect()
    }
}

/// 32 hexadecimal digits, never used twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct LeaseId(pub(super) String);

impl LeaseId {
    pub fn new() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LeaseId {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Display for LeaseId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A closed set of words, as text in the database.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant),* }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl rusqlite::ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }

        impl rusqlite::types::FromSql for $name {
            fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
                match value.as_str()? {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(rusqlite::types::FromSqlError::InvalidType),
                }
            }
        }
    };
}

words! {
    /// Modal's two kinds of sandbox.
    SandboxKind { V1 = "v1", V2 = "v2" }
}

words! {
    /// What a sandbox is for.
    Purpose {
        OneShot = "one_shot",
        /// Kept for the next run.
        Warm = "warm",
    }
}

words! {
    /// How far a lease has come.
    LeaseState {
        /// The create call may have been sent; the sandbox's id is not known.
        Intended = "intended",
        /// The sandbox exists.
        Created = "created",
        /// Its command was started.
        Running = "running",
        /// Kept for the next run; nobody uses it.
        Parked = "parked",
        /// Its end was asked for.
        Stopping = "stopping",
        Settled = "settled",
    }
}

words! {
    /// How a lease was settled.
    Settlement {
        /// No sandbox was made, for certain.
        NeverCreated = "never_created",
        /// Ended by us.
        Terminated = "terminated",
        /// It had ended by itself.
        Ended = "ended",
        /// Its lifetime on the server is over, so that it cannot live.
        Expired = "expired",
    }
}

/// What is known before a sandbox is asked for.
#[derive(Debug, Clone)]
pub struct Intent {
    pub lease: LeaseId,
    /// Which credentials may end it: `backend::modal::account`. No secret.
    pub account: String,
    pub project: String,
    pub job: String,
    pub run: String,
    /// A digest of the folder of accel.toml.
    pub worktree: String,
    pub app: String,
    pub environment: String,
    pub kind: SandboxKind,
    pub purpose: Purpose,
    /// When the server will have ended the sandbox by itself, in milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
    /// What it costs, and what is held for it in the ledger.
    pub hold: Hold,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub lease: LeaseId,
    pub state: LeaseState,
    pub account: String,
    #[serde(skip)]
    pub(super) owner: String,
    /// The owner's process id; only for people, see the notes on owners.
    pub pid: u32,
    pub run: String,
    pub project: String,
    pub job: String,
    pub host: String,
    pub worktree: String,
    pub app: String,
    pub environment: String,
    pub kind: SandboxKind,
    pub purpose: Purpose,
    pub sandbox: Option<String>,
    pub intended_at_ms: u64,
    pub changed_at_ms: u64,
    pub expires_at_ms: u64,
    pub settled: Option<Settlement>,
    /// Of a parked lease: when the server will have ended the unused sandbox, in milliseconds since the Unix epoch.
    pub idle_ends_at_ms: Option<u64>,
}

pub(super) const COLUMNS: &str =
    "id, state, account, owner, pid, run, project, job, host, worktree, app, environment, backend,
    purpose, sandbox, intended_at, changed_at, expires_at, settled, idle_ends_at";

pub(super) fn insert(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let query = format!(
        "INSERT INTO lease ({COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)"
    );
    let values = params![
        entry.lease.0,
        entry.state,
        entry.account,
        entry.owner,
        entry.pid,
        entry.run,
        entry.project,
        entry.job,
        entry.host,
        entry.worktree,
        entry.app,
        entry.environment,
        entry.kind,
        entry.purpose,
        entry.sandbox,
        time(entry.intended_at_ms),
        time(entry.changed_at_ms),
        time(entry.expires_at_ms),
        entry.settled,
        entry.idle_ends_at_ms.map(time),
    ];
    connection.execute(&query, values).map(drop)
}

pub(super) fn select(
    connection: &Connection,
    query: &str,
    parameters: impl rusqlite::Params,
) -> rusqlite::Result<Vec<Entry>> {
    connection.prepare_cached(query)?.query_map(parameters, read)?.collect()
}

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        lease: LeaseId(row.get(0)?),
        state: row.get(1)?,
        account: row.get(2)?,
        owner: row.get(3)?,
        pid: row.get(4)?,
        run: row.get(5)?,
        project: row.get(6)?,
        job: row.get(7)?,
        host: row.get(8)?,
        worktree: row.get(9)?,
        app: row.get(10)?,
        environment: row.get(11)?,
        kind: row.get(12)?,
        purpose: row.get(13)?,
        sandbox: row.get(14)?,
        intended_at_ms: row.get::<_, i64>(15)?.unsigned_abs(),
        changed_at_ms: row.get::<_, i64>(16)?.unsigned_abs(),
        expires_at_ms: row.get::<_, i64>(17)?.unsigned_abs(),
        settled: row.get(18)?,
        idle_ends_at_ms: row.get::<_, Option<i64>>(19)?.map(i64::unsigned_abs),
    })
}

/// SQLite's numbers are signed.
pub(super) fn time(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
