//! Index and installer options: which go into arguments, which into variables.
//!
//! What must stay true: an address that may carry credentials is never an argument, where every user of the
//! machine could read it.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::host::Host;
use crate::plan::spec::{Installer, PipOptions};

/// Options taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub args: Vec<String>,
    index: Option<String>,
    extra: Vec<String>,
    links: Vec<String>,
}

/// `extra_options` that is not words of a shell.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("extra_options has an open quote")]
pub(super) struct OpenQuote;

pub(super) fn take(options: &PipOptions, installer: Installer) -> Result<Taken, OpenQuote> {
    let mut taken = Taken {
        index: options.index_url.clone(),
        extra: options.extra_index_url.iter().cloned().collect(),
        links: options.find_links.iter().cloned().collect(),
        ..Taken::default()
    };
    if options.pre {
        taken.args.push(match installer {
            Installer::Uv => "--prerelease=allow".to_owned(),
            Installer::Pip => "--pre".to_owned(),
        });
    }
    taken.add_words(words(options.extra_options.as_deref())?);
    Ok(taken)
}

/// The words of an `extra_options`.
pub(super) fn words(text: Option<&str>) -> Result<Vec<String>, OpenQuote> {
    shlex::split(text.unwrap_or_default()).ok_or(OpenQuote)
}

impl Taken {
    /// Sets indexes aside and keeps the other words as arguments.
    pub fn add_words(&mut self, words: Vec<String>) {
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (word.clone(), None),
            };
            let place = match name.as_str() {
                "--index-url" | "--default-index" | "-i" => Place::Index,
                "--extra-index-url" | "--index" => Place::Extra,
                "--find-links" | "-f" => Place::Links,
                _ => {
                    self.args.push(word);
                    continue;
                }
            };
            let Some(value) = value.or_else(|| words.next()) else { continue };
            match place {
                Place::Index => self.index = Some(value),
                Place::Extra => self.extra.push(value),
                Place::Links => self.links.push(value),
            }
        }
    }

    /// Puts the indexes where the installer finds them. An image that names any is on its own: the user's do
    /// not count then.
    pub fn set_indexes(&self, env: &mut BTreeMap<OsString, OsString>, installer: Installer) {
        if self.index.is_some() || !self.extra.is_empty() {
            Host::without_indexes(env);
        }
        let (index, extra, links, between) = match installer {
            Installer::Uv => ("UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", ","),
            Installer::Pip => ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", " "),
        };
        if let Some(url) = &self.index {
            env.insert(index.into(), url.into());
        }
        if !self.extra.is_empty() {
            env.insert(extra.into(), self.extra.join(" ").into());
        }
        if !self.links.is_empty() {
            env.insert(links.into(), self.links.join(between).into());
        }
    }
}

enum Place {
    Index,
    Extra,
    Links,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_variables_and_never_arguments() {
        let options = PipOptions {
            index_url: Some("https://u:pw@index.example/simple".into()),
            find_links: Some("wheels".into()),
            pre: true,
            extra_options: Some(
                "--no-deps --extra-index-url 'https://t:pw@more.example' -f other --index=https://pw@x"
                    .into(),
            ),
            ..PipOptions::default()
        };
        let taken = take(&options, Installer::Uv).unwrap();
        assert_eq!(taken.args, ["--prerelease=allow", "--no-deps"]);
        let mut env = BTreeMap::from([("UV_INDEX".into(), "https://mine".into()), ("A".into(), "b".into())]);
        taken.set_indexes(&mut env, Installer::Uv);
        let shown: Vec<String> =
            env.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
        assert_eq!(
            shown,
            [
                "A=b",
                "UV_DEFAULT_INDEX=https://u:pw@index.example/simple",
                "UV_EXTRA_INDEX_URL=https://t:pw@more.example https://pw@x",
                "UV_FIND_LINKS=wheels,other",
            ]
        );
    }

    #[test]
    fn without_options_the_users_indexes_stay() {
        let mut env = BTreeMap::from([("UV_INDEX".into(), "https://mine".into())]);
        take(&PipOptions::default(), Installer::Pip).unwrap().set_indexes(&mut env, Installer::Pip);
        assert_eq!(env.len(), 1);
        let options = PipOptions { extra_options: Some("'open".into()), ..PipOptions::default() };
        assert_eq!(take(&options, Installer::Uv), Err(OpenQuote));
    }
}
