//! A job that writes what it follows would be interrupted by that for ever and never end. Pure: the clock is an argument.
//!
//! A file that changes several times within a moment, each time while a job runs, no longer interrupts. It is still
//! followed by a run: whoever saves that fast loses nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Changes in a row, each during a run, of the same file.
const IN_A_ROW: u32 = 4;
/// From the first of them. Nobody saves that often by hand.
const MOMENT: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
pub struct Restless {
    row: Option<Row>,
    found: BTreeSet<String>,
}

#[derive(Debug)]
struct Row {
    path: String,
    since: Instant,
    times: u32,
}

impl Restless {
    /// Takes note of a burst; `during_run`: that it came while a run went on. Names a file that has just been found
    /// to be restless.
    pub fn note(&mut self, changed: &BTreeSet<String>, during_run: bool, now: Instant) -> Option<String> {
        let first = changed.iter().find(|path| !self.found.contains(*path))?;
        if !during_run {
            self.row = None;
            return None;
        }
        let goes_on = |row: &&mut Row| changed.contains(&row.path) && now < row.since + MOMENT;
        match self.row.as_mut().filter(goes_on) {
            Some(row) => row.times += 1,
            None => self.row = Some(Row { path: first.clone(), since: now, times: 1 }),
        }
        let row = self.row.take_if(|row| row.times >= IN_A_ROW)?;
        self.found.insert(row.path.clone());
        Some(row.path)
    }

    /// Whether a change of these paths may interrupt a run.
    pub fn interrupts(&self, changed: &[&str]) -> bool {
        !changed.iter().all(|path| self.found.contains(*path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_with_every_run_interrupts_no_longer() {
        let start = Instant::now();
        let mut restless = Restless::default();
        let mut note = |paths: &[&str], during_run, millis| {
            let changed = paths.iter().map(|path| (*path).to_owned()).collect();
            let named = restless.note(&changed, during_run, start + Duration::from_millis(millis));
            (named, restless.interrupts(paths))
        };
        let goes_on = (None, true);
        for at in [0, 100] {
            // Somebody saves while nothing runs.
            for _ in 0..3 {
                assert_eq!(note(&["report"], true, at), goes_on);
            }
            assert_eq!(note(&["report"], false, at), goes_on);
        }
        // Somebody saves now and then.
        for at in [1, 2, 3, 4, 5, 6, 7, 8] {
            assert_eq!(note(&["report"], true, at * 1_500), goes_on);
        }
        assert_eq!(note(&["report"], true, 20_000), goes_on);
        assert_eq!(note(&["report", "z"], true, 20_010), goes_on);
        assert_eq!(note(&["a", "report"], true, 20_020), goes_on);
        assert_eq!(note(&["a", "report"], true, 20_030), (Some("report".to_owned()), true));
        assert_eq!(note(&["report"], true, 20_040), (None, false));
        assert_eq!(note(&["a", "report"], true, 20_050), goes_on);
    }
}
