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

/// Where entries are appended. The file is opened by the first.
#[derive(Debug)]
pub struct Spool {
    directories: Directories,
    file: Option<File>,
}

impl Spool {
    pub fn new(directories: Directories) -> Self {
        Self { directories, file: None }
    }

    /// Returns how large the file is now.
    pub fn append(&mut self, entry: &Entry) -> io::Result<u64> {
        // The line break before it parts it from whatever an interrupted write has left.
        let mut line = vec![b'\n'];
        serde_json::to_writer(&mut line, entry)?;
        line.push(b'\n');
        for _ in 0..ATTEMPTS {
            if let Some(size) = self.write(&line)? {
                return Ok(size);
            }
            self.file = None;
        }
        Err(io::Error::other("it is being read all the time"))
    }

    /// `None`: the file is being folded, or was.
    fn write(&mut self, line: &[u8]) -> io::Result<Option<u64>> {
        let file = match &mut self.file {
            Some(file) => file,
            closed => closed.insert(open(&self.directories)?),
        };
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            return Ok(None);
        }
        let found = file.metadata()?;
        if found.nlink() == 0 {
            return Ok(None);
        }
        let written = file.write_all(line);
        let _ = file.unlock();
        written.map(|()| Some(found.len() + line.len() as u64))
    }
}

fn open(directories: &Directories) -> io::Result<File> {
    let folder = directories.open_state().map_err(io::Error::other)?;
    OpenOptions::new().append(true).create(true).mode(0o600).open(folder.join(SPOOL))
}
