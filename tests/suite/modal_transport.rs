//! Calls over the wire: what is sent, what is repeated, what becomes of errors.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use accel::backend::BoxFuture;
use accel::backend::modal::clock::Clock;
use accel::backend::modal::connect::{ConnectBudget, Connector, Proxies};
use accel::backend::modal::control_plane::{CallOptions, ControlPlane, Notice};
use accel::backend::modal::error::{ErrorKind, ModalError};
use accel::backend::modal::identity::Machine;
use accel::backend::modal::method::{client, task};
use accel::backend::modal::retry::RetryPolicy;
use accel::backend::modal::router::{Renew, Router, RouterAccess};
use accel::backend::modal::settings::{Credentials, Secret, Settings, ThrottleLimit};
use accel::backend::modal::wire::client as wire;
use accel::backend::modal::wire::task_command_router as router_wire;
use accel::domain::Cause;
use accel::net::NetworkSettings;
use base64::Engine as _;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::Code;

use crate::fake_modal::{Call, FakeModal, Fault, jwt};

/// Sleeps take no time but are noted, and move the clock.
struct TestClock(Mutex<(Duration, Vec<Duration>)>, Instant, Duration);

impl TestClock {
    fn new() -> Arc<Self> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Arc::new(Self(Mutex::new((now, Vec::new())), Instant::now(), now))
    }

    fn slept(&self) -> Vec<u128> {
        self.0.lock().unwrap().1.iter().map(Duration::as_millis).collect()
    }

    fn advance(&self, duration: Duration) {
        self.0.lock().unwrap().0 += duration;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().0
    }

    fn awake(&self) -> Instant {
        self.1 + self.now().saturating_sub(self.2)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        let mut state = self.0.lock().unwrap();
        state.0 += duration;
        state.1.push(duration);
        // Lets others go first, as a real sleep would.
        Box::pin(tokio::task::yield_now())
    }

    fn fraction(&self) -> f64 {
        0.5
    }
}

struct World {
    modal: FakeModal,
    clock: Arc<TestClock>,
    control_plane: ControlPlane,
    notices: Arc<Mutex<Vec<Notice>>>,
}

fn connector() -> Connector {
    Connector::new(&NetworkSettings::default(), Proxies::Used).unwrap()
}

fn settings(url: &str, variables: &[(&str, &str)]) -> Settings {
    let mut all = BTreeMap::from([("MODAL_SERVER_URL".to_owned(), url.to_owned())]);
    all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Settings::load(Path::new("none"), None, &all).unwrap()
}

fn credentials() -> Credentials {
    Credentials::Token { id: "ak-test".into(), secret: Secret::new("as-test") }
}

async fn connect(
    settings: &Settings,
    connector: &Connector,
    clock: Arc<TestClock>,
) -> Result<(ControlPlane, Arc<Mutex<Vec<Notice>>>), ModalError> {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let kept = notices.clone();
    let on_notice = Arc::new(move |notice| kept.lock().unwrap().push(notice));
    let machine =
        Machine { node: "a host".into(), system: "Linux".into(), release: "6".into(), arch: "x".into() };
    let plane =
        ControlPlane::connect(connector, settings, &credentials(), &machine, clock, on_notice).await?;
    Ok((plane, notices))
}

async fn world(variables: &[(&str, &str)]) -> World {
    let modal = FakeModal::start().await;
    let clock = TestClock::new();
    let (control_plane, notices) =
        connect(&settings(&modal.url(), variables), &connector(), clock.clone()).await.unwrap();
    World { modal, clock, control_plane, notices }
}

impl World {
    async fn app(&self) -> Result<String, ModalError> {
        let request = wire::AppGetOrCreateRequest { app_name: "a".into(), ..Default::default() };
        Ok(self.control_plane.call(client::APP_GET_OR_CREATE, request).await?.app_id)
    }

    /// A call that needs the auth token.
    async fn list(&self) -> Result<wire::SandboxListResponse, ModalError> {
        self.control_plane.call(client::SANDBOX_LIST_V2, wire::SandboxListRequest::default()).await
    }
}

fn header(calls: &[Call], name: &str) -> Vec<String> {
    calls.iter().map(|call| call.headers.get(name).cloned().unwrap_or_default()).collect()
}

