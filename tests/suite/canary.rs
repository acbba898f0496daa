//! Secrets that a run is given, looked for wherever they must not be: in what is printed, in every file that accel
//! leaves, in the arguments of every process, and in what Modal is told besides.

use std::path::{Path, PathBuf};

use accel::backend::modal::wire::client::{MountPutFileRequest, SecretGetOrCreateRequest};
use accel::backend::modal::wire::task_command_router::TaskExecStartRequest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use prost::Message as _;

use crate::fake_modal::{Call, FakeModal};
use crate::world::World;

/// Every secret of this test begins with it, and nothing else does.
const CANARY: &str = "canary-7d1f0c55-of-";

/// The job writes down the arguments of every process that it can see, accel and its own wrapper among them, and prints
/// its secrets, plain and encoded.
const CONFIG: &str = "version = 1
[project]
name = 'demo'
[defaults]
dotenv = ['.env']
pass_env = ['HOST_TOKEN']
[images.py]
base = 'ghcr.io/acme/private:1'
registry_secret = 'registry'
secrets = ['build']
[[images.py.layers]]
run = ['true']
env_secrets = [{ STEP_TOKEN = 'canary-7d1f0c55-of-the-step' }]
[jobs.it]
image = 'py'
secrets = ['job']
env = { WRITTEN_TOKEN = 'canary-7d1f0c55-of-the-file' }
outputs = ['out/**']
run = '''
mkdir -p out
for process in /proc/[0-9]*; do tr '\\0' ' ' < $process/cmdline || true; echo; done > out/arguments 2> out/gone
for secret in $DOT_TOKEN $WRITTEN_TOKEN $HOST_TOKEN; do
  echo got $secret
  printf %s x$secret | base64 >&2
  printf %s $secret | od -An -tx1 | tr -d ' \\n' >&2
done
'''
[jobs.other]
run = 'echo $DOT_TOKEN'
";

/// How a reader of a log could still recognise it.
fn forms() -> Vec<Vec<u8>> {
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![CANARY.as_bytes().to_vec(), hex.into_bytes()];
    for before in 0..3 {
        // Characters at the edges depend on what stands beside it.
        let padded = [vec![0; before], CANARY.as_bytes().to_vec()].concat();
        let text = BASE64_STANDARD_NO_PAD.encode(&padded[..padded.len() / 3 * 3]);
        forms.push(text.into_bytes()[[0, 2, 3][before]..].to_vec());
    }
    forms
}

fn holds(bytes: &[u8]) -> bool {
    forms().iter().any(|form| memchr::memmem::find(bytes, form).is_some())
}

/// Every file below a folder that holds the canary.
fn holding(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_symlink() {
            continue;
        }
        if entry.is_dir() {
            found.extend(holding(&entry));
        } else if std::fs::read(&entry).is_ok_and(|bytes| holds(&bytes)) {
            found.push(entry);
        }
    }
    found
}

fn world(modal: &FakeModal) -> World {
    for name in ["registry", "build", "job"] {
        modal.secret(name, &[("SOME_TOKEN", &format!("{CANARY}{name}"))]);
    }
    World::new()
        .file("accel.toml", CONFIG)
        .file(".env", format!("DOT_TOKEN={CANARY}dotenv\n"))
        // Without it the file would travel as part of the tree, which every run would say.
        .file(".gitignore", ".env\n")
        .envs(modal.variables())
        .env("MODAL_TOKEN_SECRET", format!("{CANARY}the-account"))
        .env("HOST_TOKEN", format!("{CANARY}the-host"))
        .env("HTTPS_PROXY", format!("http://me:{CANARY}the-proxy@127.0.0.1:9"))
}

