//! One layer request with names where the server's ids will be.

use std::sync::Arc;

use super::{Builder, ContextMount, Pairs};
use crate::backend::modal::wire::client as wire;
use crate::domain::Gpu;
use crate::plan::spec::{RegistryAuth, Secret, Volume};
use indexmap::IndexMap;

/// Whose cache a layer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Built by Modal for everybody.
    Global,
    Workspace,
}

/// Variables that a build step sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildSecret {
    Named(Secret),
    /// Becomes an anonymous secret of the application.
    Inline(Pairs),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRequest {
    /// Dockerfile lines; a layer with a parent starts with `FROM base`.
    pub commands: Vec<String>,
    /// Path in the build context and contents.
    pub context_files: Vec<(String, Arc<[u8]>)>,
    pub context: Option<ContextMount>,
    pub secrets: Vec<BuildSecret>,
    pub gpu: Option<Gpu>,
    pub registry: RegistryAuth,
    pub build_args: Pairs,
    pub volumes: IndexMap<String, Volume>,
    pub namespace: Namespace,
    pub force_build: bool,
    pub has_parent: bool,
    /// What the layer does, for people: `pip install numpy`.
    pub title: String,
    /// `accel.toml:31`; empty for the base.
    pub origin: String,
}

/// What the server called the things that a layer names.
#[derive(Debug, Clone, Default)]
pub struct LayerIds<'a> {
    pub app: &'a str,
    /// The layer below; empty for the first.
    pub parent: &'a str,
    /// Empty without a context.
    pub context_mount: &'a str,
    /// In the order of [`LayerRequest::secrets`].
    pub secrets: Vec<String>,
    pub registry_secret: &'a str,
    /// In the order of [`LayerRequest::volumes`].
    pub volumes: Vec<String>,
}

/// Options of the user's Modal settings that apply to every layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BuildOptions {
    pub force_build: bool,
    pub ignore_cache: bool,
    pub allow_global_deployment: bool,
}

impl LayerRequest {
    pub(super) fn base(title: impl Into<String>, namespace: Namespace, commands: Vec<String>) -> Self {
        Self {
            commands,
            context_files: Vec::new(),
            context: None,
            secrets: Vec::new(),
            gpu: None,
            registry: RegistryAuth::Public,
            build_args: Pairs::new(),
            volumes: IndexMap::new(),
            namespace,
            force_build: false,
            has_parent: false,
            title: title.into(),
            origin: String::new(),
        }
    }

    /// The secret that opens a private registry.
    pub fn registry_secret(&self) -> Option<&str> {
        match &self.registry {
            RegistryAuth::Public => None,
            RegistryAuth::Static(name) | RegistryAuth::Aws(name) | RegistryAuth::Gcp(name) => Some(name),
        }
    }

    /// The request as the official SDK serialises it.
    pub fn to_wire(
        &self,
        builder: Builder,
        options: BuildOptions,
        ids: &LayerIds<'_>,
    ) -> wire::ImageGetOrCreateRequest {
        let namespace = match self.namespace {
            Namespace::Global => wire::DeploymentNamespace::Global,
            Namespace::Workspace => wire::DeploymentNamespace::Workspace,
        };
        wire::ImageGetOrCreateRequest {
            image: Some(self.definition(ids)),
            app_id: ids.app.to_owned(),
            force_build: self.force_build || options.force_build,
            namespace: namespace as i32,
            builder_version: builder.as_str().to_owned(),
            allow_global_deployment: options.allow_global_deployment,
            ignore_cache: options.ignore_cache,
            ..Default::default()
        }
    }

    fn definition(&self, ids: &LayerIds<'_>) -> wire::Image {
        let parent = wire::BaseImage { image_id: ids.parent.to_owned(), docker_tag: "base".to_owned() };
        let volumes = self.volumes.iter().zip(&ids.volumes).map(|((path, volume), id)| wire::VolumeMount {
            volume_id: id.clone(),
            mount_path: path.clone(),
            allow_background_commits: true,
            read_only: volume.read_only,
            sub_path: None,
        });
        wire::Image {
            base_images: if self.has_parent { vec![parent] } else { Vec::new() },
            dockerfile_commands: self.commands.clone(),
            context_files: self.context_files.iter().map(context_file).collect(),
            secret_ids: ids.secrets.clone(),
            context_mount_id: ids.context_mount.to_owned(),
            // Present but empty where there is none: part of the bytes that builds are shared by.
            gpu_config: Some(gpu_config(self.gpu.as_ref())),
            image_registry_config: Some(wire::ImageRegistryConfig {
                registry_auth_type: auth_type(&self.registry) as i32,
                secret_id: ids.registry_secret.to_owned(),
            }),
            build_args: self.build_args.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            volume_mounts: volumes.collect(),
            ..Default::default()
        }
    }
}

/// A GPU as requests name it; none is an empty message, not an absent one.
pub fn gpu_config(gpu: Option<&Gpu>) -> wire::GpuConfig {
    let Some(gpu) = gpu else { return wire::GpuConfig::default() };
    wire::GpuConfig { count: gpu.count, gpu_type: gpu.kind.clone(), ..Default::default() }
}

fn context_file((filename, data): &(String, Arc<[u8]>)) -> wire::ImageContextFile {
    wire::ImageContextFile { filename: filename.clone(), data: bytes::Bytes::copy_from_slice(data) }
}

fn auth_type(auth: &RegistryAuth) -> wire::RegistryAuthType {
    match auth {
        RegistryAuth::Public => wire::RegistryAuthType::Unspecified,
        RegistryAuth::Static(_) => wire::RegistryAuthType::StaticCreds,
        RegistryAuth::Aws(_) => wire::RegistryAuthType::Aws,
        RegistryAuth::Gcp(_) => wire::RegistryAuthType::Gcp,
    }
}
