//! Contents on their way in: held in one folder of the project's own disk until all of them are there.
//!
//! Nothing here is named after an entry. Small files share one spool, so that a file that turns out to be unchanged costs no file of its
//! own. The folder holds a locked file for as long as its process lives; [`sweep`] removes folders whose lock is free.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::names::{Accepted, AcceptedKind};
use super::{CaseRule, UnpackError};
use crate::base::files::FileError;
use crate::workspace::tree::STAGING_PREFIX;

/// Larger files are staged on their own and moved into place.
const SPOOLED: u64 = 1 << 20;
const LOCK: &str = "lock";
/// A staging folder without a lock is being made, unless it is older.
const BEING_MADE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Staged {
    pub(super) path: String,
    pub(super) kind: StagedKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StagedKind {
    File { at: Place, size: u64, mode: u32 },
    Directory { mode: u32 },
    Symlink { target: String },
}

/// Where a file's contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Spool { offset: u64 },
    Own { number: usize },
}

pub(super) struct Staging {
    folder: TempDir,
    spool: BufWriter<File>,
    spooled: u64,
    files: usize,
    entries: Vec<Staged>,
    by_path: HashMap<String, usize>,
    _lock: File,
}

impl Staging {
    pub(super) fn create(root: &Path) -> Result<Self, FileError> {
        let wrap = |source| FileError::new("write", root, source);
        let folder = tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(root).map_err(wrap)?;
        let lock = File::create(folder.path().join(LOCK)).map_err(wrap)?;
        // Where locks do not work, the folder's age decides.
        let _ = lock.try_lock();
        // So that `git status` in another terminal does not show it.
        fs::write(folder.path().join(".gitignore"), "*\n").map_err(wrap)?;
        let spool = File::options().read(true).write(true).create_new(true).open(folder.path().join("spool"));
        Ok(Self {
            spool: BufWriter::with_capacity(256 << 10, spool.map_err(wrap)?),
            folder,
            spooled: 0,
            files: 0,
            entries: Vec::new(),
            by_path: HashMap::new(),
            _lock: lock,
        })
    }

    pub(super) fn case_matters(&self, rule: CaseRule) -> Result<bool, FileError> {
        let there = self.folder.path().join(LOCK.to_uppercase()).symlink_metadata().is_ok();
        Ok(rule == CaseRule::AsDisk && !there)
    }

    pub(super) fn add(&mut self, entry: Accepted, contents: &mut impl Read) -> Result<(), UnpackError> {
        let kind = match entry.kind {
            AcceptedKind::Directory { mode } => StagedKind::Directory { mode },
            AcceptedKind::Symlink { target } => StagedKind::Symlink { target },
            AcceptedKind::File { size, mode } => {
                StagedKind::File { at: self.receive(size, contents)?, size, mode }
            }
            AcceptedKind::Copy { of } => self.copy(&of)?,
        };
        if matches!(kind, StagedKind::File { .. }) {
            self.by_path.insert(entry.path.clone(), self.entries.len());
        }
        self.entries.push(Staged { path: entry.path, kind });
        Ok(())
    }

    fn receive(&mut self, size: u64, contents: &mut impl Read) -> Result<Place, UnpackError> {
        if size <= SPOOLED {
            let offset = self.spooled;
            copy_exactly(contents, &mut self.spool, size).map_err(|error| self.failed(error))?;
            self.spooled += size;
            return Ok(Place::Spool { offset });
        }
        let number = self.number();
        let mut file = File::create(self.own(number)).map_err(|error| self.failed(Failed::Write(error)))?;
        copy_exactly(contents, &mut file, size).map_err(|error| self.failed(error))?;
        Ok(Place::Own { number })
    }

    fn copy(&mut self, of: &str) -> Result<StagedKind, UnpackError> {
        let index = self.by_path[of];
        let StagedKind::File { at, size, mode } = self.entries[index].kind else {
            return Err(UnpackError::Malformed("a hard link to no file"));
        };
        let at = match at {
            Place::Spool { offset } => Place::Spool { offset },
            Place::Own { number } => {
                let copy = self.number();
                fs::copy(self.own(number), self.own(copy))
                    .map_err(|error| self.failed(Failed::Write(error)))?;
                Place::Own { number: copy }
            }
        };
        Ok(StagedKind::File { at, size, mode })
    }

    fn number(&mut self) -> usize {
        self.files += 1;
        self.files
    }

    fn own(&self, number: usize) -> PathBuf {
        self.folder.path().join(number.to_string())
    }

    fn failed(&self, error: Failed) -> UnpackError {
        match error {
            Failed::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => UnpackError::Truncated,
            Failed::Read(error) => UnpackError::Stream(error),
            Failed::Write(error) => FileError::new("write", self.folder.path(), error).into(),
        }
    }

    /// Everything has arrived.
    pub(super) fn complete(self) -> Result<Complete, FileError> {
        let wrap = |error| FileError::new("write", self.folder.path(), error);
        let spool = self.spool.into_inner().map_err(|error| wrap(error.into_error()))?;
        Ok(Complete {
            folder: self.folder,
            spool,
            files: self.files,
            entries: self.entries,
            _lock: self._lock,
        })
    }
}

/// A finished staging folder. Dropping it removes the folder.
pub(super) struct Complete {
    folder: TempDir,
    spool: File,
    files: usize,
    pub(super) entries: Vec<Staged>,
    _lock: File,
}

impl Complete {
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file's contents.
    pub(super) fn open(&self, at: Place, size: u64) -> io::Result<Box<dyn Read + '_>> {
        match at {
            Place::Own { number } => Ok(Box::new(File::open(self.folder.path().join(number.to_string()))?)),
            Place::Spool { offset } => {
                let mut spool = &self.spool;
                spool.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(spool.take(size)))
            }
        }
    }

    /// The name, within the folder, of a file that holds the contents and nothing else.
    pub(super) fn separate(&mut self, at: Place, size: u64) -> io::Result<String> {
        if let Place::Own { number } = at {
            return Ok(number.to_string());
        }
        let name = self.fresh();
        let mut file = File::create(self.folder.path().join(&name))?;
        io::copy(&mut self.open(at, size)?, &mut file)?;
        Ok(name)
    }

    pub(super) fn fresh(&mut self) -> String {
        self.files += 1;
        self.files.to_string()
    }
}

enum Failed {
    Read(io::Error),
    Write(io::Error),
}

/// Tells whose fault a failure was.
fn copy_exactly(from: &mut impl Read, to: &mut impl Write, size: u64) -> Result<(), Failed> {
    let mut buffer = [0; 16 << 10];
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = match from.read(&mut buffer[..most]) {
            Ok(0) => return Err(Failed::Read(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failed::Read(error)),
        };
        to.write_all(&buffer[..count]).map_err(Failed::Write)?;
        left -= count as u64;
    }
    Ok(())
}

/// Removes what processes that died have left in the project; called when a run starts. Folders in use are left alone.
pub fn sweep(root: &Path) -> Result<(), FileError> {
    let wrap = |source| FileError::new("read", root, source);
    for entry in fs::read_dir(root).map_err(wrap)? {
        let entry = entry.map_err(wrap)?;
        let is_ours = entry.file_name().to_string_lossy().starts_with(STAGING_PREFIX);
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_ours && is_folder && is_abandoned(&entry.path()) {
            // Another process may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn is_abandoned(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => {
            let made = fs::metadata(folder).and_then(|found| found.modified());
            made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > BEING_MADE))
        }
    }
}
