//! The examples on Modal: the same verdicts, outputs and exit codes as on this machine.

use crate::examples::{example, verdict};
use crate::fake_modal::FakeModal;
use crate::world::World;

/// The same example for each side, with its own home.
fn both(name: &str, modal: &FakeModal) -> [(World, &'static str); 2] {
    let mut remote = example(name);
    for (name, value) in modal.variables() {
        remote = remote.env(name, value);
    }
    [(example(name), "local"), (remote, "modal")]
}

#[test]
fn quickstart() {
    let modal = FakeModal::serve().with_packages();
    let seen = both("quickstart", &modal).map(|(world, place)| {
        let whole = world.accel(["run", "--on", place, "test"]).run();
        let part = world.accel(["run", "--on", place, "test", "--", "-k", "peak"]).run();
        let none = world.accel(["run", "--on", place, "test", "--", "-k", "nothing of that name"]).run();
        world.accel(["run", "--on", place, "report"]).run().code(0);
        let codes = [&whole, &part, &none].map(|finished| finished.status.code());
        (verdict(&whole), verdict(&part), codes, world.read("report.json"))
    });
    assert_eq!(seen[0], seen[1]);
    assert!(modal.sandboxes().len() >= 4, "it did run there");
}

#[test]
fn graph() {
    let modal = FakeModal::serve();
    let seen = both("graph", &modal).map(|(world, place)| {
        let finished = world.accel(["run", "--on", place, "all"]).run();
        let mut lines: Vec<_> = finished.stdout_text().lines().map(str::to_owned).collect();
        lines.sort();
        let outputs = ["numbers", "sum", "count"].map(|name| world.read(format!("build/{name}.txt")));
        (finished.status.code(), lines, outputs)
    });
    assert_eq!(seen[0], seen[1]);
    assert_eq!(modal.sandboxes().len(), 5);
}

#[test]
fn matrix() {
    let modal = FakeModal::serve();
    let seen = both("matrix", &modal).map(|(world, place)| {
        let finished = world.accel(["run", "--on", place, "hash"]).run();
        let mut lines: Vec<_> = finished.stdout_text().lines().map(str::to_owned).collect();
        lines.sort();
        (finished.status.code(), lines)
    });
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn a_published_packages_own_tests() {
    let modal = FakeModal::serve().with_packages();
    let seen = both("third-party", &modal).map(|(world, place)| {
        let whole = world.accel(["run", "--on", place, "test"]).run();
        let failing = world.accel(["run", "--on", place, "test", "--", "tests/nowhere.py"]).run();
        (verdict(&whole), whole.status.code(), failing.status.code())
    });
    assert_eq!(seen[0], seen[1]);
}
