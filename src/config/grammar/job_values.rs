//! What the keys of a job take: commands, GPUs, secrets, causes, matrices.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::job::{FallbackKeys, GpuKeys, SecretKeys, VolumeKeys, WarmKeys};
use super::{
    Definitions, Grammar, ImageKeys, Map, MapEntry, MapKey, ObjectName, Placed, Plain, Scalar, Text,
};
use crate::base::compare::Operator;
use crate::base::duration::{DURATION_HELP, parse_duration};
use crate::config::codes;
use crate::config::model::{Command, FallbackOn};
use crate::config::reader::Reader;
use crate::config::tree::{Node, Value};
use crate::diag::{Diagnostic, Location};
use crate::domain::{Cause, Gpu};

impl Grammar for Command {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        if !matches!(node.value, Value::String(_) | Value::List(_)) {
            reader.wrong_type(node, "a command: a string for a shell, or a list of words");
            return None;
        }
        if let Value::List(items) = &node.value {
            let words = items.iter().map(|item| Text::decode(item, reader)).collect::<Vec<_>>();
            let words = words.into_iter().collect::<Option<Vec<_>>>()?;
            if words.first().is_none_or(|program| program.0.is_empty()) {
                reader
                    .report(Diagnostic::error(codes::BAD_VALUE, "an empty command").at(node.location).help(
                    "write a program and its arguments; leave `run` out for a job that only groups others",
                ));
                return None;
            }
            return Some(Self::Argv(words.into_iter().map(|word| word.0).collect()));
        }
        let Text(text) = Text::decode(node, reader)?;
        if text.trim().is_empty() {
            reader.bad_text(
                codes::BAD_VALUE,
                node,
                "an empty command".into(),
                "write a command, or leave `run` out",
            );
            return None;
        }
        Some(Self::Shell(text))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "array", "items": { "type": "string" }, "minItems": 1 },
        ] })
    }
}

/// `image = "py"` or `image = { from = "py", … }`.
#[derive(Debug, Clone)]
pub enum ImageValue {
    Named(String),
    Inline(Box<ImageKeys>),
}

impl Grammar for ImageValue {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Table(_) => ImageKeys::decode(node, reader).map(|keys| Self::Inline(Box::new(keys))),
            Value::String(_) => Plain::decode(node, reader).map(|name| Self::Named(name.0)),
            _ => {
                reader.wrong_type(node, "an image: a name from [images], or a table of image keys");
                None
            }
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [{ "type": "string" }, ImageKeys::schema(definitions)] })
    }

    fn overlay(&mut self, stronger: Self) {
        match (self, stronger) {
            (Self::Inline(weaker), Self::Inline(stronger)) => weaker.overlay(stronger),
            (weaker, stronger) => *weaker = stronger,
        }
    }
}

/// A GPU text, checked unless it has placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuName(pub String);

impl Grammar for GpuName {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Text(text) = Text::decode(node, reader)?;
        if crate::base::interpolate::may_hold_placeholder(&text) {
            return Some(Self(text));
        }
        match Gpu::parse(&text) {
            Ok(gpu) => {
                if let Some((message, help)) = gpu.doubt() {
                    reader.report(
                        Diagnostic::warning(codes::UNKNOWN_GPU, message).at(node.location).help(help),
                    );
                }
                Some(Self(text))
            }
            Err(error) => {
                reader.report(
                    Diagnostic::error(codes::BAD_GPU, error.to_string()).at(node.location).help(error.help()),
                );
                None
            }
        }
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "minLength": 1, "examples": ["L4", "A100-80GB:2"] })
    }
}

/// One entry of `gpu`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuEntry {
    pub text: String,
    pub wait: Option<Duration>,
    pub location: Location,
}

impl Grammar for GpuEntry {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let location = node.location;
        match &node.value {
            Value::Table(_) => {
                let keys = GpuKeys::decode(node, reader)?;
                let Some(kind) = keys.r#type else {
                    reader.missing_key(location, "type", GpuKeys::SPOKEN);
                    return None;
                };
                Some(Self { text: kind.value.0, wait: keys.wait.map(|wait| wait.value), location })
            }
            Value::String(_) => {
                GpuName::decode(node, reader).map(|name| Self { text: name.0, wait: None, location })
            }
            _ => {
                reader.wrong_type(node, "a gpu, such as \"L4\" or { type = \"L4\", wait = \"30s\" }");
                None
            }
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let mut keys = GpuKeys::schema(definitions);
        keys = json!({ "allOf": [keys], "required": ["type"] });
        json!({ "anyOf": [GpuName::schema(definitions), keys] })
    }
}

