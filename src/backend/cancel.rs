//! Cancellation that only rises: run → drain → stop → kill → abandon.
//!
//! One [`CancelSource`] owns a level; any number of [`Cancel`]s watch it. A job has its own source that follows
//! the run's, so that a timeout can stop one job alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::plan::spec::StopSignal;

/// How far a cancellation has gone. The order is the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CancelLevel {
    Run,
    /// Start nothing new.
    Drain,
    /// Ask politely: a signal to the process group, the remote command interrupted.
    Stop(StopReason),
    /// End everything now.
    Kill,
}

/// Why a run is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopReason {
    /// Ctrl-C: SIGINT.
    Interrupt,
    /// SIGTERM: also used for timeouts.
    Terminate,
    /// The terminal went away: SIGHUP.
    Hangup,
    /// The reader of accel's standard output went away (`| head`), for which a program that writes by itself
    /// gets SIGPIPE.
    Unread,
    /// The key that ends a watch.
    Quit,
    /// A newer run takes the place of this one: the signal that the job wants for that.
    Superseded(StopSignal),
}

impl StopReason {
    /// The number of the signal.
    pub fn signal(self) -> i32 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Unread => 13,
            Self::Terminate | Self::Quit => 15,
            Self::Superseded(signal) => number(signal),
        }
    }

    pub fn signal_name(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate | Self::Quit => "SIGTERM",
            Self::Unread => "SIGPIPE",
            Self::Superseded(signal) => signal.name(),
        }
    }

    /// What commands are asked with. Many ignore SIGPIPE; to them a lost reader is a request to terminate.
    #[must_use]
    pub fn request(self) -> Self {
        match self {
            Self::Unread | Self::Quit => Self::Terminate,
            reason => reason,
        }
    }
}

fn number(signal: StopSignal) -> i32 {
    use rustix::process::Signal;
    let signal = match signal {
        StopSignal::Hangup => Signal::HUP,
        StopSignal::Interrupt => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Terminate => Signal::TERM,
        StopSignal::Kill => Signal::KILL,
        StopSignal::User1 => Signal::USR1,
        StopSignal::User2 => Signal::USR2,
    };
    signal.as_raw()
}

impl CancelLevel {
    fn rank(self) -> u8 {
        match self {
            Self::Run => 0,
            Self::Drain => 1,
            Self::Stop(_) => 2,
            Self::Kill => 3,
        }
    }

    pub fn stops(self) -> bool {
        self.rank() >= 2
    }
}

#[derive(Debug)]
pub struct CancelSource {
    level: watch::Sender<CancelLevel>,
    suspended: Suspended,
}

/// Milliseconds that this process has been stopped by job control (Ctrl-Z) in all.
type Suspended = Arc<AtomicU64>;

impl Default for CancelSource {
    fn default() -> Self {
        Self { level: watch::Sender::new(CancelLevel::Run), suspended: Suspended::default() }
    }
}

impl CancelSource {
    /// With a level of its own, and the account of suspensions of `other`.
    pub fn beside(other: &Cancel) -> Self {
        Self { level: watch::Sender::new(CancelLevel::Run), suspended: Arc::clone(&other.suspended) }
    }

    /// Raises the level; a lower or equal one changes nothing. True when it rose.
    pub fn raise(&self, level: CancelLevel) -> bool {
        self.level.send_if_modified(|current| {
            let rises = level.rank() > current.rank();
            if rises {
                *current = level;
            }
            rises
        })
    }

    pub fn level(&self) -> CancelLevel {
        *self.level.borrow()
    }

    pub fn watch(&self) -> Cancel {
        Cancel { level: self.level.subscribe(), suspended: Arc::clone(&self.suspended) }
    }
}

#[derive(Debug, Clone)]
pub struct Cancel {
    level: watch::Receiver<CancelLevel>,
    suspended: Suspended,
}

impl Cancel {
    pub fn level(&self) -> CancelLevel {
        *self.level.borrow()
    }

    /// Resolves with the next level above `seen`; never when the source is gone.
    pub async fn above(&mut self, seen: CancelLevel) -> CancelLevel {
        loop {
            let level = *self.level.borrow_and_update();
            if level.rank() > seen.rank() {
                return level;
            }
            if self.level.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Raises `source` whenever this rises. Never ends.
    pub async fn relay(mut self, source: &CancelSource) -> std::convert::Infallible {
        let mut seen = CancelLevel::Run;
        loop {
            seen = self.above(seen).await;
            source.raise(seen);
        }
    }

    /// How long this process has been stopped by job control so far. Clocks of time limits do not count it.
    pub fn suspended(&self) -> Duration {
        Duration::from_millis(self.suspended.load(Ordering::Relaxed))
    }

    /// Adds a suspension that is over.
    pub fn note_suspension(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.suspended.fetch_add(millis, Ordering::Relaxed);
    }

    /// Resolves once the level is a stop or above.
    pub async fn stopped(&mut self) -> CancelLevel {
        self.above(CancelLevel::Drain).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_only_rises() {
        let source = CancelSource::default();
        assert!(source.raise(CancelLevel::Stop(StopReason::Interrupt)));
        assert!(!source.raise(CancelLevel::Drain));
        assert!(!source.raise(CancelLevel::Stop(StopReason::Terminate)));
        assert_eq!(source.level(), CancelLevel::Stop(StopReason::Interrupt));
        assert!(source.raise(CancelLevel::Kill));
        assert!(source.watch().level().stops());
    }

    #[tokio::test]
    async fn watchers_see_the_rise() {
        let source = CancelSource::default();
        let mut cancel = source.watch();
        source.raise(CancelLevel::Drain);
        source.raise(CancelLevel::Kill);
        assert_eq!(cancel.stopped().await, CancelLevel::Kill);
    }
}
