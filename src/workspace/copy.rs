//! A copy of the working tree, for a command that must not touch the project: what would travel, in a folder of its own.
//!
//! What must stay true: the copy holds what the rules of travelling let through, with modes, links, times and empty
//! folders, or making it fails; it is no part of the project, so that tools which look for a project above their folder
//! do not find it; it goes away with [`WorkingCopy::remove`], and when its process dies, with the next copy that is made.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::tree::{EntryKind, Rules, Scan, TreeError, scan};
use crate::base::files::FileError;

const LOCK: &str = "lock";
/// A younger folder may be one that is being made.
const BEING_MADE: Duration = Duration::from_secs(60);
/// Of owners: without it a folder cannot be emptied.
const OWNER: u32 = 0o700;

#[derive(Debug)]
pub struct WorkingCopy {
    tree: PathBuf,
    folder: TempDir,
    /// Locked for as long as the copy is in use.
    _lock: File,
}

impl WorkingCopy {
    /// Makes a copy of `root` below `place`, which is made if it is missing. Blocks.
    pub fn make(root: &Path, rules: &Rules, place: &Path, stop: &AtomicBool) -> Result<Self, TreeError> {
        let wrap = |source| FileError::new("write", place, source);
        fs::create_dir_all(place).map_err(wrap)?;
        sweep(place);
        let folder = tempfile::Builder::new().prefix("copy-").tempdir_in(place).map_err(wrap)?;
        let lock = File::create(folder.path().join(LOCK)).map_err(wrap)?;
        // Where locks do not work, the copies of processes that died stay.
        let _ = lock.try_lock();
        // Some tools name things after the folder that they work in.
        let name = root.file_name().filter(|name| *name != LOCK).unwrap_or("project".as_ref());
        let tree = folder.path().join(name);
        fs::create_dir(&tree).map_err(wrap)?;
        let copy = Self { tree, folder, _lock: lock };
        copy.fill(root, &scan(root, rules, stop)?, stop)?;
        Ok(copy)
    }

    /// The folder that stands for the project's.
    pub fn path(&self) -> &Path {
        &self.tree
    }

    /// Blocks.
    pub fn remove(self) -> io::Result<()> {
        let folder = self.folder.keep();
        remove_all(&folder)
    }

    fn fill(&self, root: &Path, scan: &Scan, stop: &AtomicBool) -> Result<(), TreeError> {
        for entry in &scan.entries {
            if stop.load(Ordering::Relaxed) {
                return Err(TreeError::Stopped);
            }
            let (from, to) = (root.join(&*entry.path), self.tree.join(&*entry.path));
            let made = match &entry.kind {
                EntryKind::Directory { .. } => fs::create_dir(&to),
                EntryKind::Symlink { target } => symlink(&**target, &to),
                EntryKind::File(_) => copy_file(&from, &to),
            };
            made.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => TreeError::Changed { path: entry.path.to_string() },
                _ => FileError::new("copy", &from, error).into(),
            })?;
        }
        // Last ones first: a folder that may not be written to is full by then.
        for entry in scan.entries.iter().rev() {
            if let EntryKind::Directory { mode } = entry.kind {
                let to = self.tree.join(&*entry.path);
                let set = fs::set_permissions(&to, Permissions::from_mode(mode & 0o7777));
                set.map_err(|error| FileError::new("write", &to, error))?;
            }
        }
        Ok(())
    }
}

/// With its mode and times: tools that compare times decide as they would in the project.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    let modified = fs::metadata(from)?.modified()?;
    let copy = File::open(to);
    match copy {
        Ok(copy) => copy.set_modified(modified),
        // Not even its owner may read it; its time matters to nobody then.
        Err(_) => Ok(()),
    }
}

/// Removes what processes that died have left.
fn sweep(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for folder in entries.flatten().map(|entry| entry.path()).filter(|folder| is_abandoned(folder)) {
        // Another process may be sweeping too.
        if let Err(error) = remove_all(&folder) {
            tracing::debug!(%error, "an old copy of a working tree stays");
        }
    }
}

