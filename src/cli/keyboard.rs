//! Single keys from accel's own terminal while `accel watch` goes on.
//!
//! What must stay true: the terminal's modes are as they were whenever accel does not listen, is suspended or has
//! ended, however it ended; nothing is read, and no mode changed, while another process group has the terminal.
//! Ctrl-C and Ctrl-Z stay signals.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How often accel in the background looks whether it has the terminal again.
const BACKGROUND_CHECK: Duration = Duration::from_millis(250);

/// Whether keys come one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    Yes,
    No,
}

pub struct Keyboard {
    /// `None` where there is no terminal to read.
    terminal: Option<AsyncFd<File>>,
    /// What has to be put back; `None` while accel does not listen.
    before: Mutex<Option<Termios>>,
}

impl Keyboard {
    /// Nobody can press keys.
    pub fn none() -> Self {
        Self { terminal: None, before: Mutex::default() }
    }

    /// The controlling terminal; needs a runtime. Where it cannot be opened nobody can press keys.
    pub fn open() -> Self {
        let terminal = File::open("/dev/tty").ok();
        // SAFETY: a `File` has one descriptor and keeps it open until it is dropped, which is after its registration.
        #[allow(unsafe_code, reason = "registering a descriptor has no safe form any more")]
        let register = |file| unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
        let terminal = terminal.and_then(|file| register(file).ok());
        Self { terminal, before: Mutex::default() }
    }

    pub fn is_there(&self) -> bool {
        self.terminal.is_some()
    }

    /// Single keys from here on, without echo.
    pub fn listen(&self) {
        let Some(terminal) = self.terminal.as_ref().map(AsyncFd::get_ref) else { return };
        let mut before = self.before();
        if before.is_some() || !is_in_foreground(terminal) {
            return;
        }
        let Ok(modes) = tcgetattr(terminal) else { return };
        let mut single = modes.clone();
        single.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        // Reading returns at once, also with nothing.
        single.special_codes[SpecialCodeIndex::VMIN] = 0;
        single.special_codes[SpecialCodeIndex::VTIME] = 0;
        if tcsetattr(terminal, OptionalActions::Now, &single).is_ok() {
            *before = Some(modes);
        }
    }

    /// The terminal as it was. Says whether accel listened until now.
    pub fn release(&self) -> Listening {
        let Some(terminal) = self.terminal.as_ref().map(AsyncFd::get_ref) else { return Listening::No };
        let Some(modes) = self.before().take() else { return Listening::No };
        if is_in_foreground(terminal) {
            let _ = tcsetattr(terminal, OptionalActions::Now, &modes);
        }
        Listening::Yes
    }

    /// The next key; never, while accel does not listen. Nothing is lost when this is dropped before it resolves.
    pub async fn key(&self) -> u8 {
        let Some(terminal) = &self.terminal else { return std::future::pending().await };
        loop {
            if !is_in_foreground(terminal.get_ref()) {
                tokio::time::sleep(BACKGROUND_CHECK).await;
                continue;
            }
            if self.before().is_none() {
                return std::future::pending().await;
            }
            let Ok(mut ready) = terminal.readable().await else { return std::future::pending().await };
            let mut key = [0];
            if is_in_foreground(terminal.get_ref())
                && let Ok(1) = rustix::io::read(terminal.get_ref(), &mut key)
            {
                return key[0];
            }
            ready.clear_ready();
        }
    }

    fn before(&self) -> MutexGuard<'_, Option<Termios>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.release();
    }
}

fn is_in_foreground(terminal: &File) -> bool {
    tcgetpgrp(terminal).is_ok_and(|foreground| foreground.as_raw_pid() == getpgrp().as_raw_pid())
}
