//! The forms in which a secret turns up in output.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::MINIMUM;

/// Lines of a secret that are hidden on their own: shorter ones are likely in any text.
const SHORTEST_LINE: usize = 12;
/// Encoded parts shorter than this are likely in any encoded text.
const SHORTEST_ENCODED: usize = 6;

/// The value and every other form of it that is worth hiding.
pub(super) fn encodings(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![value.to_vec()];
    forms.extend(lines(value));
    forms.extend(base64(value));
    forms.extend([url(value, b"%20"), url(value, b"+"), lower_url(value), json(value), shell(value)]);
    if value.len() * 2 >= SHORTEST_ENCODED {
        forms.extend([hex(value, b"0123456789abcdef"), hex(value, b"0123456789ABCDEF")]);
    }
    forms.retain(|form| form.len() >= MINIMUM);
    forms
}

/// A key of several lines, as lines alone and with either line end.
fn lines(value: &[u8]) -> Vec<Vec<u8>> {
    let trimmed = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).to_vec();
    let lines: Vec<Vec<u8>> = value.split(|byte| *byte == b'\n').map(trimmed).collect();
    if lines.len() == 1 {
        return Vec::new();
    }
    let telling = |line: &&Vec<u8>| line.len() >= SHORTEST_LINE && !line.starts_with(b"-----");
    let mut forms: Vec<Vec<u8>> = lines.iter().filter(telling).cloned().collect();
    forms.extend([lines.join(&b"\n"[..]), lines.join(&b"\r\n"[..])]);
    forms
}

/// The part of the encoding that does not depend on the bytes around, for each of the three places in a group.
fn base64(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for before in 0..3_usize {
        let mut padded = vec![0; before];
        padded.extend_from_slice(value);
        // Characters that hold bits of the bytes before, and after.
        let first = (before * 8).div_ceil(6);
        let last = padded.len() * 8 / 6;
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let form = &engine.encode(&padded).into_bytes()[first..last];
            if form.len() >= SHORTEST_ENCODED {
                forms.push(form.to_vec());
            }
        }
    }
    forms
}

fn url(value: &[u8], space: &[u8]) -> Vec<u8> {
    escape(value, |byte, form| match byte {
        b' ' => form.extend_from_slice(space),
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => form.push(byte),
        _ => form.extend_from_slice(format!("%{byte:02X}").as_bytes()),
    })
}

fn lower_url(value: &[u8]) -> Vec<u8> {
    escape(value, |byte, form| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => form.push(byte),
        _ => form.extend_from_slice(format!("%{byte:02x}").as_bytes()),
    })
}

/// Inside a JSON string; text that is not UTF-8 has no such form.
fn json(value: &[u8]) -> Vec<u8> {
    let quoted = std::str::from_utf8(value).ok().and_then(|text| serde_json::to_string(text).ok());
    quoted.map(|quoted| quoted.as_bytes()[1..quoted.len() - 1].to_vec()).unwrap_or_default()
}

/// Inside single quotes of a shell.
fn shell(value: &[u8]) -> Vec<u8> {
    escape(value, |byte, form| match byte {
        b'\'' => form.extend_from_slice(br"'\''"),
        _ => form.push(byte),
    })
}

fn hex(value: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    escape(value, |byte, form| {
        form.extend([digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
    })
}

fn escape(value: &[u8], write: impl Fn(u8, &mut Vec<u8>)) -> Vec<u8> {
    let mut form = Vec::with_capacity(value.len() * 2);
    value.iter().for_each(|byte| write(*byte, &mut form));
    form
}
