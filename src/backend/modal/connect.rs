//! Opening a channel: the one place that does.
//!
//! A comma-separated list of addresses is raced with a head start for the earlier ones, and the race is run again
//! until its budget is used up. Connections go through the user's proxy and trust what all of accel trusts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderValue, Uri};
use tonic::transport::Endpoint;

use super::clock::Clock;
use super::connection::Connection;
use super::tunnel::{Tunnel, TunnelError};
use crate::net::{KeepAlive, NetworkError, NetworkSettings, describe};

/// Head start of an address over the next.
pub const STAGGER: Duration = Duration::from_secs(3);
/// One connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow-control window of a connection and of each stream.
const WINDOW: u32 = 64 * 1024 * 1024;

/// How often and how long connecting is tried.
#[derive(Debug, Clone, Copy)]
pub struct ConnectBudget {
    pub attempts: u32,
    pub first_delay: Duration,
    pub longest_delay: Duration,
    pub total: Duration,
}

impl ConnectBudget {
    pub const CONTROL_PLANE: Self = Self {
        attempts: 18,
        first_delay: Duration::from_millis(100),
        longest_delay: Duration::from_secs(5),
        total: Duration::from_secs(63),
    };
    /// A worker may take minutes to start a sandbox after it was placed.
    pub const ROUTER: Self = Self {
        attempts: 34,
        first_delay: Duration::from_secs(1),
        longest_delay: Duration::from_secs(10),
        total: Duration::from_secs(310),
    };
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "{0:?} is not an address of a Modal server: it starts with none of https://, http:// and unix://"
    )]
    Address(String),
    #[error("cannot connect to {address}: {reason}")]
    Failed { address: String, reason: String },
    /// Trying again would change nothing.
    #[error("cannot connect to {address}: {reason}")]
    Refused { address: String, reason: String },
}

/// Whether calls go through the proxies of [`NetworkSettings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxies {
    Used,
    Ignored,
}

/// Opens byte streams to addresses.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    proxies: Arc<Matcher>,
    keep_alive: KeepAlive,
}

impl Connector {
    pub fn new(network: &NetworkSettings, proxies: Proxies) -> Result<Self, NetworkError> {
        let mut tls = rustls::ClientConfig::clone(&*network.tls()?);
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let matcher = match proxies {
            Proxies::Ignored => Matcher::builder(),
            Proxies::Used => Matcher::builder()
                .https(text(&network.https_proxy))
                .http(text(&network.http_proxy))
                .all(text(&network.all_proxy))
                .no(text(&network.no_proxy)),
        };
        Ok(Self {
            tls: TlsConnector::from(Arc::new(tls)),
            proxies: Arc::new(matcher.build()),
            keep_alive: network.keep_alive,
        })
    }

    /// Connects to the first address of a comma-separated list that answers.
    pub async fn connect(
        &self,
        addresses: &str,
        budget: ConnectBudget,
        clock: &Arc<dyn Clock>,
    ) -> Result<Connection, ConnectError> {
        let endpoints =
            addresses.split(',').map(|address| self.target(address.trim())).collect::<Result<Vec<_>, _>>()?;
        let started = clock.awake();
        let mut delay = budget.first_delay;
        let mut attempt = 1;
        loop {
            let error = match self.race(&endpoints, clock).await {
                Ok(connection) => return Ok(connection),
                Err(error @ ConnectError::Refused { .. }) => return Err(error),
                Err(error) => error,
            };
            if attempt >= budget.attempts || clock.awake() + delay >= started + budget.total {
                return Err(error);
            }
            clock.sleep(delay).await;
            delay = (delay * 2).min(budget.longest_delay);
            attempt += 1;
        }
    }

    /// Starts the addresses one after the other, the next at once when the one before failed.
    async fn race(&self, endpoints: &[Target], clock: &Arc<dyn Clock>) -> Result<Connection, ConnectError> {
        let mut attempts = JoinSet::new();
        let mut waiting = endpoints.iter();
        let mut first_error = None;
        loop {
            if attempts.is_empty() || first_error_is_new(&mut first_error) {
                if let Some(target) = waiting.next() {
                    attempts.spawn(self.clone().open(target.clone(), Arc::clone(clock)));
                } else if attempts.is_empty() {
                    break;
                }
            }
            let head_start = async {
                match waiting.len() {
                    0 => std::future::pending().await,
                    _ => clock.sleep(STAGGER).await,
                }
            };
            tokio::select! {
                finished = attempts.join_next() => match finished {
                    Some(Ok(Ok(connection))) => return Ok(connection),
                    Some(Ok(Err(error))) => note(&mut first_error, error),
                    Some(Err(_)) | None => {}
                },
                () = head_start => {
                    if let Some(target) = waiting.next() {
                        attempts.spawn(self.clone().open(target.clone(), Arc::clone(clock)));
                    }
                }
            }
        }
        Err(first_error.map_or_else(|| ConnectError::Address(String::new()), |(error, _)| error))
    }

