//! When a burst of changes is over. Pure: the clock is an argument.
//!
//! With a fixed quiet period, that long after the last change. Without, the period grows with the burst: a single save
//! waits for [`SHORTEST`], a branch switch for half as long as it has taken so far, at most [`LONGEST`]. Changes
//! that never cease are cut off after [`PATIENCE`].

use std::time::{Duration, Instant};

/// Covers the several steps in which editors save one file.
const SHORTEST: Duration = Duration::from_millis(4);
const LONGEST: Duration = Duration::from_millis(100);
/// From the first change of a burst.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a file that has just become empty or gone may take to get its new contents, and how often a git command
/// that is changing the tree is looked after.
const UNFINISHED: Duration = Duration::from_millis(40);

#[derive(Debug, Clone)]
pub struct Settle {
    /// `None`: grows with the burst.
    quiet: Option<Duration>,
    burst: Option<Burst>,
}

#[derive(Debug, Clone, Copy)]
struct Burst {
    first: Instant,
    last: Instant,
    /// Not before.
    held_until: Option<Instant>,
}

impl Settle {
    pub fn new(quiet: Option<Duration>) -> Self {
        Self { quiet, burst: None }
    }

    pub fn set_quiet(&mut self, quiet: Option<Duration>) {
        self.quiet = quiet;
    }

    /// Something changed.
    pub fn note(&mut self, now: Instant) {
        let burst = self.burst.get_or_insert(Burst { first: now, last: now, held_until: None });
        burst.last = burst.last.max(now);
        // What was waited for may have come.
        burst.held_until = None;
    }

    /// The changes look unfinished: wait a moment longer. False once patience is at its end.
    pub fn hold(&mut self, now: Instant) -> bool {
        let Some(burst) = &mut self.burst else { return false };
        if now >= burst.first + PATIENCE {
            return false;
        }
        burst.held_until = Some(now + UNFINISHED);
        true
    }

    /// When the burst is over if nothing else changes.
    pub fn due(&self) -> Option<Instant> {
        let burst = self.burst?;
        let grown = (burst.last.duration_since(burst.first) / 2).clamp(SHORTEST, LONGEST);
        let quiet = burst.last + self.quiet.unwrap_or(grown);
        let patience = burst.first + PATIENCE.max(self.quiet.unwrap_or_default());
        Some(burst.held_until.map_or(quiet, |held| quiet.max(held)).min(patience))
    }

    /// Ends the burst if it is over.
    pub fn take(&mut self, now: Instant) -> bool {
        let over = self.due().is_some_and(|due| due <= now);
        if over {
            self.burst = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn one_save_waits_briefly_and_a_burst_longer() {
        let start = Instant::now();
        let mut settle = Settle::new(None);
        settle.note(start);
        assert_eq!(settle.due(), Some(start + SHORTEST));
        settle.note(start + ms(60));
        assert_eq!(settle.due(), Some(start + ms(90)));
        settle.note(start + ms(1_000));
        assert_eq!(settle.due(), Some(start + ms(1_100)));
        assert!(!settle.take(start + ms(1_099)));
        assert!(settle.take(start + ms(1_100)));
        assert_eq!(settle.due(), None);
    }

    #[test]
    fn a_fixed_period_is_kept_and_zero_is_at_once() {
        let start = Instant::now();
        let mut settle = Settle::new(Some(Duration::ZERO));
        settle.note(start);
        assert!(settle.take(start));
        settle.set_quiet(Some(ms(300)));
        settle.note(start);
        settle.note(start + ms(200));
        assert_eq!(settle.due(), Some(start + ms(500)));
        settle.set_quiet(Some(ms(10_000)));
        assert_eq!(settle.due(), Some(start + ms(10_000)), "patience is never shorter than the period");
    }

    #[test]
    fn holding_ends_with_patience() {
        let start = Instant::now();
        let mut settle = Settle::new(None);
        settle.note(start);
        assert!(settle.hold(start + ms(4)));
        assert_eq!(settle.due(), Some(start + ms(4) + UNFINISHED));
        assert!(settle.hold(start + PATIENCE - ms(1)));
        assert_eq!(settle.due(), Some(start + PATIENCE));
        assert!(!settle.hold(start + PATIENCE));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_change_settles_within_patience_and_nothing_settles_without(
            gaps in prop::collection::vec(0_u64..400, 1..60),
            quiet in prop::option::of(0_u64..300),
        ) {
            let start = Instant::now();
            let quiet = quiet.map(ms);
            let limit = PATIENCE.max(quiet.unwrap_or_default());
            let mut settle = Settle::new(quiet);
            let mut now = start;
            let mut oldest: Option<Instant> = None;
            prop_assert!(!settle.take(now));
            for gap in gaps {
                let next = now + ms(gap);
                while let Some(due) = settle.due().filter(|due| *due <= next) {
                    prop_assert!(settle.take(due));
                    let waited = due.duration_since(oldest.take().expect("only changes settle"));
                    prop_assert!(waited <= limit, "{waited:?}");
                }
                now = next;
                settle.note(now);
                oldest.get_or_insert(now);
            }
            let due = settle.due().expect("the last change settles too");
            prop_assert!(settle.take(due) && due >= now && due <= now + limit);
            prop_assert!(settle.due().is_none());
        }
    }
}
