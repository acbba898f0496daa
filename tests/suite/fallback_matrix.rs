//! Every cause that a place can really fail with, against every policy, in both directions: real processes here, and on
//! the tests' own Modal.
//!
//! What must hold: a job moves exactly when its cause is named and nothing forbids it; the move is one event with its
//! cause; outputs are those of the last attempt alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use accel::backend::local::{
    ColorHint, Environments, LocalBackend, LocalSettings, OomKills, PrepareRequest, Prepared,
};
use accel::backend::modal::identity::Machine;
use accel::backend::modal::limits::Limits;
use accel::backend::modal::settings::Settings;
use accel::backend::modal::{Access, ModalBackend};
use accel::backend::{Backend, BoxFuture, CancelSource, Failure};
use accel::config::{LoadRequest, load};
use accel::domain::{Cause, Place};
use accel::engine::{self, Decision, FallbackPolicy, Jitter, OnFailure, OutputPolicy, Parallel, RunOptions};
use accel::event::{Event, Verdict, channel};
use accel::net::NetworkSettings;
use accel::plan::Selection;
use accel::plan::spec::{Plan, PlannedJob};
use accel::process::{Ownership, Supervisor};
use accel::store::Directories;
use tonic::{Code, Status};

use crate::fake_modal::{Death, FakeModal, Fate, Fault, Moment};
use crate::modal_faults::QuickClock;
use crate::modal_project::settings_of;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Policy {
    Undeclared,
    ForOthers,
    ForThis,
    StrictJob,
    StrictRun,
}

const POLICIES: [Policy; 5] =
    [Policy::Undeclared, Policy::ForOthers, Policy::ForThis, Policy::StrictJob, Policy::StrictRun];

/// The causes that a fallback can name.
const NAMED: [&str; 8] = ["infra", "unreachable", "auth", "capacity", "queue", "image", "oom", "preempted"];

/// A way for one place to fail.
struct Case {
    from: Place,
    cause: Cause,
    about: &'static str,
    /// Keys of the job.
    keys: &'static str,
    /// What it does after its output was written, where it is to fail.
    then: &'static str,
    arrange: fn(&FakeModal),
}

const fn modal(cause: Cause, about: &'static str, arrange: fn(&FakeModal)) -> Case {
    Case { from: Place::Modal, cause, about, keys: "", then: "true", arrange }
}

const fn local(cause: Cause, about: &'static str, keys: &'static str, then: &'static str) -> Case {
    Case { from: Place::Local, cause, about, keys, then, arrange: |_| {} }
}

fn cases() -> Vec<Case> {
    vec![
        modal(Cause::Infra, "a fault inside Modal", |modal| {
            modal.next_sandbox(Fate::Dies(Moment::Exec, Death::InternalFailure));
        }),
        modal(Cause::Unreachable, "no connection", |_| {}),
        modal(Cause::Auth, "credentials refused", |modal| {
            modal.fail("AppGetOrCreate", vec![Fault::code(Code::Unauthenticated); 8]);
        }),
        modal(Cause::Capacity, "no machine", |modal| {
            modal.next_sandbox(Fate::Refused(Status::resource_exhausted("none left")));
        }),
        Case {
            keys: "gpu = { type = 'L4', wait = '1s' }\n",
            ..modal(Cause::Queue, "no machine in time", |modal| modal.gpu("L4", Fate::QueuedForever))
        },
        modal(Cause::Image, "an image that does not start", |modal| {
            modal.next_sandbox(Fate::Dies(Moment::Start, Death::InitFailure));
        }),
        modal(Cause::Oom, "out of memory", |modal| {
            modal.next_sandbox(Fate::Dies(Moment::Exec, Death::OutOfMemory));
        }),
        modal(Cause::Preempted, "taken away", |modal| {
            modal.next_sandbox(Fate::Dies(Moment::Exec, Death::Terminated));
        }),
        modal(Cause::Timeout, "the end of its lifetime", |modal| {
            modal.next_sandbox(Fate::Dies(Moment::Exec, Death::Timeout));
        }),
        Case { then: "exit 3", ..modal(Cause::Command, "a failed command", |_| {}) },
        local(Cause::Image, "no docker", "image = { local = { engine = 'container' } }\n", "true"),
        local(Cause::Capacity, "more memory than there is", "memory = '900TiB'\n", "true"),
        local(Cause::Oom, "killed for memory", "", "echo 'oom_kill 1' > \"$OOM\"; kill -9 $$"),
        local(Cause::Timeout, "a timeout", "timeout = '300ms'\n", "sleep 60"),
        local(Cause::Command, "a failed command", "", "exit 3"),
        local(Cause::Command, "a killed command", "", "kill -9 $$"),
    ]
}

