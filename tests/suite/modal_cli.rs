//! Commands around Modal as a user types them: what travels, whether Modal is ready, what a run costs.

use crate::fake_modal::{Build, BuildEnd, FakeModal, Fault, Kind};
use crate::world::World;

const TREE: &str = r#"version = 1

[sync]
include = ["data/golden/**"]
exclude = ["docs/**"]

[jobs.test]
run = "true"
"#;

fn tree() -> World {
    World::new()
        .file("accel.toml", TREE)
        .file(".gitignore", "*.log\ndata/\n")
        .file(".git/config", "")
        .file("src/main.py", "print()\n")
        .file("src/x.log", "noise\n")
        .file("data/raw.bin", vec![0; 5000])
        .file("data/golden/a.bin", vec![0; 3000])
        .file("docs/index.md", "# docs\n")
}

#[test]
fn sync_plan_counts_and_shows_where_the_bytes_are() {
    let world = tree();
    std::os::unix::fs::symlink("main.py", world.path("src/link")).unwrap();
    insta::assert_snapshot!(world.accel(["sync", "--plan"]).run().code(0).stdout_text(), @r"
    4 files, 3 folders, 1 link: 3.0KiB of at most 286.1MiB
        2.9KiB  data/golden/a.bin
           97B  accel.toml
           12B  .gitignore
            8B  src/main.py
    ");
    insta::assert_snapshot!(world.accel(["sync", "--plan", "-v"]).run().code(0).stdout_text(), @r"
           12B  .gitignore
           97B  accel.toml
                data/
                data/golden/
        2.9KiB  data/golden/a.bin
                src/
                src/link -> main.py
            8B  src/main.py
    4 files, 3 folders, 1 link: 3.0KiB of at most 286.1MiB
        2.9KiB  data/golden/a.bin
           97B  accel.toml
           12B  .gitignore
            8B  src/main.py
    ");
}

#[test]
fn sync_plan_as_json_is_one_document() {
    let document = tree().accel(["sync", "--plan", "--json"]).run().code(0).json();
    assert_eq!(document["version"], 1);
    assert_eq!(document["files"], 4);
    assert_eq!(document["size_bytes"], 3000 + 97 + 12 + 8);
    assert_eq!(document["too_large"], false);
    assert_eq!(document["largest"][0]["path"], "data/golden/a.bin");
    let paths: Vec<_> =
        document["entries"].as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"src/main.py") && !paths.contains(&"src/x.log"), "{paths:?}");
}

