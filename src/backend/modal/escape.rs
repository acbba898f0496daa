//! The way out of a terminal that does not answer: `~.` at the beginning of a line, as in ssh.
//!
//! A raw terminal passes every key on, Ctrl-C included; without this, a broken connection could only be left from
//! another terminal. `~~` is one tilde; a tilde elsewhere, or before anything else, is what it is.

use bytes::Bytes;

#[derive(Debug, Default)]
pub(super) struct Escape(State);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    LineStart,
    WithinLine,
    /// A tilde at the beginning of a line is held back.
    Tilde,
}

/// What became of keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// To be passed on; may be none.
    Keys(Bytes),
    Left,
}

impl Escape {
    pub(super) fn typed(&mut self, keys: &Bytes) -> Typed {
        let mut passed = Vec::with_capacity(keys.len() + 1);
        for &key in keys {
            match (self.0, key) {
                (State::LineStart, b'~') => {
                    self.0 = State::Tilde;
                    continue;
                }
                (State::Tilde, b'.') => return Typed::Left,
                (State::Tilde, b'~') => {}
                (State::Tilde, _) => passed.push(b'~'),
                (State::LineStart | State::WithinLine, _) => {}
            }
            passed.push(key);
            self.0 = if matches!(key, b'\r' | b'\n') { State::LineStart } else { State::WithinLine };
        }
        Typed::Keys(passed.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed on of keys that come in these pieces; `None` where the user leaves.
    fn passed(pieces: &[&'static str]) -> Option<String> {
        let mut escape = Escape::default();
        let mut all = String::new();
        for piece in pieces {
            match escape.typed(&Bytes::from_static(piece.as_bytes())) {
                Typed::Keys(keys) => all.push_str(std::str::from_utf8(&keys).unwrap()),
                Typed::Left => return None,
            }
        }
        Some(all)
    }

    #[test]
    fn a_tilde_and_a_dot_at_the_beginning_of_a_line_leave() {
        assert_eq!(passed(&["~."]), None);
        assert_eq!(passed(&["ls\r", "~", "."]), None);
        assert_eq!(passed(&["ls\n~."]), None);
    }

    #[test]
    fn every_other_tilde_is_what_it_is() {
        assert_eq!(passed(&["cd ~.", "\r"]).unwrap(), "cd ~.\r");
        assert_eq!(passed(&["~/bin\r", "~", "x"]).unwrap(), "~/bin\r~x");
        assert_eq!(passed(&["~~."]).unwrap(), "~.");
        assert_eq!(passed(&["\x1b[A~.\r"]).unwrap(), "\x1b[A~.\r");
        assert_eq!(passed(&["~"]).unwrap(), "");
    }
}
