//! The tree by content: one name for all of it, and what differs between two.

use std::fmt;
use std::mem;

use super::order::path_order;
use crate::base::digest::{Digest, DigestBuilder};

/// SHA-256 of a file's contents, as Modal names them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

/// Everything that travels, in [`path_order`], with contents by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<ManifestEntry>,
    digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEntry {
    /// Relative to the root, parted by `/`.
    pub path: Box<str>,
    pub contents: Contents,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    File {
        /// Permission bits.
        mode: u32,
        /// Bytes.
        size: u64,
        sha256: Sha256Digest,
    },
    Symlink {
        target: Box<str>,
    },
    Directory {
        mode: u32,
    },
}

/// Entries go into the digest in pieces of about this many bytes.
const DIGEST_PIECE: usize = 64 << 10;

impl Manifest {
    /// Entries in any order; each path once.
    pub fn new(mut entries: Vec<ManifestEntry>) -> Self {
        let in_order =
            |pair: &[ManifestEntry]| path_order(pair[0].path.as_bytes(), pair[1].path.as_bytes()).is_lt();
        if !entries.windows(2).all(in_order) {
            entries.sort_by(|a, b| path_order(a.path.as_bytes(), b.path.as_bytes()));
        }
        let digest = digest(&entries);
        Self { entries, digest }
    }

    pub fn entries(&self) -> &[ManifestEntry] {
        &self.entries
    }

    /// Names the tree: equal exactly when paths, modes, links and contents are.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn files(&self) -> impl Iterator<Item = (&str, u32, u64, Sha256Digest)> {
        self.entries.iter().filter_map(|entry| match entry.contents {
            Contents::File { mode, size, sha256 } => Some((&*entry.path, mode, size, sha256)),
            _ => None,
        })
    }

    /// Folders that hold nothing: what a list of files cannot carry.
    pub fn empty_folders(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().enumerate().filter_map(|(at, entry)| {
            let filled = self.entries.get(at + 1).is_some_and(|next| is_below(&next.path, &entry.path));
            (matches!(entry.contents, Contents::Directory { .. }) && !filled).then_some(&*entry.path)
        })
    }

    pub fn symlinks(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().filter_map(|entry| match &entry.contents {
            Contents::Symlink { target } => Some((&*entry.path, &**target)),
            _ => None,
        })
    }

    /// What turns a copy of `old` into this tree.
    pub fn since<'a>(&'a self, old: &'a Self) -> Delta<'a> {
        let mut delta = Delta::default();
        let (mut before, mut after) = (old.entries.iter().peekable(), self.entries.iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) => path_order(old.path.as_bytes(), new.path.as_bytes()),
            };
            let old = if order.is_le() { before.next() } else { None };
            let new = if order.is_ge() { after.next() } else { None };
            delta.compare(old, new);
        }
        delta.delete.reverse();
        delta
    }
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn digest(entries: &[ManifestEntry]) -> Digest {
    let mut builder = DigestBuilder::new("accel tree 1");
    let mut piece = Vec::with_capacity(DIGEST_PIECE + 8192);
    for entry in entries {
        describe(entry, &mut piece);
        if piece.len() >= DIGEST_PIECE {
            builder.field(&piece);
            piece.clear();
        }
    }
    builder.field(&piece);
    builder.finish()
}

/// Self-delimiting, so that no two lists read the same.
fn describe(entry: &ManifestEntry, out: &mut Vec<u8>) {
    let text = |text: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    text(&entry.path, out);
    match &entry.contents {
        Contents::File { mode, size, sha256 } => {
            out.push(b'f');
            out.extend_from_slice(&mode.to_le_bytes());
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(&sha256.0);
        }
        Contents::Symlink { target } => {
            out.push(b'l');
            text(target, out);
        }
        Contents::Directory { mode } => {
            out.push(b'd');
            out.extend_from_slice(&mode.to_le_bytes());
        }
    }
}

/// The difference of two trees, in the order in which it is applied: delete, then write, then change modes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta<'a> {
    /// Gone, or about to be replaced by another kind of thing; what is in a folder comes before the folder.
    pub delete: Vec<&'a str>,
    /// New or changed, a folder before what it holds.
    pub write: Vec<&'a ManifestEntry>,
    /// The same contents under other permission bits.
    pub change_mode: Vec<&'a ManifestEntry>,
}

impl<'a> Delta<'a> {
    pub fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.write.is_empty() && self.change_mode.is_empty()
    }

    fn compare(&mut self, old: Option<&'a ManifestEntry>, new: Option<&'a ManifestEntry>) {
        match (old, new) {
            (Some(old), None) => self.delete.push(&old.path),
            (None, Some(new)) => self.write.push(new),
            (Some(old), Some(new))
                if mem::discriminant(&old.contents) != mem::discriminant(&new.contents) =>
            {
                self.delete.push(&old.path);
                self.write.push(new);
            }
            (Some(old), Some(new)) if old.contents != new.contents => {
                if same_but_for_mode(&old.contents, &new.contents) {
                    self.change_mode.push(new);
                } else {
                    self.write.push(new);
                }
            }
            _ => {}
        }
    }
}

fn same_but_for_mode(old: &Contents, new: &Contents) -> bool {
    match (old, new) {
        (Contents::Directory { .. }, Contents::Directory { .. }) => true,
        (Contents::File { sha256: old, .. }, Contents::File { sha256: new, .. }) => old == new,
        _ => false,
    }
}
