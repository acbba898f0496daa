//! dotenv files: `KEY=value` lines, read into pairs and never into accel's own environment.
//!
//! | written | value |
//! |---|---|
//! | `KEY=a b # note` | `a b`: blanks around it and a comment after a blank are dropped |
//! | `KEY='a $b \n'` | as it stands between the quotes, which may span lines |
//! | `KEY="a\tb"` | escapes `\n` `\r` `\t` `\"` `\\` `\$` resolved, may span lines |
//! | `KEY=` | empty |
//! | `export KEY=a` | `a` |
//!
//! `$` has no meaning: values are never made of other variables, so that a file means the same everywhere.

use std::path::{Path, PathBuf};

use crate::base::files;
use crate::plan::spec::DotenvFile;

/// A dotenv file that cannot be used. Texts of values are left out: they may be secret.
#[derive(Debug, thiserror::Error)]
pub enum DotenvError {
    #[error("cannot read dotenv file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: {fault}", path.display())]
    Syntax { path: PathBuf, line: usize, fault: DotenvFault },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DotenvFault {
    #[error("not a `KEY=value` line")]
    NoEquals,
    #[error("not a name of a variable")]
    Name,
    #[error("quote is never closed")]
    Unclosed,
    #[error("text after the closing quote")]
    AfterQuote,
    #[error("not UTF-8")]
    Encoding,
    #[error("value holds a NUL")]
    Nul,
}

impl DotenvError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Read { .. } => "create the file, or take it out of the job's `dotenv`",
            Self::Syntax { .. } => {
                "write `KEY=value`, with quotes around values that hold `#` or line breaks"
            }
        }
    }
}

/// Reads the files in order; a later value of a name follows an earlier one. Files that are not required may be
/// missing.
pub fn read(root: &Path, dotenv: &[DotenvFile]) -> Result<Vec<(String, String)>, DotenvError> {
    let mut pairs = Vec::new();
    for file in dotenv {
        let contents = match files::read(&root.join(&file.path)) {
            Ok(contents) => contents,
            Err(error) if !file.required && error.source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(DotenvError::Read { path: file.path.clone(), source: error.source }),
        };
        let fault = |(line, fault)| DotenvError::Syntax { path: file.path.clone(), line, fault };
        let text = String::from_utf8(contents).map_err(|_| fault((1, DotenvFault::Encoding)))?;
        pairs.extend(parse(&text).map_err(fault)?);
    }
    Ok(pairs)
}

/// Every pair of a dotenv text, in order; else the 1-based line at fault.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, DotenvFault)> {
    let mut pairs = Vec::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(pairs);
        }
        if rest.starts_with('#') {
            rest = after_line(rest);
            continue;
        }
        let at = text.len() - rest.len();
        let fault = |fault| (text[..at].matches('\n').count() + 1, fault);
        let (pair, after) = take_pair(rest).map_err(fault)?;
        pairs.push(pair);
        rest = after;
    }
}

fn take_pair(text: &str) -> Result<((String, String), &str), DotenvFault> {
    let line = &text[..text.find('\n').unwrap_or(text.len())];
    let equals = line.find('=').ok_or(DotenvFault::NoEquals)?;
    let name = line[..equals].trim();
    let name =
        name.strip_prefix("export").filter(|n| n.starts_with([' ', '\t'])).map_or(name, str::trim_start);
    if !is_name(name) {
        return Err(DotenvFault::Name);
    }
    let value = text[equals + 1..].trim_start_matches([' ', '\t']);
    let (value, after) = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(&value[1..], quote)?,
        _ => (unquoted(value), after_line(value)),
    };
    if value.contains('\0') {
        return Err(DotenvFault::Nul);
    }
    Ok(((name.to_owned(), value), after))
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.' || b == b'-')
}

fn unquoted(value: &str) -> String {
    let line = value.lines().next().unwrap_or("");
    let comment = line
        .match_indices('#')
        .find(|(at, _)| line[..*at].chars().next_back().is_none_or(|before| before == ' ' || before == '\t'));
    line[..comment.map_or(line.len(), |(at, _)| at)].trim().to_owned()
}

