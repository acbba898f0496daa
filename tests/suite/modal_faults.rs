//! Faults of Modal at every call of a run: the run succeeds with the same bytes, or it fails with the right cause, and
//! no sandbox is left behind.
//!
//! Runs go through the library, with a clock whose sleeps take no time. `ACCEL_FAULT_SEEDS` sets how many random
//! combinations are tried, `ACCEL_FAULT_SEED` tries a single one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use accel::backend::BoxFuture;
use accel::backend::modal::clock::Clock;
use accel::domain::Cause;
use accel::event::Verdict;
use tonic::Code;

use crate::fake_modal::Fault;
use crate::modal_project::{Done, Project, Random, cores, each_seed};

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
#[derive(Default)]
pub struct QuickClock(Mutex<Duration>);

impl Clock for QuickClock {
    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + *self.0.lock().unwrap()
    }

    fn awake(&self) -> Instant {
        Instant::now() + *self.0.lock().unwrap()
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

fn project() -> Project {
    let project = Project::new(CONFIG, Arc::new(QuickClock::default()));
    project.modal.secret("s", &[("A", "1")]);
    project.modal.state().chunk = 4000;
    project.write("data", "first\n");
    project
}

/// The run did all of it, or says why not.
fn judge(project: &Project, done: &Done, data: &str, told: &dyn std::fmt::Display) -> Option<Cause> {
    assert!(project.modal.alive().is_empty(), "{told}: a sandbox is left: {done:?}");
    match &done.verdict {
        Verdict::Passed => {
            let expect = expected(data);
            assert!(done.stdout == expect.as_bytes(), "{told}: {} bytes", done.stdout.len());
            assert_eq!(std::fs::read_to_string(project.root().join("out/copy")).unwrap(), data, "{told}");
            None
        }
        Verdict::Errored { cause, exit_code: 125, message, .. } => {
            assert!(!message.is_empty());
            Some(*cause)
        }
        verdict => panic!("{told}: {verdict:?} {:?}", done.notices),
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
            let project = project();
            let told = format!("{method}: {fault:?}");
            project.modal.fail(method, [fault.clone()]);
            let job = if is_gpu(method) { "gpu" } else { "cpu" };
            let done = project.run(job);
            assert_eq!(judge(&project, &done, "first\n", &told), None, "{told}: {done:?}");
        }
    });
}

#[test]
fn refusals_end_with_the_right_cause_at_every_call() {
    each_method(|method| {
        for (code, causes) in REFUSING {
            let project = project();
            let told = format!("{method}: {code:?}");
            project.modal.fail(method, [Fault::code(code)]);
            let job = if is_gpu(method) { "gpu" } else { "cpu" };
            let done = project.run(job);
            if let Some(cause) = judge(&project, &done, "first\n", &told) {
                let own = mistake(method, code).is_some_and(|mistake| mistake == cause);
                assert!(own || causes.contains(&cause), "{told}: {cause:?} {done:?}");
            }
        }
    });
}

/// The cause of a refusal that says that the job asks for what cannot be.
fn mistake(method: &str, code: Code) -> Option<Cause> {
    match (method, code) {
        ("AppGetOrCreate" | "EnvironmentGetOrCreate" | "VolumeGetOrCreate", Code::NotFound)
        | ("VolumeGetOrCreate" | "SandboxCreate" | "SandboxCreateV2", Code::InvalidArgument)
        | ("SecretGetOrCreate", Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition) => {
            Some(Cause::Command)
        }
        ("ImageGetOrCreate", Code::InvalidArgument) => Some(Cause::Image),
        _ => None,
    }
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

fn random_fault(random: &mut Random) -> Fault {
    match random.below(8) {
        0 => Fault::CutAfter(random.below(9000)),
        1 => Fault::AnswerLost,
        2 => Fault::Disconnected,
        3 => Fault::throttle(Code::Unavailable, 0.1),
        4 => Fault::Slow(Duration::from_millis(random.below(50) as u64)),
        5 => Fault::code(random.pick(&REFUSING).0),
        _ => Fault::code(*random.pick(&PASSING)),
    }
}

/// Combinations tried where nothing else is asked for.
const SEEDS: u64 = 300;

#[test]
fn random_faults_leave_nothing_and_lose_nothing() {
    each_seed("ACCEL_FAULT_SEEDS", "ACCEL_FAULT_SEED", SEEDS, cores(), random_runs);
}

/// Two runs of one project: the second has ids to remember and a tree that changed.
fn random_runs(seed: u64) {
    let mut random = Random::new(seed);
    let project = project();
    let job = ["cpu", "gpu"][random.below(2)];
    for data in ["first\n", "second\n"] {
        let mut told = format!("ACCEL_FAULT_SEED={seed} {job}");
        for _ in 0..1 + random.below(3) {
            let (method, nth, fault) =
                (METHODS[random.below(METHODS.len())], 1 + random.below(3), random_fault(&mut random));
            told.push_str(&format!(", {method} {nth}: {fault:?}"));
            project.modal.fail_nth(method, nth, fault);
        }
        project.write("data", data);
        let done = project.run(job);
        judge(&project, &done, data, &told);
        project.modal.state().faults.clear();
    }
}
