//! The job's command while it runs: its output, its end, the sandbox's end, and the user's wishes, all at once.
//!
//! | first to come | meaning |
//! |---|---|
//! | exit code, then the end of both streams | the command's own end |
//! | exit code, but a stream stays open | something in the background holds it; given up after a while, with a notice |
//! | the sandbox's end | a failure with its reason, unless an exit code was known or follows at once |
//! | a fault that does not pass | a failure, with the sandbox's end as its reason if there was one |
//! | a kept sandbox is gone, or not as it was left | nothing has run: a fresh one takes its place |

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::error::ModalError;
use super::exec::{Exec, OUTPUT_PIECES, Start, Starting, may_be_death};
use super::reporter::Reporter;
use super::router::{Outage, Router};
use super::sandbox::{Death, Haste, Sandbox};
use super::script;
use super::stdin::{Fed, Feed};
use super::terminal;
use crate::backend::{BoxFuture, Cancel, CancelLevel, Failure};
use crate::domain::{Cause, Exit, Stream};
use crate::event::{Event, Level};
use crate::process::{RawTerminal, Supervisor};

/// After the exit, a stream that is open and silent for this long is held by something else.
const LEAK_IDLE: Duration = Duration::from_secs(2);
/// The same for one that is not silent.
const LEAK_CAP: Duration = Duration::from_secs(10);
/// How long the other side of a coincidence is waited for: the exit code of a command in a dead sandbox, the
/// reason of a connection that broke.
const SETTLING: Duration = Duration::from_secs(4);
/// An interruption that lasts for longer is shown.
const SHOWN_OUTAGE: Duration = Duration::from_secs(2);
const SIGKILL: i32 = 9;
/// What a wrapper says about itself is at the end of what was written.
const TAIL: usize = 1024;

pub(super) struct Run<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) router: &'a Router,
    pub(super) task: &'a str,
    pub(super) reporter: &'a Reporter,
    pub(super) cancel: Cancel,
    /// Marks what accel's own script says about its own failures.
    pub(super) word: String,
    pub(super) input: script::Input,
    /// accel's own, where the command has one.
    pub(super) terminal: Option<RawTerminal>,
    /// Answers for the terminal's modes.
    pub(super) supervisor: &'a Supervisor,
}

/// A command that was started, or whose start goes along with everything else.
pub(super) enum Begun {
    Started(Exec),
    /// In a kept sandbox; with what the script says when that is not as it was left.
    Starting(Exec, Starting, String),
}

/// How the command's run ended.
pub(super) enum Ended {
    /// By itself, or because it was asked to.
    Exit(Exit, Behind),
    /// The sandbox was ended on the user's wish, and confirmed so if it says so.
    Killed(Result<(), Failure>),
    /// Nothing was run in a kept sandbox.
    Unused(Unused),
}

/// Whether the command left something that held its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    Nothing,
    Processes,
}

/// Why a kept sandbox could not be used.
#[derive(Debug)]
pub(super) enum Unused {
    OutOfStep,
    NotStarted(ModalError),
    Died,
}

/// What is known so far.
#[derive(Default)]
struct Known {
    exit: Option<Exit>,
    death: Option<Death>,
    fault: Option<ModalError>,
    /// Matters only to a command that waits for what did not come.
    input_fault: Option<ModalError>,
    drained: bool,
    /// When no more is waited for.
    give_up: Option<Instant>,
    /// The latest moment for `give_up`.
    cap: Option<Instant>,
    tail: Vec<u8>,
    stopped: bool,
    held: HeldBack,
}

/// The beginning of stderr, kept back while it may be what the script says about a sandbox out of step.
#[derive(Default)]
struct HeldBack {
    /// What it would say; empty once it is something else.
    line: String,
    bytes: Vec<u8>,
}

impl HeldBack {
    /// What can be shown of it.
    fn pass(&mut self, data: Bytes) -> Option<Bytes> {
        if self.line.is_empty() {
            return Some(data);
        }
        self.bytes.extend_from_slice(&data);
        if self.line.as_bytes().starts_with(&self.bytes) {
            return None;
        }
        self.line.clear();
        Some(std::mem::take(&mut self.bytes).into())
    }

