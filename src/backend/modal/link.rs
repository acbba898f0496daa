//! The connection of one run to Modal: made once, used by every session.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::account::account;
use super::clock::Clock;
use super::connect::Connector;
use super::control_plane::{ControlPlane, Notice};
use super::error::{ErrorKind, ModalError};
use super::identity::Machine;
use super::limits::Limits;
use super::reporter::{Reporter, seconds};
use super::settings::{Settings, SettingsError};
use super::token_file::TokenFile;
use super::trouble::Trouble;
use super::way::{OpeningWay, Way, no_network};
use crate::backend::Failure;
use crate::base::duration::ShortDuration;
use crate::event::{Level, Step};
use crate::net::NetworkSettings;

/// What the user's machine says about Modal; plain data.
#[derive(Clone)]
pub struct Access {
    /// As loaded; an error is reported by the first job that needs Modal.
    pub settings: Result<Settings, SettingsError>,
    /// Where credentials could have been.
    pub config_path: PathBuf,
    pub machine: Machine,
    pub network: NetworkSettings,
    pub clock: Arc<dyn Clock>,
    /// Where connecting has begun already.
    pub opening: Option<OpeningWay>,
    pub limits: Limits,
}

#[derive(Clone)]
pub(super) struct Link {
    pub(super) plane: ControlPlane,
    pub(super) connector: Connector,
    /// For presigned uploads.
    pub(super) http: reqwest::Client,
    pub(super) limits: Limits,
    pub(super) settings: Arc<Settings>,
    pub(super) board: Arc<Board>,
    token_file: Option<TokenFile>,
    /// Whether the token is that of an earlier run.
    token_is_old: Arc<AtomicBool>,
}

impl Access {
    /// Settings with credentials in them, or why there are none.
    pub(super) fn settings(&self) -> Result<&Settings, Failure> {
        let settings = self.settings.as_ref().map_err(|error| Failure::from(error.clone()))?;
        settings.require_credentials(&self.config_path)?;
        Ok(settings)
    }

    /// See [`account`].
    pub(super) fn account(&self) -> Result<String, Failure> {
        let settings = self.settings()?;
        Ok(account(settings, settings.require_credentials(&self.config_path)?))
    }

    /// Begins to connect, as far as that needs no project; without credentials it does not. The runtime is the one
    /// that the jobs are run on.
    pub fn begin(&mut self, runtime: &Handle) {
        let Ok(settings) = self.settings().cloned() else { return };
        let (network, clock) = (self.network.clone(), Arc::clone(&self.clock));
        self.opening = Some(OpeningWay::begin(settings, network, clock, runtime));
    }

    async fn way(&self, settings: &Settings) -> Result<Way, Trouble> {
        let begun = match &self.opening {
            Some(opening) => opening.take().await,
            None => None,
        };
        match begun {
            Some(way) => way,
            None => Way::open(settings, &self.network, &self.clock).await,
        }
    }

    /// `token_folder` is where a short-lived token may be kept between runs; `environment` is stronger than that of
    /// the user's settings.
    pub(super) async fn connect(
        &self,
        token_folder: Option<PathBuf>,
        environment: Option<&str>,
    ) -> Result<Link, Trouble> {
        let mut settings = self.settings()?.clone();
        if let Some(environment) = environment {
            settings.environment = Some(environment.to_owned());
        }
        let settings = &settings;
        let credentials = settings.require_credentials(&self.config_path).map_err(Failure::from)?;
        let http = self.network.upload_client().map_err(|error| no_network(&error))?;
        let board = Arc::new(Board::default());
        let posted = Arc::clone(&board);
        let on_notice = Arc::new(move |notice| posted.post(notice));
        let Way { connector, connection } = self.way(settings).await?;
        let clock = Arc::clone(&self.clock);
        let plane = ControlPlane::over(connection, settings, credentials, &self.machine, clock, on_notice)?;
        let token_file = token_folder.map(|folder| TokenFile::new(folder, account(settings, credentials)));
        let old = token_file.as_ref().and_then(TokenFile::read);
        let token_is_old = Arc::new(AtomicBool::new(old.is_some()));
        if let Some(token) = old {
            plane.seed_auth_token(token);
        }
        let settings = Arc::new(settings.clone());
        let limits = self.limits;
        Ok(Link { plane, connector, http, limits, settings, board, token_file, token_is_old })
    }
}

impl Link {
    /// Makes sure that there is a token, and keeps it for the next run.
    pub(super) async fn auth_token(&self) -> Result<(), ModalError> {
        let token = self.plane.auth_token().await?;
        if let Some(file) = &self.token_file {
            file.write(&token);
        }
        Ok(())
    }

    /// After the server refused the token. False when it was asked for in this run: then it was not the token.
    pub(super) fn forget_auth_token(&self) -> bool {
        self.plane.forget_auth_token();
        if let Some(file) = &self.token_file {
            file.remove();
        }
        self.token_is_old.swap(false, Ordering::Relaxed)
    }

    /// The environment that names are looked up in; empty for the default.
    pub(super) fn environment(&self) -> String {
        self.settings.environment.clone().unwrap_or_default()
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        self.plane.clock()
    }

    /// Whether the server runs on this machine, as in tests: only then may a router be spoken to without TLS.
    pub(super) fn is_loopback(&self) -> bool {
        let mut urls = self.settings.server_url.split(',');
        urls.all(|url| {
            ["http://localhost", "http://127.0.0.1", "http://[::1]"]
                .iter()
                .any(|host| url.trim().starts_with(host))
        })
    }
}

/// Where calls leave what the user should hear; whoever waits for a call passes it on.
#[derive(Debug, Default)]
pub(super) struct Board {
    notices: Mutex<VecDeque<Notice>>,
    said: Mutex<BTreeSet<String>>,
    news: tokio::sync::Notify,
}

impl Board {
    fn post(&self, notice: Notice) {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push_back(notice);
        self.news.notify_one();
    }

    fn take(&self) -> Option<Notice> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Does the work and tells what is posted meanwhile.
    pub(super) async fn telling<T>(&self, reporter: &Reporter, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            let done = tokio::select! {
                biased;
                done = &mut work => Some(done),
                () = self.news.notified() => None,
            };
            while let Some(notice) = self.take() {
                self.tell(reporter, notice).await;
            }
            if let Some(done) = done {
                return done;
            }
        }
    }

    async fn tell(&self, reporter: &Reporter, notice: Notice) {
        match notice {
            Notice::Warning(text) => {
                let new = self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone());
                if new {
                    reporter.notice(Level::Warning, "modal-warning", text, None).await;
                }
            }
            Notice::Throttled { method, message, wait } => {
                let text = format!("Modal asks to wait {} ({method}: {message})", seconds(wait));
                reporter.log(Step::Queue, text).await;
            }
            Notice::Slept(slept) => {
                let text = format!("this machine slept for {}; connecting anew", ShortDuration(slept));
                reporter.notice(Level::Info, "slept", text, None).await;
            }
        }
    }
}

/// Says that a router's address may not be spoken to.
pub(super) fn insecure_router(url: &str) -> ModalError {
    ModalError::new(
        ErrorKind::Service,
        "router",
        format!("the address of the sandbox is not encrypted: {url}"),
    )
}
