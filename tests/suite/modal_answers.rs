//! Answers of a Modal that is newer than this accel, or broken: accel works on, or says what is wrong; it never panics,
//! hangs, loses a sandbox, or keeps what makes later runs fail.
//!
//! `ACCEL_ANSWER_SEEDS` sets how many random combinations are tried, `ACCEL_ANSWER_SEED` tries a single one.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use accel::event::Verdict;

use crate::fake_modal::{FakeModal, Fault, How, Mangling};
use crate::modal_faults::QuickClock;
use crate::modal_project::{Done, Project, Random, cores, each_seed};
use crate::world::{Finished, World};

const JOBS: &str = "
[images.py]
base = 'debian_slim'
run = ['true']
[jobs.cpu]
image = 'py'
secrets = ['s']
volumes = { '/cache' = 'v' }
outputs = ['out/**']
timeout = '20s'
run = 'cat data; echo apart >&2; mkdir -p out; cp data out/copy'
[jobs.gpu]
extends = 'cpu'
gpu = [{ type = 'L4', wait = '2s' }, { type = 'T4', wait = '2s' }]
[jobs.warm]
extends = 'cpu'
warm = true
ports = [8000]
";
const NAMES: [&str; 3] = ["cpu", "gpu", "warm"];

/// Everything that accel asks for in these tests.
const METHODS: [&str; 29] = [
    "AppGetOrCreate",
    "AuthTokenGet",
    "BlobCreate",
    "ClientHello",
    "EnvironmentGetOrCreate",
    "ImageFromId",
    "ImageGetOrCreate",
    "ImageJoinStreaming",
    "MountBatchedCheckExistence",
    "MountGetOrCreate",
    "MountPutFile",
    "SandboxCreate",
    "SandboxCreateV2",
    "SandboxGetCommandRouterAccess",
    "SandboxGetResourceUsage",
    "SandboxGetStats",
    "SandboxGetTaskId",
    "SandboxGetTunnelsV2",
    "SandboxListV2",
    "SandboxTerminate",
    "SandboxTerminateV2",
    "SandboxWait",
    "SandboxWaitV2",
    "SecretGetOrCreate",
    "TaskExecStart",
    "TaskExecStdioRead",
    "TaskExecWait",
    "TaskGetCommandRouterAccess",
    "VolumeGetOrCreate",
];
/// Asked for beside a run, or by few commands.
const RARE: [&str; 3] = ["TaskExecStdinWrite", "WorkspaceBillingRates", "WorkspaceNameLookup"];

/// A content that travels as a blob.
const LARGE: usize = 5 << 20;
/// Longer is a hang: the limits of these jobs are far shorter.
const HANG: Duration = Duration::from_secs(150);
/// As many answers of one method as a run can wish for.
const ALL: usize = 200;

/// Lets some answers be broken; what is done, for the message of a failure.
fn break_some(modal: &FakeModal, random: &mut Random) -> String {
    // Whoever is told that a content is there does not send it.
    modal.state().forgiven = vec!["no content for"];
    let mut told = String::new();
    for _ in 0..1 + random.below(4) {
        let method = match random.below(12) {
            0 => *random.pick(&RARE),
            _ => *random.pick(&METHODS),
        };
        let mangling = Mangling { how: *random.pick(&How::BROKEN), seed: random.below(1 << 30) as u64 };
        let fault = Fault::Mangled(mangling);
        let nth = 1 + random.below(3);
        if random.below(4) == 0 {
            told.push_str(&format!(", every {method}: {mangling:?}"));
            modal.fail(method, (0..ALL).map(|_| fault.clone()));
        } else {
            told.push_str(&format!(", {method} {nth}: {mangling:?}"));
            modal.fail_nth(method, nth, fault);
        }
    }
    told
}

fn works_again(modal: &FakeModal) {
    let mut state = modal.state();
    state.faults.clear();
    state.every = None;
}