    fn is_said(&self) -> bool {
        !self.line.is_empty() && self.line.as_bytes() == self.bytes
    }
}

/// Why a command is not watched any more.
enum Outcome {
    /// All is known that will be.
    Settled,
    Kill,
    /// The user left with `~.`.
    Left,
    /// Nothing was run.
    Unused(Unused),
}

impl Run<'_> {
    /// Follows the command to its end, while it is fed.
    pub(super) async fn follow(mut self, begun: Begun, feed: Feed) -> Result<Ended, Failure> {
        let mut raw = self.terminal.take();
        let mut known = Known::default();
        let outcome = self.watch(begun, feed, raw.as_mut(), &mut known).await;
        if raw.is_some() {
            self.reporter.emitter.shown().await;
        }
        // From here on Ctrl-C is accel's again.
        drop(raw);
        match outcome {
            Outcome::Settled if known.held.is_said() => Ok(Ended::Unused(Unused::OutOfStep)),
            Outcome::Settled => {
                let rest = std::mem::take(&mut known.held.bytes);
                self.emit(Stream::Stderr, rest.into()).await;
                self.judge(known).await
            }
            Outcome::Unused(unused) => Ok(Ended::Unused(unused)),
            Outcome::Kill => Ok(Ended::Killed(self.sandbox.terminate(Haste::Now).await)),
            Outcome::Left => {
                let text = "left with ~. ; the sandbox is being ended";
                self.reporter.notice(Level::Info, "left", text, None).await;
                Ok(Ended::Killed(self.sandbox.terminate(Haste::Now).await))
            }
        }
    }

    async fn watch(
        &self,
        begun: Begun,
        feed: Feed,
        raw: Option<&mut RawTerminal>,
        known: &mut Known,
    ) -> Outcome {
        let (exec, mut starting) = known.begin(begun);
        let watched = starting.is_none();
        let (sender, mut pieces) = mpsc::channel(OUTPUT_PIECES);
        let stdout = exec.read(Stream::Stdout, sender.clone());
        let stderr = exec.read(Stream::Stderr, sender);
        let reading = async { tokio::try_join!(stdout, stderr).map(drop) };
        // In a kept sandbox a short run asks the control plane nothing.
        let dying =
            async { if watched { self.sandbox.death().await } else { self.sandbox.late_death().await } };
        let (waiting, feeding) = (exec.wait(), exec.feed(feed));
        let resizing = self.follow_size(raw);
        let outages = tell_outages(self.reporter, self.router.outage());
        tokio::pin!(reading, waiting, feeding, dying, resizing, outages);
        let (mut read, mut fed) = (false, false);
        let mut cancel = self.cancel.clone();
        let mut seen = CancelLevel::Drain;
        let mut stop: Option<BoxFuture<'_, ()>> = None;
        while !known.is_complete() {
            tokio::select! {
                biased;
                level = cancel.above(seen) => {
                    seen = level;
                    known.stopped = true;
                    match level {
                        CancelLevel::Stop(reason) => {
                            // Accel is who is talked to now: its words are read, and Ctrl-C is for it.
                            self.supervisor.take_terminal_back();
                            stop = Some(self.ask_to_stop(reason));
                        }
                        _ => return Outcome::Kill,
                    }
                }
                started = pending(starting.as_mut()), if starting.is_some() => {
                    starting = None;
                    if let Err(error) = started {
                        return Outcome::Unused(Unused::NotStarted(error));
                    }
                }
                piece = pieces.recv(), if !known.drained => match piece {
                    Some((stream, data)) => self.show(known, stream, data).await,
                    None => known.drained = true,
                },
                done = &mut reading, if !read => {
                    read = true;
                    known.note_fault(done.err());
                }
                exit = &mut waiting, if known.exit.is_none() && known.fault.is_none() => match exit {
                    Ok(exit) => known.note_exit(exit),
                    Err(error) => known.note_fault(Some(error)),
                },
                done = &mut feeding, if !fed => match done {
                    Ok(Fed::Done) => fed = true,
                    Ok(Fed::Left) => return Outcome::Left,
                    Err(error) => {
                        fed = true;
                        known.note_input_fault(error);
                    }
                },
                death = &mut dying, if known.death.is_none() => {
                    if starting.is_some() {
                        return Outcome::Unused(Unused::Died);
                    }
                    known.note_death(death);
                }
                () = pending(stop.as_mut()), if stop.is_some() => stop = None,
                () = &mut resizing => {}
                never = &mut outages => match never {},
                () = reached(known.give_up) => break,
            }
        }
        Outcome::Settled
    }

    /// Where there is a terminal; never ends.
    async fn follow_size(&self, raw: Option<&mut RawTerminal>) {
        match raw {
            Some(raw) => {
                terminal::follow_size(raw, self.router, self.sandbox.link.clock(), self.task).await;
            }
            None => std::future::pending().await,
        }
    }

    async fn show(&self, known: &mut Known, stream: Stream, data: Bytes) {
        // A terminal has one stream for both.
        if stream == Stream::Stderr || self.input == script::Input::Terminal {
            known.keep_tail(&data);
        }
        known.put_off();
        let shown = if stream == Stream::Stderr { known.held.pass(data) } else { Some(data) };
        if let Some(data) = shown {
            self.emit(stream, data).await;
        }
    }

    async fn emit(&self, stream: Stream, data: Bytes) {
        if !data.is_empty() {
            let job = self.reporter.job.clone();
            self.reporter.emitter.emit(Event::Output { job, stream, data }).await;
        }
    }

    /// A signal to the job's process group; if it is not heard, the ladder goes on.
    fn ask_to_stop(&self, reason: crate::backend::StopReason) -> BoxFuture<'static, ()> {
        let (router, task) = (self.router.clone(), self.task.to_owned());
        let clock = self.sandbox.link.clock().clone();
        let start = Start { argv: script::stop(reason, self.input), ..Start::default() };
        Box::pin(async move {
            let started = Exec::start(&router, &clock, &task, start).await;
            if let Err(error) = started {
                tracing::debug!(%error, "the command could not be asked to stop");
            }
        })
    }

    async fn judge(&mut self, known: Known) -> Result<Ended, Failure> {
        let Known { exit, death, fault, input_fault, drained, tail, stopped, .. } = known;
        let Some(exit) = exit else {
            return Err(match (death, fault.or(input_fault)) {
                (Some(death), _) => death.into_failure(),
                (None, Some(error)) => self.reason(error).await,
                (None, None) => Failure::new(Cause::Infra, "the command's end was never told"),
            });
        };
        if let Some(error) = fault {
            return Err(self.reason(error).await);
        }
        if let Some(failure) = own_failure(exit, &tail, &self.word) {
            return Err(failure);
        }
        if was_killed(exit) && !stopped {
            // The system may have killed it for its memory.
            if let Some(failure) = out_of_memory(match death {
                Some(death) => Some(death),
                None => self.sandbox.has_died().await,
            }) {
                return Err(failure.exit_code(exit.shell_code()));
            }
        }
        if !drained {
            let text = "left processes running that held its output; they end with the sandbox";
            let help = "a job ends with its command: stop background processes before, or wait for them";
            self.reporter.notice(Level::Warning, "leaky", text, Some(help)).await;
        }
        Ok(Ended::Exit(exit, if drained { Behind::Nothing } else { Behind::Processes }))
    }

    /// The sandbox's own end explains a fault better than the fault does.
    async fn reason(&self, error: ModalError) -> Failure {
        if !may_be_death(&error) {
            return error.into_failure();
        }
        match tokio::time::timeout(SETTLING, self.sandbox.has_died()).await {
            Ok(Some(death)) => death.into_failure(),
            _ => error.into_failure(),
        }
    }
}

