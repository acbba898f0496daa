//! YAML → tree. The only use of the YAML library.
//!
//! The library gives no places along with values. It does put the place of the value at hand into an error
//! raised there: so each scalar leaves by a side door and then "fails", and the place in that failure is the
//! scalar's. Lists and tables take the place of their first scalar, or of their key.
//!
//! Aliases are followed by the library; [`MAX_NODES`] bounds what they can unfold into.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::{Entry, MAX_DEPTH, Node, Parsed, Value, too_deep, whole};
use crate::config::codes;
use crate::diag::{Diagnostic, Location, SourceId};

/// Most values of one file, aliases unfolded.
const MAX_NODES: usize = 200_000;

pub fn parse(source: SourceId, text: &str) -> Parsed<'static> {
    let start = whole(source, text);
    let empty = || Node { value: Value::Table(Vec::new()), location: start };
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(is_blank) {
        return Parsed { root: empty(), diagnostics: Vec::new() };
    }
    let mut state = State { places: Places::new(source, text), nodes: 0, diagnostics: Vec::new() };
    let documents = serde_yaml::Deserializer::from_str(text);
    let root = state.read(start, 0, |seed| documents.deserialize_any(seed)).unwrap_or_else(|error| {
        let found = state.failure(&error.to_string(), start);
        state.diagnostics.push(found);
        None
    });
    Parsed { root: root.unwrap_or_else(empty), diagnostics: state.diagnostics }
}

struct State<'t> {
    places: Places<'t>,
    nodes: usize,
    diagnostics: Vec<Diagnostic>,
}

/// What came through the side door.
enum Out {
    Nothing,
    Scalar(Value<'static>),
    Container(Value<'static>),
}

impl<'t> State<'t> {
    fn read<E: fmt::Display>(
        &mut self,
        fallback: Location,
        depth: usize,
        deserialize: impl FnOnce(Seed<'_, 't>) -> Result<(), E>,
    ) -> Result<Option<Node<'static>>, E> {
        let mut out = Out::Nothing;
        let outcome = deserialize(Seed { state: self, at: fallback, depth, out: &mut out });
        match (out, outcome) {
            (Out::Scalar(value), Err(error)) => {
                let location = self.places.of(&error.to_string()).unwrap_or(fallback);
                Ok(Some(Node { value, location }))
            }
            (_, Err(error)) => Err(error),
            (Out::Container(value), Ok(())) => {
                let location = first_place(&value).unwrap_or(fallback);
                Ok(Some(Node { value, location }))
            }
            (_, Ok(())) => Ok(None),
        }
    }

    fn failure(&self, message: &str, start: Location) -> Diagnostic {
        let location = self.places.of(message).unwrap_or(start);
        if let Some(limit) = message.find(LIMIT).map(|at| &message[at..]) {
            let limit = limit.split(" at line ").next().unwrap_or(limit);
            return Diagnostic::error(codes::TOO_LARGE, limit)
                .at(location)
                .help("write the values out, or split the file with `extends`");
        }
        if message.contains("repetition limit exceeded") || message.contains("recursion limit exceeded") {
            return Diagnostic::error(codes::TOO_LARGE, "aliases unfold into more than accel reads")
                .at(location)
                .help("write the values out, or split the file with `extends`");
        }
        let about = message.split(" at line ").next().unwrap_or(message);
        Diagnostic::error(codes::SYNTAX, about)
            .at(location)
            .help("see https://yaml.org for the syntax of YAML; accel reads one document without tags")
    }
}

const LIMIT: &str = "more than 200000 values";

fn first_place(value: &Value<'_>) -> Option<Location> {
    match value {
        Value::List(items) => items.first().map(|item| item.location),
        Value::Table(entries) => entries.first().map(|entry| entry.key_location),
        _ => None,
    }
}

/// Turns the library's places (line and column, from one) into byte ranges.
struct Places<'t> {
    source: SourceId,
    text: &'t str,
    line_starts: Vec<usize>,
}

impl<'t> Places<'t> {
    fn new(source: SourceId, text: &'t str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { source, text, line_starts }
    }

    /// The scalar at the place that a message of the library ends with.
    fn of(&self, message: &str) -> Option<Location> {
        let (_, place) = message.rsplit_once(" at line ")?;
        let (line, column) = place.split_once(" column ")?;
        let line_start = *self.line_starts.get(line.parse::<usize>().ok()?.checked_sub(1)?)?;
        let line = self.text[line_start..].lines().next().unwrap_or_default();
        let column = column.parse::<usize>().ok()?.checked_sub(1)?;
        let offset = line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
        let length = scalar_length(&line[offset..]);
        Some(Location::new(self.source, line_start + offset..line_start + offset + length))
    }
}

