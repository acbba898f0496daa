//! In front of a service: notes every call, and lets faults happen.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::{Call, Fault, State};

#[derive(Clone)]
pub struct Faulty<S> {
    inner: S,
    state: Arc<Mutex<State>>,
}

impl<S> Faulty<S> {
    pub fn new(inner: S, state: Arc<Mutex<State>>) -> Self {
        Self { inner, state }
    }

    fn arrive(&self, request: &http::Request<Body>) -> Option<Fault> {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let headers = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let mut state = self.state.lock().unwrap();
        state.calls.push(Call { method: method.clone(), headers });
        state.faults.get_mut(&method).and_then(std::collections::VecDeque::pop_front)
    }
}

impl<S: NamedService> NamedService for Faulty<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Faulty<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
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
        match self.arrive(&request) {
            Some(Fault::Silence) => Box::pin(std::future::pending()),
            Some(Fault::Status(status)) => Box::pin(std::future::ready(Ok(status.into_http()))),
            None => Box::pin(self.inner.call(request)),
        }
    }
}
