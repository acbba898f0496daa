//! What becomes of a sandbox that is kept, after its session: settled, written down, parked. Whatever is in the way
//! ends it instead.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::backend::Core;
use super::definition;
use super::error::{ErrorKind, ModalError};
use super::exec::{Exec, OUTPUT_PIECES, Start};
use super::launch::{Running, haste};
use super::link::Link;
use super::prewarm::Prewarm;
use super::reporter::Reporter;
use super::script;
use super::session::fits;
use super::warm::record::{Record, Records};
use super::warm::settle::{Edits, judge};
use super::warm::{Stay, Use, new_word};
use crate::backend::{CancelLevel, Failure, Keep, OpenRequest, StopReason};
use crate::base::duration::ExactDuration;
use crate::domain::{Cause, Exit, Stream};
use crate::event::{Level, now_ms};
use crate::store::journal::LeaseId;
use crate::store::journal::warm::Limits;

/// How long a sandbox may take to be settled. After its first run every file of the tree is read; a hundred thousand
/// of them may take a slow disk most of this.
const SETTLE: Duration = Duration::from_secs(60);
/// Most that is said about a tree: a job that spoils more than this has its sandbox ended.
const MOST_SAID: usize = 4 << 20;
/// A sandbox is replaced ahead in the last part of its life at the earliest, however long it may be idle.
const LAST_PART: u32 = 8;
/// Of what went wrong.
const MOST_COMPLAINT: usize = 1024;

pub(super) struct Closing<'a> {
    pub(super) core: &'a Core,
    pub(super) link: &'a Link,
    pub(super) request: &'a OpenRequest,
    pub(super) reporter: &'a Reporter,
}

