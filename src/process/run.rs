//! One process from start to the end of its last descendant.
//!
//! 1. *Running*: output is passed on; a rising cancel level or the time limit signals the group.
//! 2. *Lingering*: the leader is gone, others may live and write. Output goes on for as long as it keeps
//!    coming; after a stop, the rest of the group has the rest of the grace.
//! 3. *Sweeping*: whatever is left is killed and reaped, and what still lies in the pipes is passed on.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use super::descendants::{Leftover, LeftoverState, reap_all};
use super::linger::{IDLE_GRACE, LINGER_CHECK, Written, WrittenDirectly, WrittenThroughPipes};
use super::output::{OutputTo, Progress, Pump};
use super::spawn::{Input, Launch, SpawnError, Started, Supervisor};
use super::stop::{Stage, rise};
use super::terminal::LentTerminal;
use crate::backend::{Cancel, CancelLevel, StopReason};
use crate::domain::Exit;

/// How long after the leader's end others may go on writing at all.
const LINGER_LIMIT: Duration = Duration::from_secs(5);

/// How long killed processes may take to disappear before that is reported. Only a process that the kernel
/// itself holds takes longer.
const SWEEP_LIMIT: Duration = Duration::from_secs(1);

/// After a kill, how long the observer may take for the output that is left.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// What bounds a run.
#[derive(Debug, Clone)]
pub struct Control {
    pub cancel: Cancel,
    /// Between the polite signal and the kill.
    pub stop_timeout: Duration,
    /// Time limit of the run; passing it is a polite stop.
    pub limit: Option<Duration>,
}

/// How a run ended. All its output has been passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub exit: Exit,
    /// What outlived the leader and was killed.
    pub leftovers: Vec<Leftover>,
    /// What could not be killed within a second.
    pub unkillable: Vec<Leftover>,
    /// The polite signal was not enough.
    pub ignored_stop: bool,
    pub timed_out: bool,
}

impl Supervisor {
    /// Runs a process to the end of its last descendant.
    pub async fn run(
        &self,
        launch: &Launch,
        output: OutputTo<'_>,
        control: Control,
    ) -> Result<Ended, SpawnError> {
        let stdio = || match output {
            OutputTo::Inherit => Stdio::inherit(),
            OutputTo::Observer(_) => Stdio::piped(),
        };
        let mut started = self.spawn(launch, stdio)?;
        let progress = Progress::new();
        let pump = match output {
            OutputTo::Inherit => Pump::none(),
            OutputTo::Observer(observer) => Pump::new(&mut started.child, observer, &progress),
        };
        let terminal = match launch.input {
            Input::Terminal => LentTerminal::lend(self, started.group),
            Input::Null | Input::File(_) => None,
        };
        let mut run = Run::new(self, started, control, pump, terminal);
        let exit = run.leader().await;
        match output {
            OutputTo::Inherit => run.linger(&mut WrittenDirectly::default()).await,
            OutputTo::Observer(_) => run.linger(&mut WrittenThroughPipes::new(&progress)).await,
        }
        let asked = run.stage != Stage::Running;
        let (leftovers, unkillable) = run.sweep().await;
        run.drain(&progress).await;
        let leftovers = if asked { Vec::new() } else { leftovers };
        Ok(Ended { exit, leftovers, unkillable, ignored_stop: run.ignored_stop, timed_out: run.timed_out })
    }
}

/// A run in progress. Dropped before its end, it kills what it can.
struct Run<'a> {
    supervisor: &'a Supervisor,
    started: Started,
    control: Control,
    pump: Pump<'a>,
    /// While the leader lives.
    terminal: Option<LentTerminal<'a>>,
    stage: Stage,
    /// The polite signal that the group was sent.
    asked_with: Option<Signal>,
    /// Who was asked by itself, since.
    asked_again: Vec<i32>,
    seen: CancelLevel,
    reaped: bool,
    ignored_stop: bool,
    timed_out: bool,
}

impl<'a> Run<'a> {
    fn new(
        supervisor: &'a Supervisor,
        started: Started,
        control: Control,
        pump: Pump<'a>,
        terminal: Option<LentTerminal<'a>>,
    ) -> Self {
        Self {
            supervisor,
            started,
            control,
            pump,
            terminal,
            stage: Stage::Running,
            asked_with: None,
            asked_again: Vec::new(),
            seen: CancelLevel::Run,
            reaped: false,
            ignored_stop: false,
            timed_out: false,
        }
    }

    /// Until the leader has ended.
    async fn leader(&mut self) -> Exit {
        let limit = self.control.limit.map(|limit| Instant::now() + limit);
        loop {
            let limit = limit.filter(|_| !self.timed_out);
            let kill_at = self.kill_at();
            tokio::select! {
                status = self.started.child.wait() => {
                    self.supervisor.forget(self.started.group);
                    self.reaped = true;
                    self.terminal = None;
                    return exit_of(status);
                }
                () = self.pump.ended(), if self.pump.open() => {}
                level = self.control.cancel.above(self.seen) => self.rise(level),
                () = stopped(&mut self.terminal) => self.follow_stop(),
                () = at(limit), if limit.is_some() => {
                    self.timed_out = true;
                    self.rise(CancelLevel::Stop(StopReason::Terminate));
                }
                () = at(kill_at), if kill_at.is_some() => self.grace_over(),
            }
        }
    }

