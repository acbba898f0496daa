//! Signals climb the cancel ladder: the first asks politely, the second kills, the third leaves at once.
//!
//! The only reader of signals. A signal that was ignored when accel started (`nohup`) stays ignored.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::backend::{CancelLevel, CancelSource, StopReason};
use crate::base::exit_code;
use crate::process::Supervisor;

use super::keyboard::{Keyboard, Listening};
use super::printer;

pub struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
    /// Ctrl-Z.
    suspend: Option<Signal>,
    /// The terminal has another size.
    resize: Option<Signal>,
}

/// What accel has on the terminal while it waits.
pub struct Display<'a> {
    pub keyboard: &'a Keyboard,
    pub on_change: &'a dyn Fn(Change),
}

/// What made that out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Resized,
    /// accel was paused: others have written to the terminal, and the cursor is at the left.
    Continued,
}

impl Signals {
    /// Takes over the signals; needs a runtime.
    pub fn listen(ignored: IgnoredSignals) -> io::Result<Self> {
        let take = |kind: SignalKind| {
            if ignored.contains(kind.as_raw_value()) { Ok(None) } else { signal(kind).map(Some) }
        };
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hangup: take(SignalKind::hangup())?,
            suspend: take(SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw()))?,
            resize: take(SignalKind::window_change())?,
        })
    }

    /// Raises the level with every signal that asks to end; ends the process at the third. One that asks to
    /// pause stops what `supervisor` started and accel itself, until accel is continued; the keyboard is released
    /// for that time. `left` says what outlives accel when it leaves at once, a sentence each.
    pub async fn raise(
        mut self,
        source: &CancelSource,
        supervisor: &Supervisor,
        display: Display<'_>,
        left: impl Fn() -> Vec<String>,
    ) -> ! {
        let Display { keyboard, on_change } = display;
        let cancel = source.watch();
        let pause = || {
            let listened = keyboard.release();
            cancel.note_suspension(supervisor.suspend());
            if listened == Listening::Yes {
                keyboard.listen();
            }
            on_change(Change::Continued);
        };
        let resized = || on_change(Change::Resized);
        let first = self.next(pause, resized).await;
        source.raise(CancelLevel::Stop(first));
        self.next(pause, resized).await;
        source.raise(CancelLevel::Kill);
        let last = self.next(pause, resized).await;
        supervisor.take_terminal_back();
        keyboard.release();
        let leaving = "leaving at once; commands that still run are left to themselves".to_owned();
        let lines: String =
            std::iter::once(leaving).chain(left()).map(|text| format!("accel: {text}\n")).collect();
        printer::write_stderr(&lines);
        std::process::exit(i32::from(exit_code::of_signal(last.signal())));
    }

    async fn next(&mut self, pause: impl Fn(), resized: impl Fn()) -> StopReason {
        loop {
            tokio::select! {
                () = received(&mut self.interrupt) => return StopReason::Interrupt,
                () = received(&mut self.terminate) => return StopReason::Terminate,
                () = received(&mut self.hangup) => return StopReason::Hangup,
                () = received(&mut self.suspend) => pause(),
                () = received(&mut self.resize) => resized(),
            }
        }
    }
}

/// Never resolves for a signal that is not listened to.
async fn received(signal: &mut Option<Signal>) {
    let arrived = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if arrived.is_none() {
        std::future::pending::<()>().await;
    }
}

/// The signals that accel was told to ignore by whoever started it.
#[derive(Debug, Clone, Copy, Default)]
pub struct IgnoredSignals(u64);

impl IgnoredSignals {
    /// From Linux's account of this process; elsewhere none are known.
    pub fn of_this_process() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::parse(&status)
    }

    fn parse(status: &str) -> Self {
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Self(line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0))
    }

    fn contains(self, signal: i32) -> bool {
        signal > 0 && self.0 >> (signal - 1) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let ignored = IgnoredSignals::parse("Name:\tx\nSigBlk:\t0\nSigIgn:\t0000000000001001\n");
        assert!(ignored.contains(1) && ignored.contains(13));
        assert!(!ignored.contains(2) && !ignored.contains(15));
        assert!(!IgnoredSignals::parse("").contains(1));
    }
}