impl Closing<'_> {
    /// Parks the sandbox for the next run, or ends it.
    pub(super) async fn keep(&self, running: Running, mut stay: Stay) -> Result<(), Failure> {
        let mark = match std::mem::replace(&mut stay.used, Use::Unclear) {
            // One in which nothing has ever run is of no use to anybody who does not expect it.
            Use::Untouched if stay.word().is_some() => {
                let settings = &self.core.settings;
                let parker = settings.common.parker();
                let unclaimed = settings.journal.unclaim(running.sandbox.lease, parker).await;
                return unclaimed.map_err(|error| Failure::new(Cause::Infra, error.to_string()));
            }
            Use::Ended { mark } => mark,
            Use::Untouched | Use::Unclear => return self.end(running).await,
        };
        let mut cancel = self.request.cancel.clone();
        let settled = tokio::select! {
            biased;
            settled = tokio::time::timeout(SETTLE, self.settle(&running, stay, &mark)) => settled,
            // Whoever only stops the run may want the next one.
            _ = cancel.above(CancelLevel::Stop(StopReason::Terminate)) => return self.end(running).await,
        };
        let why = match settled {
            Ok(Ok((stay, record))) => return self.hand_on(running, stay, &record).await,
            Ok(Err(failure)) => failure.message,
            Err(_) => format!("looking through its files takes longer than {} s", SETTLE.as_secs()),
        };
        self.give_up(running, &why).await
    }

    /// To the next run; where that would soon find it too old, another is made for it.
    async fn hand_on(&self, running: Running, stay: Stay, record: &Record) -> Result<(), Failure> {
        let aging = self.is_aging(&running, &stay).then(|| running.sandbox.lease.id().clone());
        if aging.is_some() && self.has_another(&stay.key.definition).await {
            return self.end(running).await;
        }
        match self.park(running, stay, record).await {
            Ok(()) => {
                if let Some(aging) = aging {
                    self.renew(aging).await;
                }
                Ok(())
            }
            Err((running, why)) => self.give_up(running, &why).await,
        }
    }

    async fn give_up(&self, running: Running, why: &str) -> Result<(), Failure> {
        let text = format!("the sandbox is not kept: {why}");
        self.reporter.notice(Level::Info, "not-kept", text, None).await;
        self.end(running).await
    }

    async fn end(&self, running: Running) -> Result<(), Failure> {
        running.sandbox.end(haste(self.request.cancel.level())).await
    }

    /// Asks the sandbox what the job left of the tree, and makes it ready for the next run.
    async fn settle(&self, running: &Running, stay: Stay, mark: &str) -> Result<(Stay, Record), Failure> {
        let word = new_word();
        let (stay, edits) = off_thread(move || {
            let edits = Edits::between(stay.record.as_ref().and_then(Record::list), &stay.tree);
            (stay, edits)
        })
        .await?;
        let argv = script::settle(&self.request.spec, mark, &word, &edits.text, edits.gone);
        fits(&argv)?;
        let said = self.ask(running, argv, edits.text.into()).await?;
        let (stay, spoiled) = off_thread(move || {
            let spoiled = judge(&said, &stay.tree);
            (stay, spoiled)
        })
        .await?;
        let spoiled = spoiled
            .ok_or_else(|| Failure::new(Cause::Infra, "what it says about its files is not understood"))?;
        let record = Record {
            task: running.task.clone(),
            url: running.url.clone(),
            jwt: running.router.jwt(),
            sandbox_token: running.sandbox.options.sandbox_token.clone(),
            word: Some(word),
            reuse_until_ms: stay.reuse_until_ms,
            listed: stay.tree.clone(),
            spoiled,
        };
        Ok((stay, record))
    }

    /// Runs a command of accel's own and returns what it says.
    async fn ask(&self, running: &Running, argv: Vec<String>, stdin: Bytes) -> Result<String, Failure> {
        let Running { router, task, .. } = running;
        let (exec, starting) =
            Exec::begin(router, self.link.clock(), task, Start { argv, ..Start::default() });
        let stdout = read(&exec, Stream::Stdout, MOST_SAID);
        let stderr = read(&exec, Stream::Stderr, MOST_COMPLAINT);
        let asked = tokio::try_join!(starting, stdout, stderr, exec.wait(), written(&exec, stdin));
        let ((), said, complaint, exit, ()) = asked.map_err(ModalError::into_failure)?;
        if exit == Exit::Code(0) {
            return Ok(said);
        }
        let complaint = complaint.trim().trim_start_matches("accel: ");
        let text = if complaint.is_empty() { exit.to_string() } else { complaint.to_owned() };
        Err(Failure::new(Cause::Infra, text))
    }

    /// Gives the sandbox to the next run; back, with the reason, where that is not possible.
    pub(super) async fn park(
        &self,
        running: Running,
        stay: Stay,
        record: &Record,
    ) -> Result<(), (Running, String)> {
        let Some(records) = self.records().await else {
            return Err((running, "there is no folder for what is known of it".to_owned()));
        };
        if let Err(error) = records.save(running.sandbox.lease.id(), record) {
            return Err((running, format!("what is known of it cannot be written: {error}")));
        }
        let (is_new, settings) = (stay.word().is_none(), &self.core.settings);
        let Running { sandbox, router, .. } = running;
        let lease = sandbox.lease.id().clone();
        let limits = Limits { idle: stay.keep.idle, reuse_until_ms: stay.reuse_until_ms };
        let parked = settings.journal.park(sandbox.lease, stay.key, limits, settings.common.parker()).await;
        if let Err(error) = parked {
            // The lease has gone with it: the next sweep ends what it stands for.
            tracing::debug!(%error, "a sandbox is not parked");
            return Ok(());
        }
        if let Ok(shared) = self.core.shared() {
            router.idle(self.link.limits.silence);
            shared.keep_router(lease, router);
        }
        if is_new {
            self.forget_others(&records).await;
            let Keep { idle, max } = stay.keep;
            let (idle, max) = (ExactDuration(idle), ExactDuration(max));
            let text = format!("the sandbox stays warm for {idle} after each run, for {max} at most");
            self.reporter.notice(Level::Info, "warm", text, Some("`accel stop` ends it")).await;
        }
        Ok(())
    }

    /// Whether a loop would soon find the sandbox too old: before it can have become idle.
    fn is_aging(&self, running: &Running, stay: &Stay) -> bool {
        let Keep { idle, max } = stay.keep;
        let needed = definition::needed_life(self.request.timeout, &self.request.spec);
        let needed = u64::try_from(needed.as_millis()).unwrap_or(u64::MAX);
        let last_start = running.sandbox.lease.entry().expires_at_ms.saturating_sub(needed);
        let left = stay.reuse_until_ms.min(last_start).saturating_sub(now_ms());
        let soon = idle.min(max / LAST_PART);
        let is_loop = self.core.settings.common.parker().is_some();
        // Another would be no younger where the limits leave no time for a second run.
        is_loop && Duration::from_millis(left) < soon && self.life_of_another(running, stay.keep) > soon
    }

    /// For how long a fresh sandbox could begin another run.
    fn life_of_another(&self, running: &Running, keep: Keep) -> Duration {
        let (timeout, spec) = (self.request.timeout, &self.request.spec);
        let most = self.core.settings.purse.most(running.quote.per_hour, spec.stop_timeout);
        let lifetime = definition::limits(timeout, Some(keep), spec, most).lifetime;
        keep.max.min(lifetime.saturating_sub(definition::needed_life(timeout, spec)))
    }

    async fn has_another(&self, definition: &str) -> bool {
        self.core.settings.journal.has_parked(definition).await.unwrap_or(false)
    }

    /// Between two runs: the next one finds a fresh sandbox.
    async fn renew(&self, aging: LeaseId) {
        if self.core.prewarm(self.request, Prewarm::Renewal(aging)) {
            let text = "the warm sandbox is soon too old for another run: a fresh one takes its place";
            self.reporter.notice(Level::Info, "warm-replaced", text, None).await;
        }
    }

    async fn records(&self) -> Option<Records> {
        let shared = self.core.shared().ok()?;
        shared.memory.as_deref().map(Records::new)
    }

    /// Records of sandboxes that have ended are of no use to anybody.
    async fn forget_others(&self, records: &Records) {
        if let Ok(entries) = self.core.settings.journal.unsettled().await {
            let leases: BTreeSet<String> =
                entries.iter().map(|entry| LeaseId::as_str(&entry.lease).to_owned()).collect();
            records.keep_only(&leases);
        }
    }
}

/// Off the thread that shows what runs: with many files it takes a while.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::new(Cause::Infra, format!("accel failed inside: {error}")))
}

async fn written(exec: &Exec, stdin: Bytes) -> Result<(), ModalError> {
    match exec.write_stdin(stdin).await {
        // A command that has ended wants no input any more; its exit says the rest.
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

/// All of a stream, up to a bound.
async fn read(exec: &Exec, stream: Stream, most: usize) -> Result<String, ModalError> {
    let (sender, mut pieces) = mpsc::channel::<(Stream, Bytes)>(OUTPUT_PIECES);
    let collect = async {
        let mut said = Vec::new();
        while let Some((_, piece)) = pieces.recv().await {
            let room = most.saturating_sub(said.len());
            said.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        String::from_utf8_lossy(&said).into_owned()
    };
    let (read, said) = tokio::join!(exec.read(stream, sender), collect);
    read.map(|()| said)
}
