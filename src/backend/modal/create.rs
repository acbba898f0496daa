//! The calls that make a sandbox and say how it is reached, in both generations.

use std::sync::Arc;

use super::error::ModalError;
use super::link::Link;
use super::method::client;
use super::router::{Renew, RouterAccess};
use super::settings::Secret;
use super::wire::client as wire;
use crate::store::journal::SandboxKind;

/// What a create call made.
pub(super) struct Created {
    pub(super) sandbox: String,
    pub(super) token: Option<Secret>,
    /// Where it runs, if that was said at once.
    pub(super) task: Option<String>,
    pub(super) access: Option<RouterAccess>,
    pub(super) tunnels: Vec<wire::TunnelData>,
}

pub(super) async fn create(
    link: &Link,
    kind: SandboxKind,
    app_id: String,
    (definition, tags): (wire::Sandbox, Vec<wire::SandboxTag>),
) -> Result<Created, ModalError> {
    match kind {
        SandboxKind::V1 => create_v1(link, app_id, definition, tags).await,
        SandboxKind::V2 => create_v2(link, app_id, definition, tags).await,
    }
}

async fn create_v1(
    link: &Link,
    app_id: String,
    definition: wire::Sandbox,
    tags: Vec<wire::SandboxTag>,
) -> Result<Created, ModalError> {
    let request =
        wire::SandboxCreateRequest { app_id, definition: Some(definition), tags, ..Default::default() };
    let sandbox = named(link.plane.call(client::SANDBOX_CREATE, request).await?.sandbox_id, "SandboxCreate")?;
    Ok(Created { sandbox, token: None, task: None, access: None, tunnels: Vec::new() })
}

async fn create_v2(
    link: &Link,
    app_id: String,
    definition: wire::Sandbox,
    tags: Vec<wire::SandboxTag>,
) -> Result<Created, ModalError> {
    let source =
        |id: &String| wire::SecretSource { source: Some(wire::secret_source::Source::SecretId(id.clone())) };
    let ports = match &definition.open_ports_oneof {
        Some(wire::sandbox::OpenPortsOneof::OpenPorts(ports)) => ports.ports.len(),
        None => 0,
    };
    let request = wire::SandboxCreateV2Request {
        app_id,
        secret_sources: definition.secret_ids.iter().map(source).collect(),
        definition: Some(definition),
        tags,
        ..Default::default()
    };
    let answer = link.plane.call(client::SANDBOX_CREATE_V2, request).await?;
    let sandbox = named(answer.sandbox_id, "SandboxCreateV2")?;
    let access = answer
        .command_router_access
        .map(|access| RouterAccess { url: access.url, jwt: Secret::new(access.jwt) });
    Ok(Created {
        sandbox,
        token: Some(Secret::new(answer.sandbox_token)),
        task: Some(answer.task_id).filter(|task| !task.is_empty()),
        access: access.filter(|access| !access.url.is_empty()),
        // Some of them may not be known yet: then all are asked for.
        tunnels: if answer.tunnels.len() == ports { answer.tunnels } else { Vec::new() },
    })
}

/// Without an id nobody knows what was made: the lease stays an intent, and the sweep looks for its tags.
fn named(sandbox: String, method: &'static str) -> Result<String, ModalError> {
    if sandbox.is_empty() { Err(ModalError::nameless("sandbox", method)) } else { Ok(sandbox) }
}

/// How the router on the sandbox's machine is reached.
pub(super) async fn ask_access(
    link: &Link,
    kind: SandboxKind,
    sandbox: &str,
    task: &str,
) -> Result<RouterAccess, ModalError> {
    let (url, jwt) = match kind {
        SandboxKind::V1 => {
            let request = wire::TaskGetCommandRouterAccessRequest { task_id: task.to_owned() };
            let answer = link.plane.call(client::TASK_GET_COMMAND_ROUTER_ACCESS, request).await?;
            (answer.url, answer.jwt)
        }
        SandboxKind::V2 => {
            let target =
                wire::sandbox_get_command_router_access_request::Target::SandboxId(sandbox.to_owned());
            let request = wire::SandboxGetCommandRouterAccessRequest { target: Some(target) };
            let answer = link.plane.call(client::SANDBOX_GET_COMMAND_ROUTER_ACCESS, request).await?;
            (answer.url, answer.jwt)
        }
    };
    Ok(RouterAccess { url, jwt: Secret::new(jwt) })
}

/// Asks for access again when it has ended.
pub(super) fn renewal(link: &Link, kind: SandboxKind, sandbox: &str, task: &str) -> Renew {
    let (link, sandbox, task) = (link.clone(), sandbox.to_owned(), task.to_owned());
    Arc::new(move || {
        let (link, sandbox, task) = (link.clone(), sandbox.clone(), task.clone());
        Box::pin(async move { ask_access(&link, kind, &sandbox, &task).await })
    })
}
