//! Hashing: every file that the stat cache does not know is read once, by all cores.
//!
//! A digest is only taken from a file that had the same size, times and inode before and after it was read.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::SystemTime;

use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::manifest::{Contents, Manifest, ManifestEntry, Sha256Digest};
use super::stat_cache::{self, StatCache, StatCacheWriter};
use super::walk::file_stat;
use super::{Entry, EntryKind, FileStat, Refusal, Scan, TreeError};
use crate::base::files::FileError;

/// Times a file is read before it counts as always changing.
const ATTEMPTS: usize = 4;
/// Bytes per read; stays in the processor's cache.
const BUFFER: usize = 256 << 10;
/// Files from this size on are read first, so that no core is left with a large one at the end.
const LARGE: u64 = 4 << 20;
/// Smaller files that a thread takes at a time.
const PORTION: usize = 32;

#[derive(Debug)]
pub struct HashOptions<'a> {
    /// The stat cache's file; read, and replaced when anything changed. `None`: every file is read.
    pub cache: Option<&'a Path>,
    /// The present, taken before the first file is read.
    pub now: SystemTime,
    /// Set to end early with [`TreeError::Stopped`].
    pub stop: &'a AtomicBool,
}

#[derive(Debug)]
pub struct Hashed {
    pub manifest: Manifest,
    pub report: HashReport,
    /// Why the stat cache could not be replaced; the hashes are right all the same.
    pub cache_problem: Option<FileError>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HashReport {
    pub read_files: usize,
    pub read_bytes: u64,
    /// Files whose digest the stat cache knew.
    pub known_files: usize,
    /// Files that were gone when they were to be read: not part of the tree.
    pub vanished: usize,
}

/// The manifest of a scanned tree.
///
/// # Errors
/// [`TreeError::Refused`] names files that cannot be read, [`TreeError::Changing`] one that never stood still.
pub fn hash(root: &Path, scan: Scan, options: &HashOptions<'_>) -> Result<Hashed, TreeError> {
    let cache = options.cache.map(StatCache::load).unwrap_or_default();
    let (known, cached) = (cache.known(&scan.entries), cache.len());
    drop(cache);
    let folder = File::open(root).map_err(|source| FileError::new("read", root, source))?;
    let reading = Reading { root: folder.into(), entries: &scan.entries, stop: options.stop };
    let outcomes = reading.read(&missing(&scan.entries, &known))?;
    let mut merged = Merged::new(scan.entries, known, outcomes);
    let cache_problem = options.cache.and_then(|path| {
        let bytes = merged.encode(options.now, cached)?;
        stat_cache::save(path, &bytes).err()
    });
    let report = merged.report;
    Ok(Hashed { manifest: merged.into_manifest(), report, cache_problem })
}

/// Indices of files to be read, in the portions in which threads take them: large files one by one and first.
fn missing(entries: &[Entry], known: &[Option<Sha256Digest>]) -> Vec<Vec<usize>> {
    let size = |index: &usize| size(&entries[*index]);
    let is_missing =
        |index: &usize| known[*index].is_none() && matches!(entries[*index].kind, EntryKind::File(_));
    let (mut large, small): (Vec<_>, Vec<_>) =
        (0..entries.len()).filter(is_missing).partition(|index| size(index) >= LARGE);
    large.sort_by_key(|index| std::cmp::Reverse(size(index)));
    large.chunks(1).chain(small.chunks(PORTION)).map(<[usize]>::to_vec).collect()
}

fn size(entry: &Entry) -> u64 {
    match entry.kind {
        EntryKind::File(stat) => stat.size,
        _ => 0,
    }
}

/// What became of one file.
enum Outcome {
    /// With its stat, where that is no longer what the walk saw.
    Read(Option<Box<FileStat>>, Sha256Digest),
    Vanished,
}

enum ReadError {
    Changing,
    Stopped,
    Io(io::Error),
}

struct Reading<'a> {
    root: OwnedFd,
    entries: &'a [Entry],
    stop: &'a AtomicBool,
}

