//! A standing connection, and its renewal after this machine has slept.
//!
//! Who wakes up has connections that are dead and do not know it: nothing tells them, and a keep-alive needs its time.
//! So every call looks at the clocks while it waits. When the wall clock has run ahead of the one that stands still
//! during sleep, the calls under way end as if the connection had broken, and the next ones open a new one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::clock::Clock;

/// How far the wall clock has to run ahead before the machine is said to have slept.
const LEAST_SLEEP: Duration = Duration::from_secs(10);
/// Between two looks at the clocks while a call waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Opens a channel to the same place, at its first call.
pub(super) type Reopen = Arc<dyn Fn() -> Channel + Send + Sync>;

/// A channel and the host that it leads to. Cheap to clone; clones are renewed together.
#[derive(Clone)]
pub struct Connection {
    /// Without port, for the header `x-modal-host`; empty for a socket file.
    pub host: String,
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    reopen: Reopen,
    state: Mutex<State>,
}

struct State {
    channel: Channel,
    /// Counts channels.
    generation: u64,
    /// Both clocks at the last look.
    wall: Duration,
    awake: Instant,
    /// A sleep that nobody has been told of yet.
    slept: Option<Duration>,
}

impl Connection {
    pub(super) fn new(channel: Channel, host: String, reopen: Reopen, clock: Arc<dyn Clock>) -> Self {
        let (wall, awake) = (clock.now(), clock.awake());
        let state = State { channel, generation: 0, wall, awake, slept: None };
        Self { host, shared: Arc::new(Shared { clock, reopen, state: Mutex::new(state) }) }
    }

    /// Does one call. It ends as unavailable when this machine sleeps meanwhile.
    pub(super) async fn call<T>(
        &self,
        work: impl AsyncFnOnce(Channel) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let (channel, generation) = self.current();
        self.unless_slept(generation, work(channel)).await
    }

    /// Opens a stream of answers, which breaks when this machine sleeps.
    pub(super) async fn stream<A>(
        &self,
        open: impl AsyncFnOnce(Channel) -> Result<Streaming<A>, Status>,
    ) -> Result<Answers<A>, Status> {
        let (channel, generation) = self.current();
        let answers = self.unless_slept(generation, open(channel)).await?;
        Ok(Answers { answers, connection: self.clone(), generation })
    }

    /// How long this machine slept, once for each time.
    pub(super) fn take_sleep(&self) -> Option<Duration> {
        self.shared.look().slept.take()
    }

    /// Gives the connection up, unless that was done since: calls under way end, and the next ones open a new one.
    pub(super) fn renew(&self, generation: u64) {
        let mut state = self.shared.look();
        if state.generation == generation {
            self.shared.reopen(&mut state);
        }
    }

    /// Counts the connections to this place so far.
    pub(super) fn generation(&self) -> u64 {
        self.shared.look().generation
    }

    fn current(&self) -> (Channel, u64) {
        let state = self.shared.look();
        (state.channel.clone(), state.generation)
    }

    async fn unless_slept<T>(
        &self,
        generation: u64,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let slept = async {
            while self.shared.look().generation == generation {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = slept => Err(Status::unavailable("this machine slept, or the connection was silent: it is made anew")),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Shared {
    /// The state, after a look at the clocks.
    fn look(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, awake) = (self.clock.now(), self.clock.awake());
        let slept = wall.saturating_sub(state.wall).saturating_sub(awake.duration_since(state.awake));
        (state.wall, state.awake) = (wall, awake);
        if slept >= LEAST_SLEEP {
            self.reopen(&mut state);
            // The clocks are not read at one moment.
            state.slept = Some(Duration::from_secs(slept.as_secs_f64().round() as u64));
        }
        state
    }

    fn reopen(&self, state: &mut State) {
        state.channel = (self.reopen)();
        state.generation += 1;
    }
}

/// A stream of answers.
pub struct Answers<A> {
    answers: Streaming<A>,
    connection: Connection,
    generation: u64,
}

impl<A> Answers<A> {
    /// The next one; `None` at the end.
    pub async fn message(&mut self) -> Result<Option<A>, Status> {
        self.connection.unless_slept(self.generation, self.answers.message()).await
    }
}
