//! Feeds every event to every sink, on one thread.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Sink, SinkError};
use crate::event::{Delivery, Event, Level, Receiver, Stamped, now_ms};

/// A sink that was dropped, for whoever can still say so.
#[derive(Debug)]
pub struct SinkFailure {
    pub sink: &'static str,
    pub error: io::Error,
}

/// The running thread; it ends when every emitter is gone.
#[derive(Debug)]
pub struct SinkThread(JoinHandle<Vec<SinkFailure>>);

impl SinkThread {
    /// Waits until all has been shown.
    pub fn join(self) -> Vec<SinkFailure> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Starts the one thread that feeds the sinks.
pub fn start(receiver: Receiver, sinks: Vec<Box<dyn Sink>>) -> io::Result<SinkThread> {
    let thread = thread::Builder::new().name("sinks".to_owned());
    thread.spawn(move || drive(receiver, sinks)).map(SinkThread)
}

/// Feeds the sinks until every emitter is gone. Goes on reading when no sink is left, so that a run never waits
/// for one that failed.
pub fn drive(mut receiver: Receiver, sinks: Vec<Box<dyn Sink>>) -> Vec<SinkFailure> {
    let mut drive = Drive { sinks, failures: Vec::new(), timer: None };
    loop {
        match receiver.try_next() {
            Delivery::Event(event) => drive.handle(&event),
            Delivery::Ended => break,
            Delivery::Idle => match drive.rest(&mut receiver) {
                Delivery::Event(event) => drive.handle(&event),
                Delivery::Idle => {}
                Delivery::Ended => break,
            },
        }
    }
    drive.each(|sink| sink.flush());
    drive.failures
}

struct Drive {
    sinks: Vec<Box<dyn Sink>>,
    failures: Vec<SinkFailure>,
    /// Made when a sink first wants to be called after a while.
    timer: Option<tokio::runtime::Runtime>,
}

impl Drive {
    fn handle(&mut self, event: &Stamped) {
        self.each(|sink| sink.handle(event));
    }

    fn rest(&mut self, receiver: &mut Receiver) -> Delivery {
        let mut wake: Option<Duration> = None;
        self.each(|sink| {
            let wanted = sink.redraw(now_ms())?;
            wake = [wake, wanted].into_iter().flatten().min();
            sink.flush()
        });
        let Some(limit) = wake else { return receiver.wait() };
        match self.timer() {
            Some(timer) => timer.block_on(receiver.recv_within(limit)),
            None => receiver.wait(),
        }
    }

    /// Without a timer there is no progress display, and nothing else is lost.
    fn timer(&mut self) -> Option<&tokio::runtime::Runtime> {
        if self.timer.is_none() {
            self.timer = tokio::runtime::Builder::new_current_thread().enable_time().build().ok();
        }
        self.timer.as_ref()
    }

    /// Calls every sink; drops those that fail and tells the others.
    fn each(&mut self, mut call: impl FnMut(&mut dyn Sink) -> Result<(), SinkError>) {
        let mut warnings = Vec::new();
        self.sinks.retain_mut(|sink| match call(sink.as_mut()) {
            Ok(()) => true,
            Err(SinkError::Closed) => false,
            Err(SinkError::Io(error)) => {
                warnings.push(warning(sink.name(), &error));
                self.failures.push(SinkFailure { sink: sink.name(), error });
                false
            }
        });
        for warning in warnings {
            self.handle(&warning);
        }
    }
}

fn warning(sink: &str, error: &io::Error) -> Stamped {
    let event = Event::Notice {
        job: None,
        level: Level::Warning,
        code: "output-lost",
        text: format!("cannot write to {sink} any more: {error}"),
        help: None,
    };
    Stamped { at_ms: now_ms(), event }
}
