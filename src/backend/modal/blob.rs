//! Large contents: stored through presigned addresses, verified by what the store says it received.
//!
//! The server names the addresses; contents go there by plain HTTPS, in one piece or in parts. A content is read
//! twice, once for its MD5 and once to be sent; the SHA-256 of the first reading must be that of the tree, the tag of
//! the store must be the MD5. A file that changes in between is therefore never stored under a wrong name.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use reqwest::{RequestBuilder, StatusCode, Url, header};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::body::Body;
use super::error::{ErrorKind, ModalError};
use super::limits::{Pulse, StoodStill};
use super::link::Link;
use super::method::client;
use super::trouble::{Trouble, broken_task};
use super::upload::{Content, Source};
use super::wire::client as wire;
use crate::backend::Failure;
use crate::base::duration::ExactDuration;
use crate::domain::Cause;
use crate::workspace::tree::{TreeError, open_verified};
use wire::blob_create_response::{UploadTypeOneof, UploadTypesOneof};

const PUT_ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// More when the store is overloaded.
const OVERLOADED_PAUSE: Duration = Duration::from_secs(1);
/// Contents above this size carry a placeholder instead of their MD5: they are always sent in parts.
const LARGEST_WITH_MD5: u64 = 1 << 30;
const PLACEHOLDER_MD5: [u8; 16] =
    [0xba, 0xad, 0xba, 0xad, 0xba, 0xad, 0xba, 0xad, 0xba, 0xad, 0xba, 0xad, 0xba, 0xad, 0xba, 0xad];
/// Parts of one content in memory at one time.
const PARTS_AT_ONCE: usize = 4;
/// A part's bytes are held in memory.
const LARGEST_PART: u64 = 256 << 20;
const READ_BUFFER: usize = 256 << 10;

/// Where a content may go.
enum Destination {
    Single(String),
    Parts(wire::MultiPartUpload),
}

/// Stores the content; the result is the blob's id.
pub(super) async fn upload(link: &Link, content: &Content, pulse: &Pulse) -> Result<String, Trouble> {
    let before = standing(content);
    let md5 = whole_md5(content, pulse).await?;
    let request = wire::BlobCreateRequest {
        content_md5: STANDARD.encode(if content.size > LARGEST_WITH_MD5 { PLACEHOLDER_MD5 } else { md5 }),
        content_sha256_base64: STANDARD.encode(content.sha256.0),
        content_length: i64::try_from(content.size).unwrap_or(i64::MAX),
    };
    let answer = link.plane.call(client::BLOB_CREATE, request).await?;
    let transfer = Transfer { link, content, md5, pulse };
    let mut last = None;
    for (blob, destination) in destinations(answer) {
        match transfer.to(&destination).await {
            // Parts are read one by one: together they are the hashed file only if nobody wrote to it.
            Ok(()) if standing(content) != before => return Err(changed_content(content).into()),
            Ok(()) => return Ok(blob),
            Err(trouble) => last = Some(trouble),
        }
    }
    let none =
        || ModalError::new(ErrorKind::Service, "BlobCreate", "the server names no place to upload to").into();
    Err(last.unwrap_or_else(none))
}

/// What tells whether the file was written to.
fn standing(content: &Content) -> Option<(u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let Source::File { root, path } = &content.source else { return None };
    let found = std::fs::metadata(root.join(&**path)).ok()?;
    Some((found.len(), found.ctime(), found.ctime_nsec()))
}

fn changed_content(content: &Content) -> TreeError {
    match &content.source {
        Source::File { path, .. } => changed(path),
        Source::Bytes(_) => changed("a generated file"),
    }
}

/// Alternatives, best first.
fn destinations(answer: wire::BlobCreateResponse) -> Vec<(String, Destination)> {
    let several = match answer.upload_types_oneof {
        Some(UploadTypesOneof::UploadUrls(urls)) => urls.items.into_iter().map(Destination::Single).collect(),
        Some(UploadTypesOneof::Multiparts(parts)) => {
            parts.items.into_iter().map(Destination::Parts).collect()
        }
        None => Vec::new(),
    };
    if !several.is_empty() {
        return answer.blob_ids.into_iter().zip(several).collect();
    }
    let one = match answer.upload_type_oneof {
        Some(UploadTypeOneof::UploadUrl(url)) => Destination::Single(url),
        Some(UploadTypeOneof::Multipart(parts)) => Destination::Parts(parts),
        None => return Vec::new(),
    };
    vec![(answer.blob_id, one)]
}

async fn whole_md5(content: &Content, pulse: &Pulse) -> Result<[u8; 16], Trouble> {
    let (content, pulse) = (content.clone(), pulse.clone());
    let read = tokio::task::spawn_blocking(move || {
        let mut hasher = Md5::new();
        match &content.source {
            Source::Bytes(bytes) => hasher.update(bytes),
            Source::File { root, path } => {
                let mut reader = open_verified(root, path, content.size, content.sha256)?;
                let mut buffer = vec![0; READ_BUFFER];
                loop {
                    let count = reader.read(&mut buffer).map_err(|_| changed(path))?;
                    if count == 0 {
                        break;
                    }
                    hasher.update(&buffer[..count]);
                    pulse.beat();
                }
            }
        }
        Ok::<[u8; 16], TreeError>(hasher.finalize().into())
    });
    Ok(read.await.map_err(|error| broken_task(&error))??)
}

