//! The way to Modal's servers: what needs the user's account, and nothing of a project.
//!
//! Opening it may begin before anybody knows what is wanted of it: nothing is sent over it, and no credential is used.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::clock::Clock;
use super::connect::{ConnectBudget, Connector, Proxies};
use super::connection::Connection;
use super::error::ModalError;
use super::settings::Settings;
use super::trouble::Trouble;
use crate::backend::Failure;
use crate::domain::Cause;
use crate::net::{NetworkError, NetworkSettings};

/// An open way.
pub(super) struct Way {
    pub(super) connector: Connector,
    pub(super) connection: Connection,
}

impl Way {
    pub(super) async fn open(
        settings: &Settings,
        network: &NetworkSettings,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, Trouble> {
        let proxies = if settings.disable_api_proxy { Proxies::Ignored } else { Proxies::Used };
        let connector = Connector::new(network, proxies).map_err(|error| no_network(&error))?;
        let connection = connector
            .connect(&settings.server_url, ConnectBudget::CONTROL_PLANE, clock)
            .await
            .map_err(|error| ModalError::new((&error).into(), "connect", error.to_string()))?;
        Ok(Self { connector, connection })
    }
}

pub(super) fn no_network(error: &NetworkError) -> Failure {
    Failure::new(Cause::Unreachable, error.to_string())
        .help("correct the variable, or run locally: --on local")
}

/// A way that is being opened. Whoever drops it gives it up.
#[derive(Clone)]
pub struct OpeningWay(Arc<Mutex<Option<Opening>>>);

type Opening = AbortOnDropHandle<Result<Way, Trouble>>;

impl OpeningWay {
    /// Begins on the runtime that later uses the way: connections live on the one that made them.
    pub(super) fn begin(
        settings: Settings,
        network: NetworkSettings,
        clock: Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Self {
        let opening = runtime.spawn(async move { Way::open(&settings, &network, &clock).await });
        Self(Arc::new(Mutex::new(Some(AbortOnDropHandle::new(opening)))))
    }

    /// What came of it, for the first who asks. `None` for those who have to open a way of their own.
    pub(super) async fn take(&self) -> Option<Result<Way, Trouble>> {
        let opening = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        opening?.await.ok()
    }
}
