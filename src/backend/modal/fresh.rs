//! A fresh sandbox for a job.
//!
//! ```text
//! walk and hash the tree ─────────────────────────────────────────────→ its mount ┐
//! connect → app ∥ image ∥ token ∥ secrets ∥ volumes ──────────────────────────────┴→ the sandbox
//!                                                    └ the last mount is known ─────→ the sandbox ∥ the walk
//! ```
//!
//! Where a tree of this folder is mounted still, the sandbox is asked for with that one while the tree is walked; what
//! has changed since follows with the command. What must stay true: a sandbox that was asked for too early (too
//! much has changed, the tree cannot be sent) is ended, and the run goes on as if there had been no mount.

use super::backend::all;
use super::definition::Parts;
use super::generation;
use super::ids::Used;
use super::launch::{Launch, Running};
use super::link::Link;
use super::opening::{Opened, Opening, check_folder};
use super::prewarm::Need;
use super::resolve;
use super::tree::{Delta, MountContext, Mounted, MountedBefore, Walked};
use super::trouble::Trouble;
use super::warm::{self, Stay, Use};
use crate::backend::{BoxFuture, CancelLevel, CancelSource, Failure, Keep, OpenRequest, StopReason};
use crate::domain::Cause;
use crate::event::now_ms;
use crate::store::journal::SandboxKind;
use crate::store::journal::warm::WarmKey;
use crate::workspace::tree::Manifest;

/// What a sandbox is made from, but for the tree.
struct Resolved {
    link: Link,
    app: String,
    image: String,
    secrets: Vec<String>,
    volumes: Vec<String>,
}

/// A sandbox that no run has asked for.
pub(super) struct Unclaimed {
    pub(super) link: Link,
    pub(super) running: Running,
    pub(super) stay: Stay,
    /// The tree in its mount.
    pub(super) holds: Manifest,
}

/// What came of a sandbox that was asked for while the tree was walked.
enum Early {
    Opened(Box<Opened>),
    /// It cannot be used: too much has changed since its mount was made.
    Outdated(Walked),
}