const COMMANDS: [&[&str]; 22] = [
    &["run", "it", "--on", "modal", "-vvv"],
    &["run", "it", "--on", "modal", "--json", "-vvv"],
    &["run", "it", "--on", "local", "--json", "-vvv"],
    &["run", "it", "other", "--on", "local", "-vvv"],
    &["run", "it", "other", "--on", "modal"],
    &["run", "it", "--dry-run", "-vvv"],
    &["exec", "it", "--on", "modal", "--", "sh", "-c", "echo got $DOT_TOKEN $WRITTEN_TOKEN; exit 3"],
    &["image", "build", "--on", "modal", "-vvv"],
    &["image", "ls", "--on", "modal", "--json"],
    &["logs", "it", "-v"],
    &["logs", "it", "--json"],
    &["history"],
    &["history", "--json"],
    &["ps", "--json"],
    &["plan"],
    &["plan", "--json"],
    &["explain", "it", "--json"],
    &["check", "--json"],
    &["list", "--json"],
    &["doctor"],
    &["sync", "--plan", "--json"],
    &["prune"],
];

#[test]
fn secrets_are_only_where_they_are_needed() {
    let modal = FakeModal::serve();
    let world = world(&modal);
    for command in COMMANDS {
        let done = world.accel(command).run();
        let told = format!("{command:?}: {}{}", done.stdout_text(), done.stderr_text());
        assert!(!holds(&done.stdout) && !holds(&done.stderr), "{told}");
        let expect = if command[0] == "exec" { 3 } else { 0 };
        assert_eq!(done.status.code(), Some(expect), "{told}");
        if command.starts_with(&["run", "it"]) && !command.contains(&"--dry-run") {
            assert!(told.contains("got ***"), "{told}");
            seen_all_arguments(&world);
        }
    }
    // The files that the user wrote them into, and no other: state, cache, history, logs, outputs, temporary files.
    let project = world.project();
    let mut found = holding(&world.root());
    found.sort();
    assert_eq!(found, [project.join(".env"), project.join("accel.toml")]);
    for call in modal.calls() {
        check_call(&call);
    }
    let methods: Vec<String> = modal.calls().into_iter().map(|call| call.method).collect();
    for method in ["ImageGetOrCreate", "SandboxCreateV2", "TaskExecStart", "SecretGetOrCreate"] {
        assert!(methods.iter().any(|made| made == method), "{method} was never called");
    }
}

fn seen_all_arguments(world: &World) {
    let arguments = std::fs::read(world.path("out/arguments")).unwrap();
    assert!(!holds(&arguments), "{}", String::from_utf8_lossy(&arguments));
    if Path::new("/proc/self/cmdline").exists() {
        assert!(memchr::memmem::find(&arguments, b"accel run it").is_some(), "accel itself was not seen");
    }
}

/// A call may hold secrets where that is what it is for, and nowhere else:
///
/// - the header with the account's own secret, in every call to the control plane;
/// - the variables that a command is started with, which are no arguments;
/// - variables that accel.toml gives to one step of a build: Modal keeps them as a secret;
/// - accel.toml itself, as a file of the tree, with what stands in it.
fn check_call(call: &Call) {
    for (name, value) in &call.headers {
        assert!(name == "x-modal-token-secret" || !holds(value.as_bytes()), "{}: {name}", call.method);
    }
    let rest = match call.method.as_str() {
        "TaskExecStart" => {
            let mut request: TaskExecStartRequest = call.request();
            request.secret_sources.clear();
            request.encode_to_vec()
        }
        "SecretGetOrCreate" => {
            let mut request: SecretGetOrCreateRequest = call.request();
            assert!(request.env_dict.keys().all(|name| name == "STEP_TOKEN"), "{request:?}");
            request.env_dict.clear();
            request.encode_to_vec()
        }
        "MountPutFile" => {
            let mut request: MountPutFileRequest = call.request();
            use accel::backend::modal::wire::client::mount_put_file_request::DataOneof;
            if matches!(&request.data_oneof, Some(DataOneof::Data(data)) if data == CONFIG.as_bytes()) {
                request.data_oneof = None;
            }
            request.encode_to_vec()
        }
        _ => call.message.to_vec(),
    };
    assert!(!holds(&rest), "{}: {}", call.method, String::from_utf8_lossy(&rest));
}
