//! The log of a build as lines.

use std::collections::VecDeque;

/// Lines of a failed build's log in its error.
const LOG_TAIL: usize = 20;
/// A line is cut into pieces of about this many bytes, so that a log without line ends is not held.
const LONGEST_LINE: usize = 64 << 10;

/// Pieces come as the server likes.
#[derive(Default)]
pub(super) struct Log {
    open: String,
    pub(super) tail: VecDeque<String>,
}

impl Log {
    /// The lines that end with this piece.
    pub(super) fn lines(&mut self, piece: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for part in piece.split_inclusive('\n') {
            self.open.push_str(part);
            if part.ends_with('\n') || self.open.len() >= LONGEST_LINE {
                lines.push(self.close());
            }
        }
        lines
    }

    /// What came without an end.
    pub(super) fn rest(&mut self) -> Option<String> {
        let is_blank = self.open.trim().is_empty();
        let line = if is_blank { None } else { Some(self.close()) };
        self.open.clear();
        line
    }

    fn close(&mut self) -> String {
        let line = self.open.trim_end().to_owned();
        self.open.clear();
        if self.tail.len() == LOG_TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.clone());
        line
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&str]) -> Vec<String> {
        let mut log = Log::default();
        let mut lines: Vec<String> = pieces.iter().flat_map(|piece| log.lines(piece)).collect();
        lines.extend(log.rest());
        assert!(log.tail.len() <= LOG_TAIL);
        lines
    }

    #[test]
    fn a_log_without_line_ends_is_not_held() {
        let mut log = Log::default();
        let piece = "x".repeat(LONGEST_LINE - 1);
        assert_eq!((log.lines(&piece), log.lines("yz").len(), log.rest()), (Vec::new(), 1, None));
    }

    proptest! {
        #[test]
        fn how_a_log_is_cut_does_not_matter(text in "(?s)[a\n\r €]{0,60}", at in 0..60_usize) {
            let cut = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let (first, second) = text.split_at(cut);
            prop_assert_eq!(read(&[first, second]), read(&[&text]));
        }
    }
}
