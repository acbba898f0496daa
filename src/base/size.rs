//! Sizes as people write them: `"300MB"`, `"8GiB"`.

use std::fmt;

/// Why a size could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("`{0}` is not a number")]
    Number(String),
    #[error("unknown unit `{0}`")]
    Unit(String),
    #[error("number without a unit")]
    MissingUnit,
    #[error("size is too large")]
    TooLarge,
}

/// The remedy that belongs to every [`SizeError`].
pub const SIZE_HELP: &str = "write a number with a unit: \"512MiB\", \"8GiB\", \"300MB\"";

/// A count of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// Reads `"300MB"` (powers of ten) or `"8GiB"` (powers of two); the unit is required.
    pub fn parse(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(SizeError::MissingUnit)?;
        let value: f64 =
            text[..unit_at].parse().map_err(|_| SizeError::Number(text[..unit_at].to_owned()))?;
        let bytes = value * unit_factor(text[unit_at..].trim())?;
        if bytes > 9.0e18 {
            return Err(SizeError::TooLarge);
        }
        // Rounding to whole bytes is what a size means; the bound above keeps the cast exact enough.
        Ok(Self(bytes.round() as u64))
    }

    /// Whole mebibytes, rounded up: Modal's unit of memory.
    pub fn mebibytes(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

fn unit_factor(unit: &str) -> Result<f64, SizeError> {
    Ok(match unit {
        "B" => 1.0,
        "kB" | "KB" | "K" | "k" => 1e3,
        "MB" | "M" => 1e6,
        "GB" | "G" => 1e9,
        "TB" | "T" => 1e12,
        "KiB" | "Ki" => 1024.0,
        "MiB" | "Mi" => 1_048_576.0,
        "GiB" | "Gi" => 1_073_741_824.0,
        "TiB" | "Ti" => 1_099_511_627_776.0,
        other => return Err(SizeError::Unit(other.to_owned())),
    })
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, f64); 4] =
            [("TiB", 1_099_511_627_776.0), ("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)];
        for (name, factor) in UNITS {
            let value = self.0 as f64 / factor;
            if value < 1.0 {
                continue;
            }
            if value.fract() == 0.0 {
                return write!(f, "{value}{name}");
            }
            return write!(f, "{value:.1}{name}");
        }
        write!(f, "{}B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_and_binary_units_differ() {
        assert_eq!(Bytes::parse("300MB"), Ok(Bytes(300_000_000)));
        assert_eq!(Bytes::parse("8GiB"), Ok(Bytes(8 << 30)));
        assert_eq!(Bytes::parse("1.5 KiB"), Ok(Bytes(1536)));
    }

    #[test]
    fn names_what_is_wrong() {
        assert_eq!(Bytes::parse("300"), Err(SizeError::MissingUnit));
        assert_eq!(Bytes::parse("3XB"), Err(SizeError::Unit("XB".into())));
        assert_eq!(Bytes::parse("GB"), Err(SizeError::Number("".into())));
        assert_eq!(Bytes::parse("99999999999TB"), Err(SizeError::TooLarge));
    }

    #[test]
    fn shown_in_the_largest_unit_that_fits() {
        let show = |bytes| Bytes(bytes).to_string();
        assert_eq!([show(12), show(1 << 30), show(1536)], ["12B", "1GiB", "1.5KiB"]);
    }
}
