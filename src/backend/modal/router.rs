//! Calls to the command router of one sandbox.
//!
//! A router is another server, known by address and bearer token. The token is renewed when it is refused, once for
//! all callers; the address stays for the life of the sandbox. A connection that nobody used for a while may have died
//! unheard: until something is answered over it, silence is not borne for long.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::auth_token::expiry;
use super::clock::Clock;
use super::connect::{ConnectBudget, Connector};
use super::connection::{Answers, Connection};
use super::control_plane::{client, codec, insert, path, unary, with_headers};
use super::error::{ErrorKind, ModalError, is_transport};
use super::method::Method;
use super::retry::{Attempts, Throttling, Verdict};
use super::settings::{Secret, ThrottleLimit};
use crate::backend::BoxFuture;

/// A token that lives longer than this is not renewed: another caller has just done it.
const FRESH: Duration = Duration::from_secs(30);

/// Where a sandbox listens, and what opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterAccess {
    pub url: String,
    pub jwt: Secret,
}

/// Asks the control plane for access again.
pub type Renew = Arc<dyn Fn() -> BoxFuture<'static, Result<RouterAccess, ModalError>> + Send + Sync>;

#[derive(Clone)]
pub struct Router(Arc<Shared>);

struct Shared {
    connection: Connection,
    /// After the connection stood idle, until something was answered: how long that may take before it is made anew.
    unproven: Mutex<Option<Duration>>,
    outage: watch::Sender<Outage>,
    jwt: Mutex<Secret>,
    renewing: tokio::sync::Mutex<()>,
    renew: Renew,
    throttle: ThrottleLimit,
    clock: Arc<dyn Clock>,
}

impl Router {
    /// Connects, for as long as a worker may take to start a sandbox.
    pub async fn connect(
        connector: &Connector,
        access: RouterAccess,
        renew: Renew,
        throttle: ThrottleLimit,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ModalError> {
        let connection = connector
            .connect(&access.url, ConnectBudget::ROUTER, &clock)
            .await
            .map_err(|error| ModalError::new(ErrorKind::Unreachable, "router", error.to_string()))?;
        Ok(Self(Arc::new(Shared {
            connection,
            unproven: Mutex::default(),
            outage: watch::Sender::new(Outage::None),
            jwt: Mutex::new(access.jwt),
            renewing: tokio::sync::Mutex::default(),
            renew,
            throttle,
            clock,
        })))
    }

    /// One call and its retries; a refused token is renewed once.
    pub async fn call<Q, A>(&self, method: Method<Q, A>, request: Q) -> Result<A, ModalError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.repeat(method.name, self.attempts(method), |attempt: Attempt| {
            let request = with_headers(request.clone(), attempt.headers);
            async move {
                let call = async |channel| unary(&channel, method, request, attempt.timeout).await;
                Ok(self.0.connection.call(call).await?.into_inner())
            }
        })
        .await
    }

    /// A stream of answers. Opening is repeated; who reads knows where to resume.
    pub async fn stream<Q, A>(&self, method: Method<Q, A>, request: Q) -> Result<Answers<A>, ModalError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.repeat(method.name, self.attempts(method), |attempt: Attempt| {
            let request = with_headers(request.clone(), attempt.headers);
            async move {
                let open = async |channel| {
                    let mut grpc = client(&channel).await?;
                    let answer = grpc.server_streaming(request, path(method.path), codec::<Q, A>()).await?;
                    Ok(answer.into_inner())
                };
                self.0.connection.stream(open).await
            }
        })
        .await
    }

    fn attempts<Q, A>(&self, method: Method<Q, A>) -> Attempts {
        Attempts::new(method.retry, self.0.throttle, Throttling::ExhaustedOnly, self.0.clock.now())
    }

    async fn repeat<T, F>(
        &self,
        method: &'static str,
        mut attempts: Attempts,
        mut run: impl FnMut(Attempt) -> F,
    ) -> Result<T, ModalError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let clock = &self.0.clock;
        let mut renewed = false;
        loop {
            let mut headers = MetadataMap::new();
            insert(&mut headers, "authorization", &format!("Bearer {}", self.jwt().reveal()))?;
            insert(&mut headers, "x-throttle-retry-attempt", &attempts.throttled().to_string())?;
            let attempt = run(Attempt { headers, timeout: attempts.timeout(clock.now()) });
            let status = match self.unless_silent(attempt).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if status.code() == Code::Unauthenticated && !renewed {
                renewed = true;
                self.renew().await?;
                continue;
            }
            let tried = attempts.count();
            match attempts.after(&status, clock.now()) {
                Verdict::RetryAfter(delay) | Verdict::ThrottledFor { delay, .. } => clock.sleep(delay).await,
                Verdict::GiveUp => return Err(ModalError::of_status(method, &status, tried)),
                Verdict::GiveUpThrottled => {
                    let error = ModalError::of_status(method, &status, tried);
                    return Err(ModalError { kind: ErrorKind::Throttled, ..error });
                }
            }
        }
    }

    /// Nobody uses the connection for a while. The next calls bear no silence longer than `limit` until something is
    /// answered.
    pub(super) fn idle(&self, limit: Duration) {
        *self.unproven() = Some(limit);
    }

    fn unproven(&self) -> MutexGuard<'_, Option<Duration>> {
        self.0.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One attempt. Over a connection that stood idle it ends as unavailable when nothing at all is answered, and the
    /// connection is made anew, once for all calls.
    async fn unless_silent<T>(&self, attempt: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let limit = *self.unproven();
        let Some(limit) = limit else { return attempt.await };
        let generation = self.0.connection.generation();
        let silent = async {
            tokio::time::sleep(limit).await;
            if self.unproven().take().is_none() {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            answer = attempt => {
                if !answer.as_ref().is_err_and(is_transport) {
                    *self.unproven() = None;
                }
                answer
            }
            () = silent => {
                self.0.connection.renew(generation);
                Err(Status::unavailable("nothing was answered over a connection that stood idle"))
            }
        }
    }

    /// Readers of streams say here whether the router answers.
    pub(super) fn note(&self, outage: Outage) {
        self.0.outage.send_if_modified(|known| std::mem::replace(known, outage) != outage);
    }

    pub(super) fn outage(&self) -> watch::Receiver<Outage> {
        self.0.outage.subscribe()
    }

    /// The token as it is now.
    pub fn jwt(&self) -> Secret {
        self.0.jwt.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the token unless somebody has just done so. Public for readers of streams, whose token may be refused
    /// while they read.
    pub async fn renew(&self) -> Result<(), ModalError> {
        let _one_at_a_time = self.0.renewing.lock().await;
        let now = self.0.clock.now();
        if expiry(self.jwt().reveal()).is_some_and(|expires| expires > now + FRESH) {
            return Ok(());
        }
        let access = (self.0.renew)().await?;
        *self.0.jwt.lock().unwrap_or_else(PoisonError::into_inner) = access.jwt;
        Ok(())
    }
}

/// Whether the sandbox cannot be reached at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outage {
    None,
    Lost,
}

/// What one attempt is made with.
struct Attempt {
    headers: MetadataMap,
    timeout: Option<Duration>,
}
