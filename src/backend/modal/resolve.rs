//! Things of the user's account, by name: the app, the environment, secrets, volumes.

use super::error::ErrorKind;
use super::ids::{Ids, Kind, Used};
use super::image::{BuildSecret, Builder};
use super::link::Link;
use super::method::client;
use super::refusal;
use super::trouble::Trouble;
use super::wire::client as wire;
use crate::backend::Failure;
use crate::base::digest::DigestBuilder;
use crate::domain::Cause;
use crate::plan::spec::{Secret, Volume};

/// The named app that owns everything, made if missing.
pub(super) async fn app(link: &Link, ids: &Ids, used: &Used, name: &str) -> Result<String, Trouble> {
    let ask = async {
        let request = wire::AppGetOrCreateRequest {
            app_name: name.to_owned(),
            environment_name: link.environment(),
            object_creation_type: wire::ObjectCreationType::CreateIfMissing as i32,
        };
        let answer = link.plane.call(client::APP_GET_OR_CREATE, request).await;
        Ok(answer.map_err(|error| refusal::of_environment(&link.environment(), error))?.app_id)
    };
    ids.get(Kind::App, name, used, ask).await
}

/// The image builder version: the user's setting, else that of the environment.
pub(super) async fn builder(link: &Link, ids: &Ids, used: &Used) -> Result<Builder, Trouble> {
    let parse = |version: &str| {
        Builder::parse(version)
            .map_err(|error| Failure::new(Cause::Image, error.to_string()).help(error.help()))
    };
    let version = match &link.settings.image_builder_version {
        Some(version) => version.clone(),
        None => {
            let ask = async {
                let request = wire::EnvironmentGetOrCreateRequest {
                    deployment_name: link.environment(),
                    ..Default::default()
                };
                let answer = link.plane.call(client::ENVIRONMENT_GET_OR_CREATE, request).await;
                let answer = answer.map_err(|error| refusal::of_environment(&link.environment(), error))?;
                let settings = answer.metadata.and_then(|metadata| metadata.settings);
                let version = settings.map(|settings| settings.image_builder_version).unwrap_or_default();
                // What accel cannot build with is not remembered: a later accel, or a server put right, may know better.
                parse(&version)?;
                Ok(version)
            };
            ids.get(Kind::Builder, "", used, ask).await?
        }
    };
    Ok(parse(&version)?)
}

/// A secret of the workspace, which must hold the required keys.
pub(super) async fn secret(link: &Link, ids: &Ids, used: &Used, secret: &Secret) -> Result<String, Trouble> {
    let key = format!("{}:{}", secret.name, secret.required_keys.join(","));
    let ask = async {
        let request = wire::SecretGetOrCreateRequest {
            deployment_name: secret.name.clone(),
            environment_name: link.environment(),
            required_keys: secret.required_keys.clone(),
            ..Default::default()
        };
        match link.plane.call(client::SECRET_GET_OR_CREATE, request).await {
            Ok(answer) => Ok(answer.secret_id),
            Err(error) if refuses(error.kind) => Err(refusal::of_secret(secret, &error).into()),
            Err(error) => Err(error.into()),
        }
    };
    ids.get(Kind::Secret, &key, used, ask).await
}

fn refuses(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::InvalidRequest | ErrorKind::Conflict)
}

/// Variables that a build step sees; those that are written in accel.toml become an anonymous secret of the app.
pub(super) async fn build_secret(
    link: &Link,
    ids: &Ids,
    used: &Used,
    app_name: &str,
    wanted: &BuildSecret,
) -> Result<String, Trouble> {
    let pairs = match wanted {
        BuildSecret::Named(named) => return secret(link, ids, used, named).await,
        BuildSecret::Inline(pairs) => pairs,
    };
    let mut key = DigestBuilder::new("modal anonymous secret 1");
    for (name, value) in pairs {
        key.field(name.as_bytes()).field(value.as_bytes());
    }
    let ask = async {
        let request = wire::SecretGetOrCreateRequest {
            object_creation_type: wire::ObjectCreationType::AnonymousOwnedByApp as i32,
            env_dict: pairs.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            app_id: app(link, ids, used, app_name).await?,
            ..Default::default()
        };
        Ok(link.plane.call(client::SECRET_GET_OR_CREATE, request).await?.secret_id)
    };
    ids.get(Kind::Secret, &key.finish().to_string(), used, ask).await
}

/// A volume, made if missing.
pub(super) async fn volume(link: &Link, ids: &Ids, used: &Used, volume: &Volume) -> Result<String, Trouble> {
    let ask = async {
        let request = wire::VolumeGetOrCreateRequest {
            deployment_name: volume.name.clone(),
            environment_name: link.environment(),
            object_creation_type: wire::ObjectCreationType::CreateIfMissing as i32,
            create_options: Some(wire::VolumeCreateOptions::default()),
            ..Default::default()
        };
        match link.plane.call(client::VOLUME_GET_OR_CREATE, request).await {
            Ok(answer) => Ok(answer.volume_id),
            Err(error) if error.kind == ErrorKind::InvalidRequest => {
                Err(refusal::of_volume(volume, &error).into())
            }
            Err(error) => Err(refusal::of_environment(&link.environment(), error)),
        }
    };
    ids.get(Kind::Volume, &volume.name, used, ask).await
}

/// A mount that Modal keeps for everybody.
pub(super) async fn global_mount(link: &Link, ids: &Ids, used: &Used, name: &str) -> Result<String, Trouble> {
    let ask = async {
        let request = wire::MountGetOrCreateRequest {
            deployment_name: name.to_owned(),
            namespace: wire::DeploymentNamespace::Global as i32,
            ..Default::default()
        };
        Ok(link.plane.call(client::MOUNT_GET_OR_CREATE, request).await?.mount_id)
    };
    ids.get(Kind::Mount, name, used, ask).await
}