/// To the closing quote, or to the end of the plain text.
fn scalar_length(line: &str) -> usize {
    let end = match line.chars().next() {
        Some(quote @ ('"' | '\'')) => line[1..].find(quote).map_or(line.len(), |end| end + 2),
        _ => {
            [": ", " #", ",", "]", "}"].iter().filter_map(|stop| line.find(stop)).min().unwrap_or(line.len())
        }
    };
    line[..end].trim_end().trim_end_matches(':').len()
}

struct Seed<'a, 't> {
    state: &'a mut State<'t>,
    /// Where the value is said to be when it has no place of its own.
    at: Location,
    depth: usize,
    out: &'a mut Out,
}

impl Seed<'_, '_> {
    fn scalar<E: Error>(self, value: Value<'static>) -> Result<(), E> {
        *self.out = Out::Scalar(value);
        Err(E::custom("scalar"))
    }

    fn count<E: Error>(&mut self) -> Result<(), E> {
        self.state.nodes += 1;
        if self.state.nodes > MAX_NODES { Err(E::custom(LIMIT)) } else { Ok(()) }
    }

    /// Whether the container at hand is nested too deep; it is then reported and left out.
    fn is_too_deep(&mut self) -> bool {
        if self.depth > MAX_DEPTH {
            self.state.diagnostics.push(too_deep(self.at));
        }
        self.depth > MAX_DEPTH
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(Value::Integer { value: Some(value), text: value.to_string().into() })
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(Value::Integer { value: i64::try_from(value).ok(), text: value.to_string().into() })
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<(), E> {
        self.scalar(Value::Integer { value: None, text: value.to_string().into() })
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<(), E> {
        self.scalar(Value::Integer { value: None, text: value.to_string().into() })
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(Value::Float(value.to_string().into()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.scalar(Value::String(value.to_owned().into()))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.scalar(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<(), A::Error> {
        if self.is_too_deep() {
            while access.next_element::<serde::de::IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let mut items = Vec::new();
        loop {
            self.count()?;
            let mut more = true;
            let item = self.state.read(self.at, self.depth + 1, |seed| {
                more = true;
                let read = access.next_element_seed(seed)?;
                more = read.is_some();
                Ok::<(), A::Error>(())
            })?;
            if !more {
                break;
            }
            items.extend(item);
        }
        *self.out = Out::Container(Value::List(items));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<(), A::Error> {
        if self.is_too_deep() {
            while access.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let mut entries: Vec<Entry<'static>> = Vec::new();
        let mut known = std::collections::HashMap::new();
        loop {
            self.count()?;
            let mut more = true;
            let key = self.state.read(self.at, self.depth + 1, |seed| {
                more = access.next_key_seed(seed)?.is_some();
                Ok::<(), A::Error>(())
            })?;
            if !more {
                break;
            }
            let key_location = key.as_ref().map_or(self.at, |key| key.location);
            let node = self.state.read(key_location, self.depth + 1, |seed| access.next_value_seed(seed))?;
            let node = node.unwrap_or(Node { value: Value::Null, location: key_location });
            let Some(key) = key.and_then(|key| key_text(key.value)) else {
                self.state.diagnostics.push(
                    Diagnostic::error(codes::SYNTAX, "a key must be a plain text")
                        .at(key_location)
                        .help("put it in quotes"),
                );
                continue;
            };
            if let Some(first) = known.get(&key) {
                self.state.diagnostics.push(
                    Diagnostic::error(codes::DUPLICATE, format!("duplicate key `{key}`"))
                        .at(key_location)
                        .related(*first, "first written here")
                        .help("keep one of the two"),
                );
                continue;
            }
            known.insert(key.clone(), key_location);
            entries.push(Entry { key: key.into(), key_location, node });
        }
        *self.out = Out::Container(Value::Table(entries));
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom("tags are not supported"))
    }
}

/// Names such as `on`, `3.12` or `true` are keys too.
fn key_text(value: Value<'static>) -> Option<String> {
    match value {
        Value::String(text) | Value::Float(text) | Value::Integer { text, .. } => Some(text.into_owned()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}
