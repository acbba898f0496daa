//! The wording of what a watch says between runs.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::base::duration::ShortDuration;
use crate::cli::printer::{Printer, Style, Verbosity};
use crate::domain::{JobId, Place};
use crate::sink::terminal::WORTH_A_CLOSING_LINE;
use crate::watch::{Cause, Trigger};

/// What the end of a watch waits for.
pub const IN_ORDER: &str =
    "putting the warm sandbox in order for the next time; once more to end it instead\n";

/// Jobs named in one line; more are counted.
const NAMED: usize = 4;
/// Columns of a path in a line.
const LONGEST_PATH: usize = 50;

/// Whether keys can be pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    Shown,
    None,
}

pub fn ready(jobs: &[JobId], files: usize) -> String {
    let noun = if files == 1 { "file" } else { "files" };
    format!("watching {files} {noun} for {}\n", named(jobs.iter()))
}

pub fn polling(why: &str, help: Option<&str>) -> String {
    let help = help.map(|help| format!("; {help}")).unwrap_or_default();
    format!("looking for changes every second, as none are told: {why}{help}")
}

pub fn restless(path: &str) -> String {
    let path = short(path);
    format!(
        "{path} changes with every run, and interrupts runs no longer; if a job writes it, name it in the job's \
         outputs or watch.ignore"
    )
}

/// `src/lib.rs changed`, `src/lib.rs and 3 others changed`, `key`.
pub fn trigger(trigger: &Trigger) -> String {
    match (trigger.cause, trigger.paths.as_slice(), trigger.count) {
        (Cause::Start, ..) => "start".to_owned(),
        (Cause::Key, [], _) => "key".to_owned(),
        (Cause::Configuration, [], _) => "configuration changed".to_owned(),
        (_, [], _) => "changed".to_owned(),
        (_, [path, ..], 1) => format!("{} changed", short(path)),
        (_, [path, ..], 2) => format!("{} and 1 other changed", short(path)),
        (_, [path, ..], count) => format!("{} and {} others changed", short(path), count - 1),
    }
}

pub fn triggered(trigger: &str, jobs: &[&JobId], printer: &Printer) -> String {
    let line = format!("{trigger} → {}", named(jobs.iter().copied()));
    format!("{}\n", printer.paint_stderr(Style::Dim, &line))
}

/// The end of a run, and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How many jobs it had.
    pub jobs: usize,
    pub exit_code: u8,
    pub duration: Duration,
    /// Where it took place.
    pub places: Vec<Place>,
    /// In words.
    pub trigger: String,
    /// Whether the verdict is among the lines that stay.
    pub kept: bool,
}

impl Status {
    /// As much as fits into so many columns, the verdict first of all, and how many columns it takes.
    pub fn line(&self, columns: Option<usize>, keys: Keys, printer: &Printer) -> (String, usize) {
        let plain = self.verdict();
        let (places, trigger) = (self.places(), self.trigger.as_str());
        let (keys, short) = match keys {
            Keys::Shown => ("Enter again, a all, m move, q quit", "Enter a m q"),
            Keys::None => ("waiting for changes", "waiting"),
        };
        let choices: [&[&str]; 5] =
            [&[&places, trigger, keys], &[&places, trigger, short], &[trigger, short], &[short], &[]];
        let room = columns.map_or(usize::MAX, |columns| columns.saturating_sub(1));
        let rest = |parts: &[&str]| -> String {
            parts.iter().filter(|part| !part.is_empty()).map(|part| format!(" · {part}")).collect()
        };
        let fits = |rest: &String| plain.width() + rest.width() <= room;
        let Some(rest) = choices.into_iter().map(rest).find(fits) else {
            let cut = cut(&plain, room);
            return (self.paint(cut, printer), cut.width());
        };
        (format!("{}{rest}", self.paint(&plain, printer)), plain.width() + rest.width())
    }

    /// The verdict as a line that stays, once, unless the run has said it itself.
    pub fn keep(&mut self, printer: &Printer) -> Option<String> {
        let said = std::mem::replace(&mut self.kept, true)
            || self.jobs > 1
            || self.exit_code != 0
            || self.duration >= WORTH_A_CLOSING_LINE
            || printer.verbosity > Verbosity::Normal;
        (!said).then(|| format!("{}\n", self.paint(&self.verdict(), printer)))
    }

    /// For a desktop: a title, and details.
    pub fn notification(&self, jobs: &[JobId]) -> (String, String) {
        let verdict = if self.exit_code == 0 { "passed" } else { "failed" };
        let details = format!("{} · {} · {}", self.verdict(), self.places(), self.trigger);
        (format!("{} {verdict}", named(jobs.iter())), details)
    }

    fn verdict(&self) -> String {
        let after = ShortDuration(self.duration);
        match self.exit_code {
            0 => format!("✓ passed in {after}"),
            code => format!("✗ failed: exit code {code} after {after}"),
        }
    }

    fn paint(&self, verdict: &str, printer: &Printer) -> String {
        printer.paint_stderr(if self.exit_code == 0 { Style::Good } else { Style::Error }, verdict)
    }

