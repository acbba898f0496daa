//! The order of paths: name by name, so that a folder comes right before what it holds.
//!
//! As bytes, with `/` before every other byte. A walk that sorts each folder yields it without sorting again.

use std::cmp::Ordering;

pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((a, b)) => rank(*a).cmp(&rank(*b)),
        None => a.len().cmp(&b.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_followed_by_what_it_holds() {
        let mut paths = ["a.txt", "a/b", "a", "a-b/c", "a/b/c", "a\u{1}", "b"];
        paths.sort_by(|a, b| path_order(a.as_bytes(), b.as_bytes()));
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a\u{1}", "a-b/c", "a.txt", "b"]);
    }
}
