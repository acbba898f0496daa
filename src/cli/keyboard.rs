//! Single keys from accel's own terminal while `accel watch` goes on.
//!
//! What must stay true: the terminal's modes are as they were whenever accel does not listen, is suspended or has
//! ended, however it ended; nothing is read, and no mode changed, while another process group has the terminal.
//! Ctrl-C and Ctrl-Z stay signals.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// How often accel in the background looks whether it has the terminal again.
const BACKGROUND_CHECK: Duration = Duration::from_millis(250);

const ESCAPE: u8 = 0x1b;
/// Bytes of one key, at most.
const LONGEST_SEQUENCE: usize = 16;

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
    /// Whether accel listens as soon as it is in the foreground.
    wanted: AtomicBool,
    /// Wakes whoever waits for a key: it is to listen, or not any more.
    changed: Notify,
}

/// What happens at the keyboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Pressed(u8),
    /// accel has come to the foreground.
    Regained,
}

impl Keyboard {
    /// Nobody can press keys.
    pub fn none() -> Self {
        Self {
            terminal: None,
            before: Mutex::default(),
            wanted: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// The controlling terminal; needs a runtime. Where it cannot be opened nobody can press keys.
    pub fn open() -> Self {
        let terminal = File::open("/dev/tty").ok();
        // SAFETY: a `File` has one descriptor and keeps it open until it is dropped, which is after its registration.
        #[allow(unsafe_code, reason = "registering a descriptor has no safe form any more")]
        let register = |file| unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
        let terminal = terminal.and_then(|file| register(file).ok());
        Self { terminal, before: Mutex::default(), wanted: AtomicBool::new(false), changed: Notify::new() }
    }

    pub fn is_there(&self) -> bool {
        self.terminal.is_some()
    }

    /// Single keys from here on, without echo; in the background, from when that ends.
    pub fn listen(&self) {
        self.wanted.store(true, Relaxed);
        self.changed.notify_one();
        self.take_up();
    }

    fn take_up(&self) {
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
        let listening = if self.wanted.swap(false, Relaxed) { Listening::Yes } else { Listening::No };
        if let Some(terminal) = self.terminal.as_ref().map(AsyncFd::get_ref)
            && let Some(modes) = self.before().take()
            && is_in_foreground(terminal)
        {
            let _ = tcsetattr(terminal, OptionalActions::Now, &modes);
        }
        listening
    }

    /// The next key; never, while accel does not listen. Nothing is lost when this is dropped before it resolves.
    pub async fn key(&self) -> Key {
        let Some(terminal) = &self.terminal else { return std::future::pending().await };
        loop {
            if !is_in_foreground(terminal.get_ref()) {
                tokio::time::sleep(BACKGROUND_CHECK).await;
                continue;
            }
            let listens = self.before().is_some();
            if !listens && self.wanted.load(Relaxed) {
                self.take_up();
                if self.before().is_some() {
                    return Key::Regained;
                }
            }
            if !listens {
                self.changed.notified().await;
                continue;
            }
            let ready = tokio::select! {
                ready = terminal.readable() => ready,
                () = self.changed.notified() => continue,
            };
            let Ok(mut ready) = ready else { return std::future::pending().await };
            let mut key = [0];
            if is_in_foreground(terminal.get_ref())
                && let Ok(1) = rustix::io::read(terminal.get_ref(), &mut key)
            {
                if key[0] == ESCAPE {
                    // Arrows and the like are several bytes, letters among them that would be keys of their own.
                    let _ = rustix::io::read(terminal.get_ref(), &mut [0; LONGEST_SEQUENCE]);
                }
                return Key::Pressed(key[0]);
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
