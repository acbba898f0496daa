//! Facts for routing rules, each gathered when a rule first asks for it and never twice.
//!
//! Deciding is pure and does not wait. So a fact that takes a process, a walk or the database to find out is noted as
//! missing, gathered, and the decision made again; a job whose rules name no such fact is decided at once. Sources
//! and units of the facts of the machine are in [`machine`], of earlier runs in [`past`], of the tree in [`tree`] and
//! `git`; what only Modal can tell is asked of [`Remote`].

mod machine;
mod past;
mod tree;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::git;
use crate::backend::Cancel;
use crate::base::money::Dollars;
use crate::config::model::Fact;
use crate::domain::JobId;
use crate::plan::spec::{PlannedJob, SandboxSpec, SyncSet};
use crate::process::Supervisor;
use crate::route::{self, Decision, FactValue, Facts, Memory};
use crate::store::{History, Ledger};
pub use machine::load_average;
use past::Past;

/// What is known of Modal without running anything there; the edge implements it.
pub trait Remote {
    /// What [`ready`](Self::ready) said a short while ago; asks nobody.
    fn remembered_ready(&self) -> Option<Result<(), String>>;

    /// Whether a run could use it now, or why not.
    fn ready(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + '_>>;

    /// What a sandbox costs at least.
    fn per_hour(&self, spec: &SandboxSpec) -> Result<Dollars, String>;

    /// Whether a kept sandbox waits for the job, or why none does. Asks nobody but this machine.
    fn warm<'a>(&'a self, job: &'a PlannedJob) -> Pin<Box<dyn Future<Output = Result<(), String>> + 'a>>;
}

/// What facts are gathered from.
#[derive(Clone)]
pub struct Surroundings {
    /// The folder of accel.toml.
    pub root: PathBuf,
    pub project: String,
    /// accel's own environment.
    pub variables: Vec<(OsString, OsString)>,
    /// `human`, `ci`, `agent` or `watch`.
    pub caller: &'static str,
    pub supervisor: Supervisor,
    pub cancel: Cancel,
    pub sync: SyncSet,
    /// Finds the user's own git ignore file, which reads git's settings.
    pub global_ignore: fn() -> Option<PathBuf>,
    pub history: History,
    pub remote: Arc<dyn Remote>,
    /// What an hour of waiting is worth.
    pub value_of_time: Option<Dollars>,
}

impl Surroundings {
    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    pub(super) fn search_path(&self) -> &OsStr {
        self.variable("PATH").unwrap_or_default()
    }
}

/// Whom a gatherer may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    Anybody,
    /// No process is started and no server called: what only they know stays unknown.
    Nobody,
}

/// Gathers facts and decides with them. One for all jobs of an invocation.
pub struct Gatherer {
    surroundings: Surroundings,
    asking: Asking,
    known: RefCell<BTreeMap<Key, FactValue>>,
    pasts: RefCell<BTreeMap<JobId, Rc<Past>>>,
    missing: RefCell<BTreeSet<Missing>>,
}

/// Whose fact it is; `None`: the same for all jobs.
type Key = (Option<JobId>, Fact);

/// What is to be gathered before the decision is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Missing {
    Fact(Fact),
    Past,
}

/// What is known, at one attempt at a job.
struct AtAttempt<'a> {
    gatherer: &'a Gatherer,
    job: &'a PlannedJob,
    attempt: u32,
}

impl Facts for AtAttempt<'_> {
    fn get(&self, fact: Fact) -> FactValue {
        match fact {
            Fact::Attempt => FactValue::Count(f64::from(self.attempt)),
            Fact::P50 | Fact::P90 | Fact::Runs => {
                self.past().map_or_else(being_gathered, |past| past.fact(fact))
            }
            Fact::Cost => self.cost(),
            _ => self.gatherer.get(self.job, fact),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        let value = self.gatherer.surroundings.variable(name);
        value.map(|value| value.to_string_lossy().into_owned())
    }

    fn memory(&self) -> Memory {
        let Some(past) = self.past() else { return Memory::default() };
        let mut memory = past.memory();
        if memory.local.is_empty() && memory.modal.is_empty() {
            return memory;
        }
        if let FactValue::Size(bytes) = self.gatherer.get(self.job, Fact::SyncBytes) {
            memory.to_send = Some(bytes);
        }
        memory.busy = machine::busy(machine::load_average().unwrap_or_default(), wanted_cores(self.job));
        memory.per_hour = self.gatherer.surroundings.remote.per_hour(&self.job.spec).ok();
        memory.value_of_time = self.gatherer.surroundings.value_of_time;
        memory
    }
}

