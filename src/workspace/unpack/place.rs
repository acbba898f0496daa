//! Putting staged entries where they belong: first everything is checked and made ready, then only renames are left.
//!
//! Folders are opened name by name from the root and links are never followed, so a link that is or appears in the way ends the
//! attempt instead of leading it elsewhere.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::archive::refused;
use super::staging::{Complete, Staged, StagedKind, Staging};
use super::{Refused, Report, UnpackError};
use crate::base::files::FileError;

pub(super) fn place(root: &Path, staging: Staging) -> Result<Report, UnpackError> {
    let staged = staging.complete()?;
    let mut placing = Placing {
        root,
        handle: File::open(root).map_err(|source| FileError::new("read", root, source))?.into(),
        staging: File::open(staged.folder()).map_err(|source| FileError::new("read", root, source))?.into(),
        staged,
    };
    let entries = std::mem::take(&mut placing.staged.entries);
    for entry in &entries {
        placing.check(entry)?;
    }
    let mut report = Report::default();
    let mut ready = Vec::new();
    for entry in &entries {
        match placing.prepare(entry)? {
            Prepared::Folder { mode } => ready.push((entry, Ready::Folder { mode })),
            Prepared::Unchanged => report.unchanged += 1,
            Prepared::Replace { name } => ready.push((entry, Ready::Rename { name })),
        }
    }
    for (entry, ready) in ready {
        if placing.apply(entry, ready)? {
            report.written.push(entry.path.clone());
        }
    }
    Ok(report)
}

enum Prepared {
    Folder {
        mode: u32,
    },
    Unchanged,
    /// By this file of the staging folder.
    Replace {
        name: String,
    },
}

enum Ready {
    Folder { mode: u32 },
    Rename { name: String },
}

struct Placing<'a> {
    root: &'a Path,
    handle: OwnedFd,
    staging: OwnedFd,
    staged: Complete,
}

/// What is at a place now.
enum Present {
    Nothing,
    Folder,
    Other,
}

