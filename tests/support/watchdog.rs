//! Ends a command that hangs, with everything that it started: a process that outlived it would hold its output
//! open, and the test would wait for ever.
//!
//! Its processes are told by a variable that they inherit and by their descent. Only `/proc` tells; elsewhere the
//! command's own process group is all that is killed.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const MARK: &str = "TEST_INVOCATION";

/// Lets the processes of this invocation be found; returns the environment entry that they carry.
pub fn mark(command: &mut Command) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let value = format!("{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
    command.env(MARK, &value);
    format!("{MARK}={value}")
}

/// Kills at the deadline, and when it is dropped because the test failed.
pub struct Watchdog {
    command: Pid,
    mark: String,
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<Option<String>>>,
}

impl Watchdog {
    pub fn start(command: Pid, mark: String, deadline: Duration) -> Self {
        let (over, ended) = channel();
        let of_thread = mark.clone();
        let thread = std::thread::spawn(move || match ended.recv_timeout(deadline) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => Some(kill_all(command, &of_thread)),
        });
        Self { command, mark, over: Some(over), thread: Some(thread) }
    }

    /// The command and its output have ended. Names what had to be killed for that, if anything.
    pub fn end(mut self) -> Option<String> {
        let _ = self.over.take().map(|over| over.send(()));
        self.thread.take().and_then(|thread| thread.join().unwrap())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if self.over.take().is_some() {
            kill_all(self.command, &self.mark);
        }
    }
}

/// Kills until nothing is found, and says what was.
fn kill_all(command: Pid, mark: &str) -> String {
    let mut killed = BTreeMap::new();
    loop {
        let found = find(command, mark);
        let fresh: Vec<_> = found.iter().filter(|(pid, _)| !killed.contains_key(*pid)).collect();
        if fresh.is_empty() {
            break;
        }
        for (pid, what) in fresh {
            killed.insert(*pid, what.clone());
            let _ = Pid::from_raw(*pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
    let _ = kill_process_group(command, Signal::KILL);
    killed.into_iter().map(|(pid, what)| format!("{pid} ({what})")).collect::<Vec<_>>().join(", ")
}

/// The command, its descendants, and whoever carries its mark: pid and command line.
fn find(command: Pid, mark: &str) -> BTreeMap<i32, String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let parents: BTreeMap<i32, i32> = pids.iter().filter_map(|pid| Some((*pid, parent(*pid)?))).collect();
    let descends = |pid: i32| {
        let above = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
        above.take(parents.len() + 1).any(|pid| pid == command.as_raw_pid())
    };
    let carries = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    pids.into_iter().filter(|pid| descends(*pid) || carries(*pid)).map(|pid| (pid, line(pid))).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn line(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ").trim().to_owned()
}
