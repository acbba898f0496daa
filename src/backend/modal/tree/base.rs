//! The tree of the last mount, kept on disk, so that the next run can send only what changed.
//!
//! One file per folder and account: the manifest of the tree that was mounted. The mount's id is among the
//! remembered ids, under the manifest's digest. A file that cannot be read costs an upload, nothing else.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::workspace::tree::{Contents, Manifest, ManifestEntry, Sha256Digest};

const HEADER: &[u8] = b"accel mounted tree 1\n";

/// Where the manifest of a folder's last mount is.
#[derive(Debug, Clone)]
pub(super) struct Base {
    path: PathBuf,
}

impl Base {
    /// `name` stands for the folder and the account.
    pub(super) fn new(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(format!("{name}.mounted")) }
    }

    pub(super) fn load(&self) -> Option<Manifest> {
        decode(&fs::read(&self.path).ok()?)
    }

    /// Of the manifest, as the file says; whether it is whole is found by [`load`](Self::load).
    pub(super) fn digest(&self) -> Option<String> {
        let mut file = fs::File::open(&self.path).ok()?;
        file.seek(SeekFrom::End(-(DIGEST as i64))).ok()?;
        let mut digest = String::with_capacity(DIGEST);
        file.read_to_string(&mut digest).ok()?;
        Some(digest)
    }

    pub(super) fn save(&self, manifest: &Manifest) {
        let written = self.path.parent().map_or(Ok(()), |folder| {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&encode(manifest))?;
            file.persist(&self.path).map(drop).map_err(|error| error.error)
        });
        if let Err(error) = written {
            tracing::debug!(%error, "the mounted tree is not kept");
        }
    }
}

/// Header, entries, and at the end the digest that all of it must have.
pub(in crate::backend::modal) fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut out = HEADER.to_vec();
    for entry in manifest.entries() {
        text(&entry.path, &mut out);
        match &entry.contents {
            Contents::File { mode, size, sha256 } => {
                out.push(b'f');
                out.extend(mode.to_le_bytes());
                out.extend(size.to_le_bytes());
                out.extend(sha256.0);
            }
            Contents::Symlink { target } => {
                out.push(b'l');
                text(target, &mut out);
            }
            Contents::Directory { mode } => {
                out.push(b'd');
                out.extend(mode.to_le_bytes());
            }
        }
    }
    out.extend(manifest.digest().to_string().as_bytes());
    out
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Hexadecimal digits of a digest.
const DIGEST: usize = 64;

pub(in crate::backend::modal) fn decode(bytes: &[u8]) -> Option<Manifest> {
    let bytes = bytes.strip_prefix(HEADER)?;
    let (mut rest, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let path = take_text(&mut rest)?;
        let [kind] = take(&mut rest)?;
        let contents = match kind {
            b'f' => Contents::File {
                mode: u32::from_le_bytes(take(&mut rest)?),
                size: u64::from_le_bytes(take(&mut rest)?),
                sha256: Sha256Digest(take(&mut rest)?),
            },
            b'l' => Contents::Symlink { target: take_text(&mut rest)? },
            b'd' => Contents::Directory { mode: u32::from_le_bytes(take(&mut rest)?) },
            _ => return None,
        };
        entries.push(ManifestEntry { path, contents });
    }
    let manifest = Manifest::new(entries);
    (manifest.digest().to_string().as_bytes() == digest).then_some(manifest)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*bytes)
}

fn take_text(rest: &mut &[u8]) -> Option<Box<str>> {
    let length = usize::try_from(u32::from_le_bytes(take(rest)?)).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(std::str::from_utf8(bytes).ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_whole_or_not_at_all() {
        let manifest = Manifest::new(vec![
            ManifestEntry { path: "a".into(), contents: Contents::Directory { mode: 0o755 } },
            ManifestEntry { path: "a/l".into(), contents: Contents::Symlink { target: "ü".into() } },
            ManifestEntry {
                path: "a/f\n".into(),
                contents: Contents::File { mode: 0o644, size: 3, sha256: Sha256Digest([7; 32]) },
            },
        ]);
        let bytes = encode(&manifest);
        assert_eq!(decode(&bytes).as_ref(), Some(&manifest));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "{cut}");
        }
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert_eq!(decode(&wrong), None, "{at}");
        }
    }
}
