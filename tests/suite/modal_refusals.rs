//! What a new user meets on the way to Modal: each refusal, whole, with the remedy it names.

use tonic::{Code, Status};

use crate::fake_modal::{Build, BuildEnd, FakeModal, Fate, Fault};
use crate::world::{Signal, World};

/// A project whose one job runs on Modal.
fn world(modal: &FakeModal, job: &str) -> World {
    let config = format!("version = 1\n\n[jobs.it]\nroute = 'modal'\nrun = 'true'\n{job}");
    World::new().file("accel.toml", config).envs(modal.variables())
}

/// What the run says, and the cause that programs see.
fn refusal(world: &World) -> String {
    let done = world.accel(["run", "it"]).run();
    done.code(125).stdout("");
    let events = world.accel(["run", "it", "--json"]).run();
    let finished = events.code(125).json_lines().into_iter().find(|event| event["event"] == "job_finished");
    let cause = finished.unwrap()["cause"].as_str().unwrap().to_owned();
    let text = done.redact(&done.stderr_text());
    let lines = text.lines().filter(|line| !line.starts_with("it → modal"));
    format!("{}\ncause: {cause}", lines.collect::<Vec<_>>().join("\n"))
}

/// Every call of a method fails so.
fn always(modal: &FakeModal, method: &str, status: &Status) {
    modal.fail(method, std::iter::repeat_n(Fault::Status(status.clone()), 8));
}

