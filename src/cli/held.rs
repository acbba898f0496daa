//! What accel holds on Modal, for the commands about it: the journal of this machine, and the account to ask.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::Failure;
use crate::backend::modal::account::account as account_word;
use crate::backend::modal::clock::{Clock, SystemClock};
use crate::backend::modal::connect::{Connector, Proxies};
use crate::backend::modal::control_plane::{ControlPlane, Notice};
use crate::backend::modal::error::ModalError;
use crate::backend::modal::sweep::{SweepError, Sweeper};
use crate::plan;
use crate::plan::spec::BudgetLimits;
use crate::store::journal::JournalError;
use crate::store::runs::Runs;
use crate::store::{Database, DatabaseError, History, Journal, Ledger};

use super::account;
use super::context::Context;
use super::error::CommandError;
use super::printer::Printer;
use super::project::Project;

/// How long these commands try to reach the server.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The state of this machine; nothing is opened yet.
pub struct Held {
    pub journal: Journal,
    pub runs: Runs,
    pub history: History,
    pub ledger: Ledger,
    /// Name of the project that the command works in, where there is one.
    pub project: Option<String>,
    /// What its `[budget]` says.
    pub limits: BudgetLimits,
    environment: Option<String>,
}

impl Held {
    pub fn here(context: &Context<'_>) -> Result<Self, CommandError> {
        let database = Database::new(context.ambient.directories(&context.folder()?));
        // These commands work anywhere, and also beside a file that has mistakes.
        let project = Project::open(context).ok().map(|project| project.config);
        let environment = project.as_ref().and_then(|config| config.modal.environment.as_ref());
        Ok(Self {
            journal: Journal::new(database.clone()),
            runs: Runs::new(database.clone()),
            ledger: Ledger::new(database.clone()),
            history: History::new(database),
            limits: project.as_ref().map(|config| plan::limits(&config.budget)).unwrap_or_default(),
            environment: environment.map(|environment| environment.value.clone()),
            project: project.map(|config| config.project.value),
        })
    }

    /// Says what there is to say about the database.
    pub fn mention_notices(&self, printer: &Printer) {
        self.journal.database().take_notices().iter().for_each(|notice| printer.warning(notice));
    }

    /// Connects to the user's account.
    pub async fn sweeper(&self, context: &Context<'_>) -> Result<Sweeper, CommandError> {
        let (path, settings) = account::load(&context.ambient.variables.texts());
        let settings = settings.map_err(Failure::from)?;
        let credentials = settings.require_credentials(&path).map_err(Failure::from)?;
        let network = context.ambient.network();
        let proxies = if settings.disable_api_proxy { Proxies::Ignored } else { Proxies::Used };
        let connector =
            Connector::new(&network, proxies).map_err(|error| CommandError::failed(error.to_string()))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let printer = context.printer;
        let on_notice = Arc::new(move |notice| match notice {
            Notice::Warning(text) => printer.warning(&text),
            Notice::Throttled { message, .. } => printer.warning(&message),
            Notice::Slept(_) => {}
        });
        let machine = account::machine();
        let connecting =
            ControlPlane::connect(&connector, &settings, credentials, &machine, clock, on_notice);
        let plane = tokio::time::timeout(CONNECT_LIMIT, connecting).await.map_err(|_| {
            CommandError::failed(format!("Modal does not answer within {} s", CONNECT_LIMIT.as_secs()))
                .help("check the network, and MODAL_SERVER_URL if it is set")
        })??;
        let environment = self.environment.clone().or_else(|| settings.environment.clone());
        Ok(Sweeper {
            journal: self.journal.clone(),
            account: account_word(&settings, credentials),
            environment: environment.unwrap_or_default(),
            sandboxes: Arc::new(plane),
        })
    }
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        let failed = Self::failed(failure.message);
        match failure.help {
            Some(help) => failed.help(help),
            None => failed,
        }
    }
}

impl From<ModalError> for CommandError {
    fn from(error: ModalError) -> Self {
        error.into_failure().into()
    }
}

impl From<JournalError> for CommandError {
    fn from(error: JournalError) -> Self {
        Self::failed(error.to_string()).help(error.help())
    }
}

impl From<DatabaseError> for CommandError {
    fn from(error: DatabaseError) -> Self {
        Self::failed(error.to_string()).help(error.help())
    }
}

impl From<SweepError> for CommandError {
    fn from(error: SweepError) -> Self {
        match error {
            SweepError::Journal(error) => error.into(),
            SweepError::Modal(error) => error.into(),
        }
    }
}
