//! The control plane of the tests' Modal.

use std::sync::{Arc, Mutex, MutexGuard};

use accel::backend::modal::wire::client as wire;
use prost::Message;
use tonic::{Request, Response, Status};

use super::State;
use super::generated::client::modal_client_server::ModalClient;

pub struct ControlPlane(pub Arc<Mutex<State>>);

impl ControlPlane {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn answer<T>(&self, message: T) -> Result<Response<T>, Status> {
        let mut response = Response::new(message);
        for warning in &self.state().warnings {
            response.metadata_mut().append("x-modal-warning", warning.parse().unwrap());
        }
        Ok(response)
    }
}

fn success() -> Option<wire::GenericResult> {
    let status = wire::generic_result::GenericStatus::Success as i32;
    Some(wire::GenericResult { status, ..Default::default() })
}

#[tonic::async_trait]
impl ModalClient for ControlPlane {
    async fn app_get_or_create(
        &self,
        request: Request<wire::AppGetOrCreateRequest>,
    ) -> Result<Response<wire::AppGetOrCreateResponse>, Status> {
        let app_id = self.state().id("ap", request.into_inner().app_name);
        self.answer(wire::AppGetOrCreateResponse { app_id, ..Default::default() })
    }

    async fn environment_get_or_create(
        &self,
        request: Request<wire::EnvironmentGetOrCreateRequest>,
    ) -> Result<Response<wire::EnvironmentGetOrCreateResponse>, Status> {
        let name = request.into_inner().deployment_name;
        let image_builder_version = self.state().builder.clone();
        let settings = wire::EnvironmentSettings { image_builder_version, ..Default::default() };
        let metadata = wire::EnvironmentMetadata { name, settings: Some(settings), ..Default::default() };
        self.answer(wire::EnvironmentGetOrCreateResponse {
            environment_id: "en-1".into(),
            metadata: Some(metadata),
        })
    }

    async fn auth_token_get(
        &self,
        _: Request<wire::AuthTokenGetRequest>,
    ) -> Result<Response<wire::AuthTokenGetResponse>, Status> {
        let token = self.state().token();
        self.answer(wire::AuthTokenGetResponse { token })
    }

    async fn client_hello(&self, _: Request<()>) -> Result<Response<wire::ClientHelloResponse>, Status> {
        let image_builder_version = self.state().builder.clone();
        self.answer(wire::ClientHelloResponse { image_builder_version, ..Default::default() })
    }

    async fn image_get_or_create(
        &self,
        request: Request<wire::ImageGetOrCreateRequest>,
    ) -> Result<Response<wire::ImageGetOrCreateResponse>, Status> {
        let request = request.into_inner();
        let image_id = {
            let mut state = self.state();
            state.image_requests.push(request.clone());
            state.id("im", format!("{:?}", request.encode_to_vec()))
        };
        self.answer(wire::ImageGetOrCreateResponse { image_id, result: success(), ..Default::default() })
    }

    async fn mount_batched_check_existence(
        &self,
        _: Request<wire::MountBatchedCheckExistenceRequest>,
    ) -> Result<Response<wire::MountBatchedCheckExistenceResponse>, Status> {
        self.answer(wire::MountBatchedCheckExistenceResponse::default())
    }

    async fn mount_get_or_create(
        &self,
        request: Request<wire::MountGetOrCreateRequest>,
    ) -> Result<Response<wire::MountGetOrCreateResponse>, Status> {
        let request = request.into_inner();
        let mut files: Vec<_> = request.files.iter().map(|file| format!("{file:?}")).collect();
        files.sort_unstable();
        let mount_id = self.state().id("mo", format!("{} {files:?}", request.deployment_name));
        let handle_metadata = Some(wire::MountHandleMetadata::default());
        self.answer(wire::MountGetOrCreateResponse { mount_id, handle_metadata })
    }

    async fn secret_get_or_create(
        &self,
        request: Request<wire::SecretGetOrCreateRequest>,
    ) -> Result<Response<wire::SecretGetOrCreateResponse>, Status> {
        let request = request.into_inner();
        let name = request.deployment_name.clone();
        let secret_id = self.state().id("st", format!("{name} {:?}", request.env_dict));
        // Enough for a private registry.
        let keys = vec!["REGISTRY_USERNAME".to_owned(), "REGISTRY_PASSWORD".to_owned()];
        let metadata = Some(wire::SecretMetadata { name, keys, ..Default::default() });
        self.answer(wire::SecretGetOrCreateResponse { secret_id, metadata })
    }

    async fn volume_get_or_create(
        &self,
        request: Request<wire::VolumeGetOrCreateRequest>,
    ) -> Result<Response<wire::VolumeGetOrCreateResponse>, Status> {
        let name = request.into_inner().deployment_name;
        let volume_id = self.state().id("vo", name.clone());
        let metadata = Some(wire::VolumeMetadata { name, ..Default::default() });
        self.answer(wire::VolumeGetOrCreateResponse { volume_id, metadata, ..Default::default() })
    }

    async fn sandbox_wait_v2(
        &self,
        _: Request<wire::SandboxWaitRequest>,
    ) -> Result<Response<wire::SandboxWaitResponse>, Status> {
        self.answer(wire::SandboxWaitResponse::default())
    }
}
