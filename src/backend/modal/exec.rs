//! One command in a sandbox: started once, read to the last byte, waited for.
//!
//! What must stay true: a start that is repeated starts nothing twice (the id is ours); output is neither lost nor
//! doubled, however often the connection breaks (offsets are ours, the worker keeps the output). Whether the sandbox
//! still lives is asked elsewhere, so a broken connection is waited out here for as long as [`LOST_AFTER`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tonic::Code;

use super::clock::Clock;
use super::error::{ErrorKind, ModalError};
use super::method::task;
use super::retry::RetryPolicy;
use super::router::{Outage, Router};
use super::wire::client::{PtyInfo, SecretSource};
use super::wire::task_command_router as wire;
use crate::backend::BoxFuture;
use crate::domain::{Exit, Stream};
use wire::task_exec_wait_response::ExitStatus;

/// How long the worker may hold a question for the exit code.
const HOLD: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A worker that cannot be reached for this long is given up.
const LOST_AFTER: Duration = Duration::from_secs(5 * 60);
/// A connection that stood for this long was a good one: faults after it are new ones.
const STEADY: Duration = Duration::from_secs(1);

/// What an answer says that tells neither a code nor a signal.
const UNKNOWN_END: &str = "the command ended in a way that this accel does not know";

/// Where output goes, piece by piece.
pub(super) type Output = tokio::sync::mpsc::Sender<(Stream, Bytes)>;

/// Pieces of output between a connection and who takes them.
pub(super) const OUTPUT_PIECES: usize = 4;

/// A command that was started.
#[derive(Clone)]
pub(super) struct Exec {
    pub(super) router: Router,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) task: String,
    pub(super) id: String,
    /// `Some` once the worker has answered the start: whether it started.
    begun: watch::Receiver<Option<bool>>,
}

/// What is started.
#[derive(Default)]
pub(super) struct Start {
    pub(super) argv: Vec<String>,
    pub(super) secrets: Vec<SecretSource>,
    /// With a terminal all output is standard output.
    pub(super) terminal: Option<PtyInfo>,
}

/// The start of a command, on its way.
pub(super) type Starting = BoxFuture<'static, Result<(), ModalError>>;

impl Exec {
    /// A command whose start is sent when `Starting` is waited for. It may be read, waited for and written to at the
    /// same time: whoever comes to the worker before the start does tries again after it.
    pub(super) fn begin(
        router: &Router,
        clock: &Arc<dyn Clock>,
        task: &str,
        start: Start,
    ) -> (Self, Starting) {
        let id = uuid::Uuid::new_v4().to_string();
        let (told, begun) = watch::channel(None);
        let exec =
            Self { router: router.clone(), clock: Arc::clone(clock), task: task.to_owned(), id, begun };
        let request = exec.start_request(start);
        let router = router.clone();
        let clock = Arc::clone(clock);
        let starting = async move {
            let answer = start_once(&router, &clock, request).await;
            told.send_replace(Some(answer.is_ok()));
            answer
        };
        (exec, Box::pin(starting))
    }

    pub(super) async fn start(
        router: &Router,
        clock: &Arc<dyn Clock>,
        task: &str,
        start: Start,
    ) -> Result<Self, ModalError> {
        let (exec, starting) = Self::begin(router, clock, task, start);
        starting.await.map(|()| exec)
    }

