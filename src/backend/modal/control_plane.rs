//! Calls to Modal's control plane: headers, repetition, tokens, warnings.
//!
//! One [`ControlPlane`] per run, cheap to clone, safe to use from many tasks: all share one channel, one auth token
//! and one memory of warnings already shown.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::auth_token::AuthTokens;
use super::clock::Clock;
use super::connect::{ConnectBudget, Connector};
use super::connection::{Answers, Connection};
use super::error::{ErrorKind, ModalError, caused_by};
use super::identity::{self, Machine};
use super::method::{self, Method, Token};
use super::reporter::seconds;
use super::retry::{Attempts, RetryPolicy, Throttling, Verdict};
use super::settings::{Credentials, Secret, Settings, ThrottleLimit};
use super::wire::client as wire;

/// Log batches and image metadata exceed the usual 4 MiB.
pub(super) const MAX_MESSAGE: usize = 100 * 1024 * 1024;
const WARNING_HEADER: &str = "x-modal-warning";
const SANDBOX_TOKEN_HEADER: &str = "x-modal-sandbox-token";

/// What a user should hear about a call that is not its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A text of the server; each is reported once.
    Warning(String),
    /// The server slows us down.
    Throttled { method: &'static str, message: String, wait: Duration },
    /// This machine slept for so long; connections are made anew.
    Slept(Duration),
}

pub type OnNotice = Arc<dyn Fn(Notice) + Send + Sync>;

#[derive(Clone)]
pub struct ControlPlane(Arc<Shared>);

struct Shared {
    connection: Connection,
    headers: MetadataMap,
    throttle: ThrottleLimit,
    auth: AuthTokens,
    clock: Arc<dyn Clock>,
    on_notice: OnNotice,
    warned: Mutex<BTreeSet<String>>,
}

/// What one call adds to its method.
#[derive(Debug, Clone, Default)]
pub struct CallOptions {
    /// Given at creation; spares the server a look-up in later calls on the same sandbox.
    pub sandbox_token: Option<Secret>,
}

impl ControlPlane {
    /// Opens the channel. Nothing is sent before the first call.
    pub async fn connect(
        connector: &Connector,
        settings: &Settings,
        credentials: &Credentials,
        machine: &Machine,
        clock: Arc<dyn Clock>,
        on_notice: OnNotice,
    ) -> Result<Self, ModalError> {
        let connection = connector
            .connect(&settings.server_url, ConnectBudget::CONTROL_PLANE, &clock)
            .await
            .map_err(|error| ModalError::new((&error).into(), "connect", error.to_string()))?;
        Self::over(connection, settings, credentials, machine, clock, on_notice)
    }

    /// Calls over a connection that stands. Nothing is sent before the first.
    pub(super) fn over(
        connection: Connection,
        settings: &Settings,
        credentials: &Credentials,
        machine: &Machine,
        clock: Arc<dyn Clock>,
        on_notice: OnNotice,
    ) -> Result<Self, ModalError> {
        let mut headers = MetadataMap::new();
        for (name, value) in identity::headers(credentials, machine, &settings.override_headers) {
            insert(&mut headers, &name, value.reveal())?;
        }
        insert(&mut headers, "x-modal-host", &connection.host)?;
        Ok(Self(Arc::new(Shared {
            connection,
            headers,
            throttle: settings.throttle,
            auth: AuthTokens::new(clock.clone()),
            clock,
            on_notice,
            warned: Mutex::default(),
        })))
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub fn throttle(&self) -> ThrottleLimit {
        self.0.throttle
    }

    /// One call and its retries.
    pub async fn call<Q, A>(&self, method: Method<Q, A>, request: Q) -> Result<A, ModalError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.call_with(method, request, &CallOptions::default()).await
    }

