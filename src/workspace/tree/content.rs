//! File contents for upload: the bytes that were hashed, or an error.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::hash::open_file;
use super::{Sha256Digest, TreeError};
use crate::base::files::FileError;

/// The whole contents of a file of the manifest.
///
/// # Errors
/// [`TreeError::Changed`] when the bytes are no longer those of `expected`: hash the tree again.
pub fn read_verified(
    root: &Path,
    path: &str,
    size: u64,
    expected: Sha256Digest,
) -> Result<Vec<u8>, TreeError> {
    let mut reader = open_verified(root, path, size, expected)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) if error.get_ref().is_some_and(|inner| inner.is::<TornRead>()) => {
            Err(TreeError::Changed { path: path.to_owned() })
        }
        Err(error) => Err(FileError::new("read", &super::place(root, path), error).into()),
    }
}

/// The contents as a stream. Its end is an error ([`VerifiedReader`]) unless every byte was as hashed.
pub fn open_verified(
    root: &Path,
    path: &str,
    size: u64,
    expected: Sha256Digest,
) -> Result<VerifiedReader<File>, TreeError> {
    let opened = open_file(&super::place(root, path));
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(TreeError::Changed { path: path.to_owned() });
        }
        opened => opened.map_err(|source| FileError::new("read", &super::place(root, path), source))?,
    };
    Ok(VerifiedReader::new(file, size, expected))
}

/// Passes bytes on and compares their digest at the end.
///
/// A file that was changed since fails with [`io::ErrorKind::InvalidData`] instead of ending, also when it grew or shrank: a
/// stream that ended well carried exactly the hashed bytes.
#[derive(Debug)]
pub struct VerifiedReader<R> {
    inner: R,
    left: u64,
    hasher: Sha256,
    expected: Sha256Digest,
    checked: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the file changed after it was hashed")]
struct TornRead;

impl<R: Read> VerifiedReader<R> {
    pub fn new(inner: R, size: u64, expected: Sha256Digest) -> Self {
        Self { inner, left: size, hasher: Sha256::new(), expected, checked: false }
    }

    fn check_end(&mut self) -> io::Result<usize> {
        let torn = || io::Error::new(io::ErrorKind::InvalidData, TornRead);
        if !self.checked {
            let grew = self.inner.read(&mut [0])? > 0;
            if grew || <[u8; 32]>::from(self.hasher.clone().finalize()) != self.expected.0 {
                return Err(torn());
            }
            self.checked = true;
        }
        Ok(0)
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            return self.check_end();
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, TornRead));
        }
        self.hasher.update(&buffer[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hashed_bytes_end_well() {
        let expected = Sha256Digest(Sha256::digest(b"hello").into());
        for (now, well) in
            [("hello", true), ("hellO", false), ("hell", false), ("hello!", false), ("", false)]
        {
            let mut bytes = Vec::new();
            let ended = VerifiedReader::new(now.as_bytes(), 5, expected).read_to_end(&mut bytes);
            assert_eq!(ended.is_ok(), well, "{now}");
        }
    }
}
