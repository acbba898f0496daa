//! GPUs as people write them: `"L4"`, `"A100-40GB:2"`.

use std::fmt;

use crate::base::suggest::nearest;

/// A kind of GPU and how many of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gpu {
    /// Upper case, as Modal names it.
    pub kind: String,
    /// From 1 to 8.
    pub count: u32,
}

/// Kinds that Modal offers. `!` forbids an upgrade to a better one, `+` allows it.
pub const GPU_KINDS: [&str; 17] = [
    "ANY",
    "T4",
    "L4",
    "A10",
    "A10G",
    "L40S",
    "A100",
    "A100-40GB",
    "A100-80GB",
    "RTX-PRO-6000",
    "H100",
    "H100!",
    "H200",
    "H200!",
    "B200",
    "B200+",
    "B300",
];

/// Most GPUs of one machine.
pub const MAX_GPU_COUNT: u32 = 8;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    #[error("empty GPU name")]
    Empty,
    #[error("`{0}` cannot be a GPU")]
    Kind(String),
    #[error("`{0}` is no number of GPUs")]
    Count(String),
}

impl GpuError {
    /// What to write instead.
    pub fn help(&self) -> String {
        match self {
            Self::Count(_) => format!("write a kind and a number from 1 to {MAX_GPU_COUNT}: \"H100:2\""),
            Self::Empty | Self::Kind(_) => offered(),
        }
    }
}

fn offered() -> String {
    format!("Modal offers {}", GPU_KINDS[1..].join(", "))
}

impl Gpu {
    /// Reads `"KIND"` or `"KIND:COUNT"`; case does not matter. A kind that is not among [`GPU_KINDS`] is taken:
    /// Modal may offer more by now ([`Gpu::doubt`] says what a person should hear).
    pub fn parse(text: &str) -> Result<Self, GpuError> {
        let (kind, count) = match text.trim().split_once(':') {
            Some((kind, count)) => (kind.trim(), parse_count(count.trim())?),
            None => (text.trim(), 1),
        };
        if kind.is_empty() {
            return Err(GpuError::Empty);
        }
        if !is_kind_like(kind) {
            return Err(GpuError::Kind(kind.to_owned()));
        }
        Ok(Self { kind: kind.to_ascii_uppercase(), count })
    }

    /// For a kind that this accel does not know: what is doubtful, and the likely remedy.
    pub fn doubt(&self) -> Option<(String, String)> {
        if GPU_KINDS.contains(&self.kind.as_str()) {
            return None;
        }
        let help = match nearest(&self.kind, GPU_KINDS) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => offered(),
        };
        Some((format!("unknown GPU `{}`", self.kind), help))
    }
}

/// A letter, then letters, digits, `-` and `_`; `!` or `+` may end it.
fn is_kind_like(kind: &str) -> bool {
    let name = kind.strip_suffix(['!', '+']).unwrap_or(kind);
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn parse_count(text: &str) -> Result<u32, GpuError> {
    let count = text.parse().ok().filter(|count| (1..=MAX_GPU_COUNT).contains(count));
    count.ok_or_else(|| GpuError::Count(text.to_owned()))
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => f.write_str(&self.kind),
            count => write!(f, "{}:{count}", self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kinds_and_counts() {
        let check = |text: &str, shown: &str| assert_eq!(Gpu::parse(text).expect(text).to_string(), shown);
        check("L4", "L4");
        check("a100-40gb:2", "A100-40GB:2");
        check("H100!", "H100!");
        check(" T4 : 1 ", "T4");
    }

    #[test]
    fn names_what_is_wrong_and_the_remedy() {
        let check = |text: &str, message: &str, help: &str| {
            let error = Gpu::parse(text).expect_err(text);
            assert_eq!(error.to_string(), message);
            assert!(error.help().contains(help), "{}", error.help());
        };
        check("", "empty GPU name", "Modal offers T4");
        check(":2", "empty GPU name", "Modal offers T4");
        check("H100 or so", "`H100 or so` cannot be a GPU", "Modal offers T4");
        check("4090", "`4090` cannot be a GPU", "Modal offers T4");
        check("É", "`É` cannot be a GPU", "Modal offers T4");
        check("L4:0", "`0` is no number of GPUs", "from 1 to 8");
        check("L4:9", "`9` is no number of GPUs", "from 1 to 8");
        check("L4:x", "`x` is no number of GPUs", "from 1 to 8");
    }

    #[test]
    fn takes_unknown_kinds_with_doubt() {
        let check = |text: &str, shown: &str, doubt: Option<(&str, &str)>| {
            let gpu = Gpu::parse(text).expect(text);
            assert_eq!(gpu.to_string(), shown);
            let doubt = doubt.map(|(message, help)| (message.to_owned(), help.to_owned()));
            assert_eq!(gpu.doubt().map(|(message, help)| (message, help[..12].to_owned())), doubt);
        };
        check("h100:2", "H100:2", None);
        check("h1000:2", "H1000:2", Some(("unknown GPU `H1000`", "did you mean")));
        check("voodoo-graphics", "VOODOO-GRAPHICS", Some(("unknown GPU `VOODOO-GRAPHICS`", "Modal offers")));
    }
}
