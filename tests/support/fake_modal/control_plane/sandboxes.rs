//! Creating, finding, awaiting and ending sandboxes.

use std::time::Duration;

use accel::backend::modal::wire::client as wire;
use tonic::{Request, Status};

use super::super::sandbox::{Create, Death, Sandbox, Version};
use super::super::state::now;
use super::{Answer, ControlPlane};

impl ControlPlane {
    pub(super) fn stats(
        &self,
        request: wire::SandboxGetStatsRequest,
    ) -> Answer<wire::SandboxGetStatsResponse> {
        let id = request.sandbox_id;
        let created_at = self.state().sandboxes.get(&id).map(|it| it.created_at);
        let created_at = created_at.ok_or_else(|| Status::not_found("Sandbox not found"))?;
        let hours = (now() - created_at) / 3600.0;
        let cost = Some(format!("{:.6}", hours * 0.2));
        self.answer(wire::SandboxGetStatsResponse { cost, duration_hours: hours, ..Default::default() })
    }

    pub(super) async fn create(
        &self,
        request: Request<wire::SandboxCreateRequest>,
    ) -> Answer<wire::SandboxCreateResponse> {
        let key = key(&request);
        let request = request.into_inner();
        let app_id = request.app_id.clone();
        let create = Create {
            version: Version::V1,
            app_id: request.app_id,
            definition: request.definition.unwrap_or_default(),
            tags: request.tags,
            sources: Vec::new(),
            key,
        };
        let sandbox_id = create.apply(&self.0).await?;
        let metadata = Some(wire::SandboxHandleMetadata { result: None, app_id });
        self.answer(wire::SandboxCreateResponse { sandbox_id, metadata })
    }

    pub(super) async fn create_v2(
        &self,
        request: Request<wire::SandboxCreateV2Request>,
    ) -> Answer<wire::SandboxCreateV2Response> {
        let key = key(&request);
        let request = request.into_inner();
        let app_id = request.app_id.clone();
        let mut sources = request.secret_sources;
        let older = request.ephemeral_secrets.map(wire::secret_source::Source::Env);
        sources.extend(older.map(|source| wire::SecretSource { source: Some(source) }));
        let create = Create {
            version: Version::V2,
            app_id: request.app_id,
            definition: request.definition.unwrap_or_default(),
            tags: request.tags,
            sources,
            key,
        };
        let sandbox_id = create.apply(&self.0).await?;
        // It answers when the sandbox has its place.
        let (mut placed, mut ended) = self.of(&sandbox_id, Version::V2, |it| (it.placed(), it.result()))?;
        tokio::select! {
            _ = placed.wait_for(|placed| *placed) => {}
            _ = ended.wait_for(Option::is_some) => {}
        }
        let (task_id, tunnels) = self.of(&sandbox_id, Version::V2, |it| (it.task_id.clone(), tunnels(it)))?;
        let (jwt, url) = {
            let mut state = self.state();
            (state.router_token_for(&task_id), state.router_url())
        };
        self.answer(wire::SandboxCreateV2Response {
            sandbox_token: format!("token of {sandbox_id}"),
            sandbox_id,
            tunnels,
            task_id,
            metadata: Some(wire::SandboxHandleMetadata { result: None, app_id }),
            command_router_access: Some(wire::CommandRouterAccess { jwt, url }),
        })
    }

    pub(super) fn rename(
        &self,
        request: wire::SandboxSetNameRequest,
    ) -> Answer<wire::SandboxSetNameResponse> {
        self.of(&request.sandbox_id, Version::V2, |it| it.definition.name = Some(request.name))?;
        self.answer(wire::SandboxSetNameResponse {})
    }

    pub(super) fn router_access(
        &self,
        request: wire::SandboxGetCommandRouterAccessRequest,
    ) -> Answer<wire::SandboxGetCommandRouterAccessResponse> {
        use wire::sandbox_get_command_router_access_request::Target;
        let target = request.target;
        let mut state = self.state();
        let found = state.sandboxes.values().find(|it| match &target {
            Some(Target::SandboxId(id)) => it.id == *id,
            Some(Target::TaskId(id)) => it.task_id == *id,
            None => false,
        });
        let found = found.filter(|it| !it.forgotten).ok_or_else(|| Status::not_found("Sandbox not found"))?;
        if found.result().borrow().is_some() {
            return Err(Status::failed_precondition("Sandbox has already finished"));
        }
        let task_id = found.task_id.clone();
        let (jwt, url) = (state.router_token_for(&task_id), state.router_url());
        drop(state);
        self.answer(wire::SandboxGetCommandRouterAccessResponse { jwt, url, ..Default::default() })
    }