fn is_abandoned(folder: &Path) -> bool {
    let made = fs::metadata(folder).and_then(|found| found.modified());
    if !made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > BEING_MADE)) {
        return false;
    }
    !File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err())
}

/// A command may have left folders that cannot be written to; those are opened first.
fn remove_all(folder: &Path) -> io::Result<()> {
    if fs::remove_dir_all(folder).is_ok() {
        return Ok(());
    }
    unlock(folder)?;
    fs::remove_dir_all(folder)
}

fn unlock(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(OWNER))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::size::Bytes;
    use crate::plan::spec::SyncSet;

    fn rules(include: &[&str]) -> Rules {
        let sync = SyncSet {
            gitignore: true,
            include: include.iter().map(ToString::to_string).collect(),
            exclude: Vec::new(),
            max_size: Bytes(1 << 20),
        };
        Rules::new(&sync, &[], None).unwrap()
    }

    fn make(root: &Path, place: &Path) -> Result<WorkingCopy, TreeError> {
        WorkingCopy::make(root, &rules(&["kept/**"]), place, &AtomicBool::new(false))
    }

    fn project() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (root, place) = (folder.path().join("project"), folder.path().join("copies"));
        fs::create_dir(&root).unwrap();
        (folder, root, place)
    }

    #[test]
    fn a_copy_is_what_would_travel_and_goes_away() {
        let (_folder, root, place) = project();
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        write(".gitignore", "*.log\nkept\n");
        write("src/main", "code");
        write("noise.log", "noise");
        write("kept/data", "ignored, and included");
        fs::create_dir(root.join("empty")).unwrap();
        symlink("src/main", root.join("link")).unwrap();
        fs::set_permissions(root.join("src/main"), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(root.join("src"), Permissions::from_mode(0o555)).unwrap();
        let copy = make(&root, &place).unwrap();
        let tree = copy.path().to_owned();
        assert_eq!(tree.file_name().unwrap(), "project");
        assert_eq!(fs::read_to_string(tree.join("kept/data")).unwrap(), "ignored, and included");
        assert!(!tree.join("noise.log").exists());
        assert!(tree.join("empty").is_dir());
        assert_eq!(fs::read_link(tree.join("link")).unwrap(), Path::new("src/main"));
        let (here, there) =
            (fs::metadata(root.join("src/main")).unwrap(), fs::metadata(tree.join("src/main")).unwrap());
        assert_eq!(here.permissions(), there.permissions());
        assert_eq!(here.modified().unwrap(), there.modified().unwrap());
        assert_eq!(fs::metadata(tree.join("src")).unwrap().permissions().mode() & 0o777, 0o555);
        fs::write(tree.join("written"), "by the command").unwrap();
        copy.remove().unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        assert!(!root.join("written").exists());
        fs::set_permissions(root.join("src"), Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn what_a_dead_process_left_goes_with_the_next_copy_and_what_is_in_use_stays() {
        let (_folder, root, place) = project();
        let in_use = make(&root, &place).unwrap();
        let dead = make(&root, &place).unwrap().folder.keep();
        let fresh = make(&root, &place).unwrap().folder.keep();
        let old = std::time::SystemTime::now() - 2 * BEING_MADE;
        for folder in [in_use.folder.path(), &dead] {
            File::open(folder).unwrap().set_modified(old).unwrap();
        }
        let next = make(&root, &place).unwrap();
        assert!(in_use.path().exists() && next.path().exists() && fresh.exists());
        assert!(!dead.exists());
    }

    #[test]
    fn a_tree_that_may_not_travel_is_not_copied() {
        let (_folder, root, place) = project();
        symlink("/etc", root.join("out")).unwrap();
        assert!(matches!(make(&root, &place), Err(TreeError::Refused(_))));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "nothing is left of it");
    }
}