#[test]
fn no_token() {
    let world = World::new().file("accel.toml", "version = 1\n[jobs.it]\nroute = 'modal'\nrun = 'true'\n");
    insta::assert_snapshot!(refusal(&world), @r"
    ✗ it could not be run: no Modal token
      help: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run `modal token new`, which writes [WORLD]/home/.modal.toml
    cause: auth
    ");
}

#[test]
fn half_a_token() {
    let modal = FakeModal::serve();
    let world = World::new()
        .file("accel.toml", "version = 1\n[jobs.it]\nroute = 'modal'\nrun = 'true'\n")
        .env("MODAL_SERVER_URL", modal.url())
        .env("MODAL_TOKEN_ID", "ak-test");
    insta::assert_snapshot!(refusal(&world), @r"
    ✗ it could not be run: no Modal token
      help: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run `modal token new`, which writes [WORLD]/home/.modal.toml
    cause: auth
    ");
}

#[test]
fn a_wrong_token() {
    let modal = FakeModal::serve();
    modal.state().credentials = Some(("ak-right".to_owned(), "as-right".to_owned()));
    let refusal = refusal(&world(&modal, ""));
    // Whichever call is answered first.
    let call = refusal.split(['(', ')']).nth(1).unwrap().to_owned();
    insta::assert_snapshot!(refusal.replace(&call, "…"), @r"
    ✗ it could not be run: Modal refuses the credentials: Token validation failed: the token is missing or wrong (…)
      help: check MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run `modal token new`
    cause: auth
    ");
}

#[test]
fn a_token_without_the_right() {
    let modal = FakeModal::serve();
    always(&modal, "AppGetOrCreate", &Status::permission_denied("members of `guests` cannot create apps"));
    insta::assert_snapshot!(refusal(&world(&modal, "")), @r"
    ✗ it could not be run: Modal does not allow this: members of `guests` cannot create apps (AppGetOrCreate)
      help: ask the workspace's owner for the right, or use a token that has it
    cause: auth
    ");
}

#[test]
fn a_server_address_that_is_none() {
    let modal = FakeModal::serve();
    let world = world(&modal, "").env("MODAL_SERVER_URL", "api.example");
    insta::assert_snapshot!(refusal(&world), @r#"
    ✗ it could not be run: cannot reach Modal: "api.example" is not an address of a Modal server: it starts with none of https://, http:// and unix:// (connect)
      help: correct MODAL_SERVER_URL, or server_url in the file of `modal token new`
    cause: unreachable
    "#);
}

/// Connecting is tried for a minute, so the first word about it comes early.
#[test]
fn an_unreachable_server() {
    let modal = FakeModal::serve();
    let world = world(&modal, "").env("MODAL_SERVER_URL", "http://127.0.0.1:9");
    let mut running = world.accel(["run", "it"]).spawn();
    running.wait_for_stderr("--on local").signal(Signal::INT);
    let done = running.finish();
    insta::assert_snapshot!(done.code(130).stderr_text(), @r"
    it → modal: the job's route, accel.toml:4, ≥ $0.02/h
    warning: it: Modal does not answer yet; connecting is tried for up to a minute
      help: stop with Ctrl-C and look with `accel doctor`, or run locally: --on local
    stopping (SIGINT); once more to kill
    - it cancelled before its command ran
    ");
}

#[test]
fn an_unknown_environment() {
    let modal = FakeModal::serve();
    let world = world(&modal, "\n[modal]\nenvironment = 'staging'\n");
    insta::assert_snapshot!(refusal(&world), @r"
    ✗ it could not be run: environment `staging` cannot be used: Environment 'staging' not found
      help: correct [modal] environment or MODAL_ENVIRONMENT, or: modal environment create staging
    cause: command
    ");
}

#[test]
fn an_unknown_secret_and_one_that_lacks_a_key() {
    let modal = FakeModal::serve();
    modal.secret("half", &[("A", "1")]);
    insta::assert_snapshot!(refusal(&world(&modal, "secrets = ['hf-token']")), @r"
    ✗ it could not be run: secret `hf-token` cannot be used: Secret 'hf-token' not found in environment 'main'
      help: create it: modal secret create hf-token KEY=value
    cause: command
    ");
    let lacking = world(&modal, "secrets = [{ name = 'half', required_keys = ['A', 'B'] }]");
    insta::assert_snapshot!(refusal(&lacking), @r#"
    ✗ it could not be run: secret `half` cannot be used: Secret is missing key(s) ["B"]
      help: add what is missing at modal.com/secrets, or write it anew: modal secret create --force half A=… B=…
    cause: command
    "#);
    assert!(modal.sandboxes().is_empty());
}

#[test]
fn a_volume_that_is_refused() {
    let modal = FakeModal::serve();
    always(
        &modal,
        "VolumeGetOrCreate",
        &Status::invalid_argument("'hf' is a volume of the first generation"),
    );
    insta::assert_snapshot!(refusal(&world(&modal, "volumes = { '/cache' = 'hf' }")), @r"
    ✗ it could not be run: volume `hf` cannot be used: 'hf' is a volume of the first generation
      help: `modal volume list` shows those that are there; others are made when they are first used
    cause: command
    ");
}

#[test]
fn a_build_that_fails() {
    let modal = FakeModal::serve();
    let failing = || Build {
        logs: vec!["Collecting definitely-not-a-package\n".into(), "ERROR: no such package\n".into()],
        end: BuildEnd::Failure("exit status 1".into()),
    };
    for _ in 0..2 {
        modal.state().builds.push(("definitely-not-a-package".to_owned(), failing()));
    }
    let world = world(&modal, "image = 'py'\n\n[images.py]\npip = ['definitely-not-a-package']\n");
    insta::assert_snapshot!(refusal(&world), @r"
    ✗ it could not be run: image py 2/2: uv pip install definitely-not-a-package (accel.toml:9): its build failed: exit status 1
        Collecting definitely-not-a-package
        ERROR: no such package
      help: correct the layer; the layers below it are kept
    cause: image
    ");
}

#[test]
fn a_layer_that_is_refused() {
    let modal = FakeModal::serve();
    always(&modal, "ImageGetOrCreate", &Status::invalid_argument("unknown instruction: RUM"));
    let world = world(&modal, "image = 'odd'\n\n[images.odd]\nbase = 'docker.io/library/debian:12'\n");
    insta::assert_snapshot!(refusal(&world), @r"
    ✗ it could not be run: image odd 1/1: base docker.io/library/debian:12: Modal refuses it: unknown instruction: RUM
      help: correct the layer
    cause: image
    ");
}

#[test]
fn no_machine_of_the_kind() {
    let modal = FakeModal::serve();
    modal.gpu("H100", Fate::Refused(Status::resource_exhausted("no H100 left in us-east")));
    insta::assert_snapshot!(refusal(&world(&modal, "gpu = 'H100'")), @r#"
    ✗ it could not be run: Modal has no machine for the job: H100: no H100 left in us-east
      help: allow other GPUs: gpu = ["L4", "A10"]; or another region; or fallback = { to = "local", on = ["capacity"] }
    cause: capacity
    "#);
}

#[test]
fn a_limit_of_the_workspace() {
    let modal = FakeModal::serve();
    let status = Status::resource_exhausted("workspace limit of 100 running sandboxes reached");
    always(&modal, "SandboxCreateV2", &status);
    insta::assert_snapshot!(refusal(&world(&modal, "")), @r#"
    ✗ it could not be run: Modal has no machine for the job: workspace limit of 100 running sandboxes reached
      help: wait for other sandboxes to end (`accel ps`), or raise the workspace's limits; or fallback = { to = "local", on = ["capacity"] }
    cause: capacity
    "#);
}

#[test]
fn a_sandbox_that_is_refused() {
    let modal = FakeModal::serve();
    always(&modal, "SandboxCreateV2", &Status::invalid_argument("'us-moon' is no region"));
    insta::assert_snapshot!(refusal(&world(&modal, "region = ['us-moon']")), @r"
    ✗ it could not be run: Modal refuses the sandbox: 'us-moon' is no region
      help: correct what the job asks for: gpu, cpu, memory, region, cloud, volumes, ports, network or timeout
    cause: command
    ");
}

#[test]
fn a_server_that_fails() {
    let modal = FakeModal::serve();
    always(&modal, "AppGetOrCreate", &Status::new(Code::Internal, "database is on fire"));
    insta::assert_snapshot!(refusal(&world(&modal, "")), @r"
    ✗ it could not be run: Modal: database is on fire (AppGetOrCreate, 4 attempts)
      help: try again; see status.modal.com if it persists
    cause: infra
    ");
}