impl Placing<'_> {
    fn check(&self, entry: &Staged) -> Result<(), UnpackError> {
        let refuse = |why| refused(entry.path.as_bytes(), why);
        let present = self.present(entry)?;
        match (&entry.kind, present) {
            (StagedKind::Directory { .. }, Present::Other) => {
                Err(refuse(Refused::ParentIsFile(entry.path.clone())))
            }
            (StagedKind::File { .. } | StagedKind::Symlink { .. }, Present::Folder) => {
                Err(refuse(Refused::IsFolder))
            }
            _ => Ok(()),
        }
    }

    fn present(&self, entry: &Staged) -> Result<Present, UnpackError> {
        let Some((folder, name)) = self.parent(entry, Missing::Leave)? else { return Ok(Present::Nothing) };
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(Present::Folder),
            Ok(_) => Ok(Present::Other),
            Err(Errno::NOENT) => Ok(Present::Nothing),
            Err(error) => Err(self.failed(entry, error)),
        }
    }

    fn prepare(&mut self, entry: &Staged) -> Result<Prepared, UnpackError> {
        match &entry.kind {
            StagedKind::Directory { mode } => Ok(Prepared::Folder { mode: *mode }),
            StagedKind::Symlink { target } => {
                if self.same_link(entry, target)? {
                    return Ok(Prepared::Unchanged);
                }
                let name = self.staged.fresh();
                rustix::fs::symlinkat(target.as_str(), &self.staging, name.as_str())
                    .map_err(|error| self.failed(entry, error))?;
                Ok(Prepared::Replace { name })
            }
            StagedKind::File { at, size, mode } => {
                let mode = Mode::from_raw_mode(*mode as rustix::fs::RawMode);
                if let Some(present) = self.same_file(entry)? {
                    // Only the bits differ, if anything: contents and times stay.
                    rustix::fs::fchmod(&present, mode).map_err(|error| self.failed(entry, error))?;
                    return Ok(Prepared::Unchanged);
                }
                let name = self.staged.separate(*at, *size).map_err(|error| self.failed(entry, error))?;
                let file = rustix::fs::openat(
                    &self.staging,
                    name.as_str(),
                    OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                );
                let set = file.and_then(|file| rustix::fs::fchmod(&file, mode));
                set.map_err(|error| self.failed(entry, error))?;
                Ok(Prepared::Replace { name })
            }
        }
    }

    fn same_link(&self, entry: &Staged, target: &str) -> Result<bool, UnpackError> {
        let Some((folder, name)) = self.parent(entry, Missing::Leave)? else { return Ok(false) };
        let present = rustix::fs::readlinkat(&folder, name, Vec::new());
        Ok(present.is_ok_and(|present| present.as_bytes() == target.as_bytes()))
    }

    /// The file in its place, when its contents are those that arrived.
    fn same_file(&self, entry: &Staged) -> Result<Option<OwnedFd>, UnpackError> {
        let StagedKind::File { at, size, .. } = entry.kind else { return Ok(None) };
        let Some((folder, name)) = self.parent(entry, Missing::Leave)? else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(present) = rustix::fs::openat(&folder, name, flags, Mode::empty()) else { return Ok(None) };
        let stat = rustix::fs::fstat(&present).map_err(|error| self.failed(entry, error))?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !regular || stat.st_size as u64 != size {
            return Ok(None);
        }
        let file = File::from(present);
        let arrived = self.staged.open(at, size).map_err(|error| self.failed(entry, error))?;
        let same = same_bytes(&file, arrived).map_err(|error| self.failed(entry, error))?;
        Ok(same.then(|| file.into()))
    }

    /// Whether something was written.
    fn apply(&self, entry: &Staged, ready: Ready) -> Result<bool, UnpackError> {
        let parent = self.parent(entry, Missing::Make)?;
        let (folder, name) = parent.ok_or_else(|| self.failed(entry, Errno::NOENT))?;
        match ready {
            Ready::Folder { mode } => {
                self.make_folder(entry, &folder, name, mode)?;
                Ok(false)
            }
            Ready::Rename { name: staged } => {
                rustix::fs::renameat(&self.staging, staged.as_str(), &folder, name)
                    .map_err(|error| self.failed(entry, error))?;
                Ok(true)
            }
        }
    }

    fn make_folder(
        &self,
        entry: &Staged,
        parent: impl AsFd,
        name: &str,
        mode: u32,
    ) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(mode as rustix::fs::RawMode);
        match rustix::fs::mkdirat(&parent, name, mode) {
            Ok(()) => {
                let made = open_folder(&parent, name).map_err(|error| self.failed(entry, error))?;
                rustix::fs::fchmod(&made, mode).map_err(|error| self.failed(entry, error))
            }
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(self.failed(entry, error)),
        }
    }

    /// The folder that holds an entry, and the entry's name in it. `None`: it is not there, and was not to be made.
    fn parent<'e>(
        &self,
        entry: &'e Staged,
        missing: Missing,
    ) -> Result<Option<(OwnedFd, &'e str)>, UnpackError> {
        let mut folder = self.handle.try_clone().map_err(|error| self.failed(entry, error))?;
        let (parents, last) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        let mut end = 0;
        for name in parents.split('/').filter(|name| !name.is_empty()) {
            end += name.len() + 1;
            let opened = open_folder(&folder, name);
            folder = match (opened, missing) {
                (Ok(opened), _) => opened,
                (Err(Errno::NOENT), Missing::Leave) => return Ok(None),
                (Err(Errno::NOENT), Missing::Make) => {
                    self.make_folder(entry, &folder, name, 0o755)?;
                    open_folder(&folder, name).map_err(|error| self.failed(entry, error))?
                }
                (Err(Errno::NOTDIR | Errno::LOOP), _) => {
                    return Err(self.in_the_way(entry, &folder, name, &entry.path[..end - 1]));
                }
                (Err(error), _) => return Err(self.failed(entry, error)),
            };
        }
        Ok(Some((folder, last)))
    }

    fn in_the_way(&self, entry: &Staged, folder: impl AsFd, name: &str, path: &str) -> UnpackError {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_link = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        let why = if is_link {
            Refused::ThroughLink(path.to_owned())
        } else {
            Refused::ParentIsFile(path.to_owned())
        };
        refused(entry.path.as_bytes(), why)
    }

    fn failed(&self, entry: &Staged, error: impl Into<io::Error>) -> UnpackError {
        FileError::new("write", &self.root.join(&entry.path), error.into()).into()
    }
}

#[derive(Clone, Copy)]
enum Missing {
    Leave,
    Make,
}

fn open_folder(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn same_bytes(mut a: impl Read, mut b: impl Read) -> io::Result<bool> {
    let (mut left, mut right) = ([0; 16 << 10], [0; 16 << 10]);
    loop {
        let count = a.read(&mut left)?;
        if count == 0 {
            return Ok(b.read(&mut right)? == 0);
        }
        match b.read_exact(&mut right[..count]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}
