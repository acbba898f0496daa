//! A text as a tree in which every key and value knows its place, whatever the language of the text.
//!
//! Invariants: keys of one table are unique (a second one is reported and dropped), nesting is at most
//! [`MAX_DEPTH`] deep. Numbers keep their spelling, so that `3.10` stays `3.10` where text is meant.

mod toml;
mod yaml;

use std::borrow::Cow;

use crate::diag::{Diagnostic, Location, SourceId};

pub use self::toml::parse as parse_toml;
pub use self::yaml::parse as parse_yaml;

/// Deepest nesting of tables and lists.
pub const MAX_DEPTH: usize = 64;

#[derive(Debug)]
pub struct Node<'t> {
    pub value: Value<'t>,
    pub location: Location,
}

#[derive(Debug)]
pub enum Value<'t> {
    String(Cow<'t, str>),
    Integer {
        /// `None`: does not fit into 64 bits.
        value: Option<i64>,
        text: Cow<'t, str>,
    },
    Float(Cow<'t, str>),
    Bool(bool),
    Datetime,
    /// YAML only.
    Null,
    List(Vec<Node<'t>>),
    Table(Vec<Entry<'t>>),
}

#[derive(Debug)]
pub struct Entry<'t> {
    pub key: Cow<'t, str>,
    pub key_location: Location,
    pub node: Node<'t>,
}

impl Node<'_> {
    /// For "found …" in messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::String(_) => "a string",
            Value::Integer { .. } => "an integer",
            Value::Float(_) => "a number",
            Value::Bool(_) => "a boolean",
            Value::Datetime => "a date",
            Value::Null => "nothing",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// A parsed text: what could be read, and every finding.
#[derive(Debug)]
pub struct Parsed<'t> {
    pub root: Node<'t>,
    pub diagnostics: Vec<Diagnostic>,
}

/// Brackets that may be open at once before a text is handed to a parser. The parsers' own cost grows with the
/// square of it, and no file with that many is meant to be read; brackets within texts count too, hence the margin.
const MAX_OPEN_BRACKETS: usize = 1_000;

/// Refuses what would keep a parser busy for long.
pub fn refuse_bracket_towers(source: SourceId, text: &str) -> Option<Diagnostic> {
    let mut open = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_OPEN_BRACKETS {
            return Some(too_deep(Location::new(source, at..at + 1)));
        }
    }
    None
}

fn whole(source: SourceId, text: &str) -> Location {
    Location::new(source, 0..text.lines().next().map_or(0, str::len))
}

fn too_deep(location: Location) -> Diagnostic {
    Diagnostic::error(super::codes::TOO_LARGE, format!("nested deeper than {MAX_DEPTH} levels"))
        .at(location)
        .help("flatten the file: no key of accel.toml needs more than eight levels")
}
