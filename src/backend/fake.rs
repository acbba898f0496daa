//! A backend that runs nothing: what each job does is scripted, and everything asked of it is written down.
//!
//! Part of the product so that every test of the engine, here and in the suite, uses the same one. Durations
//! pass on tokio's clock (paused in tests); gates stop a phase until a test lets it go on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{
    Backend, BoxFuture, Cancel, CancelLevel, Failure, OpenRequest, OutputMode, Prospect, Session, Shortage,
    StopReason, Workplace,
};
use crate::domain::{Cause, Exit, JobId, Place, Stream};
use crate::event::{Emitter, Event};
use crate::plan::spec::SandboxSpec;

/// What one attempt of a job does. The default opens, passes at once and closes.
#[derive(Debug, Clone)]
pub struct Script {
    pub open: Act,
    pub output: Vec<(Stream, Bytes)>,
    pub execute: Act,
    pub exit: Exit,
    pub collect: Act,
    pub close: Act,
    pub manners: Manners,
    /// After this much of the command all is spent that it may cost.
    pub paid: Option<Duration>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            open: Act::default(),
            output: Vec::new(),
            execute: Act::default(),
            exit: Exit::Code(0),
            collect: Act::default(),
            close: Act::default(),
            manners: Manners::Obeys { after: Duration::ZERO },
            paid: None,
        }
    }
}

impl Script {
    pub fn exits(exit: Exit) -> Self {
        Self { exit, ..Self::default() }
    }

    pub fn takes(duration: Duration) -> Self {
        Self { execute: Act::takes(duration), ..Self::default() }
    }

    /// The command cannot be run to its end.
    pub fn breaks(cause: Cause) -> Self {
        Self { execute: Act::fails(cause), ..Self::default() }
    }

    /// No session is to be had.
    pub fn refuses(cause: Cause) -> Self {
        Self { open: Act::fails(cause), ..Self::default() }
    }

    pub fn writes(mut self, stream: Stream, data: impl Into<Bytes>) -> Self {
        self.output.push((stream, data.into()));
        self
    }
}

/// One phase: how long it takes, what it waits for, whether it fails.
#[derive(Debug, Clone, Default)]
pub struct Act {
    pub takes: Duration,
    pub gate: Option<Gate>,
    pub failure: Option<Failure>,
}

impl Act {
    pub fn takes(duration: Duration) -> Self {
        Self { takes: duration, ..Self::default() }
    }

    pub fn fails(cause: Cause) -> Self {
        Self { failure: Some(Failure::new(cause, format!("scripted {cause} failure"))), ..Self::default() }
    }

    pub fn waits(gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..Self::default() }
    }

    async fn play(&self) -> Result<(), Failure> {
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        self.failure.clone().map_or(Ok(()), Err)
    }
}

/// How open and execute take a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// Ends this long after the polite stop, at once when killed.
    Obeys { after: Duration },
    /// Ends only when killed.
    Stubborn,
    /// Goes on to its scripted end whatever happens.
    Deaf,
}

/// Holds a phase until the test opens it; tells the test that the phase was reached.
#[derive(Debug, Clone)]
pub struct Gate {
    opened: Arc<watch::Sender<bool>>,
    reached: Arc<watch::Sender<bool>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { opened: Arc::new(watch::Sender::new(false)), reached: Arc::new(watch::Sender::new(false)) }
    }
}

impl Gate {
    pub fn open(&self) {
        self.opened.send_replace(true);
    }

    /// Resolves once some phase waits at the gate.
    pub async fn reached(&self) {
        wait_for_true(&self.reached).await;
    }

    async fn pass(&self) {
        self.reached.send_replace(true);
        wait_for_true(&self.opened).await;
    }
}

async fn wait_for_true(sender: &watch::Sender<bool>) {
    // The sender is borrowed, so the channel cannot close while this waits.
    let _ = sender.subscribe().wait_for(|value| *value).await;
}

/// What was asked of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    OpenStarted,
    OpenFailed,
    Opened,
    ExecuteStarted(OutputMode),
    ExecuteEnded,
    CollectStarted,
    CollectFailed,
    Collected,
    Abandoned,
    Closed,
    /// A session went away without having been closed: always a fault of the engine.
    Dropped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub at: Instant,
    pub job: JobId,
    pub attempt: u32,
    pub place: Place,
    pub phase: Phase,
}

/// What an attempt was opened with.
#[derive(Debug, Clone)]
pub struct Given {
    pub attempt: u32,
    pub place: Place,
    pub spec: Arc<SandboxSpec>,
    pub timeout: Option<Duration>,
    pub queue_limit: Option<Duration>,
    pub shortage: Shortage,
    pub prospect: Prospect,
    pub workplace: Workplace,
}

/// Everything that was asked of one or several backends, in order.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: Arc<Mutex<Vec<Entry>>>,
    given: Arc<Mutex<Vec<Given>>>,
}

impl Ledger {
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    pub fn count(&self, job: &str, phase: Phase) -> usize {
        self.lock().iter().filter(|entry| entry.job.as_str() == job && entry.phase == phase).count()
    }

    /// What every attempt was opened with, in order.
    pub fn given(&self) -> Vec<Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open(&self, place: Place, request: &OpenRequest) {
        let given = Given {
            attempt: request.attempt,
            place,
            spec: Arc::clone(&request.spec),
            timeout: request.timeout,
            queue_limit: request.queue_limit,
            shortage: request.shortage,
            prospect: request.prospect,
            workplace: request.workplace.clone(),
        };
        self.given.lock().unwrap_or_else(PoisonError::into_inner).push(given);
    }