fn changed(path: &str) -> TreeError {
    TreeError::Changed { path: path.to_owned() }
}

struct Transfer<'a> {
    link: &'a Link,
    content: &'a Content,
    md5: [u8; 16],
    pulse: &'a Pulse,
}

impl Transfer<'_> {
    async fn to(&self, destination: &Destination) -> Result<(), Trouble> {
        match destination {
            Destination::Single(url) => {
                let sending = Sending { link: self.link, url, pulse: self.pulse };
                let tag = tag(&sending.send(self.whole()).await?);
                if tag == hex(&self.md5) { Ok(()) } else { Err(mismatch(&tag).into()) }
            }
            Destination::Parts(parts) => self.in_parts(parts).await,
        }
    }

    /// Streamed from the file where there is one.
    fn whole(&self) -> Payload<'_> {
        let (length, md5) = (self.content.size, self.md5);
        match &self.content.source {
            Source::File { root, path } => Payload::File { root, path, length, md5 },
            Source::Bytes(bytes) => Payload::Bytes { bytes: bytes.clone(), md5: Some(md5) },
        }
    }

    async fn in_parts(&self, parts: &wire::MultiPartUpload) -> Result<(), Trouble> {
        let length = u64::try_from(parts.part_length).unwrap_or_default();
        let fits =
            length.checked_mul(parts.upload_urls.len() as u64).is_some_and(|all| all >= self.content.size);
        if length == 0 || length > LARGEST_PART || !fits {
            return Err(transfer_failed("the server names parts that do not fit the file").into());
        }
        let at_once = Arc::new(Semaphore::new(PARTS_AT_ONCE));
        let mut puts = JoinSet::new();
        for (number, url) in parts.upload_urls.iter().cloned().enumerate() {
            let start = length * number as u64;
            let length = length.min(self.content.size.saturating_sub(start));
            let piece = Piece { content: self.content.clone(), start, length };
            let (link, pulse, at_once) = (self.link.clone(), self.pulse.clone(), Arc::clone(&at_once));
            puts.spawn(async move {
                let _turn = at_once.acquire().await;
                let bytes = piece.read().await?;
                let md5: [u8; 16] = Md5::digest(&bytes).into();
                let sending = Sending { link: &link, url: &url, pulse: &pulse };
                let tag = tag(&sending.send(Payload::Bytes { bytes, md5: None }).await?);
                if tag == hex(&md5) { Ok((number, md5)) } else { Err(Trouble::from(mismatch(&tag))) }
            });
        }
        let mut sums = vec![[0; 16]; parts.upload_urls.len()];
        while let Some(done) = puts.join_next().await {
            let (number, md5) = done.map_err(|error| broken_task(&error))??;
            sums[number] = md5;
        }
        self.complete(&parts.completion_url, &sums).await
    }

    /// Tells the store that all parts are there, and checks what it made of them.
    async fn complete(&self, url: &str, sums: &[[u8; 16]]) -> Result<(), Trouble> {
        let parts: String = sums
            .iter()
            .enumerate()
            .map(|(at, md5)| {
                format!("<Part><PartNumber>{}</PartNumber><ETag>\"{}\"</ETag></Part>\n", at + 1, hex(md5))
            })
            .collect();
        let body = format!("<CompleteMultipartUpload>\n{parts}</CompleteMultipartUpload>");
        let whole = Md5::digest(sums.concat());
        let expected = format!("{}-{}", hex(&whole), sums.len());
        let sending = Sending { link: self.link, url, pulse: self.pulse };
        let answer = sending.send(Payload::Completion(body)).await?;
        let text = answer.text().await.map_err(|error| transfer_failed(&crate::net::describe(&error)))?;
        if text.contains(&expected) { Ok(()) } else { Err(mismatch("").into()) }
    }
}

/// A run of bytes of a content.
#[derive(Clone)]
struct Piece {
    content: Content,
    start: u64,
    length: u64,
}

impl Piece {
    async fn read(&self) -> Result<Bytes, Trouble> {
        let piece = self.clone();
        let read = tokio::task::spawn_blocking(move || piece.read_now());
        Ok(read.await.map_err(|error| broken_task(&error))??)
    }

