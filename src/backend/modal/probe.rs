//! Whether Modal can be used from here: its servers, the credentials, the workspace, in a few seconds at most.
//!
//! What must stay true: every wait is bounded by [`PROBE_TIMEOUT`], nothing is repeated, nothing is made on the
//! server, and no credential is in what is reported.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::auth_token;
use super::clock::Clock;
use super::connect::{ConnectBudget, Connector, Proxies};
use super::control_plane::{ControlPlane, Notice};
use super::error::{ErrorKind, ModalError};
use super::identity::Machine;
use super::image::Builder;
use super::method::{Method, client};
use super::retry::RetryPolicy;
use super::settings::{Credentials, Settings, ThrottleLimit};
use super::wire::client as wire;
use crate::base::digest::DigestBuilder;
use crate::net::NetworkSettings;

/// The longest that a probe takes for connecting, and again for its calls.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(2500);
/// How long an answer is good for: it spares loops of runs a call, and a network that comes back is seen soon.
pub const READY_FOR: Duration = Duration::from_secs(60);
const NOT_READY_FOR: Duration = Duration::from_secs(5);
/// One connection, without waiting for it to work later.
const ONCE: ConnectBudget = ConnectBudget {
    attempts: 1,
    first_delay: Duration::ZERO,
    longest_delay: Duration::ZERO,
    total: PROBE_TIMEOUT,
};

/// What a probe needs; plain data.
pub struct Probe<'a> {
    pub settings: &'a Settings,
    pub credentials: &'a Credentials,
    /// Stronger than that of the settings.
    pub environment: Option<&'a str>,
    pub network: &'a NetworkSettings,
    pub machine: &'a Machine,
    pub clock: Arc<dyn Clock>,
}

/// Why Modal cannot be used, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", content = "detail", rename_all = "snake_case")]
pub enum NotReady {
    NoCredentials(String),
    Unreachable(String),
    /// The server does not accept the credentials.
    Refused(String),
    /// The server answers, and not as it should.
    Broken(String),
}

impl NotReady {
    pub fn detail(&self) -> &str {
        match self {
            Self::NoCredentials(text)
            | Self::Unreachable(text)
            | Self::Refused(text)
            | Self::Broken(text) => text,
        }
    }
}

impl From<ModalError> for NotReady {
    fn from(error: ModalError) -> Self {
        let text = error.to_string();
        match error.kind {
            ErrorKind::Unreachable | ErrorKind::Address | ErrorKind::DeadlineExceeded => {
                Self::Unreachable(text)
            }
            ErrorKind::Auth | ErrorKind::Permission => Self::Refused(text),
            _ => Self::Broken(text),
        }
    }
}

/// Everything that one probe found.
#[derive(Debug)]
pub struct Report {
    pub servers: Vec<ServerReport>,
    /// What the first server that answered says; `None` when none did.
    pub account: Option<AccountReport>,
}

#[derive(Debug)]
pub struct ServerReport {
    pub url: String,
    /// How long connecting took, TLS included; or why it failed.
    pub connected: Result<Duration, String>,
}

#[derive(Debug)]
pub struct AccountReport {
    /// Whether the credentials were accepted.
    pub ready: Result<(), NotReady>,
    /// The workspace's or the user's name.
    pub workspace: Option<String>,
    /// Of the environment, or why it is not known.
    pub builder: Result<String, ModalError>,
    /// By how many seconds this machine's clock is ahead of the server's.
    pub clock_ahead: Option<i64>,
    pub warnings: Vec<String>,
}