#[tokio::test]
async fn calls_carry_the_headers_of_the_official_client() {
    let world = world(&[]).await;
    world.app().await.unwrap();
    let call = world.modal.calls_of("AppGetOrCreate").remove(0);
    let headers: Vec<_> = call
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-"))
        .map(|(name, value)| match name.as_str() {
            "x-idempotency-key" | "x-modal-timestamp" => format!("{name}: …"),
            _ => format!("{name}: {value}"),
        })
        .collect();
    insta::assert_snapshot!(headers.join("\n"), @r"
    x-idempotency-key: …
    x-modal-client-type: 1
    x-modal-client-version: 1.6.4
    x-modal-host: 127.0.0.1
    x-modal-node: a%20host
    x-modal-platform: Linux-6-x
    x-modal-python-version: 3.12.0
    x-modal-timestamp: …
    x-modal-token-id: ak-test
    x-modal-token-secret: as-test
    x-retry-attempt: 0
    x-throttle-retry-attempt: 0
    ");
}

#[tokio::test]
async fn transient_faults_are_repeated_with_one_idempotency_key() {
    let world = world(&[]).await;
    world.modal.fail("AppGetOrCreate", [Code::Unavailable, Code::Internal, Code::Unknown].map(Fault::code));
    world.app().await.unwrap();
    let calls = world.modal.calls_of("AppGetOrCreate");
    assert_eq!(header(&calls, "x-retry-attempt"), ["0", "1", "2", "3"]);
    let keys = header(&calls, "x-idempotency-key");
    assert!(keys.iter().all(|key| *key == keys[0] && key.len() == 36), "{keys:?}");
    assert_eq!(world.clock.slept(), [100, 200, 400]);
    assert_eq!(calls[0].headers.get("x-retry-delay"), None);
    assert!(calls[3].headers.contains_key("x-retry-delay"));
    world.app().await.unwrap();
    assert_ne!(header(&world.modal.calls_of("AppGetOrCreate"), "x-idempotency-key")[4], keys[0]);
}

#[tokio::test]
async fn every_status_becomes_an_error_with_its_cause() {
    let world = world(&[]).await;
    let mut table = Vec::new();
    for code in (1..=16).map(Code::from_i32) {
        let fault = Fault::code(code);
        world.modal.fail("AppGetOrCreate", [fault.clone(), fault.clone(), fault.clone(), fault]);
        let error = world.app().await.unwrap_err();
        let failure = error.clone().into_failure();
        assert_eq!(failure.exit_code, 125);
        table.push(format!("{code:?}: {:?} {} after {}", error.kind, failure.cause, error.attempts));
        world.modal.state().faults.clear();
    }
    insta::assert_snapshot!(table.join("\n"), @r"
    Cancelled: Service infra after 4
    Unknown: Service infra after 4
    InvalidArgument: InvalidRequest infra after 1
    DeadlineExceeded: DeadlineExceeded unreachable after 4
    NotFound: NotFound infra after 1
    AlreadyExists: AlreadyExists infra after 1
    PermissionDenied: Permission auth after 1
    ResourceExhausted: Exhausted capacity after 1
    FailedPrecondition: Conflict infra after 1
    Aborted: Conflict infra after 1
    OutOfRange: InvalidRequest infra after 1
    Unimplemented: Unimplemented infra after 1
    Internal: Service infra after 4
    Unavailable: Service infra after 4
    DataLoss: Service infra after 1
    Unauthenticated: Auth auth after 1
    ");
}

#[tokio::test]
async fn the_server_is_waited_for_when_it_asks() {
    let world = world(&[]).await;
    let busy = || Fault::throttle(Code::ResourceExhausted, 0.3);
    world
        .modal
        .fail("AppGetOrCreate", [busy(), busy(), busy(), busy(), busy(), Fault::code(Code::Unavailable)]);
    world.app().await.unwrap();
    let calls = world.modal.calls_of("AppGetOrCreate");
    assert_eq!(header(&calls, "x-throttle-retry-attempt"), ["0", "1", "2", "3", "4", "5", "5"]);
    assert_eq!(header(&calls, "x-retry-attempt"), ["0", "0", "0", "0", "0", "0", "1"]);
    let notices = world.notices.lock().unwrap().clone();
    assert!(
        matches!(&notices[..], [Notice::Throttled { message, .. }] if message == "too fast"),
        "{notices:?}"
    );
}

#[tokio::test]
async fn waiting_for_the_server_can_be_limited() {
    let world = world(&[("MODAL_MAX_THROTTLE_WAIT", "1")]).await;
    world.modal.fail("AppGetOrCreate", [Fault::throttle(Code::ResourceExhausted, 2.0)]);
    let error = world.app().await.unwrap_err();
    assert_eq!((error.kind, error.into_failure().cause), (ErrorKind::Throttled, Cause::Capacity));
}

#[tokio::test]
async fn deadlines_are_told_and_kept() {
    let world = world(&[]).await;
    world.modal.fail("AppGetOrCreate", [Fault::Silence]);
    let policy = RetryPolicy::NONE.attempt_timeout(Duration::from_millis(50));
    let request = wire::AppGetOrCreateRequest::default();
    let error =
        world.control_plane.call(client::APP_GET_OR_CREATE.with_retry(policy), request).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
    assert_eq!(world.modal.calls_of("AppGetOrCreate")[0].headers["grpc-timeout"], "50000000n");
}

#[tokio::test]
async fn warnings_are_shown_once_whatever_the_outcome() {
    let world = world(&[]).await;
    world.modal.state().warnings = vec!["old%20client", "50%25"];
    let fault = Fault::code(Code::NotFound).warning("gone%20soon").warning("old%20client");
    world.modal.fail("AppGetOrCreate", [fault]);
    world.app().await.unwrap_err();
    world.app().await.unwrap();
    world.app().await.unwrap();
    let warning = |text: &str| Notice::Warning(text.into());
    assert_eq!(*world.notices.lock().unwrap(), ["gone soon", "old client", "50%"].map(warning));
}

#[tokio::test]
async fn the_auth_token_is_fetched_once_and_renewed_in_time() {
    let world = world(&[]).await;
    let (first, second) = tokio::join!(world.list(), world.list());
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(world.modal.calls_of("AuthTokenGet").len(), 1);
    let tokens = header(&world.modal.calls_of("SandboxListV2"), "x-modal-auth-token");
    assert!(tokens[0] == tokens[1] && !tokens[0].is_empty(), "{tokens:?}");
    // An hour's life, renewed after 55 per cent of it.
    world.clock.advance(Duration::from_secs(32 * 60));
    world.list().await.unwrap();
    assert_eq!(world.modal.calls_of("AuthTokenGet").len(), 1);
    world.clock.advance(Duration::from_secs(2 * 60));
    world.list().await.unwrap();
    assert_eq!(world.modal.calls_of("AuthTokenGet").len(), 2);
    assert_ne!(header(&world.modal.calls_of("SandboxListV2"), "x-modal-auth-token")[3], tokens[0]);
}

#[tokio::test]
async fn a_failed_renewal_uses_the_old_token_and_backs_off() {
    let world = world(&[]).await;
    world.list().await.unwrap();
    world.clock.advance(Duration::from_secs(40 * 60));
    world.modal.fail("AuthTokenGet", [Fault::code(Code::Unavailable)]);
    world.list().await.unwrap();
    world.list().await.unwrap();
    assert_eq!(world.modal.calls_of("AuthTokenGet").len(), 2, "backing off for half a second");
    let tokens = header(&world.modal.calls_of("SandboxListV2"), "x-modal-auth-token");
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    world.clock.advance(Duration::from_secs(1));
    world.modal.fail("AuthTokenGet", [Fault::code(Code::Unauthenticated)]);
    let error = world.list().await.unwrap_err();
    assert_eq!((error.kind, error.method), (ErrorKind::Auth, "SandboxListV2"));
}

#[tokio::test]
async fn a_sandbox_token_goes_along() {
    let world = world(&[]).await;
    let options = CallOptions { sandbox_token: Some(Secret::new("sandbox-secret")) };
    let request = wire::SandboxListRequest::default();
    world.control_plane.call_with(client::SANDBOX_LIST_V2, request, &options).await.unwrap();
    assert_eq!(header(&world.modal.calls_of("SandboxListV2"), "x-modal-sandbox-token"), ["sandbox-secret"]);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_fails() {
    let modal = FakeModal::start().await;
    let refused = closed_port().await;
    let urls = format!("http://{refused}, {}", modal.url());
    let (plane, _) = connect(&settings(&urls, &[]), &connector(), TestClock::new()).await.unwrap();
    plane.call(client::APP_GET_OR_CREATE, wire::AppGetOrCreateRequest::default()).await.unwrap();
}

/// An address that nobody listens on.
async fn closed_port() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn an_unreachable_server_is_said_to_be_so_after_the_whole_budget() {
    let address = closed_port().await;
    let clock = TestClock::new();
    let error = connect(&settings(&format!("http://{address}"), &[]), &connector(), clock.clone())
        .await
        .err()
        .unwrap();
    assert_eq!(
        (error.kind, error.clone().into_failure().cause),
        (ErrorKind::Unreachable, Cause::Unreachable)
    );
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let slept = clock.slept();
    assert_eq!((slept[0], slept.len()), (100, 17), "{slept:?}");
}

#[tokio::test]
async fn bad_addresses_are_refused() {
    for address in ["ftp://x", "api.modal.com:443 x", ""] {
        let error = connector()
            .connect(address, ConnectBudget::CONTROL_PLANE, &(TestClock::new() as Arc<dyn Clock>))
            .await;
        assert!(error.is_err(), "{address}");
    }
}

/// A proxy that answers CONNECT and passes bytes on; the first line of each request comes out.
async fn proxy() -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut inbound, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(inbound.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split_whitespace().nth(1).unwrap().to_owned();
                seen.send(head).unwrap();
                let mut outbound = tokio::net::TcpStream::connect(target).await.unwrap();
                inbound.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await;
            });
        }
    });
    (format!("http://user:word@{address}"), requests)
}

