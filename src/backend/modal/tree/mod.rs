//! The working tree on its way into a sandbox.
//!
//! ```text
//! scan → hash → is this tree mounted already?  → its mount                              no call
//!                └ a small change of one that is → that mount, and the change on stdin    no call
//!                └ else → send what is missing → MountGetOrCreate → remembered            2 or 3 calls
//! ```
//!
//! The mount that was used last ([`MountedBefore`]) is known before the tree is: a sandbox may be asked for with it at once.
//!
//! What must stay true: the job sees the tree as it was hashed, or the run fails; nothing travels that the rules
//! leave out; `max_size` is checked before anything is sent. A tree that changes while it is sent is walked again, once.

mod base;
mod delta;
mod layout;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use sha2::Digest as _;

use super::ids::{Ids, Kind, Used};
use super::link::Link;
use super::method::client;
use super::reporter::Reporter;
use super::trouble::{Trouble, broken_task};
use super::upload::{Content, Source, Upload};
use super::wire::client as wire;
use crate::base::digest::DigestBuilder;
use crate::base::size::Bytes;
use crate::event::{Level, Step, StepOutcome};
use crate::plan::spec::SyncSet;
use crate::workspace::tree::{
    Contents, HashOptions, Hashed, Manifest, Rules, Sha256Digest, TreeError, hash, scan,
};
use base::Base;
pub(super) use base::{decode, encode};
pub use delta::Delta;

/// What is sent, and where accel keeps what it knows of it.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) root: PathBuf,
    pub(super) sync: SyncSet,
    /// The user's own git ignore file.
    pub(super) global_ignore: Option<PathBuf>,
    /// For the stat cache and the manifest of the last mount; `None` when there is no such folder.
    pub(super) memory: Option<PathBuf>,
    pub(super) account: String,
    pub(super) input: InputUse,
}

/// Whose a command's standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputUse {
    /// A small change may travel on it.
    Free,
    /// The job reads it, so every tree is mounted.
    OfTheJob,
}

/// The tree as a sandbox gets it.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) mount: String,
    pub(super) delta: Option<Delta>,
    pub(super) manifest: Manifest,
    /// What is in the mount, where that is not the tree itself.
    holds: Option<Manifest>,
}

impl Mounted {
    /// What is in the mount.
    pub(super) fn holds(self) -> Manifest {
        self.holds.unwrap_or(self.manifest)
    }
}

pub(super) fn has_folder(manifest: &Manifest, path: &str) -> bool {
    let mut entries = manifest.entries().iter();
    entries.any(|entry| matches!(entry.contents, Contents::Directory { .. }) && &*entry.path == path)
}

/// The mount of this folder whose tree was used last as it is.
pub(super) struct MountedBefore {
    pub(super) id: String,
    /// Of the tree in it.
    digest: String,
}

/// A tree that was walked and hashed.
pub(super) struct Walked {
    pub(super) manifest: Manifest,
    base: Option<Manifest>,
    size: u64,
}

impl Sources {
    fn name(&self) -> String {
        let mut digest = DigestBuilder::new("modal tree 1");
        digest.field(self.root.as_os_str().as_encoded_bytes()).field(self.account.as_bytes());
        digest.finish().short()
    }

    fn base(&self) -> Option<Base> {
        Some(Base::new(self.memory.as_deref()?, &self.name()))
    }

    /// Walks and hashes on other threads; ends them when it is dropped.
    pub(super) async fn walk(&self, reporter: &Reporter) -> Result<Walked, Trouble> {
        let stop = StopOnDrop(Arc::default());
        let (sources, flag) = (self.clone(), Arc::clone(&stop.0));
        let walked = tokio::task::spawn_blocking(move || sources.walk_now(&flag)).await;
        let (walked, notices) = walked.map_err(|error| broken_task(&error))??;
        for notice in notices {
            reporter.notice(Level::Warning, "sync", notice, None).await;
        }
        Ok(walked)
    }

    fn walk_now(&self, stop: &AtomicBool) -> Result<(Walked, Vec<String>), TreeError> {
        let now = SystemTime::now();
        let rules = Rules::new(&self.sync, &[], self.global_ignore.clone())?;
        let scan = scan(&self.root, &rules, stop)?;
        let mut notices: Vec<String> = scan.notices.iter().map(ToString::to_string).collect();
        let size = scan.size;
        let cache = self.memory.as_ref().map(|folder| folder.join(format!("{}.stat", self.name())));
        let options = HashOptions { cache: cache.as_deref(), now, stop };
        let Hashed { manifest, cache_problem, .. } = hash(&self.root, scan, &options)?;
        notices.extend(cache_problem.map(|problem| problem.to_string()));
        let base = self.base().and_then(|base| base.load());
        Ok((Walked { manifest, base, size }, notices))
    }

