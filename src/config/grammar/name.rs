//! Names: of jobs and images, of variables, of mount paths, of things at Modal.

use serde_json::{Value as Json, json};

use super::{Definitions, Grammar, MapKey, Plain};
use crate::config::codes;
use crate::config::reader::Reader;
use crate::config::tree::Node;

/// Names of jobs and images.
#[derive(Debug, Clone)]
pub struct ItemName;

impl MapKey for ItemName {
    const EXPECTED: &'static str = "a table of names";
    const PATTERN: &'static str = r"^[A-Za-z0-9_][A-Za-z0-9_.:/-]*$";

    fn problem(key: &str) -> Option<(String, &'static str)> {
        let first = key.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let rest = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b));
        (!first || !rest).then(|| {
            let help =
                "use letters, digits, `_`, `-`, `.`, `:` and `/`, beginning with a letter, digit or `_`";
            (format!("`{key}` cannot be a name"), help)
        })
    }
}

/// Names of environment variables.
#[derive(Debug, Clone)]
pub struct VariableName;

impl MapKey for VariableName {
    const EXPECTED: &'static str = "a table of variables";
    const PATTERN: &'static str = "^[A-Za-z_][A-Za-z0-9_]*$";

    fn problem(key: &str) -> Option<(String, &'static str)> {
        let first = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let rest = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (!first || !rest).then(|| {
            (
                format!("`{key}` cannot be a variable"),
                "use letters, digits and `_`, not beginning with a digit",
            )
        })
    }
}

/// Absolute paths at which volumes are mounted.
#[derive(Debug, Clone)]
pub struct MountPath;

impl MapKey for MountPath {
    const EXPECTED: &'static str = "a table of mount path = volume";
    const PATTERN: &'static str = "^/.*[^/.]";

    fn problem(key: &str) -> Option<(String, &'static str)> {
        let parts: Vec<&str> = key.split('/').skip(1).filter(|part| !part.is_empty()).collect();
        let bad =
            !key.starts_with('/') || parts.is_empty() || parts.iter().any(|part| matches!(*part, "." | ".."));
        bad.then(|| (format!("`{key}` cannot be mounted at"), "write an absolute path below `/`: \"/cache\""))
    }
}

/// Names of build arguments.
#[derive(Debug, Clone)]
pub struct AnyKey;

impl MapKey for AnyKey {
    const EXPECTED: &'static str = "a table";
    const PATTERN: &'static str = "^.+$";

    fn problem(key: &str) -> Option<(String, &'static str)> {
        key.is_empty().then(|| ("a key cannot be empty".to_owned(), "name it"))
    }
}

/// A commit, by any name that git has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRef(pub String);

impl GitRef {
    /// What is wrong with it, and the remedy.
    pub fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        let good = !text.is_empty()
            && !text.starts_with('-')
            && !text.contains(|c: char| c.is_whitespace() || c.is_control())
            && !text.contains("..");
        if good {
            return Ok(Self(text.to_owned()));
        }
        Err((
            format!("`{text}` names no commit"),
            "name a branch, a tag or a commit: \"origin/develop\", \"HEAD~1\"",
        ))
    }
}

impl Grammar for GitRef {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Plain(text) = Plain::decode(node, reader)?;
        Self::parse(&text)
            .map_err(|(message, help)| reader.bad_text(codes::BAD_NAME, node, message, help))
            .ok()
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": r"^[^-\s][^\s]*$", "not": { "pattern": r"\.\." } })
    }
}

/// The name of something at Modal (secret, volume, app, environment).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName(pub String);

impl Grammar for ObjectName {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Plain(text) = Plain::decode(node, reader)?;
        let good = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !good {
            let help = "use up to 64 letters, digits, `-`, `_` and `.`";
            reader.bad_text(codes::BAD_NAME, node, format!("`{text}` cannot be a name at Modal"), help);
            return None;
        }
        Some(Self(text))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": r"^[A-Za-z0-9_.-]{1,64}$" })
    }
}