impl Known {
    fn begin(&mut self, begun: Begun) -> (Exec, Option<Starting>) {
        match begun {
            Begun::Started(exec) => (exec, None),
            Begun::Starting(exec, starting, line) => {
                self.held.line = line;
                (exec, Some(starting))
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.exit.is_some() && self.drained || self.fault.is_some() && self.give_up.is_none()
    }

    fn note_exit(&mut self, exit: Exit) {
        self.exit = Some(exit);
        let now = Instant::now();
        self.cap = Some(now + LEAK_CAP);
        self.give_up = Some(now + LEAK_IDLE);
    }

    fn note_death(&mut self, death: Death) {
        self.death = Some(death);
        self.settle();
    }

    fn note_fault(&mut self, error: Option<ModalError>) {
        let Some(error) = error else { return };
        if may_be_death(&error) {
            self.settle();
        }
        self.fault.get_or_insert(error);
    }

    /// A command that has ended wants no input any more; one that is about to says so soon.
    fn note_input_fault(&mut self, error: ModalError) {
        self.input_fault = Some(error);
        if self.exit.is_none() {
            self.settle();
        }
    }

    /// Waits a little for what usually comes together with what has just come.
    fn settle(&mut self) {
        self.give_up.get_or_insert_with(|| Instant::now() + SETTLING);
    }

    /// There is still output: whoever writes it gets more time, up to the cap.
    fn put_off(&mut self) {
        if let (Some(_), Some(cap)) = (self.exit, self.cap) {
            self.give_up = Some((Instant::now() + LEAK_IDLE).min(cap));
        }
    }

    fn keep_tail(&mut self, data: &[u8]) {
        self.tail.extend_from_slice(&data[data.len().saturating_sub(TAIL)..]);
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
    }
}

/// Says when the sandbox has not been reached for a while, and when it is again. Short interruptions are nobody's
/// concern.
async fn tell_outages(reporter: &Reporter, mut outage: watch::Receiver<Outage>) -> Infallible {
    loop {
        wait_for(&mut outage, Outage::Lost).await;
        if tokio::time::timeout(SHOWN_OUTAGE, wait_for(&mut outage, Outage::None)).await.is_ok() {
            continue;
        }
        reporter.notice(Level::Warning, "connection-lost", "connection lost, reconnecting", None).await;
        wait_for(&mut outage, Outage::None).await;
        let text = "connected again; the output goes on where it stopped";
        reporter.notice(Level::Info, "connection-back", text, None).await;
    }
}

async fn wait_for(outage: &mut watch::Receiver<Outage>, wanted: Outage) {
    if outage.wait_for(|outage| *outage == wanted).await.is_err() {
        // The router is gone, and with it the run.
        std::future::pending::<()>().await;
    }
}

/// What accel's own script had to say, if it is what failed.
fn own_failure(exit: Exit, tail: &[u8], word: &str) -> Option<Failure> {
    if exit != Exit::Code(crate::base::exit_code::ACCEL_FAILED) {
        return None;
    }
    let tail = String::from_utf8_lossy(tail);
    let line = tail.lines().rev().find_map(|line| line.strip_suffix(&format!(" [{word}]")))?;
    let message = line.rsplit_once("accel: ").map_or(line, |(_, message)| message);
    Some(
        Failure::new(Cause::Infra, message.to_owned())
            .help("check the image: it needs sh, cat, cp, mkdir and a writable disk"),
    )
}

fn was_killed(exit: Exit) -> bool {
    exit == Exit::Signal(SIGKILL) || exit == Exit::Code(crate::base::exit_code::of_signal(SIGKILL))
}

fn out_of_memory(death: Option<Death>) -> Option<Failure> {
    let failure = death?.into_failure();
    (failure.cause == Cause::Oom).then_some(failure)
}

async fn pending<T>(future: Option<&mut BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = prop_oneof![
            Just(b"accel: ".to_vec()),
            Just(b"not as it was left [w]\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(piece, 0..5)
    }

    proptest! {
        #[test]
        fn what_was_held_back_comes_out_whole_unless_it_was_accels_own(pieces in pieces()) {
            let line = "accel: not as it was left [w]\n".to_owned();
            let mut held = HeldBack { line, bytes: Vec::new() };
            let mut shown = Vec::new();
            for piece in &pieces {
                shown.extend(held.pass(piece.clone().into()).unwrap_or_default());
            }
            if held.is_said() {
                prop_assert!(shown.is_empty());
            } else {
                shown.extend(held.bytes);
                prop_assert_eq!(shown, pieces.concat());
            }
        }

        #[test]
        fn only_accels_own_script_fails_as_accel(code in any::<u8>(), tail in any::<Vec<u8>>(), word in "[a-f]{0,4}") {
            let failure = own_failure(Exit::Code(code), &tail, &word);
            prop_assert!(failure.is_none() || code == crate::base::exit_code::ACCEL_FAILED);
        }
    }
}
