//! Finding and ending what a process left behind.
//!
//! On Linux every orphan of a run becomes a child of accel's, which is the sub-reaper. So when a leader is gone,
//! each process that descends from it hangs below a child of accel's that is no leader: ending those, and what
//! then becomes a child in turn, ends all of it. Such a child cannot change its id before accel reaps it.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use super::spawn::{Started, Supervisor};

/// Whose the children of this process are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// All are the supervisor's: an orphan that cannot be told apart belongs to the last run that ends.
    Process,
    /// Other code of this process starts children too; only what bears the marks of a run is touched.
    Shared,
}

/// A descendant that outlived its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub pid: i32,
    /// The program's short name, as the system knows it.
    pub name: String,
    /// Whether it stayed in the leader's process group.
    pub(super) in_group: bool,
    pub(super) state: LeftoverState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftoverState {
    /// Running, or waiting for a processor.
    Runnable,
    Waiting,
    /// On its way out by itself; its files may be closed already.
    Exiting,
}

impl Leftover {
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, signal);
        }
    }

    /// A number that changes whenever the process or a child that it waited for does something; `None` when it
    /// does not hold accel's own stdout or stderr, or where that cannot be known.
    pub(super) fn activity_on_own_output(&self) -> Option<u64> {
        #[cfg(target_os = "linux")]
        {
            linux::activity_on_own_output(self.pid)
        }
        #[cfg(not(target_os = "linux"))]
        {
            None
        }
    }
}

/// Asks the system to hand orphans to accel. Where that is refused, groups alone are covered.
pub(super) fn become_subreaper() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

impl Started {
    /// Signals the group. The leader must not have been reaped.
    pub(super) fn signal_group(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
        if signal != Signal::KILL {
            // A stopped process would not hear the request.
            let _ = kill_process_group(self.group, Signal::CONT);
        }
    }

    /// Signals what is left once the leader has been reaped, with all of its group. The group's id is safe to
    /// use: a leftover within it keeps it taken, and a leftover stays until accel reaps it.
    pub(super) fn signal_leftovers(&self, leftovers: &[Leftover], signal: Signal) {
        if leftovers.iter().any(|leftover| leftover.in_group) {
            self.signal_group(signal);
        }
        leftovers.iter().filter(|leftover| !leftover.in_group).for_each(|leftover| leftover.signal(signal));
    }

    /// The living descendants that are children of accel's by now; dead ones are reaped. The leader must have
    /// been reaped. An empty answer means that none live.
    pub(super) fn leftovers(&self, supervisor: &Supervisor) -> Vec<Leftover> {
        #[cfg(target_os = "linux")]
        {
            linux::leftovers(self, supervisor)
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = supervisor;
            let alive = rustix::process::test_kill_process_group(self.group).is_ok();
            let name = "process group".to_owned();
            alive
                .then(|| Leftover {
                    pid: self.group.as_raw_nonzero().get(),
                    name,
                    in_group: true,
                    runnable: false,
                })
                .into_iter()
                .collect()
        }
    }
}

/// Reaps those that are dead by now.
pub(super) fn reap_all(killed: &[Leftover]) {
    killed.iter().filter_map(|leftover| Pid::from_raw(leftover.pid)).for_each(reap);
}

