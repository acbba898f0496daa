//! Where changes come from: the system's notifications, or looking every now and then. The only file that names
//! `notify`.
//!
//! Folders are watched, never single files, each on its own: what is ignored costs nothing. What the system could not
//! tell of (a full queue, an error) becomes "look again". Reads are no changes. Gathered paths are bounded: more than
//! [`MOST_PATHS`] become "look again" too.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Config, ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::time::{Instant, sleep_until};

/// Paths gathered until they are asked for.
const MOST_PATHS: usize = 20_000;
/// How often the root is checked for being the folder that is watched.
const ROOT_CHECK: Duration = Duration::from_secs(1);
/// How often a polled tree is looked at, at most.
const POLL: Duration = Duration::from_secs(1);
/// A look takes at most this share of the time.
const POLL_SHARE: u32 = 20;

/// Filesystems that do not tell of changes made on other machines (statfs(2)).
const REMOTE: [(i64, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x786f_4256, "a VirtualBox share"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

/// How changes are noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    Notified,
    /// With the reason, and what would help.
    Polled {
        why: String,
        help: Option<String>,
    },
}

/// What happened since the last question.
#[derive(Debug, PartialEq, Eq)]
pub enum Happening {
    Paths(HashSet<PathBuf>),
    /// Something, anywhere.
    LookAgain,
    /// The root is not there.
    Gone,
    /// The root is another folder than before; watch everything anew.
    Replaced,
}

#[derive(Debug)]
pub struct Source {
    root: PathBuf,
    /// Device and inode of the root; `None` while it is not there.
    identity: Option<(u64, u64)>,
    watcher: Option<RecommendedWatcher>,
    gathered: Arc<Gathered>,
    means: Means,
    next_root_check: Instant,
    next_poll: Instant,
    poll_every: Duration,
}

#[derive(Debug, Default)]
struct Gathered {
    state: Mutex<State>,
    arrived: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct State {
    paths: HashSet<PathBuf>,
    again: bool,
}

impl Gathered {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: notify::Result<notify::Event>) {
        let mut state = self.lock();
        match event {
            Ok(event) if event.need_rescan() => state.again = true,
            // The end of writing tells of changes through a memory map, which nothing else does.
            Ok(event)
                if event.kind.is_access()
                    && event.kind != EventKind::Access(AccessKind::Close(AccessMode::Write)) =>
            {
                return;
            }
            Ok(event) if state.paths.len() + event.paths.len() > MOST_PATHS => state.again = true,
            Ok(event) => state.paths.extend(event.paths),
            Err(_) => state.again = true,
        }
        if state.again {
            state.paths.clear();
        }
        drop(state);
        self.arrived.notify_one();
    }
}

impl Source {
    pub fn new(root: &Path, polling: Option<Means>) -> Self {
        let now = Instant::now();
        let mut source = Self {
            root: root.to_owned(),
            identity: identity(root),
            watcher: None,
            gathered: Arc::default(),
            means: polling.or_else(|| remote(root)).unwrap_or(Means::Notified),
            next_root_check: now + ROOT_CHECK,
            next_poll: now + POLL,
            poll_every: POLL,
        };
        source.connect();
        source
    }

    pub fn means(&self) -> &Means {
        &self.means
    }

    fn connect(&mut self) {
        if let Means::Polled { .. } = self.means {
            return;
        }
        let gathered = Arc::new(Gathered::default());
        let to = Arc::clone(&gathered);
        let config = Config::default().with_follow_symlinks(false);
        match RecommendedWatcher::new(move |event| to.take(event), config) {
            Ok(watcher) => (self.watcher, self.gathered) = (Some(watcher), gathered),
            Err(error) => self.fall_back(&error),
        }
    }

    fn fall_back(&mut self, error: &notify::Error) {
        self.watcher = None;
        self.means = why_not(error);
    }

    /// Watches folders (relative to the root, the root is `""`). Those that are gone by now are left out: their end
    /// is told by the folder above.
    pub fn watch<'a>(&mut self, folders: impl IntoIterator<Item = &'a str>) {
        for folder in folders {
            let path = if folder.is_empty() { self.root.clone() } else { self.root.join(folder) };
            self.watch_place(&path);
        }
    }

    pub fn watch_place(&mut self, folder: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) else { return };
        let vanished = matches!(error.kind, ErrorKind::PathNotFound)
            || matches!(&error.kind, ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::NotFound);
        let unreadable = matches!(&error.kind, ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::PermissionDenied);
        if !vanished && !unreadable {
            self.fall_back(&error);
        }
    }

    /// Folders that are gone. One that was moved is still known to the system, under a path that others may get.
    pub fn unwatch(&mut self, folders: &BTreeSet<String>) {
        let Some(watcher) = &mut self.watcher else { return };
        for folder in folders {
            let _ = watcher.unwatch(&self.root.join(folder));
        }
    }

    /// Forgets all watches; for a root that is another folder now.
    pub fn start_over(&mut self) {
        self.connect();
    }

    /// How long the last look at the whole tree took.
    pub fn looked(&mut self, took: Duration) {
        self.poll_every = POLL.max(took * POLL_SHARE);
        self.next_poll = Instant::now() + self.poll_every;
    }

    /// The next happening. Nothing is lost when this is dropped before it resolves.
    pub async fn next(&mut self) -> Happening {
        loop {
            if let Some(happening) = self.gathered_so_far() {
                return happening;
            }
            let polled = matches!(self.means, Means::Polled { .. });
            tokio::select! {
                () = self.gathered.arrived.notified() => {}
                () = sleep_until(self.next_root_check) => {
                    self.next_root_check = Instant::now() + ROOT_CHECK;
                    if let Some(happening) = self.check_root() {
                        return happening;
                    }
                }
                () = sleep_until(self.next_poll), if polled && self.identity.is_some() => {
                    self.next_poll = Instant::now() + self.poll_every;
                    return Happening::LookAgain;
                }
            }
        }
    }

    fn gathered_so_far(&self) -> Option<Happening> {
        let mut state = self.gathered.lock();
        if std::mem::take(&mut state.again) {
            state.paths.clear();
            return Some(Happening::LookAgain);
        }
        let paths = std::mem::take(&mut state.paths);
        (!paths.is_empty()).then_some(Happening::Paths(paths))
    }

    /// Compares the root with the folder that is watched; says so once when that changed.
    pub fn check_root(&mut self) -> Option<Happening> {
        let now = identity(&self.root);
        if now == self.identity {
            return None;
        }
        self.identity = now;
        Some(if now.is_some() { Happening::Replaced } else { Happening::Gone })
    }
}