impl Reading<'_> {
    /// Outcomes by index, sorted.
    fn read(&self, portions: &[Vec<usize>]) -> Result<Vec<(usize, Outcome)>, TreeError> {
        if portions.is_empty() {
            return Ok(Vec::new());
        }
        let next = AtomicUsize::new(0);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(portions.len());
        let results: Vec<_> = thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.work(portions, &next))).collect();
            handles
                .into_iter()
                .map(|handle| handle.join().expect("a hashing thread does not panic"))
                .collect()
        });
        let mut outcomes = Vec::new();
        let mut refusals = Vec::new();
        for (index, result) in results.into_iter().flatten() {
            let path = || self.entries[index].path.to_string();
            match result {
                Ok(outcome) => outcomes.push((index, outcome)),
                Err(ReadError::Stopped) => return Err(TreeError::Stopped),
                Err(ReadError::Changing) => return Err(TreeError::Changing { path: path() }),
                Err(ReadError::Io(error)) => {
                    refusals.push(Refusal::Unreadable { path: path(), reason: error.kind().to_string() })
                }
            }
        }
        if !refusals.is_empty() {
            refusals.sort();
            return Err(TreeError::Refused(refusals));
        }
        outcomes.sort_unstable_by_key(|(index, _)| *index);
        Ok(outcomes)
    }

    fn work(&self, portions: &[Vec<usize>], next: &AtomicUsize) -> Vec<(usize, Result<Outcome, ReadError>)> {
        let mut buffer = vec![0; BUFFER];
        let mut results = Vec::new();
        loop {
            let Some(portion) = portions.get(next.fetch_add(1, Ordering::Relaxed)) else { return results };
            for index in portion {
                let result = self.file(*index, &mut buffer);
                let stopped = matches!(result, Err(ReadError::Stopped));
                results.push((*index, result));
                if stopped {
                    return results;
                }
            }
        }
    }

    fn file(&self, index: usize, buffer: &mut [u8]) -> Result<Outcome, ReadError> {
        let entry = &self.entries[index];
        let EntryKind::File(mut stat) = entry.kind else { return Ok(Outcome::Vanished) };
        for _ in 0..ATTEMPTS {
            if self.stop.load(Ordering::Relaxed) {
                return Err(ReadError::Stopped);
            }
            let opened = rustix::fs::openat(&self.root, &*entry.path, open_flags(), Mode::empty());
            let file = match opened {
                Err(error) if is_gone(error) => return Ok(Outcome::Vanished),
                Err(rustix::io::Errno::LOOP) => return Err(ReadError::Changing),
                opened => opened.map_err(|error| ReadError::Io(error.into()))?,
            };
            let (digest, read) = self.digest(&file, stat.size, buffer)?;
            let after = rustix::fs::fstat(&file).map_err(|error| ReadError::Io(error.into()))?;
            if FileType::from_raw_mode(after.st_mode) != FileType::RegularFile {
                return Err(ReadError::Changing);
            }
            let after = file_stat(&after);
            if after == stat && read == stat.size {
                let moved = entry.kind != EntryKind::File(stat);
                return Ok(Outcome::Read(moved.then(|| Box::new(stat)), digest));
            }
            stat = after;
        }
        Err(ReadError::Changing)
    }

    /// Of the first `size` bytes; and how many there were.
    fn digest(
        &self,
        file: impl AsFd,
        size: u64,
        buffer: &mut [u8],
    ) -> Result<(Sha256Digest, u64), ReadError> {
        let mut hasher = Sha256::new();
        let mut read = 0;
        while read < size {
            if self.stop.load(Ordering::Relaxed) {
                return Err(ReadError::Stopped);
            }
            let most = usize::try_from(size - read).unwrap_or(usize::MAX).min(buffer.len());
            match rustix::io::read(&file, &mut buffer[..most]) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    read += count as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(ReadError::Io(error.into())),
            }
        }
        Ok((Sha256Digest(hasher.finalize().into()), read))
    }
}

fn is_gone(error: rustix::io::Errno) -> bool {
    matches!(error, rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR)
}

/// Links are not followed, and a FIFO that took the file's place does not block.
fn open_flags() -> OFlags {
    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC
}

pub(super) fn open_file(path: &Path) -> io::Result<File> {
    Ok(File::from(rustix::fs::open(path, open_flags(), Mode::empty())?))
}

/// Entries with what is known of each.
struct Merged {
    entries: Vec<Entry>,
    digests: Vec<Option<Sha256Digest>>,
    report: HashReport,
}

impl Merged {
    fn new(
        mut entries: Vec<Entry>,
        mut digests: Vec<Option<Sha256Digest>>,
        outcomes: Vec<(usize, Outcome)>,
    ) -> Self {
        let mut report =
            HashReport { known_files: digests.iter().flatten().count(), ..HashReport::default() };
        for (index, outcome) in outcomes {
            match outcome {
                Outcome::Read(stat, digest) => {
                    if let Some(stat) = stat {
                        entries[index].kind = EntryKind::File(*stat);
                    }
                    digests[index] = Some(digest);
                    report.read_files += 1;
                    report.read_bytes += size(&entries[index]);
                }
                Outcome::Vanished => report.vanished += 1,
            }
        }
        Self { entries, digests, report }
    }

    /// The next cache file; `None` when it would hold what the present one of `cached` records holds.
    fn encode(&mut self, now: SystemTime, cached: usize) -> Option<Vec<u8>> {
        if self.report.read_files == 0 && self.report.known_files == cached {
            return None;
        }
        let mut writer = StatCacheWriter::new(now, self.entries.len());
        let mut stored = 0;
        for (entry, digest) in self.entries.iter().zip(&self.digests) {
            if let (EntryKind::File(stat), Some(digest)) = (&entry.kind, digest) {
                stored += usize::from(writer.add(&entry.path, stat, *digest));
            }
        }
        let unchanged = stored == cached && self.report.known_files == cached;
        (!unchanged).then(|| writer.finish())
    }

    fn into_manifest(self) -> Manifest {
        let entries = self.entries.into_iter().zip(self.digests);
        Manifest::new(entries.filter_map(|(entry, digest)| manifest_entry(entry, digest)).collect())
    }
}

fn manifest_entry(entry: Entry, digest: Option<Sha256Digest>) -> Option<ManifestEntry> {
    let contents = match entry.kind {
        EntryKind::File(stat) => Contents::File { mode: stat.mode, size: stat.size, sha256: digest? },
        EntryKind::Symlink { target } => Contents::Symlink { target },
        EntryKind::Directory { mode } => Contents::Directory { mode },
    };
    Some(ManifestEntry { path: entry.path, contents })
}
