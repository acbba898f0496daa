//! Lock files: one writer or many readers of something in the cache, across processes.
//!
//! What must stay true: a lock ends with the last descriptor of it, so a killed holder never blocks anybody.
//! A lock file may be deleted only by whoever holds it exclusively; therefore a lock counts only when the path
//! still names the file that was locked. Waiting is a loop of attempts, so that dropping the future ends it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::files::FileError;
use crate::domain::JobId;
use crate::event::{Emitter, Event, Level};

/// How long a wait stays silent.
pub const SILENT_WAIT: Duration = Duration::from_secs(1);
/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// More than a pid and a time is not read back.
const HOLDER_LIMIT: u64 = 256;

/// A held lock; ends when dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// What a wait is for, and whom to tell.
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
    /// For "waiting for …".
    pub what: &'a str,
    pub emitter: &'a Emitter,
    pub job: Option<&'a JobId>,
}

impl Lock {
    /// Joins the readers of a lock file that exists. `None` when it is absent or a writer holds it.
    pub fn try_shared(path: &Path) -> Result<Option<Self>, FileError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::new("open", path, source)),
        };
        held(file.try_lock_shared(), path)?.then_some(file).map_or(Ok(None), |file| settled(file, path))
    }

    /// Becomes the one holder, without waiting. `None` when somebody else holds it.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, FileError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| FileError::new("open", path, source))?;
        if !held(file.try_lock(), path)? {
            return Ok(None);
        }
        let Some(mut lock) = settled(file, path)? else { return Ok(None) };
        lock.write_holder();
        Ok(Some(lock))
    }

    /// Becomes the one holder, however long it takes. After [`SILENT_WAIT`] it says who holds the lock.
    pub async fn exclusive(path: &Path, waiting: Waiting<'_>) -> Result<Self, FileError> {
        Self::wait(path, waiting, || Self::try_exclusive(path)).await
    }

    /// Waits for what the lock file guards until an attempt succeeds.
    pub async fn wait<T>(
        path: &Path,
        waiting: Waiting<'_>,
        mut attempt: impl FnMut() -> Result<Option<T>, FileError>,
    ) -> Result<T, FileError> {
        let began = Instant::now();
        let mut pause = PAUSES.0;
        let mut silent = true;
        loop {
            if let Some(won) = attempt()? {
                return Ok(won);
            }
            if silent && began.elapsed() >= SILENT_WAIT {
                silent = false;
                waiting.announce(path).await;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// A second descriptor of the same lock. Given to a child process, it keeps the lock until the child and
    /// whatever inherited it have ended, also when this process is killed.
    pub fn descriptor(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Removes the lock file; for the exclusive holder of something that is gone.
    pub fn remove(self) -> Result<(), FileError> {
        std::fs::remove_file(&self.path).map_err(|source| FileError::new("remove", &self.path, source))
    }

    /// Only a help for people who wait; losing it loses nothing.
    fn write_holder(&mut self) {
        let text = format!("{} {}\n", std::process::id(), jiff::Timestamp::now().as_second());
        let _ = self.file.set_len(0);
        let _ = self.file.rewind();
        let _ = self.file.write_all(text.as_bytes());
    }
}

impl Waiting<'_> {
    async fn announce(&self, path: &Path) {
        let held = describe_holder(path).unwrap_or_else(|| "held by another accel".to_owned());
        let notice = Event::Notice {
            job: self.job.cloned(),
            level: Level::Info,
            code: "waiting-for-lock",
            text: format!("waiting for {}, {held}", self.what),
            help: None,
        };
        self.emitter.emit(notice).await;
    }
}

/// `held by pid 4711 since 10:31:02`, from what the holder wrote.
fn describe_holder(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(HOLDER_LIMIT).read_to_string(&mut text).ok()?;
    let (pid, since) = text.trim().split_once(' ')?;
    let pid: u32 = pid.parse().ok()?;
    let since = jiff::Timestamp::from_second(since.parse().ok()?).ok()?;
    let since = since.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S");
    Some(format!("held by pid {pid} since {since}"))
}

fn held(attempt: Result<(), TryLockError>, path: &Path) -> Result<bool, FileError> {
    match attempt {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(FileError::new("lock", path, source)),
    }
}

/// The lock, if the path still names the locked file: its holder before us may have removed it.
fn settled(file: File, path: &Path) -> Result<Option<Lock>, FileError> {
    let wrap = |source| FileError::new("check", path, source);
    let locked = file.metadata().map_err(wrap)?;
    match std::fs::metadata(path) {
        Ok(named) if named.ino() == locked.ino() && named.dev() == locked.dev() => {
            Ok(Some(Lock { file, path: path.to_owned() }))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(wrap(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::channel;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary folder")
    }

    #[test]
    fn readers_share_and_keep_writers_out() {
        let folder = folder();
        let path = folder.path().join("x.lock");
        assert!(Lock::try_shared(&path).expect("absent").is_none());
        let writer = Lock::try_exclusive(&path).expect("io").expect("free");
        assert!(Lock::try_shared(&path).expect("io").is_none());
        drop(writer);
        let first = Lock::try_shared(&path).expect("io").expect("free");
        let second = Lock::try_shared(&path).expect("io").expect("shared");
        assert!(Lock::try_exclusive(&path).expect("io").is_none());
        drop((first, second));
        assert!(Lock::try_exclusive(&path).expect("io").is_some());
    }

    #[test]
    fn a_copied_descriptor_keeps_the_lock() {
        let folder = folder();
        let path = folder.path().join("x.lock");
        let lock = Lock::try_exclusive(&path).expect("io").expect("free");
        let child = lock.descriptor().expect("copy");
        drop(lock);
        assert!(Lock::try_exclusive(&path).expect("io").is_none());
        drop(child);
        assert!(Lock::try_exclusive(&path).expect("io").is_some());
    }

    #[test]
    fn a_removed_lock_file_is_not_a_lock() {
        let folder = folder();
        let path = folder.path().join("x.lock");
        let stale = File::create(&path).expect("create");
        std::fs::remove_file(&path).expect("remove");
        File::create(&path).expect("another file of that name");
        assert!(settled(stale, &path).expect("io").is_none());
        Lock::try_exclusive(&path).expect("io").expect("free").remove().expect("removed");
        assert!(!path.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_says_who_holds_the_lock_after_a_second() {
        let folder = folder();
        let path = folder.path().join("x.lock");
        let holder = Lock::try_exclusive(&path).expect("io").expect("free");
        let (emitter, mut events) = channel();
        let waiting = Waiting { what: "the environment", emitter: &emitter, job: None };
        let release = async move {
            let event = events.recv().await.expect("a notice").event;
            drop(holder);
            event
        };
        let (lock, event) = tokio::join!(Lock::exclusive(&path, waiting), release);
        lock.expect("locked");
        let Event::Notice { text, .. } = event else { panic!("{event:?}") };
        let expected = format!("waiting for the environment, held by pid {} since ", std::process::id());
        assert!(text.starts_with(&expected), "{text}");
    }
}
