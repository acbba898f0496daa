//! The grammar: which keys there are, what each takes, and its JSON Schema, said once per type.
//!
//! [`Grammar`] ties decoding and schema together; [`keys!`] makes a table of keys out of one list, so that
//! what is accepted, what is documented and what is merged cannot drift apart. Decoding checks each value by
//! itself; names and rules that involve several keys belong to `check`.
//!
//! Merging has one rule: tables merge key by key, everything else is replaced by the stronger layer.

mod document;
mod image;
mod job;
mod job_values;
mod leaf;
mod name;
mod path;
mod route;
mod word;

use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use super::model::{Setting, Valued};
use super::reader::Reader;
use super::tree::{Node, Value};
use crate::diag::Location;

pub use document::{BudgetKeys, DocumentKeys, McpKeys, ModalKeys, ProfileKeys, SyncKeys};
pub use image::{
    CopyKeys, DockerfileCommandKeys, Either, ImageKeys, LayerKeys, MicromambaKeys, PoetryKeys,
    PrivateReposKeys, PyprojectKeys, StepKeys, SwitchOr, UvLockKeys,
};
pub use job::{EscalateKeys, JobKeys, NetworkKeys, RetryKeys, ShardKeys, WatchKeys};
pub use job_values::{
    FallbackChain, GpuEntry, GpuName, ImageValue, MatrixValues, SecretEntry, VolumeEntry, WarmValue,
};
pub use leaf::{Cores, Factor, Memory, OrLimit, Plain, Port, Scalar, Text, Whole, number};
pub use name::{AnyKey, GitRef, ItemName, MountPath, ObjectName, VariableName};
pub use path::{NameGlob, PathGlob, ProjectPath, glob_problem};
pub use route::{RouteValue, RuleKeys, SharedRouteKeys, smallest};

/// A type that a value of accel.toml can be.
pub trait Grammar: Sized {
    /// Reads a value; reports what is wrong with it and gives `None`.
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self>;

    /// Its JSON Schema.
    fn schema(definitions: &mut Definitions) -> Json;

    /// Puts a stronger layer's value on top.
    fn overlay(&mut self, stronger: Self) {
        *self = stronger;
    }
}

/// The named parts of the schema.
#[derive(Debug, Default)]
pub struct Definitions(serde_json::Map<String, Json>);

impl Definitions {
    /// A reference to a part that is made once, under its name.
    pub fn named(&mut self, name: &str, make: impl FnOnce(&mut Self) -> Json) -> Json {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), Json::Null);
            let made = make(self);
            self.0.insert(name.to_owned(), made);
        }
        json!({ "$ref": format!("#/$defs/{name}") })
    }

    pub fn into_json(mut self) -> Json {
        self.0.sort_keys();
        Json::Object(self.0)
    }
}

/// A table of keys: each field is one key, its documentation the description in the schema.
macro_rules! keys {
    (
        $(#[doc = $about:literal])*
        $name:ident as $spoken:literal {
            $( $(#[doc = $doc:literal])* $field:ident : $type:ty ),* $(,)?
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Default)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $crate::config::model::Setting<$type>, )*
        }

        impl $name {
            pub const KEYS: &'static [&'static str] = &[$( $crate::config::grammar::key_name(stringify!($field)) ),*];
            /// How messages call the table.
            pub const SPOKEN: &'static str = $spoken;

            /// Where each key that is set was set.
            #[allow(dead_code, reason = "not every table is looked at this way")]
            pub fn locations(&self) -> Vec<(&'static str, $crate::diag::Location)> {
                let mut found = Vec::new();
                $(
                    if let Some(location) = self.$field.as_ref().and_then(|valued| valued.origin.location) {
                        found.push(($crate::config::grammar::key_name(stringify!($field)), location));
                    }
                )*
                found
            }

            fn read_into(
                &mut self,
                entries: &[$crate::config::tree::Entry<'_>],
                reader: &mut $crate::config::reader::Reader,
            ) {
                for entry in entries {
                    $(
                        if entry.key == const { $crate::config::grammar::key_name(stringify!($field)) } {
                            self.$field = <$type as $crate::config::grammar::Grammar>::decode(&entry.node, reader)
                                .map(|value| Box::new(reader.valued(value, entry.node.location)));
                            continue;
                        }
                    )*
                    reader.unknown_key(entry, Self::KEYS, $spoken);
                }
            }
        }

        impl $crate::config::grammar::Grammar for $name {
            fn decode(
                node: &$crate::config::tree::Node<'_>,
                reader: &mut $crate::config::reader::Reader,
            ) -> Option<Self> {
                let entries = reader.table(node, concat!("a table: ", $spoken))?;
                let mut keys = Self::default();
                keys.read_into(entries, reader);
                Some(keys)
            }

            fn schema(definitions: &mut $crate::config::grammar::Definitions) -> serde_json::Value {
                definitions.named(stringify!($name), |definitions| {
                    let mut properties = serde_json::Map::new();
                    $(
                        properties.insert(
                            $crate::config::grammar::key_name(stringify!($field)).to_owned(),
                            $crate::config::grammar::described(
                                <$type as $crate::config::grammar::Grammar>::schema(definitions),
                                concat!($($doc, "\n"),*),
                            ),
                        );
                    )*
                    $crate::config::grammar::described(
                        serde_json::json!({
                            "type": "object", "properties": properties, "additionalProperties": false,
                        }),
                        concat!($($about, "\n"),*),
                    )
                })
            }

            fn overlay(&mut self, stronger: Self) {
                $( $crate::config::grammar::overlay_key(&mut self.$field, stronger.$field); )*
            }
        }
    };
}
pub(crate) use keys;

/// `r#type` → `type`.
pub(crate) const fn key_name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

pub(crate) fn overlay_key<T: Grammar>(weaker: &mut Setting<T>, stronger: Setting<T>) {
    match (weaker, stronger) {
        (_, None) => {}
        (Some(weaker), Some(stronger)) => {
            weaker.value.overlay(stronger.value);
            weaker.origin = stronger.origin;
        }
        (weaker @ None, stronger) => *weaker = stronger,
    }
}

pub(crate) fn described(mut schema: Json, documentation: &str) -> Json {
    let text = documentation.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let text = text.trim();
    if let (Json::Object(fields), false) = (&mut schema, text.is_empty()) {
        fields.insert("description".to_owned(), Json::String(text.to_owned()));
    }
    schema
}

/// One thing or a list of them.
impl<T: Grammar> Grammar for Vec<T> {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Value::List(items) = &node.value else {
            return T::decode(node, reader).map(|item| vec![item]);
        };
        let decoded: Self = items.iter().filter_map(|item| T::decode(item, reader)).collect();
        // A list of which nothing could be read says nothing; it was not meant to be empty.
        (items.is_empty() || !decoded.is_empty()).then_some(decoded)
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let item = T::schema(definitions);
        json!({ "anyOf": [item, { "type": "array", "items": item }] })
    }
}

