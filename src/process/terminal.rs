//! Lending accel's terminal to a process group, as a shell does for the job in its foreground.
//!
//! While it is lent, the keyboard is the job's: Ctrl-C and Ctrl-Z reach its group and not accel. What must stay
//! true: foreground group and modes are accel's again once the job has ended or stopped, however it did.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Number};
use nix::unistd::{Pid as ProcessId, getpgrp, getsid};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_current_process_group, kill_process,
    kill_process_group, waitid,
};
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetpgrp};
use tokio::signal::unix::{SignalKind, signal};

use super::spawn::Supervisor;

/// What has to be put back.
#[derive(Debug, Clone)]
pub(super) struct Before {
    modes: Termios,
    user: User,
}

/// Who has the terminal in other modes than it was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    /// A job of this machine.
    Job,
    /// accel itself, for a command elsewhere.
    Accel,
}

/// A terminal lent to a job; given back when dropped.
pub(super) struct LentTerminal<'a> {
    supervisor: &'a Supervisor,
    job: Pid,
    children: tokio::signal::unix::Signal,
}

impl<'a> LentTerminal<'a> {
    /// `None` where accel's standard input is no terminal.
    pub(super) fn lend(supervisor: &'a Supervisor, job: Pid) -> Option<Self> {
        let modes = tcgetattr(stdin()).ok()?;
        let children = signal(SignalKind::child()).ok()?;
        let lent = Self { supervisor, job, children };
        lent.give(modes);
        Some(lent)
    }

    /// Lets the job go on; in the foreground, if that is accel's to give.
    fn give(&self, modes: Termios) {
        if is_in_foreground() {
            *self.supervisor.before_lending() = Some(Before { modes, user: User::Job });
            let _ = tcsetpgrp(stdin(), self.job);
        }
        // It may have asked for the terminal before it was its own, and been stopped for that.
        let _ = kill_process_group(self.job, Signal::CONT);
    }

