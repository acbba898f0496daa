//! TOML of a plan's view, for people: origins as comments, related values together, long lists one item a line,
//! and nothing where nothing was set and nothing is.

use serde_json::{Map, Value};

use super::super::origins::BUILT_IN;

/// Key under which a table holds the origins of its values, by key path.
const PROVENANCE: &str = "provenance";
/// Key of a table whose own origin is shown beside its header.
const ORIGIN: &str = "origin";
/// Keys that are said beside a header, if at all.
const NOT_SHOWN: [&str; 3] = [PROVENANCE, ORIGIN, "source"];
/// Keys whose values nobody sets.
const COMPUTED: [&str; 11] = [
    "version",
    "requested",
    "digest",
    "modal_at_most",
    "place",
    "why",
    "not_known",
    "price",
    "expected",
    "at_most",
    "over_budget",
];
/// Lists of tables that get a header each.
const HEADED_LISTS: [&str; 2] = ["layers", "route"];
/// Longer lists are broken, one item a line.
const LONGEST_LINE: usize = 88;
/// Comments start here unless the value is longer.
const COMMENT_COLUMN: usize = 44;

pub fn render(tree: &Value) -> String {
    let mut writer = Writer { text: String::new() };
    if let Value::Object(root) = tree {
        writer.table(&[], root, &Origins::default().within("", root));
    }
    writer.text
}

/// The origins that apply within a table: those of the nearest table that has any, and the path from it.
#[derive(Default, Clone)]
struct Origins<'a> {
    map: Option<&'a Map<String, Value>>,
    prefix: String,
}

impl<'a> Origins<'a> {
    fn of(&self, key: &str) -> Option<&'a str> {
        let path = format!("{}{key}", self.prefix);
        match self.map?.get(&path).and_then(Value::as_str) {
            Some(origin) => Some(origin),
            // A table that was set as a whole gives its origin to all its keys.
            None => Some(self.of_parent().unwrap_or(BUILT_IN)),
        }
    }

    fn of_parent(&self) -> Option<&'a str> {
        let parent = self.prefix.strip_suffix('.')?;
        self.map?.get(parent).and_then(Value::as_str)
    }

    fn within(&self, key: &str, table: &'a Map<String, Value>) -> Self {
        match table.get(PROVENANCE).and_then(Value::as_object) {
            Some(map) => Self { map: Some(map), prefix: String::new() },
            None => Self { map: self.map, prefix: format!("{}{key}.", self.prefix) },
        }
    }
}

struct Writer {
    text: String,
}

impl Writer {
    fn table(&mut self, path: &[&str], table: &Map<String, Value>, origins: &Origins<'_>) {
        let (nested, plain): (Vec<_>, Vec<_>) = table
            .iter()
            .filter(|(key, _)| !NOT_SHOWN.contains(&key.as_str()))
            .partition(|(k, v)| is_nested(k, v));
        for (key, value) in plain {
            let origin = origins.of(key);
            let nothing =
                value.is_null() || (is_empty(value) && origin.is_none_or(|origin| origin == BUILT_IN));
            if !nothing {
                self.pair(key, value, origin.filter(|_| !COMPUTED.contains(&key.as_str())));
            }
        }
        for (key, value) in nested {
            let path: Vec<&str> = path.iter().copied().chain([key.as_str()]).collect();
            match value {
                Value::Object(inner) => self.nested_table(&path, inner, &origins.within(key, inner)),
                Value::Array(items) => self.headed_list(&path, items),
                _ => {}
            }
        }
    }

    fn nested_table(&mut self, path: &[&str], table: &Map<String, Value>, origins: &Origins<'_>) {
        let bare = table.iter().all(|(key, value)| is_nested(key, value));
        // A table of tables alone needs no header.
        if !bare {
            self.header("[", path, "]", table.get(ORIGIN).and_then(Value::as_str));
        }
        self.table(path, table, origins);
    }

    fn headed_list(&mut self, path: &[&str], items: &[Value]) {
        for item in items.iter().filter_map(Value::as_object) {
            self.header("[[", path, "]]", item.get(ORIGIN).and_then(Value::as_str));
            let shown =
                item.iter().filter(|(key, value)| !NOT_SHOWN.contains(&key.as_str()) && !value.is_null());
            shown.for_each(|(key, value)| self.pair(key, value, None));
        }
    }

    fn header(&mut self, open: &str, path: &[&str], close: &str, origin: Option<&str>) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let path: Vec<String> = path.iter().map(|key| key_text(key)).collect();
        self.line(&format!("{open}{}{close}", path.join(".")), origin);
    }

    fn pair(&mut self, key: &str, value: &Value, origin: Option<&str>) {
        let line = format!("{} = {}", key_text(key), inline(value));
        match value.as_array().filter(|_| line.len() > LONGEST_LINE) {
            None => self.line(&line, origin),
            Some(items) => {
                self.line(&format!("{} = [", key_text(key)), origin);
                for item in items {
                    self.line(&format!("  {},", inline(item)), None);
                }
                self.line("]", None);
            }
        }
    }

    fn line(&mut self, line: &str, origin: Option<&str>) {
        self.text.push_str(line);
        if let Some(origin) = origin {
            let last = line.rsplit('\n').next().unwrap_or(line).chars().count();
            let gap = COMMENT_COLUMN.saturating_sub(last).max(2);
            self.text.extend(std::iter::repeat_n(' ', gap));
            self.text.push_str("# ");
            self.text.push_str(origin);
        }
        self.text.push('\n');
    }
}

fn is_nested(key: &str, value: &Value) -> bool {
    match value {
        Value::Object(table) => !table.is_empty(),
        Value::Array(items) => HEADED_LISTS.contains(&key) && !items.is_empty(),
        _ => false,
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

fn key_text(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { key.to_owned() } else { text(key) }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(value) => text(value),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        Value::Object(table) if table.is_empty() => "{}".to_owned(),
        Value::Object(table) => {
            let pairs = table.iter().filter(|(_, value)| !value.is_null());
            let pairs: Vec<String> =
                pairs.map(|(key, value)| format!("{} = {}", key_text(key), inline(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Null => "\"\"".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn text(value: &str) -> String {
    ::toml::Value::String(value.to_owned()).to_string()
}
