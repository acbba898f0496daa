//! The object store that presigned addresses point to.

use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use md5::{Digest, Md5};
use tokio::net::TcpListener;

use super::call::Call;
use super::faults::{self, Fault};
use super::storage::{self, hex};
use super::{Shared, state};

pub async fn serve(listener: TcpListener, state: Shared) {
    let router = Router::new().fallback(handle).layer(DefaultBodyLimit::disable()).with_state(state);
    axum::serve(listener, router).await.unwrap();
}

async fn handle(State(state): State<Shared>, request: Request) -> Response {
    let start = Instant::now();
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches('/').to_owned();
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let Ok(content) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let method = parts.method.to_string();
    let call = Call { method, headers, message: path.clone().into(), start, end: None, code: None };
    let (entry, fault, delay) = faults::arrive(&state, call);
    tokio::time::sleep(delay).await;
    match fault {
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Slow(longer)) => tokio::time::sleep(longer).await,
        Some(Fault::Http(status)) => {
            return StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response();
        }
        _ => {}
    }
    let mut answer = act(&state, &parts.method, &path, content);
    entry.answered(answer.status().as_u16().into());
    if let Some(Fault::WrongEtag) = fault {
        answer.headers_mut().insert("etag", "\"00000000000000000000000000000000\"".parse().unwrap());
        if parts.method == Method::POST {
            return StatusCode::OK.into_response();
        }
    }
    if let Some(Fault::CutAfter(_) | Fault::AnswerLost | Fault::Disconnected) = fault {
        // The client sees its connection closed: the promised body never comes.
        let broken = http_body_util::BodyExt::boxed_unsync(Broken);
        return Response::new(axum::body::Body::new(broken));
    }
    answer
}

fn act(state: &Shared, method: &Method, path: &str, content: Bytes) -> Response {
    let mut state = state::lock(state);
    let words: Vec<_> = path.split('/').collect();
    match (method, &words[..]) {
        (&Method::PUT, ["blob", id]) => {
            let etag = hex(&Md5::digest(&content));
            state.blobs.insert((*id).to_owned(), content);
            ([("etag", format!("\"{etag}\""))], "").into_response()
        }
        (&Method::PUT, ["part", id, part]) => {
            let etag = hex(&Md5::digest(&content));
            state.parts.insert(((*id).to_owned(), part.parse().unwrap()), content);
            ([("etag", format!("\"{etag}\""))], "").into_response()
        }
        (&Method::POST, ["complete", id]) => {
            let etag = storage::join_parts(&mut state, id);
            format!("<CompleteMultipartUploadResult><ETag>\"{etag}\"</ETag></CompleteMultipartUploadResult>")
                .into_response()
        }
        (&Method::GET, ["blob", id]) => match state.blobs.get(*id) {
            Some(blob) => blob.clone().into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        (&Method::GET, ["volume", id, from, to, file @ ..]) => {
            let range = from.parse().unwrap()..to.parse().unwrap();
            let file = percent_decoded(&file.join("/"));
            let read = std::fs::read(state.volume_folder(id).join(file)).ok();
            match read.and_then(|bytes| bytes.get(range).map(<[u8]>::to_vec)) {
                Some(bytes) => bytes.into_response(),
                None => StatusCode::NOT_FOUND.into_response(),
            }
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        rest = others;
        let code = text_of(others.get(..2)).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &others[2..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn text_of(bytes: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(bytes?).ok()
}

/// A body that breaks off at once.
struct Broken;

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        std::task::Poll::Ready(Some(Err(std::io::Error::other("cut"))))
    }
}
