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
        self.write(&Stamped { at_ms, event })
    }

    /// What is left of a cut character when its job is over.
    fn end_output(&mut self, at_ms: u64, job: &JobId) -> Result<(), SinkError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(data) = self.cut.remove(&(job.clone(), stream)) {
                self.write(&Stamped { at_ms, event: Event::Output { job: job.clone(), stream, data } })?;
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