/// One entry of `secrets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretEntry {
    pub name: String,
    pub required_keys: Vec<String>,
    pub location: Location,
}

impl Grammar for SecretEntry {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let location = node.location;
        if !matches!(node.value, Value::Table(_)) {
            return ObjectName::decode(node, reader).map(|name| Self {
                name: name.0,
                required_keys: Vec::new(),
                location,
            });
        }
        let keys = SecretKeys::decode(node, reader)?;
        let Some(name) = keys.name else {
            reader.missing_key(location, "name", SecretKeys::SPOKEN);
            return None;
        };
        let required = keys.required_keys.map(|keys| keys.value).unwrap_or_default();
        let required_keys = required.into_iter().map(|key| key.0).collect();
        Some(Self { name: name.value.0, required_keys, location })
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let keys = SecretKeys::schema(definitions);
        json!({ "anyOf": [ObjectName::schema(definitions), { "allOf": [keys], "required": ["name"] }] })
    }
}

/// One value of `volumes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeEntry {
    pub name: String,
    pub read_only: bool,
}

impl Grammar for VolumeEntry {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        if !matches!(node.value, Value::Table(_)) {
            return ObjectName::decode(node, reader).map(|name| Self { name: name.0, read_only: false });
        }
        let keys = VolumeKeys::decode(node, reader)?;
        let Some(name) = keys.name else {
            reader.missing_key(node.location, "name", VolumeKeys::SPOKEN);
            return None;
        };
        Some(Self { name: name.value.0, read_only: keys.read_only.is_some_and(|read_only| read_only.value) })
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let keys = VolumeKeys::schema(definitions);
        json!({ "anyOf": [ObjectName::schema(definitions), { "allOf": [keys], "required": ["name"] }] })
    }
}

/// `"2s..30s"`: first and longest delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff(pub Duration, pub Duration);

impl Grammar for Backoff {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Value::String(text) = &node.value else {
            return Duration::decode(node, reader).map(|both| Self(both, both));
        };
        let (first, longest) = text.split_once("..").unwrap_or((text, text));
        match (parse_duration(first), parse_duration(longest)) {
            (Ok(first), Ok(longest)) if first <= longest => Some(Self(first, longest)),
            (Ok(_), Ok(_)) => {
                let message = "the first delay is longer than the longest".to_owned();
                reader.bad_text(codes::BAD_VALUE, node, message, "write the shorter one first: \"2s..30s\"");
                None
            }
            (Err(error), _) | (_, Err(error)) => {
                reader.bad_text(codes::BAD_UNIT, node, error.to_string(), "write \"2s..30s\"");
                None
            }
        }
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": ["string", "number"], "examples": ["2s..30s"] })
    }
}

impl Grammar for FallbackOn {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Value::String(text) = &node.value else {
            reader.wrong_type(node, "a cause, such as \"capacity\" or \"queue>45s\"");
            return None;
        };
        let Some(compared) = text.trim().strip_prefix("queue").map(str::trim).filter(|rest| !rest.is_empty())
        else {
            let cause = Cause::decode(node, reader)?;
            if matches!(cause, Cause::Command | Cause::Timeout) {
                let message = format!("a `{cause}` failure never falls back");
                let help = "it would fail in the other place too; use `retry` to try again";
                reader.bad_text(codes::NEVER_FIRES, node, message, help);
                return None;
            }
            return Some(Self::Cause(cause));
        };
        match Operator::split(compared).map(|(operator, bound)| (operator, parse_duration(bound))) {
            Some((Operator::Greater | Operator::GreaterOrEqual, Ok(bound))) => Some(Self::QueueLonger(bound)),
            Some((Operator::Greater | Operator::GreaterOrEqual, Err(error))) => {
                reader.bad_text(codes::BAD_UNIT, node, error.to_string(), DURATION_HELP);
                None
            }
            Some(_) => {
                let message = "a wait can only be longer than a bound".to_owned();
                reader.bad_text(codes::BAD_COMPARISON, node, message, "write \"queue>45s\"");
                None
            }
            None => Cause::decode(node, reader).map(Self::Cause),
        }
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "anyOf": [
            { "enum": ["infra", "unreachable", "auth", "capacity", "queue", "image", "oom", "preempted"] },
            { "type": "string", "pattern": r"^\s*queue\s*>=?.+$" },
        ] })
    }
}

/// One fallback or several, each with its place.
#[derive(Debug, Clone)]
pub struct FallbackChain(pub Vec<Placed<FallbackKeys>>);

