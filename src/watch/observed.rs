//! What the tree was when the last run started, and what is different since.
//!
//! A file counts as changed when its contents, permission bits or kind are others, not when it was merely written
//! again: files whose stat changed are read and compared by digest. Digests are taken ahead of the first run for as
//! many files as [`AHEAD`] allows; a file without one that is written again counts as changed once.
//!
//! Times of files are coarse. A stat that is hardly older than its file's last change says nothing about the next
//! change, so such a file is read again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::workspace::tree::{EntryKind, FileStat, Judge, Judgement, Rules, path_order};

/// Time given to reading files before the first run.
const AHEAD: Duration = Duration::from_secs(1);
/// Larger files are not read ahead.
const LARGEST_AHEAD: u64 = 1 << 20;
/// Of a larger file the size and times decide: reading it would hold up the run.
const LARGEST_READ: u64 = 16 << 20;
/// Two changes within this time may leave the same times on a file.
const COARSE: Duration = Duration::from_millis(20);
/// Of more changed paths than this, none is taken for a half-done save.
const MANY: usize = 1_000;

/// The first half of a BLAKE3 digest, which is enough to tell the contents of one file from its next ones.
type Digest = [u8; 16];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    File(Seen),
    Link(Box<str>),
}

/// What is kept of each file. There may be very many, so it is small: a change of the times alone is one of
/// `changed`, too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    size: u64,
    /// Nanoseconds since 1970.
    changed: i64,
    inode: u64,
    digest: Option<Digest>,
    /// Permission bits.
    mode: u16,
    fresh: Fresh,
}

impl Seen {
    fn new(stat: &FileStat, digest: Option<Digest>, now: SystemTime) -> Self {
        let FileStat { size, changed, inode, mode, .. } = *stat;
        let mode = u16::try_from(mode).unwrap_or(u16::MAX);
        Self { size, changed, inode, digest, mode, fresh: Fresh::at(stat, now) }
    }

    fn has(&self, stat: &FileStat) -> bool {
        (self.size, self.changed, self.inode, u32::from(self.mode))
            == (stat.size, stat.changed, stat.inode, stat.mode)
    }

    fn is_same(&self, now: &Self) -> bool {
        self.mode == now.mode
            && match (self.digest, now.digest) {
                (Some(digest), Some(digest_now)) => digest == digest_now,
                // Too large to be read.
                (None, None) => (self.size, self.changed, self.inode) == (now.size, now.changed, now.inode),
                _ => false,
            }
    }
}

/// Whether a stat was taken so soon after the last change that the next one may look the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fresh {
    Yes,
    No,
}

impl Fresh {
    /// A clock that was set back makes everything fresh, which only costs reading.
    fn at(stat: &FileStat, now: SystemTime) -> Self {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_nanos(u64::try_from(stat.changed.max(stat.modified)).unwrap_or(0));
        if changed + COARSE < now { Self::No } else { Self::Yes }
    }
}

/// What a save may have done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unfinished {
    Gone,
    Empty,
}

#[derive(Debug)]
pub struct Observed {
    root: PathBuf,
    judge: Judge,
    known: BTreeMap<Box<str>, Known>,
    /// Folders that hold something that is followed; the root is `""`.
    folders: BTreeSet<Box<str>>,
}

/// What an examination found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Paths with other contents, sorted.
    pub changed: BTreeSet<String>,
    /// Folders that have come, or may be others than before: to be watched, and then examined once more.
    pub came: BTreeSet<String>,
    /// Folders that are gone.
    pub went: BTreeSet<String>,
}

impl Observed {
    /// Nothing is known until [`begin`](Self::begin).
    pub fn new(root: &Path, rules: Rules) -> Self {
        let judge = Judge::new(root, rules);
        Self { root: root.to_owned(), judge, known: BTreeMap::new(), folders: BTreeSet::new() }
    }

