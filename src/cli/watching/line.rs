//! The line at the bottom of the terminal while nothing runs, and where a run's end is told elsewhere.
//!
//! What must stay true: nothing that a job printed is ever erased, also when it did not end its last line; the line is
//! never longer than the terminal is wide; whatever accel says between two runs stands above it.

use std::cell::{Cell, RefCell};

use super::words::{Keys, Status};
use crate::cli::context::Context;
use crate::cli::printer::{Verbosity, write_stderr};
use crate::cli::signals::Change;
use crate::sink::terminal::to_the_left;

/// Erases the line that the cursor is in, and what is below.
const ERASE: &str = "\r\x1b[J";
/// What an interrupted job may have left: colours, a hidden cursor.
const USUAL: &str = "\x1b[0m\x1b[?25h";

pub struct Line<'a> {
    context: &'a Context<'a>,
    keys: Keys,
    /// Of the last run; `None` while one goes on.
    status: RefCell<Option<Status>>,
    /// Columns that the line takes up, where it stands on the terminal.
    drawn: Cell<Option<usize>>,
}

impl<'a> Line<'a> {
    pub fn new(context: &'a Context<'a>, keys: Keys) -> Self {
        Self { context, keys, status: RefCell::default(), drawn: Cell::default() }
    }

    /// A run is over.
    pub fn tell(&self, status: Status) {
        let printer = &self.context.printer;
        if printer.verbosity == Verbosity::Quiet {
            return;
        }
        if !self.context.ambient.stderr_is_terminal {
            let (line, _) = status.line(None, self.keys, printer);
            return write_stderr(&format!("{line}\n"));
        }
        write_stderr(&format!("{USUAL}{}", to_the_left(self.context.ambient.columns())));
        *self.status.borrow_mut() = Some(status);
        self.restore();
    }

    /// Something is said here, after the verdict of the last run, which stays where it can be read later;
    /// [`restore`](Self::restore) brings the line back.
    pub fn make_room(&self) {
        self.erase();
        let mut status = self.status.borrow_mut();
        let terminal = self.context.ambient.stderr_is_terminal;
        match status.as_mut() {
            Some(status) => self.context.printer.say(status.keep(&self.context.printer).unwrap_or_default()),
            // A job that has the terminal may be in the middle of a line.
            None if terminal => write_stderr(&to_the_left(self.context.ambient.columns())),
            None => {}
        }
    }

    fn erase(&self) {
        let Some(columns) = self.drawn.take() else { return };
        // Of a terminal that became narrower the line may take up several lines.
        let above = columns.saturating_sub(1) / self.context.ambient.columns().max(1);
        let up = if above == 0 { String::new() } else { format!("\x1b[{above}A") };
        write_stderr(&format!("{up}{ERASE}"));
    }

    pub fn restore(&self) {
        let status = self.status.borrow();
        let Some(status) = status.as_ref().filter(|_| self.drawn.get().is_none()) else { return };
        let columns = self.context.ambient.columns();
        let (line, width) = status.line(Some(columns), self.keys, &self.context.printer);
        write_stderr(&line);
        self.drawn.set(Some(width));
    }

    /// A run begins, or the watch ends.
    pub fn give_way(&self) {
        self.make_room();
        self.status.take();
    }

    pub fn changed(&self, change: Change) {
        if self.drawn.get().is_none() {
            return;
        }
        match change {
            Change::Resized => self.erase(),
            Change::Continued => self.drawn.set(None),
        }
        self.restore();
    }
}
