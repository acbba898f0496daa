//! The bounded channel between whoever emits events and the thread that feeds the sinks.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::{Event, Stamped};

/// Events in flight. With output chunks of at most 64 KiB this bounds the memory held by a slow sink to 4 MiB;
/// a full channel holds the emitter, and through its pipe the command, back.
pub const CHANNEL_CAPACITY: usize = 64;

/// Sends events; cheap to clone.
#[derive(Debug, Clone)]
pub struct Emitter(mpsc::Sender<Stamped>);

/// The other end, read by the one sink thread.
pub type Receiver = mpsc::Receiver<Stamped>;

pub fn channel() -> (Emitter, Receiver) {
    let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
    (Emitter(sender), receiver)
}

impl Emitter {
    /// Waits for room. A receiver that went away is no error: the run goes on unseen.
    pub async fn emit(&self, event: Event) {
        let _ = self.0.send(Stamped { at_ms: now_ms(), event }).await;
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
