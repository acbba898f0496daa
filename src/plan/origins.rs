//! Where a value was set, as one short text: `accel.toml:12`, `[defaults] accel.toml:4`, `ACCEL_TIMEOUT`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::config::model::{Layer, Origin};
use crate::diag::{Location, SourceId, SourceMap};

/// What stands for a value that nobody set.
pub const BUILT_IN: &str = "built-in";

/// Words origins. Line starts of a source are found once, so that thousands of values stay cheap.
pub struct Origins<'a> {
    sources: &'a SourceMap,
    line_starts: RefCell<BTreeMap<SourceId, Vec<usize>>>,
}

impl<'a> Origins<'a> {
    pub fn new(sources: &'a SourceMap) -> Self {
        Self { sources, line_starts: RefCell::default() }
    }

    /// `accel.toml:12`.
    pub fn place(&self, location: Location) -> String {
        let mut all = self.line_starts.borrow_mut();
        let source = self.sources.get(location.source);
        let starts = all
            .entry(location.source)
            .or_insert_with(|| memchr::memchr_iter(b'\n', source.text.as_bytes()).map(|at| at + 1).collect());
        let line = starts.partition_point(|start| *start <= location.start as usize) + 1;
        format!("{}:{line}", source.name)
    }

    /// See [`SourceMap::narrow`].
    pub fn narrow(&self, location: Location, find: impl FnOnce(&str) -> Option<Range<usize>>) -> Location {
        self.sources.narrow(location, find)
    }

    pub fn text(&self, origin: &Origin) -> String {
        match (&origin.layer, origin.location) {
            (Layer::Variable(name) | Layer::Flag(name), _) => name.clone(),
            (Layer::Profile(name), Some(location)) => format!("[profile.{name}] {}", self.place(location)),
            (Layer::Profile(name), None) => format!("[profile.{name}]"),
            (_, Some(location)) => self.place(location),
            (_, None) => BUILT_IN.to_owned(),
        }
    }

    /// The same for a value of `[defaults]`.
    pub fn defaults_text(&self, origin: &Origin) -> String {
        match origin.layer {
            Layer::Variable(_) | Layer::Flag(_) => self.text(origin),
            Layer::Profile(ref name) => match origin.location {
                Some(location) => format!("[profile.{name}.defaults] {}", self.place(location)),
                None => format!("[profile.{name}.defaults]"),
            },
            _ => format!("[defaults] {}", self.text(origin)),
        }
    }
}
