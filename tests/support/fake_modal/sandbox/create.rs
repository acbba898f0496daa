//! Making a sandbox: checks of the request, its files and its variables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use accel::backend::modal::wire::client as wire;
use tokio::sync::watch;
use tonic::Status;

use super::super::state::{self, State, now};
use super::super::world::World;
use super::super::{Shared, image, install, storage};
use super::{Fate, Sandbox, Version, fate};

/// What every sandbox of accel carries.
const TAGS: [&str; 6] =
    ["accel-project", "accel-job", "accel-run", "accel-lease", "accel-host", "accel-expires"];

/// A request to create, of either kind.
pub struct Create {
    pub version: Version,
    pub app_id: String,
    pub definition: wire::Sandbox,
    pub tags: Vec<wire::SandboxTag>,
    pub sources: Vec<wire::SecretSource>,
    pub key: Option<String>,
}

impl Create {
    /// Creates a sandbox, or finds the one that the same attempt made before.
    pub async fn apply(self, shared: &Shared) -> Result<String, Status> {
        let packages = self.packages(shared).await?;
        let mut state = state::lock(shared);
        if let Some(id) = self.key.as_ref().and_then(|key| state.created.get(key)) {
            return Ok(id.clone());
        }
        self.check(&mut state)?;
        let fate = self.fate(&mut state);
        if let Fate::Refused(status) = fate {
            return Err(status);
        }
        let key = self.key.clone();
        let sandbox = self.make(&mut state, fate, packages)?;
        let id = sandbox.id.clone();
        if let Some(key) = key {
            state.created.insert(key, id.clone());
        }
        state.sandboxes.insert(id.clone(), sandbox);
        drop(state);
        fate::live(shared, &id);
        Ok(id)
    }

    /// The environment with the packages of its image.
    async fn packages(&self, shared: &Shared) -> Result<Option<PathBuf>, Status> {
        let installs = {
            let state = state::lock(shared);
            let image = state.images.get(&self.definition.image_id);
            let installs = image.map_or_else(Vec::new, |image| image.installs.clone());
            if state.install_packages { installs } else { Vec::new() }
        };
        if installs.is_empty() {
            return Ok(None);
        }
        let made = tokio::task::spawn_blocking(move || install::environment(&installs)).await;
        made.expect("installing does not panic").map(Some).map_err(Status::internal)
    }

    fn fate(&self, state: &mut State) -> Fate {
        let gpu = self.definition.resources.as_ref().and_then(|it| it.gpu_config.as_ref());
        let of_gpu = gpu.and_then(|gpu| state.gpu_fates.get(&gpu.gpu_type)).cloned();
        of_gpu.or_else(|| state.fates.pop_front()).unwrap_or(Fate::Runs)
    }

    fn check(&self, state: &mut State) -> Result<(), Status> {
        let definition = &self.definition;
        let life = definition.timeout_secs;
        if life == 0 || life > state.longest_life {
            state.violation(format!("a sandbox with a life of {life} s"));
            return Err(Status::invalid_argument("timeout must be between 1 second and 24 hours"));
        }
        let missing: Vec<_> =
            TAGS.iter().filter(|tag| !self.tags.iter().any(|has| has.tag_name == **tag)).collect();
        if !missing.is_empty() {
            state.violation(format!("a sandbox without the tags {missing:?}"));
        }
        let gpu = definition.resources.as_ref().and_then(|it| it.gpu_config.as_ref());
        if self.version == Version::V2 && gpu.is_some_and(|gpu| !gpu.gpu_type.is_empty()) {
            return Err(Status::invalid_argument("GPUs are not supported by V2 Sandboxes"));
        }
        let known = [
            ("App", state.apps.values().any(|id| *id == self.app_id)),
            ("Image", state.images.get(&definition.image_id).is_some_and(|image| image.is_built())),
            ("Mount", definition.mount_ids.iter().all(|id| state.mounts.contains_key(id))),
            ("Volume", definition.volume_mounts.iter().all(|it| state.volumes.contains_key(&it.volume_id))),
            ("Secret", self.secret_ids().all(|id| state.secrets.contains_key(id))),
        ];
        if let Some((what, _)) = known.iter().find(|(_, known)| !known) {
            return Err(Status::not_found(format!("{what} not found")));
        }
        let name = definition.name.as_deref().unwrap_or_default();
        let taken = |other: &Sandbox| {
            other.app_id == self.app_id
                && other.result.borrow().is_none()
                && other.definition.name.as_deref() == Some(name)
        };
        if !name.is_empty() && state.sandboxes.values().any(taken) {
            return Err(Status::already_exists(format!("Sandbox with name {name} already exists")));
        }
        Ok(())
    }

