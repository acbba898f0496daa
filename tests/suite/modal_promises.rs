//! What a run on Modal promises whatever happens: one sandbox for one job, the job's own result, and a tree that is what
//! was planned.

use std::collections::BTreeSet;

use tonic::Code;

use crate::fake_modal::{FakeModal, Fault};
use crate::modal_project::{Random, each_seed};
use crate::modal_world::world;
use crate::world::World;

#[test]
fn a_creation_whose_answer_is_lost_makes_one_sandbox() {
    for (gpu, method) in [("", "SandboxCreateV2"), ("gpu = 'L4'\n", "SandboxCreate")] {
        let modal = FakeModal::serve();
        modal.fail(method, [Fault::AnswerLost, Fault::Disconnected]);
        let world = world(&modal, &format!("[jobs.it]\n{gpu}run = 'echo hi'\n"));
        world.accel(["run", "it"]).run().code(0).stdout("hi\n");
        assert_eq!(modal.sandboxes().len(), 1, "{method}");
        let keys = || -> BTreeSet<String> {
            modal.calls_of(method).iter().map(|call| call.headers["x-idempotency-key"].clone()).collect()
        };
        assert_eq!((modal.calls_of(method).len(), keys().len()), (3, 1), "{method}");
        world.accel(["run", "it"]).run().code(0);
        assert_eq!((modal.sandboxes().len(), keys().len()), (2, 2), "{method}: a key serves one creation");
    }
}

#[test]
fn a_sandbox_that_cannot_be_ended_keeps_the_jobs_own_result_and_is_ended_by_the_next_start() {
    let modal = FakeModal::serve();
    modal.fail("SandboxTerminateV2", vec![Fault::code(Code::PermissionDenied); 3]);
    let world = world(&modal, "[jobs.it]\nrun = 'echo hi; exit 7'\n");
    let done = world.accel(["run", "it"]).run();
    let left = modal.alive().remove(0).id;
    done.code(7).stdout("hi\n").stderr_has(&format!("sandbox {left} may still run")).stderr_has("accel stop");
    world.accel(["prune"]).run().code(0).stdout(&format!("ended {left}\n"));
    assert!(modal.alive().is_empty());
    world.accel(["prune"]).run().code(0).stdout("nothing to prune\n");
}

#[test]
fn what_will_not_get_better_is_tried_once_and_told_with_its_call() {
    for code in [Code::InvalidArgument, Code::PermissionDenied, Code::Unimplemented] {
        let modal = FakeModal::serve();
        modal.fail("AppGetOrCreate", vec![Fault::code(code); 8]);
        let world = world(&modal, "[jobs.it]\nrun = 'true'\n");
        world.accel(["run", "it"]).run().code(125).stderr_has("AppGetOrCreate").stderr_has("made up");
        assert_eq!(modal.calls_of("AppGetOrCreate").len(), 1, "{code:?}");
    }
}

/// Trees tried where `ACCEL_TREE_SEEDS` says nothing else; `ACCEL_TREE_SEED` tries a single one.
const TREES: u64 = 12;

const NAMES: [&str; 8] = ["a", "b.log", "c d", "ünï", ".hidden", "keep.log", "data", "x'y"];
const RULES: [&str; 6] = ["*.log\n", "!keep.log\n", "data/\n", "/a\n", "c d\n", ".hidden\n"];

fn random_tree(random: &mut Random, world: &World) {
    for _ in 0..1 + random.below(25) {
        let depth = 1 + random.below(3);
        let path: Vec<&str> = (0..depth).map(|_| *random.pick(&NAMES)).collect();
        let path = world.path(path.join("/"));
        // A file may be in the way of a folder, and the other way round.
        let _ = std::fs::create_dir_all(path.parent().unwrap());
        let _ = match random.below(6) {
            0 => std::fs::create_dir_all(&path),
            1 => std::os::unix::fs::symlink("nowhere", &path),
            _ => std::fs::write(&path, vec![b'x'; random.below(200)]),
        };
    }
    for name in [".gitignore", ".accelignore"] {
        if random.below(2) == 0 {
            let rules: String = (0..random.below(4)).map(|_| *random.pick(&RULES)).collect();
            world.write(name, rules);
        }
    }
}

#[test]
fn what_arrives_is_what_sync_plan_shows() {
    each_seed("ACCEL_TREE_SEEDS", "ACCEL_TREE_SEED", TREES, 2, |seed| {
        let mut random = Random::new(seed);
        let modal = FakeModal::serve();
        let sync = ["", "[sync]\nexclude = ['c d/**']\n", "[sync]\ninclude = ['data/**']\n"];
        let job = "[jobs.it]\nrun = \"find . -mindepth 1 -printf '%P\\\\n'\"\n";
        let world = world(&modal, &format!("{}{job}", random.pick(&sync)));
        random_tree(&mut random, &world);
        let planned = world.accel(["sync", "--plan", "--json"]).run().code(0).json();
        let row = |row: &serde_json::Value| row["path"].as_str().unwrap().trim_end_matches('/').to_owned();
        let planned: BTreeSet<String> = planned["entries"].as_array().unwrap().iter().map(row).collect();
        let arrived = world.accel(["run", "it"]).run().code(0).stdout_text();
        let arrived: BTreeSet<String> = arrived.lines().map(str::to_owned).collect();
        assert_eq!(arrived, planned, "ACCEL_TREE_SEED={seed}");
    });
}

/// Runs with a file that never stands still.
const RESTLESS_RUNS: usize = 4;

#[test]
fn what_cannot_travel_whole_is_refused_or_left_with_a_word_and_never_torn() {
    let modal = FakeModal::serve();
    let world = world(&modal, "[jobs.it]\nrun = 'ls; cat restless'\n").file("restless", "a");
    let _socket = std::os::unix::net::UnixListener::bind(world.path("socket")).unwrap();
    world.accel(["run", "it", "-v"]).run().code(0).stderr_has("socket").stdout("accel.toml\nrestless\na");

    std::os::unix::fs::symlink("/etc/hostname", world.path("outside")).unwrap();
    modal.forget_calls();
    let refused = world.accel(["run", "it"]).run();
    refused.code(125).stderr_has("outside links to /etc/hostname").stderr_has("help: make the link relative");
    assert!(modal.calls_of("MountPutFile").is_empty(), "nothing was sent");
    std::fs::remove_file(world.path("outside")).unwrap();

    let over = std::sync::atomic::AtomicBool::new(false);
    let versions = ["a".repeat(300_000), "b".repeat(200_000)];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Written in place, so that a reader could see both.
            for version in versions.iter().cycle() {
                if over.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                std::fs::write(world.path("restless"), version).unwrap();
            }
        });
        // Judged only after the writer has been told to end.
        let runs: Vec<_> = (0..RESTLESS_RUNS).map(|_| world.accel(["run", "it"]).run()).collect();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        for done in runs {
            if done.status.code() != Some(0) {
                done.code(125).stderr_has("restless");
                continue;
            }
            let text = done.stdout_text();
            let text = text.strip_prefix("accel.toml\nrestless\n").unwrap();
            let first = text.chars().next();
            assert!(text.chars().all(|it| Some(it) == first), "torn: {} bytes", text.len());
        }
    });
    // Once it stands still, nothing is left of the trouble.
    world.write("restless", "a");
    world.accel(["run", "it"]).run().code(0).stdout("accel.toml\nrestless\na");
}
