//! accel's own uv: the newest stable wheel for this machine from the package index, its binary and no more.
//!
//! What must stay true: `<cache>/tools/uv/<version>/` is complete or absent (it is renamed into place), and
//! holds only what the index's SHA-256 vouches for. Several accels may install at once: one does, the others wait.

use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use semver::Version;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::call::Log;
use super::host::Host;
use super::uv::{OLDEST, Uv, version_of};
use crate::backend::{Cancel, Failure};
use crate::base::files;
use crate::domain::Cause;
use crate::event::{Event, Step};
use crate::net::{self, credentials};
use crate::store::Lock;
use crate::store::lock::Waiting;

/// The simple API in its JSON form, as every current index serves it.
const JSON_API: &str = "application/vnd.pypi.simple.v1+json";
/// A list of all files of uv is a few megabytes; a wheel some tens.
const LARGEST_LIST: u64 = 64 << 20;
const LARGEST_WHEEL: u64 = 512 << 20;

pub(super) fn folder(cache: &Path) -> PathBuf {
    cache.join("tools").join("uv")
}

#[derive(Debug, Deserialize)]
struct Project {
    files: Vec<IndexFile>,
}

/// One file of the index (PEP 691).
#[derive(Debug, Clone, Deserialize)]
struct IndexFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: Hashes,
    /// `true` or a reason.
    #[serde(default)]
    yanked: serde_json::Value,
    size: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

/// A wheel of uv that this machine can run.
#[derive(Debug, Clone)]
struct Wheel {
    version: Version,
    file: IndexFile,
}

/// Installs a uv for accel alone. Nothing of the user's machine is changed outside accel's cache.
pub(super) async fn install(
    host: &Host,
    wanted: Option<&Version>,
    log: &Log<'_>,
    cancel: &Cancel,
) -> Result<Uv, Failure> {
    let cache = host.directories.open_cache().map_err(|e| image_failure(e.to_string()).help(e.help()))?;
    let folder = folder(cache);
    files::create_dir_all(&folder).map_err(|error| image_failure(error.to_string()))?;
    let lock_path = folder.join("install.lock");
    let mut stop = cancel.clone();
    let waiting = Waiting { what: "the installation of uv", emitter: log.emitter, job: Some(log.job) };
    let _lock = tokio::select! {
        lock = Lock::exclusive(&lock_path, waiting) => lock.map_err(|e| image_failure(e.to_string()))?,
        _ = stop.stopped() => return Err(stopped()),
    };
    if let Some(uv) = super::uv::installed(cache, wanted) {
        return Ok(uv);
    }
    tokio::select! {
        uv = download_one(host, wanted, &folder, log, cancel) => uv,
        _ = stop.stopped() => Err(stopped()),
    }
}

async fn download_one(
    host: &Host,
    wanted: Option<&Version>,
    folder: &Path,
    log: &Log<'_>,
    cancel: &Cancel,
) -> Result<Uv, Failure> {
    let client = host.network.http_client().map_err(|error| image_failure(error.to_string()))?;
    let base = host.index();
    let wheels = candidates(&list(&client, &base).await?, wanted, &Machine::this());
    if wheels.is_empty() {
        let what = wanted.map_or_else(|| "uv".to_owned(), |version| format!("uv {version}"));
        let machine = Machine::this();
        return Err(with_remedy(image_failure(format!(
            "{} has no {what} for this machine ({} {})",
            credentials::redact(&base),
            machine.system,
            machine.processor
        ))));
    }
    let mut last = None;
    for wheel in &wheels {
        log.line(&format!("installing uv {} for accel ({})", wheel.version, wheel.file.filename)).await;
        match unpack_and_try(host, &client, &base, wheel, folder, log, cancel).await {
            Ok(uv) => return Ok(uv),
            Err(failure) => last = Some(failure),
        }
    }
    Err(with_remedy(last.expect("at least one wheel was tried")))
}

async fn list(client: &reqwest::Client, base: &str) -> Result<Vec<IndexFile>, Failure> {
    let url = format!("{base}/uv/");
    let fault = |reason: String| {
        with_remedy(image_failure(format!("cannot get uv from {}: {reason}", credentials::redact(&url))))
    };
    let response = client
        .get(&url)
        .header("accept", JSON_API)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| fault(net::describe(&error)))?;
    let mut body = Vec::new();
    read_body(response, LARGEST_LIST, |chunk| {
        body.extend_from_slice(chunk);
        Ok(())
    })
    .await
    .map_err(&fault)?;
    serde_json::from_slice::<Project>(&body)
        .map(|project| project.files)
        .map_err(|_| fault("the index does not speak the JSON form of the simple API".to_owned()))
}

/// Reads a response piece by piece, up to a limit.
async fn read_body(
    mut response: reqwest::Response,
    limit: u64,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), String> {
    let mut seen = 0_u64;
    while let Some(chunk) = response.chunk().await.map_err(|error| net::describe(&error))? {
        seen += chunk.len() as u64;
        if seen > limit {
            return Err(format!("the answer is larger than {limit} bytes"));
        }
        take(&chunk).map_err(|error| error.to_string())?;
    }
    Ok(())
}

