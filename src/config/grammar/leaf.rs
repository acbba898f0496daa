//! Single values: texts, numbers, units.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{Definitions, Grammar};
use crate::base::duration::{DURATION_HELP, parse_duration, seconds_to_duration};
use crate::base::money::{Dollars, MONEY_HELP};
use crate::base::size::{Bytes, SIZE_HELP};
use crate::config::codes;
use crate::config::reader::Reader;
use crate::config::tree::{Node, Value};

/// A text in which `${matrix.NAME}` is filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl Grammar for Text {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Value::String(text) = &node.value else {
            reader.wrong_type(node, "a string");
            return None;
        };
        reader.note_placeholders(text, node.location);
        Some(Self(text.clone().into_owned()))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string" })
    }
}

/// A text in which nothing is filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain(pub String);

impl Grammar for Plain {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Value::String(text) = &node.value else {
            reader.wrong_type(node, "a string");
            return None;
        };
        if crate::base::interpolate::may_hold_placeholder(text) {
            reader.bad_text(codes::BAD_PLACEHOLDER, node, String::new(), "write the text itself");
            return None;
        }
        Some(Self(text.clone().into_owned()))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string" })
    }
}

/// A text; a number or a boolean is taken as it is spelt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar(pub String);

impl Grammar for Scalar {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let text = match &node.value {
            Value::String(text) | Value::Float(text) | Value::Integer { text, .. } => {
                text.clone().into_owned()
            }
            Value::Bool(value) => value.to_string(),
            _ => {
                reader.wrong_type(node, "a string, a number or a boolean");
                return None;
            }
        };
        reader.note_placeholders(&text, node.location);
        Some(Self(text))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

impl Grammar for bool {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                reader.wrong_type(node, "true or false");
                None
            }
        }
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "boolean" })
    }
}

/// The number of a node, whole or not.
pub fn number(node: &Node<'_>) -> Option<f64> {
    match &node.value {
        Value::Integer { value, .. } => value.map(|value| value as f64),
        Value::Float(text) => text.parse().ok().filter(|value: &f64| value.is_finite()),
        _ => None,
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> Grammar for Whole<MIN, MAX> {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let expected = format!("a whole number from {MIN} to {MAX}");
        let Value::Integer { value, text } = &node.value else {
            reader.wrong_type(node, &expected);
            return None;
        };
        let value = value.and_then(|value| u32::try_from(value).ok());
        let Some(value) = value.filter(|value| (MIN..=MAX).contains(value)) else {
            reader.bad_text(
                codes::BAD_VALUE,
                node,
                format!("{text} is out of range"),
                &format!("write {expected}"),
            );
            return None;
        };
        Some(Self(value))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// A count of cores, more than zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cores(pub f64);

impl Grammar for Cores {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        match number(node) {
            Some(cores) if cores > 0.0 && cores <= 4096.0 => Some(Self(cores)),
            Some(cores) => {
                let help = "write a number of cores: 0.5, 4";
                reader.bad_text(codes::BAD_VALUE, node, format!("{cores} is no number of cores"), help);
                None
            }
            None => {
                reader.wrong_type(node, "a number of cores, such as 4 or 0.5");
                None
            }
        }
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 4096 })
    }
}

/// A request, or `[request, limit]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OrLimit<T> {
    pub request: T,
    pub limit: Option<T>,
}

impl<T: Grammar> Grammar for OrLimit<T> {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Value::List(items) = &node.value else {
            return Some(Self { request: T::decode(node, reader)?, limit: None });
        };
        let [request, limit] = items.as_slice() else {
            reader.report(
                crate::diag::Diagnostic::error(codes::BAD_VALUE, "expected two values: request and limit")
                    .at(node.location)
                    .help("write one value, or `[request, limit]`"),
            );
            return None;
        };
        let (request, limit) = (T::decode(request, reader), T::decode(limit, reader));
        Some(Self { request: request?, limit: Some(limit?) })
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let item = T::schema(definitions);
        json!({ "anyOf": [item, { "type": "array", "items": item, "minItems": 2, "maxItems": 2 }] })
    }
}

/// Memory: a size with a unit; a bare number is MiB, as in Modal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(pub Bytes);

impl Grammar for Memory {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        if let Value::Integer { value, text } = &node.value {
            let bytes = value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0);
            let Some(bytes) = bytes.and_then(|mebibytes| mebibytes.checked_mul(1 << 20)) else {
                reader.bad_text(codes::BAD_VALUE, node, format!("{text} is no amount of memory"), SIZE_HELP);
                return None;
            };
            return Some(Self(Bytes(bytes)));
        }
        size(node, reader).map(Self)
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": ["string", "integer"], "examples": ["8GiB", 512] })
    }
}

impl Grammar for Bytes {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        size(node, reader)
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "examples": ["300MB", "8GiB"] })
    }
}

fn size(node: &Node<'_>, reader: &mut Reader) -> Option<Bytes> {
    let Value::String(text) = &node.value else {
        reader.wrong_type(node, "a size with a unit, such as \"8GiB\"");
        return None;
    };
    Bytes::parse(text)
        .map_err(|error| reader.bad_text(codes::BAD_UNIT, node, error.to_string(), SIZE_HELP))
        .ok()
}

impl Grammar for Duration {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let parsed = match (&node.value, number(node)) {
            (Value::String(text), _) => parse_duration(text),
            (_, Some(seconds)) => seconds_to_duration(seconds),
            _ => {
                reader.wrong_type(node, "a duration, such as \"90s\"");
                return None;
            }
        };
        parsed.map_err(|error| reader.bad_text(codes::BAD_UNIT, node, error.to_string(), DURATION_HELP)).ok()
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": ["string", "number"], "examples": ["90s", "10m", "1h30m"] })
    }
}

impl Grammar for Dollars {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Value::String(text) = &node.value else {
            reader.wrong_type(node, "an amount, such as \"$0.50\"");
            return None;
        };
        let amount = Self::parse(text);
        if amount.is_none() {
            reader.bad_text(codes::BAD_UNIT, node, format!("`{text}` is no amount of money"), MONEY_HELP);
        }
        amount
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": r"^\s*\$[0-9.]+\s*$", "examples": ["$0.50"] })
    }
}

/// `"x2"` or `2`: more than one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factor(pub f64);

impl Grammar for Factor {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let factor = match &node.value {
            Value::String(text) => {
                text.trim().strip_prefix('x').and_then(|number| number.trim().parse().ok())
            }
            _ => number(node),
        };
        match (factor, &node.value) {
            (Some(factor), _) if factor > 1.0 && factor <= 1000.0 => return Some(Self(factor)),
            (_, Value::String(_)) | (Some(_), _) => {
                reader.bad_text(
                    codes::BAD_UNIT,
                    node,
                    "not a factor above one".into(),
                    "write a factor: \"x2\"",
                );
            }
            _ => reader.wrong_type(node, "a factor, such as \"x2\""),
        }
        None
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": ["string", "number"], "examples": ["x2"] })
    }
}

/// A TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub u16);

impl Grammar for Port {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Value::Integer { value, text } = &node.value else {
            reader.wrong_type(node, "a port number");
            return None;
        };
        let port = value.and_then(|value| u16::try_from(value).ok()).filter(|port| *port > 0);
        if port.is_none() {
            let help = "write a port from 1 to 65535";
            reader.bad_text(codes::BAD_VALUE, node, format!("{text} is no port"), help);
        }
        port.map(Self)
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "integer", "minimum": 1, "maximum": 65535 })
    }
}
