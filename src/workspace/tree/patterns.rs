//! Glob lists over project paths.
//!
//! `*` and `?` stay within a name, `**` crosses folders. A pattern that names a folder covers what is in it, and
//! `folder/**` covers the folder too.

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a pattern: {reason}")]
pub struct PatternError {
    pub pattern: String,
    pub reason: String,
}

/// Patterns in order; empty matches nothing.
#[derive(Debug, Clone, Default)]
pub struct PatternSet {
    set: GlobSet,
    /// For each glob of `set`, the pattern that it came from.
    origin: Vec<usize>,
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    /// Names along the way, for [`PatternSet::may_match_below`].
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Name(GlobMatcher),
    /// `**`, or something whose extent is not known: anything may follow.
    Anything,
}

impl PatternSet {
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        let mut builder = GlobSetBuilder::new();
        let mut made = Self::default();
        for text in patterns {
            let normal = normal(text);
            let mut add = |pattern: &str| -> Result<(), PatternError> {
                builder.add(glob(pattern)?);
                made.origin.push(made.patterns.len());
                Ok(())
            };
            add(normal)?;
            if let Some(folder) = normal.strip_suffix("/**").filter(|folder| !folder.is_empty()) {
                add(folder)?;
            }
            made.patterns.push(Pattern { text: text.to_owned(), steps: steps(normal)? });
        }
        made.set = builder
            .build()
            .map_err(|error| PatternError { pattern: String::new(), reason: error.to_string() })?;
        Ok(made)
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The first pattern, by index, that matches the path itself.
    pub fn matching(&self, path: &str) -> Option<usize> {
        if self.patterns.is_empty() || !self.set.is_match(path) {
            return None;
        }
        self.set.matches(path).into_iter().map(|glob| self.origin[glob]).min()
    }

    /// The first pattern that matches the path or a folder above it.
    pub fn covering(&self, path: &str) -> Option<usize> {
        if self.patterns.is_empty() {
            return None;
        }
        let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        folders.chain([path]).find_map(|path| self.matching(path))
    }

    /// Whether something inside the folder could match: errs towards yes.
    pub fn may_match_below(&self, folder: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.may_match_below(folder))
    }

    /// The pattern as written.
    pub fn text(&self, index: usize) -> &str {
        &self.patterns[index].text
    }

    /// Whether the pattern is this very path, without wildcards.
    pub fn names_exactly(&self, path: &str) -> bool {
        self.patterns.iter().any(|pattern| normal(&pattern.text) == path)
    }
}

impl Pattern {
    fn may_match_below(&self, folder: &str) -> bool {
        let mut steps = self.steps.iter();
        for name in folder.split('/') {
            match steps.next() {
                Some(Step::Anything) => return true,
                Some(Step::Name(glob)) if glob.is_match(name) => {}
                _ => return false,
            }
        }
        steps.next().is_some()
    }
}

fn normal(pattern: &str) -> &str {
    pattern.trim_start_matches("./").trim_start_matches('/').trim_end_matches('/')
}

fn glob(pattern: &str) -> Result<Glob, PatternError> {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|error| PatternError { pattern: pattern.to_owned(), reason: error.kind().to_string() })
}

fn steps(pattern: &str) -> Result<Vec<Step>, PatternError> {
    let mut steps = Vec::new();
    for name in pattern.split('/') {
        // Braces and classes may hold a slash, so such a name may not be the whole of it.
        if name.contains("**") || name.contains(['{', '[', '\\']) {
            steps.push(Step::Anything);
            break;
        }
        steps.push(Step::Name(glob(name)?.compile_matcher()));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, path: &str) -> bool {
        PatternSet::new([pattern]).unwrap().covering(path).is_some()
    }

    #[test]
    fn patterns_cover_what_they_name() {
        for (pattern, path, expected) in [
            ("docs/**", "docs/a/b", true),
            ("docs/**", "docs", true),
            ("docs", "docs/a/b", true),
            ("docs/", "docs/a", true),
            ("./docs/*.md", "docs/a.md", true),
            ("/docs/*.md", "docs/a.md", true),
            ("docs/*.md", "docs/x/a.md", false),
            ("*.md", "docs/a.md", false),
            ("**/*.md", "docs/x/a.md", true),
            ("**/*.md", "a.md", true),
            ("{a,b/c}/x", "b/c/x", true),
            ("data-?", "data-é", false),
        ] {
            assert_eq!(covers(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn folders_that_may_hold_matches_are_found() {
        for (pattern, folder, expected) in [
            ("data/golden/**", "data", true),
            ("data/golden/**", "data/golden", true),
            ("data/golden/**", "data/golden/deep", true),
            ("data/golden/**", "database", false),
            ("data/*.bin", "data/sub", false),
            ("**/*.pt", "anything/at/all", true),
            ("{a,b/c}/x", "b/c", true),
            ("top.txt", "folder", false),
        ] {
            let set = PatternSet::new([pattern]).unwrap();
            assert_eq!(set.may_match_below(folder), expected, "{pattern} {folder}");
        }
    }

    #[test]
    fn a_broken_pattern_is_named() {
        let error = PatternSet::new(["ok", "a[b"]).unwrap_err();
        insta::assert_snapshot!(error, @"`a[b` is not a pattern: unclosed character class; missing ']'");
    }
}
