//! Money in US dollars, kept in millionths so that sums are exact.

use std::fmt;

/// The remedy for an amount that cannot be read.
pub const MONEY_HELP: &str = "write dollars: \"$0.50\" or \"$5\"";

/// Millionths of a US dollar.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Dollars(pub u64);

impl Dollars {
    /// Reads `"$0.50"` or `"$5"`; the sign is required. `None` when it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.trim().strip_prefix('$')?;
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return None;
        }
        let value: f64 = number.parse().ok()?;
        (value < 1e12).then(|| Self((value * 1e6).round() as u64))
    }
}

impl Dollars {
    /// For comparisons and sums that never overflow.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self(self.0.saturating_add(more.0))
    }

    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Reads decimal text as Modal writes amounts: `0.0123`, `$0.0123`. `None` for anything else and below zero.
    pub fn from_decimal(text: &str) -> Option<Self> {
        let value: f64 = text.trim().trim_start_matches('$').parse().ok()?;
        (0.0..1e12).contains(&value).then(|| Self((value * 1e6).round() as u64))
    }
}

impl Dollars {
    /// Whether it would be shown as `$0.00`.
    pub fn is_next_to_nothing(self) -> bool {
        self.0 < 50
    }
}

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dollars = self.0 as f64 / 1e6;
        let less_than_a_cent = self.0 < 10_000;
        if less_than_a_cent && !self.is_next_to_nothing() {
            write!(f, "${dollars:.4}")
        } else {
            write!(f, "${dollars:.2}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_dollars() {
        assert_eq!(Dollars::parse("$0.50"), Some(Dollars(500_000)));
        assert_eq!(Dollars::parse("0.50"), None);
        assert_eq!(Dollars::parse("$"), None);
        assert_eq!(Dollars::parse("$-1"), None);
        assert_eq!(Dollars::from_decimal("$0.0123"), Some(Dollars(12_300)));
        assert_eq!(Dollars::from_decimal("NaN"), None);
        assert_eq!(Dollars::from_decimal("-1"), None);
        assert_eq!(Dollars(500_000).to_string(), "$0.50");
        assert_eq!(Dollars(1_200).to_string(), "$0.0012");
        assert_eq!(Dollars(3).to_string(), "$0.00");
    }
}