impl AtAttempt<'_> {
    fn past(&self) -> Option<Rc<Past>> {
        let past = self.gatherer.pasts.borrow().get(&self.job.id).cloned();
        if past.is_none() {
            self.gatherer.missing.borrow_mut().insert(Missing::Past);
        }
        past
    }

    /// The price of an hour, for the time that a sandbox of the job lives.
    fn cost(&self) -> FactValue {
        let per_hour = match self.gatherer.surroundings.remote.per_hour(&self.job.spec) {
            Ok(per_hour) => per_hour,
            Err(why) => return FactValue::Unknown(why),
        };
        let Some(past) = self.past() else { return being_gathered() };
        match past.sandbox_time() {
            Some(time) => {
                let cost = per_hour.0 as f64 * time.as_secs_f64() / 3600.0;
                FactValue::Money(Dollars(cost.round() as u64))
            }
            None => {
                FactValue::Unknown("no run of this job has passed yet, so its length is not known".to_owned())
            }
        }
    }
}

/// How many cores a job keeps busy, as far as it says.
fn wanted_cores(job: &PlannedJob) -> f64 {
    job.spec.cpu.as_ref().map_or(1.0, |range| range.request)
}

impl Gatherer {
    pub fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            asking: Asking::Anybody,
            known: RefCell::default(),
            pasts: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// Starts no process and calls no server; what then is not known is said to be so.
    #[must_use]
    pub fn asking_nobody(self) -> Self {
        Self { asking: Asking::Nobody, ..self }
    }

    /// The job's place at an attempt, counted from 1; see [`route::decide`].
    pub async fn decide(&self, job: &PlannedJob, attempt: u32) -> Decision {
        self.until_known(job, attempt, route::decide).await
    }

    /// The same with every rule evaluated; see [`route::explain`].
    pub async fn explain(&self, job: &PlannedJob) -> Decision {
        self.until_known(job, 1, route::explain).await
    }

    /// How long a sandbox of the job usually lives; see [`past`].
    pub async fn sandbox_time(&self, job: &PlannedJob) -> Option<Duration> {
        if !self.pasts.borrow().contains_key(&job.id) {
            self.gather_past(job).await;
        }
        let past = self.pasts.borrow().get(&job.id).cloned();
        past.and_then(|past| past.sandbox_time())
    }

    /// What was spent, by the same database as the history.
    pub fn ledger(&self) -> Ledger {
        Ledger::new(self.surroundings.history.database().clone())
    }

    async fn until_known(
        &self,
        job: &PlannedJob,
        attempt: u32,
        decide: fn(&PlannedJob, &dyn Facts) -> Decision,
    ) -> Decision {
        loop {
            let decision = decide(job, &AtAttempt { gatherer: self, job, attempt });
            let missing = self.missing.take();
            if missing.is_empty() {
                return decision;
            }
            for missing in missing {
                match missing {
                    Missing::Past => self.gather_past(job).await,
                    Missing::Fact(fact) => self.gather(job, fact).await,
                }
            }
        }
    }

    async fn gather_past(&self, job: &PlannedJob) {
        let past = Rc::new(Past::read(&self.surroundings, job).await);
        self.pasts.borrow_mut().insert(job.id.clone(), past);
    }

    /// Every fact asked for is known afterwards, if only as unknown.
    async fn gather(&self, job: &PlannedJob, fact: Fact) {
        if self.find(job, fact).is_some() {
            return;
        }
        if let (Asking::Nobody, Some(value)) = (self.asking, self.unasked(fact)) {
            return self.know(None, fact, value);
        }
        match fact {
            Fact::LocalGpu | Fact::LocalGpuMemory => self.gather_gpus().await,
            Fact::ModalReady => {
                let ready = self.surroundings.remote.ready().await;
                self.know(None, fact, ready.map_or_else(FactValue::IsNot, |()| FactValue::Is(true)));
            }
            Fact::Warm => {
                let warm = self.surroundings.remote.warm(job).await;
                let value = warm.map_or_else(FactValue::IsNot, |()| FactValue::Is(true));
                self.know(Some(job.id.clone()), fact, value);
            }
            Fact::SyncBytes => {
                let bytes = tree::to_send(&self.surroundings).await;
                self.know(None, fact, bytes.map_or_else(FactValue::Unknown, FactValue::Size));
            }
            _ => self.gather_changes(job).await,
        }
    }

    /// What takes the place of a fact that would have to be asked for.
    fn unasked(&self, fact: Fact) -> Option<FactValue> {
        let not_run = |tool: &str| Some(FactValue::Unknown(format!("{tool} is not run for this")));
        match fact {
            Fact::LocalGpu | Fact::LocalGpuMemory if machine::has_gpu_tool(&self.surroundings) => {
                not_run("nvidia-smi")
            }
            Fact::Changed | Fact::ChangedFiles if git::is_repository(&self.surroundings.root) => {
                not_run("git")
            }
            Fact::ModalReady => Some(match self.surroundings.remote.remembered_ready() {
                Some(ready) => ready.map_or_else(FactValue::IsNot, |()| FactValue::Is(true)),
                None => FactValue::Unknown("Modal is not asked for this".to_owned()),
            }),
            _ => None,
        }
    }

