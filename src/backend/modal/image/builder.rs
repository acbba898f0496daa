//! The image builder versions of Modal and the tables that differ between them.
//!
//! The version belongs to the user's Modal environment; accel speaks every version that Modal still builds new
//! images with. Tables are those of the official SDK.

use super::{ContextMount, ImageError, LayerRequest};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Builder {
    V2024_10,
    V2025_06,
    V2026_10,
    Preview,
}

/// Path of the client's requirements inside an image (2024.10 installs them into every image).
const REQUIREMENTS_PATH: &str = "/modal_requirements.txt";
const REQUIREMENTS: &[u8] = include_bytes!("requirements-2024.10.txt");
pub(super) const COPY_REQUIREMENTS: &str = "COPY /modal_requirements.txt /modal_requirements.txt";
pub(super) const INSTALL_REQUIREMENTS: &str =
    "RUN uv pip install --system --compile-bytecode --no-cache --no-deps -r /modal_requirements.txt";
pub(super) const REMOVE_REQUIREMENTS: &str = "RUN rm /modal_requirements.txt";
pub(super) const PACKAGE_TOOLS: &str = "pip wheel uv";
/// Two days: longer than a sandbox may live.
pub(super) const SLEEP: &str = "CMD [\"sleep\", \"172800\"]";
/// Standalone releases older than this have no `python`, only `python3`.
const RELEASE_WITH_PYTHON_LINK: &str = "20241008";

/// Series → release date and full version of the standalone Python that Modal keeps as a mount.
type Standalone = [(&'static str, &'static str, &'static str)];
const STANDALONE_2025_06: &Standalone = &[
    ("3.10", "20230826", "3.10.13"),
    ("3.11", "20230826", "3.11.5"),
    ("3.12", "20240107", "3.12.1"),
    ("3.13", "20241008", "3.13.0"),
    ("3.14", "20251205", "3.14.2"),
    ("3.14t", "20251209", "3.14.2t"),
    ("3.15", "20261009", "3.15.0"),
    ("3.15t", "20261009", "3.15.0t"),
];
const STANDALONE_2026_10: &Standalone = &[
    ("3.11", "20261021", "3.11.17"),
    ("3.12", "20261021", "3.12.15"),
    ("3.13", "20261021", "3.13.17"),
    ("3.14", "20261021", "3.14.9"),
    ("3.14t", "20261021", "3.14.9t"),
    ("3.15", "20261021", "3.15.1"),
    ("3.15t", "20261021", "3.15.1t"),
];

impl Builder {
    pub const ALL: [Self; 4] = [Self::V2024_10, Self::V2025_06, Self::V2026_10, Self::Preview];
    pub const NAMES: [&'static str; 4] = ["2024.10", "2025.06", "2026.10", "PREVIEW"];

    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let found = Self::ALL.into_iter().find(|builder| builder.as_str() == text);
        found.ok_or_else(|| ImageError::UnknownBuilder(text.to_owned()))
    }

    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    fn python_series(self) -> &'static [&'static str] {
        match self {
            Self::V2024_10 => &["3.10", "3.11", "3.12", "3.13"],
            Self::V2025_06 => &["3.10", "3.11", "3.12", "3.13", "3.14", "3.14t", "3.15", "3.15t"],
            Self::V2026_10 | Self::Preview => &["3.11", "3.12", "3.13", "3.14", "3.14t", "3.15", "3.15t"],
        }
    }

    pub(super) fn debian(self) -> &'static str {
        if self >= Self::V2026_10 { "trixie" } else { "bookworm" }
    }

    pub(super) fn micromamba(self) -> &'static str {
        match self {
            Self::V2024_10 => "1.5.10-bookworm-slim",
            Self::V2025_06 => "2.1.1-debian12-slim",
            Self::V2026_10 | Self::Preview => "2.9.0-debian13-slim",
        }
    }

    /// Whether the client's dependencies are installed into every image.
    pub(super) fn installs_requirements(self) -> bool {
        self == Self::V2024_10
    }

    /// Whether the first line of a base is a layer of its own.
    pub(super) fn splits_from(self) -> bool {
        self >= Self::V2026_10
    }

    /// poetry's version where the user gives none.
    pub(super) fn poetry(self) -> &'static str {
        if self == Self::V2024_10 { "~=1.7" } else { "" }
    }

    pub(super) fn with_requirements(self, mut layer: LayerRequest) -> LayerRequest {
        if self.installs_requirements() {
            layer.context_files.push((REQUIREMENTS_PATH.into(), REQUIREMENTS.into()));
        }
        layer
    }

    /// The tag of Docker Hub's python image: before 2026.10 a series means one pinned release.
    pub(super) fn docker_hub_python(self, version: &str) -> Result<&str, ImageError> {
        self.check_base_python(version)?;
        if self.splits_from() || version.split('.').count() > 2 {
            return Ok(version);
        }
        let pinned: &[&str] = match self {
            Self::V2024_10 => &["3.9.20", "3.10.15", "3.11.10", "3.12.6", "3.13.0"],
            _ => &["3.9.22", "3.10.17", "3.11.12", "3.12.10", "3.13.3", "3.14.2", "3.15.0"],
        };
        let found =
            pinned.iter().find(|full| full.rsplit_once('.').is_some_and(|(series, _)| series == version));
        found.copied().ok_or_else(|| self.unsupported(version))
    }

    /// A base's Python: a series or a full release, not free-threaded.
    pub(super) fn check_base_python(self, version: &str) -> Result<&str, ImageError> {
        if version.ends_with('t') && is_python_version(version) {
            return Err(ImageError::FreeThreadedBase(version.to_owned()));
        }
        self.check_python(version)?;
        Ok(version)
    }

    fn check_python(self, version: &str) -> Result<(), ImageError> {
        if !is_python_version(version) {
            return Err(ImageError::InvalidPython(version.to_owned()));
        }
        let parts: Vec<_> = version.split('.').collect();
        let suffix = if parts.len() == 3 && version.ends_with('t') { "t" } else { "" };
        let series = format!("{}.{}{suffix}", parts[0], parts[1]);
        if !self.python_series().contains(&series.as_str()) {
            return Err(self.unsupported(version));
        }
        Ok(())
    }

    fn unsupported(self, version: &str) -> ImageError {
        ImageError::UnsupportedPython {
            version: version.to_owned(),
            builder: self.as_str(),
            supported: self.python_series(),
        }
    }

    fn standalone(self, series: &str) -> Result<(&'static str, &'static str), ImageError> {
        self.check_python(series)?;
        if series.split('.').count() > 2 {
            return Err(ImageError::PythonNotASeries(series.to_owned()));
        }
        let table = if self.splits_from() { STANDALONE_2026_10 } else { STANDALONE_2025_06 };
        let found = table.iter().find(|(known, ..)| *known == series);
        found.map(|(_, release, full)| (*release, *full)).ok_or_else(|| self.unsupported(series))
    }

    /// The mount, known to everybody on Modal, that holds a standalone Python.
    pub(super) fn python_mount(self, series: &str) -> Result<ContextMount, ImageError> {
        let (release, full) = self.standalone(series)?;
        Ok(ContextMount::Global(format!("python-build-standalone.{release}.{full}-gnu")))
    }

    /// The lines of a base that is not Modal's own: the Python to add, the user's setup, the client's needs.
    pub(super) fn setup_commands(
        self,
        from: &str,
        add_python: Option<&str>,
        setup: &[String],
    ) -> Result<Vec<String>, ImageError> {
        let mut commands = vec![format!("FROM {from}")];
        if let Some(series) = add_python {
            commands.push("COPY /python/. /usr/local".into());
            if self.standalone(series)?.0 < RELEASE_WITH_PYTHON_LINK {
                commands.push("RUN ln -s /usr/local/bin/python3 /usr/local/bin/python".into());
            }
            commands.push(
                "ENV TERMINFO_DIRS=/etc/terminfo:/lib/terminfo:/usr/share/terminfo:/usr/lib/terminfo".into(),
            );
        }
        commands.extend_from_slice(setup);
        if self.installs_requirements() {
            commands.push(COPY_REQUIREMENTS.into());
            commands.push(format!("RUN python -m pip install --upgrade {PACKAGE_TOOLS}"));
            commands.push(INSTALL_REQUIREMENTS.into());
            commands.push(REMOVE_REQUIREMENTS.into());
        }
        Ok(commands)
    }
}

