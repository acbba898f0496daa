//! Where jobs run and why, through the real binary: explain, the facts it sees, and auto.

use std::path::Path;
use std::process::Command;

use crate::fake_modal::FakeModal;
use crate::world::World;

const EXAMPLE: &str = include_str!("../../examples/routing/accel.toml");

fn modal_world(modal: &FakeModal, toml: &str) -> World {
    World::new().file("accel.toml", toml).envs(modal.variables())
}

fn explained(world: &World, job: &str, variables: &[(&str, &str)]) -> serde_json::Value {
    let mut explain = world.accel(["explain", job, "--json"]);
    for (name, value) in variables {
        explain = explain.env(name, value);
    }
    explain.run().code(0).json()[0].clone()
}

fn place(world: &World, job: &str, variables: &[(&str, &str)]) -> String {
    explained(world, job, variables)["place"].as_str().unwrap().to_owned()
}

/// The value of a fact, as the only condition of a job's only rule saw it.
fn seen(world: &World, fact: &str, test: &str) -> serde_json::Value {
    let toml = format!(
        "version = 1\n[project]\nname = 'p'\n[jobs.a]\nrun = 'true'\n[jobs.asked]\nrun = 'true'\n\
         route = [{{ when = {{ {fact} = {test} }}, to = 'modal' }}]\n"
    );
    world.write("accel.toml", toml);
    explained(world, "asked", &[])["rules"][0]["conditions"][0].clone()
}

