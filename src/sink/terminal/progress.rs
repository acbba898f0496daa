//! Moving progress on a terminal: the one file that knows indicatif.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::neutral::clean;

/// Frames a second at most.
const RATE: u8 = 15;

/// Terminals narrower than this get a percentage in place of a bar.
const ROOM_FOR_A_BAR: usize = 60;

/// One step as it is drawn.
pub(super) struct Line<'a> {
    pub job: &'a str,
    pub label: &'a str,
    /// The last line of its log; may be empty.
    pub detail: &'a str,
    pub done: u64,
    pub total: Option<u64>,
}

pub(super) struct Bars {
    drawn: Option<MultiProgress>,
    bars: Vec<ProgressBar>,
    columns: usize,
}

impl Bars {
    pub(super) fn new(columns: Option<usize>) -> Self {
        Self { drawn: None, bars: Vec::new(), columns: columns.unwrap_or(ROOM_FOR_A_BAR) }
    }

    pub(super) fn draw<'a>(&mut self, lines: impl Iterator<Item = Line<'a>>) {
        let target = || MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(RATE));
        let all = self.drawn.get_or_insert_with(target);
        let mut count = 0;
        for line in lines {
            let known = self.bars.get(count).cloned();
            let bar =
                known.unwrap_or_else(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()));
            fill(&bar, &line, self.columns);
            if count == self.bars.len() {
                self.bars.push(all.add(bar.clone()));
            }
            bar.tick();
            count += 1;
        }
        for bar in self.bars.drain(count..) {
            bar.finish_and_clear();
        }
    }

    pub(super) fn clear(&mut self) {
        let Some(drawn) = self.drawn.take() else { return };
        for bar in self.bars.drain(..) {
            bar.finish_and_clear();
        }
        // A terminal that does not take this takes nothing else either.
        let _ = drawn.clear();
    }
}

fn fill(bar: &ProgressBar, line: &Line<'_>, columns: usize) {
    let template = match line.total {
        Some(_) if columns >= ROOM_FOR_A_BAR => "{spinner} {wide_msg} [{bar:20}] {percent:>3}%",
        Some(_) => "{spinner} {percent:>3}% {wide_msg}",
        None => "{spinner} {wide_msg}",
    };
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    let detail = if line.detail.is_empty() { String::new() } else { format!(" · {}", clean(line.detail)) };
    bar.set_message(format!("{}: {}{detail}", line.job, clean(line.label)));
    if let Some(total) = line.total {
        bar.set_length(total);
        bar.set_position(line.done.min(total));
    }
}
