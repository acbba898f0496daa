//! Money in US dollars, kept in millionths so that sums are exact.

use std::fmt;

/// The remedy for an amount that cannot be read.
pub const MONEY_HELP: &str = "write dollars: \"$0.50\" or \"$5\"";

/// Millionths of a US dollar.
#[derive(
    Debug,
    Clone,
    Copy,
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

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dollars = self.0 as f64 / 1e6;
        if self.0 != 0 && self.0 < 10_000 { write!(f, "${dollars:.4}") } else { write!(f, "${dollars:.2}") }
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
        assert_eq!(Dollars(500_000).to_string(), "$0.50");
        assert_eq!(Dollars(1_200).to_string(), "$0.0012");
    }
}
