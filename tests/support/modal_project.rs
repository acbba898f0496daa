//! A project whose jobs run on the tests' own Modal through the library: with a clock and a network of the test's own,
//! and with a look at every event.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use accel::backend::modal::clock::Clock;
use accel::backend::modal::identity::Machine;
use accel::backend::modal::limits::Limits;
use accel::backend::modal::settings::Settings;
use accel::backend::modal::{Access, Color, Common, ModalBackend, ModalSettings};
use accel::backend::{Backend, CancelSource};
use accel::config::{LoadRequest, load};
use accel::domain::{Place, Stream};
use accel::engine::{self, Decision, FallbackPolicy, Jitter, OnFailure, OutputPolicy, Parallel, RunOptions};
use accel::event::{Event, Verdict, channel};
use accel::net::NetworkSettings;
use accel::plan::Selection;
use accel::process::{Ownership, Supervisor};
use accel::store::journal::Entry;
use accel::store::journal::warm::Parker;
use accel::store::{Database, Directories, Journal};

use tokio::runtime::Runtime;

use crate::fake_modal::FakeModal;

/// A project and a state folder that several runs share.
pub struct Project {
    folder: tempfile::TempDir,
    pub modal: FakeModal,
    /// Where accel looks for Modal, if elsewhere.
    pub server: Option<String>,
    pub clock: Arc<dyn Clock>,
    pub network: NetworkSettings,
    pub limits: Limits,
    /// What its runs share.
    pub common: Common,
    /// Of all runs: what stands between two of them lives in it.
    runtime: Runtime,
}

#[derive(Debug)]
pub struct Done {
    pub verdict: Verdict,
    pub stdout: Vec<u8>,
    /// `code: text`
    pub notices: Vec<String>,
}

impl Project {
    pub fn new(config: &str, clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (modal, network, limits) = (FakeModal::serve(), NetworkSettings::default(), Limits::default());
        let (common, runtime) = (Common::default(), runtime());
        let project = Self { folder, modal, server: None, clock, network, limits, common, runtime };
        std::fs::create_dir(project.root()).unwrap();
        project.write("accel.toml", config);
        project
    }

    pub fn root(&self) -> std::path::PathBuf {
        self.folder.path().canonicalize().unwrap().join("project")
    }

    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.root().join(path), text).unwrap();
    }

    /// Runs follow each other as those of a watch: connections stand in between.
    pub fn in_a_loop(mut self) -> Self {
        self.common = Common::of_loop(Parker::new(Journal::new(Database::new(self.directories()))));
        self
    }

    fn directories(&self) -> Directories {
        let home = self.folder.path().as_os_str().to_owned();
        let variable = |name: &str| (name == "HOME").then(|| home.clone());
        Directories::resolve(variable, self.folder.path(), self.folder.path(), 0)
    }

    /// What the journal still holds.
    pub fn unsettled(&self) -> Vec<Entry> {
        self.runtime.block_on(Journal::new(Database::new(self.directories())).unsettled()).unwrap()
    }

    fn settings(&self, plan: &accel::plan::spec::Plan) -> ModalSettings {
        let mut variables: BTreeMap<String, String> =
            self.modal.variables().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        variables.extend(self.server.clone().map(|server| ("MODAL_SERVER_URL".to_owned(), server)));
        let access = Access {
            settings: Settings::load(Path::new("none"), None, &variables),
            config_path: "none".into(),
            machine: Machine::default(),
            network: self.network.clone(),
            clock: Arc::clone(&self.clock),
            opening: None,
            limits: self.limits,
        };
        ModalSettings { common: self.common.clone(), ..settings_of(plan, access, self.directories()) }
    }

    pub fn run(&self, job: &str) -> Done {
        self.run_watched(job, |_| {})
    }

    /// `watch` sees each event before the next one is taken.
    pub fn run_watched(&self, job: &str, mut watch: impl FnMut(&Event)) -> Done {
        let request = LoadRequest {
            start: self.root(),
            explicit: Some(self.root().join("accel.toml")),
            display_base: self.root(),
            ..LoadRequest::default()
        };
        let config = load(&request).unwrap_or_else(|error| panic!("{error:?}")).config;
        let plan = Arc::new(accel::workspace::plan(&config, &Selection::of([job])).unwrap());
        let backend = Arc::new(ModalBackend::new(self.settings(&plan)));
        self.runtime.block_on(async {
            let (emitter, mut events) = channel();
            let decide = Arc::new(|_: &accel::plan::spec::PlannedJob, _| Decision {
                place: Place::Modal,
                reason: "test".to_owned(),
                reasons: vec!["test".to_owned()],
                quote: None,
                rival: None,
            });
            let backends = BTreeMap::from([(Place::Modal, Arc::clone(&backend) as Arc<dyn Backend>)]);
            let source = CancelSource::default();
            let running = engine::run(plan, options(), backends, decide, emitter, source.watch());
            let listening = async {
                let (mut stdout, mut notices) = (Vec::new(), Vec::<String>::new());
                while let Some(stamped) = events.recv().await {
                    watch(&stamped.event);
                    match stamped.event {
                        Event::Output { stream: Stream::Stdout, data, .. } => stdout.extend_from_slice(&data),
                        event => notices.extend(noticed(&event)),
                    }
                }
                (stdout, notices)
            };
            let (summary, (stdout, notices)) = tokio::join!(running, listening);
            backend.finish().await;
            let settled = self.common.settled(source.watch()).await;
            let notices = notices.into_iter().chain(settled.iter().filter_map(noticed)).collect();
            Done { verdict: summary.jobs[0].verdict.clone(), stdout, notices }
        })
    }
}

fn noticed(event: &Event) -> Option<String> {
    let Event::Notice { code, text, .. } = event else { return None };
    Some(format!("{code}: {text}"))
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn options() -> RunOptions {
    RunOptions {
        run: "run".to_owned(),
        parallel: Parallel { local: None, modal: None },
        on_failure: OnFailure::Drain,
        fallback: FallbackPolicy::AsPlanned,
        output: OutputPolicy::Events,
        jitter: Jitter::new(|| 0.5),
    }
}

/// A small generator, so that a seed means the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.below(2);
        random
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Seeds from 1 on, side by side: as many as the variable `count` says, else `usual`; or only the one that the variable
/// `single` names.
pub fn each_seed(count: &str, single: &str, usual: u64, at_once: usize, check: impl Fn(u64) + Sync) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = number(single).map_or(1..number(count).unwrap_or(usual) + 1, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    check(seed);
                }
            });
        }
    });
}

/// One for each core.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What a backend gets in tests, whatever leads it to its Modal.
pub fn settings_of(
    plan: &accel::plan::spec::Plan,
    access: Access,
    directories: Directories,
) -> ModalSettings {
    ModalSettings {
        access,
        target: plan.modal.clone(),
        project: plan.project.clone(),
        sync: plan.sync.clone(),
        run: "run".to_owned(),
        host_env: Vec::new(),
        color: Color::Unsaid,
        global_ignore: None,
        journal: Journal::new(Database::new(directories.clone())),
        directories,
        reuse: accel::backend::modal::Reuse::Allowed,
        common: accel::backend::modal::Common::default(),
        terminal: None,
        supervisor: Supervisor::new(Ownership::Shared),
        purse: Default::default(),
    }
}