impl Probe<'_> {
    /// Connects to every server at once and asks the first that answers.
    pub async fn report(&self) -> Report {
        let urls = self.settings.server_url.split(',').map(|url| url.trim().to_owned());
        let servers = futures_in_order(urls.map(|url| self.server(url))).await;
        let first = servers.iter().find(|server| server.connected.is_ok()).map(|server| server.url.clone());
        let account = match first {
            Some(url) => Some(self.account(url).await),
            None => None,
        };
        Report { servers, account }
    }

    /// Whether a run could use Modal now.
    pub async fn ready(&self) -> Result<(), NotReady> {
        let plane = self.connect(self.settings.server_url.clone(), Arc::new(|_| {})).await?;
        plane.call(bounded(client::CLIENT_HELLO), ()).await?;
        Ok(())
    }

    async fn server(&self, url: String) -> ServerReport {
        let started = self.clock.now();
        let connected = match self.connector() {
            Err(error) => Err(error.message),
            Ok(connector) => {
                let connecting = connector.connect(&url, ONCE, &self.clock);
                match tokio::time::timeout(PROBE_TIMEOUT, connecting).await {
                    Ok(Ok(_)) => Ok(self.clock.now().saturating_sub(started)),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(too_slow(&url)),
                }
            }
        };
        ServerReport { url, connected }
    }

    fn connector(&self) -> Result<Connector, ModalError> {
        let proxies = if self.settings.disable_api_proxy { Proxies::Ignored } else { Proxies::Used };
        Connector::new(self.network, proxies).map_err(|error| unreachable(error.to_string()))
    }

    async fn connect(
        &self,
        server_url: String,
        on_notice: super::control_plane::OnNotice,
    ) -> Result<ControlPlane, ModalError> {
        let late = unreachable(too_slow(&server_url));
        let connector = self.connector()?;
        let settings = Settings { server_url, throttle: ThrottleLimit::Never, ..self.settings.clone() };
        let clock = Arc::clone(&self.clock);
        let connecting =
            ControlPlane::connect(&connector, &settings, self.credentials, self.machine, clock, on_notice);
        tokio::time::timeout(PROBE_TIMEOUT, connecting).await.unwrap_or(Err(late))
    }

    async fn account(&self, server_url: String) -> AccountReport {
        let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&warnings);
        let on_notice = Arc::new(move |notice| {
            if let Notice::Warning(text) = notice {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
        });
        let plane = match self.connect(server_url, on_notice).await {
            Ok(plane) => plane,
            Err(error) => return AccountReport::unknown(error),
        };
        let (hello, workspace, builder, token) = tokio::join!(
            plane.call(bounded(client::CLIENT_HELLO), ()),
            plane.call(bounded(client::WORKSPACE_NAME_LOOKUP), ()),
            self.builder(&plane),
            plane.call(bounded(client::AUTH_TOKEN_GET), wire::AuthTokenGetRequest {}),
        );
        let mut warnings = std::mem::take(&mut *warnings.lock().unwrap_or_else(PoisonError::into_inner));
        if let Ok(hello) = &hello {
            let said = hello.server_warnings.iter().map(|warning| &warning.message).chain([&hello.warning]);
            for text in said.filter(|text| !text.is_empty()) {
                if !warnings.contains(text) {
                    warnings.push(text.clone());
                }
            }
        }
        let name = |answer: wire::WorkspaceNameLookupResponse| [answer.workspace_name, answer.username];
        let names = workspace.ok().into_iter().flat_map(name);
        AccountReport {
            ready: hello.map(drop).map_err(NotReady::from),
            workspace: names.into_iter().find(|name| !name.is_empty()),
            builder,
            clock_ahead: token.ok().and_then(|answer| self.clock_ahead(&answer.token)),
            warnings,
        }
    }

    /// Looks the environment up, and makes none.
    async fn builder(&self, plane: &ControlPlane) -> Result<String, ModalError> {
        if let Some(version) = &self.settings.image_builder_version {
            return Ok(version.clone());
        }
        let name = self.environment.or(self.settings.environment.as_deref()).unwrap_or_default();
        let request =
            wire::EnvironmentGetOrCreateRequest { deployment_name: name.to_owned(), ..Default::default() };
        let answer = plane.call(bounded(client::ENVIRONMENT_GET_OR_CREATE), request).await?;
        let settings = answer.metadata.and_then(|metadata| metadata.settings);
        Ok(settings.map(|settings| settings.image_builder_version).unwrap_or_default())
    }

    fn clock_ahead(&self, token: &str) -> Option<i64> {
        let issued = auth_token::issued(token)?.as_secs();
        Some(i64::try_from(self.clock.now().as_secs()).ok()? - i64::try_from(issued).ok()?)
    }
}

