//! Contents on their way to Modal: only those that it lacks, each once.
//!
//! A few small contents are sent without asking, which saves a round trip; else Modal is asked which are missing.
//! Contents below 4 MiB travel inside a call, larger ones as blobs ([`super::blob`]).

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::blob;
use super::error::{ErrorKind, ModalError};
use super::limits::{Pulse, StoodStill};
use super::link::Link;
use super::method::client;
use super::reporter::Reporter;
use super::trouble::{Trouble, broken_task};
use super::wire::client as wire;
use crate::backend::Failure;
use crate::base::duration::ExactDuration;
use crate::base::size::Bytes as Size;
use crate::domain::Cause;
use crate::event::Step;
use crate::workspace::tree::{Sha256Digest, TreeError, read_verified};
use wire::mount_put_file_request::DataOneof;

/// Contents from this size on are blobs.
const INLINE: u64 = 4 << 20;
/// So many contents of together so many bytes are sent without asking.
const UNASKED_FILES: usize = 64;
const UNASKED_BYTES: u64 = 1 << 20;
/// Hashes of one question.
const BATCH: usize = 64;
const QUESTIONS_AT_ONCE: usize = 16;
const FILES_AT_ONCE: usize = 64;
const BLOBS_AT_ONCE: usize = 16;
/// Inline contents in memory at one time, in KiB.
const MEMORY: u32 = 64 << 10;
/// Until the server must hold a content that it was sent.
const SETTLE: Duration = Duration::from_secs(600);
/// Between two questions whether it does.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);

/// One content and where its bytes are.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) sha256: Sha256Digest,
    pub(super) size: u64,
    pub(super) source: Source,
}

#[derive(Debug, Clone)]
pub(super) enum Source {
    Bytes(Bytes),
    File { root: Arc<Path>, path: Box<str> },
}

impl Source {
    /// The bytes, if they still are those that were hashed. Blocks.
    fn read(&self, size: u64, sha256: Sha256Digest) -> Result<Bytes, TreeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File { root, path } => Ok(read_verified(root, path, size, sha256)?.into()),
        }
    }
}

pub(super) type CheckedAt = Option<prost_types::Timestamp>;

pub(super) struct Upload<'a> {
    pub(super) link: &'a Link,
    pub(super) reporter: &'a Reporter,
}

