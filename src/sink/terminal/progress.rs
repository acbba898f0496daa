//! Moving progress on a terminal: the one file that knows indicatif.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::neutral::clean;

/// Frames a second at most.
const RATE: u8 = 15;

pub(super) struct Bars {
    drawn: Option<MultiProgress>,
    bars: Vec<ProgressBar>,
    columns: usize,
}

impl Bars {
    pub(super) fn new(columns: Option<usize>) -> Self {
        Self { drawn: None, bars: Vec::new(), columns: columns.unwrap_or(80) }
    }

    /// Draws one line per step: job, label, last line of its log, done, total.
    pub(super) fn draw<'a>(
        &mut self,
        steps: impl Iterator<Item = (&'a str, &'a str, &'a str, u64, Option<u64>)>,
    ) {
        let columns = self.columns;
        let target = || MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(RATE));
        let all = self.drawn.get_or_insert_with(target);
        let mut count = 0;
        for (job, label, detail, done, total) in steps {
            if count == self.bars.len() {
                self.bars.push(all.add(ProgressBar::no_length()));
            }
            let bar = &self.bars[count];
            match total {
                Some(total) => {
                    bar.set_style(style(columns, Shape::Bar));
                    bar.set_length(total);
                    bar.set_position(done.min(total));
                }
                None => bar.set_style(style(columns, Shape::Spinner)),
            }
            let detail = if detail.is_empty() { String::new() } else { format!(" · {}", clean(detail)) };
            bar.set_message(format!("{job}: {}{detail}", clean(label)));
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

enum Shape {
    Bar,
    Spinner,
}

fn style(columns: usize, shape: Shape) -> ProgressStyle {
    let template = match shape {
        Shape::Bar if columns >= 60 => "{spinner} {msg} [{bar:20}] {percent}%",
        Shape::Bar => "{spinner} {percent}% {msg}",
        Shape::Spinner => "{spinner} {wide_msg}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