#[tokio::test]
async fn calls_go_through_the_proxy_unless_told_otherwise() {
    let modal = FakeModal::start().await;
    let (url, mut requests) = proxy().await;
    let network = NetworkSettings { http_proxy: Some(url), ..NetworkSettings::default() };
    let through = Connector::new(&network, Proxies::Used).unwrap();
    let settings = settings(&modal.url(), &[]);
    let (plane, _) = connect(&settings, &through, TestClock::new()).await.unwrap();
    plane.call(client::APP_GET_OR_CREATE, wire::AppGetOrCreateRequest::default()).await.unwrap();
    let head = requests.recv().await.unwrap();
    assert!(head.starts_with(&format!("CONNECT {}", modal.url().trim_start_matches("http://"))), "{head}");
    assert!(
        head.to_lowercase().contains("proxy-authorization: basic dxnlcjp3b3jk".to_lowercase().as_str()),
        "{head}"
    );
    let except = NetworkSettings { no_proxy: Some("127.0.0.1".into()), ..network.clone() };
    for direct in [Connector::new(&except, Proxies::Used), Connector::new(&network, Proxies::Ignored)] {
        connect(&settings, &direct.unwrap(), TestClock::new()).await.unwrap();
    }
    assert!(requests.try_recv().is_err(), "no further connection went through the proxy");
}

