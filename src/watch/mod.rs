//! Following the project's folder: what changed, which jobs that concerns, when they run.
//!
//! ```text
//! source (notify) → settle (a quiet period) → observed (did contents change?) → affected (whose?) → agenda (run now?)
//! ```
//!
//! What must stay true: every change of contents is followed by a run that started after it, but where `on_busy =
//! "ignore"` says otherwise; nothing runs without a change; two runs never overlap; lost events mean that the whole
//! tree is looked at again. Nothing here knows how or where jobs run: whoever uses the loop does ([`Work`]).
//!
//! Outputs, accel's own folders, ignored files and what editors leave beside theirs never trigger; nor does a file that
//! is written again with the same contents. Permission bits travel, so a change of them counts; times do not. A change
//! that is undone while a run is going, before it was looked at, is not seen.

pub mod affected;
mod agenda;
mod follow;
pub mod litter;
mod observed;
mod restless;
mod settle;
mod source;
mod work;

pub use follow::{follow, requested};
pub use settle::Settle;
pub use source::Means;
pub use work::{Cause, Command, Ended, Following, News, Reloaded, Run, Sign, Trigger, Work};
