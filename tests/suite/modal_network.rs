//! What lies between accel and Modal: addresses that swallow everything, proxies that let only some through, many
//! callers at once. Counted in calls, not in time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use accel::backend::BoxFuture;
use accel::backend::modal::clock::Clock;
use accel::backend::modal::connect::{Connector, Proxies};
use accel::backend::modal::control_plane::{ControlPlane, Notice};
use accel::backend::modal::identity::Machine;
use accel::backend::modal::method::client;
use accel::backend::modal::settings::{Credentials, Secret, Settings};
use accel::backend::modal::wire::client as wire;
use accel::net::NetworkSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::Code;

use crate::fake_modal::{Call, FakeModal, Fault};
use crate::world::World;

/// Sleeps are noted and take no time; what waits for one lets everything else go first.
#[derive(Default)]
struct CountingClock {
    ahead: Mutex<Duration>,
    slept: Mutex<Vec<Duration>>,
}

impl Clock for CountingClock {
    fn now(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
            + *self.ahead.lock().unwrap()
    }

    fn awake(&self) -> Instant {
        Instant::now() + *self.ahead.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.slept.lock().unwrap().push(duration);
        Box::pin(tokio::task::yield_now())
    }

    fn fraction(&self) -> f64 {
        0.5
    }
}

struct Client {
    plane: ControlPlane,
    clock: Arc<CountingClock>,
    notices: Arc<Mutex<Vec<Notice>>>,
}

async fn client(urls: &str) -> Client {
    let variables = BTreeMap::from([("MODAL_SERVER_URL".to_owned(), urls.to_owned())]);
    let settings = Settings::load(Path::new("none"), None, &variables).unwrap();
    let credentials = Credentials::Token { id: "ak-test".into(), secret: Secret::new("as-test") };
    let (clock, notices) = (Arc::<CountingClock>::default(), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&notices);
    let connector = Connector::new(&NetworkSettings::default(), Proxies::Ignored).unwrap();
    let machine = Machine::default();
    let plane = ControlPlane::connect(
        &connector,
        &settings,
        &credentials,
        &machine,
        Arc::clone(&clock) as Arc<dyn Clock>,
        Arc::new(move |notice| kept.lock().unwrap().push(notice)),
    );
    Client { plane: plane.await.unwrap(), clock, notices }
}

impl Client {
    async fn app(&self, name: usize) {
        let request = wire::AppGetOrCreateRequest { app_name: format!("app-{name}"), ..Default::default() };
        self.plane.call(client::APP_GET_OR_CREATE, request).await.unwrap();
    }

    async fn list(&self) {
        self.plane.call(client::SANDBOX_LIST_V2, wire::SandboxListRequest::default()).await.unwrap();
    }
}

/// At most how many of these calls were under way at one moment.
fn overlap(calls: &[Call]) -> usize {
    let during = |call: &Call| {
        let at = call.start;
        calls.iter().filter(|other| other.start <= at && other.end.is_none_or(|end| end > at)).count()
    };
    calls.iter().map(during).max().unwrap_or_default()
}

#[tokio::test]
async fn an_address_that_swallows_everything_only_costs_its_head_start() {
    let modal = FakeModal::start().await;
    // Connections are taken, and nothing is ever said.
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = hole.local_addr().unwrap();
    let (sender, mut swallowed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((connection, _)) = hole.accept().await {
            sender.send(connection).unwrap();
        }
    });
    // TLS has to be spoken there before the connection stands.
    let client = client(&format!("https://{address},{}", modal.url())).await;
    assert_eq!(*client.clock.slept.lock().unwrap(), [accel::backend::modal::connect::STAGGER]);
    client.app(1).await;
    assert_eq!(modal.calls_of("AppGetOrCreate").len(), 1);
    let first = swallowed.recv().await;
    assert!(first.is_some(), "the first address was tried");
    assert!(swallowed.try_recv().is_err(), "and only once");
}

#[tokio::test]
async fn many_callers_make_one_renewal_at_a_time() {
    let modal = FakeModal::start().await;
    modal.delay(Duration::from_millis(5));
    let client = client(&modal.url()).await;
    let all = async || {
        let work: Vec<_> = (0..64).map(|_| client.list()).collect();
        let work = work.into_iter().map(Box::pin).collect::<Vec<_>>();
        join(work).await;
    };
    all().await;
    assert_eq!(modal.calls_of("AuthTokenGet").len(), 1);
    // Due, then over; and one renewal that fails.
    for (ahead, fault) in [(40, None), (120, None), (240, Some(Fault::code(Code::Unavailable)))] {
        *client.clock.ahead.lock().unwrap() = Duration::from_secs(ahead * 60);
        modal.state().token_life = i64::try_from((ahead + 60) * 60).unwrap();
        let before = modal.calls_of("AuthTokenGet").len();
        let failures = usize::from(fault.is_some());
        modal.fail("AuthTokenGet", fault);
        all().await;
        assert_eq!(modal.calls_of("AuthTokenGet").len(), before + 1 + failures, "after {ahead} minutes");
    }
    assert_eq!(overlap(&modal.calls_of("AuthTokenGet")), 1);
    assert!(overlap(&modal.calls_of("SandboxListV2")) > 1, "the callers did come together");
}

