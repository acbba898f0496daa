//! What becomes of a sandbox: its place, its life and its end.

use std::sync::Arc;
use std::time::Duration;

use accel::backend::modal::wire::client as wire;
use tonic::Status;
use wire::generic_result::GenericStatus;

use super::super::Shared;
use super::super::process::{self, Descriptor, Exec};
use super::super::state;
use super::{Sandbox, with};

/// What happens to a sandbox from its creation on.
#[derive(Debug, Clone)]
pub enum Fate {
    Runs,
    /// Never gets a place.
    QueuedForever,
    PlacedAfter(Duration),
    /// The creation is answered with an error.
    Refused(Status),
    Dies(Moment, Death),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before it gets a place.
    Start,
    /// When its first command was started.
    Exec,
    /// When its commands have printed so many bytes.
    Output(usize),
}

/// How a sandbox ends when nobody asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    OutOfMemory,
    MemoryManagerEviction,
    MemoryThrashingEviction,
    InternalFailure,
    InitFailure,
    Idle,
    Timeout,
    Terminated,
    /// A number that no client knows yet.
    Unknown,
}

impl Death {
    pub fn result(self) -> wire::GenericResult {
        let (status, exitcode, exception) = match self {
            Self::OutOfMemory => (GenericStatus::KernelOomKill as i32, 137, "out of memory"),
            Self::MemoryManagerEviction => (GenericStatus::MemoryManagerEviction as i32, 137, "evicted"),
            Self::MemoryThrashingEviction => (GenericStatus::MemoryThrashingEviction as i32, 137, "evicted"),
            Self::InternalFailure => (GenericStatus::InternalFailure as i32, 1, "worker lost"),
            Self::InitFailure => (GenericStatus::InitFailure as i32, 1, "cannot mount the image"),
            Self::Idle => (GenericStatus::IdleTimeout as i32, 0, ""),
            Self::Timeout => (GenericStatus::Timeout as i32, 124, ""),
            Self::Terminated => (GenericStatus::Terminated as i32, 137, ""),
            Self::Unknown => (77, 1, ""),
        };
        wire::GenericResult { status, exitcode, exception: exception.into(), ..Default::default() }
    }
}

/// What the router does for a sandbox that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterDeath {
    NotFound,
    /// The worker is gone with it: no answer.
    Silent,
}

/// Sees a sandbox through its life.
pub(super) fn live(shared: &Shared, id: &str) {
    let (shared, id) = (shared.clone(), id.to_owned());
    tokio::spawn(async move {
        let (fate, life) = with(&shared, &id, |it| (it.fate.clone(), it.definition.timeout_secs));
        match fate {
            Fate::QueuedForever => return,
            Fate::PlacedAfter(delay) => tokio::time::sleep(delay).await,
            Fate::Dies(Moment::Start, death) => return with(&shared, &id, |it| it.end(death.result())),
            Fate::Runs | Fate::Dies(..) | Fate::Refused(_) => {}
        }
        with(&shared, &id, Sandbox::start);
        let second = state::lock(&shared).second;
        if let Some(main) = with(&shared, &id, |it| it.main.clone()) {
            tokio::spawn(end_with_main(shared.clone(), id.clone(), main));
        }
        if let Some(idle) = with(&shared, &id, |it| it.definition.idle_timeout_secs) {
            tokio::spawn(end_when_idle(shared.clone(), id.clone(), second * idle));
        }
        tokio::time::sleep(second * life).await;
        with(&shared, &id, |it| it.end(Death::Timeout.result()));
    });
}

async fn end_with_main(shared: Shared, id: String, main: Arc<Exec>) {
    let mut exit = main.exit();
    let Ok(exit) = exit.wait_for(Option::is_some).await.map(|exit| *exit) else { return };
    // What it printed last is there to be read.
    let mut output = main.output(Descriptor::Stdout);
    let drained = output.wait_for(|output| output.ended);
    let _ = tokio::time::timeout(Duration::from_secs(1), drained).await;
    let exitcode = match exit {
        Some(process::Exit::Code(code)) => code,
        Some(process::Exit::Signal(signal)) => 128 + signal,
        None => return,
    };
    let status = if exitcode == 0 { GenericStatus::Success } else { GenericStatus::Failure } as i32;
    with(&shared, &id, |it| it.end(wire::GenericResult { status, exitcode, ..Default::default() }));
}

/// A sandbox is idle while no command runs.
async fn end_when_idle(shared: Shared, id: String, limit: Duration) {
    let mut idle_since = tokio::time::Instant::now();
    loop {
        tokio::time::sleep((limit / 10).max(Duration::from_millis(10))).await;
        let (ended, busy) = with(&shared, &id, |it| {
            let busy = it.execs.values().any(|exec| exec.exit().borrow().is_none());
            (it.result.borrow().is_some(), busy)
        });
        if ended {
            return;
        }
        if busy {
            idle_since = tokio::time::Instant::now();
        } else if idle_since.elapsed() >= limit {
            return with(&shared, &id, |it| it.end(Death::Idle.result()));
        }
    }
}

/// Lets a doomed sandbox die after its command has printed enough.
pub async fn meet_fate(shared: Shared, id: String, exec: Arc<Exec>) {
    let Some((moment, death)) = with(&shared, &id, |it| it.doom()) else { return };
    let bytes = match moment {
        Moment::Output(bytes) => bytes,
        Moment::Exec | Moment::Start => 0,
    };
    let (mut stdout, mut stderr) = (exec.output(Descriptor::Stdout), exec.output(Descriptor::Stderr));
    loop {
        let printed = stdout.borrow_and_update().bytes.len() + stderr.borrow_and_update().bytes.len();
        if printed >= bytes {
            return with(&shared, &id, |it| it.end(death.result()));
        }
        if stdout.borrow().ended && stderr.borrow().ended {
            return;
        }
        tokio::select! {
            _ = stdout.changed() => {}
            _ = stderr.changed() => {}
        }
    }
}