impl Opening<'_> {
    /// Twice at most: when the server does not know an id that was remembered, or the token, all is asked for anew;
    /// when the tree changed while it was sent, it is walked again.
    pub(super) fn fresh(&self, walked: Option<Walked>) -> BoxFuture<'_, Result<Opened, Trouble>> {
        Box::pin(self.twice(walked))
    }

    async fn twice(&self, walked: Option<Walked>) -> Result<Opened, Trouble> {
        let used = Used::default();
        let trouble = match self.attempt(&used, walked).await {
            Err(Trouble::TreeChanged(_)) => return self.attempt(&Used::default(), None).await,
            Err(trouble) if trouble.is_gone() || trouble.is_auth() => trouble,
            done => return done,
        };
        let mut again = used.forget(&self.shared.ids).await;
        if let (true, Some(link)) = (trouble.is_auth(), self.shared.link.get()) {
            again = link.forget_auth_token();
        }
        if !again {
            return Err(trouble);
        }
        tracing::debug!(?trouble, "what was remembered is gone; asking again");
        self.attempt(&Used::default(), None).await
    }

    async fn attempt(&self, used: &Used, walked: Option<Walked>) -> Result<Opened, Trouble> {
        let mounted = match walked {
            None => self.mounted_before(used).await,
            Some(_) => None,
        };
        let walked = match mounted {
            Some(mounted) => match self.beside_the_walk(used, mounted).await? {
                Early::Opened(opened) => return Ok(*opened),
                Early::Outdated(walked) => Some(walked),
            },
            None => walked,
        };
        let prepared: BoxFuture<'_, Result<_, Trouble>> = Box::pin(self.prepare(used, walked));
        let (resolved, mounted) = self.until_stopped(prepared).await?;
        let Mounted { mount, delta, manifest, .. } = mounted;
        let parts = resolved.with_mount(mount);
        let running = self.launch(&resolved.link, &parts, self.request, None).await?;
        let stay = self.request.keep.map(|keep| self.stay(keep, parts, manifest));
        Ok(Opened { link: resolved.link, running, delta, stay })
    }

    /// The mount that a sandbox can be asked for with before the tree has been walked. One with a GPU is not risked.
    async fn mounted_before(&self, used: &Used) -> Option<MountedBefore> {
        if !self.request.spec.gpu.is_empty() {
            return None;
        }
        self.sources().mounted_before(&self.shared.ids, used).await
    }

    async fn beside_the_walk(&self, used: &Used, mounted: MountedBefore) -> Result<Early, Trouble> {
        let call_off = CancelSource::beside(&self.request.cancel);
        let request = OpenRequest { cancel: call_off.watch(), ..self.request.clone() };
        let launching: BoxFuture<'_, _> = Box::pin(self.launch_unwalked(used, &mounted, &request));
        let walking: BoxFuture<'_, _> = Box::pin(async {
            let change = self.until_stopped(Box::pin(self.change_since(&mounted))).await;
            if !matches!(change, Ok((Some(_), _))) {
                call_off.raise(CancelLevel::Stop(StopReason::Terminate));
            }
            change
        });
        let both = async {
            tokio::pin!(launching, walking);
            tokio::select! {
                launched = &mut launching => {
                    // Without a sandbox the tree is of no use.
                    let launched = launched?;
                    Ok((Ok(launched), walking.await))
                }
                change = &mut walking => Ok::<_, Trouble>((launching.await, change)),
            }
        };
        let (launched, change) = tokio::select! {
            both = both => both?,
            never = self.request.cancel.clone().relay(&call_off) => match never {},
        };
        match (change, launched) {
            (Ok((Some(delta), walked)), launched) => {
                let (link, parts, running) = launched?;
                let delta = Some(delta).filter(|delta| delta.changes > 0);
                let stay = self.request.keep.map(|keep| self.stay(keep, parts, walked.manifest));
                Ok(Early::Opened(Box::new(Opened { link, running, delta, stay })))
            }
            (change, launched) => {
                if let Ok((_, _, running)) = launched {
                    self.end(running.sandbox);
                }
                change.map(|(_, walked)| Early::Outdated(walked))
            }
        }
    }

    /// Until the request is called off: where the tree says no, nothing is built for nothing.
    async fn launch_unwalked(
        &self,
        used: &Used,
        mounted: &MountedBefore,
        request: &OpenRequest,
    ) -> Result<(Link, Parts, Running), Trouble> {
        let mut called_off = request.cancel.clone();
        let resolved = tokio::select! {
            biased;
            _ = called_off.stopped() => return Err(Trouble::Stopped),
            resolved = self.resolve(used) => resolved?,
        };
        let parts = resolved.with_mount(mounted.id.clone());
        let running = self.launch(&resolved.link, &parts, request, None).await?;
        Ok((resolved.link, parts, running))
    }

    /// The tree, and what it differs by from a mounted one; walked again when it changed meanwhile, once.
    async fn change_since(&self, mounted: &MountedBefore) -> Result<(Option<Delta>, Walked), Trouble> {
        match self.change_now(mounted).await {
            Err(Trouble::TreeChanged(_)) => self.change_now(mounted).await,
            change => change,
        }
    }

    async fn change_now(&self, mounted: &MountedBefore) -> Result<(Option<Delta>, Walked), Trouble> {
        let sources = self.sources();
        let walked = sources.walk(self.reporter).await?;
        check_folder(self.request, &walked.manifest)?;
        let delta = self.tell_change(&walked, || sources.change_since(mounted, &walked)).await?;
        Ok((delta, walked))
    }

    async fn until_stopped<T>(&self, work: BoxFuture<'_, Result<T, Trouble>>) -> Result<T, Trouble> {
        let mut cancel = self.request.cancel.clone();
        tokio::select! {
            biased;
            _ = cancel.stopped() => Err(Trouble::Stopped),
            done = work => done,
        }
    }

    async fn launch(
        &self,
        link: &Link,
        parts: &Parts,
        request: &OpenRequest,
        need: Option<Need>,
    ) -> Result<Running, Trouble> {
        let prices = self.shared.rates.prices().await;
        let launch = Launch {
            link,
            ground: &self.core.ground(self.shared),
            request,
            reporter: self.reporter,
            parts,
            prices: &prices,
            worktree: warm::worktree(&request.root),
            need,
        };
        link.board.telling(self.reporter, launch.run()).await
    }

    fn stay(&self, keep: Keep, parts: Parts, tree: Manifest) -> Stay {
        Stay {
            keep,
            key: WarmKey { definition: self.definition(), image: parts.image },
            reuse_until_ms: now_ms().saturating_add(u64::try_from(keep.max.as_millis()).unwrap_or(u64::MAX)),
            record: None,
            tree,
            used: Use::Untouched,
        }
    }

    /// What every call needs.
    pub(super) async fn connected(&self) -> Result<(), Trouble> {
        let connecting = async { self.token(self.shared.link(&self.core.settings).await?).await };
        self.until_stopped(Box::pin(connecting)).await
    }

    /// A sandbox with the mount that was made last, for a run that may come. `None` where something is not known that it
    /// is made from: nothing is built or sent for it.
    pub(super) async fn unwalked(&self, used: &Used, need: Need) -> Result<Option<Unclaimed>, Trouble> {
        let (sources, spec) = (self.sources(), &self.request.spec);
        let asking = async {
            let link = self.shared.link(&self.core.settings).await?;
            let Some(mounted) = self.mounted_before(used).await else { return Ok(None) };
            if Box::pin(self.image(link, used).known(&spec.image)).await?.is_none() {
                return Ok(None);
            }
            let Some(holds) = sources.tree_of(&mounted).await else { return Ok(None) };
            Ok(Some((self.resolve(used).await?, mounted, holds)))
        };
        let Some((resolved, mounted, holds)) = self.until_stopped(Box::pin(asking)).await? else {
            return Ok(None);
        };
        self.unclaimed(resolved, mounted.id, holds, need).await.map(Some)
    }

    /// A sandbox with the tree as it is now.
    pub(super) async fn walked(&self, used: &Used) -> Result<Unclaimed, Trouble> {
        let (resolved, mounted) = self.until_stopped(Box::pin(self.prepare(used, None))).await?;
        let mount = mounted.mount.clone();
        self.unclaimed(resolved, mount, mounted.holds(), Need::Coming).await
    }

    async fn unclaimed(
        &self,
        resolved: Resolved,
        mount: String,
        holds: Manifest,
        need: Need,
    ) -> Result<Unclaimed, Trouble> {
        let Some(keep) = self.request.keep else {
            return Err(Failure::new(Cause::Infra, "a sandbox that is not kept is not made ahead").into());
        };
        let parts = resolved.with_mount(mount);
        let running = self.launch(&resolved.link, &parts, self.request, Some(need)).await?;
        let stay = self.stay(keep, parts, holds.clone());
        Ok(Unclaimed { link: resolved.link, running, stay, holds })
    }

    /// Everything that a sandbox is made from, all at once as far as one thing does not need another.
    async fn prepare(&self, used: &Used, walked: Option<Walked>) -> Result<(Resolved, Mounted), Trouble> {
        let sources = self.sources();
        let mounting = async {
            let link = self.shared.link(&self.core.settings);
            let (link, walked) = match walked {
                Some(walked) => (link.await?, walked),
                None => tokio::try_join!(link, sources.walk(self.reporter))?,
            };
            let (ids, app_name) = (&self.shared.ids, &self.core.settings.target.app);
            let context = MountContext { link, ids, used, reporter: self.reporter, app_name };
            let mounted = Box::pin(sources.mount(walked, &context)).await?;
            check_folder(self.request, &mounted.manifest)?;
            Ok(mounted)
        };
        tokio::try_join!(Box::pin(self.resolve(used)), Box::pin(mounting))
    }

    async fn resolve(&self, used: &Used) -> Result<Resolved, Trouble> {
        let link = self.shared.reach(&self.core.settings, self.reporter).await?;
        self.sweep(link);
        self.shared.rates.refresh(link, &self.core.aside, &self.core.leaving).await;
        let (ids, spec) = (&self.shared.ids, &self.request.spec);
        let image = self.image(link, used);
        let work = async {
            tokio::try_join!(
                resolve::app(link, ids, used, &self.core.settings.target.app),
                Box::pin(image.id(&spec.image)),
                self.token(link),
                all(spec.secrets.iter().map(|secret| resolve::secret(link, ids, used, secret))),
                all(spec.volumes.values().map(|volume| resolve::volume(link, ids, used, volume))),
            )
        };
        let (app, image, (), secrets, volumes) = link.board.telling(self.reporter, Box::pin(work)).await?;
        Ok(Resolved { link: link.clone(), app, image, secrets, volumes })
    }

    /// Only the second generation of sandboxes needs it.
    async fn token(&self, link: &Link) -> Result<(), Trouble> {
        let gpu = self.request.spec.gpu.first().map(|choice| &choice.gpu);
        if generation::kind(gpu, &link.settings) == SandboxKind::V2 {
            link.auth_token().await?;
        }
        Ok(())
    }
}

impl Resolved {
    fn with_mount(&self, mount: String) -> Parts {
        let Self { app, image, secrets, volumes, .. } = self;
        Parts {
            app: app.clone(),
            image: image.clone(),
            mount,
            secrets: secrets.clone(),
            volumes: volumes.clone(),
        }
    }
}