    /// Resolves when the job's leader has been stopped.
    pub(super) async fn stopped(&mut self) {
        while !self.is_stopped() {
            if self.children.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn is_stopped(&self) -> bool {
        let status = waitid(WaitId::Pid(self.job), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
        matches!(status, Ok(Some(_)))
    }

    /// A stopped job stops accel too, so that whoever started accel has the terminal; when accel is continued, so
    /// is the job. Returns how long that took. Where nobody could continue accel the job goes on at once, and so
    /// it does when the terminal it was stopped for is accel's to lend by now.
    pub(super) fn follow_stop(&self) -> Duration {
        let lent = self.supervisor.before_lending().is_some();
        let stopped_for_want_of_it = is_in_foreground();
        let modes_of_job = tcgetattr(stdin()).ok();
        self.supervisor.take_terminal_back();
        let Ok(own_modes) = tcgetattr(stdin()) else { return Duration::ZERO };
        let suspended = match nobody_would_continue() || stopped_for_want_of_it {
            true => Duration::ZERO,
            false => suspended_by(|| _ = kill_current_process_group(Signal::STOP)),
        };
        if let Some(modes) = modes_of_job.filter(|_| lent) {
            set_modes(&modes);
        }
        self.give(own_modes);
        suspended
    }
}

impl Drop for LentTerminal<'_> {
    fn drop(&mut self) {
        self.supervisor.take_terminal_back();
    }
}

/// accel's terminal with every key passed on as it is, for a command that runs elsewhere. Restored when dropped, by
/// [`Supervisor::take_terminal_back`], and while accel is stopped.
pub struct RawTerminal {
    supervisor: Supervisor,
    raw: Termios,
    continued: tokio::signal::unix::Signal,
    resized: tokio::signal::unix::Signal,
}

/// In characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

impl RawTerminal {
    /// `None` where standard input is no terminal, or one that is not accel's to use.
    pub fn enter(supervisor: &Supervisor) -> Option<Self> {
        let modes = tcgetattr(stdin()).ok()?;
        if !is_in_foreground() {
            return None;
        }
        let continued = signal(SignalKind::from_raw(Signal::CONT.as_raw())).ok()?;
        let resized = signal(SignalKind::window_change()).ok()?;
        let mut raw = modes.clone();
        raw.make_raw();
        let mut before = supervisor.before_lending();
        if before.is_some() {
            return None;
        }
        *before = Some(Before { modes, user: User::Accel });
        drop(before);
        set_modes(&raw);
        Some(Self { supervisor: supervisor.clone(), raw, continued, resized })
    }

    /// Not taken back yet.
    fn is_ours(&self) -> bool {
        matches!(&*self.supervisor.before_lending(), Some(Before { user: User::Accel, .. }))
    }

    /// `None` where the terminal does not know.
    pub fn size(&self) -> Option<WindowSize> {
        let size = tcgetwinsize(stdin()).ok()?;
        let known = size.ws_row > 0 && size.ws_col > 0;
        known.then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
    }

    /// Resolves when the window has another size. Keeps the terminal raw when accel is continued after a stop.
    pub async fn resized(&mut self) {
        loop {
            tokio::select! {
                Some(()) = self.resized.recv() => return,
                Some(()) = self.continued.recv() => {
                    if self.is_ours() && is_in_foreground() {
                        set_modes(&self.raw);
                    }
                    // It may have changed meanwhile.
                    return;
                }
                else => std::future::pending::<()>().await,
            }
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.supervisor.take_terminal_back();
    }
}

/// The modes in which accel found its terminal, for a message that is written when nothing is in order.
#[derive(Debug, Clone)]
pub struct FoundTerminal(Option<Termios>);

impl FoundTerminal {
    /// Where standard input is one.
    pub fn look() -> Self {
        Self(tcgetattr(stdin()).ok())
    }

    /// Not where another group has it: it is for that to say what its modes are.
    pub fn restore(&self) {
        if let Some(modes) = self.0.as_ref().filter(|_| is_in_foreground()) {
            set_modes(modes);
        }
    }
}

impl Supervisor {
    /// Takes a lent terminal back and restores its modes. For a process that is about to leave while jobs run.
    pub fn take_terminal_back(&self) {
        let Some(before) = self.before_lending().take() else { return };
        if let (User::Job, Some(group)) = (before.user, own_group()) {
            unstopped(|| _ = tcsetpgrp(stdin(), group));
        }
        set_modes(&before.modes);
    }

    /// Stops every process that was started, with its group, and then accel itself, until it is continued.
    /// Returns how long that took: at once where nobody would continue it.
    pub fn suspend(&self) -> Duration {
        if nobody_would_continue() {
            return Duration::ZERO;
        }
        // Whoever continues a raw terminal makes it raw again: see `RawTerminal`.
        if let Some(Before { modes, user: User::Accel }) = &*self.before_lending() {
            set_modes(modes);
        }
        let groups = self.groups();
        let all = |signal| groups.iter().for_each(|group| _ = kill_process_group(*group, signal));
        all(Signal::STOP);
        let suspended = suspended_by(|| _ = kill_process(getpid(), Signal::STOP));
        all(Signal::CONT);
        suspended
    }

    fn before_lending(&self) -> std::sync::MutexGuard<'_, Option<Before>> {
        self.lent().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time that passes in a call which stops this very thread.
fn suspended_by(stop: impl FnOnce()) -> Duration {
    let began = Instant::now();
    stop();
    began.elapsed()
}

/// Only somebody of the same session does job control; a session's leader or an orphan would stay stopped.
///
/// A session or group led from outside accel's pid namespace has the number 0, which rustix's `Pid` cannot hold.
fn nobody_would_continue() -> bool {
    let session_of =
        |process: Option<Pid>| getsid(process.map(|process| ProcessId::from_raw(process.as_raw_pid()))).ok();
    getppid().is_none_or(|parent| session_of(Some(parent)) != session_of(None))
}

fn own_group() -> Option<Pid> {
    Pid::from_raw(getpgrp().as_raw())
}

pub(super) fn is_in_foreground() -> bool {
    own_group().is_some_and(|group| tcgetpgrp(stdin()).is_ok_and(|foreground| foreground == group))
}

fn set_modes(modes: &Termios) {
    unstopped(|| _ = tcsetattr(stdin(), OptionalActions::Now, modes));
}

/// Does what the terminal stops background groups for, such as accel's own while it is lent.
fn unstopped(change: impl FnOnce()) {
    let mut quiet = SigSet::empty();
    quiet.add(Number::SIGTTOU);
    let before = quiet.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    change();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
}
