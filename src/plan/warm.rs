//! Which jobs keep their sandbox for the next run, by how accel was called.

use super::spec::{Plan, Warm};

/// What becomes of a job that does not say `warm` itself, and of one that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// A single run: only jobs that say so keep theirs.
    WhereSaid,
    /// A loop, or `--warm`: all do but those that say `warm = false`.
    UnlessRefused,
    /// In CI: nobody comes back for it.
    Never,
}

/// Settles it for every job of the plan.
pub fn apply(plan: &mut Plan, habit: Habit) {
    for job in &mut plan.jobs {
        match (habit, &job.warm) {
            (Habit::WhereSaid, _) | (Habit::UnlessRefused, Some(_)) => {}
            (Habit::UnlessRefused, None) => job.warm = Some(Warm::USUAL),
            (Habit::Never, _) => job.warm = Some(Warm::OneShot),
        }
    }
}
