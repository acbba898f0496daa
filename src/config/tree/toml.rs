//! TOML → tree. Several syntax errors are reported in one go; what could be read is kept.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Entry, MAX_DEPTH, Node, Parsed, Value, too_deep};
use crate::config::codes;
use crate::diag::{Diagnostic, Location, SourceId};

/// Most repeated keys whose first place is looked for: each search goes over the whole text.
const MOST_SOUGHT: usize = 50;

pub fn parse(source: SourceId, text: &str) -> Parsed<'_> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut builder = Builder { source, text, diagnostics: Vec::new() };
    let span = table.span();
    let value = Value::Table(builder.table(table.into_inner(), 0));
    let root = Node { value, location: Location::new(source, span) };
    let mut diagnostics: Vec<Diagnostic> = errors.iter().map(|error| syntax(source, text, error)).collect();
    let repeated = diagnostics.iter_mut().filter(|found| found.code == codes::DUPLICATE);
    for found in repeated.take(MOST_SOUGHT) {
        let first = found.location.and_then(|second| first_of(&root, text, second));
        found.related.extend(first.map(|first| (first, "first written here".to_owned())));
    }
    diagnostics.append(&mut builder.diagnostics);
    Parsed { root, diagnostics }
}

fn syntax(source: SourceId, text: &str, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(text.len()..text.len());
    let location = Location::new(source, span.clone());
    if error.message() == "duplicate key" {
        let key = text.get(span).unwrap_or_default();
        return Diagnostic::error(codes::DUPLICATE, format!("duplicate key `{key}`"))
            .at(location)
            .help("keep one of the two, or join them");
    }
    Diagnostic::error(codes::SYNTAX, error.message())
        .at(location)
        .help("see https://toml.io for the syntax of TOML")
}

/// Where the key that is written again at `second` was written first: a header in an equal header, any other key
/// in the last one of its spelling.
fn first_of(root: &Node<'_>, text: &str, second: Location) -> Option<Location> {
    let key = text.get(second.range())?;
    let before = &text[..second.start as usize];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let indent = text[line_start..].len() - text[line_start..].trim_start().len();
    let header = text[line_start + indent..].split_inclusive(']').next()?;
    if !header.starts_with('[') {
        return earlier(root, key, second, text);
    }
    let is_start = |at: &usize| before[..*at].rsplit('\n').next().is_some_and(|line| line.trim().is_empty());
    let first = before[..line_start].match_indices(header).map(|(at, _)| at).find(is_start)?;
    let start = first + (second.start as usize - line_start - indent);
    Some(Location::new(second.source, start..start + key.len()))
}

/// The last key of that spelling before `second`, however deep.
fn earlier(node: &Node<'_>, key: &str, second: Location, text: &str) -> Option<Location> {
    let below =
        entries(node).iter().filter(|entry| entry.key_location.start < second.start).flat_map(|entry| {
            let same = (text.get(entry.key_location.range()) == Some(key)).then_some(entry.key_location);
            [same, earlier(&entry.node, key, second, text)]
        });
    let listed = items(node).iter().map(|item| earlier(item, key, second, text));
    below.chain(listed).flatten().max_by_key(|at| at.start)
}

fn entries<'n, 't>(node: &'n Node<'t>) -> &'n [Entry<'t>] {
    if let Value::Table(entries) = &node.value { entries } else { &[] }
}

fn items<'n, 't>(node: &'n Node<'t>) -> &'n [Node<'t>] {
    if let Value::List(items) = &node.value { items } else { &[] }
}

/// What the parser puts in place of a value that is not there; the syntax error has been reported.
fn is_missing(node: &Spanned<DeValue<'_>>) -> bool {
    node.span().is_empty() && !matches!(node.get_ref(), DeValue::Table(_) | DeValue::Array(_))
}

struct Builder<'t> {
    source: SourceId,
    text: &'t str,
    diagnostics: Vec<Diagnostic>,
}

impl<'t> Builder<'t> {
    fn table(&mut self, table: DeTable<'t>, depth: usize) -> Vec<Entry<'t>> {
        let mut entries = Vec::with_capacity(table.len());
        for (key, node) in table {
            if is_missing(&node) {
                continue;
            }
            let key_location = Location::new(self.source, key.span());
            let node = self.node(node, key_location, depth + 1);
            entries.push(Entry { key: key.into_inner(), key_location, node });
        }
        entries
    }

    /// `fallback`: where the value is said to be when it has no text of its own.
    fn node(&mut self, node: Spanned<DeValue<'t>>, fallback: Location, depth: usize) -> Node<'t> {
        let span = node.span();
        let location = if span.is_empty() || span.end > self.text.len() {
            fallback
        } else {
            Location::new(self.source, span)
        };
        if depth > MAX_DEPTH {
            self.diagnostics.push(too_deep(location));
            return Node { value: Value::Null, location };
        }
        let value = match node.into_inner() {
            DeValue::String(text) => Value::String(text),
            DeValue::Integer(number) => Value::Integer {
                value: i64::from_str_radix(number.as_str(), number.radix()).ok(),
                text: number.to_string().into(),
            },
            DeValue::Float(number) => Value::Float(number.as_str().to_owned().into()),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(items) => {
                Value::List(items.into_iter().map(|item| self.node(item, location, depth + 1)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table, depth)),
        };
        Node { value, location }
    }
}