async fn unpack_and_try(
    host: &Host,
    client: &reqwest::Client,
    base: &str,
    wheel: &Wheel,
    folder: &Path,
    log: &Log<'_>,
    cancel: &Cancel,
) -> Result<Uv, Failure> {
    let fault = |reason: String| image_failure(format!("cannot install uv {}: {reason}", wheel.version));
    let staging = tempfile::Builder::new()
        .prefix("partial-")
        .tempdir_in(folder)
        .map_err(|error| fault(error.to_string()))?;
    let archive = download(client, base, wheel, staging.path(), log).await.map_err(fault)?;
    unpack(archive, staging.path()).map_err(fault)?;
    if version_of(&staging.path().join("uv"), host, cancel).await.as_ref() != Some(&wheel.version) {
        return Err(fault("it does not run on this machine".to_owned()));
    }
    let target = folder.join(wheel.version.to_string());
    std::fs::rename(staging.keep(), &target).map_err(|error| fault(error.to_string()))?;
    Ok(Uv { program: target.join("uv"), version: wheel.version.clone() })
}

/// The wheel as an unnamed temporary file, its hash checked.
async fn download(
    client: &reqwest::Client,
    base: &str,
    wheel: &Wheel,
    folder: &Path,
    log: &Log<'_>,
) -> Result<std::fs::File, String> {
    let expected = wheel.file.hashes.sha256.as_deref().ok_or("the index gives no sha256 for it")?;
    let url = wheel_url(base, &wheel.file.url)?;
    let response = client
        .get(url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| net::describe(&error))?;
    let mut file = tempfile::tempfile_in(folder).map_err(|error| error.to_string())?;
    let mut hash = Sha256::new();
    let mut done = 0;
    let total = wheel.file.size.or(response.content_length());
    progress(log, done, total).await;
    read_body(response, LARGEST_WHEEL, |chunk| {
        hash.update(chunk);
        done += chunk.len() as u64;
        file.write_all(chunk)
    })
    .await?;
    progress(log, done, total).await;
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if !found.eq_ignore_ascii_case(expected) {
        return Err(format!("its sha256 is {found}, the index says {expected}"));
    }
    file.rewind().map_err(|error| error.to_string())?;
    Ok(file)
}

async fn progress(log: &Log<'_>, done: u64, total: Option<u64>) {
    let (job, step, label) = (log.job.clone(), Step::Image, "installing uv".to_owned());
    log.emitter.emit(Event::StepProgress { job, step, done, total, label }).await;
}

/// Addresses of files may be relative to the list. Credentials of the index stay with its own host.
fn wheel_url(base: &str, url: &str) -> Result<reqwest::Url, String> {
    let list = reqwest::Url::parse(&format!("{base}/uv/")).map_err(|error| error.to_string())?;
    let mut file = list.join(url).map_err(|error| error.to_string())?;
    if file.host() == list.host() && file.username().is_empty() && !list.username().is_empty() {
        let _ = file.set_username(list.username());
        let _ = file.set_password(list.password());
    }
    Ok(file)
}

/// Takes `uv` out of the wheel, nothing else.
fn unpack(archive: std::fs::File, folder: &Path) -> Result<(), String> {
    let mut archive = zip::ZipArchive::new(archive).map_err(|error| error.to_string())?;
    let name = archive
        .file_names()
        .flatten()
        .find(|name| name.ends_with(".data/scripts/uv"))
        .map(|name| name.into_owned())
        .ok_or("the wheel holds no uv")?;
    let entry = archive.by_name(&name).map_err(|error| error.to_string())?;
    let mut program = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(folder.join("uv"))
        .map_err(|error| error.to_string())?;
    std::io::copy(&mut entry.take(LARGEST_WHEEL), &mut program).map_err(|error| error.to_string())?;
    program.sync_all().map_err(|error| error.to_string())
}

/// What decides which wheels run here.
#[derive(Debug, Clone)]
struct Machine {
    system: &'static str,
    processor: String,
    /// The loader of glibc is there; accel itself may be built without it.
    glibc: bool,
}

impl Machine {
    fn this() -> Self {
        let name = rustix::system::uname();
        let processor = name.machine().to_string_lossy().into_owned();
        let system = if cfg!(target_os = "macos") { "macosx" } else { "linux" };
        let loaders =
            ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-linux-armhf.so.3"];
        Self { system, processor, glibc: loaders.iter().any(|loader| Path::new(loader).exists()) }
    }

    /// How well a wheel's platform tag suits, smaller is better; `None`: not at all.
    fn rank(&self, platform: &str) -> Option<u8> {
        platform.split('.').filter_map(|tag| self.rank_tag(tag)).min()
    }

