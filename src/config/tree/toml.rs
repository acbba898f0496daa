//! TOML → tree. Several syntax errors are reported in one go; what could be read is kept.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Entry, MAX_DEPTH, Node, Parsed, Value, too_deep};
use crate::config::codes;
use crate::diag::{Diagnostic, Location, SourceId};

pub fn parse(source: SourceId, text: &str) -> Parsed<'_> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut builder =
        Builder { source, text, diagnostics: errors.iter().map(|e| syntax(source, text, e)).collect() };
    let span = table.span();
    let value = Value::Table(builder.table(table.into_inner(), 0));
    let root = Node { value, location: Location::new(source, span) };
    Parsed { root, diagnostics: builder.diagnostics }
}

fn syntax(source: SourceId, text: &str, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(text.len()..text.len());
    let (code, message, help) = match error.message() {
        "duplicate key" => {
            let key = text.get(span.clone()).unwrap_or_default();
            (codes::DUPLICATE, format!("duplicate key `{key}`"), "keep one of the two, or join them")
        }
        message => (codes::SYNTAX, message.to_owned(), "see https://toml.io for the syntax of TOML"),
    };
    Diagnostic::error(code, message).at(Location::new(source, span)).help(help)
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
