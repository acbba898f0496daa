//! The file that entries wait in: one line each, appended after the verdict.
//!
//! What must stay true: appending never waits for anybody; a line is written by one call, so that lines of many
//! processes do not mix; a line that was cut off by a full disk or a loss of power spoils no other line. The one who
//! folds renames the file before it locks and reads it, so a writer that finds the file locked or gone begins a new one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::Entry;
use crate::store::Directories;

/// Lines that are not folded yet.
pub(super) const SPOOL: &str = "history.spool";

/// A spool that is larger is folded by whoever wrote the last line, once for some thousands of runs.
pub const FOLD_AT: u64 = 1 << 20;

/// How often a file that is being folded is left for a new one.
const ATTEMPTS: usize = 4;

/// Where entries are appended.
#[derive(Debug)]
pub struct Spool(Directories);

impl Spool {
    pub fn new(directories: Directories) -> Self {
        Self(directories)
    }

    /// Returns how large the file is now.
    pub fn append(&self, entry: &Entry) -> io::Result<u64> {
        // The line break before it parts it from whatever an interrupted write has left.
        let mut line = vec![b'\n'];
        serde_json::to_writer(&mut line, entry)?;
        line.push(b'\n');
        for _ in 0..ATTEMPTS {
            // Opened anew for each line: whoever folds waits for the lines of those that have the file open.
            let mut file = open(&self.0)?;
            if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
                continue;
            }
            let found = file.metadata()?;
            if found.nlink() > 0 {
                file.write_all(&line)?;
                return Ok(found.len() + line.len() as u64);
            }
        }
        Err(io::Error::other("it is being read all the time"))
    }
}

fn open(directories: &Directories) -> io::Result<File> {
    let folder = directories.open_state().map_err(io::Error::other)?;
    OpenOptions::new().append(true).create(true).mode(0o600).open(folder.join(SPOOL))
}
