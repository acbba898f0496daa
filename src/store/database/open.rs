//! Opening the database, whatever is found.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rusqlite::{Connection, OpenFlags};

use super::{BUSY_TIMEOUT, is_damage, schema};
use crate::store::{Directories, Lock};

pub(super) const FILE: &str = "accel.db";
/// Held while a database is made, migrated or moved aside; using one needs no lock of ours.
const LOCK: &str = "accel.db.lock";
/// Pause between two attempts to get the lock.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) notice: Option<String>,
}

/// Why a file cannot be used as it is.
enum Refused {
    Newer(usize),
    Damaged(rusqlite::Error),
    Unusable(String),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        if is_damage(&error) { Self::Damaged(error) } else { Self::Unusable(error.to_string()) }
    }
}

/// Always gives a database that works, in memory if need be.
pub(super) fn open(directories: &Directories) -> rusqlite::Result<Opened> {
    let folder = match directories.open_state() {
        Ok(folder) => folder,
        Err(error) => return in_memory(&error.to_string()),
    };
    open_file(folder, &folder.join(FILE))
}

fn open_file(folder: &Path, path: &Path) -> rusqlite::Result<Opened> {
    match connect(folder, path) {
        Ok(connection) => Ok(Opened { connection, notice: None }),
        Err(Refused::Damaged(error)) => replace_file(folder, path, &error),
        Err(Refused::Unusable(reason)) => in_memory(&reason),
        Err(Refused::Newer(version)) => {
            // Named by version, so that each accel finds its own again.
            let own = folder.join(format!("accel-v{}.db", schema::VERSION));
            let opened =
                if own == path { in_memory("it is newer than its name") } else { open_file(folder, &own) };
            let notice = format!(
                "{} was written by a newer accel (version {version} of its layout): left alone, using {}",
                path.display(),
                own.display()
            );
            opened.map(|opened| Opened { notice: Some(notice), ..opened })
        }
    }
}

/// For a file that turned out to be damaged while it was in use.
pub(super) fn replace(directories: &Directories, reason: &rusqlite::Error) -> rusqlite::Result<Opened> {
    match directories.open_state() {
        Ok(folder) => replace_file(folder, &folder.join(FILE), reason),
        Err(error) => in_memory(&error.to_string()),
    }
}

/// Nothing of this survives the process; every run still works.
pub(super) fn in_memory(reason: &str) -> rusqlite::Result<Opened> {
    let connection = Connection::open_in_memory()?;
    schema::migrate(&connection)?;
    let notice = format!("cannot keep state, so nothing is remembered after this run: {reason}");
    Ok(Opened { connection, notice: Some(notice) })
}

/// Moves a damaged file aside and begins a new one. Whoever comes second finds it done.
fn replace_file(folder: &Path, path: &Path, reason: &rusqlite::Error) -> rusqlite::Result<Opened> {
    let Some(_lock) = lock(folder) else { return in_memory("another accel repairs it") };
    if let Ok(connection) = prepare(path) {
        // The damage may lie in a table that opening does not read.
        if is_sound(&connection) {
            return Ok(Opened { connection, notice: None });
        }
    }
    let aside = aside(path);
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let from = with_suffix(path, suffix);
        if let Err(error) = fs::rename(&from, with_suffix(&aside, suffix))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return in_memory(&format!(
                "{} is damaged ({reason}) and cannot be moved: {error}",
                path.display()
            ));
        }
    }
    match prepare(path) {
        Ok(connection) => {
            let notice = format!("{} is damaged ({reason}): moved to {}", path.display(), aside.display());
            Ok(Opened { connection, notice: Some(notice) })
        }
        Err(Refused::Damaged(error)) => in_memory(&error.to_string()),
        Err(Refused::Unusable(reason)) => in_memory(&reason),
        Err(Refused::Newer(_)) => in_memory("a newer accel has just made it anew"),
    }
}

fn is_sound(connection: &Connection) -> bool {
    connection
        .pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0))
        .is_ok_and(|answer| answer == "ok")
}

/// A name that is free: the newest damage never hides an older one.
fn aside(path: &Path) -> PathBuf {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    (0..)
        .map(|count| with_suffix(path, &format!(".damaged-{stamp}-{count}")))
        .find(|path| !path.exists())
        .expect("numbers do not end")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Uses what is there; makes or migrates it under the lock where that is needed.
fn connect(folder: &Path, path: &Path) -> Result<Connection, Refused> {
    if path.exists() {
        let connection = plain(path)?;
        if accept_version(&connection)? == schema::VERSION {
            return Ok(connection);
        }
    }
    let Some(_lock) = lock(folder) else {
        return Err(Refused::Unusable(format!("{} is held by another accel", folder.join(LOCK).display())));
    };
    prepare(path)
}

fn accept_version(connection: &Connection) -> Result<usize, Refused> {
    let version = schema::version(connection)?;
    if version > schema::VERSION { Err(Refused::Newer(version)) } else { Ok(version) }
}

/// Only under the lock: switching the journal's mode does not wait for others as statements do.
fn prepare(path: &Path) -> Result<Connection, Refused> {
    // Made here, not by SQLite, so that nobody else can ever read it; its companions copy the mode.
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Refused::Unusable(format!("cannot open {}: {error}", path.display())))?;
    let connection = plain(path)?;
    if accept_version(&connection)? < schema::VERSION {
        if shares_memory(path) {
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        }
        schema::migrate(&connection)?;
    }
    Ok(connection)
}

fn plain(path: &Path) -> Result<Connection, Refused> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// `None` when somebody keeps it for longer than a statement may wait.
fn lock(folder: &Path) -> Option<Lock> {
    let began = Instant::now();
    loop {
        match Lock::try_exclusive(&folder.join(LOCK)) {
            Ok(Some(lock)) => return Some(lock),
            Ok(None) if began.elapsed() < BUSY_TIMEOUT => std::thread::sleep(PAUSE),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Whether processes that use this file share memory, which the write-ahead log needs: not across a network.
fn shares_memory(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| is_local(&found))
}

#[cfg(target_os = "linux")]
fn is_local(found: &rustix::fs::StatFs) -> bool {
    /// Magic numbers of statfs(2): NFS, SMB, CIFS, SMB2, AFS, Coda, 9P, Lustre, GPFS, Ceph, FUSE (sshfs), GFS2, OCFS2.
    const NETWORK: [u32; 13] = [
        0x6969,
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x5346_414f,
        0x7375_7245,
        0x0102_1997,
        0x0bd0_0bd0,
        0x4750_4653,
        0x00c3_6400,
        0x6573_5546,
        0x0116_1970,
        0x7461_636f,
    ];
    // The type is an unsigned 32-bit number in fields of various widths and signs.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let kind = found.f_type as u32;
    !NETWORK.contains(&kind)
}

#[cfg(not(target_os = "linux"))]
fn is_local(found: &rustix::fs::StatFs) -> bool {
    /// `MNT_LOCAL` of statfs(2).
    const LOCAL: u32 = 0x1000;
    found.f_flags & LOCAL != 0
}
