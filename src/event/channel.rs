//! The bounded channel between whoever emits events and the thread that feeds the sinks.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Event, Stamped};
use crate::domain::Place;

/// Events in flight. With output chunks of at most 64 KiB this bounds the memory held by a slow sink to 4 MiB;
/// a full channel holds the emitter, and through its pipe the command, back.
pub const CHANNEL_CAPACITY: usize = 64;

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events: a box would cost each an allocation")]
enum Message {
    Event(Stamped),
    /// Answered once everything before it has been shown.
    Shown(oneshot::Sender<()>),
}

/// Sends events; cheap to clone.
#[derive(Debug, Clone)]
pub struct Emitter {
    sender: mpsc::Sender<Message>,
    side: Option<Place>,
    valve: Option<Arc<dyn Valve>>,
}

/// Sees each event of an emitter before it is sent.
pub trait Valve: fmt::Debug + Send + Sync {
    /// Gives back what is to be sent now.
    fn pass(&self, event: Event) -> Pin<Box<dyn Future<Output = Option<Event>> + Send + '_>>;
}

/// The other end, read by the one sink thread.
#[derive(Debug)]
pub struct Receiver {
    messages: mpsc::Receiver<Message>,
    waiting: Vec<oneshot::Sender<()>>,
    /// Made when a sink first wants to be called after a while.
    timer: Option<Runtime>,
    /// Let go of with the rest.
    at_end: Option<oneshot::Sender<()>>,
}

/// When a receiver is gone.
#[derive(Debug)]
pub struct End(oneshot::Receiver<()>);

impl End {
    /// Waits for it. Whoever shows events may wait for a reader for ever, so signals have to be heard meanwhile.
    pub async fn reached(self) {
        // An error says the same: the other half was let go of.
        let _ = self.0.await;
    }
}

/// What [`Receiver::try_next`] found.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events: a box would cost each an allocation")]
pub enum Delivery {
    Event(Stamped),
    /// Nothing more for now: a good moment to flush.
    Idle,
    /// Every emitter is gone.
    Ended,
}

pub fn channel() -> (Emitter, Receiver) {
    let (sender, messages) = mpsc::channel(CHANNEL_CAPACITY);
    let receiver = Receiver { messages, waiting: Vec::new(), timer: None, at_end: None };
    (Emitter { sender, side: None, valve: None }, receiver)
}

impl Emitter {
    /// Waits for room. A receiver that went away is no error: the run goes on unseen.
    pub async fn emit(&self, event: Event) {
        let event = match &self.valve {
            Some(valve) => valve.pass(event).await,
            None => Some(event),
        };
        if let Some(event) = event {
            let stamped = Stamped { at_ms: now_ms(), side: self.side, event };
            let _ = self.sender.send(Message::Event(stamped)).await;
        }
    }

    /// For one side of a race: everything goes out as the side's own.
    #[must_use]
    pub fn of_side(&self, place: Place) -> Self {
        Self { side: Some(place), ..self.clone() }
    }

    /// The same way out, behind a valve.
    #[must_use]
    pub fn through(&self, valve: Arc<dyn Valve>) -> Self {
        Self { valve: Some(valve), ..self.clone() }
    }

    /// Waits until all that was emitted before has been shown, so that a command which inherits accel's own
    /// stdout and stderr writes after it.
    pub async fn shown(&self) {
        let (sender, shown) = oneshot::channel();
        if self.sender.send(Message::Shown(sender)).await.is_ok() {
            let _ = shown.await;
        }
    }
}

impl Receiver {
    /// For whoever hands it away. The one asked for last counts.
    pub fn end(&mut self) -> End {
        let (at_end, end) = oneshot::channel();
        self.at_end = Some(at_end);
        End(end)
    }

    /// The next event; `None` once every emitter is gone. Asking for it says that all before was shown.
    pub async fn recv(&mut self) -> Option<Stamped> {
        loop {
            self.answer();
            match self.messages.recv().await? {
                Message::Event(event) => return Some(event),
                Message::Shown(sender) => self.waiting.push(sender),
            }
        }
    }

    /// Never waits. After [`Delivery::Idle`], flush and [`wait`](Self::wait).
    pub fn try_next(&mut self) -> Delivery {
        if !self.waiting.is_empty() {
            return Delivery::Idle;
        }
        match self.messages.try_recv() {
            Ok(Message::Event(event)) => Delivery::Event(event),
            Ok(Message::Shown(sender)) => {
                self.waiting.push(sender);
                Delivery::Idle
            }
            Err(mpsc::error::TryRecvError::Empty) => Delivery::Idle,
            Err(mpsc::error::TryRecvError::Disconnected) => Delivery::Ended,
        }
    }

    /// Blocks the thread for the next event; says that all before was shown.
    pub fn wait(&mut self) -> Delivery {
        self.answer();
        match self.messages.blocking_recv() {
            Some(Message::Event(event)) => Delivery::Event(event),
            Some(Message::Shown(sender)) => {
                self.waiting.push(sender);
                Delivery::Idle
            }
            None => Delivery::Ended,
        }
    }

    /// As [`wait`](Self::wait), for at most `limit`. Should the system refuse a timer, it waits without: then there
    /// is no progress display, and nothing else is lost.
    pub fn wait_within(&mut self, limit: Duration) -> Delivery {
        let timer = self.timer.take().or_else(|| Builder::new_current_thread().enable_time().build().ok());
        let Some(timer) = timer else { return self.wait() };
        let delivery = match timer.block_on(async { timeout(limit, self.recv()).await }) {
            Ok(Some(event)) => Delivery::Event(event),
            Ok(None) => Delivery::Ended,
            Err(_) => Delivery::Idle,
        };
        self.timer = Some(timer);
        delivery
    }

    fn answer(&mut self) {
        for sender in self.waiting.drain(..) {
            let _ = sender.send(());
        }
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