    /// Takes the tree as it is; returns its folders. Nothing is read but names and stats.
    pub fn begin(&mut self) -> BTreeSet<String> {
        self.folders = BTreeSet::from([Box::from("")]);
        let now = SystemTime::now();
        let entries = self.judge.survey("");
        let folders = &mut self.folders;
        // Made in one go a map takes half of the memory.
        self.known = BTreeMap::from_iter(entries.into_iter().filter_map(|entry| match entry.kind {
            EntryKind::Directory { .. } => {
                folders.insert(entry.path);
                None
            }
            EntryKind::File(stat) => Some((entry.path, Known::File(Seen::new(&stat, None, now)))),
            EntryKind::Symlink { target } => Some((entry.path, Known::Link(target))),
        }));
        self.folders.iter().map(|folder| folder.to_string()).collect()
    }

    pub fn files(&self) -> usize {
        self.known.len()
    }

    /// Relative path of something that is followed, or may hold something that is.
    pub fn concerns(&mut self, path: &Path) -> Option<String> {
        let path = path.strip_prefix(&self.root).ok()?.to_str()?;
        if path.is_empty() || self.known.contains_key(path) || self.folders.contains(path) {
            return Some(path.to_owned());
        }
        let is_folder = self.root.join(path).symlink_metadata().is_ok_and(|found| found.is_dir());
        (self.judge.judge(path, is_folder) != Judgement::Out).then(|| path.to_owned())
    }

    /// What looks like a save that is half done: a file that is gone or empty, and was neither before.
    pub fn unfinished(&self, paths: &BTreeSet<String>) -> Option<Unfinished> {
        if paths.len() >= MANY {
            return None;
        }
        let unfinished = |path: &String| match self.known.get(path.as_str())? {
            Known::File(seen) if seen.size > 0 => match self.judge.entry(path) {
                None => Some(Unfinished::Gone),
                Some(EntryKind::File(now)) if now.size == 0 => Some(Unfinished::Empty),
                Some(_) => None,
            },
            _ => None,
        };
        paths.iter().filter_map(unfinished).max()
    }

    /// Compares these paths, and takes over what they are now.
    pub fn examine(&mut self, paths: &BTreeSet<String>) -> Findings {
        if paths.contains("") || paths.iter().any(|path| Judge::is_rule_file(path)) {
            return self.look_again();
        }
        let mut findings = Findings::default();
        for path in paths {
            self.examine_one(path, &mut findings);
        }
        findings
    }

    /// Compares the whole tree.
    pub fn look_again(&mut self) -> Findings {
        self.judge.forget();
        let mut findings = Findings::default();
        self.survey("", &mut findings);
        findings
    }

    fn examine_one(&mut self, path: &str, findings: &mut Findings) {
        let entry = self.judge.entry(path);
        let is_folder = matches!(entry, Some(EntryKind::Directory { .. }));
        match (entry, self.judge.judge(path, is_folder)) {
            (Some(EntryKind::Directory { .. }), Judgement::In | Judgement::Way) => {
                // It may hold other ignore files than the folder that was here before.
                self.judge.forget();
                self.remove(path, findings);
                self.survey(path, findings);
            }
            (Some(kind @ (EntryKind::File(_) | EntryKind::Symlink { .. })), Judgement::In) => {
                self.remove_below(path, findings);
                self.note(path, &kind, findings);
            }
            _ => {
                self.remove(path, findings);
                self.remove_below(path, findings);
            }
        }
    }

