//! The standard input of a command in a sandbox.
//!
//! Pieces carry the offset at which they begin, so that one that is sent again after a broken connection is neither
//! doubled nor lost. What must stay true: no more than [`PIECES`] pieces wait here and as many are on their way, so the
//! reader of a slow command is slow too; a command that reads nothing holds nobody up (whoever waits for its end drops
//! the feeding).

use std::future::Future;
use std::io;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::error::{ErrorKind, ModalError};
use super::escape::{Escape, Typed};
use super::exec::{Exec, Patience};
use super::method::task;
use super::wire::task_command_router as wire;
use crate::process::StandardInput;

/// Most bytes of one write.
const WRITE: usize = 1 << 20;
/// Pieces, as they were read, between the reader and the writer; together they make one write.
const PIECES: usize = 16;

/// What a command reads.
pub(super) enum Feed {
    /// Something for accel's own script, and the end.
    Script(Bytes),
    /// accel's own standard input.
    Standard(StandardInput),
    /// The keys of a terminal. It has no end: the remote terminal goes with its command.
    Keys(StandardInput),
}

/// How feeding ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// All was passed on, or the command wants no more.
    Done,
    /// The user left with `~.`.
    Left,
}

/// What is known of the command's end of it.
#[derive(Debug, PartialEq, Eq)]
enum Reader {
    MayRead,
    Gone,
}

impl Exec {
    pub(super) async fn feed(&self, feed: Feed) -> Result<Fed, ModalError> {
        let (sender, pieces) = mpsc::channel(PIECES);
        match feed {
            Feed::Script(bytes) => self.write_stdin(bytes).await.map(|()| Fed::Done),
            Feed::Standard(input) => self.pass_on(read_all(input, sender), pieces).await,
            Feed::Keys(input) => self.pass_on(read_keys(input, sender), pieces).await,
        }
    }

    /// Writes all of it and closes standard input.
    pub(super) async fn write_stdin(&self, bytes: Bytes) -> Result<(), ModalError> {
        let mut offset = 0;
        while bytes.len() - offset > WRITE {
            if self.write(offset, bytes.slice(offset..offset + WRITE), Last::No).await? == Reader::Gone {
                return Ok(());
            }
            offset += WRITE;
        }
        self.write(offset, bytes.slice(offset..), Last::Yes).await.map(drop)
    }

    /// Reads ahead while a write is on its way.
    async fn pass_on(
        &self,
        reading: impl Future<Output = Fed>,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Result<Fed, ModalError> {
        tokio::select! {
            biased;
            fed = reading => Ok(fed),
            written = self.write_all(pieces) => written.map(|()| Fed::Done),
        }
    }

    /// Until no pieces come any more, or nobody reads them.
    async fn write_all(&self, mut pieces: mpsc::Receiver<Bytes>) -> Result<(), ModalError> {
        let (mut offset, mut waiting) = (0, Vec::with_capacity(PIECES));
        loop {
            pieces.recv_many(&mut waiting, PIECES).await;
            let ended = pieces.is_closed() && pieces.is_empty();
            let data = joined(&mut waiting);
            let size = data.len();
            let last = if ended { Last::Yes } else { Last::No };
            if self.write(offset, data, last).await? == Reader::Gone || ended {
                return Ok(());
            }
            offset += size;
        }
    }

    async fn write(&self, offset: usize, data: Bytes, last: Last) -> Result<Reader, ModalError> {
        let mut patience = Patience::new(&self.clock);
        loop {
            let request = wire::TaskExecStdinWriteRequest {
                task_id: self.task.clone(),
                exec_id: self.id.clone(),
                offset: offset as u64,
                data: data.clone(),
                eof: last == Last::Yes,
            };
            let had_begun = self.has_begun();
            match self.router.call(task::EXEC_STDIN_WRITE, request).await {
                Ok(_) => return Ok(Reader::MayRead),
                // The command does not read yet; the connection was there.
                Err(error) if error.kind == ErrorKind::DeadlineExceeded => patience.reset(),
                Err(error) if self.overtook(had_begun, &error).await => {}
                Err(error) if self.is_stdin_closed(&error).await => return Ok(Reader::Gone),
                Err(error) => patience.after(error).await?,
            }
        }
    }

    /// Whether a write was refused because nobody reads any more, which no fault is.
    async fn is_stdin_closed(&self, error: &ModalError) -> bool {
        if matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Service | ErrorKind::Auth) {
            return false;
        }
        let request =
            wire::TaskExecStdinStatusRequest { task_id: self.task.clone(), exec_id: self.id.clone() };
        let status = self.router.call(task::EXEC_STDIN_STATUS, request).await;
        status.is_ok_and(|status| status.closed)
    }
}

/// Whether standard input is closed after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

/// To the end, which is told by dropping the sender. Never resolves: the writer is what is waited for.
async fn read_all(mut input: StandardInput, to: mpsc::Sender<Bytes>) -> Fed {
    while let Some(piece) = next(input.read()).await {
        if to.send(piece).await.is_err() {
            break;
        }
    }
    drop(to);
    std::future::pending().await
}

/// Resolves when the user leaves.
async fn read_keys(mut input: StandardInput, to: mpsc::Sender<Bytes>) -> Fed {
    let mut escape = Escape::default();
    while let Some(keys) = next(input.read()).await {
        match escape.typed(&keys) {
            Typed::Keys(keys) if keys.is_empty() => {}
            Typed::Keys(keys) => _ = to.send(keys).await,
            Typed::Left => return Fed::Left,
        }
    }
    // The end of this terminal is told by a signal.
    std::future::pending().await
}

/// `None` at the end. Input that cannot be read has one, too: its reader sees what came until then.
async fn next(read: impl Future<Output = io::Result<Bytes>>) -> Option<Bytes> {
    let piece = read.await.inspect_err(|error| tracing::debug!(%error, "standard input cannot be read"));
    piece.ok().filter(|piece| !piece.is_empty())
}

/// One piece of all, without a copy where there is only one.
fn joined(pieces: &mut Vec<Bytes>) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.drain(..).for_each(|piece| all.extend_from_slice(&piece));
    all.freeze()
}
