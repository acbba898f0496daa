//! The way from a polite request to the kill, for one process group.

use rustix::process::Signal;
use tokio::time::Instant;

use crate::backend::{CancelLevel, StopReason};

/// How far the stopping of one run has gone. It only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Running,
    /// Asked; killed at the given moment.
    Asked(Instant),
    Killed,
}

/// The stage that a cancel level leads to, and the signal that it sends now, if any. `kill_at`: the end of a
/// grace that begins now.
pub(super) fn rise(stage: Stage, level: CancelLevel, kill_at: Instant) -> (Stage, Option<Signal>) {
    match (stage, level) {
        (Stage::Killed, _) | (_, CancelLevel::Run | CancelLevel::Drain) => (stage, None),
        (_, CancelLevel::Kill) => (Stage::Killed, Some(Signal::KILL)),
        (Stage::Asked(_), CancelLevel::Stop(_)) => (stage, None),
        (Stage::Running, CancelLevel::Stop(reason)) => (Stage::Asked(kill_at), Some(polite_signal(reason))),
    }
}

fn polite_signal(reason: StopReason) -> Signal {
    match reason {
        StopReason::Interrupt => Signal::INT,
        StopReason::Terminate | StopReason::Unread | StopReason::Quit => Signal::TERM,
        StopReason::Hangup => Signal::HUP,
        StopReason::Superseded(_) => Signal::from_named_raw(reason.signal()).unwrap_or(Signal::TERM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_request_and_the_kill_send_signals() {
        let kill_at = Instant::now();
        let asked = Stage::Asked(kill_at);
        let stop = CancelLevel::Stop(StopReason::Terminate);
        let check =
            |stage, level, expect| assert_eq!(rise(stage, level, kill_at), expect, "{stage:?} {level:?}");
        check(Stage::Running, CancelLevel::Drain, (Stage::Running, None));
        check(Stage::Running, stop, (asked, Some(Signal::TERM)));
        check(asked, stop, (asked, None));
        check(asked, CancelLevel::Kill, (Stage::Killed, Some(Signal::KILL)));
        check(Stage::Killed, CancelLevel::Kill, (Stage::Killed, None));
        check(Stage::Running, CancelLevel::Stop(StopReason::Hangup), (asked, Some(Signal::HUP)));
    }
}