impl<T: Grammar> Grammar for Box<T> {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        T::decode(node, reader).map(Box::new)
    }

    fn schema(definitions: &mut Definitions) -> Json {
        T::schema(definitions)
    }

    fn overlay(&mut self, stronger: Self) {
        (**self).overlay(*stronger);
    }
}

/// A value and its own place, within lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed<T> {
    pub value: T,
    pub location: Location,
}

impl<T: Grammar> Grammar for Placed<T> {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        T::decode(node, reader).map(|value| Self { value, location: node.location })
    }

    fn schema(definitions: &mut Definitions) -> Json {
        T::schema(definitions)
    }
}

/// What the keys of a [`Map`] may be.
pub trait MapKey {
    /// For "expected …" when the value is no table.
    const EXPECTED: &'static str;
    /// A regular expression for the schema; the same set as `problem` accepts.
    const PATTERN: &'static str;

    /// What is wrong with a key, and the remedy.
    fn problem(key: &str) -> Option<(String, &'static str)>;
}

/// A table with free keys.
#[derive(Debug, Clone)]
pub struct Map<K, T> {
    pub entries: IndexMap<String, MapEntry<T>>,
    key: std::marker::PhantomData<K>,
}

#[derive(Debug, Clone)]
pub struct MapEntry<T> {
    pub key_location: Location,
    pub value: Valued<T>,
}

impl<K, T> Default for Map<K, T> {
    fn default() -> Self {
        Self { entries: IndexMap::new(), key: std::marker::PhantomData }
    }
}

impl<K: MapKey, T: Grammar> Grammar for Map<K, T> {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let entries = reader.table(node, K::EXPECTED)?;
        let mut map = Self::default();
        map.entries.reserve(entries.len());
        for entry in entries {
            if let Some((message, help)) = K::problem(&entry.key) {
                reader.report(
                    crate::diag::Diagnostic::error(super::codes::BAD_NAME, message)
                        .at(entry.key_location)
                        .help(help),
                );
            }
            let Some(value) = T::decode(&entry.node, reader) else { continue };
            let value = reader.valued(value, entry.node.location);
            map.entries
                .insert(entry.key.clone().into_owned(), MapEntry { key_location: entry.key_location, value });
        }
        Some(map)
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({
            "type": "object",
            "additionalProperties": T::schema(definitions),
            "propertyNames": { "pattern": K::PATTERN },
        })
    }

    fn overlay(&mut self, stronger: Self) {
        for (key, entry) in stronger.entries {
            match self.entries.get_mut(&key) {
                Some(weaker) => {
                    weaker.value.value.overlay(entry.value.value);
                    weaker.value.origin = entry.value.origin;
                    weaker.key_location = entry.key_location;
                }
                None => {
                    self.entries.insert(key, entry);
                }
            }
        }
    }
}