impl Upload<'_> {
    /// Makes the server hold all contents, given that it has those in `held`. When it was asked first, if it was.
    pub(super) async fn send(
        &self,
        contents: Vec<Content>,
        held: &HashSet<Sha256Digest>,
    ) -> Result<CheckedAt, Trouble> {
        let (limit, pulse) = (self.link.limits.upload, Pulse::new());
        let sent = pulse.keeps(limit, self.send_moving(contents, held, &pulse)).await;
        sent.unwrap_or_else(|StoodStill| {
            let text = format!(
                "sending files to Modal came to a halt: nothing was taken for {}",
                ExactDuration(limit)
            );
            let help =
                "run again: what has arrived is not sent again; `accel sync --plan` shows what is large";
            Err(Failure::new(Cause::Infra, text).help(help).into())
        })
    }

    async fn send_moving(
        &self,
        contents: Vec<Content>,
        held: &HashSet<Sha256Digest>,
        pulse: &Pulse,
    ) -> Result<CheckedAt, Trouble> {
        let mut distinct: HashMap<Sha256Digest, Content> = HashMap::new();
        for content in contents.into_iter().filter(|content| !held.contains(&content.sha256)) {
            distinct.entry(content.sha256).or_insert(content);
        }
        let mut wanted: Vec<Content> = distinct.into_values().collect();
        wanted.sort_unstable_by_key(|content| (std::cmp::Reverse(content.size), content.sha256));
        let bytes: u64 = wanted.iter().map(|content| content.size).sum();
        let mut checked_at = None;
        if wanted.len() > UNASKED_FILES || bytes > UNASKED_BYTES {
            let missing;
            (missing, checked_at) = self.missing(&wanted, pulse).await?;
            wanted.retain(|content| missing.contains(&content.sha256.to_string()));
        }
        self.put(wanted, pulse).await?;
        Ok(checked_at)
    }

    /// The hashes that the server lacks, and the time of the first question.
    async fn missing(
        &self,
        contents: &[Content],
        pulse: &Pulse,
    ) -> Result<(HashSet<String>, CheckedAt), Trouble> {
        let at_once = Arc::new(Semaphore::new(QUESTIONS_AT_ONCE));
        let mut questions = JoinSet::new();
        for batch in contents.chunks(BATCH) {
            let hashes = batch.iter().map(|content| content.sha256.to_string()).collect();
            let (plane, at_once) = (self.link.plane.clone(), Arc::clone(&at_once));
            questions.spawn(async move {
                let _turn = at_once.acquire().await;
                let request = wire::MountBatchedCheckExistenceRequest { sha256_hex_hashes: hashes };
                plane.call(client::MOUNT_BATCHED_CHECK_EXISTENCE, request).await
            });
        }
        let mut missing = HashSet::new();
        let mut earliest: CheckedAt = None;
        while let Some(answer) = questions.join_next().await {
            let answer = answer.map_err(|error| broken_task(&error))??;
            pulse.beat();
            missing.extend(answer.missing_sha256_hex_hashes);
            let order = |at: &prost_types::Timestamp| (at.seconds, at.nanos);
            earliest = earliest.into_iter().chain(answer.checked_at).min_by_key(order);
        }
        Ok((missing, earliest))
    }

    async fn put(&self, contents: Vec<Content>, pulse: &Pulse) -> Result<(), Trouble> {
        let total: u64 = contents.iter().map(|content| content.size).sum();
        let count = contents.len();
        let limits = Arc::new(AtOnce {
            files: Semaphore::new(FILES_AT_ONCE),
            blobs: Semaphore::new(BLOBS_AT_ONCE),
            memory: Semaphore::new(MEMORY as usize),
        });
        let mut puts = JoinSet::new();
        let mut done = 0;
        let mut waiting = contents.into_iter();
        loop {
            // Tasks are cheap, but not one for each of a hundred thousand files.
            while puts.len() < FILES_AT_ONCE * 2 {
                let Some(content) = waiting.next() else { break };
                let (limits, pulse) = (Arc::clone(&limits), pulse.clone());
                let put = Put { link: self.link.clone(), limits, pulse };
                puts.spawn(async move { put.content(&content).await.map(|()| content.size) });
            }
            let Some(finished) = puts.join_next().await else { return Ok(()) };
            done += finished.map_err(|error| broken_task(&error))??;
            pulse.beat();
            let label = format!("sending {} in {count} files", Size(total));
            self.reporter.progress(Step::Sync, done, Some(total), label).await;
        }
    }
}

struct AtOnce {
    files: Semaphore,
    blobs: Semaphore,
    memory: Semaphore,
}

/// One content on its way.
struct Put {
    link: Link,
    limits: Arc<AtOnce>,
    pulse: Pulse,
}

impl Put {
    async fn content(&self, content: &Content) -> Result<(), Trouble> {
        let _turn = self.limits.files.acquire().await;
        if content.size >= INLINE {
            let _turn = self.limits.blobs.acquire().await;
            let blob = blob::upload(&self.link, content, &self.pulse).await?;
            return self.until_held(content.sha256, DataOneof::DataBlobId(blob)).await;
        }
        let kib = u32::try_from(content.size / 1024 + 1).unwrap_or(MEMORY).min(MEMORY);
        let _memory = self.limits.memory.acquire_many(kib).await;
        let (source, size, sha256) = (content.source.clone(), content.size, content.sha256);
        let read = tokio::task::spawn_blocking(move || source.read(size, sha256)).await;
        let data = read.map_err(|error| broken_task(&error))??;
        self.until_held(sha256, DataOneof::Data(data)).await
    }

    /// The same call again until the server says that it holds the content; it sets the pace.
    async fn until_held(&self, sha256: Sha256Digest, data: DataOneof) -> Result<(), Trouble> {
        let clock = self.link.clock();
        let deadline = clock.now() + SETTLE;
        loop {
            let request =
                wire::MountPutFileRequest { sha256_hex: sha256.to_string(), data_oneof: Some(data.clone()) };
            if self.link.plane.call(client::MOUNT_PUT_FILE, request).await?.exists {
                return Ok(());
            }
            if clock.now() >= deadline {
                let text = format!("a file was sent but not stored within {} s", SETTLE.as_secs());
                return Err(ModalError::new(ErrorKind::DeadlineExceeded, "MountPutFile", text).into());
            }
            clock.sleep(SETTLE_PAUSE).await;
        }
    }
}
