//! In front of a service: notes every call, and lets faults happen.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use accel::backend::modal::wire::client as wire;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::call::Call;
use super::link::Link;
use super::mangle::{Mangled, Mangling};
use super::{Shared, state};

/// Its body may never end, so it is passed on as it comes.
const STREAMED: &str = "TaskExecStdinWriteStream";

/// What happens to a call instead of being answered, or beside it.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Refused before anything is done.
    Status(Status),
    /// No answer, ever, and nothing done.
    Silence,
    /// Done this much later.
    Slow(Duration),
    /// Done at once, answered this much later.
    LateAnswer(Duration),
    /// Done, but the answer never leaves: the stream is reset.
    AnswerLost,
    /// Done, but instead of an answer all connections to the service close.
    Disconnected,
    /// Done; the answer breaks off after this many bytes.
    CutAfter(usize),
    /// Answered at once with nothing set, and nothing done.
    Nothing,
    /// Done; what is answered is changed on its way.
    Mangled(Mangling),
    /// Of a transfer: another status.
    Http(u16),
    /// Of a transfer: an ETag that is not the content's.
    WrongEtag,
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

#[derive(Clone)]
pub struct Faulty<S> {
    inner: S,
    state: Shared,
    link: Link,
    admit: Admit,
}

/// Who may call a method.
pub type Admit = fn(&super::State, &str, &http::HeaderMap) -> Result<(), Status>;

impl<S> Faulty<S> {
    pub fn new(inner: S, state: Shared, link: Link, admit: Admit) -> Self {
        Self { inner, state, link, admit }
    }
}

impl<S: NamedService> NamedService for Faulty<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Faulty<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let start = Instant::now();
        let (mut inner, state, link) = (self.inner.clone(), self.state.clone(), self.link.clone());
        let admit = self.admit;
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let method = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
            let Ok((message, body)) = read(&method, body).await else {
                return Ok(Status::cancelled("the request broke off").into_http());
            };
            let admitted = admit(&state::lock(&state), &method, &parts.headers);
            let call =
                Call { method, headers: headers(&parts.headers), message, start, end: None, code: None };
            let creating = Creating::of(&call, &state);
            let (entry, fault, delay) = arrive(&state, call);
            tokio::time::sleep(delay).await;
            let mut response = match &fault {
                Some(Fault::Silence) => std::future::pending().await,
                Some(Fault::Status(status)) => status.clone().into_http(),
                Some(Fault::Nothing) => nothing(),
                _ if admitted.is_err() => admitted.unwrap_err().into_http(),
                fault => {
                    let (before, after) = match fault {
                        Some(Fault::Slow(longer)) => (*longer, Duration::ZERO),
                        Some(Fault::LateAnswer(longer)) => (Duration::ZERO, *longer),
                        _ => (Duration::ZERO, Duration::ZERO),
                    };
                    // A client that gives up does not stop the server.
                    let work = tokio::spawn(async move {
                        tokio::time::sleep(before).await;
                        let answer = inner.call(http::Request::from_parts(parts, body)).await;
                        drop(creating);
                        answer
                    });
                    let response = work.await.expect("handlers do not panic")?;
                    tokio::time::sleep(after).await;
                    response
                }
            };
            if let Some(code) = status_of(response.headers()) {
                entry.answered(code);
            }
            let every = state::lock(&state).every;
            let mangling = match &fault {
                Some(Fault::Mangled(mangling)) => Some(*mangling),
                _ => every.filter(|_| fault.is_none()),
            };
            if let Some(mangling) = mangling {
                response = response.map(|body| Body::new(Mangled::new(body, mangling)));
            }
            let left = match fault {
                Some(Fault::Disconnected) => {
                    link.cut();
                    std::future::pending().await
                }
                Some(Fault::AnswerLost) => {
                    // A refusal has its status in the head, which must not arrive either.
                    response = http::Response::builder()
                        .header("content-type", "application/grpc")
                        .body(response.into_body())
                        .unwrap();
                    Some(0)
                }
                Some(Fault::CutAfter(bytes)) => Some(bytes),
                _ => None,
            };
            Ok(response.map(|body| Body::new(Watched { body, entry, left })))
        })
    }
}

/// An empty message, and all is well.
fn nothing() -> http::Response<Body> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) });
    let response = http::Response::builder().header("content-type", "application/grpc");
    response.body(Body::new(body)).unwrap()
}

/// Counts a create call from its arrival until it has made what it makes, or never will.
struct Creating(Shared);

impl Creating {
    fn of(call: &Call, state: &Shared) -> Option<Self> {
        ["SandboxCreate", "SandboxCreateV2"].contains(&call.method.as_str()).then(|| {
            state::lock(state).creating += 1;
            Self(state.clone())
        })
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        state::lock(&self.0).creating -= 1;
    }
}

/// The message within the body, and the body again.
async fn read(method: &str, body: Body) -> Result<(Bytes, Body), Status> {
    if method == STREAMED {
        return Ok((Bytes::new(), body));
    }
    let bytes = body.collect().await?.to_bytes();
    // One byte of flags and four of length come first.
    let message = if bytes.len() < 5 { Bytes::new() } else { bytes.slice(5..) };
    Ok((message, Body::new(Full::new(bytes))))
}

fn headers(headers: &http::HeaderMap) -> std::collections::BTreeMap<String, String> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Notes a call; says what is to happen to it.
pub fn arrive(state: &Shared, call: Call) -> (Entry, Option<Fault>, Duration) {
    let mut locked = state::lock(state);
    let fault = locked.faults.get_mut(&call.method).and_then(std::collections::VecDeque::pop_front).flatten();
    let start = call.start;
    locked.calls.push(call);
    (Entry { state: state.clone(), start }, fault, locked.delay)
}

/// A call in the notes; it has ended when this is dropped.
pub struct Entry {
    state: Shared,
    /// Finds it again, also after some notes were dropped.
    start: Instant,
}

impl Entry {
    pub fn answered(&self, code: i32) {
        self.change(|call| call.code = Some(code));
    }

    fn change(&self, change: impl FnOnce(&mut Call)) {
        let mut state = state::lock(&self.state);
        if let Some(call) = state.calls.iter_mut().find(|call| call.start == self.start) {
            change(call);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.change(|call| call.end = Some(Instant::now()));
    }
}

fn status_of(headers: &http::HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// An answer that notes its end and may break off.
struct Watched {
    body: Body,
    entry: Entry,
    /// Bytes until it breaks.
    left: Option<usize>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.left == Some(0) {
            return Poll::Ready(Some(Err(Status::internal("cut"))));
        }
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => return other,
        };
        if let Some(code) = frame.trailers_ref().and_then(status_of) {
            self.entry.answered(code);
        }
        let Some(left) = self.left else { return Poll::Ready(Some(Ok(frame))) };
        let Ok(data) = frame.into_data() else {
            return Poll::Ready(Some(Err(Status::internal("cut"))));
        };
        let passed = data.slice(..data.len().min(left));
        self.left = Some(left - passed.len());
        Poll::Ready(Some(Ok(Frame::data(passed))))
    }
}
