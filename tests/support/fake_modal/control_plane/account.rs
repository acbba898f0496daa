//! Apps, environments and rates of the workspace.

use accel::backend::modal::wire::client as wire;
use tonic::Status;

use super::super::sandbox::Death;
use super::{Answer, ControlPlane};

impl ControlPlane {
    pub(super) fn open_app(
        &self,
        request: wire::AppGetOrCreateRequest,
    ) -> Answer<wire::AppGetOrCreateResponse> {
        let (name, environment) = (request.app_name, request.environment_name);
        if !self.state().knows_environment(&environment) {
            return Err(Status::not_found(format!("Environment '{environment}' not found")));
        }
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

    pub(super) fn create_app(&self, request: wire::AppCreateRequest) -> Answer<wire::AppCreateResponse> {
        let description = request.description;
        let app_id = self.state().new_id("ap");
        self.state().apps.insert(format!("{description} {app_id}"), app_id.clone());
        let app_page_url = format!("https://modal.com/apps/{app_id}");
        self.answer(wire::AppCreateResponse { app_id, app_logs_url: app_page_url.clone(), app_page_url })
    }

    pub(super) fn apps(&self) -> Answer<wire::AppListResponse> {
        let item = |(name, id): (&String, &String)| wire::app_list_response::AppListItem {
            app_id: id.clone(),
            name: name.clone(),
            description: name.clone(),
            ..Default::default()
        };
        let apps = self.state().apps.iter().map(item).collect();
        self.answer(wire::AppListResponse { apps })
    }

    pub(super) fn environment(
        &self,
        request: wire::EnvironmentGetOrCreateRequest,
    ) -> Answer<wire::EnvironmentGetOrCreateResponse> {
        let asked = request.deployment_name;
        let name = if asked.is_empty() { "main".to_owned() } else { asked };
        let (image_builder_version, known) = {
            let state = self.state();
            (state.builder.clone(), state.knows_environment(&name))
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

    pub(super) fn environments(&self) -> Answer<wire::EnvironmentListResponse> {
        let item = |name: &String| wire::EnvironmentListItem {
            name: name.clone(),
            default: name == "main",
            ..Default::default()
        };
        let items = self.state().environments.iter().map(item).collect();
        self.answer(wire::EnvironmentListResponse { items })
    }

    pub(super) fn rates(&self) -> Answer<wire::WorkspaceBillingRatesResponse> {
        let rates = self.state().rates.clone().into_iter().collect();
        self.answer(wire::WorkspaceBillingRatesResponse { rates, ..Default::default() })
    }

    pub(super) fn end_of_app(&self, app_id: &str) {
        for sandbox in self.state().sandboxes.values_mut().filter(|it| it.app_id == app_id) {
            sandbox.end(Death::Terminated.result());
        }
    }
}
