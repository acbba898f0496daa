//! The walk: every folder read once, by a few threads, one stat per path that travels.
//!
//! Each folder is listed, sorted and decided on its own; the listings are put together in [`path_order`](super::path_order)
//! afterwards, so nothing is sorted as a whole. Folders are opened from the root without following links.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use super::board::Board;
use super::ignores::{self, Folder, Present, Scope};
use super::links::outside;
use super::rules::{Asked, Coverage, Rules, Start, Verdict};
use super::secrets::looks_secret;
use super::{Entry, EntryKind, FileStat, Notice, Refusal, Scan, TreeError, size};
use crate::base::files::FileError;

/// More threads than this do not read folders faster.
const MOST_THREADS: usize = 8;

/// Everything that travels, sorted; refused when something cannot travel or the tree is too large. Nothing is hashed.
///
/// # Errors
/// [`TreeError::Refused`], [`TreeError::TooLarge`], [`TreeError::Stopped`], or the root cannot be opened.
pub fn scan(root: &Path, rules: &Rules, stop: &AtomicBool) -> Result<Scan, TreeError> {
    let start = rules.start(root);
    let first = Task { id: 0, path: String::new(), scope: start.scope.clone(), coverage: Coverage::Open };
    let workers = Walk::new(root, rules, &start, Links::Checked, stop)?.all(first);
    if stop.load(Ordering::Relaxed) {
        return Err(TreeError::Stopped);
    }
    let mut scan = assemble(workers, start.notices.clone())?;
    scan.size = size::check(&scan.entries, rules.max_size)?;
    Ok(scan)
}

/// What is in a folder of the tree (not the folder itself), sorted, for whoever only wants to know what changed:
/// nothing is refused, links to anywhere are entries, what cannot be read is not there.
pub(super) fn survey(root: &Path, rules: &Rules, start: &Start, below: Below) -> Vec<Entry> {
    let stop = AtomicBool::new(false);
    let Ok(walk) = Walk::new(root, rules, start, Links::Any, &stop) else { return Vec::new() };
    let Below { path, scope, coverage } = below;
    let workers = walk.all(Task { id: 0, path, scope, coverage });
    joined(workers).0.entries
}

/// A folder, and what the way to it says about what is in it.
pub(super) struct Below {
    pub(super) path: String,
    /// Of the folder that holds it.
    pub(super) scope: Option<Arc<Scope>>,
    pub(super) coverage: Coverage,
}

/// Which links are entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    /// Those that may travel; others refuse the walk.
    Checked,
    Any,
}

fn open_root(root: &Path) -> Result<OwnedFd, TreeError> {
    let file = File::open(root).map_err(|source| FileError::new("read", root, source))?;
    Ok(file.into())
}

struct Walk<'a> {
    root: &'a Path,
    handle: OwnedFd,
    rules: &'a Rules,
    start: &'a Start,
    links: Links,
    stop: &'a AtomicBool,
}

/// A folder still to be read.
struct Task {
    /// Place of its listing.
    id: usize,
    path: String,
    scope: Option<Arc<Scope>>,
    coverage: Coverage,
}

/// What one thread has gathered.
#[derive(Default)]
struct Worker {
    listings: Vec<(usize, Vec<Item>)>,
    notices: Vec<Notice>,
    refusals: Vec<Refusal>,
    names: Names,
    found: Vec<Task>,
}

struct Item {
    entry: Entry,
    /// Where the listing of this folder is.
    listing: Option<usize>,
    /// Travels only as the way to something in it.
    only_if_filled: bool,
}

/// The names of one folder in one buffer, each ended by NUL.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    spans: Vec<(u32, u32, FileType)>,
}

impl Names {
    fn read(&mut self, folder: &mut Dir, present: &mut Present) -> rustix::io::Result<()> {
        self.bytes.clear();
        self.spans.clear();
        while let Some(entry) = folder.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            present.note(name);
            let from = self.bytes.len() as u32;
            self.bytes.extend_from_slice(entry.file_name().to_bytes_with_nul());
            self.spans.push((from, self.bytes.len() as u32, entry.file_type()));
        }
        let bytes = &self.bytes;
        self.spans.sort_unstable_by(|a, b| {
            bytes[a.0 as usize..a.1 as usize].cmp(&bytes[b.0 as usize..b.1 as usize])
        });
        Ok(())
    }

    fn get(&self, index: usize) -> (&CStr, FileType) {
        let (from, to, kind) = self.spans[index];
        let name = CStr::from_bytes_with_nul(&self.bytes[from as usize..to as usize]);
        (name.expect("a name of the system ends with its only NUL"), kind)
    }
}