impl Grammar for FallbackChain {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        Vec::decode(node, reader).map(Self)
    }

    fn schema(definitions: &mut Definitions) -> Json {
        Vec::<FallbackKeys>::schema(definitions)
    }

    /// One on top of one: key by key, as other tables. Chains replace each other.
    fn overlay(&mut self, stronger: Self) {
        match (self.0.as_mut_slice(), <[_; 1]>::try_from(stronger.0)) {
            ([weaker], Ok([stronger])) => {
                weaker.value.overlay(stronger.value);
                weaker.location = stronger.location;
            }
            (_, Ok(stronger)) => self.0 = stronger.into(),
            (_, Err(stronger)) => self.0 = stronger,
        }
    }
}

/// `false`, or how long.
#[derive(Debug, Clone)]
pub enum WarmValue {
    OneShot,
    Keep(WarmKeys),
}

impl Grammar for WarmValue {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Bool(false) => Some(Self::OneShot),
            Value::Bool(true) => Some(Self::Keep(WarmKeys::default())),
            Value::Table(_) => WarmKeys::decode(node, reader).map(Self::Keep),
            _ => {
                reader.wrong_type(node, "false, true, or { idle = \"10m\", max = \"4h\" }");
                None
            }
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [{ "type": "boolean" }, WarmKeys::schema(definitions)] })
    }

    fn overlay(&mut self, stronger: Self) {
        match (self, stronger) {
            (Self::Keep(weaker), Self::Keep(stronger)) => weaker.overlay(stronger),
            (weaker, stronger) => *weaker = stronger,
        }
    }
}

/// An address range: `10.0.0.0/8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cidr(pub String);

impl Grammar for Cidr {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Plain(text) = Plain::decode(node, reader)?;
        let good = text.split_once('/').is_some_and(|(address, bits)| {
            let longest = match address.parse::<std::net::IpAddr>() {
                Ok(std::net::IpAddr::V4(_)) => 32,
                Ok(std::net::IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            bits.parse::<u8>().is_ok_and(|bits| bits <= longest)
        });
        if !good {
            let help = "write an address and its bits: \"10.0.0.0/8\"";
            reader.bad_text(codes::BAD_VALUE, node, format!("`{text}` is no address range"), help);
            return None;
        }
        Some(Self(text))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]+$" })
    }
}

/// `matrix = { axis = [values], exclude = [{ axis = value }] }`; also merged axis by axis.
#[derive(Debug, Clone, Default)]
pub struct MatrixValues {
    pub axes: Map<AxisName, Vec<Scalar>>,
    pub exclude: Vec<Placed<Map<AxisName, Scalar>>>,
}

#[derive(Debug, Clone)]
pub struct AxisName;

impl MapKey for AxisName {
    const EXPECTED: &'static str = "a table of axis = values";
    const PATTERN: &'static str = "^[A-Za-z0-9_-]+$";

    fn problem(key: &str) -> Option<(String, &'static str)> {
        (!crate::base::interpolate::is_axis_name(key))
            .then(|| (format!("`{key}` cannot be an axis"), "use letters, digits, `_` and `-`"))
    }
}

impl Grammar for MatrixValues {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let entries = reader.table(node, "a table of axis = values")?;
        let mut matrix = Self::default();
        for entry in entries {
            if entry.key == "exclude" {
                matrix.exclude = Vec::decode(&entry.node, reader).unwrap_or_default();
                continue;
            }
            if let Some((message, help)) = AxisName::problem(&entry.key) {
                reader.report(Diagnostic::error(codes::BAD_NAME, message).at(entry.key_location).help(help));
                continue;
            }
            let Some(values) = Vec::<Scalar>::decode(&entry.node, reader) else { continue };
            if values.is_empty() {
                reader.report(
                    Diagnostic::error(codes::BAD_VALUE, format!("axis `{}` has no values", entry.key))
                        .at(entry.node.location)
                        .help("give it at least one value, or leave it out"),
                );
            }
            let value = reader.valued(values, entry.node.location);
            let entry_value = MapEntry { key_location: entry.key_location, value };
            matrix.axes.entries.insert(entry.key.clone().into_owned(), entry_value);
        }
        Some(matrix)
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let combination = Map::<AxisName, Scalar>::schema(definitions);
        json!({
            "type": "object",
            "properties": { "exclude": { "anyOf": [combination, { "type": "array", "items": combination }] } },
            "additionalProperties": Vec::<Scalar>::schema(definitions),
        })
    }

    fn overlay(&mut self, stronger: Self) {
        self.axes.overlay(stronger.axes);
        if !stronger.exclude.is_empty() {
            self.exclude = stronger.exclude;
        }
    }
}
