//! What accel offers when a word is wrong, missing or about to be typed.

use crate::world::World;

const JOBS: &str = r#"
version = 1
[jobs.test]
run = "true"
[jobs.test-slow]
run = "true"
[jobs.both]
needs = ["test", "test-slow"]
"#;

fn world() -> World {
    World::new().file("accel.toml", JOBS)
}

#[test]
fn a_job_in_place_of_a_command_is_told_how_to_run() {
    let world = world().file("sub/x", "");
    let help = |arguments: &[&str]| {
        let refused = world.accel(arguments).run();
        refused.code(2).stdout("");
        refused.stderr_text().lines().nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(help(&["test"]), "help: it is a job: run it with `accel run test`");
    assert_eq!(help(&["-C", "sub", "test", "-k", "x"]), "help: it is a job: run it with `accel run test`");
    assert_eq!(help(&["test-slwo"]), "help: did you mean `accel run test-slow`?");
    assert_eq!(help(&["lisst"]), "help: did you mean `accel list`?");
    assert_eq!(help(&["zebra-crossing"]), "help: `accel --help` shows the commands");
    world.accel(["image", "lss"]).run().code(2).stderr_has("ls");
    let elsewhere = World::new().accel(["test"]).run();
    elsewhere
        .code(2)
        .stderr("error: `test` is no command of accel\nhelp: `accel --help` shows the commands\n");
}

#[test]
fn names_are_for_completion_scripts() {
    world().accel(["list", "--names"]).run().code(0).stdout("test\ntest-slow\nboth\n").stderr("");
}

#[test]
fn bash_completes_the_names_of_jobs() {
    let world = world();
    let script = world.accel(["completions", "bash"]).run().stdout_text();
    world.write("accel.bash", script);
    let complete = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let bash = format!(
            "source ./accel.bash; COMP_WORDS=({} {}); COMP_CWORD={}; _accel_with_jobs {0}; printf '%s ' \"${{COMPREPLY[@]}}\"",
            env!("CARGO_BIN_EXE_accel"),
            words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
            words.len(),
        );
        let completed = world.program("bash").args(["-c", &bash]).run();
        completed.code(0).stderr("");
        completed.stdout_text()
    };
    assert_eq!(complete("run te"), "test test-slow ");
    assert_eq!(complete("plan -v b"), "both ");
    assert_eq!(complete("run nothing-like-it"), " ");
    assert!(complete("run --keep").contains("--keep-going"));
    assert!(complete("li").contains("list"));
}

/// What is offered at the end of a line, in order.
const OFFERED: [(&str, &[&str]); 8] = [
    ("accel run ", &["both", "test", "test-slow"]),
    ("accel run te", &["test", "test-slow"]),
    ("accel run both test-", &["test-slow"]),
    ("accel plan -v b", &["both"]),
    ("accel exec b", &["both"]),
    ("accel logs test-s", &["test-slow"]),
    ("accel run --keep", &["--keep-going"]),
    ("accel li", &["list"]),
];

/// A world whose PATH has accel, where the shell is here.
fn with_shell(shell: &str) -> Option<World> {
    let accel = format!("#!/bin/sh\nexec '{}' \"$@\"\n", env!("CARGO_BIN_EXE_accel"));
    let world = world().command("accel", accel).file("only-a-file", "");
    let here = world.program("sh").args(["-c", &format!("command -v {shell}")]).run().status.success();
    here.then_some(world)
}

#[track_caller]
fn assert_offers(complete: impl Fn(&str) -> String) {
    let sorted = |line: &str| {
        let mut offered: Vec<String> = complete(line).lines().map(str::to_owned).collect();
        offered.sort_unstable();
        offered
    };
    for (line, offered) in OFFERED {
        assert_eq!(sorted(line), offered, "{line}");
    }
    let after = sorted("accel run test -- ");
    assert!(
        after.iter().any(|word| word == "only-a-file") && !after.contains(&"both".to_owned()),
        "{after:?}"
    );
}

