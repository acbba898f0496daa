//! The control plane: every call finds its place in the books.

use std::pin::Pin;
use std::sync::MutexGuard;
use std::time::Duration;

use accel::backend::modal::wire::client as wire;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{BoxStream, http};
use tonic::{Request, Response, Status};

use super::generated::client::modal_client_server::ModalClient;
use super::process::{Descriptor, Exec};
use super::sandbox::{Create, Death, Sandbox, Version};
use super::state::{self, State, now};
use super::{Shared, image, storage};

pub struct ControlPlane(pub Shared);

type Answer<T> = Result<Response<T>, Status>;

/// Longest that a request is held when it names no time.
const HOLD: Duration = Duration::from_secs(50);

/// Who may call. A client without credentials, or with a token that is not valid any more, may not.
pub fn admit(state: &State, method: &str, headers: &http::HeaderMap) -> Result<(), Status> {
    let header = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let given = header("x-modal-token-id").zip(header("x-modal-token-secret"));
    let wanted = state.credentials.as_ref().map(|(id, secret)| (id.as_str(), secret.as_str()));
    if given.is_none() || wanted.is_some_and(|wanted| given != Some(wanted)) {
        return Err(Status::unauthenticated("Token validation failed: the token is missing or wrong"));
    }
    let guarded = method.starts_with("Sandbox") && method.ends_with("V2")
        || ["SandboxSetName", "SandboxGetCommandRouterAccess"].contains(&method);
    let token = header("x-modal-auth-token");
    if guarded && !token.is_some_and(|token| state.auth_tokens.contains(token)) {
        return Err(Status::unauthenticated("the auth token is missing, unknown or expired"));
    }
    Ok(())
}

impl ControlPlane {
    fn state(&self) -> MutexGuard<'_, State> {
        state::lock(&self.0)
    }

    fn answer<T>(&self, message: T) -> Answer<T> {
        let mut response = Response::new(message);
        for warning in &self.state().warnings {
            response.metadata_mut().append("x-modal-warning", warning.parse().unwrap());
        }
        Ok(response)
    }

    /// Something of a sandbox of this kind.
    fn of<T>(&self, id: &str, version: Version, look: impl FnOnce(&mut Sandbox) -> T) -> Result<T, Status> {
        let mut state = self.state();
        let sandbox = state.sandboxes.get_mut(id).filter(|it| it.version == version && !it.forgotten);
        sandbox.map(look).ok_or_else(|| Status::not_found(format!("Sandbox with ID {id} not found")))
    }

    async fn task_id(
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

    async fn wait(
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

    fn terminate(&self, id: &str, version: Version) -> Answer<wire::SandboxTerminateResponse> {
        let existing_result = self.of(id, version, |it| {
            let before = it.result().borrow().clone();
            it.end(Death::Terminated.result());
            before
        })?;
        self.answer(wire::SandboxTerminateResponse { existing_result })
    }

    fn list(
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

    fn named(
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

    fn tags(&self, id: &str, version: Version) -> Answer<wire::SandboxTagsGetResponse> {
        let tags = self.of(id, version, |it| it.tags.clone())?;
        self.answer(wire::SandboxTagsGetResponse { tags })
    }

    fn set_tags(&self, request: wire::SandboxTagsSetRequest, version: Version) -> Answer<()> {
        self.of(&request.sandbox_id, version, |it| it.tags = request.tags)?;
        self.answer(())
    }

    fn tunnels(&self, id: &str, version: Version) -> Answer<wire::SandboxGetTunnelsResponse> {
        let tunnels = self.of(id, version, |it| tunnels(it))?;
        self.answer(wire::SandboxGetTunnelsResponse { result: None, tunnels })
    }

    fn end_of_app(&self, app_id: &str) {
        for sandbox in self.state().sandboxes.values_mut().filter(|it| it.app_id == app_id) {
            sandbox.end(Death::Terminated.result());
        }
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

/// Answers that come while somebody works on them.
fn stream<T: Send + 'static, F>(
    work: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
) -> Answer<BoxStream<T>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(work(sender));
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver)) as Pin<Box<_>>))
}

