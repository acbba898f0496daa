//! accel's own standard input as a stream of bytes, for a command that runs elsewhere.
//!
//! Waits for input without a thread that could not be ended: a pipe or terminal that stays silent holds nobody up. The
//! descriptor stays as it was found (other processes share its modes). What must stay true: a read that is dropped
//! loses nothing.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::stdin;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::terminal::is_in_foreground;

/// Most bytes of one read: what a pipe holds.
const READ: usize = 64 << 10;
/// Between two looks whether the terminal is accel's to read again.
const BACKGROUND_CHECK: Duration = Duration::from_millis(200);

/// accel's own standard input.
#[derive(Debug)]
pub struct StandardInput(Source);

#[derive(Debug)]
enum Source {
    /// A pipe, a socket or a terminal: says when there is something.
    Announced(AsyncFd<std::os::fd::BorrowedFd<'static>>),
    /// A file: a read never waits for somebody. Kept until it is done.
    File(Option<JoinHandle<io::Result<Bytes>>>),
}

impl StandardInput {
    /// Needs a runtime.
    #[allow(unsafe_code, reason = "the only way to wait for a descriptor that is not owned")]
    pub fn open() -> Self {
        // SAFETY: the standard library opens descriptor 0 before `main` where it was closed, and nothing in accel
        // closes or replaces it, so it stays the same open file for as long as the process lives.
        Self(match unsafe { AsyncFd::register_with_interest(stdin(), Interest::READABLE) } {
            Ok(announced) => Source::Announced(announced),
            // The system announces nothing about files.
            Err(_) => Source::File(None),
        })
    }

    /// The next bytes; none at the end.
    pub async fn read(&mut self) -> io::Result<Bytes> {
        match &mut self.0 {
            Source::Announced(announced) => announced_bytes(announced).await,
            Source::File(reading) => {
                let handle = reading.get_or_insert_with(|| tokio::task::spawn_blocking(read_now));
                let done = handle.await;
                *reading = None;
                done.map_err(io::Error::other)?
            }
        }
    }
}

async fn announced_bytes(announced: &AsyncFd<std::os::fd::BorrowedFd<'static>>) -> io::Result<Bytes> {
    loop {
        let mut guard = announced.readable().await?;
        // Reading a terminal from the background would stop accel.
        if rustix::termios::isatty(stdin()) && !is_in_foreground() {
            tokio::time::sleep(BACKGROUND_CHECK).await;
            continue;
        }
        // The descriptor may be a blocking one, and somebody else may have taken what was announced.
        if !has_something()? {
            guard.clear_ready();
            continue;
        }
        match read_now() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            done => return done,
        }
    }
}

fn has_something() -> io::Result<bool> {
    let stdin = stdin();
    let mut asked = [PollFd::new(&stdin, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| poll(&mut asked, Some(&at_once)))?;
    Ok(!asked[0].revents().is_empty())
}

fn read_now() -> io::Result<Bytes> {
    let mut buffer = vec![0; READ];
    match rustix::io::retry_on_intr(|| rustix::io::read(stdin(), &mut buffer[..])) {
        Ok(count) => {
            buffer.truncate(count);
            Ok(buffer.into())
        }
        // A terminal that has hung up, and a descriptor that was closed, have nothing any more.
        Err(Errno::IO | Errno::BADF) => Ok(Bytes::new()),
        Err(error) => Err(error.into()),
    }
}
