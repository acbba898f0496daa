//! Which uv: a good one on PATH, else accel's own under `<cache>/tools/uv/<version>/`, else that is installed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use semver::Version;

use super::call::{Call, Log};
use super::host::Host;
use super::install_uv;
use crate::backend::{Cancel, Failure};
use crate::domain::Cause;

/// The oldest uv that understands everything accel asks of it (`UV_DEFAULT_INDEX`, `sync --no-install-workspace`).
pub const OLDEST: Version = Version::new(0, 5, 0);

/// A uv that was found, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uv {
    pub program: PathBuf,
    pub version: Version,
}

/// The uv to use. `wanted`: exactly this version, as an image asked for.
pub(super) async fn find_or_install(
    host: &Host,
    wanted: Option<&str>,
    log: &Log<'_>,
    cancel: &Cancel,
) -> Result<Uv, Failure> {
    let wanted = wanted.map(parse_wanted).transpose()?;
    for program in host.programs("uv") {
        match version_of(&program, host, cancel).await {
            Some(version) if suits(&version, wanted.as_ref()) => return Ok(Uv { program, version }),
            Some(version) => {
                log.line(&format!("passing over uv {version} ({})", program.display())).await;
            }
            None => {}
        }
    }
    if let Some(own) = installed(host.directories.cache_path(), wanted.as_ref()) {
        return Ok(own);
    }
    install_uv::install(host, wanted.as_ref(), log, cancel).await
}

/// What would be used without installing anything: for `accel doctor`.
pub async fn find(host: &Host, cancel: Cancel) -> Option<Uv> {
    for program in host.programs("uv") {
        if let Some(version) = version_of(&program, host, &cancel).await
            && suits(&version, None)
        {
            return Some(Uv { program, version });
        }
    }
    installed(host.directories.cache_path(), None)
}

fn parse_wanted(text: &str) -> Result<Version, Failure> {
    Version::parse(text).map_err(|_| {
        Failure::new(Cause::Image, format!("uv_version `{text}` is not a version"))
            .help("write all three numbers, such as \"0.9.2\"")
    })
}

fn suits(version: &Version, wanted: Option<&Version>) -> bool {
    wanted.map_or(*version >= OLDEST, |wanted| version == wanted)
}

/// The newest complete one of accel's own: a version's folder appears whole, by one rename.
pub(super) fn installed(cache: &Path, wanted: Option<&Version>) -> Option<Uv> {
    let entries = std::fs::read_dir(install_uv::folder(cache)).ok()?;
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = Version::parse(entry.file_name().to_str()?).ok()?;
            let program = entry.path().join("uv");
            (suits(&version, wanted) && program.is_file()).then_some(Uv { program, version })
        })
        .max_by(|a, b| a.version.cmp(&b.version))
}

/// What the program says about itself; `None` when it is not a uv that runs (a shim for another Python, say).
pub(super) async fn version_of(program: &Path, host: &Host, cancel: &Cancel) -> Option<Version> {
    let call = Call {
        program: program.to_owned(),
        args: vec![OsString::from("--version")],
        cwd: PathBuf::from("/"),
        env: host.installer_env(),
    };
    parse_version(&call.answer(&host.supervisor, cancel).await?)
}

/// `uv 0.9.2 (141369ce7 2025-10-10)`.
fn parse_version(text: &str) -> Option<Version> {
    let mut words = text.split_whitespace();
    (words.next()? == "uv").then_some(())?;
    Version::parse(words.next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_uv_says() {
        assert_eq!(parse_version("uv 0.9.2 (141369ce7 2025-10-10)\n"), Some(Version::new(0, 9, 2)));
        assert_eq!(parse_version("uv 0.9.2"), Some(Version::new(0, 9, 2)));
        assert_eq!(parse_version("pyenv: uv: command not found"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn the_newest_own_uv_is_used_or_exactly_the_wanted_one() {
        let cache = tempfile::tempdir().unwrap();
        for version in ["0.9.2", "0.10.0", "0.4.1", "junk"] {
            let folder = install_uv::folder(cache.path()).join(version);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("uv"), "").unwrap();
        }
        std::fs::create_dir(install_uv::folder(cache.path()).join("1.0.0")).unwrap();
        let found = |wanted: Option<&str>| {
            let wanted = wanted.map(|text| Version::parse(text).unwrap());
            installed(cache.path(), wanted.as_ref()).map(|uv| uv.version.to_string())
        };
        assert_eq!(found(None).as_deref(), Some("0.10.0"));
        assert_eq!(found(Some("0.9.2")).as_deref(), Some("0.9.2"));
        assert_eq!(found(Some("0.9.3")), None);
    }
}
