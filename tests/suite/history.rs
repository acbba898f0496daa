//! What runs leave behind for `accel history`, whichever place they ran in.

use std::time::Duration;

use crate::fake_modal::FakeModal;
use crate::world::{Signal, World};

const JOBS: &str = r#"version = 1
[project]
name = "sweeper"
[jobs.quick]
run = "echo hi"
[jobs.bad]
run = "exit 3"
[jobs.again]
run = "test -e seen || { touch seen; exit 4; }"
retry = { max = 1, on = ["command"], backoff = "1ms..1ms" }
[jobs.far]
run = "mkdir -p out && echo result > out/a"
outputs = ["out/**"]
route = "modal"
"#;

fn runs(world: &World, arguments: &[&str]) -> Vec<serde_json::Value> {
    let document = world.accel(["history", "--json"]).args(arguments).run().code(0).json();
    assert_eq!(document["version"], 1);
    document["runs"].as_array().unwrap().clone()
}

#[test]
fn every_attempt_of_every_job_is_recorded() {
    let world = World::new().file("accel.toml", JOBS);
    world.accel(["history"]).run().code(0).stdout("").stderr("no run is recorded yet\n");
    world.accel(["run", "quick"]).run().code(0);
    world.accel(["run", "bad"]).run().code(3);
    world.accel(["run", "again"]).run().code(0);
    // Another command in a job's place tells nothing about the job.
    world.accel(["exec", "quick", "--", "true"]).run().code(0);
    let found: Vec<String> = runs(&world, &[])
        .iter()
        .map(|run| {
            format!("{} {} {} {} {}", run["job"], run["attempt"], run["place"], run["ended"], run["cause"])
        })
        .collect();
    assert_eq!(
        found,
        [
            r#""again" 2 "local" "passed" null"#,
            r#""again" 1 "local" "failed" "command""#,
            r#""bad" 1 "local" "failed" "command""#,
            r#""quick" 1 "local" "passed" null"#,
        ]
    );
    assert_eq!(runs(&world, &["quick"]).len(), 1);
    assert_eq!(runs(&world, &["-n", "2"]).len(), 2);
    let text = world.accel(["history", "again"]).run().code(0).stdout_text();
    assert!(text.starts_with("when") && text.contains("\nagain  local  2     1"), "{text}");
}

#[test]
fn projects_are_apart_unless_all_are_asked_for() {
    let world = World::new().file("accel.toml", JOBS);
    world.accel(["run", "quick"]).run().code(0);
    world.write("accel.toml", JOBS.replace("sweeper", "other"));
    assert_eq!(runs(&world, &[]).len(), 0);
    assert_eq!(runs(&world, &["--all"]).len(), 1);
}

#[test]
fn a_state_folder_that_cannot_be_written_changes_no_run() {
    let world = World::new().file("accel.toml", JOBS);
    world.accel(["run", "quick"]).env("ACCEL_STATE_DIR", "/dev/null/x").run().code(0).stdout("hi\n");
}

#[test]
fn a_run_on_modal_is_recorded_with_its_parts() {
    let modal = FakeModal::serve();
    let world = modal_world(&modal);
    world.accel(["run", "far"]).run().code(0);
    let run = runs(&world, &["far"]).remove(0);
    assert_eq!((run["place"].as_str(), run["ended"].as_str()), (Some("modal"), Some("passed")));
    assert!(run["bytes_sent"].as_u64().unwrap() >= JOBS.len() as u64, "{run}");
    assert!(run["cost_microdollars"].is_u64(), "{run}");
    for part in ["start_ms", "run_ms", "outputs_ms"] {
        assert!(run["phases"][part].is_u64(), "{run}");
    }
    // Nothing is sent again.
    world.accel(["run", "far"]).run().code(0);
    assert_eq!(runs(&world, &["far"]).len(), 2);
}

fn modal_world(modal: &FakeModal) -> World {
    World::new().file("accel.toml", JOBS).envs(modal.variables())
}

#[test]
fn killed_at_any_moment_the_history_stays_readable() {
    const KILLS: u64 = 200;
    let world = World::new().file("accel.toml", JOBS);
    let mut random = 7_u64;
    for number in 0..KILLS {
        // Every third is killed while it folds what the others have left.
        let arguments: &[&str] = if number % 3 == 2 { &["history", "--json"] } else { &["run", "quick"] };
        let mut running = world.accel(arguments).spawn();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros((random >> 33) % 30_000));
        running.signal(Signal::KILL);
        running.finish();
    }
    world.accel(["run", "quick"]).run().code(0);
    let done = world.accel(["history", "--json", "-n", "1000"]).run();
    done.code(0).stderr("");
    let found = done.json()["runs"].as_array().unwrap().clone();
    assert!(!found.is_empty() && found.len() as u64 <= KILLS, "{}", found.len());
    assert!(found.iter().all(|run| run["job"] == "quick" && run["ended"] == "passed"), "{found:?}");
}
