//! Reading what a process writes: bounded, byte-exact, held back when nobody takes it.

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use crate::backend::BoxFuture;
use crate::domain::Stream;

/// Largest piece handed on at once; a pipe holds as much.
const CHUNK: usize = 64 * 1024;

/// Below this much room a buffer is replaced. What is left of one goes on being used, so that a program which
/// writes a few bytes at a time does not cost a whole buffer each time.
const LEAST_ROOM: usize = 8 * 1024;

/// Where a process writes to.
#[derive(Clone, Copy)]
pub enum OutputTo<'a> {
    /// accel's own stdout and stderr: nothing is copied.
    Inherit,
    /// Through two pipes to an observer.
    Observer(&'a dyn Observer),
}

/// Takes output as it comes, in order within each stream. While it does not return, no more is read, the pipe
/// fills and the process waits.
pub trait Observer: Send + Sync {
    fn output(&self, stream: Stream, chunk: Bytes) -> BoxFuture<'_, ()>;
}

/// Takes everything and keeps nothing.
pub struct Discard;

impl Observer for Discard {
    fn output(&self, _: Stream, _: Bytes) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// When something was last read, and whether the observer is holding a chunk.
#[derive(Debug)]
pub(super) struct Progress(Mutex<Moment>);

#[derive(Debug, Clone, Copy)]
struct Moment {
    last: Instant,
    delivering: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Moment { last: Instant::now(), delivering: false }))
    }

    fn note(&self, delivering: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Moment { last: Instant::now(), delivering };
    }

    /// How long nothing has come, counted from `from` at the earliest; zero while the observer is busy.
    pub(super) fn idle(&self, from: Instant) -> Duration {
        let moment = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if moment.delivering { Duration::ZERO } else { moment.last.max(from).elapsed() }
    }
}

/// Both pipes of one process, read for as long as this is polled.
pub(super) struct Pump<'a> {
    reading: Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        child: &mut tokio::process::Child,
        observer: &'a dyn Observer,
        progress: &'a Progress,
    ) -> Self {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Self { reading: Some(Box::pin(read_both(stdout, stderr, observer, progress))) }
    }

    pub(super) fn none() -> Self {
        Self { reading: None }
    }

    /// Whether a writer may still hold one of the pipes.
    pub(super) fn open(&self) -> bool {
        self.reading.is_some()
    }

    /// Resolves when both pipes have ended; at once when they had.
    pub(super) async fn ended(&mut self) {
        if let Some(reading) = &mut self.reading {
            reading.await;
            self.reading = None;
        }
    }
}

async fn read_both(
    mut stdout: Option<impl AsyncRead + Unpin>,
    mut stderr: Option<impl AsyncRead + Unpin>,
    observer: &dyn Observer,
    progress: &Progress,
) {
    let mut buffers = (BytesMut::new(), BytesMut::new());
    while stdout.is_some() || stderr.is_some() {
        let (stream, chunk) = tokio::select! {
            chunk = read_chunk(&mut stdout, &mut buffers.0), if stdout.is_some() => (Stream::Stdout, chunk),
            chunk = read_chunk(&mut stderr, &mut buffers.1), if stderr.is_some() => (Stream::Stderr, chunk),
        };
        match (chunk, stream) {
            (Ok(chunk), _) if !chunk.is_empty() => {
                progress.note(true);
                observer.output(stream, chunk).await;
                progress.note(false);
            }
            // The end, or an error that is as good as one: a pipe has no other.
            (_, Stream::Stdout) => stdout = None,
            (_, Stream::Stderr) => stderr = None,
        }
    }
}

async fn read_chunk(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut BytesMut) -> io::Result<Bytes> {
    let Some(pipe) = pipe else { return Ok(Bytes::new()) };
    if buffer.capacity() < LEAST_ROOM {
        *buffer = BytesMut::with_capacity(CHUNK);
    }
    pipe.read_buf(buffer).await?;
    Ok(buffer.split().freeze())
}
