//! Faults of Modal at every call of a run: the run succeeds with the same bytes, or it fails with the right cause, and
//! no sandbox is left behind.
//!
//! Runs go through the library, with a clock whose sleeps take no time. `ACCEL_FAULT_SEEDS` sets how many random
//! combinations are tried, `ACCEL_FAULT_SEED` tries a single one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use accel::backend::modal::clock::Clock;
use accel::backend::modal::identity::Machine;
use accel::backend::modal::settings::Settings;
use accel::backend::modal::{Access, Color, ModalBackend, ModalSettings};
use accel::backend::{Backend, BoxFuture, CancelSource};
use accel::config::{LoadRequest, load};
use accel::domain::{Cause, Place, Stream};
use accel::engine::{self, Decision, FallbackPolicy, Jitter, OnFailure, OutputPolicy, Parallel, RunOptions};
use accel::event::{Event, Verdict, channel};
use accel::net::NetworkSettings;
use accel::plan::Selection;
use accel::process::{Ownership, Supervisor};
use accel::store::{Database, Directories, Journal};
use tonic::Code;

use crate::fake_modal::{FakeModal, Fault};

const CONFIG: &str = "version = 1
[project]
name = 'demo'
[images.py]
base = 'debian_slim'
run = ['true']
[jobs.cpu]
image = 'py'
secrets = ['s']
volumes = { '/cache' = 'v' }
outputs = ['out/**']
run = 'cat data; seq 1 5000; echo apart >&2; mkdir -p out; cp data out/copy'
[jobs.gpu]
extends = 'cpu'
gpu = 'L4'
";

/// Sleeps are short, but time passes as if they had been slept.
struct QuickClock(Mutex<Duration>);

impl Clock for QuickClock {
    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + *self.0.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let real = duration.min(Duration::from_millis(2));
            tokio::time::sleep(real).await;
            *self.0.lock().unwrap() += duration.saturating_sub(real);
        })
    }

    fn fraction(&self) -> f64 {
        0.5
    }
}

/// A project and a state folder that several runs share.
struct Project {
    folder: tempfile::TempDir,
    modal: FakeModal,
}

#[derive(Debug)]
struct Done {
    verdict: Verdict,
    stdout: Vec<u8>,
    notices: Vec<String>,
}

impl Project {
    fn new() -> Self {
        let modal = FakeModal::serve();
        modal.secret("s", &[("A", "1")]);
        modal.state().chunk = 4000;
        let project = Self { folder: tempfile::tempdir().unwrap(), modal };
        std::fs::create_dir(project.root()).unwrap();
        project.write("accel.toml", CONFIG);
        project.write("data", "first\n");
        project
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().canonicalize().unwrap().join("project")
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.root().join(path), text).unwrap();
    }

    fn settings(&self, plan: &accel::plan::spec::Plan) -> ModalSettings {
        let variables: BTreeMap<String, String> =
            self.modal.variables().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let home = self.folder.path().as_os_str().to_owned();
        let variable = |name: &str| (name == "HOME").then(|| home.clone());
        let directories = Directories::resolve(variable, self.folder.path(), self.folder.path(), 0);
        ModalSettings {
            access: Access {
                settings: Settings::load(Path::new("none"), None, &variables),
                config_path: "none".into(),
                machine: Machine::default(),
                network: NetworkSettings::default(),
                clock: Arc::new(QuickClock(Mutex::default())),
            },
            target: plan.modal.clone(),
            project: plan.project.clone(),
            sync: plan.sync.clone(),
            run: "run".to_owned(),
            host_env: Vec::new(),
            color: Color::Unsaid,
            global_ignore: None,
            journal: Journal::new(Database::new(directories.clone())),
            directories,
            terminal: None,
            supervisor: Supervisor::new(Ownership::Shared),
        }
    }

    fn run(&self, job: &str) -> Done {
        let request = LoadRequest {
            start: self.root(),
            explicit: Some(self.root().join("accel.toml")),
            display_base: self.root(),
            ..LoadRequest::default()
        };
        let config = load(&request).unwrap_or_else(|error| panic!("{error:?}")).config;
        let plan = Arc::new(accel::workspace::plan(&config, &Selection::of([job])).unwrap());
        let backend = Arc::new(ModalBackend::new(self.settings(&plan)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (emitter, mut events) = channel();
            let options = RunOptions {
                run: "run".to_owned(),
                parallel: Parallel { local: None, modal: None },
                on_failure: OnFailure::Drain,
                fallback: FallbackPolicy::AsPlanned,
                output: OutputPolicy::Events,
                jitter: Jitter::new(|| 0.5),
            };
            let decide = Arc::new(|_: &accel::plan::spec::PlannedJob, _| Decision {
                place: Place::Modal,
                reason: "test".to_owned(),
                reasons: vec!["test".to_owned()],
                quote: None,
            });
            let backends = BTreeMap::from([(Place::Modal, Arc::clone(&backend) as Arc<dyn Backend>)]);
            let source = CancelSource::default();
            let running = engine::run(plan, options, backends, decide, emitter, source.watch());
            let listening = async {
                let (mut stdout, mut notices) = (Vec::new(), Vec::new());
                while let Some(stamped) = events.recv().await {
                    match stamped.event {
                        Event::Output { stream: Stream::Stdout, data, .. } => stdout.extend_from_slice(&data),
                        Event::Notice { code, text, .. } => notices.push(format!("{code}: {text}")),
                        _ => {}
                    }
                }
                (stdout, notices)
            };
            let (summary, (stdout, notices)) = tokio::join!(running, listening);
            backend.finish().await;
            Done { verdict: summary.jobs[0].verdict.clone(), stdout, notices }
        })
    }

    /// The run did all of it, or says why not.
    fn judge(&self, done: &Done, data: &str, told: &dyn std::fmt::Display) -> Option<Cause> {
        assert!(self.modal.alive().is_empty(), "{told}: a sandbox is left: {done:?}");
        match &done.verdict {
            Verdict::Passed => {
                let expect = expected(data);
                assert!(done.stdout == expect.as_bytes(), "{told}: {} bytes", done.stdout.len());
                assert_eq!(std::fs::read_to_string(self.root().join("out/copy")).unwrap(), data, "{told}");
                None
            }
            Verdict::Errored { cause, exit_code: 125, message, .. } => {
                assert!(!message.is_empty());
                Some(*cause)
            }
            verdict => panic!("{told}: {verdict:?} {:?}", done.notices),
        }
    }
}

