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