/// Reaps `pid` if it is a dead child.
fn reap(pid: Pid) {
    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use super::*;
    use crate::process::spawn::Leaders;

    /// A run shorter than this cannot have seen the whole range of process ids go by, so that what it started
    /// has ids between its own and the newest.
    const TOO_SHORT_TO_WRAP: Duration = Duration::from_millis(250);

    /// The kernel's flag of a process that is ending. It is set before the files are closed.
    const PF_EXITING: u64 = 0x4;

    /// Up to this many ids are looked at one by one instead of listing every process.
    const FEW_IDS: i32 = 64;

    pub(super) fn leftovers(started: &Started, supervisor: &Supervisor) -> Vec<Leftover> {
        let leaders = supervisor.leaders();
        if no_children() {
            return Vec::new();
        }
        let orphans = candidates(started).into_iter().filter(|pid| !leaders.contains(*pid));
        let mut found = Vec::new();
        for pid in orphans {
            let Some(status) = Status::read(pid) else { continue };
            let verdict = attribute(started, supervisor.ownership(), &leaders, pid, &status);
            match verdict {
                Belongs::ToThisRun if status.dead() => reap(pid),
                Belongs::ToThisRun => found.push(Leftover {
                    pid: pid.as_raw_nonzero().get(),
                    in_group: status.group == started.group.as_raw_nonzero().get(),
                    state: status.leftover_state(),
                    name: status.name,
                }),
                Belongs::Elsewhere => {}
            }
        }
        found
    }

    enum Belongs {
        ToThisRun,
        Elsewhere,
    }

    /// By group, else by the mark in its environment. One that changed its group *and* cleared its environment
    /// belongs to whichever run ends last, if all children of this process are the supervisor's.
    fn attribute(
        started: &Started,
        ownership: Ownership,
        leaders: &Leaders<'_>,
        pid: Pid,
        status: &Status,
    ) -> Belongs {
        let unmarked_is_ours = ownership == Ownership::Process && (leaders.is_empty() || status.dead());
        let ours = status.group == started.group.as_raw_nonzero().get()
            || unmarked_is_ours
            || bears_mark(pid, &started.mark());
        if ours { Belongs::ToThisRun } else { Belongs::Elsewhere }
    }

    /// The environment of a process as it was at its start; unreadable for dead and foreign ones.
    fn bears_mark(pid: Pid, mark: &str) -> bool {
        let Ok(environ) = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())) else { return false };
        environ.split(|byte| *byte == 0).any(|entry| {
            entry.strip_prefix(mark.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        })
    }

    fn no_children() -> bool {
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::All, peek), Err(rustix::io::Errno::CHILD))
    }

    /// Children of this process, leaders among them. Orphans are given to the main thread, whose children the
    /// kernel lists if it was built to; otherwise they are looked for among all processes.
    fn candidates(started: &Started) -> Vec<Pid> {
        let own = rustix::process::getpid().as_raw_nonzero();
        if let Ok(children) = fs::read_to_string(format!("/proc/self/task/{own}/children")) {
            return children.split_ascii_whitespace().filter_map(pid_of).collect();
        }
        let is_child = |pid: &Pid| Status::read(*pid).is_some_and(|status| status.parent == own.get());
        match recent_ids(started) {
            Some(ids) => ids.filter_map(Pid::from_raw).filter(is_child).collect(),
            None => every_process().filter(is_child).collect(),
        }
    }

    /// The ids given out since the leader's, where those are known and few.
    fn recent_ids(started: &Started) -> Option<std::ops::RangeInclusive<i32>> {
        if started.at.elapsed() > TOO_SHORT_TO_WRAP {
            return None;
        }
        let load = fs::read_to_string("/proc/loadavg").ok()?;
        let newest: i32 = load.split_ascii_whitespace().next_back()?.parse().ok()?;
        let leader = started.group.as_raw_nonzero().get();
        (leader <= newest && newest - leader <= FEW_IDS).then_some(leader..=newest)
    }

    fn every_process() -> impl Iterator<Item = Pid> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| pid_of(entry.file_name().to_str()?))
    }

    fn pid_of(text: &str) -> Option<Pid> {
        Pid::from_raw(text.parse().ok()?)
    }

    /// Bytes written, and page faults: its own for each fork, its children's once it has waited for them.
    pub(super) fn activity_on_own_output(pid: i32) -> Option<u64> {
        let target = |path: String| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let own = [1, 2].map(|fd| target(format!("/proc/self/fd/{fd}")));
        let holds = |fd| target(format!("/proc/{pid}/fd/{fd}")).is_some_and(|held| own.contains(&Some(held)));
        if !holds(1) && !holds(2) {
            return None;
        }
        let written = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let written = written.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok());
        let faults = Pid::from_raw(pid).and_then(Status::read).map_or(0, |status| status.faults);
        Some(written.unwrap_or_default().wrapping_add(faults))
    }

    /// The part of `/proc/PID/stat` that matters here.
    struct Status {
        name: String,
        /// One letter, as `ps` shows it.
        state: String,
        parent: i32,
        group: i32,
        exiting: bool,
        threads: u64,
        /// Minor page faults, its own and those of the children it has waited for.
        faults: u64,
    }

    impl Status {
        fn read(pid: Pid) -> Option<Self> {
            Self::parse(&fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
        }

        /// A process whose main thread has ended while others run is shown as a zombie and lives.
        fn dead(&self) -> bool {
            matches!(self.state.as_str(), "Z" | "X") && self.threads <= 1
        }

        fn leftover_state(&self) -> LeftoverState {
            match self.state.as_str() {
                _ if self.exiting && self.threads <= 1 => LeftoverState::Exiting,
                "R" => LeftoverState::Runnable,
                _ => LeftoverState::Waiting,
            }
        }

        /// `12 (name) S 1 12 …`, where the name may hold anything, parentheses and blanks included.
        fn parse(stat: &[u8]) -> Option<Self> {
            let stat = String::from_utf8_lossy(stat);
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
            // As proc(5) numbers them; the rest begins with the third.
            let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
            let id = |field: usize| fields.get(field - 3)?.parse::<i32>().ok();
            Some(Self {
                name: name.to_owned(),
                state: (*fields.first()?).to_owned(),
                parent: id(4)?,
                group: id(5)?,
                exiting: number(9)? & PF_EXITING != 0,
                threads: number(20)?,
                faults: number(10)? + number(11)?,
            })
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_name_cannot_forge_the_fields() {
            let status =
                Status::parse(b"12 (a) S 1 1 (b)) Z 7 9 9 0 -1 4194564 30 4 1 1 0 0 0 0 20 0 1 0").unwrap();
            assert_eq!((status.name.as_str(), status.dead()), ("a) S 1 1 (b)", true));
            assert_eq!((status.parent, status.group, status.faults), (7, 9, 34));
            assert_eq!(status.leftover_state(), LeftoverState::Exiting);
            assert!(Status::parse(b"12 (a").is_none());
        }
    }
}
