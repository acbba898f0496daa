//! A Modal of the tests' own: both services on loopback, with faults to switch on.
//!
//! Owns what clients sent (headers and messages), the ids it gave out, and the faults still to come. The official
//! SDK can use it, which keeps it honest.

mod control_plane;
mod faults;
mod router;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use accel::backend::modal::wire::client as wire;
use base64::Engine as _;
use prost::Message;
use tokio::task::JoinHandle;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Code, Status};

/// The server sides, as generated.
#[allow(clippy::all, clippy::pedantic, dead_code, rustdoc::all)]
mod generated {
    pub mod client {
        include!("generated/modal.client.rs");
    }
    pub mod task_command_router {
        include!("generated/modal.task_command_router.rs");
    }
}

/// One call as it arrived.
#[derive(Debug, Clone)]
pub struct Call {
    /// `AppGetOrCreate`
    pub method: String,
    pub headers: BTreeMap<String, String>,
}

/// What happens to a call instead of being answered.
#[derive(Debug, Clone)]
pub enum Fault {
    Status(Status),
    /// No answer, ever.
    Silence,
}

impl Fault {
    pub fn code(code: Code) -> Self {
        Self::Status(Status::new(code, format!("made up: {code:?}")))
    }

    /// The server asks to come back later.
    pub fn throttle(code: Code, seconds: f32) -> Self {
        let value = wire::RpcRetryPolicy { retry_after_secs: seconds }.encode_to_vec();
        let detail =
            prost_types::Any { type_url: "type.modal.com/modal.client.RPCRetryPolicy".into(), value };
        let status = wire::RpcStatus { code: code as i32, message: String::new(), details: vec![detail] };
        Self::Status(Status::with_details(code, "too fast", status.encode_to_vec().into()))
    }

    /// Adds a warning, percent-encoded already.
    #[must_use]
    pub fn warning(mut self, text: &'static str) -> Self {
        if let Self::Status(status) = &mut self {
            status.metadata_mut().append("x-modal-warning", text.parse().unwrap());
        }
        self
    }
}

#[derive(Default)]
pub struct State {
    pub calls: Vec<Call>,
    /// By method, taken from the front.
    pub faults: BTreeMap<String, VecDeque<Fault>>,
    pub image_requests: Vec<wire::ImageGetOrCreateRequest>,
    /// What a lookup of the environment says.
    pub builder: String,
    /// How long tokens given out now live, in seconds; 0 or less: expired already.
    pub token_life: i64,
    /// The only router token that is let in; `None`: any.
    pub router_token: Option<String>,
    /// Output of every exec.
    pub output: Vec<u8>,
    /// Warnings that successful answers carry.
    pub warnings: Vec<&'static str>,
    ids: BTreeMap<String, String>,
    tokens: u32,
}

impl State {
    /// The same id for the same thing, a new one for a new thing.
    fn id(&mut self, kind: &str, thing: String) -> String {
        let next = self.ids.keys().filter(|key| key.starts_with(kind)).count() + 1;
        self.ids.entry(format!("{kind} {thing}")).or_insert_with(|| format!("{kind}-{next:022}")).clone()
    }

    /// A token that nobody checks, with a proper expiry.
    pub fn token(&mut self) -> String {
        self.tokens += 1;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let expires = i64::try_from(now.as_secs()).unwrap() + self.token_life;
        jwt(expires, self.tokens)
    }
}

/// An unsigned token that expires at a Unix time.
pub fn jwt(expires: i64, number: u32) -> String {
    let part = |text: String| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{number}", part("{}".into()), part(format!("{{\"exp\":{expires}}}")))
}

pub struct FakeModal {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl FakeModal {
    pub async fn start() -> Self {
        let state = State { builder: "2025.06".into(), token_life: 3600, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let control_plane = generated::client::modal_client_server::ModalClientServer::new(
            control_plane::ControlPlane(state.clone()),
        );
        let router = generated::task_command_router::task_command_router_server::TaskCommandRouterServer::new(
            router::Router(state.clone()),
        );
        let serving = Server::builder()
            .add_service(faults::Faulty::new(control_plane, state.clone()))
            .add_service(faults::Faulty::new(router, state.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        let server = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, state, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next calls of a method meet these faults, in order.
    pub fn fail(&self, method: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.entry(method.to_owned()).or_default().extend(faults);
    }

    pub fn calls_of(&self, method: &str) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.method == method).cloned().collect()
    }
}

impl Drop for FakeModal {
    fn drop(&mut self) {
        self.server.abort();
    }
}
