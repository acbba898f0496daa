//! One sandbox, from the answer of its creation to its end.
//!
//! What must stay true: its lease is in the journal before the server is asked for it, and is settled only when
//! the server has confirmed the end or there never was a sandbox. A sandbox whose end could not be confirmed stays
//! in the journal, for the sweep of a later run.

use std::time::Duration;

use tokio::time::Instant;

use super::control_plane::CallOptions;
use super::death;
use super::error::{ErrorKind, ModalError};
use super::generation;
use super::link::Link;
use super::retry::RetryPolicy;
use super::wire::client as wire;
use crate::backend::Failure;
use crate::domain::Cause;
use crate::store::Lease;
use crate::store::journal::{SandboxKind, Settlement};

/// How long the server holds a question for the sandbox's end, and how long its answer may take.
const HOLD: Duration = Duration::from_secs(10);
const HOLD_DEADLINE: Duration = Duration::from_secs(15);
/// A wait that is expected to be short goes on for this long before it is asked whether the sandbox lives.
const UNWATCHED: Duration = Duration::from_secs(1);
/// After a question that failed, or was answered at once.
const PAUSE: Duration = Duration::from_secs(1);
/// For asking a sandbox to end, retries included.
const TERMINATE: Duration = Duration::from_secs(10);
/// How often a sandbox is asked to end, and the pause in between.
const TERMINATE_TIMES: u32 = 3;
const TERMINATE_PAUSE: Duration = Duration::from_millis(200);
const TERMINATE_ATTEMPT: Duration = Duration::from_secs(5);
/// The same when the user does not want to wait.
const TERMINATE_NOW: Duration = Duration::from_secs(2);

/// How much time the end of a sandbox may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    Usual,
    /// The run is being killed.
    Now,
}

pub(super) struct Sandbox {
    pub(super) link: Link,
    pub(super) lease: Lease,
    pub(super) kind: SandboxKind,
    pub(super) id: String,
    pub(super) options: CallOptions,
}

/// What a sandbox that ended said about it.
#[derive(Debug, Clone)]
pub(super) enum Death {
    Result(wire::GenericResult),
    /// The server does not know it any more.
    Vanished,
}

impl Death {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Result(result) => death::failure(&result),
            Self::Vanished => Failure::new(Cause::Infra, "the sandbox does not exist any more")
                .help("try again, or ask for it: retry = { on = [\"infra\"] }"),
        }
    }
}

impl Sandbox {
    /// Resolves when the sandbox has ended, by itself or by somebody else; not before. Faults of the connection are
    /// waited out.
    pub(super) async fn death(&self) -> Death {
        loop {
            let asked = Instant::now();
            match self.ask(HOLD).await {
                Ok(Some(death)) => return death,
                // A server that does not hold the question is not asked in a busy loop.
                Ok(None) if asked.elapsed() < PAUSE => self.link.clock().sleep(PAUSE).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "cannot ask whether the sandbox lives");
                    self.link.clock().sleep(PAUSE).await;
                }
            }
        }
    }

    /// As [`death`](Self::death), for waits that are short unless something is wrong: asks nothing in the beginning.
    pub(super) async fn late_death(&self) -> Death {
        tokio::time::sleep(UNWATCHED).await;
        self.death().await
    }

    /// Whether the sandbox has ended by now.
    pub(super) async fn has_died(&self) -> Option<Death> {
        self.ask(Duration::ZERO).await.ok().flatten()
    }

    async fn ask(&self, hold: Duration) -> Result<Option<Death>, ModalError> {
        let policy = RetryPolicy::NONE.attempt_timeout(HOLD_DEADLINE);
        let method = generation::wait(self.kind).with_retry(policy);
        let request = wire::SandboxWaitRequest { sandbox_id: self.id.clone(), timeout: hold.as_secs_f32() };
        match self.link.plane.call_with(method, request, &self.options).await {
            Ok(answer) if death::has_ended(answer.result.as_ref()) => Ok(answer.result.map(Death::Result)),
            Ok(_) => Ok(None),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Some(Death::Vanished)),
            Err(error) => Err(error),
        }
    }

    /// Nothing is held any more for what it is going to cost.
    pub(super) async fn release(&self) {
        if let Err(error) = self.lease.release().await {
            tracing::debug!(%error, "the ledger goes on holding an amount");
        }
    }

    /// A machine was found after a wait that costs nothing.
    pub(super) async fn placed(&self) {
        if let Err(error) = self.lease.placed().await {
            tracing::debug!(%error, "the ledger counts the wait for a machine");
        }
    }

    /// Asks for the end. It may be asked for again.
    pub(super) async fn terminate(&self, haste: Haste) -> Result<(), Failure> {
        let total = match haste {
            Haste::Usual => TERMINATE,
            Haste::Now => TERMINATE_NOW,
        };
        match tokio::time::timeout(total, self.ask_to_end(TERMINATE_ATTEMPT.min(total))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.left_behind(&error.to_string())),
            Err(_) => Err(self.left_behind(&format!("no answer within {} s", total.as_secs()))),
        }
    }

    /// A sandbox that lives on costs money, so even a refusal is not believed at once.
    async fn ask_to_end(&self, attempt: Duration) -> Result<(), ModalError> {
        let policy = RetryPolicy::DEFAULT.attempt_timeout(attempt).max_retries(2);
        let method = generation::terminate(self.kind).with_retry(policy);
        let mut asked = 0;
        loop {
            asked += 1;
            let request = wire::SandboxTerminateRequest { sandbox_id: self.id.clone() };
            match self.link.plane.call_with(method, request, &self.options).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind == ErrorKind::NotFound && asked > 1 => return Ok(()),
                Err(error) if asked >= TERMINATE_TIMES => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "the sandbox could not be ended");
                    self.link.clock().sleep(TERMINATE_PAUSE).await;
                }
            }
        }
    }

    fn left_behind(&self, reason: &str) -> Failure {
        Failure::new(Cause::Infra, format!("sandbox {} may still run: {reason}", self.id))
            .help(format!("the next run with Modal ends it, or end it now: accel stop {}", self.lease.id()))
    }

    /// Ends the sandbox and with it the lease. A lease of a sandbox that may still run stays in the journal.
    pub(super) async fn end(mut self, haste: Haste) -> Result<(), Failure> {
        // Only bookkeeping: what is in the way of writing must not keep the sandbox alive.
        if let Err(error) = self.lease.stopping().await {
            tracing::debug!(%error, "the journal does not say that the sandbox is being stopped");
        }
        self.terminate(haste).await?;
        self.settle(Settlement::Terminated).await;
        Ok(())
    }

    /// After the server confirmed the end. A journal that cannot be written is put right by the next sweep.
    pub(super) async fn settle(self, how: Settlement) {
        if let Err(error) = self.lease.settle(how).await {
            tracing::debug!(%error, "a lease is not settled");
        }
    }
}
