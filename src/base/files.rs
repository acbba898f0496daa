//! File access whose errors carry the path, and replacement that is complete or absent.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A failed file operation: what was tried, where, and the system's reason.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl FileError {
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }
}

pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|source| FileError::new("read", path, source))
}

pub fn create_dir_all(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(|source| FileError::new("create", path, source))
}

/// Replaces `path` with `contents`: at every moment the file is the old one or the whole new one.
pub fn replace(path: &Path, contents: &[u8]) -> Result<(), FileError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wrap = |source| FileError::new("write", path, source);
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(wrap)?;
    file.write_all(contents).map_err(wrap)?;
    file.as_file().sync_all().map_err(wrap)?;
    file.persist(path).map_err(|error| wrap(error.error))?;
    Ok(())
}

/// Makes `path` with `contents`, complete or absent; fails with `AlreadyExists` where something is there.
/// Readable as the umask says: for files that belong to the user's project.
pub fn create_new(path: &Path, contents: &[u8]) -> Result<(), FileError> {
    let wrap = |source| FileError::new("write", path, source);
    let file = project_file(path, contents).map_err(wrap)?;
    file.persist_noclobber(path).map_err(|error| wrap(error.error))?;
    Ok(())
}

/// As [`create_new`], replacing what is there.
pub fn replace_shared(path: &Path, contents: &[u8]) -> Result<(), FileError> {
    let wrap = |source| FileError::new("write", path, source);
    let file = project_file(path, contents).map_err(wrap)?;
    file.persist(path).map_err(|error| wrap(error.error))?;
    Ok(())
}

fn project_file(path: &Path, contents: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The umask takes bits away from this.
    let everyone = fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().permissions(everyone).tempfile_in(parent)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    Ok(file)
}