async fn router(world: &World, jwt: String, renewed: Arc<Mutex<Vec<String>>>) -> Router {
    let url = world.modal.router_url();
    let access = RouterAccess { url: url.clone(), jwt: Secret::new(jwt) };
    let renew: Renew = Arc::new(move || {
        let (url, renewed) = (url.clone(), renewed.clone());
        Box::pin(async move {
            let jwt = renewed.lock().unwrap().pop().expect("no further renewal is expected");
            Ok(RouterAccess { url, jwt: Secret::new(jwt) })
        })
    });
    Router::connect(&connector(), access, renew, ThrottleLimit::Unlimited, world.clock.clone()).await.unwrap()
}

#[tokio::test]
async fn a_refused_router_token_is_renewed_once_for_all_callers() {
    let world = world(&[]).await;
    let now = i64::try_from(world.clock.now().as_secs()).unwrap();
    let (old, good) = (jwt(now + 10, 1), jwt(now + 3600, 2));
    world.modal.state().router_token = Some(good.clone());
    let renewed = Arc::new(Mutex::new(vec![good.clone()]));
    let router = router(&world, old, renewed.clone()).await;
    let poll = || router.call(task::EXEC_POLL, router_wire::TaskExecPollRequest::default());
    let mut polls = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let router = router.clone();
        polls.spawn(async move {
            router.call(task::EXEC_POLL, router_wire::TaskExecPollRequest::default()).await
        });
    }
    let code = Some(router_wire::task_exec_poll_response::ExitStatus::Code(7));
    for poll in polls.join_all().await {
        assert_eq!(poll.unwrap().exit_status, code);
    }
    let calls = world.modal.calls_of("TaskExecPoll");
    assert!(calls.iter().all(|call| !call.headers.contains_key("x-modal-token-secret")));
    assert_eq!(header(&calls, "authorization").last().unwrap(), &format!("Bearer {good}"));
    // A token that is refused although it is fresh is not renewed, and the refusal is final.
    world.modal.state().router_token = Some("another".into());
    assert_eq!(poll().await.unwrap_err().kind, ErrorKind::Auth);
}

#[tokio::test]
async fn router_streams_resume_where_they_are_told() {
    let world = world(&[]).await;
    world.modal.state().output = b"hello, world".to_vec();
    world.modal.fail("TaskExecStdioRead", [Fault::code(Code::Unavailable)]);
    let router = router(&world, String::new(), Arc::default()).await;
    let request = router_wire::TaskExecStdioReadRequest { offset: 7, ..Default::default() };
    let mut stream = router.stream(task::EXEC_STDIO_READ, request).await.unwrap();
    let mut text = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        text.extend_from_slice(&chunk.data);
    }
    assert_eq!(text, b"world");
    assert_eq!(world.clock.slept(), [10]);
}