fn git(folder: &Path, arguments: &[&str]) {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
    let done = Command::new("git").current_dir(folder).args(identity).args(arguments).output().unwrap();
    assert!(done.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The example's file in a repository on the branch `work`, with what was changed since `main`.
#[allow(clippy::print_stderr, reason = "a skipped test says why")]
fn repository(changed: &[&str]) -> Option<World> {
    if Command::new("git").arg("--version").output().is_err() {
        eprintln!("skipped: git is not installed");
        return None;
    }
    let world = World::new().with_host_tools().file("accel.toml", EXAMPLE);
    let root = world.project();
    git(&root, &["init", "-q", "-b", "main"]);
    git(&root, &["add", "."]);
    git(&root, &["commit", "-qm", "first"]);
    git(&root, &["checkout", "-qb", "work"]);
    changed.iter().for_each(|path| world.write(path, "changed\n"));
    Some(world)
}

#[test]
fn each_rule_set_of_the_example_decides_as_it_says() {
    let Some(docs) = repository(&["docs/a.md", "README.md"]) else { return };
    let Some(kernels) = repository(&["kernels/mul.cu", "docs/a.md"]) else { return };
    assert_eq!(place(&docs, "docs-stay-here", &[]), "local");
    assert_eq!(place(&kernels, "docs-stay-here", &[]), "modal");
    assert_eq!(place(&docs, "gpu-when-kernels-change", &[]), "local");
    assert_eq!(place(&kernels, "gpu-when-kernels-change", &[]), "modal");
    assert_eq!(place(&docs, "agents-elsewhere", &[("ACCEL_CALLER", "agent")]), "modal");
    assert_eq!(place(&docs, "agents-elsewhere", &[("ACCEL_CALLER", "human")]), "local");
    assert_eq!(place(&docs, "ci-small-changes-here", &[("CI", "1")]), "local");
    let Some(many) = repository(&["a", "b", "c", "d"]) else { return };
    assert_eq!(place(&many, "ci-small-changes-here", &[("CI", "1")]), "modal");
    assert_eq!(place(&many, "ci-small-changes-here", &[]), "local");
    assert_eq!(place(&docs, "battery", &[]), "local");
    assert_eq!(place(&docs, "busy", &[]), "local");
    assert_eq!(place(&docs, "big-or-dear-stays-here", &[]), "modal");
    assert_eq!(place(&docs, "release", &[]), "local");
    git(&docs.project(), &["checkout", "-qb", "release/1.0"]);
    assert_eq!(place(&docs, "release", &[]), "modal");
    assert_eq!(place(&docs, "release", &[("STAY_HERE", "1")]), "local");
    assert_eq!(place(&docs, "whatever-is-faster", &[]), "local");
    assert_eq!(place(&docs, "first-wins", &[]), "local", "without credentials");
    // A job that was quick three times stays.
    for _ in 0..3 {
        docs.accel(["run", "quick-stays-here", "--on", "local"]).run().code(0);
    }
    let quick = explained(&docs, "quick-stays-here", &[]);
    assert_eq!(quick["place"], "local");
    assert!(quick["reason"].as_str().unwrap().starts_with("p50 "), "{quick}");
    assert_eq!(quick["rules"][1]["conditions"][0]["seen"], 3.0);
}

#[test]
fn the_example_s_rule_sets_with_fallbacks_budgets_and_branches_do_as_they_say() {
    let Some(world) = repository(&["src/a.rs"]) else { return };
    let root = world.project();
    git(&root, &["checkout", "-qb", "develop"]);
    git(&root, &["add", "."]);
    git(&root, &["commit", "-qm", "what develop has"]);
    git(&root, &["checkout", "-qb", "feature"]);
    world.write("docs/a.md", "changed\n");
    assert_eq!(place(&world, "since-develop", &[]), "local");
    assert_eq!(place(&world, "since-develop", &[("ACCEL_CHANGED_SINCE", "main")]), "modal");
    world.write("src/b.rs", "changed\n");
    assert_eq!(place(&world, "since-develop", &[]), "modal");

    // There are no credentials, so it moves; and it may not under `--strict`.
    assert_eq!(place(&world, "here-in-need", &[]), "modal");
    world.accel(["run", "here-in-need"]).run().code(0).stderr_has("auth");
    world.accel(["run", "here-in-need", "--strict"]).run().code(125);

    // Ten minutes cost more than a tenth of a cent.
    let frugal = |job: &str| {
        recorded_of(&world, "routing", job, "local", "passed", 600_000);
        let explained = world.accel(["explain", job, "--json", "--profile", "frugal"]).run();
        explained.code(0).json()[0]["budget"].as_str().unwrap().to_owned()
    };
    let here = frugal("frugal");
    assert!(
        here.starts_with("budget.per_run of $0.0010 would be exceeded: $0.00 spent by this run"),
        "{here}"
    );
    assert!(here.ends_with("expected for this one: it runs here"), "{here}");
    assert!(frugal("frugal-or-not-at-all").ends_with("expected for this one: it is not run"));
    let run = world.accel(["run", "frugal", "--profile", "frugal"]).run();
    run.code(0).stderr_has("frugal → local: budget.per_run of $0.0010 would be exceeded");
    world.accel(["run", "frugal-or-not-at-all", "--profile", "frugal"]).run().code(2);
}

#[test]
fn changed_files_are_since_what_the_job_or_a_variable_says() {
    let Some(world) = repository(&["kernels/mul.cu"]) else { return };
    let root = world.project();
    git(&root, &["add", "."]);
    git(&root, &["commit", "-qm", "kernels"]);
    world.write("docs/a.md", "changed\n");
    assert_eq!(place(&world, "docs-stay-here", &[]), "modal");
    assert_eq!(place(&world, "docs-stay-here", &[("ACCEL_CHANGED_SINCE", "HEAD")]), "local");
    let unknown = explained(&world, "docs-stay-here", &[("ACCEL_CHANGED_SINCE", "origin/gone")]);
    let why = unknown["rules"][0]["conditions"][0]["unknown"].as_str().unwrap();
    assert!(why.starts_with("git knows no commit `origin/gone`"), "{why}");
    world.write(
        "accel.toml",
        EXAMPLE.replace("[jobs.docs-stay-here]", "[jobs.docs-stay-here]\nchanged_since = 'HEAD'"),
    );
    assert_eq!(place(&world, "docs-stay-here", &[]), "local");
    // Each job has its own; accel.toml itself has changed by now.
    assert_eq!(place(&world, "gpu-when-kernels-change", &[]), "modal");
    world.accel(["plan", "docs-stay-here"]).run().code(0).stdout_has("changed_since = \"HEAD\"");
    world
        .accel(["check"])
        .env("ACCEL_CHANGED_SINCE", "--output=x")
        .run()
        .code(2)
        .stderr_has("`--output=x` names no commit");
    // Outside a repository there is nothing that a ref could mean.
    let outside = World::new().file("accel.toml", EXAMPLE);
    let unknown = explained(&outside, "docs-stay-here", &[("ACCEL_CHANGED_SINCE", "main")]);
    assert_eq!(
        unknown["rules"][0]["conditions"][0]["unknown"],
        "changed_since is `main`, and this is no git repository"
    );
}

#[test]
fn explain_names_every_rule_and_what_it_saw() {
    let world = World::new().file("accel.toml", EXAMPLE);
    let text = |job: &str| world.accel(["explain", job]).run().code(0).stdout_text();
    insta::assert_snapshot!(text("docs-stay-here"), @r"
    docs-stay-here runs on modal: the job's route, accel.toml:14
      accel.toml:11 → local: does not apply
        false  changed docs/** or *.md or !src/** or !kernels/** (is unknown: this is no git repository, and the job has not passed in this folder yet)
      accel.toml:14 → modal: decides
      no run of this job has passed yet, so what it takes is not known
      a sandbox costs ≥ $0.02/h by prices of 2026-06
    ");
    insta::assert_snapshot!(text("battery"), @r"
    battery runs on local: no rule says otherwise
      accel.toml:48 → modal: does not apply
        false  on_battery true (is false)
        false  modal_ready true (is false: no Modal token)
      built-in rule → local: decides
      no run of this job has passed yet, so what it takes is not known
      a sandbox costs ≥ $0.02/h by prices of 2026-06
    ");
    insta::assert_snapshot!(text("quick-stays-here"), @r"
    quick-stays-here runs on local: no rule says otherwise
      accel.toml:55 → local: does not apply
        false  p50 <20s (is unknown: no run of this job has passed yet)
      accel.toml:58 → modal: does not apply
        false  runs >=3 (is 0)
      built-in rule → local: decides
      no run of this job has passed yet, so what it takes is not known
      a sandbox costs ≥ $0.02/h by prices of 2026-06
    ");
    insta::assert_snapshot!(text("whatever-is-faster"), @r"
    whatever-is-faster runs on local: auto has no history yet; no rule says otherwise
      accel.toml:94 → auto: decides
      no run of this job has passed yet, so what it takes is not known
      a sandbox costs ≥ $0.02/h by prices of 2026-06
    ");
    // Asking records nothing.
    assert_eq!(std::fs::read_dir(world.state()).unwrap().count(), 0);
}

#[test]
fn a_race_is_explained_foretold_and_run() {
    let modal = FakeModal::serve();
    let world = modal_world(&modal, EXAMPLE);
    let text = world.accel(["explain", "first-wins"]).run().code(0).stdout_text();
    insta::assert_snapshot!(text, @r"
    first-wins runs on modal and local: race: this machine starts 5.0s later; it is not known yet what both take
      accel.toml:130 → race: decides
      no run of this job has passed yet, so what it takes is not known
      a sandbox costs ≥ $0.02/h by prices of 2026-06
    ");
    let json = explained(&world, "first-wins", &[]);
    assert_eq!(json["rival"], serde_json::json!({ "place": "local", "after_ms": 5000 }));
    let foretold = world.accel(["run", "--dry-run", "first-wins"]).run().code(0).stdout_text();
    assert!(foretold.starts_with("first-wins  race   "), "{foretold}");
    let done = world.accel(["run", "first-wins"]).run();
    done.code(0).stderr_has("first-wins → modal and local: race: this machine starts 5.0s later; ");
    let winner = world.read("reports/place");
    done.stderr_has(&format!("race: first-wins: {} won", winner.trim()));
}

#[test]
fn explain_of_the_other_examples_is_as_expected() {
    for (folder, job, expected) in [
        (
            "quickstart",
            "test",
            "test runs on local: no rule says otherwise\n  built-in rule → local: decides\n",
        ),
        ("graph", "sum", "sum runs on local: no rule says otherwise\n  built-in rule → local: decides\n"),
        (
            "matrix",
            "hash",
            "hash[algorithm=sha1,length=long] runs on local: no rule says otherwise\n  built-in rule → local: decides\n",
        ),
        (
            "third-party",
            "test",
            "test runs on local: no rule says otherwise\n  built-in rule → local: decides\n",
        ),
    ] {
        let world = World::new();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(folder);
        world.accel(["-C", &example.to_string_lossy(), "explain", job]).run().code(0).stdout_has(expected);
    }
}

#[test]
fn facts_of_earlier_runs_come_from_the_history() {
    let world = World::new();
    let before = seen(&world, "p50", "'<1h'");
    assert_eq!(
        (before["holds"].as_bool(), before["unknown"].as_str()),
        (Some(false), Some("no run of this job has passed yet"))
    );
    assert_eq!(seen(&world, "runs", "'=0'")["seen"], 0.0);
    world.accel(["run", "asked", "--on", "local"]).run().code(0);
    assert_eq!(seen(&world, "runs", "'=1'")["holds"], true);
    assert_eq!(seen(&world, "p50", "'<1h'")["holds"], true);
    assert_eq!(seen(&world, "p90", "'<1h'")["holds"], true);
    let cost = seen(&world, "cost", "'<$1'");
    assert_eq!(cost["holds"], true, "{cost}");
}

#[test]
fn modal_ready_says_why_not_and_is_asked_once_for_a_while() {
    let world = World::new();
    let without = seen(&world, "modal_ready", "true");
    assert_eq!(without["seen"], false);
    assert!(without["why"].as_str().unwrap().contains("token"), "{without}");

    let modal = FakeModal::serve();
    let world = modal_world(&modal, "");
    assert_eq!(seen(&world, "modal_ready", "true")["seen"], true);
    assert_eq!(seen(&world, "modal_ready", "true")["holds"], true);
    assert_eq!(modal.calls_of("ClientHello").len(), 1);
}

#[test]
fn what_would_be_sent_shrinks_once_it_was_sent() {
    let modal = FakeModal::serve();
    let world = modal_world(&modal, "").file("big", vec![1; 100_000]);
    assert_eq!(seen(&world, "sync_bytes", "'>90kB'")["holds"], true);
    world.accel(["run", "a", "--on", "modal"]).run().code(0);
    assert_eq!(seen(&world, "sync_bytes", "'<90kB'")["holds"], true);
}

#[test]
fn outside_git_files_are_changed_since_the_job_last_passed() {
    let world = World::new().file("old", "1");
    let unknown = seen(&world, "changed_files", "'>=0'");
    assert!(unknown["unknown"].as_str().unwrap().contains("no git repository"), "{unknown}");
    world.accel(["run", "asked", "--on", "local"]).run().code(0);
    world.write("new", "1");
    let changed = seen(&world, "changed", "true");
    let paths: Vec<&str> =
        changed["seen"].as_array().unwrap().iter().filter_map(|path| path.as_str()).collect();
    assert!(paths.contains(&"new") && !paths.contains(&"old"), "{paths:?}");
}

#[test]
fn gpus_are_seen_by_name_and_memory() {
    let world = World::new()
        .command("nvidia-smi", "#!/bin/sh\necho 'NVIDIA L4, 23034'\necho 'NVIDIA H100 80GB HBM3, 81559'\n");
    assert_eq!(seen(&world, "local_gpu", "'>=2'")["holds"], true);
    assert_eq!(seen(&world, "local_gpu", "'NVIDIA L4'")["holds"], true);
    assert_eq!(seen(&world, "local_gpu_memory", "'>79GiB'")["holds"], true);
    assert_eq!(seen(&World::new(), "local_gpu", "false")["holds"], true);
    assert_eq!(seen(&World::new(), "local_gpu_memory", "'>1GiB'")["holds"], false);
}

#[test]
fn auto_learns_from_a_run_and_says_what_it_expects() {
    let world = World::new().file("accel.toml", "version = 1\n[jobs.a]\nrun = 'true'\nroute = 'auto'\n");
    world.accel(["run", "a"]).run().code(0).stderr_has("auto has no history yet");
    let decided = explained(&world, "a", &[]);
    assert_eq!(decided["place"], "local");
    assert_eq!(decided["weighed"]["local"]["runs"], 1);
    assert_eq!(decided["weighed"]["modal"]["runs"], 0);
    let reasons: Vec<&str> =
        decided["reasons"].as_array().unwrap().iter().filter_map(|text| text.as_str()).collect();
    assert!(reasons.iter().any(|text| text.contains("sync ") && text.contains("assumed")), "{reasons:?}");
    world.accel(["run", "a"]).run().code(0).stderr_has("auto: about ");
}

/// A run that was recorded by hand.
fn recorded(world: &World, place: &str, ended: &str, run_ms: u64) {
    recorded_of(world, "p", "a", place, ended, run_ms);
}

fn recorded_of(world: &World, project: &str, job: &str, place: &str, ended: &str, run_ms: u64) {
    use std::io::Write;
    let state = world.state().join("accel");
    std::fs::create_dir_all(&state).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let line = format!(
        r#"{{"run":"{place}{now}","job":"{job}","attempt":1,"project":"{project}","worktree":"/w","digest":"d","place":"{place}","started_at_ms":{now},"phases":{{"run_ms":{run_ms}}},"ended":"{ended}"}}"#
    );
    let file = std::fs::OpenOptions::new().append(true).create(true).open(state.join("history.spool"));
    writeln!(file.unwrap(), "{line}").unwrap();
}

#[test]
fn auto_does_not_send_a_job_to_where_it_cannot_run() {
    const TOML: &str = "version = 1\n[project]\nname = 'p'\n[jobs.a]\nrun = 'true'\nroute = 'auto'\n";
    let world = World::new().file("accel.toml", TOML);
    recorded(&world, "local", "passed", 600_000);
    let without = explained(&world, "a", &[]);
    assert_eq!(without["place"], "local");
    let reason = without["reason"].as_str().unwrap();
    assert!(reason.ends_with("which cannot be used: no Modal token"), "{reason}");

    let modal = FakeModal::serve();
    let world = modal_world(&modal, TOML);
    recorded(&world, "local", "passed", 600_000);
    let tried = explained(&world, "a", &[]);
    assert_eq!(tried["place"], "modal", "{tried}");
    assert!(tried["reason"].as_str().unwrap().ends_with("not tried there yet"), "{tried}");
    world.accel(["run", "a"]).run().code(0).stderr_has("not tried there yet");
    assert_eq!(explained(&world, "a", &[])["weighed"]["modal"]["runs"], 1);

    // What went wrong there is not tried again by itself.
    let world = modal_world(&modal, TOML);
    recorded(&world, "local", "passed", 600_000);
    recorded(&world, "modal", "errored", 0);
    assert_eq!(explained(&world, "a", &[])["place"], "local");
}