#[test]
fn what_a_newer_server_adds_to_its_answers_changes_nothing() {
    let project = project("");
    project.modal.state().every = Some(Mangling { how: How::Newer, seed: 0 });
    for name in NAMES {
        project.write("data", name);
        let done = project.run(name);
        assert_passed(&project, &done, name, name);
    }
    project.modal.allow_survivors();
}

fn project(data: &str) -> Project {
    let config = format!("version = 1\n[project]\nname = 'demo'\n{JOBS}");
    let project = Project::new(&config, Arc::new(QuickClock::default()));
    project.modal.secret("s", &[("A", "1")]);
    project.write("data", data);
    project
}

fn assert_passed(project: &Project, done: &Done, data: &str, told: &str) {
    assert_eq!(done.verdict, Verdict::Passed, "{told}: {done:?}");
    assert_eq!(String::from_utf8_lossy(&done.stdout), data, "{told}");
    assert_eq!(std::fs::read_to_string(project.root().join("out/copy")).unwrap(), data, "{told}");
}

#[test]
fn an_end_that_is_not_told_is_asked_for_with_pauses_and_given_up() {
    let project = project("");
    project.modal.fail("TaskExecWait", (0..5000).map(|_| Fault::Nothing));
    let done = project.run("cpu");
    let Verdict::Errored { exit_code: 125, message, .. } = &done.verdict else { panic!("{done:?}") };
    assert!(message.contains("ended in a way that this accel does not know"), "{message}");
    let asked = project.modal.calls_of("TaskExecWait").len();
    assert!(asked < 1000, "asked {asked} times in five minutes");
}

#[test]
fn a_server_that_does_not_hold_a_question_is_not_asked_in_a_busy_loop() {
    let modal = FakeModal::serve();
    let world = crate::modal_world::world(&modal, "[jobs.slow]\nrun = 'sleep 1.2'\n");
    modal.fail("SandboxWaitV2", (0..5000).map(|_| Fault::Nothing));
    world.accel(["run", "slow"]).run().code(0);
    let asked = modal.calls_of("SandboxWaitV2").len();
    assert!(asked < 20, "asked {asked} times in two seconds");
}

#[test]
fn what_is_made_without_a_name_is_not_taken_for_something() {
    for (method, name) in [
        ("AppGetOrCreate", "app"),
        ("ImageGetOrCreate", "image"),
        ("MountGetOrCreate", "mount"),
        ("SandboxCreateV2", "sandbox"),
        ("SecretGetOrCreate", "secret"),
        ("VolumeGetOrCreate", "volume"),
    ] {
        let project = project("data");
        project.modal.fail(method, [Fault::Nothing]);
        let done = project.run("cpu");
        let Verdict::Errored { exit_code: 125, message, .. } = &done.verdict else { panic!("{done:?}") };
        assert_eq!(*message, format!("Modal: the answer names no {name} ({method})"));
        assert_passed(&project, &project.run("cpu"), "data", method);
    }
}

#[test]
fn a_builder_that_accel_does_not_know_is_not_remembered() {
    let project = project("data");
    project.modal.state().builder = "2031.01".to_owned();
    let done = project.run("cpu");
    let Verdict::Errored { message, .. } = &done.verdict else { panic!("{done:?}") };
    assert!(message.contains("2031.01"), "{message}");
    project.modal.state().builder = "2025.06".to_owned();
    assert_passed(&project, &project.run("cpu"), "data", "put right");
}

/// Combinations tried in one process, where nothing else is asked for.
const SEEDS: u64 = 30;

#[test]
fn answers_that_make_no_sense_end_a_run_with_a_reason_and_spoil_no_later_one() {
    each_seed("ACCEL_ANSWER_SEEDS", "ACCEL_ANSWER_SEED", SEEDS, cores(), |seed| {
        within(HANG, seed, move || broken_run(seed));
    });
}

