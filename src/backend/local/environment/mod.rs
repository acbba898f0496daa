//! Virtual environments for images with Python packages: made by uv, kept in the cache by digest.
//!
//! Owns `<cache>/environments/` and `<cache>/tools/`. What must stay true: an environment is complete or absent,
//! whatever is killed when; it is built once however many accels want it; nobody removes one that a job is in;
//! a ready one costs a few system calls and starts no process. Layers that a virtual environment cannot hold
//! (apt, run, copy) are left to the local session to speak about.

mod build;
pub(super) mod call;
mod host;
mod install_uv;
mod layout;
mod manage;
mod options;
mod recipe;
mod requirements;
mod uv;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use indexmap::IndexMap;

pub use host::Host;
pub use manage::{
    EnvironmentInfo, PruneMode, PruneRequest, Pruned, PrunedOutcome, environments, of_image, prune,
};
pub use uv::{OLDEST as OLDEST_UV, Uv, find as find_uv};

use self::build::Builder;
use self::call::Log;
use self::layout::Site;
use self::recipe::Recipe;
use super::{Environments, PrepareRequest, Prepared};
use crate::backend::{BoxFuture, Failure};
use crate::base::digest::Digest;
use crate::domain::Cause;
use crate::event::{Event, Step, StepOutcome};
use crate::store::Lock;
use crate::store::lock::Waiting;

/// Whether a complete environment is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    Ready,
    /// Built again even if it is there (`accel image build --force`, `force_build`).
    Rebuilt,
}

/// Finds or makes environments with uv.
pub struct UvEnvironments {
    host: Host,
    /// What this accel has rebuilt because it was asked to: once is enough for all of its jobs.
    rebuilt: Mutex<HashSet<Digest>>,
}

impl UvEnvironments {
    pub fn new(host: Host) -> Self {
        Self { host, rebuilt: Mutex::default() }
    }

    /// As [`Environments::prepare`], with a say in whether an existing environment will do.
    pub async fn make(&self, request: PrepareRequest<'_>, freshness: Freshness) -> Result<Prepared, Failure> {
        let recipe = Recipe::of(request.image, request.root).map_err(|error| failed(&request, &error))?;
        let site = Site::new(self.host.directories.cache_path(), &recipe.key);
        let again = (freshness == Freshness::Rebuilt || recipe.force_build) && !self.was_rebuilt(&recipe.key);
        if let (false, Some(lock)) = (again, site.enter()) {
            return Ok(prepared(&site, lock));
        }
        self.build(request, &recipe, &site, again).await
    }

    async fn build(
        &self,
        mut request: PrepareRequest<'_>,
        recipe: &Recipe,
        site: &Site,
        again: bool,
    ) -> Result<Prepared, Failure> {
        self.open_cache(&request, site)?;
        let mut again = again;
        loop {
            let lock = match enter_or_lock(&mut request, site, again).await? {
                Turn::Enter(lock) => return Ok(prepared(site, lock)),
                Turn::Build(lock) => lock,
            };
            self.build_locked(&request, recipe, site, &lock).await?;
            again = false;
            self.rebuilt.lock().unwrap_or_else(PoisonError::into_inner).insert(recipe.key);
        }
    }

    async fn build_locked(
        &self,
        request: &PrepareRequest<'_>,
        recipe: &Recipe,
        site: &Site,
        lock: &Lock,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let (job, step) = (request.job.clone(), Step::Image);
        let label = format!("image {}: {}", request.image.name, recipe.summary());
        request.emitter.emit(Event::StepStarted { job: job.clone(), step, label }).await;
        let log = Log::new(request.emitter, request.job);
        let builder =
            Builder { host: &self.host, image: request.image, root: request.root, recipe, site, lock };
        let built = builder.build(&log, request.cancel.clone()).await;
        let outcome = if built.is_ok() { StepOutcome::Done } else { StepOutcome::Failed };
        let duration = began.elapsed();
        request.emitter.emit(Event::StepFinished { job, step, outcome, duration }).await;
        built
    }

    fn open_cache(&self, request: &PrepareRequest<'_>, site: &Site) -> Result<(), Failure> {
        self.host.directories.open_cache().map_err(|error| failed(request, &error).help(error.help()))?;
        let folder = site.folder.parent().expect("an environment lies in a folder");
        crate::base::files::create_dir_all(folder).map_err(|error| {
            failed(request, &error).help("set ACCEL_CACHE_DIR to a directory that you can write to")
        })
    }

    fn was_rebuilt(&self, key: &Digest) -> bool {
        self.rebuilt.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

impl Environments for UvEnvironments {
    fn prepare<'a>(&'a self, request: PrepareRequest<'a>) -> BoxFuture<'a, Result<Prepared, Failure>> {
        Box::pin(self.make(request, Freshness::Ready))
    }
}

/// Whose turn it is.
enum Turn {
    /// It is complete: to be used, with the lock that says so where locks work.
    Enter(Option<Lock>),
    /// It is absent, and this accel builds it.
    Build(Lock),
}

/// Waits until the environment is complete or may be built. Never for the exclusive lock alone: those who use
/// what somebody else built meanwhile may keep theirs for long.
async fn enter_or_lock(request: &mut PrepareRequest<'_>, site: &Site, again: bool) -> Result<Turn, Failure> {
    let what = format!("the environment of image `{}`", request.image.name);
    let waiting = Waiting { what: &what, emitter: request.emitter, job: Some(request.job) };
    let attempt = || match (again, site.enter()) {
        (false, Some(lock)) => Ok(Some(Turn::Enter(lock))),
        (_, entered) => {
            drop(entered);
            let lock = Lock::try_exclusive(&site.lock)?;
            // Somebody may have completed it between the look and the lock: then look again.
            Ok(lock.filter(|_| again || !site.ready()).map(Turn::Build))
        }
    };
    tokio::select! {
        turn = Lock::wait(&site.lock, waiting, attempt) => turn.map_err(|error| {
            Failure::new(Cause::Image, format!("image `{}`: {error}", request.image.name))
                .help("set ACCEL_CACHE_DIR to a directory that you can write to, on a disk that has file locks")
        }),
        _ = request.cancel.stopped() => {
            Err(Failure::new(Cause::Image, format!("stopped while waiting for {what}")))
        }
    }
}

/// What a job in the environment gets: its programs first, and nothing of another environment.
fn prepared(site: &Site, lock: Option<Lock>) -> Prepared {
    let mut env = IndexMap::new();
    env.insert("VIRTUAL_ENV".to_owned(), site.folder.to_string_lossy().into_owned());
    Prepared {
        path_prefix: vec![site.bin()],
        env,
        unset: host::MISLEADING.iter().skip(1).map(|name| (*name).to_owned()).collect(),
        in_use: lock.map(|lock| Arc::new(lock) as Arc<dyn std::any::Any + Send + Sync>),
    }
}

fn failed(request: &PrepareRequest<'_>, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Cause::Image, format!("image `{}`: {error}", request.image.name))
}
