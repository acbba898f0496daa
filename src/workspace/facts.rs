//! Facts for routing rules, each gathered when a rule first asks for it and never twice.
//!
//! Deciding is pure and does not wait. So a fact that takes a process to find out is noted as missing, gathered,
//! and the decision made again; a job whose rules name no such fact is decided at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::git;
use crate::backend::Cancel;
use crate::base::size::Bytes;
use crate::config::model::Fact;
use crate::domain::Exit;
use crate::plan::spec::PlannedJob;
use crate::process::{Input, Launch, Supervisor, Tool, find_program};
use crate::route::{self, Decision, FactValue, Facts};

/// `nvidia-smi` can take seconds where the driver sleeps.
const GPU_LIMIT: Duration = Duration::from_secs(10);

/// The system that accel was built for.
const OS: &str = if cfg!(target_os = "macos") {
    "macos"
} else if cfg!(target_os = "windows") {
    "windows"
} else if cfg!(target_os = "linux") {
    "linux"
} else {
    "other"
};

/// The processor that accel was built for, by the kernel's names.
const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "x86_64"
} else if cfg!(target_arch = "aarch64") {
    "aarch64"
} else {
    "other"
};

/// What facts are gathered from.
#[derive(Clone)]
pub struct Surroundings {
    /// The folder of accel.toml.
    pub root: PathBuf,
    /// accel's own environment.
    pub variables: Vec<(OsString, OsString)>,
    /// `human`, `ci`, `agent` or `watch`.
    pub caller: &'static str,
    pub supervisor: Supervisor,
    pub cancel: Cancel,
}

impl Surroundings {
    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    pub(super) fn search_path(&self) -> &OsStr {
        self.variable("PATH").unwrap_or_default()
    }
}

/// Gathers facts and decides with them. One for all jobs of an invocation.
pub struct Gatherer {
    surroundings: Surroundings,
    known: RefCell<BTreeMap<Fact, FactValue>>,
    missing: RefCell<BTreeSet<Fact>>,
}

/// What is known, at one attempt at a job.
struct AtAttempt<'a> {
    gatherer: &'a Gatherer,
    attempt: u32,
}

impl Facts for AtAttempt<'_> {
    fn get(&self, fact: Fact) -> FactValue {
        match fact {
            Fact::Attempt => FactValue::Count(f64::from(self.attempt)),
            _ => self.gatherer.get(fact),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.gatherer.variable(name)
    }
}

impl Gatherer {
    pub fn new(surroundings: Surroundings) -> Self {
        Self { surroundings, known: RefCell::default(), missing: RefCell::default() }
    }

    /// The job's place at an attempt, counted from 1; see [`route::decide`].
    pub async fn decide(&self, job: &PlannedJob, attempt: u32) -> Decision {
        self.until_known(|facts| route::decide(job, &AtAttempt { gatherer: facts, attempt })).await
    }

    /// The same with every rule evaluated; see [`route::explain`].
    pub async fn explain(&self, job: &PlannedJob) -> Decision {
        self.until_known(|facts| route::explain(job, facts)).await
    }

    async fn until_known(&self, decide: impl Fn(&Self) -> Decision) -> Decision {
        loop {
            let decision = decide(self);
            let missing = self.missing.take();
            if missing.is_empty() {
                return decision;
            }
            for fact in missing {
                self.gather(fact).await;
            }
        }
    }

    /// Facts that take a process. Every one asked for is known afterwards, if only as unknown.
    async fn gather(&self, fact: Fact) {
        if self.known.borrow().contains_key(&fact) {
            return;
        }
        match fact {
            Fact::LocalGpu => {
                let gpus = local_gpus(&self.surroundings).await;
                self.known.borrow_mut().insert(fact, gpus);
            }
            _ => {
                let (paths, count) = match git::changed(&self.surroundings).await {
                    Ok(paths) => {
                        let count = FactValue::Count(paths.len() as f64);
                        (FactValue::Texts(paths), count)
                    }
                    Err(why) => (FactValue::Unknown(why.clone()), FactValue::Unknown(why)),
                };
                let mut known = self.known.borrow_mut();
                known.insert(Fact::Changed, paths);
                known.insert(Fact::ChangedFiles, count);
            }
        }
    }