fn broken_run(seed: u64) {
    let mut random = Random::new(seed);
    let project = project("first\n");
    let name = *random.pick(&NAMES);
    if random.below(4) == 0 {
        project.write("large", &"x".repeat(LARGE));
    }
    let told = format!("ACCEL_ANSWER_SEED={seed} {name}{}", break_some(&project.modal, &mut random));
    let done = project.run(name);
    match &done.verdict {
        Verdict::Errored { message, .. } => {
            assert!(!message.is_empty() && !message.contains("panicked"), "{told}: {message}");
        }
        Verdict::Passed | Verdict::Failed { .. } | Verdict::TimedOut { .. } => {}
        verdict => panic!("{told}: {verdict:?}"),
    }
    works_again(&project.modal);
    let done = project.run(name);
    assert_passed(&project, &done, "first\n", &told);
    project.modal.allow_survivors();
}

/// Fails when the work has not ended by then.
fn within(limit: Duration, seed: u64, work: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        let _ = sender.send(());
    });
    if receiver.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("ACCEL_ANSWER_SEED={seed}: no end within {limit:?}");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Combinations tried through the real binary, where nothing else is asked for.
const COMMAND_SEEDS: u64 = 6;

#[test]
fn answers_that_make_no_sense_crash_no_command_and_lose_no_sandbox() {
    each_seed("ACCEL_ANSWER_SEEDS", "ACCEL_ANSWER_SEED", COMMAND_SEEDS, cores(), broken_commands);
}

fn broken_commands(seed: u64) {
    let mut random = Random::new(seed);
    let modal = FakeModal::serve();
    modal.allow_survivors();
    modal.secret("s", &[("A", "1")]);
    let world = crate::modal_world::world(&modal, JOBS).file("data", "first\n");
    let before = listing(&world);
    let name = *random.pick(&NAMES);
    let commands: [&[&str]; 7] = [
        &["run", name],
        &["ps"],
        &["run", name],
        &["image", "build", "py", "--on", "modal"],
        &["doctor"],
        &["logs", name],
        &["stop", name],
    ];
    for command in commands {
        let told = format!("ACCEL_ANSWER_SEED={seed} {command:?}{}", break_some(&modal, &mut random));
        let finished = world.accel(command).run();
        assert_sane(&finished, &told);
        works_again(&modal);
    }
    let told = format!("ACCEL_ANSWER_SEED={seed}");
    let after = world.accel(["run", name]).run();
    assert_eq!(after.status.code(), Some(0), "{told}: {after:?}");
    assert_eq!(after.stdout_text(), "first\n", "{told}");
    world.accel(["prune"]).run().code(0);
    assert_eq!(modal.alive().len(), 0, "{told}: {:?}", modal.alive());
    let left = world.accel(["ps", "--json"]).run();
    assert_eq!(left.code(0).json(), serde_json::json!([]), "{told}");
    let mut expected = before;
    expected.extend(["out".to_owned(), "out/copy".to_owned()]);
    assert_eq!(listing(&world), expected, "{told}");
}

/// A documented exit code, and a reason where it is a failure of accel.
fn assert_sane(finished: &Finished, told: &str) {
    let code = finished.status.code();
    assert!(code.is_some(), "{told}: {finished:?}");
    let said = finished.stderr_text();
    for words in ["this is a mistake in accel", "a task of accel broke", "panicked"] {
        assert!(!said.contains(words), "{told}: {finished:?}");
    }
    let controls = |byte: &u8| byte.is_ascii_control() && !b"\n\t".contains(byte);
    assert!(!finished.stderr.iter().any(controls), "{told}: {finished:?}");
    if code == Some(125) {
        assert!(!said.is_empty(), "{told}: {finished:?}");
    }
}

/// The project's files and folders.
fn listing(world: &World) -> BTreeSet<String> {
    fn collect(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
            if path.is_dir() {
                collect(root, &path, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    collect(&world.project(), &world.project(), &mut found);
    found
}
