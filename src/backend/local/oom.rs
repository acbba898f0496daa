//! Whether the kernel has killed processes of this cgroup for their memory.
//!
//! The kernel counts such kills per cgroup (`oom_kill` in `memory.events`, cgroup v2, and in `memory.oom_control`, v1),
//! those for the whole machine's memory among them. Jobs run in accel's own cgroup. A job that was ended by SIGKILL
//! while the count rose was killed for its memory; without a count nothing is claimed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::domain::Exit;

const SIGKILL: i32 = 9;

/// Where the count is read.
#[derive(Debug, Clone, Default)]
pub struct OomKills(Arc<OnceLock<Option<PathBuf>>>);

impl OomKills {
    /// In this file, which has a line `oom_kill <count>`. By default the file of accel's own cgroup is looked up.
    pub fn counted_in(file: PathBuf) -> Self {
        Self(Arc::new(OnceLock::from(Some(file))))
    }

    pub(super) fn count(&self) -> Option<u64> {
        let file = self.0.get_or_init(own_counter).as_ref()?;
        oom_kills(&fs::read_to_string(file).ok()?)
    }

    /// Whether a job that ended like this was killed for its memory, `before` being the count at its start.
    pub(super) fn explain(&self, exit: Exit, before: Option<u64>) -> bool {
        let killed = match exit {
            Exit::Signal(signal) => signal == SIGKILL,
            // A shell's word for it.
            Exit::Code(code) => code == crate::base::exit_code::of_signal(SIGKILL),
        };
        killed && matches!((before, self.count()), (Some(before), Some(now)) if now > before)
    }
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn own_counter() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    counters(&own).into_iter().find(|file| file.exists())
}

/// Likeliest first. A container may see its own cgroup where the mount begins.
fn counters(own: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let path = Path::new(path.trim_start_matches('/'));
        if controllers.split(',').any(|name| name == "memory") {
            let mount = Path::new("/sys/fs/cgroup/memory");
            files
                .extend([mount.join(path), mount.to_owned()].map(|folder| folder.join("memory.oom_control")));
        } else if controllers.is_empty() {
            files.push(Path::new("/sys/fs/cgroup").join(path).join("memory.events"));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kill_that_the_kernel_counted_is_for_memory() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.events");
        let kills = OomKills::counted_in(file.clone());
        assert_eq!(kills.count(), None);
        fs::write(&file, "low 0\noom 4\noom_kill 2\noom_group_kill 0\n").unwrap();
        assert_eq!(kills.count(), Some(2));
        assert!(kills.explain(Exit::Signal(9), Some(1)));
        assert!(kills.explain(Exit::Code(137), Some(1)));
        assert!(!kills.explain(Exit::Signal(9), Some(2)));
        assert!(!kills.explain(Exit::Signal(9), None));
        assert!(!kills.explain(Exit::Code(1), Some(1)));
        assert!(!kills.explain(Exit::Signal(15), Some(1)));
    }

    #[test]
    fn the_own_cgroup_s_count_comes_first() {
        let show =
            |own: &str| counters(own).iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            show("0::/user.slice/session-1.scope\n"),
            ["/sys/fs/cgroup/user.slice/session-1.scope/memory.events"]
        );
        assert_eq!(show("0::/\n"), ["/sys/fs/cgroup/memory.events"]);
        assert_eq!(
            show("5:memory:/docker/abc\n1:cpu,cpuacct:/x\n"),
            [
                "/sys/fs/cgroup/memory/docker/abc/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control"
            ]
        );
    }
}
