//! Colours, when they are allowed. Text must read the same without them.

use anstyle::{AnsiColor, Color, Style};

pub(super) const GOOD: Style = color(AnsiColor::Green);
pub(super) const BAD: Style = color(AnsiColor::Red).bold();
pub(super) const WARN: Style = color(AnsiColor::Yellow).bold();
pub(super) const FAINT: Style = Style::new().dimmed();
pub(super) const STRONG: Style = Style::new().bold();

/// One for each job in turn; none of them means good or bad.
pub(super) const LANES: [Style; 6] = [
    color(AnsiColor::Cyan),
    color(AnsiColor::Magenta),
    color(AnsiColor::Blue),
    color(AnsiColor::BrightCyan),
    color(AnsiColor::BrightMagenta),
    color(AnsiColor::BrightBlue),
];

const fn color(color: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(color)))
}

/// Whether one of the two streams may have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colors {
    Allowed,
    Plain,
}

impl Colors {
    pub(super) fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::Allowed => format!("{style}{text}{style:#}"),
            Self::Plain => text.to_owned(),
        }
    }
}
