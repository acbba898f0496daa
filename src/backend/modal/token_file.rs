//! The short-lived token between runs, so that a run need not begin by asking for one.
//!
//! It opens the account for some minutes, so only its owner may read the file. It is a convenience: any fault
//! means that a token is asked for.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub(super) struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    pub(super) fn new(folder: PathBuf, account: String) -> Self {
        Self { path: folder.join(format!("token-{account}")) }
    }

    pub(super) fn read(&self) -> Option<String> {
        fs::read_to_string(&self.path).ok().filter(|token| !token.is_empty())
    }

    /// Whole or not at all.
    pub(super) fn write(&self, token: &str) {
        if self.read().as_deref() == Some(token) {
            return;
        }
        let Some(folder) = self.path.parent() else { return };
        // Temporary files are private from the start.
        let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
            file.write_all(token.as_bytes())?;
            file.persist(&self.path).map_err(|error| error.error)
        });
        if let Err(error) = written {
            tracing::debug!(%error, "the token is not kept");
        }
    }

    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}
