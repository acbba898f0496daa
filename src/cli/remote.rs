//! What rules may ask about Modal: whether a run could use it now, and what it would cost.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use super::account;
use super::ambient::Ambient;
use crate::backend::modal::clock::SystemClock;
use crate::backend::modal::probe::{Probe, ReadyCache};
use crate::backend::modal::quote::{Prices, Quote};
use crate::base::money::Dollars;
use crate::net::NetworkSettings;
use crate::plan::spec::{Plan, SandboxSpec};
use crate::store::Directories;
use crate::workspace::facts::Remote;

pub struct ModalFacts {
    variables: BTreeMap<String, String>,
    environment: Option<String>,
    network: NetworkSettings,
    directories: Directories,
    /// Read when first asked for.
    prices: OnceLock<Prices>,
}

impl ModalFacts {
    pub fn new(plan: &Plan, ambient: &Ambient, directories: Directories) -> Self {
        Self {
            variables: ambient.variables.texts(),
            environment: plan.modal.environment.clone(),
            network: ambient.network(),
            directories,
            prices: OnceLock::new(),
        }
    }

    pub fn quote(&self, spec: &SandboxSpec) -> Quote {
        self.prices.get_or_init(Prices::published).quote(spec)
    }

    /// The answer is remembered for a short while, on disk, for all runs of this account.
    async fn ask(&self) -> Result<(), String> {
        let (path, settings) = account::load(&self.variables);
        let settings = settings.map_err(|error| error.to_string())?;
        let credentials = settings.require_credentials(&path).map_err(|error| error.to_string())?;
        let probe = Probe {
            settings: &settings,
            credentials,
            environment: self.environment.as_deref(),
            network: &self.network,
            machine: &account::machine(),
            clock: Arc::new(SystemClock),
        };
        let answer = match self.directories.open_state() {
            Ok(folder) => ReadyCache::new(folder, &settings, credentials).ready(&probe).await,
            Err(_) => probe.ready().await,
        };
        answer.map_err(|why| why.detail().to_owned())
    }
}

impl Remote for ModalFacts {
    fn ready(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + '_>> {
        Box::pin(self.ask())
    }

    fn per_hour(&self, spec: &SandboxSpec) -> Result<Dollars, String> {
        let quote = self.quote(spec);
        match &quote.unpriced {
            Some(gpu) => Err(format!("the price of {gpu} is not known")),
            None => Ok(quote.per_hour),
        }
    }
}
