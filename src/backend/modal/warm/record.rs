//! What is known of a kept sandbox: how it is reached, the word in it, and the tree that it holds.
//!
//! One file per lease, readable by its owner alone, since the router's token opens the sandbox. It is written whole or
//! not at all; without it a kept sandbox is of no use and is ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::modal::settings::Secret;
use crate::backend::modal::tree;
use crate::store::journal::LeaseId;
use crate::workspace::tree::{Contents, Manifest, ManifestEntry, Sha256Digest};

#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) task: String,
    pub(crate) url: String,
    pub(crate) jwt: Secret,
    pub(crate) sandbox_token: Option<Secret>,
    /// What the sandbox says it was left with; `None`: nothing has run in it, and it holds its mount alone.
    pub(crate) word: Option<String>,
    /// Not claimed after this, in milliseconds since the Unix epoch.
    pub(crate) reuse_until_ms: u64,
    /// What the list in the sandbox says; where there is none, what is in its mount.
    pub(crate) listed: Manifest,
    /// Where the sandbox differs from its list.
    pub(crate) spoiled: Spoiled,
}

/// Paths of a tree that are not as they should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spoiled {
    /// Anything may be there, or nothing; below it as well.
    pub(crate) paths: BTreeSet<String>,
    /// Folders whose permission bits alone differ.
    pub(crate) modes: BTreeSet<String>,
}

/// Everything but the tree, as the first line of the file.
#[derive(Serialize, Deserialize)]
struct Head {
    task: String,
    url: String,
    jwt: String,
    sandbox_token: Option<String>,
    word: Option<String>,
    reuse_until_ms: u64,
    spoiled: Spoiled,
}

/// Differs from the permission bits of every folder.
const NO_MODE: u32 = u32::MAX;

impl Record {
    /// The list that is in the sandbox.
    pub(crate) fn list(&self) -> Option<&Manifest> {
        self.word.as_ref().map(|_| &self.listed)
    }

    /// The tree in the sandbox. What is spoiled differs from everything that could be wanted there.
    pub(crate) fn held(&self) -> Manifest {
        let spoiled = &self.spoiled;
        if spoiled.paths.is_empty() && spoiled.modes.is_empty() {
            return self.listed.clone();
        }
        let entries = self.listed.entries().iter().map(|entry| {
            let contents = if spoiled.covers(&entry.path) {
                Contents::File { mode: NO_MODE, size: 0, sha256: Sha256Digest([0; 32]) }
            } else if spoiled.modes.contains(&*entry.path) {
                Contents::Directory { mode: NO_MODE }
            } else {
                entry.contents.clone()
            };
            ManifestEntry { path: entry.path.clone(), contents }
        });
        Manifest::new(entries.collect())
    }
}

impl Spoiled {
    fn covers(&self, path: &str) -> bool {
        if self.paths.is_empty() {
            return false;
        }
        let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        folders.chain([path]).any(|path| self.paths.contains(path))
    }
}

/// The folder of records.
#[derive(Debug, Clone)]
pub(crate) struct Records(PathBuf);

impl Records {
    pub(crate) fn new(memory: &Path) -> Self {
        Self(memory.join("warm"))
    }

    fn path(&self, lease: &LeaseId) -> PathBuf {
        self.0.join(lease.as_str())
    }

    pub(crate) fn load(&self, lease: &LeaseId) -> Option<Record> {
        let bytes = fs::read(self.path(lease)).ok()?;
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let head: Head = serde_json::from_slice(&bytes[..end]).ok()?;
        Some(Record {
            task: head.task,
            url: head.url,
            jwt: Secret::new(head.jwt),
            sandbox_token: head.sandbox_token.map(Secret::new),
            word: head.word,
            reuse_until_ms: head.reuse_until_ms,
            listed: tree::decode(&bytes[end + 1..])?,
            spoiled: head.spoiled,
        })
    }

    pub(crate) fn save(&self, lease: &LeaseId, record: &Record) -> std::io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let head = Head {
            task: record.task.clone(),
            url: record.url.clone(),
            jwt: record.jwt.reveal().to_owned(),
            sandbox_token: record.sandbox_token.as_ref().map(|token| token.reveal().to_owned()),
            word: record.word.clone(),
            reuse_until_ms: record.reuse_until_ms,
            spoiled: record.spoiled.clone(),
        };
        // Temporary files are private from the start.
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        serde_json::to_writer(&mut file, &head)?;
        file.write_all(b"\n")?;
        file.write_all(&tree::encode(&record.listed))?;
        file.persist(self.path(lease)).map(drop).map_err(|error| error.error)
    }

    /// Removes what belongs to none of these leases.
    pub(crate) fn keep_only(&self, leases: &BTreeSet<String>) {
        let Ok(folder) = fs::read_dir(&self.0) else { return };
        for entry in folder.filter_map(Result::ok) {
            if entry.file_name().to_str().is_none_or(|name| !leases.contains(name)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Entries by path, for whoever compares.
pub(crate) fn by_path(manifest: &Manifest) -> BTreeMap<&str, &Contents> {
    manifest.entries().iter().map(|entry| (&*entry.path, &entry.contents)).collect()
}