/// The output of a main process as batches of log lines.
async fn logs(
    main: std::sync::Arc<Exec>,
    request: wire::SandboxGetLogsRequest,
    answers: mpsc::Sender<Result<wire::TaskLogsBatch, Status>>,
) {
    let descriptor = if request.file_descriptor == 2 { Descriptor::Stderr } else { Descriptor::Stdout };
    let mut offset = request.last_entry_id.parse::<usize>().unwrap_or(0);
    let mut output = main.output(descriptor);
    loop {
        let (text, ended) = {
            let output = output.borrow_and_update();
            let bytes = output.bytes.get(offset..).unwrap_or_default();
            // A character that is not complete yet waits for its end.
            let complete = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
            let complete = if output.ended { bytes.len() } else { complete };
            (String::from_utf8_lossy(&bytes[..complete]).into_owned(), output.ended)
        };
        let finished = text.is_empty() && ended;
        if finished || !text.is_empty() {
            offset += text.len();
            let item = wire::TaskLogs {
                data: text,
                timestamp: now(),
                file_descriptor: request.file_descriptor,
                ..Default::default()
            };
            let entry_id = offset.to_string();
            let batch =
                wire::TaskLogsBatch { items: vec![item], entry_id, eof: finished, ..Default::default() };
            if answers.send(Ok(batch)).await.is_err() || finished {
                return;
            }
            continue;
        }
        if output.changed().await.is_err() {
            return;
        }
    }
}

#[tonic::async_trait]
impl ModalClient for ControlPlane {
    async fn app_get_or_create(
        &self,
        request: Request<wire::AppGetOrCreateRequest>,
    ) -> Answer<wire::AppGetOrCreateResponse> {
        let name = request.into_inner().app_name;
        let app_id = self.state().id("ap", &name);
        self.state().apps.insert(name.clone(), app_id.clone());
        let handle_metadata = wire::AppHandleMetadata {
            description: name,
            app_id: app_id.clone(),
            environment_name: "main".into(),
            ..Default::default()
        };
        self.answer(wire::AppGetOrCreateResponse { app_id, handle_metadata: Some(handle_metadata) })
    }

    async fn app_create(&self, request: Request<wire::AppCreateRequest>) -> Answer<wire::AppCreateResponse> {
        let description = request.into_inner().description;
        let app_id = self.state().new_id("ap");
        self.state().apps.insert(format!("{description} {app_id}"), app_id.clone());
        let app_page_url = format!("https://modal.com/apps/{app_id}");
        self.answer(wire::AppCreateResponse { app_id, app_logs_url: app_page_url.clone(), app_page_url })
    }

    async fn app_publish(&self, _: Request<wire::AppPublishRequest>) -> Answer<wire::AppPublishResponse> {
        self.answer(wire::AppPublishResponse::default())
    }

    async fn app_heartbeat(&self, _: Request<wire::AppHeartbeatRequest>) -> Answer<()> {
        self.answer(())
    }

    async fn app_client_disconnect(&self, request: Request<wire::AppClientDisconnectRequest>) -> Answer<()> {
        self.end_of_app(&request.into_inner().app_id);
        self.answer(())
    }

    async fn app_stop(&self, request: Request<wire::AppStopRequest>) -> Answer<()> {
        self.end_of_app(&request.into_inner().app_id);
        self.answer(())
    }

    async fn app_list(&self, _: Request<wire::AppListRequest>) -> Answer<wire::AppListResponse> {
        let item = |(name, id): (&String, &String)| wire::app_list_response::AppListItem {
            app_id: id.clone(),
            name: name.clone(),
            description: name.clone(),
            ..Default::default()
        };
        let apps = self.state().apps.iter().map(item).collect();
        self.answer(wire::AppListResponse { apps })
    }

    async fn app_fetch_logs(
        &self,
        request: Request<wire::AppFetchLogsRequest>,
    ) -> Answer<wire::AppFetchLogsResponse> {
        let request = request.into_inner();
        let text = {
            let state = self.state();
            let of = |it: &&Sandbox| it.id == request.sandbox_id || it.task_id == request.task_id;
            let main = state.sandboxes.values().find(of).and_then(|it| it.main.clone());
            main.map_or(Vec::new(), |main| main.output(Descriptor::Stdout).borrow().bytes.clone())
        };
        let line = |line: &str| wire::TaskLogs {
            data: line.to_owned(),
            timestamp: now(),
            file_descriptor: 1,
            ..Default::default()
        };
        let items = String::from_utf8_lossy(&text).split_inclusive('\n').map(line).collect();
        let batch = wire::TaskLogsBatch { items, sandbox_id: request.sandbox_id, ..Default::default() };
        self.answer(wire::AppFetchLogsResponse { batches: vec![batch] })
    }