    fn at_once(&self, fact: Fact) -> FactValue {
        let surroundings = &self.surroundings;
        match fact {
            Fact::LocalCpus => cpus().map_or_else(unknown_here, FactValue::Count),
            Fact::LocalLoad => load().map_or_else(unknown_here, FactValue::Count),
            Fact::LocalMemory => available_memory().map_or_else(unknown_here, FactValue::Size),
            Fact::OnBattery => FactValue::Is(on_battery(Path::new("/sys/class/power_supply"))),
            Fact::Branch => git::branch(&surroundings.root).map_or_else(FactValue::Unknown, FactValue::Text),
            Fact::Ci => FactValue::Is(is_ci(surroundings.variable("CI"))),
            Fact::Caller => FactValue::Text(surroundings.caller.to_owned()),
            Fact::Os => FactValue::Text(OS.to_owned()),
            Fact::Arch => FactValue::Text(ARCH.to_owned()),
            Fact::Attempt => FactValue::Count(1.0),
            Fact::P50 | Fact::P90 | Fact::Runs => FactValue::Unknown("no run is recorded yet".to_owned()),
            Fact::Cost | Fact::Warm | Fact::SyncBytes | Fact::ModalReady => {
                FactValue::Unknown("Modal is not available in this version".to_owned())
            }
            Fact::Changed | Fact::ChangedFiles | Fact::LocalGpu => self.later(fact),
            Fact::Labels | Fact::Gpu | Fact::Env => FactValue::Unknown("a fact of the job".to_owned()),
        }
    }

    fn later(&self, fact: Fact) -> FactValue {
        self.missing.borrow_mut().insert(fact);
        FactValue::Unknown("being gathered".to_owned())
    }
}

impl Facts for Gatherer {
    fn get(&self, fact: Fact) -> FactValue {
        if let Some(known) = self.known.borrow().get(&fact) {
            return known.clone();
        }
        let value = self.at_once(fact);
        if !self.missing.borrow().contains(&fact) {
            self.known.borrow_mut().insert(fact, value.clone());
        }
        value
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.surroundings.variable(name).map(|value| value.to_string_lossy().into_owned())
    }
}

fn unknown_here() -> FactValue {
    FactValue::Unknown("this system does not say".to_owned())
}

/// As CI services set it: anything but empty, `0` and `false`.
fn is_ci(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "0" && value != "false")
}

fn cpus() -> Option<f64> {
    std::thread::available_parallelism().ok().map(|count| count.get() as f64)
}

fn load() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let minute: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(minute / cpus()?)
}

fn available_memory() -> Option<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kibibytes * 1024))
}

/// Whether a battery is being drawn from; a machine without one is not on battery.
fn on_battery(supplies: &Path) -> bool {
    let Ok(entries) = fs::read_dir(supplies) else { return false };
    entries.flatten().any(|entry| {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        // Batteries of mice and headsets have the scope `Device`.
        read("type").trim() == "Battery"
            && read("scope").trim() != "Device"
            && read("status").trim() == "Discharging"
    })
}

/// A name per GPU, from `nvidia-smi`; none where there is no such program.
async fn local_gpus(surroundings: &Surroundings) -> FactValue {
    let name = OsStr::new("nvidia-smi");
    let Ok(program) = find_program(name, surroundings.search_path(), &surroundings.root) else {
        return FactValue::Texts(Vec::new());
    };
    let tool = Tool {
        launch: Launch {
            program,
            name: name.to_owned(),
            args: ["--query-gpu=name", "--format=csv,noheader"].map(OsString::from).into(),
            cwd: surroundings.root.clone(),
            env: surroundings.variables.clone(),
            input: Input::Null,
        },
        limit: Some(GPU_LIMIT),
        log: None,
    };
    match surroundings.supervisor.run_tool(&tool, surroundings.cancel.clone()).await {
        Ok(output) if output.exit == Exit::Code(0) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let names = text.lines().map(str::trim).filter(|line| !line.is_empty());
            FactValue::Texts(names.map(str::to_owned).collect())
        }
        Ok(output) => FactValue::Unknown(format!("nvidia-smi: {}", output.exit)),
        Err(error) => FactValue::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_is_what_services_set() {
        let check = |value: Option<&str>, expected| assert_eq!(is_ci(value.map(OsStr::new)), expected);
        check(None, false);
        check(Some(""), false);
        check(Some("false"), false);
        check(Some("0"), false);
        check(Some("true"), true);
        check(Some("1"), true);
    }

    #[test]
    fn only_a_discharging_battery_of_the_machine_counts() {
        let folder = tempfile::tempdir().unwrap();
        let supply = |name: &str, files: &[(&str, &str)]| {
            fs::create_dir(folder.path().join(name)).unwrap();
            for (file, text) in files {
                fs::write(folder.path().join(name).join(file), text).unwrap();
            }
        };
        assert!(!on_battery(&folder.path().join("none")));
        supply("AC", &[("type", "Mains\n"), ("online", "0\n")]);
        supply("mouse", &[("type", "Battery\n"), ("scope", "Device\n"), ("status", "Discharging\n")]);
        assert!(!on_battery(folder.path()));
        supply("BAT0", &[("type", "Battery\n"), ("status", "Discharging\n")]);
        assert!(on_battery(folder.path()));
    }
}