#[test]
fn each_cause_with_each_policy_in_each_direction() {
    let cases = cases();
    // Most of the time is waited: for queues, ends, and servers that are not there.
    std::thread::scope(|scope| {
        for case in &cases {
            scope.spawn(move || POLICIES.map(|policy| Project::new(case, policy).check(case, policy)));
        }
    });
}

/// The kind of job that a rule sends here although its GPU is elsewhere.
#[test]
fn a_missing_gpu_is_a_reason_to_move_only_where_a_fallback_is_declared() {
    if Path::new("/dev/nvidiactl").exists() || Path::new("/dev/dxg").exists() {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    let case = local(Cause::Capacity, "no GPU", "gpu = 'L4'\n", "true");
    let moved = Project::new(&case, Policy::ForThis).run(Policy::ForThis);
    assert_eq!(
        (moved.moves(), moved.place),
        (vec![(Place::Local, Place::Modal, Cause::Capacity)], Some(Place::Modal))
    );
    for policy in [Policy::Undeclared, Policy::ForOthers, Policy::StrictRun] {
        let stayed = Project::new(&case, policy).run(policy);
        assert_eq!((stayed.verdict.passed(), stayed.place), (true, Some(Place::Local)), "{policy:?}");
        assert!(stayed.noticed("gpu-not-here"), "{policy:?}");
    }
}

struct Project {
    folder: tempfile::TempDir,
    modal: FakeModal,
    plan: Arc<Plan>,
    from: Place,
    unreachable: bool,
}

struct Done {
    verdict: Verdict,
    place: Option<Place>,
    events: Vec<Event>,
}

struct NoEnvironments;

impl Environments for NoEnvironments {
    fn prepare<'a>(&'a self, _: PrepareRequest<'a>) -> BoxFuture<'a, Result<Prepared, Failure>> {
        unreachable!("no image of these tests has Python packages")
    }
}

impl Project {
    fn new(case: &Case, policy: Policy) -> Self {
        let modal = FakeModal::serve();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("project");
        fs::create_dir_all(root.join("out")).unwrap();
        fs::write(root.join("out/before"), "before\n").unwrap();
        fs::write(root.join("oom"), "oom_kill 0\n").unwrap();
        fs::write(root.join("accel.toml"), config(case, policy)).unwrap();
        let request = LoadRequest {
            start: root.clone(),
            explicit: Some(root.join("accel.toml")),
            display_base: root.clone(),
            ..LoadRequest::default()
        };
        let config = load(&request).unwrap_or_else(|error| panic!("{error:?}")).config;
        let plan = Arc::new(accel::workspace::plan(&config, &Selection::of(["it"])).unwrap());
        Self { folder, modal, plan, from: case.from, unreachable: case.cause == Cause::Unreachable }
    }

    fn root(&self) -> PathBuf {
        self.plan.root.clone()
    }

    fn directories(&self) -> Directories {
        let home = self.folder.path().as_os_str().to_owned();
        let variable = |name: &str| (name == "HOME").then(|| home.clone());
        Directories::resolve(variable, self.folder.path(), self.folder.path(), 0)
    }

    fn local(&self) -> LocalBackend {
        let oom = self.root().join("oom");
        LocalBackend::new(LocalSettings {
            host_env: vec![
                ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
                ("OOM".into(), oom.clone().into()),
            ],
            run: None,
            color: ColorHint::Unsaid,
            supervisor: Supervisor::new(Ownership::Shared),
            environments: Arc::new(NoEnvironments),
            oom_kills: OomKills::counted_in(oom),
            global_ignore: || None,
            directories: self.directories(),
        })
    }

    fn modal(&self) -> ModalBackend {
        let mut variables: BTreeMap<String, String> =
            self.modal.variables().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        if self.unreachable {
            // Nobody listens there.
            variables.insert("MODAL_SERVER_URL".to_owned(), "http://127.0.0.1:1".to_owned());
        }
        let access = Access {
            settings: Settings::load(Path::new("none"), None, &variables),
            config_path: "none".into(),
            machine: Machine::default(),
            network: NetworkSettings::default(),
            clock: Arc::new(QuickClock::default()),
            opening: None,
            limits: Limits::default(),
        };
        ModalBackend::new(settings_of(&self.plan, access, self.directories()))
    }

    fn run(&self, policy: Policy) -> Done {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let modal = Arc::new(self.modal());
        let backends = BTreeMap::from([
            (Place::Local, Arc::new(self.local()) as Arc<dyn Backend>),
            (Place::Modal, Arc::clone(&modal) as Arc<dyn Backend>),
        ]);
        let options = RunOptions {
            run: "run".to_owned(),
            parallel: Parallel { local: None, modal: None },
            on_failure: OnFailure::Drain,
            fallback: match policy {
                Policy::StrictRun => FallbackPolicy::Forbidden,
                _ => FallbackPolicy::AsPlanned,
            },
            output: OutputPolicy::Events,
            jitter: Jitter::new(|| 0.5),
        };
        let place = self.from;
        let decide = Arc::new(move |_: &PlannedJob, _| Decision {
            place,
            reason: "test".to_owned(),
            reasons: vec!["test".to_owned()],
            quote: None,
            rival: None,
        });
        runtime.block_on(async {
            let (emitter, mut receiver) = channel();
            let source = CancelSource::default();
            let plan = Arc::clone(&self.plan);
            let running = engine::run(plan, options, backends, decide, emitter, source.watch());
            let listening = async {
                let mut events = Vec::new();
                while let Some(stamped) = receiver.recv().await {
                    events.push(stamped.event);
                }
                events
            };
            let (summary, events) = tokio::join!(running, listening);
            modal.finish().await;
            let report = &summary.jobs[0];
            Done { verdict: report.verdict.clone(), place: report.place, events }
        })
    }

    fn check(&self, case: &Case, policy: Policy) {
        (case.arrange)(&self.modal);
        let done = self.run(policy);
        let told =
            format!("{} ({}) on {}, {policy:?}: {:?}", case.cause, case.about, case.from, done.verdict);
        let never = matches!(case.cause, Cause::Command | Cause::Timeout);
        // A machine with too little memory is only a reason to go where another one may have it.
        let makes_do = case.from == Place::Local && case.cause == Cause::Capacity;
        let moves = !never && policy == Policy::ForThis;
        assert_eq!(done.verdict.passed(), moves || makes_do, "{told}");
        let other = if case.from == Place::Local { Place::Modal } else { Place::Local };
        let expected = if moves { vec![(case.from, other, case.cause)] } else { Vec::new() };
        assert_eq!(done.moves(), expected, "{told}");
        assert_eq!(done.place, Some(if moves { other } else { case.from }), "{told}");
        match &done.verdict {
            Verdict::Errored { cause, .. } => assert_eq!(*cause, case.cause, "{told}"),
            Verdict::Failed { .. } => assert_eq!(case.cause, Cause::Command, "{told}"),
            Verdict::TimedOut { .. } => assert_eq!(case.cause, Cause::Timeout, "{told}"),
            _ => {}
        }
        if moves {
            let outputs = self.outputs();
            assert_eq!(
                outputs,
                ["before".to_owned(), other.to_string()],
                "only those of the last attempt: {told}"
            );
        }
        assert!(self.modal.alive().is_empty(), "{told}");
    }

    fn outputs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root().join("out")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Done {
    fn moves(&self) -> Vec<(Place, Place, Cause)> {
        let one = |event: &Event| match event {
            Event::Fallback { from, to, cause, detail, .. } => {
                assert!(!detail.is_empty(), "a fallback says why");
                Some((*from, *to, *cause))
            }
            _ => None,
        };
        self.events.iter().filter_map(one).collect()
    }

    fn noticed(&self, expected: &str) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Notice { code, .. } if *code == expected))
    }
}