    async fn environment_get_or_create(
        &self,
        request: Request<wire::EnvironmentGetOrCreateRequest>,
    ) -> Answer<wire::EnvironmentGetOrCreateResponse> {
        let asked = request.into_inner().deployment_name;
        let name = if asked.is_empty() { "main".to_owned() } else { asked };
        let (image_builder_version, known) = {
            let state = self.state();
            (state.builder.clone(), state.lenient || state.environments.contains(&name))
        };
        if !known {
            return Err(Status::not_found(format!("Environment '{name}' not found")));
        }
        let settings = wire::EnvironmentSettings { image_builder_version, ..Default::default() };
        let metadata =
            wire::EnvironmentMetadata { name: name.clone(), settings: Some(settings), ..Default::default() };
        let environment_id = self.state().id("en", &name);
        self.answer(wire::EnvironmentGetOrCreateResponse { environment_id, metadata: Some(metadata) })
    }

    async fn environment_list(&self, _: Request<()>) -> Answer<wire::EnvironmentListResponse> {
        let item = |name: &String| wire::EnvironmentListItem {
            name: name.clone(),
            default: name == "main",
            ..Default::default()
        };
        let items = self.state().environments.iter().map(item).collect();
        self.answer(wire::EnvironmentListResponse { items })
    }

    async fn client_hello(&self, _: Request<()>) -> Answer<wire::ClientHelloResponse> {
        let image_builder_version = self.state().builder.clone();
        self.answer(wire::ClientHelloResponse { image_builder_version, ..Default::default() })
    }

    async fn auth_token_get(
        &self,
        _: Request<wire::AuthTokenGetRequest>,
    ) -> Answer<wire::AuthTokenGetResponse> {
        let token = self.state().auth_token();
        self.answer(wire::AuthTokenGetResponse { token })
    }

    async fn workspace_name_lookup(&self, _: Request<()>) -> Answer<wire::WorkspaceNameLookupResponse> {
        let username = self.state().workspace.clone();
        self.answer(wire::WorkspaceNameLookupResponse { username, ..Default::default() })
    }

    async fn workspace_billing_rates(
        &self,
        _: Request<wire::WorkspaceBillingRatesRequest>,
    ) -> Answer<wire::WorkspaceBillingRatesResponse> {
        let rates = self.state().rates.clone().into_iter().collect();
        self.answer(wire::WorkspaceBillingRatesResponse { rates, ..Default::default() })
    }

    async fn sandbox_get_stats(
        &self,
        request: Request<wire::SandboxGetStatsRequest>,
    ) -> Answer<wire::SandboxGetStatsResponse> {
        let id = request.into_inner().sandbox_id;
        let created_at = self.state().sandboxes.get(&id).map(|it| it.created_at);
        let created_at = created_at.ok_or_else(|| Status::not_found("Sandbox not found"))?;
        let hours = (now() - created_at) / 3600.0;
        let cost = Some(format!("{:.6}", hours * 0.2));
        self.answer(wire::SandboxGetStatsResponse { cost, duration_hours: hours, ..Default::default() })
    }

    async fn sandbox_get_resource_usage(
        &self,
        _: Request<wire::SandboxGetResourceUsageRequest>,
    ) -> Answer<wire::SandboxGetResourceUsageResponse> {
        self.answer(wire::SandboxGetResourceUsageResponse::default())
    }

    async fn image_get_or_create(
        &self,
        request: Request<wire::ImageGetOrCreateRequest>,
    ) -> Answer<wire::ImageGetOrCreateResponse> {
        let response = image::get_or_create(&mut self.state(), request.into_inner())?;
        self.answer(response)
    }

    async fn image_join_streaming(
        &self,
        request: Request<wire::ImageJoinStreamingRequest>,
    ) -> Answer<BoxStream<wire::ImageJoinStreamingResponse>> {
        let (shared, request) = (self.0.clone(), request.into_inner());
        stream(|answers| image::join(shared, request, answers))
    }