#[test]
fn fish_completes_the_names_of_jobs() {
    let Some(world) = with_shell("fish") else {
        println!("skipped: there is no fish here");
        return;
    };
    world.write("accel.fish", world.accel(["completions", "fish"]).run().stdout_text());
    assert_offers(|line| {
        let ask = format!("source accel.fish; complete -C '{line}' | string split -f 1 \\t; true");
        let offered = world.program("fish").args(["--no-config", "-c", &ask]).run();
        offered.code(0).stderr("");
        offered.stdout_text()
    });
}

#[test]
fn zsh_completes_the_names_of_jobs() {
    let Some(world) = with_shell("zsh") else {
        println!("skipped: there is no zsh here");
        return;
    };
    world.write("functions/_accel", world.accel(["completions", "zsh"]).run().stdout_text());
    world.write("setup.zsh", include_str!("../data/zsh/setup.zsh"));
    world.write("complete.zsh", include_str!("../data/zsh/complete.zsh"));
    assert_offers(|line| {
        let offered = world.program("zsh").args(["-f", "complete.zsh", line]).run();
        offered.code(0);
        offered.stdout_text()
    });
}

#[test]
fn a_group_passes_after_its_needs_and_goes_nowhere() {
    let world = world();
    let run = world.accel(["run", "both"]).run();
    run.code(0).stdout("").stderr_has("both passed").stderr_lacks("both →");
    let started: Vec<_> = world
        .accel(["run", "both", "--json"])
        .run()
        .json_lines()
        .into_iter()
        .filter(|event| event["event"] == "job_started" || event["event"] == "job_routed")
        .map(|event| event["job"].clone())
        .collect();
    assert!(!started.contains(&"both".into()), "{started:?}");
    world
        .accel(["run", "both", "--dry-run"])
        .run()
        .code(0)
        .stdout_has("both       -      after test, test-slow\n");
    // A group of what fails does not pass.
    world.write("accel.toml", "version = 1\n[jobs.a]\nrun = 'exit 3'\n[jobs.g]\nneeds = ['a']\n");
    world.accel(["run", "g"]).run().code(3);
}

#[test]
fn few_warnings_are_shown_whole_and_many_are_counted() {
    let world = world();
    let few = world.accel(["run", "test"]).env("ACCEL_TIMEOUTT", "1s").run();
    few.code(0).stderr_has("ACCEL_TIMEOUTT").stderr_has("did you mean ACCEL_TIMEOUT?");
    let mut many = world.accel(["run", "test"]);
    for n in 0..4 {
        many = many.env(format!("ACCEL_NO_{n}"), "1");
    }
    many.run().code(0).stderr_has("4 warnings").stderr_lacks("ACCEL_NO_0");
}

#[test]
fn rules_see_who_calls() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.a]\nrun = 'true'\n[[jobs.a.route]]\nwhen = { caller = 'agent' }\nto = 'modal'\n",
    );
    let caller = |variables: &[(&str, &str)]| {
        let mut explain = world.accel(["explain", "a", "--json"]);
        for (name, value) in variables {
            explain = explain.env(name, value);
        }
        explain.run().code(0).json()[0]["rules"][0]["conditions"][0]["seen"].as_str().unwrap().to_owned()
    };
    assert_eq!(caller(&[]), "human");
    assert_eq!(caller(&[("CI", "true")]), "ci");
    assert_eq!(caller(&[("CLAUDECODE", "1")]), "agent");
    assert_eq!(caller(&[("CI", "true"), ("CURSOR_AGENT", "1")]), "agent");
    assert_eq!(caller(&[("CLAUDECODE", "1"), ("ACCEL_CALLER", "human")]), "human");
    world
        .accel(["run", "a"])
        .env("ACCEL_CALLER", "robot")
        .run()
        .code(2)
        .stderr_has("human, ci, agent, watch");
}

#[test]
fn a_rule_about_the_attempt_moves_a_retry() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.a]\nrun = 'exit 3'\nretry = { max = 1, on = ['command'], backoff = '1ms..1ms' }\n\
         [[jobs.a.route]]\nwhen = { attempt = '>1' }\nto = 'modal'\n",
    );
    let run = world.accel(["run", "a", "--json"]).run();
    let places: Vec<_> = run
        .json_lines()
        .into_iter()
        .filter(|event| event["event"] == "job_routed")
        .map(|event| event["place"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(places, ["local", "modal"], "{run:?}");
}