    fn follow_stop(&mut self) {
        if let Some(terminal) = &self.terminal {
            self.control.cancel.note_suspension(terminal.follow_stop());
        }
    }

    /// Until nothing that the leader left is worth waiting for.
    async fn linger(&mut self, written: &mut impl Written) {
        let limit = Instant::now() + LINGER_LIMIT;
        while let Some(pause) = self.pause(written, limit) {
            tokio::select! {
                // What has come is read before silence is judged.
                biased;
                () = self.pump.ended(), if self.pump.open() => {}
                level = self.control.cancel.above(self.seen) => self.rise(level),
                () = sleep(pause) => {}
            }
        }
    }

    /// How long to go on lingering before the next look; `None` when it is over.
    fn pause(&mut self, written: &mut impl Written, limit: Instant) -> Option<Duration> {
        let left = match self.stage {
            Stage::Killed => return None,
            Stage::Running => limit.saturating_duration_since(Instant::now()),
            Stage::Asked(kill_at) => {
                let leftovers = self.started.leftovers(self.supervisor);
                self.ask_again(&leftovers);
                let left = kill_at.saturating_duration_since(Instant::now());
                if !leftovers.is_empty() {
                    self.ignored_stop |= left.is_zero();
                    return Some(left.min(LINGER_CHECK)).filter(|_| !left.is_zero());
                }
                left
            }
        };
        let pause = written.pause(&self.pump, || self.started.leftovers(self.supervisor))?;
        Some(pause.min(left)).filter(|pause| !pause.is_zero())
    }

    /// With the leader gone, who has not heard a SIGTERM gets one: what left the group, and a shell's background
    /// commands, which ignore an interrupt.
    fn ask_again(&mut self, leftovers: &[Leftover]) {
        let group_has_heard = self.asked_with == Some(Signal::TERM);
        for leftover in leftovers.iter().filter(|leftover| !(leftover.in_group && group_has_heard)) {
            if !self.asked_again.contains(&leftover.pid) {
                self.asked_again.push(leftover.pid);
                leftover.signal(Signal::TERM);
            }
        }
    }

    /// Kills and reaps until no descendant is left: first what was found, second what would not go.
    async fn sweep(&mut self) -> (Vec<Leftover>, Vec<Leftover>) {
        let deadline = Instant::now() + SWEEP_LIMIT;
        let mut pause = Duration::from_micros(500);
        let mut killed: Vec<Leftover> = Vec::new();
        loop {
            let alive = self.started.leftovers(self.supervisor);
            if alive.is_empty() || Instant::now() > deadline {
                killed.retain(|leftover| leftover.state != LeftoverState::Exiting);
                return (killed, alive);
            }
            self.started.signal_leftovers(&alive, Signal::KILL);
            for leftover in alive {
                if killed.iter().all(|before| before.pid != leftover.pid) {
                    killed.push(leftover);
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LINGER_CHECK);
            reap_all(&killed);
        }
    }

    /// Passes on what still lies in the pipes. Nobody writes any more, so they end; one held by a process that
    /// cannot be killed is given up when it is silent.
    async fn drain(&mut self, progress: &Progress) {
        let from = Instant::now();
        while self.pump.open() {
            let patience = match self.stage {
                Stage::Killed => LAST_WORDS.saturating_sub(from.elapsed()),
                _ => IDLE_GRACE.saturating_sub(progress.idle(from)),
            };
            if patience.is_zero() {
                return;
            }
            tokio::select! {
                () = self.pump.ended() => {}
                level = self.control.cancel.above(self.seen) => self.rise(level),
                () = sleep(patience) => {}
            }
        }
    }

    fn kill_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Asked(kill_at) => Some(kill_at),
            Stage::Running | Stage::Killed => None,
        }
    }

    fn grace_over(&mut self) {
        self.ignored_stop = true;
        self.signal(CancelLevel::Kill);
    }

    fn rise(&mut self, level: CancelLevel) {
        self.seen = self.seen.max(level);
        self.signal(level);
    }

    fn signal(&mut self, level: CancelLevel) {
        let (stage, signal) = rise(self.stage, level, Instant::now() + self.control.stop_timeout);
        self.stage = stage;
        self.asked_with = self.asked_with.or(signal);
        match signal {
            Some(signal) if self.reaped => {
                let leftovers = self.started.leftovers(self.supervisor);
                self.started.signal_leftovers(&leftovers, signal);
            }
            Some(signal) => self.started.signal_group(signal),
            None => {}
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if self.reaped {
            let leftovers = self.started.leftovers(self.supervisor);
            self.started.signal_leftovers(&leftovers, Signal::KILL);
        } else {
            self.started.signal_group(Signal::KILL);
            self.supervisor.forget(self.started.group);
        }
    }
}

/// Never, where no terminal is lent.
async fn stopped(terminal: &mut Option<LentTerminal<'_>>) {
    match terminal {
        Some(terminal) => terminal.stopped().await,
        None => std::future::pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn exit_of(status: io::Result<ExitStatus>) -> Exit {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
            (None, signal) => Exit::Signal(signal.unwrap_or_default()),
        },
        // Waiting for one's own child fails only if somebody else reaped it; the status is lost then.
        Err(_) => Exit::Code(crate::base::exit_code::ACCEL_FAILED),
    }
}