    /// A mount with the tree, and what it lacks.
    pub(super) async fn mount(&self, walked: Walked, context: &MountContext<'_>) -> Result<Mounted, Trouble> {
        let Walked { manifest, base, size } = walked;
        let MountContext { ids, used, reporter, .. } = *context;
        let step = reporter.begin(Step::Sync, label(&manifest, size)).await;
        let key = manifest.digest().to_string();
        if let Some(mount) = ids.peek(Kind::Mount, &key, used).await {
            reporter.end(step, StepOutcome::Cached).await;
            // It may have been made before the last one: the next run is more likely to be near this one.
            if let Some(file) = self.base()
                && base.is_none_or(|base| base.digest() != manifest.digest())
            {
                file.save(&manifest);
            }
            return Ok(Mounted { mount, delta: None, manifest, holds: None });
        }
        if let Some((mount, delta)) = self.as_change(base.as_ref(), &manifest, context).await? {
            reporter.progress(Step::Sync, delta.bytes.len() as u64, None, delta.label()).await;
            reporter.end(step, StepOutcome::Done).await;
            return Ok(Mounted { mount, delta: Some(delta), manifest, holds: base });
        }
        let create = self.create(&manifest, base.as_ref(), context);
        let mount = ids.get(Kind::Mount, &key, used, create).await?;
        if let Some(file) = self.base() {
            file.save(&manifest);
        }
        reporter.end(step, StepOutcome::Done).await;
        Ok(Mounted { mount, delta: None, manifest, holds: None })
    }

    /// Asks nobody. `None` where changes cannot follow with the command.
    pub(super) async fn mounted_before(&self, ids: &Ids, used: &Used) -> Option<MountedBefore> {
        if self.input != InputUse::Free {
            return None;
        }
        let digest = self.base()?.digest()?;
        let id = ids.peek(Kind::Mount, &digest, used).await?;
        Some(MountedBefore { id, digest })
    }

    /// The tree in the mount; `None` where that is not known any more.
    pub(super) async fn tree_of(&self, mounted: &MountedBefore) -> Option<Manifest> {
        let base = self.base()?;
        let loaded = tokio::task::spawn_blocking(move || base.load()).await.ok()??;
        (loaded.digest().to_string() == mounted.digest).then_some(loaded)
    }

    /// What turns the mounted tree into this one; `None` when another mount is cheaper, or has been made meanwhile.
    pub(super) fn change_since(
        &self,
        mounted: &MountedBefore,
        walked: &Walked,
    ) -> Result<Option<Delta>, TreeError> {
        let base = walked.base.as_ref().filter(|base| base.digest().to_string() == mounted.digest);
        base.map_or(Ok(None), |base| delta::between(base, &walked.manifest, &self.root))
    }

    /// What turns the tree in a kept sandbox into this one; `None` when a fresh sandbox is cheaper.
    pub(super) fn change_of(&self, held: &Manifest, walked: &Walked) -> Result<Option<Delta>, TreeError> {
        delta::between(held, &walked.manifest, &self.root)
    }

    async fn as_change(
        &self,
        base: Option<&Manifest>,
        manifest: &Manifest,
        context: &MountContext<'_>,
    ) -> Result<Option<(String, Delta)>, Trouble> {
        let Some(base) = base.filter(|_| self.input == InputUse::Free) else { return Ok(None) };
        let known = context.ids.peek(Kind::Mount, &base.digest().to_string(), context.used).await;
        let Some(mount) = known else { return Ok(None) };
        let delta = delta::between(base, manifest, &self.root)?;
        Ok(delta.map(|delta| (mount, delta)))
    }

    /// Sends what the server lacks and makes a mount of all of it.
    async fn create(
        &self,
        manifest: &Manifest,
        base: Option<&Manifest>,
        context: &MountContext<'_>,
    ) -> Result<String, Trouble> {
        let finish = layout::finish_script(manifest).into_bytes();
        let finish_digest = Sha256Digest(sha2::Sha256::digest(&finish).into());
        let mut files: Vec<_> = manifest
            .files()
            .map(|(path, mode, _, sha256)| mount_file(layout::in_mount(path), mode, sha256))
            .collect();
        files.push(mount_file(layout::finish_path(), 0o644, finish_digest));
        let mut contents: Vec<Content> = manifest
            .files()
            .map(|(path, _, size, sha256)| Content {
                sha256,
                size,
                source: Source::File { root: Arc::from(self.root.as_path()), path: path.into() },
            })
            .collect();
        let size = finish.len() as u64;
        contents.push(Content { sha256: finish_digest, size, source: Source::Bytes(finish.into()) });
        // What was mounted once is there.
        let held = base.into_iter().flat_map(Manifest::files).map(|(_, _, _, sha256)| sha256).collect();
        let upload = Upload { link: context.link, reporter: context.reporter };
        let (checked_at, app) = tokio::try_join!(upload.send(contents, &held), context.app())?;
        let request = wire::MountGetOrCreateRequest {
            object_creation_type: wire::ObjectCreationType::AnonymousOwnedByApp as i32,
            files,
            app_id: app,
            earliest_checked_at: checked_at,
            ..Default::default()
        };
        Ok(context.link.plane.call(client::MOUNT_GET_OR_CREATE, request).await?.mount_id)
    }
}

impl Walked {
    pub(super) fn label(&self) -> String {
        label(&self.manifest, self.size)
    }
}

fn label(manifest: &Manifest, size: u64) -> String {
    format!("{} files, {}", manifest.files().count(), Bytes(size))
}

/// What mounting needs besides the tree.
pub(super) struct MountContext<'a> {
    pub(super) link: &'a Link,
    pub(super) ids: &'a Ids,
    pub(super) used: &'a Used,
    pub(super) reporter: &'a Reporter,
    pub(super) app_name: &'a str,
}

impl MountContext<'_> {
    async fn app(&self) -> Result<String, Trouble> {
        super::resolve::app(self.link, self.ids, self.used, self.app_name).await
    }
}

fn mount_file(filename: String, mode: u32, sha256: Sha256Digest) -> wire::MountFile {
    wire::MountFile { filename, sha256_hex: sha256.to_string(), mode: Some(mode), size: None }
}

/// Tells the threads of a walk that nobody waits for them any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