    async fn image_from_id(
        &self,
        request: Request<wire::ImageFromIdRequest>,
    ) -> Answer<wire::ImageFromIdResponse> {
        let response = image::from_id(&self.state(), &request.into_inner().image_id)?;
        self.answer(response)
    }

    async fn image_delete(&self, request: Request<wire::ImageDeleteRequest>) -> Answer<()> {
        let id = request.into_inner().image_id;
        self.state().images.remove(&id).ok_or_else(|| Status::not_found("Image not found"))?;
        self.answer(())
    }

    async fn mount_batched_check_existence(
        &self,
        request: Request<wire::MountBatchedCheckExistenceRequest>,
    ) -> Answer<wire::MountBatchedCheckExistenceResponse> {
        let response = storage::check_existence(&self.state(), &request.into_inner());
        self.answer(response)
    }

    async fn mount_put_file(
        &self,
        request: Request<wire::MountPutFileRequest>,
    ) -> Answer<wire::MountPutFileResponse> {
        let response = storage::put_file(&mut self.state(), request.into_inner())?;
        self.answer(response)
    }

    async fn mount_get_or_create(
        &self,
        request: Request<wire::MountGetOrCreateRequest>,
    ) -> Answer<wire::MountGetOrCreateResponse> {
        let response = storage::mount(&mut self.state(), request.into_inner())?;
        self.answer(response)
    }

    async fn blob_create(
        &self,
        request: Request<wire::BlobCreateRequest>,
    ) -> Answer<wire::BlobCreateResponse> {
        let response = storage::blob(&mut self.state(), &request.into_inner());
        self.answer(response)
    }

    async fn blob_get(&self, request: Request<wire::BlobGetRequest>) -> Answer<wire::BlobGetResponse> {
        let download_url = self.state().blob_url(&format!("blob/{}", request.into_inner().blob_id));
        self.answer(wire::BlobGetResponse { download_url })
    }

    async fn secret_get_or_create(
        &self,
        request: Request<wire::SecretGetOrCreateRequest>,
    ) -> Answer<wire::SecretGetOrCreateResponse> {
        let response = storage::secret(&mut self.state(), request.into_inner())?;
        self.answer(response)
    }

    async fn secret_list(&self, _: Request<wire::SecretListRequest>) -> Answer<wire::SecretListResponse> {
        let item = |name: &String| wire::SecretListItem { label: name.clone(), ..Default::default() };
        let items = self.state().named_secrets.keys().map(item).collect();
        self.answer(wire::SecretListResponse { items, ..Default::default() })
    }

    async fn volume_get_or_create(
        &self,
        request: Request<wire::VolumeGetOrCreateRequest>,
    ) -> Answer<wire::VolumeGetOrCreateResponse> {
        let response = storage::volume(&mut self.state(), request.into_inner())?;
        self.answer(response)
    }

    async fn volume_list(&self, _: Request<wire::VolumeListRequest>) -> Answer<wire::VolumeListResponse> {
        let state = self.state();
        let item = |(id, volume): (&String, &state::Volume)| wire::VolumeListItem {
            label: volume.name.clone(),
            volume_id: id.clone(),
            ..Default::default()
        };
        let items = state.volumes.iter().map(item).collect();
        drop(state);
        self.answer(wire::VolumeListResponse { items, ..Default::default() })
    }

    async fn volume_list_files(
        &self,
        request: Request<wire::VolumeListFilesRequest>,
    ) -> Answer<BoxStream<wire::VolumeListFilesResponse>> {
        let request = request.into_inner();
        let entries =
            storage::volume_files(&self.state(), &request.volume_id, &request.path, request.recursive)?;
        stream(|answers| async move {
            let _ = answers.send(Ok(wire::VolumeListFilesResponse { entries })).await;
        })
    }

    async fn volume_list_files2(
        &self,
        request: Request<wire::VolumeListFiles2Request>,
    ) -> Answer<BoxStream<wire::VolumeListFiles2Response>> {
        let request = request.into_inner();
        let entries =
            storage::volume_files(&self.state(), &request.volume_id, &request.path, request.recursive)?;
        stream(|answers| async move {
            let _ = answers.send(Ok(wire::VolumeListFiles2Response { entries })).await;
        })
    }

    async fn volume_get_file2(
        &self,
        request: Request<wire::VolumeGetFile2Request>,
    ) -> Answer<wire::VolumeGetFile2Response> {
        let response = storage::volume_file(&self.state(), &request.into_inner())?;
        self.answer(response)
    }

