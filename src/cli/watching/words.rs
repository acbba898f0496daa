//! The wording of what a watch says between runs.

use std::time::Duration;

use unicode_width::UnicodeWidthChar;

use crate::base::duration::ShortDuration;
use crate::cli::printer::{Printer, Style};
use crate::domain::{JobId, Place};
use crate::watch::{Cause, Trigger};

/// Jobs named in one line; more are counted.
const NAMED: usize = 4;

/// Whether keys can be pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    Shown,
    None,
}

/// How the last run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ended(u8),
    Stopped,
}

pub fn ready(jobs: &[JobId], files: usize) -> String {
    let noun = if files == 1 { "file" } else { "files" };
    format!("watching {files} {noun} for {}\n", named(jobs.iter()))
}

pub fn polling(why: &str, help: Option<&str>) -> String {
    let help = help.map(|help| format!("; {help}")).unwrap_or_default();
    format!("looking for changes every second, as none are told: {why}{help}")
}

/// `src/lib.rs changed`, `src/lib.rs and 3 others changed`, `Enter`.
pub fn trigger(trigger: &Trigger) -> String {
    match (trigger.cause, trigger.paths.as_slice(), trigger.count) {
        (Cause::Start, ..) => "start".to_owned(),
        (Cause::Key, [], _) => "key".to_owned(),
        (Cause::Configuration, [], _) => "configuration changed".to_owned(),
        (_, [], _) => "changed".to_owned(),
        (_, [path, ..], 1) => format!("{} changed", plain(path)),
        (_, [path, ..], 2) => format!("{} and 1 other changed", plain(path)),
        (_, [path, ..], count) => format!("{} and {} others changed", plain(path), count - 1),
    }
}

pub fn triggered(trigger: &str, jobs: &[&JobId], printer: &Printer) -> String {
    let line = format!("{trigger} → {}", named(jobs.iter().copied()));
    format!("{}\n", printer.paint_stderr(Style::Dim, &line))
}

pub fn status(
    verdict: Verdict,
    duration: Duration,
    places: &[Place],
    trigger: &str,
    keys: Keys,
    printer: &Printer,
) -> String {
    let after = ShortDuration(duration);
    let verdict = match verdict {
        Verdict::Ended(0) => printer.paint_stderr(Style::Good, &format!("✓ passed in {after}")),
        Verdict::Ended(code) => {
            printer.paint_stderr(Style::Error, &format!("✗ failed: exit code {code} after {after}"))
        }
        Verdict::Stopped => format!("- stopped after {after}"),
    };
    let places: Vec<&str> = places.iter().map(|place| place.as_str()).collect();
    let keys = match keys {
        Keys::Shown => "Enter again, a all, m move, q quit",
        Keys::None => "waiting for changes",
    };
    let parts = [verdict, places.join(" and "), trigger.to_owned(), keys.to_owned()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
}

/// As much of a line as fits into a terminal; colours take no room.
pub fn cut(line: &str, columns: usize) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut left = columns.saturating_sub(1);
    let mut escape = false;
    for character in line.chars() {
        escape |= character == '\x1b';
        let width = if escape { 0 } else { character.width().unwrap_or(0) };
        if width <= left {
            shown.push(character);
            left -= width;
        } else {
            left = 0;
        }
        escape &= character != 'm';
    }
    shown
}

/// Names of files may hold anything.
fn plain(path: &str) -> String {
    path.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

fn named<'a>(jobs: impl ExactSizeIterator<Item = &'a JobId>) -> String {
    let count = jobs.len();
    let mut text = jobs.take(NAMED).map(JobId::as_str).collect::<Vec<_>>().join(", ");
    if count > NAMED {
        text.push_str(&format!(", {} more", count - NAMED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_name_the_first_path_and_count_the_rest() {
        let of = |cause, paths: &[&str], count| {
            let paths = paths.iter().map(|path| (*path).to_owned()).collect();
            trigger(&Trigger { cause, paths, count })
        };
        assert_eq!(of(Cause::Change, &["a\x1b.rs"], 1), "a?.rs changed");
        assert_eq!(of(Cause::Change, &["a", "b"], 2), "a and 1 other changed");
        assert_eq!(of(Cause::Change, &["a", "b"], 1_000), "a and 999 others changed");
        assert_eq!(of(Cause::Key, &[], 0), "key");
        assert_eq!(of(Cause::Configuration, &[], 0), "configuration changed");
    }

    #[test]
    fn a_line_is_cut_to_the_terminal_without_its_colours() {
        assert_eq!(cut("\x1b[1mabc\x1b[0mdef", 5), "\x1b[1mabc\x1b[0md");
        assert_eq!(cut("日本語", 6), "日本");
        assert_eq!(cut("short", 80), "short");
    }
}
