//! What was asked, when, and how long it took.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

/// One call as it arrived.
#[derive(Debug, Clone)]
pub struct Call {
    /// `AppGetOrCreate`; a transfer is `PUT`, `GET` or `POST`.
    pub method: String,
    pub headers: BTreeMap<String, String>,
    /// The request as bytes. Empty for a stream of requests; the path of a transfer.
    pub message: Bytes,
    pub start: Instant,
    /// When the last byte was answered, or the client gave up.
    pub end: Option<Instant>,
    /// The gRPC status, once answered.
    pub code: Option<i32>,
}

impl Call {
    pub fn request<M: Message + Default>(&self) -> M {
        M::decode(self.message.clone()).unwrap_or_else(|error| panic!("{}: {error}", self.method))
    }
}

/// See [`FakeModal::sequential_round_trips`](super::FakeModal::sequential_round_trips).
pub fn sequential_round_trips(calls: &[Call]) -> usize {
    let exit = calls
        .iter()
        .filter(|call| call.method == "TaskExecWait" && call.code == Some(0))
        .filter_map(|call| call.end)
        .min()
        .expect("a command ended");
    let finished: Vec<_> = calls.iter().filter(|call| call.end.is_some_and(|end| end <= exit)).collect();
    longest_chain(&finished, Duration::ZERO)
}

/// How many of these calls followed one another, each begun at least this much after the one before was answered.
pub fn longest_chain(calls: &[&Call], apart: Duration) -> usize {
    let mut finished: Vec<_> = calls.iter().filter_map(|call| Some((call.start, call.end?))).collect();
    finished.sort_by_key(|(_, end)| *end);
    let mut chains: Vec<usize> = Vec::new();
    for (start, _) in &finished {
        let before = finished
            .iter()
            .zip(&chains)
            .filter(|((_, end), _)| *end + apart <= *start)
            .map(|(_, chain)| *chain);
        let chain = before.max().unwrap_or(0) + 1;
        chains.push(chain);
    }
    chains.into_iter().max().unwrap_or(0)
}