    async fn volume_put_files(&self, request: Request<wire::VolumePutFilesRequest>) -> Answer<()> {
        storage::put_volume_files(&self.state(), &request.into_inner())?;
        self.answer(())
    }

    async fn volume_put_files2(
        &self,
        request: Request<wire::VolumePutFiles2Request>,
    ) -> Answer<wire::VolumePutFiles2Response> {
        let response = storage::put_volume_blocks(&self.state(), &request.into_inner())?;
        self.answer(response)
    }

    async fn volume_remove_file(&self, request: Request<wire::VolumeRemoveFileRequest>) -> Answer<()> {
        let request = request.into_inner();
        storage::remove_volume_file(&self.state(), &request.volume_id, &request.path)?;
        self.answer(())
    }

    async fn volume_remove_file2(&self, request: Request<wire::VolumeRemoveFile2Request>) -> Answer<()> {
        let request = request.into_inner();
        storage::remove_volume_file(&self.state(), &request.volume_id, &request.path)?;
        self.answer(())
    }

    async fn proxy_get(&self, request: Request<wire::ProxyGetRequest>) -> Answer<wire::ProxyGetResponse> {
        let name = request.into_inner().name;
        let proxy_id = self.state().id("pr", &name);
        self.answer(wire::ProxyGetResponse {
            proxy: Some(wire::Proxy { name, proxy_id, ..Default::default() }),
        })
    }