impl AccountReport {
    fn unknown(error: ModalError) -> Self {
        Self {
            ready: Err(error.clone().into()),
            workspace: None,
            builder: Err(error),
            clock_ahead: None,
            warnings: Vec::new(),
        }
    }
}

/// Whether accel can build images for this version of Modal's builder.
pub fn knows_builder(version: &str) -> Result<(), String> {
    Builder::parse(version).map(drop).map_err(|error| error.to_string())
}

/// A call that is tried once and not waited for long.
fn bounded<Q, A>(method: Method<Q, A>) -> Method<Q, A> {
    method.with_retry(RetryPolicy::NONE.attempt_timeout(PROBE_TIMEOUT).total_timeout(PROBE_TIMEOUT))
}

fn unreachable(text: String) -> ModalError {
    ModalError::new(ErrorKind::Unreachable, "connect", text)
}

fn too_slow(url: &str) -> String {
    format!("{url} does not answer within {} s", PROBE_TIMEOUT.as_secs_f32())
}

/// All at once; results in the order of the futures.
async fn futures_in_order<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, result) in waiting.iter_mut().filter(|(_, result)| result.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                *result = Some(value);
            }
        }
        let done = waiting.iter().all(|(_, result)| result.is_some());
        if done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, result)| result).collect()
}

/// The last answer, kept in a file for a short while, for all that ask within it.
#[derive(Debug, Clone)]
pub struct ReadyCache {
    file: PathBuf,
    account: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    account: String,
    /// Seconds since 1970.
    at: u64,
    answer: Result<(), NotReady>,
}

impl ReadyCache {
    /// `folder` exists and is the user's own.
    pub fn new(folder: &Path, settings: &Settings, credentials: &Credentials) -> Self {
        let mut digest = DigestBuilder::new("modal ready 1");
        digest.field(settings.server_url.as_bytes()).field(format!("{credentials:?}").as_bytes());
        Self { file: folder.join("modal-ready.json"), account: digest.finish().short() }
    }

    /// The answer of before where it is young enough, else a new one.
    pub async fn ready(&self, probe: &Probe<'_>) -> Result<(), NotReady> {
        let now = probe.clock.now();
        if let Some(answer) = self.kept(now) {
            return answer;
        }
        let answer = probe.ready().await;
        self.keep(now, &answer);
        answer
    }

    /// The answer of before where it is young enough.
    pub fn remembered(&self, now: Duration) -> Option<Result<(), NotReady>> {
        self.kept(now)
    }

    fn kept(&self, now: Duration) -> Option<Result<(), NotReady>> {
        let kept: Kept = serde_json::from_slice(&std::fs::read(&self.file).ok()?).ok()?;
        let age = now.checked_sub(Duration::from_secs(kept.at))?;
        let limit = if kept.answer.is_ok() { READY_FOR } else { NOT_READY_FOR };
        (kept.account == self.account && age < limit).then_some(kept.answer)
    }

    /// A cache that cannot be written costs a call next time and nothing else.
    fn keep(&self, now: Duration, answer: &Result<(), NotReady>) {
        let kept = Kept { account: self.account.clone(), at: now.as_secs(), answer: answer.clone() };
        let Ok(text) = serde_json::to_vec(&kept) else { return };
        let Some(folder) = self.file.parent() else { return };
        let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
            std::io::Write::write_all(&mut file, &text)?;
            Ok(file.persist(&self.file)?)
        });
        if let Err(error) = written {
            tracing::debug!(%error, "the answer of the probe is not kept");
        }
    }
}
