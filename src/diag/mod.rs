//! Diagnostics: what is wrong in a file, where, and what to do about it.
//!
//! Owns the source texts and the one rendering of a diagnostic. Invariants: a [`Location`] always lies within
//! the source it names; every error carries a remedy in `help`. It knows neither jobs nor TOML.

mod render;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use render::{ColorChoice, render};

/// One source text within a [`SourceMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(u32);

/// A byte range in a source text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    pub source: SourceId,
    pub start: u32,
    pub end: u32,
}

impl Location {
    /// Sources are bounded far below 4 GiB (see `config`), so offsets fit.
    pub fn new(source: SourceId, span: Range<usize>) -> Self {
        let offset = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Self { source, start: offset(span.start), end: offset(span.end) }
    }

    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A text that diagnostics can point into: a file, or a named variable.
#[derive(Debug, Clone)]
pub struct Source {
    /// As shown to the user: relative to the current folder where that is shorter.
    pub name: String,
    /// The file itself; `None` for texts that are not files (`ACCEL_*` variables).
    pub path: Option<PathBuf>,
    pub text: Arc<str>,
}

/// Every text that was read, in reading order.
#[derive(Debug, Clone, Default)]
pub struct SourceMap {
    sources: Vec<Source>,
}

impl SourceMap {
    pub fn add_file(&mut self, name: impl Into<String>, path: &Path, text: impl Into<Arc<str>>) -> SourceId {
        self.add(Source { name: name.into(), path: Some(path.to_owned()), text: text.into() })
    }

    pub fn add_text(&mut self, name: impl Into<String>, text: impl Into<Arc<str>>) -> SourceId {
        self.add(Source { name: name.into(), path: None, text: text.into() })
    }

    fn add(&mut self, source: Source) -> SourceId {
        let id = SourceId(u32::try_from(self.sources.len()).unwrap_or(u32::MAX));
        self.sources.push(source);
        id
    }

    pub fn get(&self, id: SourceId) -> &Source {
        &self.sources[id.0 as usize]
    }

    /// Every file that was read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().filter_map(|source| source.path.as_deref())
    }

    /// What was read first: the file that the others belong to.
    pub fn first(&self) -> Option<&Source> {
        self.sources.first()
    }

    /// The part of a location that `find` finds in its text; the location itself where it finds nothing.
    pub fn narrow(&self, location: Location, find: impl FnOnce(&str) -> Option<Range<usize>>) -> Location {
        let found = self.get(location.source).text.get(location.range()).and_then(find);
        let start = location.start as usize;
        found.map_or(location, |part| Location::new(location.source, start + part.start..start + part.end))
    }

    /// 1-based line and column (in characters) of a location's start.
    pub fn line_column(&self, location: Location) -> (usize, usize) {
        let text = &self.get(location.source).text;
        let before = &text[..floor_char_boundary(text, location.start as usize)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// `accel.toml:12`, as shown beside values and in one-line messages.
    pub fn short(&self, location: Location) -> String {
        format!("{}:{}", self.get(location.source).name, self.line_column(location).0)
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// One finding. `code` is stable (`unknown-key`, `bad-unit`, …) and listed in the documentation of `config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub code: &'static str,
    pub message: String,
    /// `None` only where no text is at fault (a missing file, say).
    pub location: Option<Location>,
    /// Words under the caret.
    pub label: String,
    /// Other places that matter: the first definition, the other members of a cycle.
    pub related: Vec<(Location, String)>,
    /// What to do about it.
    pub help: Vec<String>,
}

impl Diagnostic {
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message.into())
    }

    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message.into())
    }

    fn new(severity: Severity, code: &'static str, message: String) -> Self {
        Self {
            severity,
            code,
            message,
            location: None,
            label: String::new(),
            related: Vec::new(),
            help: Vec::new(),
        }
    }

    #[must_use]
    pub fn at(mut self, location: impl Into<Option<Location>>) -> Self {
        self.location = location.into();
        self
    }

    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    #[must_use]
    pub fn related(mut self, location: Location, label: impl Into<String>) -> Self {
        self.related.push((location, label.into()));
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }
}
