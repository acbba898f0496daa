//! Modal as the command line knows it: settings, machine and folders, gathered when the first job needs them.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::account;
use super::ambient::{self, Ambient};
use super::budget;
use crate::backend::local::ColorHint;
use crate::backend::modal::purse::Purse;
use crate::backend::modal::quote::Prices;
use crate::backend::modal::{Access, Color, Common, ModalBackend, ModalSettings, Reuse, TerminalKind};
use crate::backend::{Backend, BoxFuture, Failure, OpenRequest, Session};
use crate::domain::Place;
use crate::plan::spec::Plan;
use crate::process::Supervisor;
use crate::store::journal::Entry;
use crate::store::{Database, Journal};

/// The backend, made only for runs that use it: others need neither its settings nor its journal.
pub struct Modal {
    purse: Arc<Purse>,
    make: Box<dyn Fn() -> ModalSettings + Send + Sync>,
    backend: OnceLock<ModalBackend>,
}

/// What is around a run.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    pub supervisor: &'a Supervisor,
    pub ambient: &'a Ambient,
    pub folder: &'a Path,
    /// Where connecting has begun.
    pub access: Option<&'a Access>,
    pub reuse: Reuse,
    pub common: &'a Common,
}

impl Modal {
    pub fn new(plan: &Arc<Plan>, run: &str, color: ColorHint, around: Around<'_>) -> Self {
        let Around { supervisor, ambient, folder, access, reuse, common } = around;
        let (plan, run, supervisor) = (Arc::clone(plan), run.to_owned(), supervisor.clone());
        let (variables, terminal) = (ambient.variables.clone(), terminal(ambient));
        let (directories, network) = (ambient.directories(folder), ambient.network());
        let (access, common) = (access.cloned(), common.clone());
        let purse = Arc::new(Purse::new(budget::caps(&plan.budget), plan.budget.prewarm_per_day));
        let for_jobs = Arc::clone(&purse);
        let make = move || {
            let access = access.clone();
            ModalSettings {
                access: access.unwrap_or_else(|| account::access(&variables, network.clone())),
                target: plan.modal.clone(),
                project: plan.project.clone(),
                sync: plan.sync.clone(),
                run: run.clone(),
                host_env: variables.0.clone(),
                color: match color {
                    ColorHint::Unsaid => Color::Unsaid,
                    ColorHint::Never => Color::Never,
                    // Nothing there has this terminal itself.
                    ColorHint::Always | ColorHint::WherePassedOn => Color::Always,
                },
                global_ignore: ambient::global_ignore(),
                journal: Journal::new(Database::new(directories.clone())),
                directories: directories.clone(),
                reuse,
                common: common.clone(),
                terminal: terminal.clone(),
                supervisor: supervisor.clone(),
                purse: Arc::clone(&for_jobs),
            }
        };
        Self { purse, make: Box::new(make), backend: OnceLock::new() }
    }

    pub fn backend(&self) -> &ModalBackend {
        self.backend.get_or_init(|| ModalBackend::new((self.make)()))
    }

    /// What the jobs of the run may spend there.
    pub fn purse(&self) -> &Purse {
        &self.purse
    }

    /// Connects already, while the run is being prepared.
    pub async fn warm_up(&self) {
        self.backend().warm_up().await;
    }

    /// What is known of prices without asking.
    pub async fn prices(&self) -> Prices {
        self.backend().prices().await
    }

    /// After the run: waits until nothing is left that was asked for too late to be used.
    pub async fn finish(&self) {
        if let Some(backend) = self.backend.get() {
            backend.finish().await;
        }
    }

    /// A sentence for each sandbox that may outlive accel when it leaves now.
    pub fn left_behind(&self) -> Vec<String> {
        let held = self.backend.get().map_or_else(Vec::new, ModalBackend::held);
        held.iter().map(left_behind).collect()
    }

    /// The same for those whose sandboxes nobody knows by name: others were told about when they could not be ended.
    pub fn unheard_of(&self) -> Vec<String> {
        let held = self.backend.get().map_or_else(Vec::new, ModalBackend::held);
        held.iter().filter(|entry| entry.sandbox.is_none()).map(left_behind).collect()
    }
}

/// A sentence about a sandbox that may outlive accel.
pub fn left_behind(entry: &Entry) -> String {
    let Entry { job, lease, sandbox, .. } = entry;
    match sandbox {
        Some(sandbox) => format!(
            "sandbox {sandbox} of `{job}` may still run (lease {lease}); the next run with Modal ends it, or end it \
             now: accel stop {lease}"
        ),
        None => format!(
            "a sandbox for `{job}` may have been made (lease {lease}); the next run with Modal looks for it and ends \
             it, or end it now: accel prune"
        ),
    }
}

/// A remote terminal has one stream for all output, so both of accel's must end on the terminal.
fn terminal(ambient: &Ambient) -> Option<TerminalKind> {
    let text = |name: &str| ambient.variables.text(name).unwrap_or_default().to_owned();
    let (term, color, program) = (text("TERM"), text("COLORTERM"), text("TERM_PROGRAM"));
    let shown = ambient.stdout_is_terminal && ambient.stderr_is_terminal;
    shown.then_some(TerminalKind { term, color, program })
}

impl Backend for Modal {
    fn place(&self) -> Place {
        Place::Modal
    }

    fn open(&self, request: OpenRequest) -> BoxFuture<'_, Result<Box<dyn Session>, Failure>> {
        self.backend().open(request)
    }
}
