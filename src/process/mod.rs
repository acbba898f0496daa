//! Processes: the one place that starts, watches, stops and reaps them.
//!
//! Jobs, uv, git and container tools all go through a [`Supervisor`]. What must stay true:
//! - every process gets its own process group, and descriptors 0, 1 and 2 alone;
//! - "the leader exited" and "the output ended" are different events (see [`run`]);
//! - when a run is over no descendant of it lives. On Linux accel is the sub-reaper of all it starts, so a
//!   process that left its group (`setsid`, double fork) is found as a child of accel's; elsewhere only the
//!   group is covered;
//! - a process is only ever signalled while its id cannot have been given to another: as an unreaped child of
//!   accel's, or as a group that holds one.
//!
//! What the output means, and what to tell the user, is left to the caller.

mod descendants;
mod find;
mod linger;
mod output;
mod run;
mod spawn;
mod standard_input;
mod stop;
mod terminal;
mod tool;

pub use descendants::{Leftover, Ownership};
pub use find::{FindError, find_program, path_folders};
pub use output::{Discard, Observer, OutputTo};
pub use run::{Control, Ended};
pub use spawn::{Input, Launch, SpawnError, Supervisor};
pub use standard_input::StandardInput;
pub use terminal::{FoundTerminal, RawTerminal, WindowSize};
pub use tool::{StepLog, Tool, ToolError, ToolOutput};