    fn read_now(&self) -> Result<Bytes, TreeError> {
        let (root, path) = match &self.content.source {
            Source::Bytes(bytes) => {
                let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                return Ok(bytes.slice(at(self.start)..at(self.start.saturating_add(self.length))));
            }
            Source::File { root, path } => (root, path),
        };
        let read = || {
            let mut file = std::fs::File::open(root.join(&**path))?;
            file.seek(SeekFrom::Start(self.start))?;
            let mut bytes = vec![0; usize::try_from(self.length).unwrap_or(usize::MAX)];
            file.read_exact(&mut bytes).map(|()| bytes)
        };
        // Its end has moved or it is gone: other bytes than those that were hashed.
        read().map(Bytes::from).map_err(|_: std::io::Error| changed(path))
    }
}

/// Stores whose signatures cover the header; others would refuse it.
fn wants_md5(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    [".amazonaws.com", ".r2.cloudflarestorage.com"].iter().any(|store| host.ends_with(store))
}

fn parse(url: &str) -> Result<Url, Trouble> {
    Url::parse(url).map_err(|_| transfer_failed("the server names no proper address to upload to").into())
}

enum Payload<'a> {
    Bytes {
        bytes: Bytes,
        md5: Option<[u8; 16]>,
    },
    File {
        root: &'a Path,
        path: &'a str,
        length: u64,
        md5: [u8; 16],
    },
    /// All parts were sent.
    Completion(String),
}

/// Something on its way to an address.
struct Sending<'a> {
    link: &'a Link,
    url: &'a str,
    /// Of all that is sent together.
    pulse: &'a Pulse,
}

impl Sending<'_> {
    async fn request(&self, payload: &Payload<'_>, pulses: [Pulse; 2]) -> Result<RequestBuilder, Trouble> {
        let (body, md5) = match payload {
            Payload::Completion(text) => {
                return Ok(self.link.http.post(parse(self.url)?).body(text.clone()));
            }
            Payload::Bytes { bytes, md5 } => (Body::of_bytes(bytes.clone(), pulses), *md5),
            Payload::File { root, path, length, md5 } => {
                let opened = tokio::fs::File::open(root.join(path)).await.map_err(|_| changed(path))?;
                (Body::of_file(opened, *length, pulses), Some(*md5))
            }
        };
        let url = parse(self.url)?;
        let mut request = self.link.http.put(url.clone()).header(header::CONTENT_LENGTH, body.length());
        if let Some(md5) = md5 {
            request = request.header(header::CONTENT_TYPE, "application/octet-stream");
            if wants_md5(&url) {
                request = request.header("content-md5", STANDARD.encode(md5));
            }
        }
        Ok(request.body(reqwest::Body::wrap(body)))
    }

    /// Sends it until that succeeds, [`PUT_ATTEMPTS`] times.
    async fn send(&self, payload: Payload<'_>) -> Result<reqwest::Response, Trouble> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let own = Pulse::new();
            let request = self.request(&payload, [own.clone(), self.pulse.clone()]).await?;
            match self.sent(request, &own).await {
                Ok(answer) => return Ok(answer),
                Err(fault) if attempt >= PUT_ATTEMPTS => return Err(fault.trouble()),
                Err(fault) => self.link.clock().sleep(fault.pause(attempt)).await,
            }
        }
    }

    /// The address itself is a credential: errors name its host only.
    async fn sent(&self, request: RequestBuilder, own: &Pulse) -> Result<reqwest::Response, Fault> {
        let url = Url::parse(self.url).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
        let limit = self.link.limits.request;
        let (status, reason) = match own.keeps(limit, request.send()).await {
            Ok(Ok(answer)) if answer.status().is_success() => return Ok(answer),
            Ok(Ok(answer)) => (Some(answer.status()), format!("{host} answers {}", answer.status())),
            Ok(Err(error)) if error.is_connect() => {
                let reason = crate::net::describe(&error.without_url());
                (None, format!("cannot connect to {host}, as HTTPS_PROXY and NO_PROXY say how: {reason}"))
            }
            Ok(Err(error)) => (None, format!("{host}: {}", crate::net::describe(&error.without_url()))),
            Err(StoodStill) => (None, format!("{host}: nothing was taken for {}", ExactDuration(limit))),
        };
        Err(Fault { status, reason })
    }
}

struct Fault {
    status: Option<StatusCode>,
    reason: String,
}

impl Fault {
    fn pause(&self, attempt: u32) -> Duration {
        let overloaded = self.status == Some(StatusCode::SERVICE_UNAVAILABLE);
        FIRST_PAUSE * attempt + if overloaded { OVERLOADED_PAUSE } else { Duration::ZERO }
    }

    fn trouble(self) -> Trouble {
        transfer_failed(&self.reason).into()
    }
}

fn tag(answer: &reqwest::Response) -> String {
    let tag = answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default();
    tag.trim_start_matches("W/").trim_matches('"').to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mismatch(tag: &str) -> Failure {
    transfer_failed(&format!("the store received other bytes than were sent (ETag {tag:?})"))
}

fn transfer_failed(reason: &str) -> Failure {
    Failure::new(Cause::Infra, format!("a large file could not be uploaded: {reason}"))
        .help("try again; if a file changes while the job starts, leave it out with [sync] exclude")
}
