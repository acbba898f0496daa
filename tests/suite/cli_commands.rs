//! What list, check, plan, explain, schema and doctor print.

use crate::world::World;

const JOBS: &str = r#"version = 1

[defaults]
timeout = "10m"

[images.tools]
pip = ["iniconfig==2.0.0"]

[jobs.lint]
desc = "look for mistakes"
run = ["true"]

[jobs.test]
image = "tools"
needs = ["lint"]
run = "echo test"

[jobs.train]
gpu = "L4"
run = ["python", "train.py"]

[jobs.all]
needs = ["lint", "test"]
"#;

fn world() -> World {
    World::new().file("accel.toml", JOBS)
}

#[test]
fn accel_alone_teaches_and_shows_the_jobs() {
    let outside = World::new().accel::<_, &str>([]).run();
    outside.code(0).stdout_has("accel init").stdout_lacks("Jobs of");
    world()
        .accel::<_, &str>([])
        .run()
        .code(0)
        .stdout_has("Jobs of project:\nlint ")
        .stdout_has("look for mistakes");
}

#[test]
fn list_shows_place_image_and_description() {
    insta::assert_snapshot!(world().accel(["list"]).run().code(0).stdout_text(), @r"
    lint   local         look for mistakes
    test   local  tools  echo test
    train  gpu           python train.py
    all    local         needs lint, test
    ");
}

#[test]
fn list_as_json_is_one_document() {
    let list = world().accel(["list", "--json"]).run();
    let document = list.code(0).json();
    assert_eq!(document["version"], 1);
    let test = &document["jobs"][1];
    assert_eq!((&test["name"], &test["image"]), (&"test".into(), &"tools".into()));
    assert_eq!((&test["needs"][0], &test["defined_at"]), (&"lint".into(), &"accel.toml:13".into()));
}

#[test]
fn check_is_one_line_when_all_is_well() {
    world().accel(["check"]).run().code(0).stdout("accel.toml: 4 jobs, 1 image, no errors\n").stderr("");
}

#[test]
fn check_finds_everything_at_once() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.a]\nrunn = 'x'\ntimeout = '10 parsecs'\nneeds = ['b', 'c']\n[jobs.c]\nneeds = ['a']\n",
    );
    let check = world.accel(["check"]).run();
    check
        .code(2)
        .stdout("")
        .stderr_has("accel.toml:3:1")
        .stderr_has("accel.toml:4")
        .stderr_has("did you mean `run`");
    let json = world.accel(["check", "--json"]).run();
    let document = json.code(2).stderr("").json();
    assert_eq!(document["valid"], false);
    let findings = document["diagnostics"].as_array().unwrap();
    assert!(findings.len() >= 3, "{document:#}");
    assert_eq!((&findings[0]["line"], &findings[0]["file"]), (&3.into(), &"accel.toml".into()));
}

#[test]
fn check_reads_the_files_that_images_name() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[images.py]\nrequirements = ['requirements.txt']\n[jobs.a]\nimage = 'py'\nrun = 'true'\n",
    );
    world.accel(["check"]).run().code(2).stderr_has("requirements.txt").stderr_has("accel.toml:3");
    world.write("requirements.txt", "iniconfig\n");
    world.accel(["check"]).run().code(0);
}

#[test]
fn plan_says_where_each_value_came_from() {
    let plan = world().accel(["plan", "test"]).run();
    plan.code(0).stderr("").stdout_has("10m").stdout_has("accel.toml:4").stdout_has("iniconfig==2.0.0");
    let json = world().accel(["plan", "test", "--format", "json"]).run();
    assert!(json.code(0).json().is_object());
    world().accel(["plan", "--json"]).run().code(0).json();
    world().accel(["plan", "test", "--format", "yaml"]).run().code(0).stdout_has("echo test");
}

#[test]
fn plans_are_the_same_every_time() {
    let world = world();
    let plan = || world.accel(["plan", "--json"]).run().stdout_text();
    assert_eq!(plan(), plan());
}

#[test]
fn dry_run_names_order_place_and_command_and_runs_nothing() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.a]\nrun = 'touch ran'\n[jobs.b]\nneeds = ['a']\nrun = ['echo', 'a b']\n",
    );
    world
        .accel(["run", "b", "--dry-run"])
        .run()
        .code(0)
        .stdout("a  local  touch ran\nb  local  echo 'a b'\n");
    assert!(!world.exists("ran"));
}

#[test]
fn explain_shows_every_rule_with_what_was_seen() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.a]\nrun = 'true'\n[[jobs.a.route]]\nwhen = { env = { FAST = '1' } }\nto = 'modal'\n\
         [[jobs.a.route]]\nto = 'local'\n",
    );
    world.accel(["explain", "a"]).run().code(0).stdout_has("a runs on local").stdout_has("FAST");
    world.accel(["explain", "a"]).env("FAST", "1").run().code(0).stdout_has("a runs on modal");
    let json = world.accel(["explain", "a", "--json"]).run();
    assert_eq!(json.code(0).json()[0]["place"], "local");
}

#[test]
fn schema_is_the_committed_one() {
    let schema = World::new().accel(["schema"]).run();
    let committed = include_str!("../../schemas/accel.schema.json");
    let committed: serde_json::Value = serde_json::from_str(committed).unwrap();
    assert_eq!(schema.code(0).json(), committed);
}

#[test]
fn doctor_names_each_thing_and_a_remedy() {
    let world = world().with_host_tools();
    let doctor = world.accel(["doctor"]).run();
    doctor.code(0);
    for subject in ["configuration", "shell", "uv", "python", "git", "gpu", "cache", "state"] {
        doctor.stdout_has(subject);
    }
    let json = world.accel(["doctor", "--json"]).run();
    assert!(json.code(0).json()["findings"].as_array().unwrap().len() >= 8);
    let broken = world.accel(["doctor"]).env("ACCEL_CACHE_DIR", "/dev/null/cache").run();
    broken.code(125).stdout_has("fail  cache").stdout_has("set ACCEL_CACHE_DIR");
    world.write("accel.toml", "version = 1\n[jobs.a]\nrunn = 1\n");
    world.accel(["doctor"]).run().code(125).stdout_has("fail  configuration").stdout_has("accel check");
}

#[test]
fn secrets_of_dotenv_files_are_in_no_plan_and_no_event() {
    let world = World::new()
        .file(
            "accel.toml",
            "version = 1\n[jobs.a]\ndotenv = ['.env']\nrun = 'test \"$TOKEN\" = canary-7f3a'\n",
        )
        .file(".env", "TOKEN=canary-7f3a\n");
    let job_sees_it = world.accel(["run", "a", "-v"]).run();
    job_sees_it.code(0).stdout_lacks("canary-7f3a\n");
    world.write("accel.toml", "version = 1\n[jobs.a]\ndotenv = ['.env']\nrun = 'test -n \"$TOKEN\"'\n");
    for arguments in [
        &["run", "a", "--json"][..],
        &["run", "a", "-v"],
        &["plan", "a"],
        &["plan", "--json"],
        &["list", "--json"],
    ] {
        let shown = world.accel(arguments).run();
        shown.code(0).stdout_lacks("canary").stderr_lacks("canary");
    }
}
