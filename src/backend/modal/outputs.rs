//! Declared outputs on their way back: one command packs them, one stream brings them, all or nothing is placed.
//!
//! What must stay true: nothing is placed before the packing command has said that it packed everything, and once this
//! has returned, or was given up, nothing is placed any more.

use std::io::{self, Read};
use std::path::PathBuf;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::exec::{Exec, OUTPUT_PIECES};
use super::limits::Pulse;
use super::trouble::{Trouble, broken_task};
use crate::backend::Failure;
use crate::domain::{Cause, Exit, Stream};
use crate::workspace::tree::PatternSet;
use crate::workspace::unpack::{CaseRule, Limits, Policy, Report, UnpackError, unpack};

/// What the packing command may say before it is cut.
const MOST_STDERR: usize = 4096;

pub(super) struct Outputs {
    pub(super) root: PathBuf,
    pub(super) patterns: Vec<String>,
}

impl Outputs {
    fn policy(&self) -> Result<Policy, Failure> {
        let outputs = PatternSet::new(self.patterns.iter().map(String::as_str))
            .map_err(|error| Failure::new(Cause::Command, format!("outputs: {error}")))?;
        Ok(Policy { outputs, protected: Vec::new(), limits: Limits::default(), case: CaseRule::AsDisk })
    }

    /// Reads the packing command's stream into the project, unless `given_up` comes first. What has been placed by then
    /// is all of it, and counts.
    pub(super) async fn receive(
        &self,
        exec: &Exec,
        pulse: &Pulse,
        given_up: impl Future<Output = Failure>,
    ) -> Result<Report, Trouble> {
        let (policy, root) = (self.policy()?, self.root.clone());
        let (archive, pieces) = mpsc::channel(OUTPUT_PIECES);
        let unpacking = tokio::task::spawn_blocking(move || unpack(Pieces::new(pieces), &policy, &root));
        let packing = async {
            tokio::join!(self.stderr(exec), feed(exec, archive, pulse), exec.write_stdin(Bytes::new()))
        };
        let packed = tokio::select! {
            biased;
            (said, packed, _) = packing => Ok((said, packed)),
            failure = given_up => Err(failure),
        };
        // Without an end the thread refuses what it has; it is waited for, so that nothing happens behind the back of
        // an attempt that follows.
        let unpacked = unpacking.await.map_err(|error| broken_task(&error))?;
        let (said, packed) = match (packed, &unpacked) {
            (Ok(packed), _) => packed,
            (Err(_), Ok(_)) => (String::new(), Ok(Exit::Code(0))),
            (Err(failure), Err(_)) => return Err(failure.into()),
        };
        match (packed?, unpacked) {
            (Exit::Code(0), Ok(report)) => Ok(report),
            (Exit::Code(0), Err(error)) => Err(refused(&error).into()),
            (exit, _) => Err(not_packed(exit, &said).into()),
        }
    }

    async fn stderr(&self, exec: &Exec) -> String {
        let (sender, mut receiver) = mpsc::channel::<(Stream, Bytes)>(OUTPUT_PIECES);
        let collect = async {
            let mut said = Vec::new();
            while let Some((_, piece)) = receiver.recv().await {
                let room = MOST_STDERR.saturating_sub(said.len());
                said.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            String::from_utf8_lossy(&said).trim().to_owned()
        };
        let (_, said) = tokio::join!(exec.read(Stream::Stderr, sender), collect);
        said
    }
}

/// Passes the archive on. Its end is passed on only after the command has said that all of it was packed.
async fn feed(exec: &Exec, archive: mpsc::Sender<Piece>, pulse: &Pulse) -> Result<Exit, Trouble> {
    let (sender, receiver) = mpsc::channel(OUTPUT_PIECES);
    let ending = async { tokio::join!(exec.read(Stream::Stdout, sender), exec.wait()) };
    let passing = pass_on(receiver, archive.clone(), pulse);
    tokio::pin!(ending, passing);
    let ended = tokio::select! {
        ended = &mut ending => {
            passing.await;
            ended
        }
        passed = &mut passing => match passed {
            Passed::All => ending.await,
            // The reason is with the unpacking; what the command still has to say is of no use.
            Passed::Refused => return Ok(Exit::Code(0)),
        },
    };
    let complete = match ended {
        (Ok(()), Ok(exit)) => Ok(exit),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    if matches!(complete, Ok(Exit::Code(0))) {
        let _ = archive.send(Piece::End).await;
    }
    Ok(complete?)
}

enum Passed {
    All,
    Refused,
}

async fn pass_on(
    mut from: mpsc::Receiver<(Stream, Bytes)>,
    to: mpsc::Sender<Piece>,
    pulse: &Pulse,
) -> Passed {
    while let Some((_, piece)) = from.recv().await {
        pulse.beat();
        if to.send(Piece::Data(piece)).await.is_err() {
            return Passed::Refused;
        }
    }
    Passed::All
}

enum Piece {
    Data(Bytes),
    /// Nothing is missing.
    End,
}

/// Pieces from a channel as a blocking reader. A channel that closes without [`Piece::End`] has broken off.
struct Pieces {
    channel: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Pieces {
    fn new(channel: mpsc::Receiver<Piece>) -> Self {
        Self { channel, piece: Bytes::new(), ended: false }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.channel.blocking_recv() {
                Some(Piece::Data(piece)) => self.piece = piece,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

fn refused(error: &UnpackError) -> Failure {
    Failure::new(Cause::Infra, error.to_string())
}

fn not_packed(exit: Exit, said: &str) -> Failure {
    let reason = if said.is_empty() { exit.to_string() } else { said.to_owned() };
    Failure::new(Cause::Infra, format!("the outputs could not be packed in the sandbox: {reason}"))
}
