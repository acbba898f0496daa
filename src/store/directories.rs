//! The state and cache directories: `ACCEL_*`, then XDG, then HOME, then a private folder for temporary files.
//!
//! Resolving is pure; a directory is made by [`Directories::open_cache`] and [`Directories::open_state`] only.
//! A fallback folder in the shared temporary directory is used only when it belongs to this user and nobody
//! else may write to it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Permissions of the directories that accel makes: they may hold logs and outputs of private projects.
const PRIVATE: u32 = 0o700;
/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// Where accel keeps its files. Nothing exists yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    state: Location,
    cache: Location,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Location {
    path: PathBuf,
    /// In the shared temporary directory: ownership must be checked before use.
    shared_parent: bool,
}

/// A directory that is needed and cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("cannot create the {kind} directory {}: {source}", path.display())]
    Create { kind: &'static str, path: PathBuf, source: io::Error },
    #[error("the {kind} directory {} {reason}", path.display())]
    Unsafe { kind: &'static str, path: PathBuf, reason: &'static str },
}

impl DirectoryError {
    /// The remedy.
    pub fn help(&self) -> String {
        let (Self::Create { kind, .. } | Self::Unsafe { kind, .. }) = self;
        format!("set ACCEL_{}_DIR to a directory that you own and can write to", kind.to_uppercase())
    }
}

impl Directories {
    /// `variable` looks a variable up, `current` is what relative paths in `ACCEL_*` are relative to, `temporary`
    /// is the system's folder for temporary files. Relative XDG paths are ignored, as that standard asks.
    pub fn resolve(
        variable: impl Fn(&str) -> Option<OsString>,
        current: &Path,
        temporary: &Path,
        user: u32,
    ) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = set("HOME").filter(|home| home.is_absolute());
        let locate = |own: &str, standard: &str, under_home: &str, kind: &str| {
            let path = set(own)
                .map(|path| current.join(path))
                .or_else(|| set(standard).filter(|path| path.is_absolute()).map(|path| path.join("accel")))
                .or_else(|| home.as_ref().map(|home| home.join(under_home).join("accel")));
            match path {
                Some(path) => Location { path, shared_parent: false },
                None => {
                    Location { path: temporary.join(format!("accel-{user}")).join(kind), shared_parent: true }
                }
            }
        };
        Self {
            state: locate("ACCEL_STATE_DIR", "XDG_STATE_HOME", ".local/state", "state"),
            cache: locate("ACCEL_CACHE_DIR", "XDG_CACHE_HOME", ".cache", "cache"),
        }
    }

    /// State and cache side by side.
    #[cfg(test)]
    pub fn in_folder(folder: &Path) -> Self {
        let at = |name: &str| Location { path: folder.join(name), shared_parent: false };
        Self { state: at("state"), cache: at("cache") }
    }

    /// The path alone, for reading what may be there already.
    pub fn cache_path(&self) -> &Path {
        &self.cache.path
    }

    pub fn state_path(&self) -> &Path {
        &self.state.path
    }

    /// Makes the cache directory if it is absent.
    pub fn open_cache(&self) -> Result<&Path, DirectoryError> {
        self.cache.open("cache")
    }

    /// Makes the state directory if it is absent.
    pub fn open_state(&self) -> Result<&Path, DirectoryError> {
        self.state.open("state")
    }

    /// Whether files that others must not read or change are safe in the cache: false in a folder that another
    /// user owns or may write to.
    pub fn cache_is_private(&self) -> bool {
        check_private(&self.cache.path).is_ok()
    }
}

impl Location {
    fn open(&self, kind: &'static str) -> Result<&Path, DirectoryError> {
        let wrap = |source| DirectoryError::Create { kind, path: self.path.clone(), source };
        if let (true, Some(parent)) = (self.shared_parent, self.path.parent()) {
            make_private(parent).map_err(wrap)?;
            check_private(parent).map_err(|reason| DirectoryError::Unsafe {
                kind,
                path: parent.to_owned(),
                reason,
            })?;
        }
        make_private(&self.path).map_err(wrap)?;
        Ok(&self.path)
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(path)
}

/// The folder itself, not what a link points to: anyone may plant a link in a shared folder.
fn check_private(path: &Path) -> Result<(), &'static str> {
    let found = fs::symlink_metadata(path).map_err(|_| "cannot be read")?;
    if !found.is_dir() {
        return Err("is not a directory");
    }
    if found.uid() != rustix::process::getuid().as_raw() {
        return Err("belongs to another user");
    }
    if found.permissions().mode() & OTHERS_WRITE != 0 {
        return Err("may be written to by other users");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> (String, String) {
        let lookup = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        let found = Directories::resolve(lookup, Path::new("/project"), Path::new("/tmp"), 7);
        (found.state.path.display().to_string(), found.cache.path.display().to_string())
    }

    #[test]
    fn the_strongest_variable_decides() {
        let check = |variables: &[(&str, &str)], state: &str, cache: &str| {
            assert_eq!(resolve(variables), (state.to_owned(), cache.to_owned()), "{variables:?}");
        };
        let home = ("HOME", "/home/u");
        check(&[home], "/home/u/.local/state/accel", "/home/u/.cache/accel");
        check(&[home, ("XDG_STATE_HOME", "/s"), ("XDG_CACHE_HOME", "/c")], "/s/accel", "/c/accel");
        check(&[home, ("XDG_CACHE_HOME", "relative")], "/home/u/.local/state/accel", "/home/u/.cache/accel");
        check(
            &[home, ("ACCEL_STATE_DIR", "/a"), ("ACCEL_CACHE_DIR", "b"), ("XDG_CACHE_HOME", "/c")],
            "/a",
            "/project/b",
        );
        check(&[home, ("ACCEL_CACHE_DIR", "")], "/home/u/.local/state/accel", "/home/u/.cache/accel");
        check(&[], "/tmp/accel-7/state", "/tmp/accel-7/cache");
    }

    #[test]
    fn without_a_home_the_fallback_is_private_or_refused() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let directories = Directories::resolve(|_| None, Path::new("/"), temporary.path(), 7);
        let made = directories.open_cache().expect("made").to_owned();
        let parent = made.parent().expect("parent");
        assert_eq!(fs::metadata(parent).expect("metadata").permissions().mode() & 0o777, PRIVATE);

        fs::set_permissions(parent, fs::Permissions::from_mode(0o777)).expect("chmod");
        let error = directories.open_cache().expect_err("anyone may write there");
        assert!(error.to_string().ends_with("may be written to by other users"), "{error}");
        assert!(error.help().contains("ACCEL_CACHE_DIR"));
    }

    #[test]
    fn a_planted_link_is_refused() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let elsewhere = tempfile::tempdir().expect("temporary folder");
        std::os::unix::fs::symlink(elsewhere.path(), temporary.path().join("accel-7")).expect("link");
        let directories = Directories::resolve(|_| None, Path::new("/"), temporary.path(), 7);
        assert!(matches!(directories.open_state(), Err(DirectoryError::Unsafe { .. })));
        assert_eq!(fs::read_dir(elsewhere.path()).expect("list").count(), 0);
    }
}