/// All of them side by side, on this thread.
async fn join(mut work: Vec<std::pin::Pin<Box<impl Future<Output = ()>>>>) {
    std::future::poll_fn(|context| {
        work.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if work.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_asks_everybody_to_come_back_later_is_asked_no_oftener_than_it_says() {
    const CREATES: usize = 50;
    const WAIT: f32 = 2.0;
    let modal = FakeModal::start().await;
    let client = client(&modal.url()).await;
    let codes = [Code::ResourceExhausted, Code::Unavailable, Code::Internal, Code::PermissionDenied];
    modal.fail("AppGetOrCreate", (0..CREATES).map(|at| Fault::throttle(codes[at % codes.len()], WAIT)));
    join((0..CREATES).map(|name| Box::pin(client.app(name))).collect()).await;
    // Each creation once, and once more as it was told.
    let calls = modal.calls_of("AppGetOrCreate").len();
    assert_eq!(calls, 2 * CREATES, "at most 1.2 times of what is needed");
    let slept = client.clock.slept.lock().unwrap();
    assert_eq!(*slept, vec![Duration::from_secs_f32(WAIT); CREATES]);
    assert!(matches!(
        &client.notices.lock().unwrap()[0],
        Notice::Throttled { method: "AppGetOrCreate", wait, .. } if *wait == Duration::from_secs_f32(WAIT)
    ));
}

const CONFIG: &str = "version = 1
[project]
name = 'demo'
[defaults]
route = 'modal'
[jobs.it]
run = 'echo done'
";

fn world(modal: &FakeModal) -> World {
    World::new().file("accel.toml", CONFIG).envs(modal.variables())
}

#[test]
fn what_the_server_makes_a_run_wait_for_is_said() {
    let modal = FakeModal::serve();
    modal.fail("SandboxCreateV2", [Fault::throttle(Code::ResourceExhausted, 0.2)]);
    let done = world(&modal).accel(["run", "it", "--json"]).run();
    done.code(0).stdout_has("Modal asks to wait 0.2 s (SandboxCreateV2");
    assert_eq!(modal.calls_of("SandboxCreateV2").len(), 2);
}

/// Longer than anything here takes, so that a test that waits in vain says what it saw.
const DEADLINE: Duration = Duration::from_secs(30);

/// A proxy that refuses one host with a status; hosts that were asked for come out. Ends with the process.
fn proxy(refused: String, answer: &'static str) -> (String, std::sync::mpsc::Receiver<String>) {
    let (ready, started) = std::sync::mpsc::channel();
    let (asked, hosts) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ready.send(listener.local_addr().unwrap()).unwrap();
            while let Ok((inbound, _)) = listener.accept().await {
                tokio::spawn(pass(inbound, refused.clone(), answer, asked.clone()));
            }
        });
    });
    (format!("http://{}", started.recv().unwrap()), hosts)
}

async fn pass(
    mut inbound: tokio::net::TcpStream,
    refused: String,
    answer: &'static str,
    asked: std::sync::mpsc::Sender<String>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = inbound.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let host = head.split_whitespace().nth(1).unwrap().to_owned();
    let _ = asked.send(host.clone());
    if host.contains(&refused) {
        let _ = inbound.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).await;
        return;
    }
    let mut outbound = tokio::net::TcpStream::connect(host).await.unwrap();
    inbound.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await;
}

fn host(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}

#[test]
fn a_proxy_that_refuses_a_host_is_named_with_it_and_not_asked_for_ever() {
    let modal = FakeModal::serve();
    for (refused, calls) in [(modal.url(), 0), (modal.router_url(), 1)] {
        let (url, hosts) = proxy(host(&refused), "403 Forbidden");
        let done = world(&modal).env("HTTP_PROXY", &url).accel(["run", "it"]).run();
        done.code(125).stderr_has(&format!(
            "the proxy {} (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) refuses {}: 403 Forbidden; NO_PROXY names hosts",
            host(&url),
            host(&refused)
        ));
        // Connecting begins early, and is begun once more by the job that needs it.
        let asked = hosts.try_iter().filter(|asked| *asked == host(&refused)).count();
        assert!((1..=2).contains(&asked), "{refused}: {asked} times");
        assert_eq!(modal.sandboxes().len(), calls, "{refused}");
        assert!(modal.alive().is_empty());
    }
    modal.state().blob_scheme = "https";
    let (url, hosts) = proxy(host(&modal.blob_store_url()), "403 Forbidden");
    let world = world(&modal).file("large", vec![b'x'; 5 << 20]).env("HTTPS_PROXY", url);
    let refused = "a large file could not be uploaded: cannot connect to 127.0.0.1, as HTTPS_PROXY and NO_PROXY say how";
    world.accel(["run", "it"]).run().code(125).stderr_has(refused);
    assert_eq!(hosts.try_iter().count(), 3, "tried as often as any transfer");
}

#[test]
fn a_proxy_that_cannot_reach_a_host_yet_is_asked_again() {
    let modal = FakeModal::serve();
    let (url, hosts) = proxy(host(&modal.router_url()), "502 Bad Gateway");
    let world = world(&modal).env("HTTP_PROXY", &url);
    let mut running = world.accel(["run", "it"]).spawn();
    let router = host(&modal.router_url());
    let mut asked = 0;
    while asked < 2 {
        match hosts.recv_timeout(DEADLINE) {
            Ok(host) => asked += usize::from(host == router),
            Err(_) => panic!("asked {asked} times: {:?}", running.finish()),
        }
    }
    running.signal(crate::world::Signal::INT);
    running.finish().code(130);
    assert!(modal.alive().is_empty());
}
