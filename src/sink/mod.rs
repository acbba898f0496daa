//! What users and programs see of a run: consumers of the one event stream.
//!
//! Owns the terminal and JSON renderings and the thread that feeds them. What must stay true: a sink never
//! changes a run; a sink that fails is dropped with one warning and the others go on; a reader that went away
//! (`| head`) is no error.

mod drive;
mod history;
mod json;
mod mask;
mod record;
pub mod terminal;

use std::io;
use std::time::Duration;

pub use drive::{SinkFailure, SinkThread, drive, start};
pub use history::HistorySink;
pub use json::JsonSink;
pub use record::RecordSink;
pub use terminal::TerminalSink;

use crate::event::Stamped;

/// A consumer of events. All sinks of a run are fed by one thread, in order.
pub trait Sink: Send {
    /// For the warning when it fails.
    fn name(&self) -> &'static str;

    fn handle(&mut self, event: &Stamped) -> Result<(), SinkError>;

    /// Called whenever no event waits.
    fn flush(&mut self) -> Result<(), SinkError>;

    /// Draws what changes with time alone; returns when it wants to be called again if no event comes.
    /// `now_ms` is on the clock of [`Stamped::at_ms`].
    fn redraw(&mut self, now_ms: u64) -> Result<Option<Duration>, SinkError> {
        let _ = now_ms;
        Ok(None)
    }
}

/// Why a sink cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Its reader went away: nothing to warn about.
    #[error("its reader is gone")]
    Closed,
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Io(error) }
    }
}
