//! The control plane: every call finds its place in the books.
//!
//! What a call does lies in [`account`], [`sandboxes`] and [`logs`] here, and in the modules that own images, files and
//! volumes.

mod account;
mod logs;
mod sandboxes;

use std::pin::Pin;
use std::sync::MutexGuard;

use accel::backend::modal::wire::client as wire;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{BoxStream, http};
use tonic::{Request, Response, Status};

use super::generated::client::modal_client_server::ModalClient;
use super::sandbox::Version;
use super::state::{self, State};
use super::{Shared, image, storage};

pub struct ControlPlane(pub Shared);

type Answer<T> = Result<Response<T>, Status>;

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

#[tonic::async_trait]
impl ModalClient for ControlPlane {
    async fn app_get_or_create(
        &self,
        request: Request<wire::AppGetOrCreateRequest>,
    ) -> Answer<wire::AppGetOrCreateResponse> {
        self.open_app(request.into_inner())
    }

    async fn app_create(&self, request: Request<wire::AppCreateRequest>) -> Answer<wire::AppCreateResponse> {
        self.create_app(request.into_inner())
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
        self.apps()
    }

    async fn app_fetch_logs(
        &self,
        request: Request<wire::AppFetchLogsRequest>,
    ) -> Answer<wire::AppFetchLogsResponse> {
        self.past_logs(request.into_inner())
    }

    async fn environment_get_or_create(
        &self,
        request: Request<wire::EnvironmentGetOrCreateRequest>,
    ) -> Answer<wire::EnvironmentGetOrCreateResponse> {
        self.environment(request.into_inner())
    }

    async fn environment_list(&self, _: Request<()>) -> Answer<wire::EnvironmentListResponse> {
        self.environments()
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
        self.rates()
    }

    async fn sandbox_get_stats(
        &self,
        request: Request<wire::SandboxGetStatsRequest>,
    ) -> Answer<wire::SandboxGetStatsResponse> {
        self.stats(request.into_inner())
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
        self.create(request).await
    }

    async fn sandbox_create_v2(
        &self,
        request: Request<wire::SandboxCreateV2Request>,
    ) -> Answer<wire::SandboxCreateV2Response> {
        self.create_v2(request).await
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
        self.rename(request.into_inner())
    }

    async fn sandbox_get_command_router_access(
        &self,
        request: Request<wire::SandboxGetCommandRouterAccessRequest>,
    ) -> Answer<wire::SandboxGetCommandRouterAccessResponse> {
        self.router_access(request.into_inner())
    }

    async fn task_get_command_router_access(
        &self,
        request: Request<wire::TaskGetCommandRouterAccessRequest>,
    ) -> Answer<wire::TaskGetCommandRouterAccessResponse> {
        self.router_access_of_task(request.into_inner().task_id)
    }

    async fn sandbox_stdin_write(
        &self,
        request: Request<wire::SandboxStdinWriteRequest>,
    ) -> Answer<wire::SandboxStdinWriteResponse> {
        self.write_stdin(request.into_inner()).await
    }

    async fn sandbox_get_logs(
        &self,
        request: Request<wire::SandboxGetLogsRequest>,
    ) -> Answer<BoxStream<wire::TaskLogsBatch>> {
        self.follow_logs(request.into_inner())
    }

    async fn sandbox_get_exit_snapshot(
        &self,
        _: Request<wire::SandboxGetExitSnapshotRequest>,
    ) -> Answer<wire::SandboxGetExitSnapshotResponse> {
        self.answer(wire::SandboxGetExitSnapshotResponse::default())
    }
}
