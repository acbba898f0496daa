//! Digests of files that have not changed since they were read, by size, times, inode and mode.
//!
//! A cache only: anything wrong with the file (truncated, garbage, of another version) makes it empty, never an error. Readers see
//! a whole old file or a whole new one.
//!
//! ```text
//! "ACCELST" version | count u32 | record… | BLAKE3 of all before
//! record: bytes shared with the path before u16 | further bytes u16 | those bytes
//!         | size u64 | modified i64 | changed i64 | inode u64 | mode u32 | SHA-256
//! ```
//!
//! Numbers are little-endian; records are in [`path_order`](super::path_order).
//!
//! *Files too young to be trusted.* A write within the same tick of the file system's clock as the one before leaves every
//! time as it was, so a file changed less than [`FINE_TICK`] (or [`COARSE_TICK`], where times are whole seconds) before it was
//! read is not stored and is read again next time. The time of change counts, which only the system sets.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::order::path_order;
use super::{Entry, EntryKind, FileStat, Sha256Digest};
use crate::base::files::FileError;

const MAGIC: &[u8; 8] = b"ACCELST\x01";
const CHECKSUM: usize = 32;
const HEADER: usize = MAGIC.len() + 4;
/// Size, two times, inode, mode, SHA-256.
const FIXED: usize = 8 * 4 + 4 + 32;

/// Larger than any clock tick of a kernel.
const FINE_TICK: Duration = Duration::from_millis(100);
/// FAT keeps times in steps of two seconds.
const COARSE_TICK: Duration = Duration::from_secs(2);
/// A larger file is no cache of ours.
const LARGEST: u64 = 1 << 30;

/// The contents of a cache file that were found whole.
#[derive(Debug, Default)]
pub struct StatCache {
    bytes: Vec<u8>,
}

impl StatCache {
    /// Empty when there is none or it is not whole.
    pub fn load(path: &Path) -> Self {
        let small = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= LARGEST);
        let bytes = if small { fs::read(path).unwrap_or_default() } else { Vec::new() };
        Self::parse(bytes)
    }

    pub(super) fn parse(mut bytes: Vec<u8>) -> Self {
        let Some(body) = bytes.len().checked_sub(CHECKSUM).filter(|body| *body >= HEADER) else {
            return Self::default();
        };
        if !bytes.starts_with(MAGIC) || blake3::hash(&bytes[..body]).as_bytes() != &bytes[body..] {
            return Self::default();
        }
        bytes.truncate(body);
        Self { bytes }
    }

    pub fn len(&self) -> usize {
        let count = self.bytes.get(MAGIC.len()..HEADER).and_then(|count| count.try_into().ok());
        count.map_or(0, |count| u32::from_le_bytes(count) as usize)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn records(&self) -> Records<'_> {
        Records { rest: self.bytes.get(HEADER..).unwrap_or_default(), path: Vec::new() }
    }

    /// For each entry its digest, where the file is as it was.
    pub(super) fn known(&self, entries: &[Entry]) -> Vec<Option<Sha256Digest>> {
        let mut known = vec![None; entries.len()];
        let mut records = self.records();
        let mut record = records.advance();
        for (entry, known) in entries.iter().zip(&mut known) {
            let EntryKind::File(stat) = entry.kind else { continue };
            while record.is_some() && path_order(&records.path, entry.path.as_bytes()).is_lt() {
                record = records.advance();
            }
            let Some((cached, digest)) = record else { break };
            if cached == stat && records.path == entry.path.as_bytes() {
                *known = Some(digest);
            }
        }
        known
    }
}

struct Records<'a> {
    rest: &'a [u8],
    /// Of the record that was read last.
    path: Vec<u8>,
}

impl Records<'_> {
    fn advance(&mut self) -> Option<(FileStat, Sha256Digest)> {
        let shared = usize::from(u16::from_le_bytes(self.take()?));
        let further = usize::from(u16::from_le_bytes(self.take()?));
        if shared > self.path.len() || further > self.rest.len() {
            return None;
        }
        let (name, rest) = self.rest.split_at(further);
        self.path.truncate(shared);
        self.path.extend_from_slice(name);
        self.rest = rest;
        let stat = FileStat {
            size: u64::from_le_bytes(self.take()?),
            modified: i64::from_le_bytes(self.take()?),
            changed: i64::from_le_bytes(self.take()?),
            inode: u64::from_le_bytes(self.take()?),
            mode: u32::from_le_bytes(self.take()?),
        };
        Some((stat, Sha256Digest(self.take()?)))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }
}

/// A cache file in the making.
#[derive(Debug)]
pub(super) struct StatCacheWriter {
    bytes: Vec<u8>,
    last: Vec<u8>,
    count: u32,
    read_at: i64,
}