/// The value up to the closing quote, and what follows its line.
fn quoted(text: &str, quote: char) -> Result<(String, &str), DotenvFault> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            let after = &text[at + 1..];
            let line = after.lines().next().unwrap_or("").trim_start();
            if !line.is_empty() && !line.starts_with('#') {
                return Err(DotenvFault::AfterQuote);
            }
            return Ok((value, after_line(after)));
        }
        if c != '\\' || quote == '\'' {
            value.push(c);
            continue;
        }
        match chars.next().ok_or(DotenvFault::Unclosed)?.1 {
            'n' => value.push('\n'),
            'r' => value.push('\r'),
            't' => value.push('\t'),
            literal @ ('"' | '\\' | '$') => value.push(literal),
            // Any other backslash is itself: paths of another system stay whole.
            other => value.extend(['\\', other]),
        }
    }
    Err(DotenvFault::Unclosed)
}

fn after_line(text: &str) -> &str {
    text.find('\n').map_or("", |at| &text[at + 1..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_form() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let pairs = parse(text).expect(text);
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(pairs, expected, "{text:?}");
        };
        check("", &[]);
        check("# nothing\n\n  # more\n", &[]);
        check("A=1", &[("A", "1")]);
        check("A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]);
        check("\u{feff}A=1", &[("A", "1")]);
        check("  export A = a b  # note\nB=a#b\nC=#c", &[("A", "a b"), ("B", "a#b"), ("C", "")]);
        check("A=\nB=2", &[("A", ""), ("B", "2")]);
        check("exported=1", &[("exported", "1")]);
        check(r"A='a $b \n # x' # y", &[("A", r"a $b \n # x")]);
        check(r#"A="a\tb \"q\" \\ \$x \d" "#, &[("A", "a\tb \"q\" \\ $x \\d")]);
        check("A=\"line 1\nline 2\"\nB='x\ny'", &[("A", "line 1\nline 2"), ("B", "x\ny")]);
        check("URL=postgres://u:p@h/db?x=1", &[("URL", "postgres://u:p@h/db?x=1")]);
        check("A=$HOME ${B}", &[("A", "$HOME ${B}")]);
    }

    #[test]
    fn names_the_line_at_fault() {
        let check = |text: &str, line: usize, fault: DotenvFault| {
            assert_eq!(parse(text), Err((line, fault)), "{text:?}");
        };
        check("A=1\n\nnonsense\n", 3, DotenvFault::NoEquals);
        check("1A=1", 1, DotenvFault::Name);
        check("A B=1", 1, DotenvFault::Name);
        check("=1", 1, DotenvFault::Name);
        check("A=1\nB=\"x\n\n", 2, DotenvFault::Unclosed);
        check("A=\"x\\", 1, DotenvFault::Unclosed);
        check("A='x'y", 1, DotenvFault::AfterQuote);
        check("A=\"a\0\"", 1, DotenvFault::Nul);
    }

    #[test]
    fn only_files_of_defaults_may_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".env"), "A=1\nA=2").unwrap();
        let file = |path: &str, required| DotenvFile { path: path.into(), required };
        let pairs = read(folder.path(), &[file("none", false), file(".env", true)]).unwrap();
        assert_eq!(pairs, [("A".into(), "1".into()), ("A".into(), "2".into())]);
        let error = read(folder.path(), &[file("none", true)]).unwrap_err();
        assert!(error.to_string().starts_with("cannot read dotenv file none: "), "{error}");
        std::fs::write(folder.path().join("bad"), "A=1\nsecret-without-equals").unwrap();
        let error = read(folder.path(), &[file("bad", true)]).unwrap_err().to_string();
        assert_eq!(error, "bad:2: not a `KEY=value` line");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in r#"(A=|"|'|\\|#|\n|=|export |é|\$|x){0,20}|.{0,60}"#) {
            let _ = parse(&text);
        }

        #[test]
        fn quoted_values_come_back(value in r#"[^\x00]{0,40}"#) {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            let pairs = parse(&format!("A=\"{escaped}\"\nB=1")).unwrap();
            prop_assert_eq!(&pairs[0].1, &value);
            prop_assert_eq!(pairs.len(), 2);
        }
    }
}
