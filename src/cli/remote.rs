//! What rules may ask about Modal: whether a run could use it now, and what it would cost.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use super::account;
use super::ambient::Ambient;
use crate::backend::modal::clock::{Clock as _, SystemClock};
use crate::backend::modal::probe::{Probe, ReadyCache};
use crate::backend::modal::quote::{Prices, Quote};
use crate::backend::modal::{self, rates, warm};
use crate::base::money::Dollars;
use crate::net::NetworkSettings;
use crate::plan::spec::{ModalTarget, Plan, PlannedJob, SandboxSpec, Warm};
use crate::store::{Database, Directories, Journal};
use crate::workspace::facts::Remote;

pub struct ModalFacts {
    variables: BTreeMap<String, String>,
    root: PathBuf,
    target: ModalTarget,
    network: NetworkSettings,
    directories: Directories,
    /// Read when first asked for.
    prices: OnceLock<Prices>,
}

impl ModalFacts {
    pub fn new(plan: &Plan, ambient: &Ambient, directories: Directories) -> Self {
        Self {
            variables: ambient.variables.texts(),
            root: plan.root.clone(),
            target: plan.modal.clone(),
            network: ambient.network(),
            directories,
            prices: OnceLock::new(),
        }
    }

    pub fn quote(&self, spec: &SandboxSpec) -> Quote {
        self.prices().quote(spec)
    }

    /// Those of the workspace where an earlier run was told them, else the published ones.
    pub fn prices(&self) -> &Prices {
        self.prices.get_or_init(|| self.told().unwrap_or_else(Prices::published))
    }

    fn told(&self) -> Option<Prices> {
        let (path, settings) = account::load(&self.variables);
        let settings = settings.ok()?;
        let account = modal::account::account(&settings, settings.require_credentials(&path).ok()?);
        let database = Database::new(self.directories.clone());
        rates::remembered(database, &account, self.target.environment.as_deref())
    }

    /// The answer is remembered for a short while, on disk, for all runs of this account.
    async fn ask(&self) -> Result<(), String> {
        let (path, settings) = account::load(&self.variables);
        let settings = settings.map_err(|error| error.to_string())?;
        let credentials = settings.require_credentials(&path).map_err(|error| error.to_string())?;
        let probe = Probe {
            settings: &settings,
            credentials,
            environment: self.target.environment.as_deref(),
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

impl ModalFacts {
    async fn look_for_warm(&self, job: &PlannedJob) -> Result<(), String> {
        if !matches!(job.warm, Some(Warm::Keep { .. })) || job.spec.tty {
            return Err("the job keeps no sandbox".to_owned());
        }
        let (path, settings) = account::load(&self.variables);
        let settings = settings.map_err(|error| error.to_string())?;
        let credentials = settings.require_credentials(&path).map_err(|error| error.to_string())?;
        let journal = Journal::new(Database::new(self.directories.clone()));
        match warm::is_there(&journal, (&settings, credentials), &self.target, &self.root, &job.spec).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("no sandbox is kept".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Remote for ModalFacts {
    fn remembered_ready(&self) -> Option<Result<(), String>> {
        let (path, settings) = account::load(&self.variables);
        let settings = match settings {
            Ok(settings) => settings,
            Err(error) => return Some(Err(error.to_string())),
        };
        let credentials = match settings.require_credentials(&path) {
            Ok(credentials) => credentials,
            Err(error) => return Some(Err(error.to_string())),
        };
        let cache = ReadyCache::new(self.directories.state_path(), &settings, credentials);
        cache.remembered(SystemClock.now()).map(|answer| answer.map_err(|why| why.detail().to_owned()))
    }

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

    fn warm<'a>(&'a self, job: &'a PlannedJob) -> Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        Box::pin(self.look_for_warm(job))
    }
}
