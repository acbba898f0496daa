//! Declared outputs as they were before an attempt that runs in the project itself, so that what it wrote can be taken
//! back when another attempt follows.
//!
//! What must stay true: after [`Kept::restore`] every declared output is what it was: files that the attempt made are
//! gone, files that it changed or removed are back with their contents, modes and times. Links are not followed. What was
//! kept lies in a file without a name on the project's own disk, which goes away with its process; disks that share
//! blocks between files copy nothing.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::tree::{PatternSet, STAGING_PREFIX};
use crate::base::files::FileError;

/// Contents kept at most. A larger file that the attempt changes stays changed, and is named.
pub const KEPT_LIMIT: u64 = 256 << 20;
/// Folders within folders deeper than this hold no outputs.
const DEEPEST: usize = 100;

#[derive(Debug)]
pub struct Kept {
    root: PathBuf,
    outputs: PatternSet,
    was: BTreeMap<String, Was>,
    spool: File,
}

#[derive(Debug, PartialEq, Eq)]
enum Was {
    /// `at`: where in the spool the contents are, if they are kept.
    File {
        stat: Stat,
        at: Option<u64>,
    },
    Link {
        target: PathBuf,
    },
    Folder,
    /// Left alone.
    Other,
}

/// What tells whether a file was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    size: u64,
    mode: u32,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("too large to be kept, and changed: {}", .0.join(", "))]
    TooLarge(Vec<String>),
}

impl Kept {
    /// Blocks.
    pub fn take(root: &Path, outputs: PatternSet) -> Result<Self, FileError> {
        let spool = tempfile::tempfile_in(root).map_err(|source| FileError::new("write", root, source))?;
        let mut kept = Self { root: root.to_owned(), outputs, was: BTreeMap::new(), spool };
        let mut room = KEPT_LIMIT;
        for (path, found) in covered(root, &kept.outputs)? {
            let was = kept.note(&path, &found, &mut room)?;
            kept.was.insert(path, was);
        }
        Ok(kept)
    }

    fn note(&mut self, path: &str, found: &Metadata, room: &mut u64) -> Result<Was, FileError> {
        let place = self.root.join(path);
        let wrap = |source| FileError::new("read", &place, source);
        if found.is_symlink() {
            return Ok(Was::Link { target: fs::read_link(&place).map_err(wrap)? });
        }
        if !found.is_file() {
            return Ok(if found.is_dir() { Was::Folder } else { Was::Other });
        }
        let stat = Stat::of(found);
        if stat.size > *room {
            return Ok(Was::File { stat, at: None });
        }
        let at = self.spool.stream_position().map_err(wrap)?;
        let copied = io::copy(&mut File::open(&place).map_err(wrap)?, &mut self.spool).map_err(wrap)?;
        *room = room.saturating_sub(copied);
        // A file that is being written to meanwhile cannot be given back as it was.
        Ok(Was::File { stat, at: (copied == stat.size).then_some(at) })
    }

    /// Blocks.
    pub fn restore(&mut self) -> Result<(), KeptError> {
        let now = covered(&self.root, &self.outputs)?;
        for (path, found) in now.iter().rev() {
            if !self.was.get(path).is_some_and(|was| was.is_like(found)) {
                remove(&self.root.join(path), found)?;
            }
        }
        let was = std::mem::take(&mut self.was);
        let mut too_large = Vec::new();
        for (path, was) in &was {
            if !self.give_back(&self.root.join(path), was)? {
                too_large.push(path.clone());
            }
        }
        self.was = was;
        if too_large.is_empty() { Ok(()) } else { Err(KeptError::TooLarge(too_large)) }
    }

    /// False: the contents were not kept.
    fn give_back(&self, place: &Path, was: &Was) -> Result<bool, FileError> {
        let wrap = |source| FileError::new("write", place, source);
        let parent = place.parent().unwrap_or(&self.root);
        match was {
            Was::Other => {}
            Was::Folder => fs::create_dir_all(place).map_err(wrap)?,
            Was::Link { target } => {
                if fs::read_link(place).is_ok_and(|present| present == *target) {
                    return Ok(true);
                }
                fs::create_dir_all(parent).map_err(wrap)?;
                let _ = fs::remove_file(place);
                std::os::unix::fs::symlink(target, place).map_err(wrap)?;
            }
            Was::File { stat, at } => {
                if fs::symlink_metadata(place).is_ok_and(|found| found.is_file() && Stat::of(&found) == *stat)
                {
                    return Ok(true);
                }
                let Some(at) = at else { return Ok(false) };
                fs::create_dir_all(parent).map_err(wrap)?;
                self.write(place, parent, *stat, *at).map_err(wrap)?;
            }
        }
        Ok(true)
    }

