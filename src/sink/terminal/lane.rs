//! The lines of one of several jobs: whole, each behind the job's name.
//!
//! What is shown depends on the bytes alone, not on how they were cut into chunks. No allocation per line.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::neutral::{neutralize, suspicious};
use super::screen::Screen;
use super::style::{Colors, LANES};
use crate::domain::Stream;
use crate::sink::SinkError;

/// A longer line is shown in pieces of this many bytes, each as a line of its own: the bound on what is held
/// for a command that never ends its line.
pub const LONGEST_LINE: usize = 64 * 1024;

/// Names are padded and, on a terminal, cut to at most this many columns, or a third of a narrow terminal.
const WIDEST_NAME: usize = 24;
const NARROWEST_NAME: usize = 4;

/// How wide the names of a run's jobs are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameColumn {
    width: usize,
    cut: bool,
}

impl NameColumn {
    /// `columns`: of the terminal, if there is one. On a pipe names are never cut.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>, columns: Option<usize>) -> Self {
        let limit = columns.map_or(WIDEST_NAME, |columns| (columns / 3).clamp(NARROWEST_NAME, WIDEST_NAME));
        let widest = names.map(|name| name.width()).max().unwrap_or(0);
        Self { width: widest.min(limit), cut: columns.is_some() }
    }

    pub(super) fn fit(self, name: &str) -> String {
        let width = name.width();
        if width <= self.width || !self.cut {
            return format!("{name}{}", " ".repeat(self.width.saturating_sub(width)));
        }
        let mut kept = String::new();
        let mut used = 0;
        for character in name.chars() {
            used += character.width().unwrap_or(0);
            if used >= self.width {
                break;
            }
            kept.push(character);
        }
        let padding = " ".repeat(self.width - 1 - kept.width());
        format!("{kept}…{padding}")
    }
}

pub(super) struct Lane {
    stdout: Half,
    stderr: Half,
}

struct Half {
    stream: Stream,
    prefix: Vec<u8>,
    /// The beginning of a line whose end has not come.
    carry: Vec<u8>,
}

impl Lane {
    /// `turn` counts the jobs that have spoken; it picks the colour.
    pub(super) fn new(name: &str, turn: usize, screen: &Screen) -> Self {
        let half = |stream| Half {
            stream,
            prefix: prefix(name, turn, screen.colors(stream)).into_bytes(),
            carry: Vec::new(),
        };
        Self { stdout: half(Stream::Stdout), stderr: half(Stream::Stderr) }
    }

    pub(super) fn push(&mut self, stream: Stream, data: &[u8], screen: &mut Screen) -> Result<(), SinkError> {
        match stream {
            Stream::Stdout => self.stdout.push(data, screen),
            Stream::Stderr => self.stderr.push(data, screen),
        }
    }

    /// Completes unfinished last lines.
    pub(super) fn end(&mut self, screen: &mut Screen) -> Result<(), SinkError> {
        for half in [&mut self.stdout, &mut self.stderr] {
            if !half.carry.is_empty() {
                half.push(b"\n", screen)?;
            }
        }
        Ok(())
    }
}

pub(super) fn prefix(name: &str, turn: usize, colors: Colors) -> String {
    format!("{} ", colors.paint(LANES[turn % LANES.len()], &format!("{name} │")))
}

impl Half {
    fn push(&mut self, mut data: &[u8], screen: &mut Screen) -> Result<(), SinkError> {
        if !self.carry.is_empty()
            && let Some(end) = memchr::memchr(b'\n', data)
        {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(&data[..=end]);
            self.lines(&line, screen)?;
            data = &data[end + 1..];
        }
        let whole = memchr::memrchr(b'\n', data).map_or(0, |end| end + 1);
        self.lines(&data[..whole], screen)?;
        self.carry.extend_from_slice(&data[whole..]);
        self.bound_carry(screen)
    }

    fn bound_carry(&mut self, screen: &mut Screen) -> Result<(), SinkError> {
        if self.carry.len() <= LONGEST_LINE {
            return Ok(());
        }
        let carry = std::mem::take(&mut self.carry);
        let mut rest = carry.as_slice();
        while rest.len() > LONGEST_LINE {
            let (piece, after) = rest.split_at(piece_length(rest));
            self.line(piece, self.care(piece, screen), screen)?;
            rest = after;
        }
        self.carry.extend_from_slice(rest);
        Ok(())
    }

    /// Text that ends with a line end, or nothing.
    fn lines(&self, text: &[u8], screen: &mut Screen) -> Result<(), SinkError> {
        let care = self.care(text, screen);
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', text) {
            let mut line = &text[start..end];
            while line.len() > LONGEST_LINE {
                let (piece, after) = line.split_at(piece_length(line));
                self.line(piece, care, screen)?;
                line = after;
            }
            self.line(line, care, screen)?;
            start = end + 1;
        }
        Ok(())
    }

    fn line(&self, line: &[u8], care: Care, screen: &mut Screen) -> Result<(), SinkError> {
        let buffer = screen.gather(self.stream)?;
        buffer.extend_from_slice(&self.prefix);
        match care {
            Care::Exact => buffer.extend_from_slice(line),
            Care::Neutral(colors) => neutralize(line, colors, buffer),
        }
        buffer.push(b'\n');
        screen.flush_when_full()
    }

    /// Only a terminal obeys control characters; pipes and files get the bytes.
    fn care(&self, text: &[u8], screen: &Screen) -> Care {
        if screen.is_terminal(self.stream) && suspicious(text) {
            Care::Neutral(screen.colors(self.stream))
        } else {
            Care::Exact
        }
    }
}

#[derive(Clone, Copy)]
enum Care {
    Exact,
    Neutral(Colors),
}

/// Where to cut a line that is longer than [`LONGEST_LINE`]: not inside a character.
fn piece_length(line: &[u8]) -> usize {
    let continues = |at: usize| line[at] & 0xc0 == 0x80;
    (LONGEST_LINE - 3..=LONGEST_LINE).rev().find(|at| !continues(*at)).unwrap_or(LONGEST_LINE)
}