    fn start_request(&self, start: Start) -> wire::TaskExecStartRequest {
        wire::TaskExecStartRequest {
            task_id: self.task.clone(),
            exec_id: self.id.clone(),
            command_args: start.argv,
            stdout_config: wire::TaskExecStdoutConfig::Pipe as i32,
            stderr_config: wire::TaskExecStderrConfig::Pipe as i32,
            pty_info: start.terminal,
            secret_sources: start.secrets,
            ..Default::default()
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        *self.begun.borrow() == Some(true)
    }

    /// Whether a call found no command because it overtook the start. Waits for the start.
    pub(super) async fn overtook(&self, had_begun: bool, error: &ModalError) -> bool {
        if had_begun || error.kind != ErrorKind::NotFound {
            return false;
        }
        let mut begun = self.begun.clone();
        begun.wait_for(Option::is_some).await.is_ok_and(|begun| *begun == Some(true))
    }

    /// Reads a stream to its end; every byte goes to `to` once, in order. Ends early when nobody listens any more.
    pub(super) async fn read(&self, stream: Stream, to: Output) -> Result<(), ModalError> {
        let descriptor = match stream {
            Stream::Stdout => wire::TaskExecStdioFileDescriptor::Stdout,
            Stream::Stderr => wire::TaskExecStdioFileDescriptor::Stderr,
        };
        let method = task::EXEC_STDIO_READ.with_retry(RetryPolicy::NONE);
        let mut offset = 0;
        let mut patience = Patience::new(&self.clock);
        loop {
            let request = wire::TaskExecStdioReadRequest {
                task_id: self.task.clone(),
                exec_id: self.id.clone(),
                offset,
                file_descriptor: descriptor as i32,
            };
            let had_begun = self.has_begun();
            let error = match self.router.stream(method, request).await {
                Err(error) => error,
                Ok(mut chunks) => loop {
                    patience.connected();
                    self.router.note(Outage::None);
                    match chunks.message().await {
                        Ok(Some(chunk)) => {
                            offset += chunk.data.len() as u64;
                            patience.reset();
                            if !chunk.data.is_empty() && to.send((stream, chunk.data)).await.is_err() {
                                return Ok(());
                            }
                        }
                        Ok(None) => return Ok(()),
                        Err(status) => {
                            if status.code() == Code::Unauthenticated {
                                self.router.renew().await?;
                            }
                            break of_stream(&status);
                        }
                    }
                },
            };
            if self.overtook(had_begun, &error).await {
                continue;
            }
            self.router.note(Outage::Lost);
            patience.after(error).await?;
        }
    }

    pub(super) async fn wait(&self) -> Result<Exit, ModalError> {
        let method = task::EXEC_WAIT.with_retry(RetryPolicy::NONE.attempt_timeout(HOLD));
        let mut patience = Patience::new(&self.clock);
        loop {
            let request = wire::TaskExecWaitRequest { task_id: self.task.clone(), exec_id: self.id.clone() };
            let had_begun = self.has_begun();
            match self.router.call(method, request).await {
                Ok(wire::TaskExecWaitResponse { exit_status: Some(status) }) => return Ok(exit(status)),
                Ok(wire::TaskExecWaitResponse { exit_status: None }) => {
                    patience.after(ModalError::new(ErrorKind::Service, "TaskExecWait", UNKNOWN_END)).await?;
                }
                Err(error) if error.kind == ErrorKind::DeadlineExceeded => patience.reset(),
                Err(error) if self.overtook(had_begun, &error).await => {}
                Err(error) => patience.after(error).await?,
            }
        }
    }
}

/// The same start until the worker has answered it: it starts nothing twice. Whether an attempt whose connection broke
/// has started the command cannot be known without an answer, so it is waited for as long as for output.
async fn start_once(
    router: &Router,
    clock: &Arc<dyn Clock>,
    request: wire::TaskExecStartRequest,
) -> Result<(), ModalError> {
    let mut patience = Patience::new(clock);
    let mut sent_before = false;
    loop {
        let error = match router.call(task::EXEC_START, request.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        sent_before |= error.attempts > 1;
        match error.kind {
            // The answer to an earlier one was lost.
            ErrorKind::AlreadyExists if sent_before => return Ok(()),
            ErrorKind::Unreachable => {
                sent_before = true;
                router.note(Outage::Lost);
                patience.after(error).await?;
            }
            _ => return Err(error),
        }
    }
}

/// The worker's numbers are the system's own. One that cannot be an exit code is a failure all the same.
fn exit(status: ExitStatus) -> Exit {
    match status {
        ExitStatus::Code(code) => Exit::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        ExitStatus::Signal(signal) => Exit::Signal(signal),
    }
}

/// A stream that broke says little: what is no answer of the worker's is the connection's.
fn of_stream(status: &tonic::Status) -> ModalError {
    ModalError::of_status("TaskExecStdioRead", status, 1)
}

/// How long faults are waited out: pauses that grow, until nothing has worked for [`LOST_AFTER`].
pub(super) struct Patience<'a> {
    clock: &'a Arc<dyn Clock>,
    pause: Duration,
    since: Option<Instant>,
    /// Since when the connection stands.
    connected: Option<Instant>,
}

impl<'a> Patience<'a> {
    pub(super) fn new(clock: &'a Arc<dyn Clock>) -> Self {
        Self { clock, pause: FIRST_PAUSE, since: None, connected: None }
    }