impl StatCacheWriter {
    /// `read_at`: no file was read before this.
    pub(super) fn new(read_at: SystemTime, files: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER + files * (FIXED + 24) + CHECKSUM);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        let read_at = read_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { bytes, last: Vec::new(), count: 0, read_at: nanoseconds(read_at) }
    }

    /// Whether the file was old enough when it was read. Paths must come in order.
    pub(super) fn add(&mut self, path: &str, stat: &FileStat, digest: Sha256Digest) -> bool {
        let path = path.as_bytes();
        let tick = if stat.changed % 1_000_000_000 == 0 { COARSE_TICK } else { FINE_TICK };
        let trusted = stat.changed.saturating_add(nanoseconds(tick)) < self.read_at;
        let shared = path.iter().zip(&self.last).take_while(|(a, b)| a == b).count();
        let (Ok(shared_len), Ok(further_len)) = (u16::try_from(shared), u16::try_from(path.len() - shared))
        else {
            return false;
        };
        if !trusted {
            return false;
        }
        self.bytes.extend_from_slice(&shared_len.to_le_bytes());
        self.bytes.extend_from_slice(&further_len.to_le_bytes());
        self.bytes.extend_from_slice(&path[shared..]);
        self.bytes.extend_from_slice(&stat.size.to_le_bytes());
        self.bytes.extend_from_slice(&stat.modified.to_le_bytes());
        self.bytes.extend_from_slice(&stat.changed.to_le_bytes());
        self.bytes.extend_from_slice(&stat.inode.to_le_bytes());
        self.bytes.extend_from_slice(&stat.mode.to_le_bytes());
        self.bytes.extend_from_slice(&digest.0);
        self.last.clear();
        self.last.extend_from_slice(path);
        self.count += 1;
        true
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes[MAGIC.len()..HEADER].copy_from_slice(&self.count.to_le_bytes());
        let checksum = blake3::hash(&self.bytes);
        self.bytes.extend_from_slice(checksum.as_bytes());
        self.bytes
    }
}

/// Replaces the cache. Not forced to the disk: what a power cut leaves is told by the checksum.
pub(super) fn save(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let wrap = |source| FileError::new("write", path, source);
    let folder = path.parent().unwrap_or(Path::new("."));
    crate::base::files::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(wrap)?;
    file.write_all(bytes).map_err(wrap)?;
    file.persist(path).map_err(|error| wrap(error.error))?;
    Ok(())
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn stat(changed: i64) -> FileStat {
        FileStat { size: 3, modified: 7, changed, inode: 9, mode: 0o644 }
    }

    fn entry(path: &str, stat: FileStat) -> Entry {
        Entry { path: path.into(), kind: EntryKind::File(stat) }
    }

    fn sample() -> (Vec<Entry>, Vec<u8>) {
        let paths = ["a", "a/b", "a/b/c.txt", "a/b/d.txt", "a.txt", "ä/ö"];
        let entries: Vec<Entry> = paths.iter().map(|path| entry(path, stat(5 * SECOND + 1))).collect();
        let mut writer = StatCacheWriter::new(UNIX_EPOCH + Duration::from_secs(100), 6);
        for (at, path) in paths.iter().enumerate() {
            assert!(writer.add(path, &stat(5 * SECOND + 1), Sha256Digest([at as u8; 32])));
        }
        (entries, writer.finish())
    }

    #[test]
    fn what_was_stored_is_found() {
        let (entries, bytes) = sample();
        let cache = StatCache::parse(bytes);
        assert_eq!(cache.len(), 6);
        let known: Vec<_> = cache.known(&entries).into_iter().map(|known| known.unwrap().0[0]).collect();
        assert_eq!(known, [0, 1, 2, 3, 4, 5]);
        let some = [entries[1].clone(), entry("a/b/cc", stat(5 * SECOND + 1)), entries[5].clone()];
        let known: Vec<_> =
            cache.known(&some).into_iter().map(|known| known.map(|known| known.0[0])).collect();
        assert_eq!(known, [Some(1), None, Some(5)]);
    }

    #[test]
    fn any_difference_means_unknown() {
        let (_, bytes) = sample();
        let cache = StatCache::parse(bytes);
        let same = stat(5 * SECOND + 1);
        for other in [
            FileStat { size: 4, ..same },
            FileStat { modified: 8, ..same },
            FileStat { changed: 8, ..same },
            FileStat { inode: 8, ..same },
            FileStat { mode: 0o755, ..same },
        ] {
            assert_eq!(cache.known(&[entry("a", other)]), [None]);
        }
    }

    #[test]
    fn truncated_or_garbled_at_any_byte_it_is_empty() {
        let (entries, bytes) = sample();
        for at in 0..bytes.len() {
            let cut = StatCache::parse(bytes[..at].to_vec());
            assert!(cut.is_empty() && cut.known(&entries).iter().all(Option::is_none), "cut at {at}");
            for flip in [1, 0x80, 0xff] {
                let mut garbled = bytes.clone();
                garbled[at] ^= flip;
                assert!(StatCache::parse(garbled).is_empty(), "garbled at {at}");
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(StatCache::parse(longer).is_empty());
    }

    /// Even if the checksum held, records are read with care.
    #[test]
    fn records_cut_anywhere_are_read_without_harm() {
        let (entries, bytes) = sample();
        for at in HEADER..bytes.len() - CHECKSUM {
            let mut body = bytes[..at].to_vec();
            body.extend_from_slice(blake3::hash(&body.clone()).as_bytes());
            let known = StatCache::parse(body).known(&entries);
            assert!(known.iter().filter(|known| known.is_some()).count() < entries.len());
        }
    }

    #[test]
    fn files_too_young_are_not_stored() {
        let read_at = UNIX_EPOCH + Duration::from_secs(100);
        for (changed, trusted) in [
            (100 * SECOND - 50_000_000, false),
            (100 * SECOND - 150_000_001, true),
            (99 * SECOND, false),
            (97 * SECOND, true),
            (200 * SECOND + 1, false),
        ] {
            let mut writer = StatCacheWriter::new(read_at, 1);
            assert_eq!(writer.add("a", &stat(changed), Sha256Digest([0; 32])), trusted, "{changed}");
        }
    }
}
