//! accel's stdout and stderr: the only two things the terminal sink writes to.
//!
//! Writes are gathered and made in large pieces, in the order across both streams. A stream whose reader went
//! away is dropped in silence, one that fails with one warning on the other.

use std::io::{self, Write};

use rustix::termios::OutputModes;

use super::style::Colors;
use crate::domain::Stream;
use crate::sink::SinkError;

/// Bytes gathered before a write.
const WRITE_SIZE: usize = 64 * 1024;

/// One of accel's own streams.
pub struct Port {
    pub writer: Box<dyn Write + Send>,
    /// A terminal shows it.
    pub terminal: bool,
    pub colors: Colors,
}

pub(super) struct Screen {
    stdout: Outlet,
    stderr: Outlet,
    /// What is to be written to `current`.
    pending: Vec<u8>,
    current: Stream,
    /// Of the terminal that stderr is.
    columns: Option<usize>,
    elsewhere: Elsewhere,
}

/// Whether a command writes to the terminal itself, so that nobody knows where the cursor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elsewhere {
    Nothing,
    /// Until its output comes by here.
    Perhaps,
}

/// Brings the cursor of a terminal to the beginning of an empty line, wherever it is: blanks as many as there are
/// columns break a line that was begun, and leave an empty one empty.
pub fn to_the_left(columns: usize) -> String {
    format!("{:columns$}\r\x1b[K", "")
}

struct Outlet {
    /// `None` once it failed.
    writer: Option<Box<dyn Write + Send>>,
    terminal: bool,
    colors: Colors,
    mid_line: bool,
}

/// A terminal that passes every key on does not go back to the left by itself either.
fn line_end_of_stderr() -> &'static str {
    let modes = rustix::termios::tcgetattr(rustix::stdio::stderr());
    let moves_itself = modes.map_or(true, |modes| modes.output_modes.contains(OutputModes::OPOST));
    if moves_itself { "\n" } else { "\r\n" }
}

impl From<Port> for Outlet {
    fn from(Port { writer, terminal, colors }: Port) -> Self {
        Self { writer: Some(writer), terminal, colors, mid_line: false }
    }
}

impl Screen {
    pub(super) fn new(stdout: Port, stderr: Port, columns: Option<usize>) -> Self {
        Self {
            columns: columns.filter(|_| stderr.terminal),
            elsewhere: Elsewhere::Nothing,
            stdout: stdout.into(),
            stderr: stderr.into(),
            pending: Vec::with_capacity(WRITE_SIZE + WRITE_SIZE / 4),
            current: Stream::Stderr,
        }
    }

    /// What a command does besides.
    pub(super) fn written_to(&mut self, elsewhere: Elsewhere) {
        self.elsewhere = elsewhere;
    }

    pub(super) fn is_terminal(&self, stream: Stream) -> bool {
        self.outlet(stream).terminal
    }

    pub(super) fn colors(&self, stream: Stream) -> Colors {
        self.outlet(stream).colors
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), SinkError> {
        let Some(last) = bytes.last() else { return Ok(()) };
        self.elsewhere = Elsewhere::Nothing;
        self.outlet_mut(stream).mid_line = *last != b'\n';
        if bytes.len() >= WRITE_SIZE {
            self.flush_pending()?;
            self.current = stream;
            return self.write_out(bytes);
        }
        self.gather(stream)?.extend_from_slice(bytes);
        self.flush_when_full()
    }

    /// A buffer to append whole lines to; follow with [`flush_when_full`](Self::flush_when_full).
    pub(super) fn gather(&mut self, stream: Stream) -> Result<&mut Vec<u8>, SinkError> {
        if self.current != stream {
            self.flush_pending()?;
            self.current = stream;
        }
        Ok(&mut self.pending)
    }

    pub(super) fn flush_when_full(&mut self) -> Result<(), SinkError> {
        if self.pending.len() >= WRITE_SIZE { self.flush_pending() } else { Ok(()) }
    }

    /// One of accel's own lines, on stderr, never glued to the end of an unfinished one.
    pub(super) fn say(&mut self, line: &str) -> Result<(), SinkError> {
        let shared = self.stdout.terminal && self.stderr.terminal && self.stdout.mid_line;
        let glued = self.stderr.mid_line || shared;
        let line_end = if self.stderr.terminal { line_end_of_stderr() } else { "\n" };
        let unknown = self.columns.filter(|_| self.elsewhere == Elsewhere::Perhaps);
        let buffer = self.gather(Stream::Stderr)?;
        if glued {
            buffer.extend_from_slice(line_end.as_bytes());
        } else if let Some(columns) = unknown {
            buffer.extend_from_slice(to_the_left(columns).as_bytes());
        }
        for line in line.split('\n') {
            buffer.extend_from_slice(line.as_bytes());
            buffer.extend_from_slice(line_end.as_bytes());
        }
        self.stderr.mid_line = false;
        if shared {
            self.stdout.mid_line = false;
        }
        self.flush_when_full()
    }

    pub(super) fn flush(&mut self) -> Result<(), SinkError> {
        self.flush_pending()
    }

    fn flush_pending(&mut self) -> Result<(), SinkError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        let result = self.write_out(&pending);
        pending.clear();
        self.pending = pending;
        result
    }

    fn write_out(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let stream = self.current;
        let outlet = self.outlet_mut(stream);
        let Some(writer) = &mut outlet.writer else { return Ok(()) };
        let Err(error) = writer.write_all(bytes).and_then(|()| writer.flush()) else { return Ok(()) };
        outlet.writer = None;
        self.lost(stream, error)
    }

    fn lost(&mut self, stream: Stream, error: io::Error) -> Result<(), SinkError> {
        if self.stdout.writer.is_none() && self.stderr.writer.is_none() {
            return Err(error.into());
        }
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Ok(());
        }
        let other = match stream {
            Stream::Stdout => &mut self.stderr,
            Stream::Stderr => return Ok(()),
        };
        let Some(writer) = &mut other.writer else { return Ok(()) };
        let warning = format!("warning: cannot write to stdout any more: {error}\n");
        if let Err(error) = writer.write_all(warning.as_bytes()) {
            other.writer = None;
            return Err(error.into());
        }
        Ok(())
    }

    fn outlet(&self, stream: Stream) -> &Outlet {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    fn outlet_mut(&mut self, stream: Stream) -> &mut Outlet {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}
