//! Modal as the command line knows it: settings, machine and folders, gathered when the first job needs them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::account;
use super::ambient::{self, Ambient};
use crate::backend::local::ColorHint;
use crate::backend::modal::clock::SystemClock;
use crate::backend::modal::{Access, Color, ModalBackend, ModalSettings};
use crate::backend::{Backend, BoxFuture, Failure, OpenRequest, Session};
use crate::domain::Place;
use crate::plan::spec::Plan;
use crate::store::{Database, Journal};

/// The backend, made only for runs that use it: others need neither its settings nor its journal.
pub struct Modal {
    make: Box<dyn Fn() -> ModalSettings + Send + Sync>,
    backend: OnceLock<ModalBackend>,
}

impl Modal {
    pub fn new(plan: &Arc<Plan>, run: &str, color: ColorHint, ambient: &Ambient, folder: &Path) -> Self {
        let (plan, run, folder) = (Arc::clone(plan), run.to_owned(), folder.to_owned());
        let variables = ambient.variables.clone();
        let (directories, network) = (ambient.directories(&folder), ambient.network());
        let make = move || {
            let text = |(name, value): &(std::ffi::OsString, std::ffi::OsString)| {
                Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()))
            };
            let texts: BTreeMap<String, String> = variables.0.iter().filter_map(text).collect();
            let (config_path, settings) = account::load(&texts);
            ModalSettings {
                access: Access {
                    settings,
                    config_path,
                    machine: account::machine(),
                    network: network.clone(),
                    clock: Arc::new(SystemClock),
                },
                target: plan.modal.clone(),
                project: plan.project.clone(),
                sync: plan.sync.clone(),
                run: run.clone(),
                host_env: variables.0.clone(),
                color: match color {
                    ColorHint::Unsaid => Color::Unsaid,
                    ColorHint::Never => Color::Never,
                    ColorHint::Always => Color::Always,
                },
                global_ignore: ambient::global_ignore(),
                journal: Journal::new(Database::new(directories.clone())),
                directories: directories.clone(),
            }
        };
        Self { make: Box::new(make), backend: OnceLock::new() }
    }

    pub fn backend(&self) -> &ModalBackend {
        self.backend.get_or_init(|| ModalBackend::new((self.make)()))
    }

    /// Connects already, while the run is being prepared.
    pub async fn warm_up(&self) {
        self.backend().warm_up().await;
    }

    /// After the run: waits until nothing is left that was asked for too late to be used.
    pub async fn finish(&self) {
        if let Some(backend) = self.backend.get() {
            backend.finish().await;
        }
    }
}

impl Backend for Modal {
    fn place(&self) -> Place {
        Place::Modal
    }

    fn open(&self, request: OpenRequest) -> BoxFuture<'_, Result<Box<dyn Session>, Failure>> {
        self.backend().open(request)
    }
}