    pub(super) fn router_access_of_task(
        &self,
        task_id: String,
    ) -> Answer<wire::TaskGetCommandRouterAccessResponse> {
        let mut state = self.state();
        if !state.sandboxes.values().any(|it| it.task_id == task_id && !it.forgotten) {
            return Err(Status::not_found("Task not found"));
        }
        let (jwt, url) = (state.router_token_for(&task_id), state.router_url());
        drop(state);
        self.answer(wire::TaskGetCommandRouterAccessResponse { jwt, url })
    }

    pub(super) async fn write_stdin(
        &self,
        request: wire::SandboxStdinWriteRequest,
    ) -> Answer<wire::SandboxStdinWriteResponse> {
        let main = self.of(&request.sandbox_id, Version::V1, |it| it.main.clone())?;
        let main = main.ok_or_else(|| Status::failed_precondition("the sandbox has no command"))?;
        let (written, _) = main.stdin_status();
        main.write(written, &request.input, request.eof).await;
        self.answer(wire::SandboxStdinWriteResponse {})
    }

    /// Something of a sandbox of this kind.
    pub(super) fn of<T>(
        &self,
        id: &str,
        version: Version,
        look: impl FnOnce(&mut Sandbox) -> T,
    ) -> Result<T, Status> {
        let mut state = self.state();
        let sandbox = state.sandboxes.get_mut(id).filter(|it| it.version == version && !it.forgotten);
        sandbox.map(look).ok_or_else(|| Status::not_found(format!("Sandbox with ID {id} not found")))
    }

