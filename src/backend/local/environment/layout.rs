//! The files of one environment, and what makes it complete.
//!
//! | path | what it is |
//! |---|---|
//! | `<cache>/environments/v1/<key>/` | the virtual environment, built where it stays: its scripts name their path |
//! | `<key>/accel-environment.json` | completion marker, written last; its modification time is the last use |
//! | `<cache>/environments/v1/<key>.lock` | shared by every job inside, exclusive while building and pruning |
//! | `<cache>/environments/v1/<key>.build/` | inputs of a build in progress |
//!
//! What must stay true: no marker, no environment. An unmarked folder is debris of a build that was killed and is
//! removed, under the lock, before the next one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::base::files::{self, FileError};
use crate::store::Lock;

const FOLDER: &str = "environments/v1";
const MARKER: &str = "accel-environment.json";
/// Digits of the key in file names: 128 bits, and short enough for `#!` lines.
const NAME_LENGTH: usize = 32;
/// How exact the last use is: one write an hour.
const TOUCH_AFTER: Duration = Duration::from_secs(3600);

/// Where one environment is, or will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    pub name: String,
    pub folder: PathBuf,
    pub lock: PathBuf,
    pub staging: PathBuf,
}

/// Contents of the completion marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// Name of the image that it was built for; others with the same key share it.
    pub image: String,
    pub summary: String,
    /// Full version.
    pub python: String,
    /// Seconds since the Unix epoch.
    pub built_at: i64,
}

pub(super) fn folder(cache: &Path) -> PathBuf {
    cache.join(FOLDER)
}

impl Site {
    pub fn new(cache: &Path, key: &Digest) -> Self {
        Self::named(&folder(cache), &key.to_string()[..NAME_LENGTH])
    }

    fn named(folder: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            folder: folder.join(name),
            lock: folder.join(format!("{name}.lock")),
            staging: folder.join(format!("{name}.build")),
        }
    }

    /// Everything that has a folder or a lock file in the cache, complete or not, by name.
    pub fn all(cache: &Path) -> Result<Vec<Self>, FileError> {
        let folder = folder(cache);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(FileError::new("list", &folder, source)),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .map(|name| name.split('.').next().unwrap_or_default().to_owned())
            .filter(|name| name.len() == NAME_LENGTH && name.bytes().all(|b| b.is_ascii_hexdigit()))
            .collect();
        names.sort();
        names.dedup();
        Ok(names.iter().map(|name| Self::named(&folder, name)).collect())
    }

    /// Joins the users of a complete environment. `None`: there is none, or it is being built or removed.
    ///
    /// The lock comes before the look, so that nobody removes it in between. Where locks do not work (some
    /// network homes) a complete environment is used without one.
    pub fn enter(&self) -> Option<Option<Lock>> {
        let lock = match Lock::try_shared(&self.lock) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return None,
            Err(_) => None,
        };
        let last_use = self.last_use().filter(|_| self.ready())?;
        if last_use.elapsed().is_ok_and(|age| age > TOUCH_AFTER) {
            self.touch();
        }
        Some(lock)
    }

    /// Complete, and its interpreter, a link to one that may have been uninstalled since, is still there.
    pub fn ready(&self) -> bool {
        self.last_use().is_some() && self.python().exists()
    }

    /// Modification time of the marker; `None` when the environment is not complete.
    pub fn last_use(&self) -> Option<SystemTime> {
        self.marker_path().metadata().and_then(|found| found.modified()).ok()
    }

    pub fn marker(&self) -> Option<Marker> {
        serde_json::from_slice(&fs::read(self.marker_path()).ok()?).ok()
    }

    /// Makes the environment complete. Everything else must be in place.
    pub fn complete(&self, marker: &Marker) -> Result<(), FileError> {
        let text = serde_json::to_vec_pretty(marker).expect("a marker is plain data");
        files::replace(&self.marker_path(), &text)
    }

    /// Removes environment and build inputs, the marker first: killed half way, the rest is debris.
    pub fn clear(&self) -> Result<(), FileError> {
        let marker = self.marker_path();
        gone(fs::remove_file(&marker), &marker)?;
        gone(fs::remove_dir_all(&self.folder), &self.folder)?;
        gone(fs::remove_dir_all(&self.staging), &self.staging)
    }

    pub fn bin(&self) -> PathBuf {
        self.folder.join("bin")
    }

    pub fn python(&self) -> PathBuf {
        self.bin().join("python")
    }

    /// Version of the interpreter, as the environment itself records it.
    pub fn python_version(&self) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("pyvenv.cfg")).ok()?;
        text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            matches!(name.trim(), "version_info" | "version").then(|| value.trim().to_owned())
        })
    }

    /// Only prune looks at it, so a cache that cannot be written loses nothing.
    fn touch(&self) {
        let file = File::options().append(true).open(self.marker_path());
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    }

    fn marker_path(&self) -> PathBuf {
        self.folder.join(MARKER)
    }
}

fn gone(removed: std::io::Result<()>, path: &Path) -> Result<(), FileError> {
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| FileError::new("remove", path, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(cache: &Path) -> Site {
        let site = Site::new(cache, &Digest::of(b"x"));
        fs::create_dir_all(site.bin()).unwrap();
        fs::write(site.python(), "").unwrap();
        File::create(&site.lock).unwrap();
        site
    }

    fn marker() -> Marker {
        Marker { image: "py".into(), summary: String::new(), python: "3.12.1".into(), built_at: 0 }
    }

    #[test]
    fn complete_with_the_marker_only() {
        let cache = tempfile::tempdir().unwrap();
        let site = site(cache.path());
        assert!(site.enter().is_none());
        site.complete(&marker()).unwrap();
        let used = site.enter().expect("complete");
        assert!(used.is_some() && Lock::try_exclusive(&site.lock).unwrap().is_none());
        assert_eq!(site.marker(), Some(marker()));
        assert_eq!(Site::all(cache.path()).unwrap(), std::slice::from_ref(&site));

        drop(used);
        let builder = Lock::try_exclusive(&site.lock).unwrap().unwrap();
        assert!(site.enter().is_none(), "not while somebody builds or prunes");
        drop(builder);
        fs::remove_file(site.python()).unwrap();
        assert!(site.enter().is_none(), "not without its interpreter");
    }

    #[test]
    fn the_last_use_moves_once_an_hour() {
        let cache = tempfile::tempdir().unwrap();
        let site = site(cache.path());
        site.complete(&marker()).unwrap();
        let set = |ago: u64| {
            let time = SystemTime::now() - Duration::from_secs(ago);
            File::options().append(true).open(site.marker_path()).unwrap().set_modified(time).unwrap();
            time
        };
        let recent = set(1800);
        site.enter().unwrap();
        assert_eq!(site.last_use(), Some(recent));
        set(7200);
        site.enter().unwrap();
        assert!(site.last_use().unwrap() > recent);
    }

    #[test]
    fn clearing_leaves_the_lock_alone() {
        let cache = tempfile::tempdir().unwrap();
        let site = site(cache.path());
        site.clear().unwrap();
        site.clear().unwrap();
        assert!(!site.folder.exists() && site.lock.exists());
    }
}