    fn places(&self) -> String {
        self.places.iter().map(|place| place.as_str()).collect::<Vec<_>>().join(" and ")
    }
}

/// What `m` has changed: `the next runs go to Modal; lint goes there already`.
pub fn moved(to: Place, there: &[JobId], others: usize) -> String {
    let target = match to {
        Place::Local => "the next runs stay on this machine",
        Place::Modal => "the next runs go to Modal",
    };
    if there.is_empty() {
        return format!("{target}\n");
    }
    if others == 0 {
        return format!("{target}, as before\n");
    }
    format!("{target}; nothing changes for {}\n", named(there.iter()))
}

/// The beginning of a text, of so many columns.
fn cut(text: &str, columns: usize) -> &str {
    let mut left = columns;
    let end = text.char_indices().find(|(_, character)| {
        let width = character.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        !fits
    });
    &text[..end.map_or(text.len(), |(at, _)| at)]
}

/// Names of files may hold anything, and be of any length; their ends tell them apart.
fn short(path: &str) -> String {
    let plain: String =
        path.chars().map(|character| if character.is_control() { '?' } else { character }).collect();
    if plain.width() <= LONGEST_PATH {
        return plain;
    }
    let mut left = LONGEST_PATH - 1;
    let from = plain.char_indices().rev().take_while(|(_, character)| {
        let width = character.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    });
    format!("…{}", &plain[from.last().map_or(plain.len(), |(at, _)| at)..])
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
    use crate::diag::ColorChoice;

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
    fn the_end_of_a_long_path_is_shown() {
        let long = format!("{}/日本語.rs", "folder/".repeat(20));
        let shown = short(&long);
        assert!(shown.starts_with('…') && shown.ends_with("/日本語.rs"), "{shown}");
        assert!((LONGEST_PATH - 1..=LONGEST_PATH).contains(&shown.width()), "{shown}");
        assert_eq!(short(&"x".repeat(LONGEST_PATH)), "x".repeat(LONGEST_PATH));
    }

    fn printer() -> Printer {
        Printer {
            format: crate::cli::printer::Format::Text,
            stdout_color: ColorChoice::Plain,
            stderr_color: ColorChoice::Ansi,
            width: 80,
            list_width: None,
            verbosity: Verbosity::Normal,
        }
    }

    fn status(exit_code: u8) -> Status {
        Status {
            jobs: 1,
            exit_code,
            duration: Duration::from_millis(9),
            places: vec![Place::Local],
            trigger: "a.rs changed".to_owned(),
            kept: false,
        }
    }

    #[test]
    fn a_narrow_terminal_shows_what_matters_most_and_never_more_than_fits() {
        let of = |columns| status(0).line(columns, Keys::Shown, &printer());
        let plain = |columns| of(columns).0.replace("\x1b[32m", "").replace("\x1b[0m", "");
        let full = "✓ passed in 9ms · local · a.rs changed · Enter again, a all, m move, q quit";
        assert_eq!(plain(None), full);
        assert_eq!(plain(Some(80)), full);
        assert_eq!(plain(Some(60)), "✓ passed in 9ms · local · a.rs changed · Enter a m q");
        assert_eq!(plain(Some(50)), "✓ passed in 9ms · a.rs changed · Enter a m q");
        assert_eq!(plain(Some(40)), "✓ passed in 9ms · Enter a m q");
        assert_eq!(plain(Some(20)), "✓ passed in 9ms");
        assert_eq!(plain(Some(9)), "✓ passed");
        for columns in 0..100 {
            let (_, width) = of(Some(columns));
            assert!(width == plain(Some(columns)).width() && width <= columns.saturating_sub(1));
        }
    }

    #[test]
    fn only_what_nobody_else_said_is_said_once_more() {
        let mut passed = status(0);
        assert_eq!(passed.keep(&printer()).as_deref(), Some("\x1b[32m✓ passed in 9ms\x1b[0m\n"));
        assert_eq!(passed.keep(&printer()), None);
        assert_eq!(status(1).keep(&printer()), None);
        assert_eq!(Status { jobs: 2, ..status(0) }.keep(&printer()), None);
    }

    #[test]
    fn a_desktop_gets_plain_text() {
        let (title, details) = status(3).notification(&[JobId::new("unit")]);
        assert_eq!(title, "unit failed");
        assert_eq!(details, "✗ failed: exit code 3 after 9ms · local · a.rs changed");
    }

    #[test]
    fn a_move_says_where_to_and_for_whom_nothing_changes() {
        let there = [JobId::new("lint")];
        assert_eq!(moved(Place::Modal, &[], 1), "the next runs go to Modal\n");
        assert_eq!(moved(Place::Local, &[], 1), "the next runs stay on this machine\n");
        assert_eq!(moved(Place::Modal, &there, 1), "the next runs go to Modal; nothing changes for lint\n");
        assert_eq!(moved(Place::Modal, &there, 0), "the next runs go to Modal, as before\n");
    }
}
