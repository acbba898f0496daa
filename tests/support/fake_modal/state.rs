//! Everything the server knows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use accel::backend::modal::wire::client as wire;
use bytes::Bytes;

use super::call::Call;
use super::faults::Fault;
use super::image::{Build, ImageRecord};
use super::mangle::Mangling;
use super::sandbox::{AfterDeath, Fate, Sandbox};
use super::{Addresses, Shared, jwt};

/// Ids of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Apps,
    Images,
    Mounts,
    Secrets,
    Volumes,
    Sandboxes,
}

pub struct Volume {
    pub name: String,
    pub version: i32,
}

pub struct State {
    pub calls: Vec<Call>,
    /// By method, taken from the front; `None`: nothing happens.
    pub faults: BTreeMap<String, VecDeque<Option<Fault>>>,
    /// Every answer that meets no fault is changed so.
    pub every: Option<Mangling>,
    pub delay: Duration,
    pub image_requests: Vec<wire::ImageGetOrCreateRequest>,
    /// What a lookup of the environment says.
    pub builder: String,
    /// How long tokens given out now live, in seconds; 0 or less: expired already.
    pub token_life: i64,
    /// The only router token that is let in; `None`: those given out.
    pub router_token: Option<String>,
    /// Output of calls that name no sandbox.
    pub output: Vec<u8>,
    /// Largest piece of output in one message.
    pub chunk: usize,
    /// How much output of a main process is kept.
    pub main_output_kept: usize,
    /// Warnings that successful answers carry.
    pub warnings: Vec<&'static str>,
    /// The only credentials that are let in; `None`: any.
    pub credentials: Option<(String, String)>,
    pub workspace: String,
    /// US dollars by resource, as text.
    pub rates: BTreeMap<String, String>,
    /// Environments that exist besides the default.
    pub environments: BTreeSet<String>,
    /// How images are built: the first rule whose text occurs in the layer's lines.
    pub builds: Vec<(String, Build)>,
    /// Contents from this size on are uploaded in parts of this size.
    pub part_length: u64,
    /// What sandboxes take for a second when their limits are counted.
    pub second: Duration,
    /// Of the addresses that transfers go to; nobody speaks TLS there.
    pub blob_scheme: &'static str,
    /// Sandboxes listed at once.
    pub page: usize,
    /// What the router does for a sandbox that has ended.
    pub after_death: AfterDeath,
    pub named_secrets: BTreeMap<String, BTreeMap<String, String>>,
    /// Longest life that may be asked for, in seconds.
    pub longest_life: u32,

    /// What is no violation when it is part of one.
    pub forgiven: Vec<&'static str>,

    pub(super) lenient: bool,
    pub(super) install_packages: bool,
    pub(super) survivors_allowed: bool,
    pub(super) violations: Vec<String>,
    pub(super) addresses: Addresses,
    pub(super) apps: BTreeMap<String, String>,
    pub(super) images: BTreeMap<String, ImageRecord>,
    pub(super) mounts: BTreeMap<String, Vec<wire::MountFile>>,
    pub(super) secrets: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) blobs: BTreeMap<String, Bytes>,
    pub(super) parts: BTreeMap<(String, usize), Bytes>,
    pub(super) contents: BTreeSet<String>,
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    /// Sandbox ids by idempotency key.
    pub(super) created: BTreeMap<String, String>,
    /// Create calls that arrived and may still make a sandbox.
    pub(super) creating: usize,
    pub(super) fates: VecDeque<Fate>,
    pub(super) gpu_fates: BTreeMap<String, Fate>,
    pub(super) auth_tokens: BTreeSet<String>,
    /// Task ids by token.
    pub(super) router_tokens: BTreeMap<String, String>,
    folder: tempfile::TempDir,
    ids: BTreeMap<String, String>,
    counts: BTreeMap<String, u32>,
    tokens: u32,
}

/// A test that failed while it held the state still gets its sandboxes stopped.
pub fn lock(state: &Shared) -> MutexGuard<'_, State> {
    lock_any(state)
}

fn lock_any<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since the beginning of 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

impl State {
    /// The empty name is that of the default.
    pub fn knows_environment(&self, name: &str) -> bool {
        self.lenient || name.is_empty() || self.environments.contains(name)
    }