    fn write(&self, who: &Who, phase: Phase) {
        let Who { job, attempt, place } = who.clone();
        self.lock().push(Entry { at: Instant::now(), job, attempt, place, phase });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone)]
struct Who {
    job: JobId,
    attempt: u32,
    place: Place,
}

/// See the module.
#[derive(Debug)]
pub struct FakeBackend {
    place: Place,
    scripts: Mutex<HashMap<String, VecDeque<Script>>>,
    ledger: Ledger,
}

impl FakeBackend {
    pub fn new(place: Place, ledger: &Ledger) -> Self {
        Self { place, scripts: Mutex::default(), ledger: ledger.clone() }
    }

    /// Scripts the job's next attempt at this place; the last one given repeats. Jobs without any pass.
    #[must_use]
    pub fn script(self, job: &str, script: Script) -> Self {
        self.scripts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(job.to_owned())
            .or_default()
            .push_back(script);
        self
    }

    fn next_script(&self, job: &str) -> Script {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        match scripts.get_mut(job) {
            Some(queue) if queue.len() > 1 => queue.pop_front().unwrap_or_default(),
            Some(queue) => queue.front().cloned().unwrap_or_default(),
            None => Script::default(),
        }
    }
}

impl Backend for FakeBackend {
    fn place(&self) -> Place {
        self.place
    }

    fn open(&self, request: OpenRequest) -> BoxFuture<'_, Result<Box<dyn Session>, Failure>> {
        let script = self.next_script(request.job.as_str());
        self.ledger.open(self.place, &request);
        let who = Who { job: request.job, attempt: request.attempt, place: self.place };
        let ledger = self.ledger.clone();
        Box::pin(async move {
            ledger.write(&who, Phase::OpenStarted);
            let ended = heed(script.manners, &mut request.cancel.clone(), script.open.play()).await;
            let opened = match ended {
                Ended::ByItself(result) => result,
                Ended::Stopped(_) => Err(Failure::new(Cause::Infra, "opening was stopped")),
            };
            if let Err(failure) = opened {
                ledger.write(&who, Phase::OpenFailed);
                return Err(failure);
            }
            ledger.write(&who, Phase::Opened);
            let session = FakeSession {
                who,
                script,
                ledger,
                emitter: request.emitter,
                cancel: request.cancel,
                closed: false,
            };
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }
}

struct FakeSession {
    who: Who,
    script: Script,
    ledger: Ledger,
    emitter: Emitter,
    cancel: Cancel,
    closed: bool,
}

impl FakeSession {
    async fn run_command(&mut self, mode: OutputMode) -> Result<Exit, Failure> {
        self.ledger.write(&self.who, Phase::ExecuteStarted(mode));
        if mode == OutputMode::Events {
            for (stream, data) in self.script.output.clone() {
                self.emitter.emit(Event::Output { job: self.who.job.clone(), stream, data }).await;
            }
        }
        let ended = heed(self.script.manners, &mut self.cancel, self.script.execute.play()).await;
        self.ledger.write(&self.who, Phase::ExecuteEnded);
        match ended {
            Ended::ByItself(result) => result.map(|()| self.script.exit),
            Ended::Stopped(signal) => Ok(Exit::Signal(signal)),
        }
    }
}

impl Session for FakeSession {
    fn execute(&mut self, output: OutputMode) -> BoxFuture<'_, Result<Exit, Failure>> {
        Box::pin(self.run_command(output))
    }

    fn collect_outputs(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            self.ledger.write(&self.who, Phase::CollectStarted);
            let result = self.script.collect.play().await;
            let phase = if result.is_ok() { Phase::Collected } else { Phase::CollectFailed };
            self.ledger.write(&self.who, phase);
            result
        })
    }

    fn abandon(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        self.ledger.write(&self.who, Phase::Abandoned);
        Box::pin(std::future::ready(Ok(())))
    }

    fn used_up(&mut self) -> Option<BoxFuture<'static, Failure>> {
        let paid = self.script.paid?;
        Some(Box::pin(async move {
            tokio::time::sleep(paid).await;
            Failure::new(Cause::Budget, "all is spent")
        }))
    }

    fn close(mut self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async move {
            self.closed = true;
            let result = self.script.close.play().await;
            self.ledger.write(&self.who, Phase::Closed);
            result
        })
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        if !self.closed {
            self.ledger.write(&self.who, Phase::Dropped);
        }
    }
}

enum Ended<T> {
    ByItself(T),
    /// With the signal it would have died of.
    Stopped(i32),
}

async fn heed<T>(manners: Manners, cancel: &mut Cancel, act: impl Future<Output = T>) -> Ended<T> {
    tokio::select! {
        biased;
        result = act => Ended::ByItself(result),
        signal = stop_signal(manners, cancel) => Ended::Stopped(signal),
    }
}

async fn stop_signal(manners: Manners, cancel: &mut Cancel) -> i32 {
    const KILLED: i32 = 9;
    match manners {
        Manners::Deaf => std::future::pending().await,
        Manners::Stubborn => {
            cancel.above(CancelLevel::Stop(StopReason::Interrupt)).await;
            KILLED
        }
        Manners::Obeys { after } => {
            let level = cancel.stopped().await;
            let CancelLevel::Stop(reason) = level else { return KILLED };
            tokio::select! {
                biased;
                _ = cancel.above(level) => KILLED,
                () = tokio::time::sleep(after) => reason.signal(),
            }
        }
    }
}