    /// Compares all that is in a folder.
    fn survey(&mut self, folder: &str, findings: &mut Findings) {
        let entries = self.judge.survey(folder);
        // Not a copy of all names: there may be very many.
        let here = |path: &str| {
            entries
                .binary_search_by(|it| path_order(it.path.as_bytes(), path.as_bytes()))
                .is_ok_and(|at| !matches!(entries[at].kind, EntryKind::Directory { .. }))
        };
        let gone: Vec<Box<str>> =
            self.below(folder).map(|(path, _)| path).filter(|path| !here(path)).cloned().collect();
        let mut folders_gone: BTreeSet<Box<str>> = self.folders_below(folder).collect();
        let mut came = vec![Box::from(folder)];
        for entry in entries {
            if let EntryKind::Directory { .. } = entry.kind {
                came.push(entry.path);
                continue;
            }
            self.note(&entry.path, &entry.kind, findings);
        }
        for folder in came {
            folders_gone.remove(&folder);
            findings.came.insert(folder.to_string());
            self.folders.insert(folder);
        }
        for path in gone {
            self.remove(&path, findings);
        }
        for folder in folders_gone {
            self.folders.remove(&folder);
            findings.went.insert(folder.into());
        }
    }

    fn note(&mut self, path: &str, kind: &EntryKind, findings: &mut Findings) {
        let before = self.known.get(path);
        let now = match kind {
            EntryKind::File(stat) => {
                if let Some(Known::File(seen)) = before
                    && seen.fresh == Fresh::No
                    && seen.has(stat)
                {
                    return;
                }
                let now = SystemTime::now();
                Known::File(Seen::new(stat, self.digest(path, stat), now))
            }
            EntryKind::Symlink { target } => Known::Link(target.clone()),
            EntryKind::Directory { .. } => return,
        };
        if !before.is_some_and(|before| same(before, &now)) {
            findings.changed.insert(path.to_owned());
        }
        self.known.insert(path.into(), now);
    }

    fn remove(&mut self, path: &str, findings: &mut Findings) {
        if self.known.remove(path).is_some() {
            findings.changed.insert(path.to_owned());
        }
    }

    fn remove_below(&mut self, folder: &str, findings: &mut Findings) {
        let gone: Vec<Box<str>> = self.below(folder).map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.remove(&path, findings);
        }
        let folders: Vec<Box<str>> = self.folders_below(folder).collect();
        for gone in folders {
            self.folders.remove(&gone);
            findings.went.insert(gone.into());
        }
        if self.folders.remove(folder) {
            findings.went.insert(folder.to_owned());
        }
    }

    fn below(&self, folder: &str) -> impl Iterator<Item = (&Box<str>, &Known)> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let from: Box<str> = prefix.as_str().into();
        self.known.range(from..).take_while(move |(path, _)| path.starts_with(&prefix))
    }

    fn folders_below(&self, folder: &str) -> impl Iterator<Item = Box<str>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let from: Box<str> = prefix.as_str().into();
        let below = self.folders.range(from..).take_while(move |path| path.starts_with(&prefix));
        below.filter(|path| !path.is_empty()).cloned()
    }

    /// Reads files ahead of the first run, so that rewriting them with the same contents is known for what it is.
    pub fn read_ahead(&mut self) {
        let end = Instant::now() + AHEAD;
        let mut buffer = Vec::new();
        let root = &self.root;
        for (path, known) in &mut self.known {
            let Known::File(seen) = known else { continue };
            if seen.digest.is_some() || seen.size > LARGEST_AHEAD {
                continue;
            }
            seen.digest = read(&root.join(&**path), seen.size, &mut buffer);
            if Instant::now() > end {
                return;
            }
        }
    }

    fn digest(&self, path: &str, stat: &FileStat) -> Option<Digest> {
        if stat.size > LARGEST_READ {
            return None;
        }
        read(&self.root.join(path), stat.size, &mut Vec::new())
    }
}

/// Of a file that has this size; one that grows meanwhile is reported again by its next event.
fn read(path: &Path, size: u64, buffer: &mut Vec<u8>) -> Option<Digest> {
    buffer.clear();
    File::open(path).ok()?.take(size + 1).read_to_end(buffer).ok()?;
    blake3::hash(buffer).as_bytes().first_chunk().copied()
}

fn same(before: &Known, now: &Known) -> bool {
    match (before, now) {
        (Known::File(before), Known::File(now)) => before.is_same(now),
        (Known::Link(before), Known::Link(now)) => before == now,
        _ => false,
    }
}