impl<'a> Walk<'a> {
    fn new(
        root: &'a Path,
        rules: &'a Rules,
        start: &'a Start,
        links: Links,
        stop: &'a AtomicBool,
    ) -> Result<Self, TreeError> {
        Ok(Self { root, handle: open_root(root)?, rules, start, links, stop })
    }

    /// From the first folder to the last.
    fn all(&self, first: Task) -> Vec<Worker> {
        let board = Board::new(first);
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.work(&board))).collect();
            handles
                .into_iter()
                .map(|handle| handle.join().expect("a walking thread does not panic"))
                .collect()
        })
    }

    fn work(&self, board: &Board<Task>) -> Worker {
        let mut worker = Worker::default();
        let mut next = board.next(&mut worker.found, 0);
        while let Some(task) = next {
            if !self.stop.load(Ordering::Relaxed)
                && let Err(error) = self.list(&mut worker, &task, board)
            {
                let path = if task.path.is_empty() { ".".to_owned() } else { task.path.clone() };
                worker.refusals.push(Refusal::Unreadable { path, reason: reason(error) });
            }
            next = board.next(&mut worker.found, 1);
        }
        worker
    }

    fn list(&self, worker: &mut Worker, task: &Task, board: &Board<Task>) -> rustix::io::Result<()> {
        let path = if task.path.is_empty() { "." } else { &task.path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = Dir::new(rustix::fs::openat(&self.handle, path, flags, Mode::empty())?)?;
        let mut present = Present::default();
        let mut names = std::mem::take(&mut worker.names);
        names.read(&mut folder, &mut present)?;
        let scope = self.enter(worker, task, present);
        let mut items = Vec::with_capacity(names.spans.len());
        for index in 0..names.spans.len() {
            let (name, kind) = names.get(index);
            let visit = Visit { walk: self, task, scope: scope.as_ref(), folder: folder.fd()? };
            items.extend(visit.name(worker, name, kind));
        }
        let first = board.reserve(worker.found.len());
        let folders = items.iter_mut().filter(|item| item.listing.is_some());
        for (at, (item, found)) in folders.zip(&mut worker.found).enumerate() {
            (item.listing, found.id) = (Some(first + at), first + at);
            found.scope.clone_from(&scope);
        }
        worker.names = names;
        worker.listings.push((task.id, items));
        Ok(())
    }

    fn enter(&self, worker: &mut Worker, task: &Task, present: Present) -> Option<Arc<Scope>> {
        let prefix = if task.path.is_empty() {
            self.start.prefix.clone()
        } else {
            format!("{}{}/", self.start.prefix, task.path)
        };
        let place = super::place(self.root, &task.path);
        let folder = Folder { place: &place, prefix: &prefix, present };
        ignores::enter(task.scope.as_ref(), &folder, self.rules.honoured, &mut worker.notices)
    }
}

/// One name of one folder.
struct Visit<'a> {
    walk: &'a Walk<'a>,
    task: &'a Task,
    scope: Option<&'a Arc<Scope>>,
    folder: BorrowedFd<'a>,
}