    fn write(&self, place: &Path, parent: &Path, stat: Stat, at: u64) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(STAGING_PREFIX).tempfile_in(parent)?;
        let mut spool = &self.spool;
        spool.seek(SeekFrom::Start(at))?;
        io::copy(&mut spool.take(stat.size), file.as_file_mut())?;
        file.as_file().set_permissions(fs::Permissions::from_mode(stat.mode & 0o7777))?;
        let seconds = u64::try_from(stat.modified.0).unwrap_or_default();
        let nanos = u32::try_from(stat.modified.1).unwrap_or_default();
        let modified = std::time::UNIX_EPOCH + std::time::Duration::new(seconds, nanos);
        file.as_file().set_modified(modified)?;
        file.persist(place)?;
        Ok(())
    }
}

impl Was {
    fn is_like(&self, found: &Metadata) -> bool {
        match self {
            Self::File { .. } => found.is_file(),
            Self::Link { .. } => found.is_symlink(),
            Self::Folder => found.is_dir(),
            Self::Other => true,
        }
    }
}

impl Stat {
    fn of(found: &Metadata) -> Self {
        Self {
            size: found.size(),
            mode: found.mode(),
            inode: found.ino(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// Everything that the outputs cover, folders before what they hold.
pub(super) fn covered(root: &Path, outputs: &PatternSet) -> Result<Vec<(String, Metadata)>, FileError> {
    let mut found = Vec::new();
    below(root, "", outputs, DEEPEST, &mut found)?;
    Ok(found)
}

fn below(
    root: &Path,
    folder: &str,
    outputs: &PatternSet,
    depth: usize,
    found: &mut Vec<(String, Metadata)>,
) -> Result<(), FileError> {
    let place = root.join(folder);
    let wrap = |source| FileError::new("read", &place, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(&place).map_err(wrap)? {
        // Names that are not UTF-8 are covered by no pattern.
        names.extend(entry.map_err(wrap)?.file_name().into_string().ok());
    }
    names.sort_unstable();
    for name in names.iter().filter(|name| *name != ".git" && !name.starts_with(STAGING_PREFIX)) {
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let Ok(metadata) = fs::symlink_metadata(root.join(&path)) else { continue };
        let is_covered = outputs.covering(&path).is_some();
        let descend = metadata.is_dir() && depth > 0 && (is_covered || outputs.may_match_below(&path));
        if is_covered {
            found.push((path.clone(), metadata));
        }
        if descend {
            below(root, &path, outputs, depth - 1, found)?;
        }
    }
    Ok(())
}

fn remove(place: &Path, found: &Metadata) -> Result<(), FileError> {
    let removed = if found.is_dir() { fs::remove_dir(place) } else { fs::remove_file(place) };
    match removed {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(FileError::new("remove", place, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_attempt_wrote_is_taken_back_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        write("out/old", "old");
        write("out/same", "same");
        write("out/gone", "gone");
        write("out/was-file", "file");
        write("src/code", "code");
        fs::set_permissions(root.join("out/old"), fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("old", root.join("out/link")).unwrap();
        let before = fs::metadata(root.join("out/old")).unwrap().modified().unwrap();
        let same = fs::metadata(root.join("out/same")).unwrap().ino();
        let mut kept = Kept::take(root, PatternSet::new(["out/**", "*.log"]).unwrap()).unwrap();
        write("out/old", "half");
        write("out/new/deep", "new");
        write("run.log", "log");
        write("src/code", "changed");
        fs::remove_file(root.join("out/gone")).unwrap();
        fs::remove_file(root.join("out/was-file")).unwrap();
        write("out/was-file/inside", "x");
        fs::remove_file(root.join("out/link")).unwrap();
        kept.restore().unwrap();
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        assert_eq!(text("out/old"), "old");
        assert_eq!(fs::metadata(root.join("out/old")).unwrap().mode() & 0o777, 0o750);
        assert_eq!(fs::metadata(root.join("out/old")).unwrap().modified().unwrap(), before);
        assert_eq!(fs::metadata(root.join("out/same")).unwrap().ino(), same);
        assert_eq!(text("out/gone"), "gone");
        assert_eq!(text("out/was-file"), "file");
        assert_eq!(fs::read_link(root.join("out/link")).unwrap(), Path::new("old"));
        assert!(!root.join("out/new").exists());
        assert!(!root.join("run.log").exists());
        assert_eq!(text("src/code"), "changed", "no output");
        assert_eq!(fs::read_dir(root).unwrap().count(), 2, "nothing else is left");
    }
}