    fn rank_tag(&self, tag: &str) -> Option<u8> {
        let processors: &[&str] = match self.processor.as_str() {
            "arm64" | "aarch64" => &["arm64", "aarch64", "universal2"],
            "x86_64" => &["x86_64", "universal2"],
            other => &[other],
        };
        processors.iter().any(|processor| tag.ends_with(&format!("_{processor}"))).then_some(())?;
        match self.system {
            "macosx" => tag.starts_with("macosx_").then_some(0),
            _ if tag.starts_with("manylinux") && self.glibc => Some(0),
            // Linked statically: runs everywhere.
            _ if tag.starts_with("musllinux") => Some(1),
            _ => None,
        }
    }
}

/// The wheels of the newest (or the wanted) version, best first.
fn candidates(files: &[IndexFile], wanted: Option<&Version>, machine: &Machine) -> Vec<Wheel> {
    let mut found: Vec<(u8, Wheel)> = files
        .iter()
        .filter(|file| matches!(file.yanked, serde_json::Value::Null | serde_json::Value::Bool(false)))
        .filter_map(|file| {
            let mut parts = file.filename.strip_suffix(".whl")?.splitn(5, '-');
            (parts.next()? == "uv").then_some(())?;
            let version = Version::parse(parts.next()?).ok()?;
            let suits = wanted.map_or(version.pre.is_empty() && version >= OLDEST, |w| version == *w);
            let rank = machine.rank(parts.nth(2)?)?;
            suits.then(|| (rank, Wheel { version, file: file.clone() }))
        })
        .collect();
    found.sort_by(|(rank, a), (other_rank, b)| b.version.cmp(&a.version).then(rank.cmp(other_rank)));
    let newest = found.first().map(|(_, wheel)| wheel.version.clone());
    found
        .into_iter()
        .map(|(_, wheel)| wheel)
        .filter(|wheel| Some(&wheel.version) == newest.as_ref())
        .collect()
}

fn image_failure(message: String) -> Failure {
    Failure::new(Cause::Image, message)
}

fn with_remedy(failure: Failure) -> Failure {
    failure.help(
        "install uv so that it is on PATH, or name a package index that has it in UV_DEFAULT_INDEX \
         (proxies: HTTPS_PROXY; own certificates: SSL_CERT_FILE)",
    )
}

fn stopped() -> Failure {
    image_failure("stopped while installing uv".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> IndexFile {
        serde_json::from_value(serde_json::json!({ "filename": name, "url": name })).unwrap()
    }

    #[test]
    fn picks_the_newest_stable_wheel_for_the_machine() {
        let files = [
            "uv-0.9.2-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "uv-0.10.0-py3-none-musllinux_1_1_x86_64.whl",
            "uv-0.10.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "uv-0.10.0-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
            "uv-0.10.0-py3-none-macosx_11_0_arm64.whl",
            "uv-0.10.0-py3-none-win_amd64.whl",
            "uv-0.11.0rc1-py3-none-musllinux_1_1_x86_64.whl",
            "uv-0.10.0.tar.gz",
            "uv_build-0.12.0-py3-none-musllinux_1_1_x86_64.whl",
        ]
        .map(file);
        let pick = |system, processor: &str, glibc, wanted: Option<&str>| {
            let machine = Machine { system, processor: processor.into(), glibc };
            let wanted = wanted.map(|text| Version::parse(text).unwrap());
            let wheels = candidates(&files, wanted.as_ref(), &machine);
            wheels.iter().map(|wheel| wheel.file.filename[3..].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            pick("linux", "x86_64", true, None),
            [
                "0.10.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
                "0.10.0-py3-none-musllinux_1_1_x86_64.whl"
            ]
        );
        assert_eq!(pick("linux", "x86_64", false, None), ["0.10.0-py3-none-musllinux_1_1_x86_64.whl"]);
        assert_eq!(pick("linux", "aarch64", false, None).len(), 1);
        assert_eq!(pick("macosx", "arm64", false, None), ["0.10.0-py3-none-macosx_11_0_arm64.whl"]);
        assert_eq!(pick("linux", "x86_64", true, Some("0.9.2")).len(), 1);
        assert!(pick("linux", "riscv64", true, None).is_empty());
    }

    #[test]
    fn yanked_files_are_passed_over() {
        let machine = Machine { system: "linux", processor: "x86_64".into(), glibc: true };
        let mut yanked = file("uv-0.9.2-py3-none-musllinux_1_1_x86_64.whl");
        yanked.yanked = serde_json::json!("broken");
        assert!(candidates(&[yanked], None, &machine).is_empty());
    }

    #[test]
    fn credentials_stay_with_the_host_of_the_index() {
        let url = |url: &str| wheel_url("https://u:p@index.example/simple", url).unwrap().to_string();
        assert_eq!(url("../../files/x.whl"), "https://u:p@index.example/files/x.whl");
        assert_eq!(url("https://files.example/x.whl"), "https://files.example/x.whl");
    }
}
