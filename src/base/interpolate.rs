//! `${matrix.NAME}` placeholders within texts of accel.toml.
//!
//! Only `${matrix.` opens a placeholder, so that shell variables (`$HOME`, `${HOME}`) need no escape;
//! `$${matrix.` stands for the literal `${matrix.`.

use std::borrow::Cow;
use std::ops::Range;

const OPEN: &str = "${matrix.";
const ESCAPED_OPEN: &str = "$${matrix.";

/// The remedy that belongs to every [`InterpolateError`].
pub const INTERPOLATE_HELP: &str =
    "write `${matrix.NAME}` for a value of the job's matrix, `$${matrix.NAME}` for the text itself";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterpolateError {
    #[error("`${{matrix.` without a closing `}}`")]
    Unclosed { at: usize },
    #[error("`${{matrix.{name}}}` is no name of a matrix axis")]
    BadName { name: String, at: usize },
    #[error("unknown matrix axis `{name}`")]
    Unknown { name: String, at: usize },
}

/// One placeholder: the axis it names and its bytes within the text, `${` and `}` included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder<'a> {
    pub name: &'a str,
    pub range: Range<usize>,
}

/// Whether anything in a text looks like a placeholder. Quick, because most texts hold none.
pub fn may_hold_placeholder(text: &str) -> bool {
    text.bytes().any(|byte| byte == b'$') && text.contains(OPEN)
}

/// The first placeholder for `name` in a text as it is written in a file, quotes and escapes included.
pub fn find_written(written: &str, name: &str) -> Option<Range<usize>> {
    let placeholder = format!("{OPEN}{name}}}");
    let (at, _) = written.match_indices(&placeholder).find(|(at, _)| !written[..*at].ends_with('$'))?;
    Some(at..at + placeholder.len())
}

/// Every placeholder of a text, in order.
pub fn placeholders(text: &str) -> Result<Vec<Placeholder<'_>>, InterpolateError> {
    let mut found = Vec::new();
    walk(text, |piece| {
        if let Piece::Placeholder(placeholder) = piece {
            found.push(placeholder);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Replaces every placeholder by what `lookup` gives and resolves escapes. Borrows where nothing changes.
pub fn interpolate<'t, 'v>(
    text: &'t str,
    lookup: impl Fn(&str) -> Option<&'v str>,
) -> Result<Cow<'t, str>, InterpolateError> {
    if !may_hold_placeholder(text) {
        return Ok(Cow::Borrowed(text));
    }
    let mut filled = String::with_capacity(text.len());
    walk(text, |piece| {
        match piece {
            Piece::Literal(literal) => filled.push_str(literal),
            Piece::Placeholder(Placeholder { name, range }) => {
                let unknown = || InterpolateError::Unknown { name: name.to_owned(), at: range.start };
                filled.push_str(lookup(name).ok_or_else(unknown)?);
            }
        }
        Ok(())
    })?;
    Ok(Cow::Owned(filled))
}

/// The text that [`interpolate`] turns back into `literal`.
pub fn escape(literal: &str) -> Cow<'_, str> {
    if literal.contains(OPEN) { literal.replace(OPEN, ESCAPED_OPEN).into() } else { literal.into() }
}

enum Piece<'a> {
    Literal(&'a str),
    Placeholder(Placeholder<'a>),
}

fn walk<'a>(
    text: &'a str,
    mut visit: impl FnMut(Piece<'a>) -> Result<(), InterpolateError>,
) -> Result<(), InterpolateError> {
    let mut at = 0;
    while let Some(found) = text[at..].find(OPEN) {
        let open = at + found;
        let escaped = open > at && text[..open].ends_with('$');
        if escaped {
            visit(Piece::Literal(&text[at..open - 1]))?;
            visit(Piece::Literal(OPEN))?;
            at = open + OPEN.len();
            continue;
        }
        visit(Piece::Literal(&text[at..open]))?;
        let name_start = open + OPEN.len();
        let length = text[name_start..].find('}').ok_or(InterpolateError::Unclosed { at: open })?;
        let name = &text[name_start..name_start + length];
        if !is_axis_name(name) {
            return Err(InterpolateError::BadName { name: name.to_owned(), at: open });
        }
        at = name_start + length + 1;
        visit(Piece::Placeholder(Placeholder { name, range: open..at }))?;
    }
    visit(Piece::Literal(&text[at..]))
}

/// Letters, digits, `_` and `-`; at least one.
pub fn is_axis_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<&'static str> {
        match name {
            "python" => Some("3.12"),
            "os" => Some("${matrix.python}"),
            _ => None,
        }
    }

    #[test]
    fn fills_placeholders_and_leaves_shell_variables() {
        let check = |text: &str, expected: &str| {
            assert_eq!(interpolate(text, lookup).expect(text), expected, "{text}");
        };
        check("python${matrix.python} -V", "python3.12 -V");
        check("${matrix.python}${matrix.python}", "3.123.12");
        check("$HOME ${HOME} $$ ${", "$HOME ${HOME} $$ ${");
        check("$${matrix.python}", "${matrix.python}");
        check("$$${matrix.python}", "$${matrix.python}");
        check("$${matrix.", "${matrix.");
        // A value is not interpolated again.
        check("${matrix.os}", "${matrix.python}");
        check("${matrix.python}$${matrix.python}", "3.12${matrix.python}");
    }

    #[test]
    fn names_what_is_wrong() {
        let check =
            |text: &str, expected: InterpolateError| assert_eq!(interpolate(text, lookup), Err(expected));
        check("a ${matrix.python", InterpolateError::Unclosed { at: 2 });
        check("${matrix.}", InterpolateError::BadName { name: String::new(), at: 0 });
        check("${matrix.a b}", InterpolateError::BadName { name: "a b".into(), at: 0 });
        check("${matrix.node}", InterpolateError::Unknown { name: "node".into(), at: 0 });
    }

    #[test]
    fn finds_what_is_written() {
        assert_eq!(find_written(r#"["a", "$${matrix.os} ${matrix.os}"]"#, "os"), Some(21..33));
        assert_eq!(find_written("'${matrix.o}'", "os"), None);
    }

    #[test]
    fn lists_placeholders_with_their_place() {
        let found = placeholders("a${matrix.os}$${matrix.no}").unwrap();
        assert_eq!(found, [Placeholder { name: "os", range: 1..13 }]);
    }

    proptest! {
        #[test]
        fn escaped_text_comes_back(text in r"[\$\{\}matrix\. a]{0,40}|.{0,40}|(\$\{matrix\.|\$|\}|x){0,12}") {
            let escaped = escape(&text);
            prop_assert_eq!(&*interpolate(&escaped, lookup).unwrap(), &text);
        }

        #[test]
        fn any_text_is_read_without_panic(text in r".{0,60}|(\$\{matrix\.|\$|python|\}|é){0,12}") {
            let _ = interpolate(&text, lookup);
            let _ = placeholders(&text);
        }
    }
}