    pub async fn call_with<Q, A>(
        &self,
        method: Method<Q, A>,
        request: Q,
        options: &CallOptions,
    ) -> Result<A, ModalError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let headers = Box::pin(self.call_headers(method.name, method.token, options)).await?;
        // Many calls are made at once by one task: on the heap they cost what they use.
        Box::pin(self.repeat(method, request, headers)).await
    }

    /// The short-lived token, for those who keep a connection of their own.
    pub async fn auth_token(&self) -> Result<String, ModalError> {
        let fetch = async |policy: RetryPolicy| {
            let method = method::client::AUTH_TOKEN_GET.with_retry(policy);
            let answer = self.repeat(method, wire::AuthTokenGetRequest {}, self.0.headers.clone()).await?;
            Ok(answer.token)
        };
        self.0.auth.get(fetch).await
    }

    /// Begins with a short-lived token of an earlier run.
    pub fn seed_auth_token(&self, token: String) {
        self.0.auth.seed(token);
    }

    /// The next call that needs a short-lived token asks for a new one.
    pub fn forget_auth_token(&self) {
        self.0.auth.forget();
    }

    /// A stream of answers. Streams are not repeated here: who reads one knows where to resume.
    pub async fn stream<Q, A>(&self, method: Method<Q, A>, request: Q) -> Result<Answers<A>, ModalError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let headers = self.call_headers(method.name, method.token, &CallOptions::default()).await?;
        let request = with_headers(request, headers);
        let open = async |channel| {
            let answer =
                client(&channel).await?.server_streaming(request, path(method.path), codec::<Q, A>()).await?;
            self.show_warnings(answer.metadata());
            Ok(answer.into_inner())
        };
        let opened = self.0.connection.stream(open).await;
        opened.map_err(|status| self.failed(method.name, &status, 1))
    }

    /// The error of a status that came out of a stream; its warnings are shown.
    pub fn failed(&self, method: &'static str, status: &Status, attempts: u32) -> ModalError {
        self.show_warnings(status.metadata());
        ModalError::of_status(method, status, attempts)
    }

    async fn call_headers(
        &self,
        name: &'static str,
        token: Token,
        options: &CallOptions,
    ) -> Result<MetadataMap, ModalError> {
        let mut headers = self.0.headers.clone();
        if token == Token::Auth {
            let token = self.auth_token().await.map_err(|error| ModalError { method: name, ..error })?;
            insert(&mut headers, "x-modal-auth-token", &token)?;
        }
        if let Some(token) = options.sandbox_token.as_ref().filter(|token| !token.reveal().is_empty()) {
            insert(&mut headers, SANDBOX_TOKEN_HEADER, token.reveal())?;
        }
        Ok(headers)
    }

    async fn repeat<Q, A>(
        &self,
        method: Method<Q, A>,
        request: Q,
        mut headers: MetadataMap,
    ) -> Result<A, ModalError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let clock = &self.0.clock;
        // One for all attempts: what makes repeating a creation safe.
        insert(&mut headers, "x-idempotency-key", &uuid::Uuid::new_v4().to_string())?;
        let mut attempts = Attempts::new(method.retry, self.0.throttle, Throttling::AnyStatus, clock.now());
        loop {
            let mut attempt_headers = headers.clone();
            for (name, value) in attempts.headers(clock.now()) {
                insert(&mut attempt_headers, name, &value)?;
            }
            let request = with_headers(request.clone(), attempt_headers);
            let timeout = attempts.timeout(clock.now());
            let attempt = async |channel| unary(&channel, method, request, timeout).await;
            let answer = self.0.connection.call(attempt).await;
            if let Some(slept) = self.0.connection.take_sleep() {
                (self.0.on_notice)(Notice::Slept(slept));
            }
            let status = match answer {
                Ok(response) => {
                    self.show_warnings(response.metadata());
                    return Ok(response.into_inner());
                }
                Err(status) => status,
            };
            let tried = attempts.count();
            match attempts.after(&status, clock.now()) {
                Verdict::RetryAfter(delay) => {
                    tracing::debug!(method = method.name, ?status, ?delay, "retry");
                    self.show_warnings(status.metadata());
                    clock.sleep(delay).await;
                }
                Verdict::ThrottledFor { delay, notice } => {
                    self.show_warnings(status.metadata());
                    if notice {
                        let message = status.message().to_owned();
                        (self.0.on_notice)(Notice::Throttled { method: method.name, message, wait: delay });
                    }
                    clock.sleep(delay).await;
                }
                Verdict::GiveUp => return Err(self.failed(method.name, &status, tried)),
                Verdict::GiveUpThrottled => {
                    let error = self.failed(method.name, &status, tried);
                    return Err(ModalError { kind: ErrorKind::Throttled, ..error });
                }
            }
        }
    }

    fn show_warnings(&self, metadata: &MetadataMap) {
        for text in metadata.get_all(WARNING_HEADER) {
            let text = identity::unquote(&String::from_utf8_lossy(text.as_bytes()));
            let new = self.0.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone());
            if new {
                (self.0.on_notice)(Notice::Warning(text));
            }
        }
    }
}

pub(super) fn codec<Q: Message + 'static, A: Message + Default + 'static>() -> ProstCodec<Q, A> {
    ProstCodec::default()
}

pub(super) fn path(path: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(path)
}

pub(super) async fn client(channel: &Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    Ok(grpc)
}

/// One attempt. A deadline is told to the server and kept here as well.
pub(super) async fn unary<Q, A>(
    channel: &Channel,
    method: Method<Q, A>,
    mut request: Request<Q>,
    timeout: Option<Duration>,
) -> Result<Response<A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let attempt = async |request| {
        let mut grpc = client(channel).await?;
        grpc.unary(request, path(method.path), codec::<Q, A>()).await
    };
    let Some(timeout) = timeout else { return attempt(request).await };
    request.set_timeout(timeout);
    let late = || Status::deadline_exceeded(format!("no answer within {}", seconds(timeout)));
    match tokio::time::timeout(timeout, attempt(request)).await {
        Err(_) => Err(late()),
        Ok(Err(status)) if caused_by::<tonic::TimeoutExpired>(&status) => Err(late()),
        Ok(answer) => answer,
    }
}

pub(super) fn with_headers<Q>(message: Q, headers: MetadataMap) -> Request<Q> {
    let mut request = Request::new(message);
    *request.metadata_mut() = headers;
    request
}

/// Names and values come from settings too, so they may be unfit for a header.
pub(super) fn insert(headers: &mut MetadataMap, name: &str, value: &str) -> Result<(), ModalError> {
    let unfit = |what: &str| {
        ModalError::new(ErrorKind::InvalidRequest, "connect", format!("{what} of header {name:?}"))
    };
    let key = MetadataKey::from_bytes(name.as_bytes()).map_err(|_| unfit("bad name"))?;
    let mut value = MetadataValue::try_from(value).map_err(|_| unfit("bad value"))?;
    // Keeps it out of compression tables and debug output.
    value.set_sensitive(true);
    headers.insert(key, value);
    Ok(())
}
