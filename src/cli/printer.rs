//! The one place where commands write to standard output and standard error.
//!
//! Results go to stdout in one piece, so that listing thousands of jobs is one write; accel's own words go to
//! stderr. A reader that has gone away (`| head`) is success: the rest is not wanted.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use crate::diag::{self, ColorChoice, Diagnostic, Severity, SourceMap};

/// How much accel says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    Quiet,
    Normal,
    Verbose,
}

/// What results look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    /// `--json`.
    Json,
}

#[derive(Debug, Clone, Copy)]
pub struct Printer {
    pub format: Format,
    pub stdout_color: ColorChoice,
    pub stderr_color: ColorChoice,
    /// Columns for diagnostics.
    pub width: usize,
    /// Columns for lists; `None` where lines may be as long as they are (a pipe).
    pub list_width: Option<usize>,
    pub verbosity: Verbosity,
}

impl Printer {
    /// Writes a result.
    pub fn result(&self, text: impl AsRef<[u8]>) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        accept_broken_pipe(stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()))
    }

    /// Standard output without buffering of its own, for sinks that gather what they write.
    pub fn stdout(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(unbuffered(io::stdout().as_fd())?))
    }

    /// The same; calls `when_unread` once its reader has gone away.
    pub fn watched_stdout(
        &self,
        when_unread: impl FnOnce() + Send + 'static,
    ) -> io::Result<Box<dyn Write + Send>> {
        let file = unbuffered(io::stdout().as_fd())?;
        Ok(Box::new(Watched { file, when_unread: Some(when_unread) }))
    }

    pub fn stderr(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(unbuffered(io::stderr().as_fd())?))
    }

    /// Writes a JSON document and a newline.
    pub fn json(&self, value: &impl serde::Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
        text.push(b'\n');
        self.result(text)
    }

    /// Says something to the user; a lost stderr is nobody's fault.
    pub fn say(&self, text: impl AsRef<str>) {
        if self.verbosity > Verbosity::Quiet {
            write_stderr(text.as_ref());
        }
    }

    /// An error and what to do about it, also when quiet.
    pub fn error(&self, message: &str, help: &[String]) {
        let mut text = format!("{} {message}\n", self.paint_stderr(Style::Error, "error:"));
        for line in help {
            text.push_str(&format!("{} {line}\n", self.paint_stderr(Style::Help, "help:")));
        }
        write_stderr(&text);
    }

    pub fn warning(&self, message: &str) {
        self.say(format!("{} {message}\n", self.paint_stderr(Style::Warning, "warning:")));
    }

    /// All findings, errors first, each separated by an empty line.
    pub fn diagnostics(&self, diagnostics: &[Diagnostic], sources: &SourceMap) {
        let visible = |diagnostic: &&Diagnostic| {
            diagnostic.severity == Severity::Error || self.verbosity > Verbosity::Quiet
        };
        let mut text = String::new();
        for diagnostic in diagnostics.iter().filter(visible) {
            if diagnostic.location.is_none() && diagnostic.related.is_empty() {
                self.without_place(diagnostic, &mut text);
                continue;
            }
            text.push_str(&diag::render(diagnostic, sources, self.stderr_color, self.width));
            text.push_str("\n\n");
        }
        write_stderr(&text);
    }

    /// A finding that no text is at fault for reads like any other error.
    fn without_place(&self, diagnostic: &Diagnostic, text: &mut String) {
        let (style, word) = match diagnostic.severity {
            Severity::Error => (Style::Error, "error:"),
            Severity::Warning => (Style::Warning, "warning:"),
        };
        text.push_str(&format!("{} {}\n", self.paint_stderr(style, word), diagnostic.message));
        for help in &diagnostic.help {
            text.push_str(&format!("{} {help}\n", self.paint_stderr(Style::Help, "help:")));
        }
    }

    pub fn paint(&self, style: Style, text: &str) -> String {
        paint(self.stdout_color, style, text)
    }

    pub fn paint_stderr(&self, style: Style, text: &str) -> String {
        paint(self.stderr_color, style, text)
    }
}

/// What a piece of text means; colour only underlines it.
#[derive(Debug, Clone, Copy)]
pub enum Style {
    Plain,
    Name,
    Dim,
    Good,
    Warning,
    Error,
    Help,
}

fn paint(color: ColorChoice, style: Style, text: &str) -> String {
    use anstyle::{AnsiColor, Style as Ansi};
    if color == ColorChoice::Plain || text.is_empty() {
        return text.to_owned();
    }
    let style = match style {
        Style::Plain => return text.to_owned(),
        Style::Name => Ansi::new().bold(),
        Style::Dim => Ansi::new().dimmed(),
        Style::Good => AnsiColor::Green.on_default(),
        Style::Warning => AnsiColor::Yellow.on_default().bold(),
        Style::Error => AnsiColor::Red.on_default().bold(),
        Style::Help => AnsiColor::Cyan.on_default().bold(),
    };
    format!("{style}{text}{style:#}")
}

/// Text for stderr where no printer exists yet.
pub fn write_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn unbuffered(stream: BorrowedFd<'_>) -> io::Result<File> {
    stream.try_clone_to_owned().map(File::from)
}

/// Tells somebody when its reader has gone away.
struct Watched<F> {
    file: File,
    when_unread: Option<F>,
}

impl<F: FnOnce()> Write for Watched<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::BrokenPipe)
            && let Some(when_unread) = self.when_unread.take()
        {
            when_unread();
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn accept_broken_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
