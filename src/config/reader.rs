//! What decoding needs along the way: the layer at hand and the findings so far.

use super::codes;
use super::model::{Layer, Origin, Valued};
use super::tree::{Entry, Node, Value};
use crate::base::interpolate;
use crate::base::suggest::nearest;
use crate::diag::{Diagnostic, Location};

/// Collects findings while a tree is decoded. A value that cannot be read is reported here and left out, so
/// that everything after it is still checked.
#[derive(Debug)]
pub struct Reader {
    layer: Layer,
    pub diagnostics: Vec<Diagnostic>,
    /// Every placeholder of the texts read so far.
    pub placeholders: Vec<Placeholder>,
}

/// `${matrix.NAME}` in a text.
#[derive(Debug, Clone)]
pub struct Placeholder {
    pub name: String,
    pub location: Location,
}

impl Reader {
    pub fn new(layer: Layer) -> Self {
        Self { layer, diagnostics: Vec::new(), placeholders: Vec::new() }
    }

    /// Runs `decode` with its values belonging to another layer.
    pub fn in_layer<T>(&mut self, layer: Layer, decode: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.layer, layer);
        let decoded = decode(self);
        self.layer = outer;
        decoded
    }

    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    pub fn valued<T>(&self, value: T, location: Location) -> Valued<T> {
        Valued { value, origin: Origin { layer: self.layer.clone(), location: Some(location) } }
    }

    pub fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Reports a value of another type. A text with a placeholder where none is filled in is told apart.
    pub fn wrong_type(&mut self, node: &Node<'_>, expected: &str) {
        if let Value::String(text) = &node.value
            && interpolate::may_hold_placeholder(text)
        {
            return self.placeholder_not_allowed(node, expected);
        }
        self.report(
            Diagnostic::error(codes::WRONG_TYPE, format!("expected {expected}, found {}", node.kind()))
                .at(node.location)
                .label(format!("this is {}", node.kind()))
                .help(format!("write {expected}")),
        );
    }

    /// Reports a text that cannot be read as what it should be.
    pub fn bad_text(&mut self, code: &'static str, node: &Node<'_>, message: String, help: &str) {
        if let Value::String(text) = &node.value
            && interpolate::may_hold_placeholder(text)
        {
            return self.placeholder_not_allowed(node, help);
        }
        self.report(Diagnostic::error(code, message).at(node.location).help(help));
    }

    fn placeholder_not_allowed(&mut self, node: &Node<'_>, help: &str) {
        self.report(
            Diagnostic::error(codes::BAD_PLACEHOLDER, "no placeholder is filled in here")
                .at(node.location)
                .help(help)
                .help("placeholders work in texts: commands, env, globs, images, gpu"),
        );
    }

    pub fn table<'n, 't>(&mut self, node: &'n Node<'t>, expected: &str) -> Option<&'n [Entry<'t>]> {
        match &node.value {
            Value::Table(entries) => Some(entries),
            _ => {
                self.wrong_type(node, expected);
                None
            }
        }
    }

    pub fn unknown_key(&mut self, entry: &Entry<'_>, keys: &[&str], about: &str) {
        let mut found =
            Diagnostic::error(codes::UNKNOWN_KEY, format!("unknown key `{}` in {about}", entry.key))
                .at(entry.key_location);
        found = match moved_key(about, &entry.key).or_else(|| nearest(&entry.key, keys.iter().copied())) {
            Some(near) => found.label(format!("did you mean `{near}`?")).help(format!("write `{near}`")),
            None => found.help(format!("known keys: {}", keys.join(", "))),
        };
        self.report(found);
    }

    pub fn missing_key(&mut self, location: Location, key: &str, about: &str) {
        self.report(
            Diagnostic::error(codes::MISSING_KEY, format!("{about} has no `{key}`"))
                .at(location)
                .help(format!("add `{key} = …`")),
        );
    }

    /// Notes the placeholders of a text, and reports what only looks like one.
    pub fn note_placeholders(&mut self, text: &str, location: Location) {
        if !interpolate::may_hold_placeholder(text) {
            return;
        }
        match interpolate::placeholders(text) {
            Ok(found) => self
                .placeholders
                .extend(found.into_iter().map(|found| Placeholder { name: found.name.to_owned(), location })),
            Err(error) => self.report(
                Diagnostic::error(codes::BAD_PLACEHOLDER, error.to_string())
                    .at(location)
                    .help(interpolate::INTERPOLATE_HELP),
            ),
        }
    }
}

/// Keys that other tools spell differently.
fn moved_key(about: &str, key: &str) -> Option<&'static str> {
    match (about, key) {
        ("a job", "cmd" | "command" | "commands" | "script" | "cmds") => Some("run"),
        ("a job", "depends" | "depends_on" | "deps" | "dependencies" | "requires") => Some("needs"),
        ("a job", "description" | "help") => Some("desc"),
        ("a job", "dir" | "workdir" | "working_directory") => Some("cwd"),
        ("a job", "sources") => Some("inputs"),
        ("a job", "generates" | "artifacts") => Some("outputs"),
        ("a job", "env_file" | "envfile") => Some("dotenv"),
        ("an image", "packages" | "dependencies") => Some("pip"),
        ("an image", "image") => Some("base"),
        _ => None,
    }
}

/// Reports values that are Modal tokens: whoever reads the repository could use them.
pub fn find_credentials(node: &Node<'_>, reader: &mut Reader) {
    let mut open = vec![node];
    while let Some(node) = open.pop() {
        match &node.value {
            Value::List(items) => open.extend(items),
            Value::Table(entries) => open.extend(entries.iter().map(|entry| &entry.node)),
            Value::String(text) if is_credential(text) => reader.report(
                Diagnostic::error(codes::SECRET_IN_FILE, "a credential in a file that is shared")
                    .at(node.location)
                    .label("revoke it: it may have been read")
                    .help("keep Modal tokens in ~/.modal.toml or MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, others in Modal secrets"),
            ),
            _ => {}
        }
    }
}

/// Modal's token ids and secrets, and the best known token prefixes of others, followed by enough letters.
fn is_credential(text: &str) -> bool {
    const PREFIXES: [&str; 10] =
        ["ak-", "as-", "hf_", "ghp_", "gho_", "github_pat_", "glpat-", "sk-ant-", "AKIA", "xoxb-"];
    const SHORTEST_SECRET: usize = 16;
    let bytes = text.as_bytes();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let may_start = |at: usize| {
        matches!(bytes[at], b'a' | b'h' | b'g' | b's' | b'A' | b'x') && (at == 0 || !is_word(bytes[at - 1]))
    };
    (0..bytes.len().saturating_sub(SHORTEST_SECRET)).filter(|at| may_start(*at)).any(|at| {
        PREFIXES.iter().filter_map(|prefix| bytes[at..].strip_prefix(prefix.as_bytes())).any(|rest| {
            let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
            let word = &rest[..length];
            length >= SHORTEST_SECRET && word.iter().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
        })
    })
}
