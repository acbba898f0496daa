//! Whether what outlived a leader still has something to say.
//!
//! A descendant that goes on writing (a background `echo`, a slow formatter) is heard out; one that only holds
//! the output open (a daemon) is not. Through pipes both are plain to see. Where processes write to accel's own
//! stdout and stderr, their activity stands in for it.

use std::time::Duration;

use tokio::time::Instant;

use super::descendants::{Leftover, LeftoverState};
use super::output::{Progress, Pump};

/// How long after the leader's end an output may stay open in silence; each chunk starts it anew.
pub(super) const IDLE_GRACE: Duration = Duration::from_millis(200);

/// How often lingering processes are looked for where nothing announces their end.
pub(super) const LINGER_CHECK: Duration = Duration::from_millis(10);

pub(super) trait Written {
    /// How long to wait before asking again; `None` when no more output is to be expected.
    fn pause(&mut self, pump: &Pump<'_>, leftovers: impl Fn() -> Vec<Leftover>) -> Option<Duration>;
}

pub(super) struct WrittenThroughPipes<'a> {
    progress: &'a Progress,
    from: Instant,
}

impl<'a> WrittenThroughPipes<'a> {
    /// To be made when the leader has ended.
    pub(super) fn new(progress: &'a Progress) -> Self {
        Self { progress, from: Instant::now() }
    }
}

impl Written for WrittenThroughPipes<'_> {
    fn pause(&mut self, pump: &Pump<'_>, leftovers: impl Fn() -> Vec<Leftover>) -> Option<Duration> {
        if !pump.open() {
            return None;
        }
        let left = IDLE_GRACE.saturating_sub(self.progress.idle(self.from));
        if left.is_zero() {
            // On a busy machine silence may only mean that a writer waits for its turn.
            let waits = |leftover: &Leftover| leftover.state == LeftoverState::Runnable;
            return leftovers().iter().any(waits).then_some(LINGER_CHECK);
        }
        Some(left)
    }
}

/// Counts what those leftovers do that hold accel's own stdout or stderr.
#[derive(Default)]
pub(super) struct WrittenDirectly {
    last: Option<(u64, Instant)>,
}

impl Written for WrittenDirectly {
    fn pause(&mut self, _: &Pump<'_>, leftovers: impl Fn() -> Vec<Leftover>) -> Option<Duration> {
        let activity =
            leftovers().iter().filter_map(Leftover::activity_on_own_output).reduce(u64::wrapping_add)?;
        let since = match self.last {
            Some((before, since)) if before == activity => since,
            _ => Instant::now(),
        };
        self.last = Some((activity, since));
        (since.elapsed() < IDLE_GRACE).then_some(LINGER_CHECK)
    }
}
