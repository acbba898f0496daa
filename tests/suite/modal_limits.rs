//! Stages of a run that take too long: each has its own limit and its own words, and none leaves a sandbox.

use std::sync::Arc;
use std::time::Duration;

use accel::backend::modal::limits::Limits;
use accel::domain::Cause;
use accel::event::Verdict;

use crate::fake_modal::{Build, BuildEnd, Fate, Fault};
use crate::modal_faults::QuickClock;
use crate::modal_project::Project;

const CONFIG: &str = "version = 1
[project]
name = 'demo'
[images.py]
base = 'debian_slim'
run = ['make everything']
[jobs.it]
image = 'py'
outputs = ['out']
run = 'echo made > out'
[jobs.sleeps]
timeout = '300ms'
run = 'sleep 600'
[jobs.gpu]
gpu = [{ type = 'L4', wait = '2s' }, { type = 'T4', wait = '3s' }]
run = 'true'
";

/// For stages in which nothing moves at all.
const SHORT: Duration = Duration::from_millis(300);

fn project(limits: Limits) -> Project {
    let mut project = Project::new(CONFIG, Arc::new(QuickClock::default()));
    project.limits = limits;
    project
}

/// Cause, words and remedy of a run that fails, and that nothing is left of it.
fn failure(project: &Project, job: &str) -> (Cause, String, String) {
    let done = project.run(job);
    assert!(project.modal.alive().is_empty(), "{done:?}");
    assert!(project.unsettled().is_empty(), "{done:?}");
    match done.verdict {
        Verdict::Errored { cause, message, help, exit_code: 125 } => {
            (cause, message, help.unwrap_or_default())
        }
        verdict => panic!("{verdict:?}"),
    }
}

#[test]
fn a_build_of_which_nothing_is_heard_is_given_up() {
    let project = project(Limits { build: SHORT, ..Limits::default() });
    let silent = Build { logs: vec!["begun\n".into()], end: BuildEnd::Never };
    project.modal.state().builds.push(("make everything".to_owned(), silent));
    let (cause, message, help) = failure(&project, "it");
    assert_eq!(cause, Cause::Image);
    assert_eq!(
        message,
        "image py 2/2: make everything (accel.toml:6): nothing was heard of its build for 300ms"
    );
    assert!(help.contains("run again to follow it"), "{help}");
    assert!(project.modal.sandboxes().is_empty());
}

#[test]
fn an_answer_about_a_layer_that_does_not_come_is_given_up_too() {
    let project = project(Limits { build: SHORT, ..Limits::default() });
    project.modal.fail("ImageGetOrCreate", [Fault::Silence]);
    let (cause, message, _) = failure(&project, "it");
    assert_eq!(cause, Cause::Image);
    assert!(message.contains("nothing was heard of its build for 300ms"), "{message}");
}

#[test]
fn files_that_nobody_takes_are_given_up() {
    let small = project(Limits { upload: SHORT, ..Limits::default() });
    small.modal.fail("MountPutFile", vec![Fault::Silence; 8]);
    let (cause, message, help) = failure(&small, "it");
    assert_eq!(cause, Cause::Infra);
    assert_eq!(message, "sending files to Modal came to a halt: nothing was taken for 300ms");
    assert!(help.contains("accel sync --plan"), "{help}");
    assert!(small.modal.sandboxes().is_empty());
}

#[test]
fn a_request_that_stands_still_is_made_again_and_then_given_up() {
    let large = "x".repeat(5 << 20);
    let once = project(Limits { request: SHORT, ..Limits::default() });
    once.write("large", &large);
    once.modal.fail("PUT", [Fault::Silence]);
    assert_eq!(once.run("it").verdict, Verdict::Passed);
    assert_eq!(once.modal.calls_of("PUT").len(), 2);

    let always = project(Limits { request: SHORT, ..Limits::default() });
    always.write("large", &large);
    always.modal.fail("PUT", vec![Fault::Silence; 8]);
    let (cause, message, _) = failure(&always, "it");
    assert_eq!(cause, Cause::Infra);
    assert_eq!(message, "a large file could not be uploaded: 127.0.0.1: nothing was taken for 300ms");
    assert_eq!(always.modal.calls_of("PUT").len(), 3);
}

#[test]
fn a_machine_that_does_not_come_is_given_up_and_the_request_taken_back() {
    let project = project(Limits::default());
    for gpu in ["L4", "T4"] {
        project.modal.gpu(gpu, Fate::QueuedForever);
    }
    let (cause, message, _) = failure(&project, "gpu");
    assert_eq!(cause, Cause::Queue);
    assert!(message.contains("L4: none within 2 s") && message.contains("T4: none within 3 s"), "{message}");
    assert_eq!(project.modal.sandboxes().len(), 2);
}

#[test]
fn a_command_that_takes_too_long_is_a_timeout_and_nothing_else() {
    let project = project(Limits::default());
    let done = project.run("sleeps");
    assert_eq!(done.verdict, Verdict::TimedOut { limit: SHORT });
    assert!(project.modal.alive().is_empty());
    assert!(project.unsettled().is_empty());
}

#[test]
fn outputs_that_stop_coming_are_given_up() {
    let project = project(Limits { download: SHORT, ..Limits::default() });
    // The first two readings are of the command itself.
    for reading in [3, 4] {
        project.modal.fail_nth("TaskExecStdioRead", reading, Fault::Silence);
    }
    let (cause, message, help) = failure(&project, "it");
    assert_eq!(cause, Cause::Infra);
    assert_eq!(message, "the outputs came to a halt: nothing arrived for 300ms");
    assert!(help.contains("volume"), "{help}");
    assert_eq!(project.modal.sandboxes().len(), 1);
    assert!(!project.root().join("out").exists());
}
