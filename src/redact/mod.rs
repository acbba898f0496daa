//! Known secrets, replaced by [`MASK`] in whatever passes through accel.
//!
//! Owns which values count as secret ([`SecretsBuilder`]), their encodings ([`encodings`]) and the streaming search
//! ([`Masker`]). What must stay true: however a secret is cut into chunks, it is never shown; bytes that are no part
//! of a secret come out unchanged and in order; no more is held back than could still become a secret.
//!
//! | text | masked |
//! |---|---|
//! | what accel itself says: notices, steps, errors, JSON, logs, the journal | always |
//! | output that passes through accel: several jobs, jobs on Modal, `--json`, log files | always |
//! | output of one local job, which has accel's own stdout and stderr | never seen by accel, so its bytes are exact |
//!
//! Secret are those variables, of the environment, of dotenv files and of accel.toml, whose names say so
//! ([`is_secret_name`]), as well as passwords inside their URLs, and Modal tokens. Values of named Modal secrets never reach this machine. Other values
//! (`true`, `8080`, `localhost`) are ordinary words of any log and stay.

mod encodings;
mod masker;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

pub use masker::Masker;

/// What stands where a secret was.
pub const MASK: &str = "***";
/// Shorter values are too likely to be part of any text.
pub const MINIMUM: usize = 4;
/// How long the beginning of what may be a secret is held back from a reader who waits, see [`Masker::flush`].
pub const HOLD: std::time::Duration = std::time::Duration::from_millis(250);

/// Ends of names whose values are secret, as CI systems have them.
const SECRET_ENDS: [&str; 13] = [
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PASS",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "SECRET_KEY",
    "PRIVATE_KEY",
    "CONNECTION_STRING",
    "DSN",
];
/// Words that make the whole name secret wherever they are in it.
const SECRET_WORDS: [&str; 4] = ["SECRET", "PASSWORD", "PRIVATE_KEY", "ACCESS_TOKEN"];

/// Whether a variable of this name holds a secret: `HF_TOKEN`, `DB_PASSWORD`, `AWS_SECRET_ACCESS_KEY`, `OPENAI_API_KEY`.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let ends = |end: &str| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'));
    SECRET_ENDS.iter().copied().any(ends) || SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// The values to hide. Cheap to clone; never prints them.
#[derive(Clone, Default)]
pub struct Secrets(Option<Arc<Search>>);

struct Search {
    automaton: AhoCorasick,
    /// Sorted, for finding what a tail could become.
    patterns: Vec<Vec<u8>>,
    /// Which pairs of bytes a pattern begins with: rules out nearly every tail at once.
    beginnings: Vec<bool>,
    longest: usize,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// A secret that cannot be hidden; `name` is a variable's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmasked {
    TooShort {
        name: String,
    },
    /// Hiding it would hide an ordinary word everywhere.
    Common {
        name: String,
    },
}

/// Values that stand for "no secret yet" or mean something else than themselves.
const COMMON: [&str; 12] = [
    "true",
    "false",
    "null",
    "none",
    "undefined",
    "test",
    "dummy",
    "example",
    "changeme",
    "secret",
    "password",
    "token",
];

impl Unmasked {
    /// For a warning; never the value.
    pub fn text(&self) -> String {
        match self {
            Self::TooShort { name } => {
                format!("the value of {name} is shorter than {MINIMUM} bytes: it is not hidden in output")
            }
            Self::Common { name } => {
                format!("the value of {name} is a common word: it is not hidden in output")
            }
        }
    }
}

#[derive(Default)]
pub struct SecretsBuilder {
    values: BTreeSet<Vec<u8>>,
    unmasked: BTreeMap<String, Unmasked>,
}

impl SecretsBuilder {
    /// A variable: secret by its name, or with a password in its URL.
    #[must_use]
    pub fn variable(self, name: &str, value: &str) -> Self {
        if is_secret_name(name) {
            return self.secret(name, value);
        }
        match url_password(value) {
            Some(password) => self.secret(name, password),
            None => self,
        }
    }

    /// A variable that stands in accel.toml: whoever wrote it there has seen that it is short or common.
    #[must_use]
    pub fn written(self, name: &str, value: &str) -> Self {
        let unmasked = self.unmasked.clone();
        Self { unmasked, ..self.variable(name, value) }
    }

    /// A value that is secret whatever its name.
    #[must_use]
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        let (name, trimmed) = (name.to_owned(), value.trim());
        if COMMON.contains(&trimmed.to_ascii_lowercase().as_str()) {
            self.unmasked.insert(name.clone(), Unmasked::Common { name });
        } else if (1..MINIMUM).contains(&trimmed.len()) {
            self.unmasked.insert(name.clone(), Unmasked::TooShort { name });
        } else if !trimmed.is_empty() {
            self.values.insert(trimmed.as_bytes().to_vec());
        }
        if let Some(password) = url_password(value)
            && password.len() >= MINIMUM
        {
            self.values.insert(password.as_bytes().to_vec());
        }
        self
    }

    /// The secrets, and those that cannot be hidden, by name.
    pub fn build(self) -> (Secrets, Vec<Unmasked>) {
        let unmasked = self.unmasked.into_values().collect();
        let patterns: BTreeSet<Vec<u8>> =
            self.values.iter().flat_map(|value| encodings::encodings(value)).collect();
        if patterns.is_empty() {
            return (Secrets::default(), unmasked);
        }
        let patterns: Vec<Vec<u8>> = patterns.into_iter().collect();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            // Secrets begin like any other text: looking for candidates first was measured five times slower.
            .prefilter(false)
            .kind(kind(&patterns))
            .build(&patterns)
            .expect("patterns fit an automaton: values of files that were read whole");
        let mut beginnings = vec![false; 1 << 16];
        for pattern in &patterns {
            beginnings[usize::from(pattern[0]) << 8 | usize::from(pattern[1])] = true;
        }
        let longest = patterns.iter().map(Vec::len).max().unwrap_or_default();
        (Secrets(Some(Arc::new(Search { automaton, patterns, beginnings, longest }))), unmasked)
    }
}

/// The fastest search that takes a reasonable amount of memory.
fn kind(patterns: &[Vec<u8>]) -> Option<AhoCorasickKind> {
    /// About 1 KiB each in a table of all transitions.
    const MOST_STATES: usize = 40_000;
    let states: usize = patterns.iter().map(Vec::len).sum();
    (states <= MOST_STATES).then_some(AhoCorasickKind::DFA)
}

impl Secrets {
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// A text that is whole.
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let found = self.0.as_ref().is_some_and(|search| search.automaton.is_match(text));
        if !found {
            return Cow::Borrowed(text);
        }
        let mut masked = Vec::with_capacity(text.len());
        let mut masker = Masker::new(self);
        masker.push(text.as_bytes(), &mut masked);
        masker.finish(&mut masked);
        Cow::Owned(String::from_utf8_lossy(&masked).into_owned())
    }
}

/// The password or token inside a URL.
fn url_password(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("://")?;
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let (user, _) = authority.rsplit_once('@')?;
    let password = user.split_once(':').map_or(user, |(_, password)| password);
    (!password.is_empty()).then_some(password)
}

#[cfg(test)]
mod tests;
