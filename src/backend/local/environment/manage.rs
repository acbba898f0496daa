//! `accel image ls` and `prune` for this machine: what is in the cache, and what may go.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::layout::{Marker, Site};
use super::recipe::Recipe;
use crate::base::files::FileError;
use crate::base::size::Bytes;
use crate::plan::spec::ImageSpec;
use crate::store::Lock;

/// One environment of the cache.
#[derive(Debug, Clone)]
pub struct EnvironmentInfo {
    /// Its folder's name: the first digits of its key.
    pub key: String,
    pub path: PathBuf,
    /// Name of the image that it was built for; `None` when it is not complete.
    pub image: Option<String>,
    /// `python 3.12, 3 packages`.
    pub summary: Option<String>,
    /// Full version.
    pub python: Option<String>,
    /// Disk space; files shared with uv's cache count too. Zero when absent.
    pub size: Bytes,
    pub last_used: Option<SystemTime>,
    pub complete: bool,
}

/// What may go.
#[derive(Debug, Clone, Default)]
pub struct PruneRequest {
    /// Only what was last used longer ago than this. `None`: whatever its age.
    pub older_than: Option<Duration>,
    /// Keys that stay: those of the images of a configuration.
    pub keep: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneMode {
    /// Says what would go.
    DryRun,
    Remove,
}

#[derive(Debug, Clone)]
pub struct Pruned {
    pub environment: EnvironmentInfo,
    pub outcome: PrunedOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrunedOutcome {
    WouldRemove,
    Removed,
    /// A job runs in it, or it is being built.
    InUse,
}

/// Everything in the cache, debris of killed builds included, by key.
pub fn environments(cache: &Path) -> Result<Vec<EnvironmentInfo>, FileError> {
    Ok(Site::all(cache)?.iter().filter(|site| site.folder.exists()).map(describe).collect())
}

/// The environment of an image, there or not: `complete` tells. For images whose engine is `venv`.
pub fn of_image(image: &ImageSpec, root: &Path, cache: &Path) -> Result<EnvironmentInfo, FileError> {
    let recipe = Recipe::of(image, root)?;
    let mut info = describe(&Site::new(cache, &recipe.key));
    info.summary = Some(recipe.summary());
    Ok(info)
}

/// Removes what the request allows. Never one that is in use: its jobs hold its lock.
pub fn prune(cache: &Path, request: &PruneRequest, mode: PruneMode) -> Result<Vec<Pruned>, FileError> {
    let now = SystemTime::now();
    let mut pruned = Vec::new();
    for site in Site::all(cache)? {
        if request.keep.contains(&site.name) || !old_enough(&site, request, now) {
            continue;
        }
        let environment = describe(&site);
        let Some(outcome) = prune_one(&site, request, now, mode)? else { continue };
        pruned.push(Pruned { environment, outcome });
    }
    Ok(pruned)
}

/// `None`: it was used since it was looked at.
fn prune_one(
    site: &Site,
    request: &PruneRequest,
    now: SystemTime,
    mode: PruneMode,
) -> Result<Option<PrunedOutcome>, FileError> {
    let Some(lock) = Lock::try_exclusive(&site.lock)? else { return Ok(Some(PrunedOutcome::InUse)) };
    if !old_enough(site, request, now) {
        return Ok(None);
    }
    if mode == PruneMode::DryRun {
        return Ok(Some(PrunedOutcome::WouldRemove));
    }
    site.clear()?;
    lock.remove()?;
    Ok(Some(PrunedOutcome::Removed))
}

/// Debris has no last use and is always old enough; the lock tells it from a build in progress.
fn old_enough(site: &Site, request: &PruneRequest, now: SystemTime) -> bool {
    let (Some(limit), Some(last_use)) = (request.older_than, site.last_use()) else { return true };
    now.duration_since(last_use).is_ok_and(|age| age >= limit)
}

fn describe(site: &Site) -> EnvironmentInfo {
    let marker: Option<Marker> = site.marker();
    let last_used = site.last_use();
    EnvironmentInfo {
        key: site.name.clone(),
        path: site.folder.clone(),
        complete: last_used.is_some(),
        last_used,
        size: Bytes(disk_space(&site.folder)),
        image: marker.as_ref().map(|marker| marker.image.clone()),
        summary: marker.as_ref().map(|marker| marker.summary.clone()),
        python: marker.map(|marker| marker.python),
    }
}

/// Blocks of everything below a folder, links not followed. What cannot be read counts as nothing.
fn disk_space(folder: &Path) -> u64 {
    const BLOCK: u64 = 512;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let found = entry.metadata().ok()?;
            let below = if found.is_dir() { disk_space(&entry.path()) } else { 0 };
            Some(found.blocks() * BLOCK + below)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::base::digest::Digest;

    fn environment(cache: &Path, name: &str, days: u64) -> Site {
        let site = Site::new(cache, &Digest::of(name.as_bytes()));
        fs::create_dir_all(site.bin()).unwrap();
        fs::write(site.python(), "x").unwrap();
        File::create(&site.lock).unwrap();
        let marker =
            Marker { image: name.into(), summary: String::new(), python: "3.12.1".into(), built_at: 0 };
        site.complete(&marker).unwrap();
        let used = SystemTime::now() - Duration::from_secs(days * 86_400);
        let file = File::options().append(true).open(site.folder.join("accel-environment.json")).unwrap();
        file.set_modified(used).unwrap();
        site
    }

    fn names(pruned: &[Pruned]) -> Vec<(String, PrunedOutcome)> {
        let mut names: Vec<_> = pruned
            .iter()
            .map(|one| (one.environment.image.clone().unwrap_or_default(), one.outcome))
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        names
    }

    #[test]
    fn removes_what_is_old_and_unused_and_nothing_else() {
        let cache = tempfile::tempdir().unwrap();
        let cache = cache.path();
        let kept = environment(cache, "kept", 90);
        let old = environment(cache, "old", 90);
        let recent = environment(cache, "recent", 1);
        let busy = environment(cache, "busy", 90);
        let request = PruneRequest {
            older_than: Some(Duration::from_secs(30 * 86_400)),
            keep: vec![kept.name.clone()],
        };
        let in_use = busy.enter().expect("complete");
        busy_again(&busy);

        let dry = prune(cache, &request, PruneMode::DryRun).unwrap();
        assert_eq!(
            names(&dry),
            [("busy".into(), PrunedOutcome::InUse), ("old".into(), PrunedOutcome::WouldRemove)]
        );
        assert!(old.folder.exists());
        let done = prune(cache, &request, PruneMode::Remove).unwrap();
        assert_eq!(names(&done)[1], ("old".into(), PrunedOutcome::Removed));
        assert!(!old.folder.exists() && !old.lock.exists());
        assert!(kept.folder.exists() && recent.folder.exists() && busy.folder.exists());
        drop(in_use);

        prune(cache, &PruneRequest::default(), PruneMode::Remove).unwrap();
        assert!(environments(cache).unwrap().is_empty());
    }

    /// Entering touched it; make it look old while it is in use.
    fn busy_again(site: &Site) {
        let file = File::options().append(true).open(site.folder.join("accel-environment.json")).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(90 * 86_400)).unwrap();
    }

    #[test]
    fn debris_is_listed_as_incomplete_and_goes_first() {
        let cache = tempfile::tempdir().unwrap();
        let site = environment(cache.path(), "x", 0);
        fs::remove_file(site.folder.join("accel-environment.json")).unwrap();
        let listed = environments(cache.path()).unwrap();
        assert_eq!((listed.len(), listed[0].complete), (1, false));
        let request = PruneRequest { older_than: Some(Duration::from_secs(86_400)), keep: Vec::new() };
        let pruned = prune(cache.path(), &request, PruneMode::Remove).unwrap();
        assert_eq!(pruned[0].outcome, PrunedOutcome::Removed);
    }
}