    fn find(&self, job: &PlannedJob, fact: Fact) -> Option<FactValue> {
        let known = self.known.borrow();
        known.get(&(Some(job.id.clone()), fact)).or_else(|| known.get(&(None, fact))).cloned()
    }

    fn know(&self, job: Option<JobId>, fact: Fact, value: FactValue) {
        self.known.borrow_mut().insert((job, fact), value);
    }

    async fn gather_gpus(&self) {
        match machine::local_gpus(&self.surroundings).await {
            Ok(gpus) => {
                let largest = gpus.iter().filter_map(|gpu| gpu.memory).max().unwrap_or_default();
                self.know(None, Fact::LocalGpuMemory, FactValue::Size(largest));
                let names = gpus.into_iter().map(|gpu| gpu.name).collect();
                self.know(None, Fact::LocalGpu, FactValue::Texts(names));
            }
            Err(why) => {
                self.know(None, Fact::LocalGpuMemory, FactValue::Unknown(why.clone()));
                self.know(None, Fact::LocalGpu, FactValue::Unknown(why));
            }
        }
    }

    async fn gather_changes(&self, job: &PlannedJob) {
        let since = job.routing.changed_since.as_deref();
        let own = Some(job.id.clone());
        let (whose, changed) = match (git::is_repository(&self.surroundings.root), since) {
            (true, None) => (None, git::changed(&self.surroundings, None).await),
            (true, since) => (own, git::changed(&self.surroundings, since).await),
            (false, None) => (own, tree::changed_since_passed(&self.surroundings, &job.id).await),
            (false, Some(since)) => {
                (own, Err(format!("changed_since is `{since}`, and this is no git repository")))
            }
        };
        let (paths, count) = match changed {
            Ok(paths) => {
                let count = FactValue::Count(paths.len() as f64);
                (FactValue::Texts(paths), count)
            }
            Err(why) => (FactValue::Unknown(why.clone()), FactValue::Unknown(why)),
        };
        self.know(whose.clone(), Fact::Changed, paths);
        self.know(whose, Fact::ChangedFiles, count);
    }

    fn get(&self, job: &PlannedJob, fact: Fact) -> FactValue {
        if let Some(known) = self.find(job, fact) {
            return known;
        }
        let value = self.at_once(fact);
        if !self.missing.borrow().contains(&Missing::Fact(fact)) {
            self.know(None, fact, value.clone());
        }
        value
    }

    fn at_once(&self, fact: Fact) -> FactValue {
        let surroundings = &self.surroundings;
        match fact {
            Fact::LocalCpus => machine::cpus().map_or_else(unknown_here, FactValue::Count),
            Fact::LocalLoad => machine::load().map_or_else(unknown_here, FactValue::Count),
            Fact::LocalMemory => machine::available_memory().map_or_else(unknown_here, FactValue::Size),
            Fact::OnBattery => FactValue::Is(machine::on_battery(Path::new("/sys/class/power_supply"))),
            Fact::Branch => git::branch(&surroundings.root).map_or_else(FactValue::Unknown, FactValue::Text),
            Fact::Ci => FactValue::Is(is_ci(surroundings.variable("CI"))),
            Fact::Caller => FactValue::Text(surroundings.caller.to_owned()),
            Fact::Os => FactValue::Text(machine::OS.to_owned()),
            Fact::Arch => FactValue::Text(machine::ARCH.to_owned()),
            Fact::Changed
            | Fact::ChangedFiles
            | Fact::LocalGpu
            | Fact::LocalGpuMemory
            | Fact::ModalReady
            | Fact::SyncBytes
            | Fact::Warm => self.later(fact),
            Fact::Labels | Fact::Gpu | Fact::Env => FactValue::Unknown("a fact of the job".to_owned()),
            Fact::Attempt | Fact::P50 | Fact::P90 | Fact::Runs | Fact::Cost => {
                FactValue::Unknown("a fact of the attempt".to_owned())
            }
        }
    }

    fn later(&self, fact: Fact) -> FactValue {
        self.missing.borrow_mut().insert(Missing::Fact(fact));
        being_gathered()
    }
}

fn being_gathered() -> FactValue {
    FactValue::Unknown("being gathered".to_owned())
}

fn unknown_here() -> FactValue {
    FactValue::Unknown("this system does not say".to_owned())
}

/// As CI services set it: anything but empty, `0` and `false`.
fn is_ci(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "0" && value != "false")
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
}