    async fn sandbox_create(
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

    async fn sandbox_create_v2(
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

    async fn sandbox_get_task_id(
        &self,
        request: Request<wire::SandboxGetTaskIdRequest>,
    ) -> Answer<wire::SandboxGetTaskIdResponse> {
        self.task_id(request.into_inner(), Version::V1).await
    }

    async fn sandbox_wait(
        &self,
        request: Request<wire::SandboxWaitRequest>,
    ) -> Answer<wire::SandboxWaitResponse> {
        self.wait(request.into_inner(), Version::V1).await
    }

    async fn sandbox_terminate(
        &self,
        request: Request<wire::SandboxTerminateRequest>,
    ) -> Answer<wire::SandboxTerminateResponse> {
        self.terminate(&request.into_inner().sandbox_id, Version::V1)
    }

    async fn sandbox_get_from_name(
        &self,
        request: Request<wire::SandboxGetFromNameRequest>,
    ) -> Answer<wire::SandboxGetFromNameResponse> {
        self.named(&request.into_inner(), Version::V1)
    }

    async fn sandbox_list(
        &self,
        request: Request<wire::SandboxListRequest>,
    ) -> Answer<wire::SandboxListResponse> {
        self.list(&request.into_inner(), &[Version::V1])
    }

    async fn sandbox_tags_get(
        &self,
        request: Request<wire::SandboxTagsGetRequest>,
    ) -> Answer<wire::SandboxTagsGetResponse> {
        self.tags(&request.into_inner().sandbox_id, Version::V1)
    }

    async fn sandbox_tags_set(&self, request: Request<wire::SandboxTagsSetRequest>) -> Answer<()> {
        self.set_tags(request.into_inner(), Version::V1)
    }

    async fn sandbox_get_tunnels(
        &self,
        request: Request<wire::SandboxGetTunnelsRequest>,
    ) -> Answer<wire::SandboxGetTunnelsResponse> {
        self.tunnels(&request.into_inner().sandbox_id, Version::V1)
    }

    async fn sandbox_get_task_id_v2(
        &self,
        request: Request<wire::SandboxGetTaskIdRequest>,
    ) -> Answer<wire::SandboxGetTaskIdResponse> {
        self.task_id(request.into_inner(), Version::V2).await
    }

    async fn sandbox_wait_v2(
        &self,
        request: Request<wire::SandboxWaitRequest>,
    ) -> Answer<wire::SandboxWaitResponse> {
        self.wait(request.into_inner(), Version::V2).await
    }

    async fn sandbox_terminate_v2(
        &self,
        request: Request<wire::SandboxTerminateRequest>,
    ) -> Answer<wire::SandboxTerminateResponse> {
        self.terminate(&request.into_inner().sandbox_id, Version::V2)
    }

    async fn sandbox_get_from_name_v2(
        &self,
        request: Request<wire::SandboxGetFromNameRequest>,
    ) -> Answer<wire::SandboxGetFromNameResponse> {
        self.named(&request.into_inner(), Version::V2)
    }

    async fn sandbox_list_v2(
        &self,
        request: Request<wire::SandboxListRequest>,
    ) -> Answer<wire::SandboxListResponse> {
        self.list(&request.into_inner(), &[Version::V1, Version::V2])
    }

    async fn sandbox_tags_get_v2(
        &self,
        request: Request<wire::SandboxTagsGetRequest>,
    ) -> Answer<wire::SandboxTagsGetResponse> {
        self.tags(&request.into_inner().sandbox_id, Version::V2)
    }

    async fn sandbox_tags_set_v2(&self, request: Request<wire::SandboxTagsSetRequest>) -> Answer<()> {
        self.set_tags(request.into_inner(), Version::V2)
    }

    async fn sandbox_get_tunnels_v2(
        &self,
        request: Request<wire::SandboxGetTunnelsRequest>,
    ) -> Answer<wire::SandboxGetTunnelsResponse> {
        self.tunnels(&request.into_inner().sandbox_id, Version::V2)
    }

    async fn sandbox_set_name(
        &self,
        request: Request<wire::SandboxSetNameRequest>,
    ) -> Answer<wire::SandboxSetNameResponse> {
        let request = request.into_inner();
        self.of(&request.sandbox_id, Version::V2, |it| it.definition.name = Some(request.name))?;
        self.answer(wire::SandboxSetNameResponse {})
    }

    async fn sandbox_get_command_router_access(
        &self,
        request: Request<wire::SandboxGetCommandRouterAccessRequest>,
    ) -> Answer<wire::SandboxGetCommandRouterAccessResponse> {
        use wire::sandbox_get_command_router_access_request::Target;
        let target = request.into_inner().target;
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

    async fn task_get_command_router_access(
        &self,
        request: Request<wire::TaskGetCommandRouterAccessRequest>,
    ) -> Answer<wire::TaskGetCommandRouterAccessResponse> {
        let task_id = request.into_inner().task_id;
        let mut state = self.state();
        if !state.sandboxes.values().any(|it| it.task_id == task_id && !it.forgotten) {
            return Err(Status::not_found("Task not found"));
        }
        let (jwt, url) = (state.router_token_for(&task_id), state.router_url());
        drop(state);
        self.answer(wire::TaskGetCommandRouterAccessResponse { jwt, url })
    }

    async fn sandbox_stdin_write(
        &self,
        request: Request<wire::SandboxStdinWriteRequest>,
    ) -> Answer<wire::SandboxStdinWriteResponse> {
        let request = request.into_inner();
        let main = self.of(&request.sandbox_id, Version::V1, |it| it.main.clone())?;
        let main = main.ok_or_else(|| Status::failed_precondition("the sandbox has no command"))?;
        let (written, _) = main.stdin_status();
        main.write(written, &request.input, request.eof).await;
        self.answer(wire::SandboxStdinWriteResponse {})
    }

    async fn sandbox_get_logs(
        &self,
        request: Request<wire::SandboxGetLogsRequest>,
    ) -> Answer<BoxStream<wire::TaskLogsBatch>> {
        let request = request.into_inner();
        let mut state = self.state();
        let sandbox = state.sandboxes.get_mut(&request.sandbox_id);
        let main = sandbox.ok_or_else(|| Status::not_found("Sandbox not found"))?.main.clone();
        drop(state);
        let hold = if request.timeout > 0.0 { Duration::from_secs_f32(request.timeout) } else { HOLD };
        stream(|answers| async move {
            match main {
                Some(main) => {
                    let _ = tokio::time::timeout(hold, logs(main, request, answers)).await;
                }
                None => {
                    let batch = wire::TaskLogsBatch { eof: true, ..Default::default() };
                    let _ = answers.send(Ok(batch)).await;
                }
            }
        })
    }

    async fn sandbox_get_exit_snapshot(
        &self,
        _: Request<wire::SandboxGetExitSnapshotRequest>,
    ) -> Answer<wire::SandboxGetExitSnapshotResponse> {
        self.answer(wire::SandboxGetExitSnapshotResponse::default())
    }
}
