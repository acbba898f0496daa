//! Feeds every event to every sink, on one thread.

use std::io;
use std::thread::{self, JoinHandle};

use super::mask::Masking;
use super::{Sink, SinkError};
use crate::event::{Delivery, Event, Level, Receiver, Stamped, now_ms};
use crate::redact::Secrets;

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

/// Starts the one thread that feeds the sinks. None of them sees one of `secrets`.
pub fn start(receiver: Receiver, sinks: Vec<Box<dyn Sink>>, secrets: Secrets) -> io::Result<SinkThread> {
    let thread = thread::Builder::new().name("sinks".to_owned());
    thread.spawn(move || drive(receiver, sinks, secrets)).map(SinkThread)
}

/// Feeds the sinks until every emitter is gone. Goes on reading when no sink is left, so that a run never waits
/// for one that failed.
pub fn drive(mut receiver: Receiver, sinks: Vec<Box<dyn Sink>>, secrets: Secrets) -> Vec<SinkFailure> {
    let mut drive = Drive { sinks, masking: Masking::new(secrets), failures: Vec::new() };
    loop {
        match receiver.try_next() {
            Delivery::Event(event) => drive.show(event),
            Delivery::Ended => break,
            Delivery::Idle => match drive.rest(&mut receiver) {
                Delivery::Event(event) => drive.show(event),
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
    masking: Masking,
    failures: Vec<SinkFailure>,
}

impl Drive {
    fn show(&mut self, event: Stamped) {
        for event in self.masking.mask(event) {
            self.handle(&event);
        }
    }

    fn handle(&mut self, event: &Stamped) {
        self.each(|sink| sink.handle(event));
    }

    fn rest(&mut self, receiver: &mut Receiver) -> Delivery {
        for event in self.masking.flush(now_ms()) {
            self.handle(&event);
        }
        let mut wake = self.masking.wait(now_ms());
        self.each(|sink| {
            let wanted = sink.redraw(now_ms())?;
            wake = [wake, wanted].into_iter().flatten().min();
            sink.flush()
        });
        match wake {
            Some(limit) => receiver.wait_within(limit),
            None => receiver.wait(),
        }
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
    Stamped { at_ms: now_ms(), side: None, event }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::event::channel;

    /// Writes down what it is shown; fails at the second event if told to.
    struct Probe {
        seen: Arc<Mutex<Vec<String>>>,
        handled: usize,
        fails: Option<io::ErrorKind>,
    }

    impl Sink for Probe {
        fn name(&self) -> &'static str {
            "a probe"
        }

        fn handle(&mut self, event: &Stamped) -> Result<(), SinkError> {
            self.handled += 1;
            if let (2.., Some(kind)) = (self.handled, self.fails) {
                return Err(io::Error::from(kind).into());
            }
            let text = match &event.event {
                Event::CancelRaised { by, .. } => by.clone(),
                Event::Notice { text, .. } => text.clone(),
                _ => String::new(),
            };
            self.seen.lock().unwrap().push(text);
            Ok(())
        }

        fn flush(&mut self) -> Result<(), SinkError> {
            Ok(())
        }
    }

    fn event(number: usize) -> Event {
        Event::CancelRaised { level: String::new(), by: number.to_string() }
    }

    /// What a healthy sink sees beside one that fails, and which failures are reported. Far more events than
    /// the channel holds, so a run that waited for a dropped sink would never end.
    fn beside(kind: io::ErrorKind) -> (Vec<String>, Vec<&'static str>) {
        let (emitter, receiver) = channel();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let healthy = Probe { seen: Arc::clone(&seen), handled: 0, fails: None };
        let failing = Probe { seen: Arc::default(), handled: 0, fails: Some(kind) };
        let thread = start(receiver, vec![Box::new(failing), Box::new(healthy)], Secrets::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move {
            for number in 0..1_000 {
                emitter.emit(event(number)).await;
            }
        });
        let failures = thread.join();
        let seen = seen.lock().unwrap().clone();
        (seen, failures.iter().map(|failure| failure.sink).collect())
    }

    #[test]
    fn a_failed_sink_is_dropped_with_one_warning_and_the_others_go_on() {
        let (seen, failures) = beside(io::ErrorKind::StorageFull);
        assert_eq!(seen.len(), 1_001);
        let warnings: Vec<_> = seen.iter().filter(|text| text.contains("cannot write")).collect();
        assert_eq!(warnings, ["cannot write to a probe any more: no storage space"]);
        assert_eq!(failures, ["a probe"]);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let (seen, failures) = beside(io::ErrorKind::BrokenPipe);
        assert_eq!(seen, (0..1_000).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!(failures.is_empty());
    }

    #[test]
    fn shown_waits_for_all_before_it() {
        let (emitter, receiver) = channel();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let probe = Probe { seen: Arc::clone(&seen), handled: 0, fails: None };
        let thread = start(receiver, vec![Box::new(probe)], Secrets::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for number in 0..10 {
                emitter.emit(event(number)).await;
                emitter.shown().await;
                assert_eq!(seen.lock().unwrap().len(), number + 1);
            }
        });
        drop(emitter);
        assert!(thread.join().is_empty());
    }
}
