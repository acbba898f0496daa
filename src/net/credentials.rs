//! User names and passwords inside URLs: found, hidden, never shown.

use std::borrow::Cow;

/// What takes the place of `user:password` in a URL.
const HIDDEN: &str = "****";

/// Hides `user:password` in every URL of a text.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        rest = match user_info(after) {
            Some(end) => {
                shown.push_str(HIDDEN);
                &after[end..]
            }
            None => after,
        };
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// Whether any URL of a text carries `user:password` or a token.
pub fn present(text: &str) -> bool {
    text.match_indices("://").any(|(at, sign)| user_info(&text[at + sign.len()..]).is_some())
}

/// Where the `@` is that ends the user part of an authority. A password may hold an `@` of its own.
fn user_info(authority: &str) -> Option<usize> {
    let end = authority
        .find(|c: char| {
            c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '`' | '<' | '>' | ',')
        })
        .unwrap_or(authority.len());
    authority[..end].rfind('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_the_user_part_and_nothing_else() {
        let check = |text: &str, expected: &str| {
            assert_eq!(redact(text), expected);
            assert_eq!(present(text), text != expected);
        };
        check("https://user:pw@host/simple", "https://****@host/simple");
        check("a https://t@h/ b http://u:p@x c", "a https://****@h/ b http://****@x c");
        check("https://u:p@ss@host/x", "https://****@host/x");
        check("git+ssh://git@host/r@v1", "git+ssh://****@host/r@v1");
        check("https://host/simple/@scope", "https://host/simple/@scope");
        check("mail@host, no url", "mail@host, no url");
        check("'https://u:p@h'", "'https://****@h'");
    }
}