    fn secret_ids(&self) -> impl Iterator<Item = &String> {
        let of_sources = self.sources.iter().filter_map(|source| match &source.source {
            Some(wire::secret_source::Source::SecretId(id)) => Some(id),
            _ => None,
        });
        self.definition.secret_ids.iter().chain(of_sources)
    }

    fn make(self, state: &mut State, fate: Fate, packages: Option<PathBuf>) -> Result<Sandbox, Status> {
        let id = match self.version {
            Version::V1 => state.new_id("sb"),
            // Any other shape than that of V1 is V2.
            Version::V2 => format!("{}V2XXV", state.new_id("sb")),
        };
        let suffix = if self.version == Version::V1 { "F" } else { "V" };
        let task_id = format!("{}{suffix}", state.new_id("ta"));
        let image = &state.images[&self.definition.image_id];
        let mut environment = image.environment.clone();
        let workdir = self.definition.workdir.clone().unwrap_or_else(|| image.workdir.clone());
        let of_ids = if self.sources.is_empty() { self.definition.secret_ids.clone() } else { Vec::new() };
        for secret in of_ids {
            environment.extend(state.secrets[&secret].clone());
        }
        environment.extend(storage::values(state, &self.sources)?);
        let mut world = World::new(state.folder().join("sandboxes").join(&id));
        world.own(&workdir);
        lay_out(state, &self.definition, &mut world, &workdir)
            .map_err(|error| Status::internal(format!("cannot lay out the sandbox: {error}")))?;
        Ok(Sandbox {
            id,
            task_id,
            version: self.version,
            app_id: self.app_id,
            definition: self.definition,
            tags: self.tags,
            created_at: now(),
            execs: BTreeMap::new(),
            main: None,
            forgotten: false,
            fate,
            packages,
            environment,
            workdir,
            world,
            placed: watch::Sender::new(false),
            result: watch::Sender::new(None),
        })
    }
}

/// Puts mounts and volumes below the folder that stands for `/`.
fn lay_out(
    state: &State,
    definition: &wire::Sandbox,
    world: &mut World,
    workdir: &str,
) -> std::io::Result<()> {
    for folder in ["/tmp", "/root", workdir] {
        std::fs::create_dir_all(world.place(folder))?;
    }
    let copied = image::copied_files(state, &definition.image_id);
    for file in copied.iter().chain(definition.mount_ids.iter().flat_map(|id| &state.mounts[id])) {
        place_file(state, file, world)?;
    }
    for mount in &definition.volume_mounts {
        let folder = state.volume_folder(&mount.volume_id).join(mount.sub_path.as_deref().unwrap_or(""));
        std::fs::create_dir_all(&folder)?;
        let place = world.place(&mount.mount_path);
        std::fs::create_dir_all(place.parent().unwrap_or(&place))?;
        // A volume hides what an image has at its path; the working directory may have been made there.
        let _ = std::fs::remove_dir(&place);
        std::os::unix::fs::symlink(folder, place)?;
        world.own(&mount.mount_path);
    }
    Ok(())
}

fn place_file(state: &State, file: &wire::MountFile, world: &mut World) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let place = world.place(&file.filename);
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::copy(state.content_path(&file.sha256_hex), &place)?;
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(file.mode.unwrap_or(0o644)))?;
    // The folder is the mount's as a whole, unless the file lies where other things lie too.
    match file.filename.trim_start_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["root" | "tmp" | "home" | "opt" | "mnt" | "usr" | "etc" | "var" | "srv", ..] => {
            world.own(&file.filename);
            let folder = Path::new(&file.filename).parent().and_then(Path::to_str).unwrap_or("/");
            if folder.matches('/').count() > 1 {
                world.own(folder);
            }
        }
        [first, ..] => world.own(&format!("/{first}")),
        [] => {}
    }
    Ok(())
}
