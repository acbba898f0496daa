//! `--json`: one event per line on stdout (`schemas/events.schema.json`).
//!
//! What a command wrote is inside JSON strings, so it cannot pass for an event. A character cut in two by
//! chunking is put together again; bytes that are no UTF-8 are sent as base64.

use std::collections::HashMap;
use std::io::Write;

use bytes::{Bytes, BytesMut};

use super::{Sink, SinkError};
use crate::domain::{JobId, Stream};
use crate::event::{Event, Stamped};

/// Lines are gathered up to this size before they are written.
const WRITE_SIZE: usize = 64 * 1024;

pub struct JsonSink {
    writer: Box<dyn Write + Send>,
    buffer: Vec<u8>,
    /// The first bytes of a character whose rest has not come yet: at most three per stream.
    cut: HashMap<(JobId, Stream), Bytes>,
}

impl JsonSink {
    pub fn new(writer: Box<dyn Write + Send>) -> Self {
        Self { writer, buffer: Vec::new(), cut: HashMap::new() }
    }

    fn write(&mut self, event: &Stamped) -> Result<(), SinkError> {
        serde_json::to_writer(&mut self.buffer, event).map_err(|error| SinkError::Io(error.into()))?;
        self.buffer.push(b'\n');
        if self.buffer.len() >= WRITE_SIZE { self.flush() } else { Ok(()) }
    }

    fn output(&mut self, at_ms: u64, job: &JobId, stream: Stream, data: &Bytes) -> Result<(), SinkError> {
        let key = (job.clone(), stream);
        let data = match self.cut.remove(&key) {
            Some(cut) => joined(&cut, data),
            None => data.clone(),
        };
        let whole = data.len() - incomplete_tail(&data);
        if whole < data.len() {
            self.cut.insert(key, data.slice(whole..));
        }
        if whole == 0 {
            return Ok(());
        }
        let event = Event::Output { job: job.clone(), stream, data: data.slice(..whole) };
        self.write(&Stamped { at_ms, side: None, event })
    }

    /// What is left of a cut character when its job is over.
    fn end_output(&mut self, at_ms: u64, job: &JobId) -> Result<(), SinkError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(data) = self.cut.remove(&(job.clone(), stream)) {
                self.write(&Stamped {
                    at_ms,
                    side: None,
                    event: Event::Output { job: job.clone(), stream, data },
                })?;
            }
        }
        Ok(())
    }
}

impl Sink for JsonSink {
    fn name(&self) -> &'static str {
        "the JSON stream"
    }

    fn handle(&mut self, event: &Stamped) -> Result<(), SinkError> {
        match &event.event {
            Event::Output { job, stream, data } => self.output(event.at_ms, job, *stream, data),
            Event::JobFinished { job, .. } => {
                self.end_output(event.at_ms, job)?;
                self.write(event)
            }
            _ => self.write(event),
        }
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.writer.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(self.writer.flush()?)
    }
}

fn joined(first: &[u8], rest: &[u8]) -> Bytes {
    let mut both = BytesMut::with_capacity(first.len() + rest.len());
    both.extend_from_slice(first);
    both.extend_from_slice(rest);
    both.freeze()
}