fn identity(root: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(root).ok().filter(std::fs::Metadata::is_dir)?;
    Some((found.dev(), found.ino()))
}

fn why_not(error: &notify::Error) -> Means {
    let text = error.to_string();
    let exhausted =
        |errno: i32| matches!(&error.kind, ErrorKind::Io(error) if error.raw_os_error() == Some(errno));
    let (why, help) = if matches!(error.kind, ErrorKind::MaxFilesWatch) {
        (
            "the system's limit of watched folders is reached".to_owned(),
            Some("raise it: sysctl fs.inotify.max_user_watches=524288"),
        )
    } else if exhausted(rustix::io::Errno::MFILE.raw_os_error()) {
        (
            "the system's limit of watching programs is reached".to_owned(),
            Some("raise it: sysctl fs.inotify.max_user_instances=512"),
        )
    } else {
        (format!("the system does not tell of changes: {text}"), None)
    };
    Means::Polled { why, help: help.map(str::to_owned) }
}

#[cfg(target_os = "linux")]
fn remote(root: &Path) -> Option<Means> {
    let found = rustix::fs::statfs(root).ok()?;
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between systems")]
    let kind = found.f_type as i64 & 0xffff_ffff;
    let (_, name) = REMOTE.iter().find(|(number, _)| *number == kind)?;
    let why = format!("{name} does not tell of changes made elsewhere");
    Some(Means::Polled { why, help: None })
}

#[cfg(not(target_os = "linux"))]
fn remote(_root: &Path) -> Option<Means> {
    None
}