fn config(case: &Case, policy: Policy) -> String {
    let other = if case.from == Place::Local { "modal" } else { "local" };
    let cause = case.cause.as_str();
    let on: Vec<&str> = match policy {
        Policy::Undeclared => Vec::new(),
        Policy::ForOthers => NAMED.into_iter().filter(|named| *named != cause).collect(),
        // No fallback can name a failed command or a timeout: then every other cause is no help.
        _ if NAMED.contains(&cause) => vec![cause],
        _ => NAMED.to_vec(),
    };
    let fallback = match policy {
        Policy::Undeclared => String::new(),
        _ => format!("fallback = {{ to = '{other}', on = {on:?} }}\n"),
    };
    // A strict job cannot declare a fallback itself, but inherit one.
    let (inherited, own) = match policy {
        Policy::StrictJob => (format!("[defaults]\n{fallback}"), "strict = true\n".to_owned()),
        _ => (String::new(), fallback),
    };
    let from = case.from;
    format!(
        "version = 1\n{inherited}[jobs.it]\n{own}{keys}outputs = ['out/**']\n\
         run = '''mkdir -p out; echo written > out/$ACCEL_PLACE; if [ $ACCEL_PLACE = {from} ]; then {then}; fi'''\n",
        keys = case.keys,
        then = case.then,
    )
}