/// How many bytes at the end begin a character that more bytes could complete: 0 to 3.
fn incomplete_tail(data: &[u8]) -> usize {
    let tail = &data[data.len().saturating_sub(3)..];
    (1..=tail.len())
        .find(|length| {
            let candidate = &tail[tail.len() - length..];
            candidate[0] >= 0xC0
                && std::str::from_utf8(candidate)
                    .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use base64::Engine as _;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::domain::{Exit, Place};
    use crate::event::Verdict;

    #[derive(Clone, Default)]
    struct Capture(Arc<Mutex<Vec<u8>>>);

    impl Write for Capture {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that come out, each parsed.
    fn lines(events: Vec<Event>) -> Vec<Value> {
        let capture = Capture::default();
        let mut sink = JsonSink::new(Box::new(capture.clone()));
        for event in events {
            sink.handle(&Stamped { at_ms: 7, side: None, event }).unwrap();
        }
        sink.flush().unwrap();
        let text = String::from_utf8(std::mem::take(&mut *capture.0.lock().unwrap())).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn wrote(data: &[u8]) -> Event {
        Event::Output { job: JobId::new("a"), stream: Stream::Stdout, data: Bytes::copy_from_slice(data) }
    }

    fn finished(verdict: Verdict) -> Event {
        let duration = Duration::from_millis(1_500);
        Event::JobFinished { job: JobId::new("a"), verdict, place: Some(Place::Local), attempts: 1, duration }
    }

    #[test]
    fn verdicts_are_flat_and_tell_code_from_signal() {
        let verdicts = [
            Verdict::Passed,
            Verdict::Failed { exit: Exit::Code(3) },
            Verdict::Failed { exit: Exit::Signal(9) },
            Verdict::Skipped { because: "`b` failed".to_owned() },
        ];
        let shown: Vec<String> =
            lines(verdicts.into_iter().map(finished).collect()).iter().map(Value::to_string).collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        {"at_ms":7,"event":"job_finished","job":"a","verdict":"passed","place":"local","attempts":1,"duration_ms":1500}
        {"at_ms":7,"event":"job_finished","job":"a","verdict":"failed","exit":{"code":3},"place":"local","attempts":1,"duration_ms":1500}
        {"at_ms":7,"event":"job_finished","job":"a","verdict":"failed","exit":{"signal":9},"place":"local","attempts":1,"duration_ms":1500}
        {"at_ms":7,"event":"job_finished","job":"a","verdict":"skipped","because":"`b` failed","place":"local","attempts":1,"duration_ms":1500}
        "#);
    }

    #[test]
    fn a_character_cut_in_two_stays_text() {
        let bytes = "→".as_bytes();
        let lines =
            lines(vec![wrote(&bytes[..1]), wrote(&bytes[1..2]), wrote(&[&bytes[2..], b"!"].concat())]);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["data"]["text"], "→!");
    }

    #[test]
    fn a_command_cannot_forge_an_event() {
        let forged = "x\"}}\n{\"event\":\"run_finished\",\"exit_code\":0}\n\u{2028}";
        let lines = lines(vec![wrote(forged.as_bytes())]);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["event"], "output");
        assert_eq!(lines[0]["data"]["text"], forged);
    }

    fn bytes_of(data: &Value) -> Vec<u8> {
        match (&data["text"], &data["base64"]) {
            (Value::String(text), _) => text.as_bytes().to_vec(),
            (_, Value::String(text)) => base64::engine::general_purpose::STANDARD.decode(text).unwrap(),
            _ => panic!("neither text nor base64: {data}"),
        }
    }

    fn played(data: &[u8], cuts: &[prop::sample::Index]) -> Vec<Value> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
        at.extend([0, data.len()]);
        at.sort_unstable();
        let mut events: Vec<Event> = at.windows(2).map(|pair| wrote(&data[pair[0]..pair[1]])).collect();
        events.push(finished(Verdict::Passed));
        lines(events).into_iter().filter(|line| line["event"] == "output").collect()
    }

    fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
        prop::collection::vec(any::<prop::sample::Index>(), 0..10)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_arrive_whole(data in prop::collection::vec(any::<u8>(), 0..200), cuts in cuts()) {
            let arrived: Vec<u8> = played(&data, &cuts).iter().flat_map(|line| bytes_of(&line["data"])).collect();
            prop_assert_eq!(arrived, data);
        }

        #[test]
        fn text_stays_text_however_it_is_cut(text in any::<String>(), cuts in cuts()) {
            for line in played(text.as_bytes(), &cuts) {
                prop_assert!(line["data"]["text"].is_string());
            }
        }
    }
}