/// Decodes and encodes again; what the schema lacks would be lost.
fn round_trip<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).unwrap().encode_to_vec()
}

macro_rules! round_trips {
    ($($package:ident: $($message:ident)*;)*) => {
        fn round_trip_of(message: &str, bytes: &[u8]) -> Option<Vec<u8>> {
            match message {
                $($(stringify!($message) => Some(round_trip::<$package::$message>(bytes)),)*)*
                _ => None,
            }
        }
    };
}

round_trips! {
    wire: AppGetOrCreateRequest AuthTokenGetRequest BlobCreateRequest EnvironmentGetOrCreateRequest
        ImageGetOrCreateRequest ImageJoinStreamingRequest MountBatchedCheckExistenceRequest MountGetOrCreateRequest
        MountPutFileRequest ProxyGetRequest SandboxCreateRequest SandboxCreateV2Request
        SandboxGetCommandRouterAccessRequest SandboxGetFromNameRequest SandboxGetLogsRequest SandboxGetTaskIdRequest
        SandboxGetTunnelsRequest SandboxListRequest SandboxTagsGetRequest SandboxTagsSetRequest SandboxSetNameRequest
        SandboxTerminateRequest SandboxWaitRequest SecretGetOrCreateRequest TaskGetCommandRouterAccessRequest
        VolumeGetOrCreateRequest SandboxCreateConnectTokenRequest SandboxStdinWriteRequest;
    router_wire: TaskExecPollRequest TaskExecStartRequest TaskExecStdinWriteRequest TaskExecStdioReadRequest
        TaskExecWaitRequest TaskReloadVolumesRequest SandboxStdioReadV2Request SandboxWaitUntilReadyTcrRequest
        TaskSnapshotFilesystemRequest TaskSnapshotDirectoryRequest TaskMountDirectoryRequest;
}

/// Recorded requests of things that accel does not do.
const NOT_SPOKEN: [&str; 7] = [
    "FunctionGetRequest",
    "FunctionMapRequest",
    "FunctionGetOutputsRequest",
    "AttemptStartRequest",
    "AttemptAwaitRequest",
    "Empty",
    "SandboxWaitUntilReadyRequest",
];

#[test]
fn recorded_requests_survive_our_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/modal/golden-requests.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let mut kept = 0;
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let message = line["message"].as_str().unwrap().rsplit('.').next().unwrap();
        let bytes = base64::prelude::BASE64_STANDARD.decode(line["request_b64"].as_str().unwrap()).unwrap();
        let Some(mut again) = round_trip_of(message, &bytes) else {
            assert!(NOT_SPOKEN.contains(&message), "{message} is not checked");
            continue;
        };
        let mut bytes = bytes;
        // The order of a map's entries is nobody's promise; everything else must be where it was.
        if again != bytes {
            again.sort_unstable();
            bytes.sort_unstable();
        }
        assert!(again == bytes, "{message} ({}) lost something", line["scenario"]);
        kept += 1;
    }
    assert!(kept > 100, "{kept} requests");
}

/// In front of a plain server: TLS with a certificate that only `SSL_CERT_FILE` makes trusted.
async fn tls_front(target: String, folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("root.pem"), made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((inbound, _)) = listener.accept().await {
            let (acceptor, target) = (acceptor.clone(), target.clone());
            tokio::spawn(async move {
                let Ok(mut inbound) = acceptor.accept(inbound).await else { return };
                let mut outbound = tokio::net::TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await;
            });
        }
    });
    format!("https://localhost:{port}")
}

#[tokio::test]
async fn tls_trusts_the_users_certificates_and_no_others() {
    let modal = FakeModal::start().await;
    let folder = tempfile::tempdir().unwrap();
    let target = modal.url().trim_start_matches("http://").to_owned();
    let settings = settings(&tls_front(target, folder.path()).await, &[]);
    let trusting = NetworkSettings {
        certificate_file: Some(folder.path().join("root.pem")),
        ..NetworkSettings::default()
    };
    let trusting = Connector::new(&trusting, Proxies::Used).unwrap();
    let (plane, _) = connect(&settings, &trusting, TestClock::new()).await.unwrap();
    plane.call(client::APP_GET_OR_CREATE, wire::AppGetOrCreateRequest::default()).await.unwrap();
    let error = connect(&settings, &connector(), TestClock::new()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.message.to_lowercase().contains("certificate"), "{error}");
}
