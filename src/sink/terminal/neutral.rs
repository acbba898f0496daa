//! Makes a line of foreign text safe for a terminal that shows other jobs' lines too: colours stay, whatever
//! moves the cursor, sets titles or rings goes; other control characters become visible.

use std::borrow::Cow;

use super::style::Colors;

const ESCAPE: u8 = 0x1b;
const RESET: &[u8] = b"\x1b[0m";

/// Whether the text holds anything that [`neutralize`] would change. Branch-free, so that the compiler can look
/// at many bytes at a time.
pub(super) fn suspicious(text: &[u8]) -> bool {
    let bad =
        |byte: &u8| (*byte < 0x20 && *byte != b'\n' && *byte != b'\t') | (*byte == 0x7f) | (*byte == 0xc2);
    text.chunks(4096).any(|chunk| chunk.iter().fold(false, |found, byte| found | bad(byte)))
}

/// Appends one line (without its end) in its safe form.
pub(super) fn neutralize(line: &[u8], colors: Colors, to: &mut Vec<u8>) {
    let mut rest = after_last_return(line);
    let mut colored = false;
    while let Some((first, after)) = rest.split_first() {
        match (*first, after) {
            (ESCAPE, _) => {
                let length = escape_length(rest);
                let is_color = is_color(&rest[..length]);
                if is_color && colors == Colors::Allowed {
                    to.extend_from_slice(&rest[..length]);
                    colored = true;
                }
                rest = &rest[length..];
                continue;
            }
            (0xc2, [second @ 0x80..=0x9f, ..]) => {
                to.extend_from_slice(format!("<{second:02x}>").as_bytes());
                rest = &rest[2..];
                continue;
            }
            (b'\t' | b'\n', _) => to.push(*first),
            (0x07, _) => {}
            (control @ (0..0x20 | 0x7f), _) => to.extend_from_slice(&[b'^', control ^ 0x40]),
            (byte, _) => to.push(byte),
        }
        rest = after;
    }
    if colored {
        to.extend_from_slice(RESET);
    }
}

/// Text of others inside one of accel's own lines.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if !suspicious(text.as_bytes()) && !text.contains('\n') {
        return Cow::Borrowed(text);
    }
    let mut safe = Vec::with_capacity(text.len());
    for (index, line) in text.trim_end().lines().enumerate() {
        if index > 0 {
            safe.extend_from_slice(b"\n  ");
        }
        neutralize(line.as_bytes(), Colors::Plain, &mut safe);
    }
    Cow::Owned(String::from_utf8_lossy(&safe).into_owned())
}

/// A progress bar rewrites its line with carriage returns: what stands at the end is what is shown.
fn after_last_return(line: &[u8]) -> &[u8] {
    let trimmed = line.len() - line.iter().rev().take_while(|byte| **byte == b'\r').count();
    let line = &line[..trimmed];
    memchr::memrchr(b'\r', line).map_or(line, |at| &line[at + 1..])
}

/// Length of the escape sequence that the text begins with. One that does not end within the line is taken to
/// be its introducer alone, so that it cannot hide the text after it.
fn escape_length(text: &[u8]) -> usize {
    match text.get(1) {
        Some(b'[') => {
            let body = text[2..].iter().position(|byte| !(0x20..=0x3f).contains(byte));
            body.filter(|at| (0x40..=0x7e).contains(&text[2 + at])).map_or(2, |at| at + 3)
        }
        Some(b']' | b'P' | b'X' | b'^' | b'_') => string_length(text).unwrap_or(2),
        Some(0x20..=0x2f) => {
            let end = text[1..].iter().position(|byte| !(0x20..=0x2f).contains(byte));
            end.filter(|at| (0x30..=0x7e).contains(&text[1 + at])).map_or(1, |at| at + 2)
        }
        Some(0x30..=0x7e) => 2,
        _ => 1,
    }
}

/// A string that ends with BEL or ESC \.
fn string_length(text: &[u8]) -> Option<usize> {
    let bell = memchr::memchr(0x07, text).map(|at| at + 1);
    let terminator = memchr::memmem::find(text, b"\x1b\\").map(|at| at + 2);
    [bell, terminator].into_iter().flatten().min()
}

fn is_color(sequence: &[u8]) -> bool {
    let Some(parameters) = sequence.strip_prefix(b"\x1b[").and_then(|rest| rest.strip_suffix(b"m")) else {
        return false;
    };
    parameters.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b';' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_stay_and_everything_else_is_made_harmless() {
        let check = |line: &str, expected: &str| {
            let mut safe = Vec::new();
            neutralize(line.as_bytes(), Colors::Allowed, &mut safe);
            assert_eq!(String::from_utf8(safe).unwrap(), expected, "{line:?}");
            assert_eq!(suspicious(line.as_bytes()), line != expected || line.contains('\x1b'));
        };
        check("plain\ttext é →", "plain\ttext é →");
        check("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m\x1b[0m");
        check("\x1b[2J\x1b[Hgone", "gone");
        check("\x1b[?25lhidden", "hidden");
        check("\x1b]0;title\x07text", "text");
        check("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link");
        check("\x1b]0;never ended", "0;never ended");
        check("\x1b(Bset", "set");
        check("\x1b[12", "12");
        check("\x1b", "");
        check("10%\r50%\r100%\r", "100%");
        check("a\x08b\x00\x7f\x07", "a^Hb^@^?");
        check("\u{9b}31m", "<9b>31m");
    }

    #[test]
    fn without_colours_the_colours_go_too() {
        let mut safe = Vec::new();
        neutralize(b"\x1b[31mred\x1b[0m", Colors::Plain, &mut safe);
        assert_eq!(safe, b"red");
        assert_eq!(clean("two\nlines\x1b[2J"), "two\n  lines");
    }
}
