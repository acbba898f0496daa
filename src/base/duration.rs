//! Durations as people write them: `"90s"`, `"1h30m"`, `"250ms"`; a bare number is seconds.

use std::fmt;
use std::time::Duration;

/// Why a duration could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("empty duration")]
    Empty,
    #[error("`{0}` is not a number")]
    Number(String),
    #[error("unknown unit `{0}`")]
    Unit(String),
    #[error("number without a unit in `{0}`")]
    MissingUnit(String),
    #[error("duration is too large")]
    TooLarge,
}

/// The remedy that belongs to every [`DurationError`].
pub const DURATION_HELP: &str = "write a number with a unit: \"250ms\", \"90s\", \"10m\", \"1h30m\", \"2d\"";

/// Reads `"250ms"`, `"90s"`, `"10m"`, `"1h30m"`, `"2d"`; units are ms, s, m, h, d; blanks between parts are
/// allowed. A bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return seconds_to_duration(number(text)?);
    }
    let mut rest = text;
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let (part, after) = take_part(rest)?;
        total += part;
        rest = after.trim_start();
    }
    seconds_to_duration(total)
}

/// A bare TOML number as seconds.
pub fn seconds_to_duration(seconds: f64) -> Result<Duration, DurationError> {
    if !seconds.is_finite() || seconds < 0.0 {
        return Err(DurationError::Number(seconds.to_string()));
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| DurationError::TooLarge)
}

fn number(text: &str) -> Result<f64, DurationError> {
    text.parse().map_err(|_| DurationError::Number(text.to_owned()))
}

fn take_part(text: &str) -> Result<(f64, &str), DurationError> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(|| DurationError::MissingUnit(text.to_owned()))?;
    let value = number(&text[..unit_at])?;
    let rest = text[unit_at..].trim_start();
    let unit_end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let seconds = match &rest[..unit_end] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        unit => return Err(DurationError::Unit(unit.to_owned())),
    };
    Ok((value * seconds, &rest[unit_end..]))
}

/// Short form for people: `35ms`, `1.2s`, `4m05s`, `2h03m`.
pub struct ShortDuration(pub Duration);

impl fmt::Display for ShortDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(f, "{}ms", self.0.as_millis()),
            1..60 => write!(f, "{:.1}s", self.0.as_secs_f64()),
            60..3600 => write!(f, "{}m{:02}s", seconds / 60, seconds % 60),
            _ => write!(f, "{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        }
    }
}

/// As accel.toml writes it, nothing rounded away but what is below a millisecond: `20m`, `1h30m`, `1s500ms`.
pub struct ExactDuration(pub Duration);

impl fmt::Display for ExactDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u128); 5] =
            [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
        let mut left = self.0.as_millis();
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in UNITS {
            if left >= millis {
                write!(f, "{}{unit}", left / millis)?;
                left %= millis;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit_and_their_sums() {
        let check = |text: &str, millis: u64| {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        };
        check("250ms", 250);
        check("90s", 90_000);
        check("90", 90_000);
        check("1.5", 1_500);
        check("10m", 600_000);
        check("1h30m", 5_400_000);
        check("1h 30m", 5_400_000);
        check("2d", 172_800_000);
    }

    #[test]
    fn names_what_is_wrong() {
        assert_eq!(parse_duration(""), Err(DurationError::Empty));
        assert_eq!(parse_duration("10x"), Err(DurationError::Unit("x".into())));
        assert_eq!(parse_duration("m"), Err(DurationError::Number("".into())));
        assert_eq!(parse_duration("1h30"), Err(DurationError::MissingUnit("30".into())));
        assert_eq!(parse_duration("99999999999999999999d"), Err(DurationError::TooLarge));
        assert!(parse_duration("-3s").is_err());
        assert!(parse_duration("1.2.3s").is_err());
    }

    #[test]
    fn short_form_stays_short() {
        let show = |millis| ShortDuration(Duration::from_millis(millis)).to_string();
        assert_eq!(
            [show(35), show(1_240), show(245_000), show(7_380_000)],
            ["35ms", "1.2s", "4m05s", "2h03m"]
        );
    }

    #[test]
    fn exact_form_reads_back() {
        for (millis, text) in
            [(0, "0s"), (50, "50ms"), (1_500, "1s500ms"), (1_200_000, "20m"), (90_061_000, "1d1h1m1s")]
        {
            let duration = Duration::from_millis(millis);
            assert_eq!(ExactDuration(duration).to_string(), text);
            assert_eq!(parse_duration(text), Ok(duration));
        }
    }
}
