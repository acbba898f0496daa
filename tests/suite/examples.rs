//! Every folder of `examples/` runs as its comments say, from a copy in an isolated home.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{Finished, World};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// A world whose project is a copy of the example's committed files.
pub fn example(name: &str) -> World {
    let world = World::new().with_host_tools();
    copy_tree(&examples().join(name), &world.project());
    world
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let generated = ["build", "report.json", "__pycache__"].iter().any(|skipped| name == *skipped);
        if generated || name.to_string_lossy().starts_with("click-") {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to.join(name));
        } else {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

#[test]
fn every_example_has_a_test_and_passes_check() {
    let tested = ["graph", "matrix", "quickstart", "routing", "third-party"];
    let mut found: Vec<String> = fs::read_dir(examples())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, tested);
    for name in tested {
        example(name).accel(["check"]).run().code(0).stderr_lacks("warning");
    }
}

#[test]
fn quickstart_runs_a_python_suite_in_an_image() {
    let world = example("quickstart");
    world.accel(["run", "test"]).run().code(0).stdout_has("12 passed");
    // The environment is there now: nothing is built again.
    let again = world.accel(["run", "test", "--", "-k", "peak"]).run();
    again.code(0).stdout_has("2 passed, 10 deselected");
    world.accel(["run", "report"]).run().code(0);
    let report: serde_json::Value = serde_json::from_str(&world.read("report.json")).unwrap();
    assert!(report["error_after"].as_f64() < report["error_before"].as_f64(), "{report}");
}

#[test]
fn graph_runs_everything_once_in_order() {
    let world = example("graph");
    let finished = world.accel(["run", "all"]).run();
    finished.code(0).stdout_has("mean: 50");
    let events = world.accel(["run", "--json", "all"]).run().code(0).json_lines();
    let started: Vec<&str> = events
        .iter()
        .filter(|event| event["event"] == "job_started")
        .map(|event| event["job"].as_str().unwrap())
        .collect();
    assert_eq!(started.len(), 5, "{started:?}");
    let at = |name: &str| started.iter().position(|job| *job == name).unwrap();
    assert!(at("fetch") < at("sum") && at("fetch") < at("count") && at("all") == 4, "{started:?}");
}

#[test]
fn matrix_runs_each_combination() {
    let world = example("matrix");
    let finished = world.accel(["run", "hash"]).run();
    finished.code(0);
    for line in ["md5 short: 32", "sha1 short: 40", "sha1 long: 40", "sha256 short: 64", "sha256 long: 64"] {
        finished.stdout_has(line);
    }
    finished.stdout_lacks("md5 long");
    let one = world.accel(["run", "hash[algorithm=sha1,length=long]"]).run();
    one.code(0).stdout("sha1 long: 40 hexadecimal digits\n");
}

/// The last line of a pytest run without its duration.
pub fn verdict(finished: &Finished) -> String {
    let text = finished.stdout_text();
    let last =
        text.lines().rev().find(|line| line.contains("passed")).unwrap_or_else(|| panic!("{finished:?}"));
    let unprefixed = last.rsplit("│ ").next().unwrap_or(last);
    unprefixed.split(" in ").next().unwrap_or(unprefixed).trim().to_owned()
}

#[test]
fn a_published_package_gives_the_same_verdict_as_by_hand() {
    let world = example("third-party");
    let through_accel = world.accel(["run", "test"]).run();
    through_accel.code(0);
    let image = world.accel(["image", "ls", "--json"]).run();
    let python = python_of(&image, "py");
    let by_hand = |arguments: &[&str]| {
        let command = world.program(&python).args(["-m", "pytest", "-q"]).args(arguments);
        command.current_dir(world.path("click-8.5.1")).env("PYTHONPATH", "src").run()
    };
    assert_eq!(verdict(&through_accel), verdict(&by_hand(&[])));

    // A failing run fails alike: same verdict, same exit code.
    let broken = world.read("click-8.5.1/src/click/utils.py").replace("def echo(", "def echo_gone(");
    world.write("click-8.5.1/src/click/utils.py", broken);
    let part = "tests/test_utils.py";
    let failing = by_hand(&[part]);
    let code = failing.status.code().unwrap();
    assert_ne!(code, 0);
    world.accel(["run", "test", "--", part]).run().code(code);
}

/// The interpreter of a built image, as `accel image ls --json` tells.
fn python_of(listing: &Finished, name: &str) -> PathBuf {
    let images = listing.json();
    let images =
        images.as_array().or_else(|| images["images"].as_array()).unwrap_or_else(|| panic!("{listing:?}"));
    let image = images.iter().find(|image| image["image"] == name).unwrap_or_else(|| panic!("{listing:?}"));
    let path = image["path"].as_str().unwrap_or_else(|| panic!("{listing:?}"));
    Path::new(path).join("bin/python")
}