#[test]
fn sync_plan_says_which_rule_decides() {
    let world = tree();
    let paths =
        ["src/x.log", "data/raw.bin", "data/golden/a.bin", "src/main.py", ".git/config", "docs/", "no.log"];
    let asked = world.accel(["sync", "--plan"]).args(paths).run();
    insta::assert_snapshot!(asked.code(0).stdout_text(), @r#"
    src/x.log stays: .gitignore:1: *.log
    data/raw.bin stays: .gitignore:2: data/ (on data/)
    data/golden/a.bin travels: [sync] include "data/golden/**" (on data/golden/)
    src/main.py travels: nothing leaves it out
    .git/config stays: .git never travels (on .git/)
    docs stays: [sync] exclude "docs/**"
    no.log stays: .gitignore:1: *.log (nothing is there now)
    "#);
    let answers = world.accel(["sync", "--plan", "--json", "src/x.log"]).run().code(0).json();
    assert_eq!(answers[0]["travels"], false);
    assert_eq!(answers[0]["reason"], ".gitignore:1: *.log");
}

#[test]
fn sync_plan_asks_relative_to_where_the_user_is() {
    let world = tree();
    let from_src = |path: &str| world.accel(["sync", "--plan", path]).current_dir(world.path("src")).run();
    from_src("x.log").code(0).stdout("src/x.log stays: .gitignore:1: *.log\n");
    from_src("../docs/index.md").code(0).stdout_has("docs/index.md stays: [sync] exclude");
    from_src("../../elsewhere").code(2).stderr_has("is not within the project");
}

#[test]
fn sync_plan_knows_what_links_and_pipes_are() {
    let world = tree();
    std::os::unix::fs::symlink("/etc/hostname", world.path("src/absolute")).unwrap();
    std::os::unix::fs::symlink("../data", world.path("src/folder")).unwrap();
    world.program("mkfifo").arg("src/pipe").run().code(0);
    let asked = world.accel(["sync", "--plan", "src/absolute", "src/folder/raw.bin", "src/pipe"]).run();
    insta::assert_snapshot!(asked.code(0).stdout_text(), @r"
    src/absolute stays: a run refuses it: src/absolute links to /etc/hostname, an absolute path
    src/folder/raw.bin stays: it is a link, which travels as a link, without what is behind it (on src/folder/)
    src/pipe stays: it is a FIFO
    ");
    let listed = world.accel(["sync", "--plan"]).run();
    listed
        .code(125)
        .stderr_has("src/absolute links to /etc/hostname")
        .stderr_has("help: make the link relative");
}

#[test]
fn a_tree_that_is_too_large_is_shown_and_refused() {
    let world = tree().file("accel.toml", TREE.replace("[sync]", "[sync]\nmax_size = \"1kB\""));
    let plan = world.accel(["sync", "--plan"]).run();
    plan.code(125)
        .stdout_has("data/golden/a.bin")
        .stderr_has("more than [sync] max_size = 1000B; largest: data/golden/a.bin 2.9KiB");
}

#[test]
fn the_users_own_ignore_file_counts() {
    let world = tree();
    std::fs::write(world.home().join(".gitconfig"), "[core]\nexcludesFile = ~/ignored\n").unwrap();
    std::fs::write(world.home().join("ignored"), "*.py\n").unwrap();
    world.accel(["sync", "--plan", "src/main.py"]).run().code(0).stdout_has("ignored:1: *.py");
}

/// A world with a token, whose server is somewhere.
fn account(server: &str) -> World {
    World::new()
        .file("accel.toml", "version = 1\n[jobs.test]\nrun = 'true'\n")
        .env("MODAL_TOKEN_ID", "ak-test")
        .env("MODAL_TOKEN_SECRET", "as-test")
        .env("MODAL_SERVER_URL", server)
}

/// Modal's lines of `accel doctor`.
fn doctor(world: &World, code: i32) -> String {
    let doctor = world.accel(["doctor"]).run();
    doctor.code(code).stdout_lacks("as-test").stderr_lacks("as-test");
    let text = doctor.redact(&doctor.stdout_text());
    let from = text.lines().skip_while(|line| !line.get(6..).is_some_and(|rest| rest.starts_with("modal")));
    from.map(|line| line.to_owned() + "\n").collect()
}

#[test]
fn doctor_without_a_token_is_content() {
    let world = World::new().file("accel.toml", TREE);
    let lines = doctor(&world, 0);
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.starts_with("ok    modal"), "{lines}");
    assert!(lines.contains("modal token new") && lines.contains("[WORLD]/home/.modal.toml"), "{lines}");
}

#[test]
fn doctor_names_what_is_wrong_with_settings() {
    let half = World::new().env("MODAL_TOKEN_ID", "ak-test");
    insta::assert_snapshot!(doctor(&half, 125), @r"
    fail  modal token    MODAL_TOKEN_ID is set and MODAL_TOKEN_SECRET is not
                         set MODAL_TOKEN_SECRET too, or unset MODAL_TOKEN_ID
    ");
    let broken = World::new();
    std::fs::write(broken.home().join(".modal.toml"), "[default]\ntoken_id = \"as-test\n").unwrap();
    let lines = doctor(&broken, 125);
    assert!(lines.contains(".modal.toml is not valid TOML: line 2"), "{lines}");
}

#[test]
fn doctor_tells_the_account_behind_a_token() {
    let modal = FakeModal::serve();
    let lines = doctor(&account(&modal.url()), 0).replace(&modal.url(), "[SERVER]");
    let workspace = modal.state().workspace.clone();
    let builder = modal.state().builder.clone();
    assert!(lines.contains("ok    modal token      MODAL_TOKEN_ID and MODAL_TOKEN_SECRET\n"), "{lines}");
    assert!(lines.contains("modal server     [SERVER] answers in "), "{lines}");
    assert!(lines.contains(&format!("ok    modal workspace  {workspace}\n")), "{lines}");
    assert!(
        lines.contains(&format!("ok    modal builder    {builder} in the default environment\n")),
        "{lines}"
    );
    let made: Vec<_> = modal.calls().into_iter().map(|call| call.method).collect();
    for method in ["ClientHello", "WorkspaceNameLookup", "EnvironmentGetOrCreate", "AuthTokenGet"] {
        assert_eq!(made.iter().filter(|made| **made == method).count(), 1, "{method} in {made:?}");
    }
}

#[test]
fn doctor_says_what_to_do_when_modal_refuses() {
    let modal = FakeModal::serve();
    modal.fail("ClientHello", [Fault::Status(tonic::Status::unauthenticated("Token ID is malformed"))]);
    let lines = doctor(&account(&modal.url()), 125);
    assert!(
        lines.contains("fail  modal workspace  Modal refuses the credentials: Token ID is malformed"),
        "{lines}"
    );
    assert!(lines.contains("modal token new"), "{lines}");
}

#[test]
fn doctor_shows_warnings_and_missing_environments() {
    let modal = FakeModal::serve();
    let world = account(&modal.url()).env("MODAL_ENVIRONMENT", "nowhere");
    let lines = doctor(&world, 125);
    assert!(lines.contains("fail  modal builder    environment nowhere does not exist"), "{lines}");
    assert!(lines.contains("MODAL_ENVIRONMENT"), "{lines}");
    modal.fail(
        "WorkspaceNameLookup",
        [Fault::Status(tonic::Status::internal("no")).warning("Please%20update")],
    );
    let lines = doctor(&account(&modal.url()), 0);
    assert!(lines.contains("warn  modal notice     Please update"), "{lines}");
}

#[test]
fn doctor_knows_which_server_is_unreachable() {
    let modal = FakeModal::serve();
    let nobody = "http://127.0.0.1:9";
    let lines = doctor(&account(nobody), 125);
    assert!(lines.contains(&format!("fail  modal server   cannot connect to {nobody}")), "{lines}");
    assert!(lines.contains("HTTPS_PROXY") && lines.contains("--on local"), "{lines}");
    let lines = doctor(&account(&format!("{nobody},{}", modal.url())), 0);
    assert!(lines.contains(&format!("warn  modal server     cannot connect to {nobody}")), "{lines}");
    assert!(lines.contains("ok    modal workspace"), "{lines}");
}

#[test]
fn doctor_does_not_wait_for_a_server_that_is_silent() {
    let modal = FakeModal::serve();
    modal.fail("ClientHello", [Fault::Silence]);
    let lines = doctor(&account(&modal.url()), 125);
    assert!(lines.contains("fail  modal workspace") && lines.contains("no answer within 2"), "{lines}");
}

#[test]
fn doctor_shows_the_way_but_not_the_passwords_on_it() {
    let world = account("http://127.0.0.1:9").env("HTTPS_PROXY", "http://me:hush@127.0.0.1:9");
    let lines = doctor(&world, 125);
    assert!(lines.contains("ok    modal network  HTTPS_PROXY=http://****@127.0.0.1:9\n"), "{lines}");
}

const ADHOC: &str = r#"version = 1

[images.plain]
env = { FROM_IMAGE = "yes" }

[images.cuda]
gpu = "L4"

[jobs.before]
run = "false"

[jobs.test]
image = "plain"
needs = ["before"]
run = "false"
env = { FROM_JOB = "yes" }
timeout = "1ms"

[jobs.many]
matrix = { part = ["a", "b"] }
run = "false"
"#;

fn adhoc() -> World {
    World::new().file("accel.toml", ADHOC)
}

#[test]
fn exec_runs_any_command_in_a_jobs_environment() {
    let printed = adhoc()
        .accel(["exec", "test", "--", "sh", "-c", "echo $FROM_JOB-$FROM_IMAGE; echo err >&2; exit 7"])
        .run();
    printed.code(7).stdout("yes-yes\n").stderr_has("err\n").stderr_lacks("before");
}

#[test]
fn exec_knows_images_and_reads_stdin() {
    let world = adhoc();
    world
        .accel(["exec", "plain", "--", "sh", "-c", "cat; echo $FROM_IMAGE$FROM_JOB"])
        .stdin("in\n")
        .run()
        .code(0)
        .stdout("in\nyes\n");
    world.accel(["exec", "plain", "--", "no-such-program"]).run().code(127);
    world.accel(["exec", "plain", "--timeout", "50ms", "--", "sleep", "60"]).run().code(124);
}

#[test]
fn exec_says_what_it_cannot_find() {
    let world = adhoc();
    world
        .accel(["exec", "tset", "--", "true"])
        .run()
        .code(2)
        .stderr_has("no job and no image `tset`")
        .stderr_has("did you mean `test`?");
    world
        .accel(["exec", "many", "--", "true"])
        .run()
        .code(2)
        .stderr_has("`many` is 2 jobs")
        .stderr_has("'many[part=a]'");
    world.accel(["exec", "many[part=b]", "--", "echo", "b"]).run().code(0).stdout("b\n");
    world.accel(["exec", "test"]).run().code(2).stderr_has("<COMMAND>");
}

#[test]
fn shell_is_that_of_the_user_in_the_jobs_environment() {
    let shell =
        adhoc().env("SHELL", "/bin/sh").accel(["shell", "test"]).stdin("echo $FROM_JOB; exit 4\n").run();
    shell.code(4).stdout("yes\n");
}

#[test]
fn where_a_run_goes_is_said_with_what_it_costs_at_least() {
    let modal = FakeModal::serve();
    modal.allow_survivors();
    let world = account(&modal.url())
        .file("accel.toml", "version = 1\n[jobs.test]\nrun = 'true'\ncpu = 4\ngpu = 'T4'\n");
    world.accel(["run", "test", "--on", "modal"]).run().stderr_has("test → modal: --on, ≥ $1.16/h");
    world.accel(["run", "test", "--on", "local"]).run().stderr_lacks("$");
}

#[test]
fn exec_on_modal_has_the_tree_and_the_exit_code() {
    let modal = FakeModal::serve();
    let world = account(&modal.url()).file("accel.toml", ADHOC).file("data.txt", "here\n");
    let command = "cat data.txt; echo $FROM_JOB; echo err >&2; exit 9";
    let done = world.accel(["exec", "test", "--on", "modal", "--", "sh", "-c", command]).run();
    done.code(9).stdout("here\nyes\n").stderr_has("err\n");
    assert!(modal.alive().is_empty());
}

const IMAGES: &str = "version = 1\n[images.tools]\napt = ['git']\nrun = ['echo one']\n\
                      [images.other]\nworkdir = '/w'\n\
                      [jobs.test]\nimage = 'tools'\nrun = 'true'\n[jobs.other]\nimage = 'other'\nrun = 'true'\n";

#[test]
fn image_ls_says_what_modal_has_and_what_changed() {
    let modal = FakeModal::serve();
    let world = account(&modal.url()).file("accel.toml", IMAGES);
    let ls = || world.accel(["image", "ls", "--on", "modal"]).run().code(0).stdout_text();
    assert!(ls().starts_with("tools  not built  3 layers, builder "), "{}", ls());
    let built = world.accel(["image", "build", "--on", "modal", "tools"]).run();
    let id = built.code(0).stdout_text().split_whitespace().last().unwrap().to_owned();
    let listed = ls();
    assert!(listed.contains("tools  built") && listed.contains(&id), "{listed}");
    assert!(listed.contains("other  not built"), "{listed}");

    world.write("accel.toml", IMAGES.replace("echo one", "echo two"));
    let listed = ls();
    assert!(listed.contains("tools  changed    3 layers"), "{listed}");
    assert!(listed.contains("layer 3 since the last build: echo two (accel.toml:4)"), "{listed}");
    let json = world.accel(["image", "ls", "--on", "modal", "--json"]).run().code(0).json();
    let tools = json.as_array().unwrap().iter().find(|row| row["image"] == "tools").unwrap();
    assert_eq!((&tools["state"], &tools["id"]), (&"changed".into(), &serde_json::Value::Null));
    let changed: Vec<_> = tools["layers"].as_array().unwrap().iter().map(|layer| &layer["changed"]).collect();
    assert_eq!(changed, [false, false, true]);

    world.write("accel.toml", IMAGES);
    modal.forget(Kind::Images);
    let listed = ls();
    assert!(listed.contains("tools  gone") && listed.contains(&id), "{listed}");
    let asked = modal.calls_of("ImageGetOrCreate").len();
    ls();
    assert_eq!(modal.calls_of("ImageGetOrCreate").len(), asked, "looking builds nothing");
}

#[test]
fn image_build_says_what_changed_and_shows_the_end_of_a_failed_log() {
    let modal = FakeModal::serve();
    let log = |end| Build { logs: vec!["Step 1\n".into(), "fetching git\n".into()], end };
    modal.state().builds = vec![
        ("echo two".into(), log(BuildEnd::Success)),
        ("false".into(), log(BuildEnd::Failure("exit status 1".into()))),
    ];
    let world = account(&modal.url()).file("accel.toml", IMAGES);
    let build = || world.accel(["image", "build", "--on", "modal", "tools"]).run();
    build().code(0);
    world.write("accel.toml", IMAGES.replace("echo one", "echo two"));
    let built = build();
    built.code(0).stderr_has("image tools 3/3: echo two (changed since the last build)");
    built.stderr_has("fetching git");
    world.write("accel.toml", IMAGES.replace("echo one", "false"));
    let failed = build();
    failed.code(125).stderr_has("image tools 3/3: false (accel.toml:4): its build failed: exit status 1");
    failed.stderr_has("fetching git").stderr_has("help: correct the layer");
}

#[test]
fn images_are_built_on_modal_ahead_of_their_jobs() {
    let modal = FakeModal::serve();
    let world = account(&modal.url()).file(
        "accel.toml",
        "version = 1\n[images.tools]\napt = ['git']\n[jobs.test]\nimage = 'tools'\nrun = 'true'\n",
    );
    let build = || world.accel(["image", "build", "--on", "modal"]).run();
    let first = build();
    first.code(0).stdout_has("tools  im-");
    let asked = modal.calls_of("ImageGetOrCreate").len();
    assert!(asked > 0);
    assert_eq!(build().code(0).stdout_text(), first.stdout_text());
    assert_eq!(modal.calls_of("ImageGetOrCreate").len(), asked, "a known image costs no call");
    assert!(modal.sandboxes().is_empty());
}

/// Of a run's JSON stream, the event of a kind.
fn event(events: &[serde_json::Value], kind: &str) -> serde_json::Value {
    events.iter().find(|event| event["event"] == kind).unwrap_or_else(|| panic!("no {kind}")).clone()
}

#[test]
fn a_run_is_quoted_by_what_the_workspace_pays_once_it_was_told() {
    let modal = FakeModal::serve();
    // In half a dollar a second, so that the shortest run is worth a word.
    modal.state().rates = [("cpu_core_hour", "1800"), ("memory_gib_hour", "0"), ("gpu_tea_hour", "7")]
        .map(|(name, price)| (name.to_owned(), price.to_owned()))
        .into();
    let world = account(&modal.url())
        .file("accel.toml", "version = 1\n[jobs.test]\nrun = 'sleep 0.2'\ncpu = 1\nroute = 'modal'\n");
    let first = world.accel(["run", "test", "--json"]).run().code(0).json_lines();
    let quote = event(&first, "job_routed")["quote"].clone();
    assert_eq!(quote["as_of"], "2026-06");
    assert_eq!(quote["source"], "https://modal.com/pricing");
    assert!(quote["at_least_usd_per_hour"].as_f64().unwrap() < 1.0, "{quote}");
    assert_eq!(quote["unpriced"], serde_json::Value::Null);
    let second = world.accel(["run", "test", "--json"]).run().code(0).json_lines();
    assert_eq!(modal.calls_of("WorkspaceBillingRates").len(), 1, "kept for a day");
    let quote = event(&second, "job_routed")["quote"].clone();
    assert_eq!((&quote["source"], &quote["at_least_usd_per_hour"]), (&"workspace".into(), &1800.0.into()));
    assert_eq!(quote["as_of"].as_str().unwrap().len(), "2026-06-30".len());
    let cost = event(&second, "job_cost");
    assert!(cost["at_least_usd"].as_f64().unwrap() >= 0.1, "{cost}");
    assert!(cost["lifetime_ms"].as_u64().unwrap() >= 200, "{cost}");
    let third = world.accel(["run", "test", "-v"]).run();
    third
        .code(0)
        .stderr_has("test → modal: the job's route, accel.toml:5, ≥ $1800.00/h")
        .stderr_has("by the workspace's prices of 20");
}

#[test]
fn what_modal_has_recorded_of_the_cost_is_told_and_not_waited_for() {
    let modal = FakeModal::serve();
    let world =
        account(&modal.url()).file("accel.toml", "version = 1\n[jobs.test]\nrun = 'true'\nroute = 'modal'\n");
    // The end of the sandbox is late, so what is recorded is there before.
    modal.fail("SandboxTerminateV2", [Fault::LateAnswer(std::time::Duration::from_secs(2))]);
    let events = world.accel(["run", "test", "--json"]).run().code(0).json_lines();
    let recorded = event(&events, "job_cost")["recorded"].clone();
    assert!(recorded["usd"].is_number() && recorded["billed_cpu_core_seconds"].is_number(), "{recorded}");
    modal.fail("SandboxGetStats", [Fault::Silence]);
    let events = world.accel(["run", "test", "--json"]).run().code(0).json_lines();
    assert_eq!(event(&events, "job_cost")["recorded"], serde_json::Value::Null);
}

#[test]
fn rates_that_do_not_come_hold_up_nothing() {
    for fault in [Fault::Silence, Fault::code(tonic::Code::PermissionDenied)] {
        let modal = FakeModal::serve();
        modal.fail("WorkspaceBillingRates", [fault]);
        let world = account(&modal.url())
            .file("accel.toml", "version = 1\n[jobs.test]\nrun = 'true'\nroute = 'modal'\n");
        let events = world.accel(["run", "test", "--json"]).run().code(0).json_lines();
        assert_eq!(event(&events, "job_routed")["quote"]["source"], "https://modal.com/pricing");
    }
}
