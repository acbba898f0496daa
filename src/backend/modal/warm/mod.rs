//! Sandboxes that are kept between runs.
//!
//! ```text
//! claim (journal) → connect → the difference of the tree and the command, in one start → outputs → settle → park
//! ```
//!
//! | what | where |
//! |---|---|
//! | which sandbox is free for whom, until when | the lease journal, [`crate::store::journal::warm`] |
//! | how it is reached, and what it holds | a [`record`] beside the journal |
//! | the word that names what it holds | the record, and a file in the sandbox |
//!
//! What must stay true: a command runs only in a sandbox that bears the word of its record, so that a difference that
//! was lost, or applied by half, is noticed; that word is taken away before anything changes and is left again only
//! by [`settle`], which looks at every path of the sync set. Anything else that happens ends the sandbox.
//!
//! **What is read.** Settling reads each file with another inode, size or times than when it was read before. The time of
//! its last change is the system's own, so no job can set it; only a file that changed in the last seconds might change
//! again without a trace, and is read again. Under gVisor a write through a shared mapping leaves no trace either:
//! therefore the sandbox reads all the rest after it has answered, and takes the word away if something is wrong. A run
//! that begins before that has come to its end may miss such a write.
//!
//! **Idle.** Modal counts a sandbox as active while a command runs in it, its stdin is written, or a connection through
//! a tunnel is open (its documentation; calls of the control plane and an open connection to the router do not
//! count). A parked sandbox is not called at all, so what keeps it alive is work. Its limits are set when it is
//! created, so they hold when this machine is gone.

pub(super) mod record;
pub(super) mod settle;

use std::path::Path;

use super::account::account;
use super::settings::{Credentials, Settings};
use crate::backend::Keep;
use crate::base::digest::{Digest, DigestBuilder};
use crate::plan::spec::{ModalTarget, SandboxSpec};
use crate::store::Journal;
use crate::store::journal::JournalError;
use crate::store::journal::warm::WarmKey;
use crate::workspace::tree::Manifest;
use record::Record;

/// Names what a sandbox is defined by, but for the contents of its image: two runs with the same name may share one,
/// one after the other. The command, its variables and its folder come with each run.
pub fn definition(account: &str, target: &ModalTarget, root: &Path, spec: &SandboxSpec) -> String {
    let mut digest = DigestBuilder::new("modal warm 1");
    digest.field(account.as_bytes()).field(root.as_os_str().as_encoded_bytes());
    digest.field(format!("{target:?}").as_bytes());
    digest.field(spec.image.digest.to_string().as_bytes());
    let SandboxSpec { secrets, volumes, cpu, memory, gpu, ports, network, region, cloud, .. } = spec;
    digest.field(format!("{secrets:?} {volumes:?}").as_bytes());
    digest.field(format!("{cpu:?} {memory:?} {gpu:?}").as_bytes());
    digest.field(format!("{ports:?} {network:?} {region:?} {cloud:?}").as_bytes());
    digest.finish().to_string()
}

/// Whether a sandbox is kept that a run of this job could use. One look at the journal; the image is not asked for,
/// so a file that it copies may still have changed.
pub async fn is_there(
    journal: &Journal,
    (settings, credentials): (&Settings, &Credentials),
    target: &ModalTarget,
    root: &Path,
    spec: &SandboxSpec,
) -> Result<bool, JournalError> {
    let account = account(settings, credentials);
    // What accel itself has made for a run decides nothing about that run.
    journal.has_used(&definition(&account, target, root, spec)).await
}

/// How a session's sandbox is kept when the session ends.
pub(super) struct Stay {
    pub(super) keep: Keep,
    pub(super) key: WarmKey,
    /// In milliseconds since the Unix epoch.
    pub(super) reuse_until_ms: u64,
    /// What it was when it was claimed; `None`: it was made for this session.
    pub(super) record: Option<Record>,
    /// The tree that the job was given.
    pub(super) tree: Manifest,
    pub(super) used: Use,
}

/// What a session has done with its sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Use {
    /// No command was sent to it.
    Untouched,
    /// A command ran to its end; its processes bear the mark.
    Ended { mark: String },
    /// Nobody knows what goes on in it.
    Unclear,
}

impl Stay {
    /// What the sandbox was left with; `None`: nothing has run in it yet.
    pub(super) fn word(&self) -> Option<&str> {
        self.record.as_ref()?.word.as_deref()
    }
}

/// A word that no other has.
pub(super) fn new_word() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..16].to_owned()
}

/// The worktree's word in tags and leases.
pub(super) fn worktree(root: &Path) -> String {
    Digest::of(root.as_os_str().as_encoded_bytes()).short()
}