    fn target(&self, address: &str) -> Result<Target, ConnectError> {
        let refuse = || ConnectError::Address(address.to_owned());
        let uri = match address.strip_prefix("unix://") {
            Some(path) => socket_uri(path).ok_or_else(refuse)?,
            None => address.parse::<Uri>().map_err(|_| refuse())?,
        };
        if !matches!(uri.scheme_str(), Some("https" | "http" | "unix")) {
            return Err(refuse());
        }
        let is_socket = uri.scheme_str() == Some("unix");
        let host = if is_socket { String::new() } else { uri.host().unwrap_or_default().to_owned() };
        let mut endpoint = Endpoint::from(uri);
        if is_socket {
            // What requests name as their authority: a path cannot be one.
            endpoint = endpoint.origin(Uri::from_static("http://localhost"));
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_connection_window_size(WINDOW)
            .initial_stream_window_size(WINDOW)
            .http2_keep_alive_interval(self.keep_alive.interval)
            .keep_alive_timeout(self.keep_alive.timeout)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        Ok(Target { address: address.to_owned(), host, endpoint })
    }

    async fn open(self, target: Target, clock: Arc<dyn Clock>) -> Result<Connection, ConnectError> {
        let Target { address, host, endpoint } = target;
        let opened = endpoint.connect_with_connector(self.clone()).await;
        let channel = opened.map_err(|error| not_opened(address, &error))?;
        let reopen = Arc::new(move || endpoint.connect_with_connector_lazy(self.clone()));
        Ok(Connection::new(channel, host, reopen, clock))
    }

    async fn stream(self, uri: Uri) -> Result<Stream, BoxError> {
        if uri.scheme_str() == Some("unix") {
            return Ok(Box::new(tokio::net::UnixStream::connect(socket_path(&uri)).await?));
        }
        let host = uri.host().ok_or("the address has no host")?.trim_matches(['[', ']']).to_owned();
        let plain = match self.proxies.intercept(&uri) {
            Some(proxy) => through_proxy(proxy, &uri).await?,
            None => direct().call(with_port(&uri)?).await?.into_inner(),
        };
        plain.set_nodelay(true)?;
        if uri.scheme_str() != Some("https") {
            return Ok(Box::new(plain));
        }
        Ok(Box::new(self.tls.connect(ServerName::try_from(host)?, plain).await?))
    }
}

fn not_opened(address: String, error: &tonic::transport::Error) -> ConnectError {
    let mut source = std::error::Error::source(error);
    while let Some(reason) = source {
        if let Some(tunnel) = reason.downcast_ref::<TunnelError>() {
            let reason = tunnel.to_string();
            return match tunnel.is_final() {
                true => ConnectError::Refused { address, reason },
                false => ConnectError::Failed { address, reason },
            };
        }
        source = reason.source();
    }
    ConnectError::Failed { address, reason: describe(error) }
}

/// The first error of a race, and whether it has not yet let the next address start.
type FirstError = Option<(ConnectError, bool)>;

fn note(first: &mut FirstError, error: ConnectError) {
    match first {
        Some((_, fresh)) => *fresh = true,
        None => *first = Some((error, true)),
    }
}

fn first_error_is_new(first: &mut FirstError) -> bool {
    first.as_mut().is_some_and(|(_, fresh)| std::mem::take(fresh))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A connection, plain or encrypted.
pub type Stream = Box<dyn ByteStream>;
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.stream(uri).await.map(TokioIo::new) })
    }
}

fn direct() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector
}

async fn through_proxy(proxy: Intercept, uri: &Uri) -> Result<tokio::net::TcpStream, BoxError> {
    let address = with_default_port(proxy.uri(), 1080)?;
    let target = with_port(uri)?;
    let stream = match proxy.uri().scheme_str() {
        Some("http") => {
            let way = with_default_port(proxy.uri(), 80)?;
            let authority = |uri: &Uri| uri.authority().map(ToString::to_string).unwrap_or_default();
            let authorization = proxy.basic_auth().map(HeaderValue::as_bytes);
            let (proxy, target) = (authority(&way), authority(&target));
            let tunnel = Tunnel { proxy: &proxy, target: &target, authorization };
            return Ok(tunnel.open().await?);
        }
        Some(scheme @ ("socks5" | "socks5h")) => {
            let mut socks = SocksV5::new(address, direct()).local_dns(scheme == "socks5");
            if let Some((user, password)) = proxy.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            socks.call(target).await?
        }
        Some(scheme @ ("socks4" | "socks4a")) => {
            SocksV4::new(address, direct()).local_dns(scheme == "socks4").call(target).await?
        }
        scheme => return Err(format!("a proxy of kind {scheme:?} is not supported").into()),
    };
    Ok(stream.into_inner())
}

fn with_port(uri: &Uri) -> Result<Uri, BoxError> {
    with_default_port(uri, if uri.scheme_str() == Some("https") { 443 } else { 80 })
}

fn with_default_port(uri: &Uri, port: u16) -> Result<Uri, BoxError> {
    let host = uri.host().ok_or("the address has no host")?;
    let port = uri.port_u16().unwrap_or(port);
    Ok(Uri::builder()
        .scheme(uri.scheme_str().unwrap_or("http"))
        .authority(format!("{host}:{port}"))
        .path_and_query("/")
        .build()?)
}

#[derive(Clone)]
struct Target {
    address: String,
    host: String,
    endpoint: Endpoint,
}

/// A socket's path as the host part of an address, in hexadecimal: paths are not otherwise allowed there.
fn socket_uri(path: &str) -> Option<Uri> {
    let hex: String = path.bytes().map(|byte| format!("{byte:02x}")).collect();
    Uri::builder().scheme("unix").authority(hex).path_and_query("/").build().ok()
}

fn socket_path(uri: &Uri) -> String {
    let hex = uri.host().unwrap_or_default();
    let byte = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    String::from_utf8_lossy(&(0..hex.len()).step_by(2).filter_map(byte).collect::<Vec<_>>()).into_owned()
}