    pub(super) fn reset(&mut self) {
        self.pause = FIRST_PAUSE;
        self.since = None;
    }

    /// There is a connection, though it says nothing yet: a command may be silent for hours.
    fn connected(&mut self) {
        self.connected.get_or_insert_with(|| self.clock.awake());
    }

    /// Waits, or gives the error back when waiting cannot help.
    pub(super) async fn after(&mut self, error: ModalError) -> Result<(), ModalError> {
        let now = self.clock.awake();
        if self.connected.take().is_some_and(|since| now.duration_since(since) >= STEADY) {
            self.reset();
        }
        let passing = match error.kind {
            ErrorKind::Unreachable | ErrorKind::Service | ErrorKind::DeadlineExceeded => true,
            // Renewed just before; a token that is refused again and again is refused for good.
            ErrorKind::Auth => self.pause < LONGEST_PAUSE,
            _ => false,
        };
        let since = *self.since.get_or_insert(now);
        if !passing || now.duration_since(since) >= LOST_AFTER {
            return Err(error);
        }
        self.clock.sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Whether the error may be the sandbox's end rather than a fault of the call.
pub(super) fn may_be_death(error: &ModalError) -> bool {
    matches!(
        error.kind,
        ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Unreachable | ErrorKind::Service
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::backend::BoxFuture;

    /// Time that passes when it is told to, and with every sleep.
    struct Told(Instant, Mutex<Duration>);

    impl Told {
        fn pass(&self, duration: Duration) {
            *self.1.lock().expect("no test panics with it") += duration;
        }

        fn passed(&self) -> Duration {
            *self.1.lock().expect("no test panics with it")
        }
    }

    impl Clock for Told {
        fn now(&self) -> Duration {
            self.passed()
        }

        fn awake(&self) -> Instant {
            self.0 + self.passed()
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
            self.pass(duration);
            Box::pin(std::future::ready(()))
        }

        fn fraction(&self) -> f64 {
            0.5
        }
    }

    fn broken() -> ModalError {
        ModalError::new(ErrorKind::Unreachable, "TaskExecStdioRead", "broken")
    }

    #[tokio::test]
    async fn cuts_that_are_long_apart_do_not_add_up() {
        let told = Arc::new(Told(Instant::now(), Mutex::default()));
        let clock: Arc<dyn Clock> = Arc::clone(&told) as _;
        let mut patience = Patience::new(&clock);
        for _ in 0..10 {
            patience.after(broken()).await.expect("a first fault is waited out");
            patience.connected();
            // The command says nothing meanwhile.
            told.pass(LOST_AFTER);
        }
    }

    #[tokio::test]
    async fn connections_that_break_at_once_are_given_up_in_the_end() {
        let told = Arc::new(Told(Instant::now(), Mutex::default()));
        let clock: Arc<dyn Clock> = Arc::clone(&told) as _;
        let mut patience = Patience::new(&clock);
        while patience.after(broken()).await.is_ok() {
            patience.connected();
            assert!(told.passed() <= LOST_AFTER + LONGEST_PAUSE, "waited for ever");
        }
        assert!(told.passed() >= LOST_AFTER);
    }

    #[test]
    fn numbers_that_are_no_exit_codes_are_failures() {
        for (code, expected) in [(0, 0), (7, 7), (256, 255), (-1, 255), (i32::MAX, 255), (i32::MIN, 255)] {
            assert_eq!(exit(ExitStatus::Code(code)).shell_code(), expected, "code {code}");
        }
        for (signal, expected) in [(9, 137), (0, 255), (-128, 255), (i32::MAX, 255), (i32::MIN, 255)] {
            assert_eq!(exit(ExitStatus::Signal(signal)).shell_code(), expected, "signal {signal}");
        }
    }
}