    pub(super) fn new(addresses: Addresses) -> Self {
        let folder = tempfile::Builder::new().prefix("fake-modal-").tempdir().unwrap();
        for name in ["contents", "sandboxes", "volumes"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let rates = [("cpu_core_hour", "0.135"), ("memory_gib_hour", "0.024"), ("gpu_hour_T4", "0.59")];
        Self {
            calls: Vec::new(),
            faults: BTreeMap::new(),
            every: None,
            delay: Duration::ZERO,
            image_requests: Vec::new(),
            builder: "2025.06".into(),
            token_life: 3600,
            router_token: None,
            output: Vec::new(),
            chunk: 64 * 1024,
            main_output_kept: usize::MAX,
            warnings: Vec::new(),
            credentials: None,
            workspace: "tester".into(),
            rates: rates.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            environments: BTreeSet::from(["main".to_owned()]),
            builds: Vec::new(),
            part_length: 64 * 1024 * 1024,
            second: Duration::from_secs(1),
            blob_scheme: "http",
            page: 100,
            after_death: AfterDeath::NotFound,
            named_secrets: BTreeMap::new(),
            longest_life: 24 * 60 * 60,
            forgiven: Vec::new(),
            lenient: false,
            install_packages: false,
            survivors_allowed: false,
            violations: Vec::new(),
            addresses,
            apps: BTreeMap::new(),
            images: BTreeMap::new(),
            mounts: BTreeMap::new(),
            secrets: BTreeMap::new(),
            volumes: BTreeMap::new(),
            blobs: BTreeMap::new(),
            parts: BTreeMap::new(),
            contents: BTreeSet::new(),
            sandboxes: BTreeMap::new(),
            created: BTreeMap::new(),
            creating: 0,
            fates: VecDeque::new(),
            gpu_fates: BTreeMap::new(),
            auth_tokens: BTreeSet::new(),
            router_tokens: BTreeMap::new(),
            folder,
            ids: BTreeMap::new(),
            counts: BTreeMap::new(),
            tokens: 0,
        }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn content_path(&self, sha256: &str) -> PathBuf {
        self.folder().join("contents").join(sha256)
    }

    pub(super) fn volume_folder(&self, id: &str) -> PathBuf {
        self.folder().join("volumes").join(id)
    }

    /// The same id for the same thing, a new one for a new thing. Another server gives out other ids.
    pub(super) fn id(&mut self, kind: &str, thing: &str) -> String {
        let key = format!("{kind} {thing}");
        if let Some(id) = self.ids.get(&key) {
            return id.clone();
        }
        let id = self.new_id(kind);
        self.ids.insert(key, id.clone());
        id
    }

    /// `im-` and 22 digits: the port of the server, then a count.
    pub(super) fn new_id(&mut self, kind: &str) -> String {
        let count = self.counts.entry(kind.to_owned()).or_default();
        *count += 1;
        format!("{kind}-{:05}{count:017}", self.addresses.control_plane.port())
    }

    pub(super) fn forget(&mut self, kind: Kind) {
        let prefix = match kind {
            Kind::Apps => {
                self.apps.clear();
                "ap "
            }
            Kind::Images => {
                self.images.clear();
                "im "
            }
            Kind::Mounts => {
                self.mounts.clear();
                "mo "
            }
            Kind::Secrets => {
                self.secrets.clear();
                "st "
            }
            Kind::Volumes => {
                self.volumes.clear();
                "vo "
            }
            Kind::Sandboxes => {
                self.sandboxes.values_mut().for_each(|sandbox| sandbox.forgotten = true);
                "sb "
            }
        };
        self.ids.retain(|key, _| !key.starts_with(prefix));
    }

    /// A token with a proper expiry.
    fn token(&mut self) -> String {
        self.tokens += 1;
        #[allow(clippy::cast_possible_truncation, reason = "seconds since 1970 fit")]
        let expires = now() as i64 + self.token_life;
        jwt(expires, self.tokens)
    }

    pub(super) fn auth_token(&mut self) -> String {
        let token = self.token();
        self.auth_tokens.insert(token.clone());
        token
    }

    pub(super) fn router_token_for(&mut self, task_id: &str) -> String {
        let token = self.token();
        self.router_tokens.insert(token.clone(), task_id.to_owned());
        token
    }

    pub(super) fn router_url(&self) -> String {
        format!("http://{}", self.addresses.router)
    }

    pub(super) fn blob_url(&self, path: &str) -> String {
        format!("{}://{}/{path}", self.blob_scheme, self.addresses.blob_store)
    }

    /// Something a client must not do; the test fails in the end.
    pub(super) fn violation(&mut self, text: String) {
        if !self.lenient && !self.forgiven.iter().any(|part| text.contains(part)) {
            self.violations.push(text);
        }
    }
}