/// `3.12`, `3.12.8`, `3.15rc1`, `3.14t`.
fn is_python_version(text: &str) -> bool {
    let text = text.strip_suffix('t').unwrap_or(text);
    let text = text.rfind("rc").map_or(text, |at| {
        if text[at + 2..].bytes().all(|b| b.is_ascii_digit()) { &text[..at] } else { text }
    });
    let Some(rest) = text.strip_prefix("3.") else { return false };
    let parts: Vec<_> = rest.split('.').collect();
    let number = |part: &&str| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    parts.len() <= 2 && parts.iter().all(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_versions() {
        for good in ["3.12", "3.12.8", "3.15rc1", "3.14t", "3.14.2t"] {
            assert!(is_python_version(good), "{good}");
        }
        for bad in ["3", "2.7", "3.", "3.123", "3.1.2.3", "3.x", "", "3.12 "] {
            assert!(!is_python_version(bad), "{bad}");
        }
    }

    #[test]
    fn unknown_versions_are_refused_with_the_known_ones() {
        let error = Builder::parse("2023.12").unwrap_err();
        assert!(error.help().contains("2024.10, 2025.06, 2026.10"), "{}", error.help());
        assert_eq!(Builder::parse("2026.10").unwrap(), Builder::V2026_10);
    }

    #[test]
    fn python_is_checked_as_the_official_client_does() {
        let check = |builder: Builder, version| builder.docker_hub_python(version).map(str::to_owned);
        assert_eq!(check(Builder::V2025_06, "3.12").unwrap(), "3.12.10");
        assert_eq!(check(Builder::V2025_06, "3.12.8").unwrap(), "3.12.8");
        assert_eq!(check(Builder::V2026_10, "3.12").unwrap(), "3.12");
        assert!(matches!(check(Builder::V2026_10, "3.10"), Err(ImageError::UnsupportedPython { .. })));
        assert!(matches!(check(Builder::V2024_10, "3.14"), Err(ImageError::UnsupportedPython { .. })));
        assert!(matches!(check(Builder::V2025_06, "3.14t"), Err(ImageError::FreeThreadedBase(_))));
        assert!(matches!(Builder::V2026_10.python_mount("3.12.1"), Err(ImageError::PythonNotASeries(_))));
        assert!(matches!(check(Builder::V2026_10, "three"), Err(ImageError::InvalidPython(_))));
    }
}