fn expected(data: &str) -> String {
    let numbers: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    format!("{data}{numbers}")
}

/// Every call of a run with or without a GPU.
const METHODS: [&str; 20] = [
    "AppGetOrCreate",
    "EnvironmentGetOrCreate",
    "AuthTokenGet",
    "SecretGetOrCreate",
    "VolumeGetOrCreate",
    "MountPutFile",
    "MountGetOrCreate",
    "ImageGetOrCreate",
    "ImageJoinStreaming",
    "SandboxCreateV2",
    "SandboxCreate",
    "SandboxGetTaskId",
    "TaskGetCommandRouterAccess",
    "SandboxWaitV2",
    "TaskExecStart",
    "TaskExecStdioRead",
    "TaskExecStdinWrite",
    "TaskExecWait",
    "SandboxTerminateV2",
    "SandboxTerminate",
];

const PASSING: [Code; 5] =
    [Code::Unavailable, Code::Internal, Code::Unknown, Code::DeadlineExceeded, Code::Cancelled];
const REFUSING: [(Code, &[Cause]); 6] = [
    (Code::NotFound, &[Cause::Infra, Cause::Image]),
    (Code::InvalidArgument, &[Cause::Infra]),
    (Code::FailedPrecondition, &[Cause::Infra]),
    (Code::PermissionDenied, &[Cause::Auth]),
    (Code::Unauthenticated, &[Cause::Auth]),
    (Code::ResourceExhausted, &[Cause::Capacity]),
];

/// Faults that a run must get over.
fn passing() -> Vec<Fault> {
    let mut faults: Vec<_> = PASSING.map(Fault::code).to_vec();
    faults.extend([
        Fault::throttle(Code::ResourceExhausted, 0.2),
        Fault::AnswerLost,
        Fault::Disconnected,
        Fault::CutAfter(3),
    ]);
    faults
}

#[test]
fn faults_that_pass_are_got_over_at_every_call() {
    each_method(|method| {
        for fault in passing() {
            let project = Project::new();
            let told = format!("{method}: {fault:?}");
            project.modal.fail(method, [fault.clone()]);
            let job = if is_gpu(method) { "gpu" } else { "cpu" };
            let done = project.run(job);
            assert_eq!(project.judge(&done, "first\n", &told), None, "{told}: {done:?}");
        }
    });
}

#[test]
fn refusals_end_with_the_right_cause_at_every_call() {
    each_method(|method| {
        for (code, causes) in REFUSING {
            let project = Project::new();
            let told = format!("{method}: {code:?}");
            project.modal.fail(method, [Fault::code(code)]);
            let job = if is_gpu(method) { "gpu" } else { "cpu" };
            let done = project.run(job);
            if let Some(cause) = project.judge(&done, "first\n", &told) {
                assert!(causes.contains(&cause), "{told}: {cause:?} {done:?}");
            }
        }
    });
}

fn is_gpu(method: &str) -> bool {
    ["SandboxCreate", "SandboxGetTaskId", "TaskGetCommandRouterAccess", "SandboxTerminate"].contains(&method)
}

/// On all cores; a method that fails is named by its panic.
fn each_method(check: impl Fn(&str) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(method) =
                    METHODS.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap())
                {
                    check(method);
                }
            });
        }
    });
}

/// A small generator, so that a seed means the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn fault(&mut self) -> Fault {
        match self.below(8) {
            0 => Fault::CutAfter(self.below(9000)),
            1 => Fault::AnswerLost,
            2 => Fault::Disconnected,
            3 => Fault::throttle(Code::Unavailable, 0.1),
            4 => Fault::Slow(Duration::from_millis(self.below(50) as u64)),
            5 => Fault::code(REFUSING[self.below(REFUSING.len())].0),
            _ => Fault::code(PASSING[self.below(PASSING.len())]),
        }
    }
}

/// Combinations tried where nothing else is asked for.
const SEEDS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_faults_leave_nothing_and_lose_nothing() {
    let single = number("ACCEL_FAULT_SEED");
    let seeds = single.map_or(1..number("ACCEL_FAULT_SEEDS").unwrap_or(SEEDS) + 1, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    random_runs(seed);
                }
            });
        }
    });
}

/// Two runs of one project: the second has ids to remember and a tree that changed.
fn random_runs(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    random.below(2);
    let project = Project::new();
    let job = ["cpu", "gpu"][random.below(2)];
    for data in ["first\n", "second\n"] {
        let mut told = format!("ACCEL_FAULT_SEED={seed} {job}");
        for _ in 0..1 + random.below(3) {
            let (method, nth, fault) =
                (METHODS[random.below(METHODS.len())], 1 + random.below(3), random.fault());
            told.push_str(&format!(", {method} {nth}: {fault:?}"));
            project.modal.fail_nth(method, nth, fault);
        }
        project.write("data", data);
        let done = project.run(job);
        project.judge(&done, data, &told);
        project.modal.state().faults.clear();
    }
}
