//! Paths and globs of the project.

use globset::GlobBuilder;
use serde_json::{Value as Json, json};

use super::{Definitions, Grammar, Plain, Text};
use crate::base::interpolate::interpolate;
use crate::config::codes;
use crate::config::reader::Reader;
use crate::config::tree::Node;

/// A glob over paths relative to the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathGlob(pub String);

impl Grammar for PathGlob {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Text(text) = Text::decode(node, reader)?;
        if let Some((message, help)) = path_problem(&text).or_else(|| glob_problem(&text)) {
            reader.bad_text(codes::BAD_GLOB, node, message, help);
            return None;
        }
        Some(Self(text))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// A glob over names or texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameGlob(pub String);

impl Grammar for NameGlob {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Plain(text) = Plain::decode(node, reader)?;
        if let Some((message, help)) = glob_problem(&text) {
            reader.bad_text(codes::BAD_GLOB, node, message, help);
            return None;
        }
        Some(Self(text))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

fn path_problem(text: &str) -> Option<(String, &'static str)> {
    let help = "globs are relative to the folder of accel.toml: \"src/**/*.py\"";
    let path = text.strip_prefix('!').unwrap_or(text);
    if path.starts_with('/') {
        return Some((format!("`{text}` is an absolute path"), help));
    }
    path.split('/').any(|part| part == "..").then(|| (format!("`{text}` leaves the project"), help))
}

/// What is wrong with a glob, and the remedy. A leading `!` negates.
pub fn glob_problem(text: &str) -> Option<(String, &'static str)> {
    let glob = text.strip_prefix('!').unwrap_or(text);
    if glob.is_empty() {
        return Some(("empty glob".to_owned(), "write a glob: \"src/**\", \"*.py\""));
    }
    // What plain names are made of cannot fail: most globs of a file are plain paths.
    if glob.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-*".contains(&b)) && !glob.contains("***") {
        return None;
    }
    let literal = interpolate(glob, |_| Some("value")).unwrap_or(glob.into());
    let built = GlobBuilder::new(&literal).literal_separator(true).build();
    let help = "close every `[` and `{`; a backslash before a character takes it as it is";
    built.err().map(|error| (format!("bad glob: {}", error.kind()), help))
}

/// A path relative to the project: a file or folder that exists here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectPath(pub String);

impl Grammar for ProjectPath {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Text(text) = Text::decode(node, reader)?;
        let problem = match text.as_str() {
            "" => Some("empty path".to_owned()),
            path if path.starts_with('/') => Some(format!("`{path}` is an absolute path")),
            path if path.split('/').any(|part| part == "..") => Some(format!("`{path}` leaves the project")),
            _ => None,
        };
        if let Some(message) = problem {
            reader.bad_text(
                codes::BAD_VALUE,
                node,
                message,
                "paths are relative to the folder of accel.toml",
            );
            return None;
        }
        Some(Self(text))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}
