//! Docker's ignore patterns, with the results of moby's pattern matcher.
//!
//! `*` and `?` stay within one folder, `**` does not; a pattern that matches a folder covers what lies below;
//! `!` takes back; later patterns win. Paths are relative, separated by `/`.

use regex::Regex;

use super::ImageError;

#[derive(Debug)]
pub(super) struct Patterns(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    /// `!…`
    negated: bool,
    text: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Exact,
    /// `a/**`
    Prefix,
    /// `**.log`
    Suffix,
    Regex(Regex),
}

impl Patterns {
    pub(super) fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, ImageError> {
        let cleaned =
            lines.into_iter().map(|line| line.trim().trim_matches('/')).filter(|line| !line.is_empty());
        cleaned.map(Pattern::parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a folder that matches can be skipped whole.
    pub(super) fn can_prune(&self) -> bool {
        !self.0.iter().any(|pattern| pattern.negated)
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        let path = normalise(path);
        if path == "." {
            return false;
        }
        let mut matched = false;
        for pattern in self.0.iter().filter(|pattern| pattern.text != "!") {
            if pattern.negated == matched && pattern.matches_or_parent(&path) {
                matched = !pattern.negated;
            }
        }
        matched
    }
}

impl Pattern {
    fn parse(line: &str) -> Result<Self, ImageError> {
        let cleaned = normalise(line);
        let (negated, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(ImageError::BadPattern(line.to_owned())),
            Some(rest) => (true, rest.to_owned()),
            None => (false, cleaned),
        };
        let test = Test::of(&text).ok_or_else(|| ImageError::BadPattern(line.to_owned()))?;
        Ok(Self { negated, text, test })
    }

    fn matches_or_parent(&self, path: &str) -> bool {
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        self.matches(path) || parents.into_iter().any(|parent| self.matches(parent))
    }

    fn matches(&self, path: &str) -> bool {
        match &self.test {
            Test::Exact => path == self.text,
            Test::Prefix => path.starts_with(&self.text[..self.text.len() - 2]),
            Test::Suffix => {
                let suffix = &self.text[2..];
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Test::Regex(regex) => regex.is_match(path),
        }
    }
}

impl Test {
    /// `None` for a pattern that is not well formed.
    fn of(pattern: &str) -> Option<Self> {
        let mut regex = String::from("^");
        // What the pattern is so far, the way moby decides it while it reads.
        let mut test = Self::Exact;
        let mut needs_regex = false;
        let mut chars = pattern.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '*' if chars.next_if(|(_, next)| *next == '*').is_some() => {
                    let slash = chars.next_if(|(_, next)| *next == '/').is_some();
                    if chars.peek().is_some() {
                        regex.push_str("(.*/)?");
                        needs_regex = true;
                    } else if matches!(test, Self::Exact) && !needs_regex {
                        test = Self::Prefix;
                    } else {
                        regex.push_str(".*");
                        needs_regex = true;
                    }
                    if at == 0 && !slash {
                        (test, needs_regex) = (Self::Suffix, false);
                    }
                }
                '*' => (_, needs_regex) = (regex.push_str("[^/]*"), true),
                '?' => (_, needs_regex) = (regex.push_str("[^/]"), true),
                '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => regex.extend(['\\', c]),
                '\\' => match chars.next() {
                    Some((_, escaped)) => {
                        regex.extend(['\\', escaped]);
                        needs_regex = true;
                    }
                    None => regex.push('\\'),
                },
                '[' | ']' => (_, needs_regex) = (regex.push(c), true),
                _ => regex.push(c),
            }
        }
        if !needs_regex {
            return Some(test);
        }
        regex.push('$');
        Regex::new(&regex).ok().map(Self::Regex)
    }
}

/// A path without `.`, `..` (where it can be resolved) and doubled separators, as Python's `normpath` gives it.
pub(super) fn normalise(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &[&str], path: &str, expect: bool) {
        let parsed = Patterns::parse(patterns.iter().copied()).unwrap();
        assert_eq!(parsed.matches(path), expect, "{patterns:?} {path}");
    }

    #[test]
    fn matches_as_docker_does() {
        check(&["*.log"], "a.log", true);
        check(&["*.log"], "d/a.log", false);
        check(&["**/*.log"], "a.log", true);
        check(&["**/*.log"], "d/e/a.log", true);
        check(&["d"], "d/e/f", true);
        check(&["/d/"], "d/e", true);
        check(&["d/**"], "d/e/f", true);
        check(&["d/**"], "e", false);
        check(&["**"], "anything/below", true);
        check(&["**.log"], "d/a.log", true);
        check(&["./d/../e"], "e/f", true);
        check(&["a?c"], "abc", true);
        check(&["a?c"], "a/c", false);
        check(&["[a-c].txt"], "b.txt", true);
        check(&["[^a-c].txt"], "b.txt", false);
        check(&["a.c"], "abc", false);
        check(&["\\*.log"], "*.log", true);
        check(&["\\*.log"], "a.log", false);
        check(&["d", "!d/keep"], "d/keep", false);
        check(&["d", "!d/keep"], "d/other", true);
        check(&["d", "!d/keep", "d/keep"], "d/keep", true);
        check(&["."], "x", false);
        check(&["**/d/**/f"], "a/d/b/c/f", true);
        check(&["é*"], "éa", true);
        assert!(Patterns::parse(["!"]).is_err());
    }

    #[test]
    fn paths_are_normalised() {
        for (path, expect) in
            [("./a//b/", "a/b"), ("a/../..", ".."), ("", "."), ("/..//a", "/a"), ("../a", "../a")]
        {
            assert_eq!(normalise(path), expect, "{path}");
        }
    }
}