    pub(super) async fn task_id(
        &self,
        request: wire::SandboxGetTaskIdRequest,
        version: Version,
    ) -> Answer<wire::SandboxGetTaskIdResponse> {
        let (mut placed, mut ended) =
            self.of(&request.sandbox_id, version, |it| (it.placed(), it.result()))?;
        if let Some(hold) = request.timeout {
            let either = async {
                tokio::select! {
                    _ = placed.wait_for(|placed| *placed) => {}
                    _ = ended.wait_for(Option::is_some) => {}
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs_f32(hold), either).await;
        }
        let task_result = ended.borrow().clone();
        let placed = *placed.borrow();
        let task_id = self.of(&request.sandbox_id, version, |it| placed.then(|| it.task_id.clone()))?;
        self.answer(wire::SandboxGetTaskIdResponse { task_id, task_result })
    }

    pub(super) async fn wait(
        &self,
        request: wire::SandboxWaitRequest,
        version: Version,
    ) -> Answer<wire::SandboxWaitResponse> {
        let (mut result, app_id) =
            self.of(&request.sandbox_id, version, |it| (it.result(), it.app_id.clone()))?;
        let hold = Duration::from_secs_f32(request.timeout);
        let _ = tokio::time::timeout(hold, result.wait_for(Option::is_some)).await;
        let result = result.borrow().clone().unwrap_or_default();
        let metadata = Some(wire::SandboxHandleMetadata { result: None, app_id });
        self.answer(wire::SandboxWaitResponse { result: Some(result), metadata })
    }

    pub(super) fn terminate(&self, id: &str, version: Version) -> Answer<wire::SandboxTerminateResponse> {
        let existing_result = self.of(id, version, |it| {
            let before = it.result().borrow().clone();
            it.end(Death::Terminated.result());
            before
        })?;
        self.answer(wire::SandboxTerminateResponse { existing_result })
    }

    pub(super) fn list(
        &self,
        request: &wire::SandboxListRequest,
        versions: &[Version],
    ) -> Answer<wire::SandboxListResponse> {
        let state = self.state();
        let matches = |it: &&Sandbox| {
            versions.contains(&it.version)
                && !it.forgotten
                && (request.app_id.is_empty() || it.app_id == request.app_id)
                && (request.include_finished || it.result().borrow().is_none())
                && (request.before_timestamp == 0.0 || it.created_at < request.before_timestamp)
                && request.tags.iter().all(|tag| it.tags.contains(tag))
        };
        let mut found: Vec<_> = state.sandboxes.values().filter(matches).collect();
        found.sort_by(|a, b| b.created_at.total_cmp(&a.created_at));
        let sandboxes = found.into_iter().take(state.page).map(info).collect();
        drop(state);
        self.answer(wire::SandboxListResponse { sandboxes })
    }

    pub(super) fn named(
        &self,
        request: &wire::SandboxGetFromNameRequest,
        version: Version,
    ) -> Answer<wire::SandboxGetFromNameResponse> {
        let state = self.state();
        let app = state.apps.get(&request.app_name);
        let found = state.sandboxes.values().find(|it| {
            it.version == version
                && Some(&it.app_id) == app
                && it.definition.name.as_ref() == Some(&request.sandbox_name)
                && (request.include_terminated || it.result().borrow().is_none())
        });
        let found = found.ok_or_else(|| Status::not_found("Sandbox not found"))?;
        let metadata = wire::SandboxHandleMetadata {
            result: found.result().borrow().clone(),
            app_id: found.app_id.clone(),
        };
        let sandbox_id = found.id.clone();
        drop(state);
        self.answer(wire::SandboxGetFromNameResponse { sandbox_id, metadata: Some(metadata) })
    }

    pub(super) fn tags(&self, id: &str, version: Version) -> Answer<wire::SandboxTagsGetResponse> {
        let tags = self.of(id, version, |it| it.tags.clone())?;
        self.answer(wire::SandboxTagsGetResponse { tags })
    }

    pub(super) fn set_tags(&self, request: wire::SandboxTagsSetRequest, version: Version) -> Answer<()> {
        self.of(&request.sandbox_id, version, |it| it.tags = request.tags)?;
        self.answer(())
    }

    pub(super) fn tunnels(&self, id: &str, version: Version) -> Answer<wire::SandboxGetTunnelsResponse> {
        let tunnels = self.of(id, version, |it| tunnels(it))?;
        self.answer(wire::SandboxGetTunnelsResponse { result: None, tunnels })
    }
}

/// Commands listen on this machine, so an unencrypted tunnel leads to them; an encrypted one is only an address.
fn tunnels(sandbox: &Sandbox) -> Vec<wire::TunnelData> {
    let ports = match &sandbox.definition.open_ports_oneof {
        Some(wire::sandbox::OpenPortsOneof::OpenPorts(ports)) => ports.ports.clone(),
        None => Vec::new(),
    };
    let tunnel = |port: &wire::PortSpec| wire::TunnelData {
        host: format!("{}-{}.w.modal.host", sandbox.task_id.to_lowercase(), port.port),
        port: 443,
        unencrypted_host: port.unencrypted.then(|| "127.0.0.1".to_owned()),
        unencrypted_port: port.unencrypted.then_some(port.port),
        container_port: port.port,
    };
    ports.iter().map(tunnel).collect()
}

fn info(sandbox: &Sandbox) -> wire::SandboxInfo {
    let result = sandbox.result().borrow().clone();
    let definition = &sandbox.definition;
    wire::SandboxInfo {
        id: sandbox.id.clone(),
        created_at: sandbox.created_at,
        task_info: Some(wire::TaskInfo {
            id: sandbox.task_id.clone(),
            started_at: sandbox.created_at,
            result: result.clone(),
            sandbox_id: sandbox.id.clone(),
            ..Default::default()
        }),
        app_id: sandbox.app_id.clone(),
        tags: sandbox.tags.clone(),
        name: definition.name.clone().unwrap_or_default(),
        image_id: definition.image_id.clone(),
        timeout_secs: definition.timeout_secs,
        idle_timeout_secs: definition.idle_timeout_secs,
        tunnels: tunnels(sandbox),
        metadata: Some(wire::SandboxHandleMetadata { result, app_id: sandbox.app_id.clone() }),
        ..Default::default()
    }
}

fn key<T>(request: &Request<T>) -> Option<String> {
    request.metadata().get("x-idempotency-key")?.to_str().ok().map(str::to_owned)
}