impl Visit<'_> {
    fn name(&self, worker: &mut Worker, name: &CStr, kind: FileType) -> Option<Item> {
        let path = self.path(name);
        let mut stat = None;
        let kind = match kind {
            FileType::Unknown => {
                let found = self.stat(name).ok()?;
                stat = Some(found);
                FileType::from_raw_mode(found.st_mode)
            }
            known => known,
        };
        let full = format_full(&self.walk.start.prefix, &path);
        let last = path.rsplit_once('/').map_or(&*path, |(_, last)| last);
        let asked = Asked {
            full: full.as_deref().unwrap_or(&path),
            path: &path,
            name: last,
            is_folder: kind == FileType::Directory,
        };
        let verdict = self.walk.rules.decide(self.walk.start, self.scope, self.task.coverage, asked);
        let (coverage, only_if_filled) = match verdict {
            Verdict::In { coverage, .. } => (coverage, false),
            Verdict::Out { descend: true, .. } => (Coverage::Ignored, true),
            Verdict::Out { why, .. } => {
                if matches!(why, super::rules::Out::Secret) {
                    worker.notices.push(Notice::SecretStays { path });
                }
                return None;
            }
        };
        if name.to_str().is_err() {
            worker.refusals.push(Refusal::Name { path });
            return None;
        }
        let kind = match self.kind(worker, name, &path, kind, stat)? {
            EntryKind::Directory { mode } => {
                worker.found.push(Task { id: 0, path: path.clone(), scope: None, coverage });
                EntryKind::Directory { mode }
            }
            kind => kind,
        };
        let listing = matches!(kind, EntryKind::Directory { .. }).then_some(0);
        Some(Item { entry: Entry { path: path.into_boxed_str(), kind }, listing, only_if_filled })
    }

    /// Names that are not UTF-8 are shown with replacement characters and refused later, if they would travel.
    fn path(&self, name: &CStr) -> String {
        let name = name.to_string_lossy();
        let folder = &self.task.path;
        // Exactly as long as needed: most paths are kept.
        let mut path = String::with_capacity(folder.len() + 1 + name.len());
        if !folder.is_empty() {
            path.push_str(folder);
            path.push('/');
        }
        path.push_str(&name);
        path
    }

    fn stat(&self, name: &CStr) -> rustix::io::Result<Stat> {
        rustix::fs::statat(self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn kind(
        &self,
        worker: &mut Worker,
        name: &CStr,
        path: &str,
        kind: FileType,
        stat: Option<Stat>,
    ) -> Option<EntryKind> {
        if kind == FileType::Symlink {
            return self.link(worker, name, path);
        }
        if let Some(kind) = special(kind) {
            worker.notices.push(Notice::Special { path: path.to_owned(), kind });
            return None;
        }
        // A path that has vanished since its folder was read is not in the tree.
        let stat = stat.map_or_else(|| self.stat(name), Ok).ok()?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Some(EntryKind::Directory { mode: permissions(&stat) }),
            FileType::RegularFile => {
                if name.to_str().is_ok_and(looks_secret) {
                    worker.notices.push(Notice::SecretTravels { path: path.to_owned() });
                }
                Some(EntryKind::File(file_stat(&stat)))
            }
            _ => None,
        }
    }

    fn link(&self, worker: &mut Worker, name: &CStr, path: &str) -> Option<EntryKind> {
        let target = rustix::fs::readlinkat(self.folder, name, Vec::new()).ok()?;
        let Ok(target) = target.into_string() else {
            worker.refusals.push(Refusal::Target { path: path.to_owned() });
            return None;
        };
        if self.walk.links == Links::Checked
            && !self.walk.rules.include.names_exactly(path)
            && let Some(refusal) = outside(path, &target)
        {
            worker.refusals.push(refusal);
            return None;
        }
        Some(EntryKind::Symlink { target: target.into_boxed_str() })
    }
}

/// The path as ignore files see it, where that differs.
fn format_full(prefix: &str, path: &str) -> Option<String> {
    (!prefix.is_empty()).then(|| format!("{prefix}{path}"))
}

pub(super) fn special(kind: FileType) -> Option<&'static str> {
    Some(match kind {
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => return None,
    })
}

#[allow(clippy::unnecessary_cast, reason = "the fields' types differ between systems")]
pub(super) fn file_stat(stat: &Stat) -> FileStat {
    FileStat {
        size: stat.st_size as u64,
        modified: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        changed: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        inode: stat.st_ino as u64,
        mode: permissions(stat),
    }
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[allow(clippy::unnecessary_cast, reason = "the field's type differs between systems")]
fn permissions(stat: &Stat) -> u32 {
    stat.st_mode as u32 & 0o7777
}

fn reason(error: rustix::io::Errno) -> String {
    let text = std::io::Error::from(error).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Puts the listings together, folder by folder.
fn assemble(workers: Vec<Worker>, notices: Vec<Notice>) -> Result<Scan, TreeError> {
    let (mut scan, mut refusals) = joined(workers);
    if !refusals.is_empty() {
        refusals.sort();
        return Err(TreeError::Refused(refusals));
    }
    scan.notices.extend(notices);
    scan.notices.sort();
    scan.notices.dedup();
    Ok(scan)
}

fn joined(workers: Vec<Worker>) -> (Scan, Vec<Refusal>) {
    let mut scan = Scan::default();
    let mut refusals = Vec::new();
    let mut listings: Vec<Vec<Item>> = Vec::new();
    let mut total = 0;
    for worker in workers {
        scan.notices.extend(worker.notices);
        refusals.extend(worker.refusals);
        for (id, items) in worker.listings {
            if listings.len() <= id {
                listings.resize_with(id + 1, Vec::new);
            }
            total += items.len();
            listings[id] = items;
        }
    }
    scan.entries.reserve_exact(total);
    emit(&mut listings, 0, &mut scan.entries);
    (scan, refusals)
}

fn emit(listings: &mut [Vec<Item>], id: usize, entries: &mut Vec<Entry>) {
    let Some(items) = listings.get_mut(id).map(std::mem::take) else { return };
    for item in items {
        let before = entries.len();
        entries.push(item.entry);
        if let Some(listing) = item.listing {
            emit(listings, listing, entries);
        }
        if item.only_if_filled && entries.len() == before + 1 && item.listing.is_some() {
            entries.pop();
        }
    }
}
