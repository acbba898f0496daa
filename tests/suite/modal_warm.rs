//! Sandboxes that are kept between runs, through the real binary: what a run finds in one, when one is replaced, who
//! may use it, and that none is left.
//!
//! `ACCEL_DELTA_SEEDS` sets how many random histories of a tree are tried, `ACCEL_DELTA_SEED` tries a single one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use tonic::Code;

use crate::fake_modal::{AfterDeath, Death, FakeModal, Fault};
use crate::modal_project::each_seed;
use crate::modal_world::world;
use crate::until::wait_until;
use crate::world::{Finished, Signal, World};

/// A job whose sandbox is kept.
fn warm(modal: &FakeModal, command: &str) -> World {
    world(modal, &format!("[jobs.it]\nwarm = true\nrun = '''{command}'''\n"))
}

fn run(world: &World) -> Finished {
    world.accel(["run", "it"]).run()
}

/// Ends what is kept, as a user would, and sees that nothing is left.
fn leave_nothing(modal: &FakeModal, world: &World) {
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty(), "{:?}", modal.alive());
    world.accel(["ps"]).run().code(0).stderr_has("nothing of accel runs on Modal");
}

#[test]
fn a_second_run_finds_the_sandbox_of_the_first_and_what_was_left_in_it() {
    let modal = FakeModal::serve();
    let world = warm(&modal, "cat data; ls; echo built > artefact").file("data", "1\n");
    run(&world).code(0).stdout("1\naccel.toml\ndata\n").stderr_has("the sandbox stays warm for 10m");
    world.write("data", "2\n");
    let second = run(&world);
    second.code(0).stdout("2\naccel.toml\nartefact\ndata\n").stderr_lacks("stays warm");
    run(&world).code(0).stdout("2\naccel.toml\nartefact\ndata\n");
    assert_eq!(modal.sandboxes().len(), 1);
    assert_eq!(modal.calls_of("SandboxCreateV2").len(), 1);
    world.accel(["run", "it", "--clean"]).run().code(0).stdout("2\naccel.toml\ndata\n");
    assert_eq!((modal.sandboxes().len(), modal.alive().len()), (2, 1), "--clean starts over");
    leave_nothing(&modal, &world);
}

#[test]
fn a_job_that_reads_standard_input_has_a_sandbox_of_its_own() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.it]\nwarm = true\nrun = 'cat data; ls'\n[jobs.reads]\nwarm = true\ntty = true\nrun = 'cat data -'\n";
    let world = world(&modal, jobs).file("data", "1\n");
    run(&world).code(0);
    let alive = || modal.alive().into_iter().map(|sandbox| sandbox.id).collect::<Vec<_>>();
    let kept = alive();
    world.write("data", "2\n");
    for arguments in [&["run", "reads", "--warm"][..], &["exec", "it", "--", "cat", "data", "-"]] {
        world.accel(arguments).stdin("typed\n").run().code(0).stdout("2\ntyped\n").stderr_lacks("stays warm");
        assert_eq!(alive(), kept, "{arguments:?}");
    }
    run(&world).code(0).stdout("2\naccel.toml\ndata\n");
    assert_eq!((modal.sandboxes().len(), alive()), (3, kept));
    leave_nothing(&modal, &world);
}

/// Calls made at once look like a chain unless each takes longer than the client between them.
const LATENCY: Duration = Duration::from_millis(150);

#[test]
fn a_warm_rerun_is_a_call_or_two_and_asks_the_control_plane_nothing() {
    let modal = FakeModal::serve();
    let world = warm(&modal, "cat data").file("data", "1\n");
    run(&world).code(0);
    modal.delay(LATENCY);
    let mut trips = Vec::new();
    for number in 2..5 {
        world.write("data", format!("{number}\n"));
        modal.forget_calls();
        run(&world).code(0).stdout(&format!("{number}\n"));
        trips.push(modal.sequential_round_trips());
        let asked: Vec<_> = modal.calls().into_iter().map(|call| call.method).collect();
        // A run that takes longer than a second asks whether its sandbox lives.
        let others: Vec<_> =
            asked.iter().filter(|it| !it.starts_with("TaskExec") && *it != "SandboxWaitV2").collect();
        assert!(others.is_empty(), "{others:?}");
    }
    assert!(trips.iter().all(|trips| *trips <= 2), "{trips:?}");
    println!("sequential calls of warm reruns: {trips:?}");
    modal.delay(Duration::ZERO);
    leave_nothing(&modal, &world);
}

#[test]
fn reads_that_overtake_the_start_are_made_again() {
    let modal = FakeModal::serve();
    let world = warm(&modal, "cat data; echo apart >&2; exit 3").file("data", "1\n");
    run(&world).code(3);
    world.write("data", "2\n");
    modal.fail("TaskExecStart", [Fault::Slow(Duration::from_millis(400))]);
    run(&world).code(3).stdout("2\n").stderr_has("apart");
    let early = |method| modal.calls_of(method).iter().any(|call| call.code == Some(Code::NotFound as i32));
    assert!(early("TaskExecWait") && early("TaskExecStdinWrite"));
    assert_eq!(modal.sandboxes().len(), 1);
    leave_nothing(&modal, &world);
}

const SPOIL: &str = "
if [ -e spoil ]; then
    printf 'B\\n' > same-size
    touch -r accel.toml same-size
    rm gone; chmod 600 mode; chmod 700 folder
    rm -rf to-folder; mkdir to-folder; echo own > to-folder/own
    rm to-link; ln -s /etc/passwd to-link
    rm link; ln -s elsewhere link
    rm -rf away; mv folder-away away
    echo own > own
else
    find . -mindepth 1 ! -name accel.toml ! -name '.*' | LC_ALL=C sort | while IFS= read -r path; do
        if [ -L \"$path\" ]; then echo \"$path -> $(readlink \"$path\")\"
        elif [ -d \"$path\" ]; then echo \"$path $(stat -c %a \"$path\")\"
        else echo \"$path $(stat -c %a \"$path\") $(cat \"$path\")\"
        fi
    done
fi";

#[test]
fn whatever_the_job_does_to_the_tree_the_next_run_sees_it_as_it_is_here() {
    let modal = FakeModal::serve();
    spoil_and_look(&modal, |_| ());
}

/// Of a tree in which nothing has happened for a while, not all is read.
#[test]
fn also_in_a_tree_that_has_long_been_in_step() {
    let modal = FakeModal::serve();
    spoil_and_look(&modal, |world| {
        run(world).code(0);
        let root = modal.root_of(&modal.alive()[0].id);
        wait_until_old(&root);
        run(world).code(0);
        let rest = fs::read_to_string(root.join("__accel_run/rest"));
        assert_eq!(rest.map_or(0, |text| text.lines().count()), 0, "read once more when it is old");
        run(world).code(0);
        let rest = fs::read_to_string(root.join("__accel_run/rest")).unwrap();
        assert!(rest.contains("./same-size\n"), "{rest}");
    });
}

/// Until a change would leave other times on a file than it has by now.
fn wait_until_old(folder: &Path) {
    let now = || tempfile::NamedTempFile::new_in(folder).unwrap().as_file().metadata().unwrap().ctime();
    let began = now();
    wait_until(|| now() >= began + 3, || "time passes".to_owned());
}

fn spoil_and_look(modal: &FakeModal, before: impl Fn(&World)) {
    let mut world = warm(modal, SPOIL);
    for name in ["same-size", "gone", "mode", "to-folder", "to-link", "target"] {
        world = world.file(name, "A\n");
    }
    for name in ["folder/in", "folder-away/in", "deleted here/in"] {
        world = world.file(name, "A\n");
    }
    symlink("target", world.path("link")).unwrap();
    before(&world);
    world.write("spoil", "");
    run(&world).code(0).stdout("");
    fs::remove_file(world.path("spoil")).unwrap();
    fs::remove_dir_all(world.path("deleted here")).unwrap();
    let expect = "\
./away 755
./away/in 644 A
./folder 755
./folder-away 755
./folder-away/in 644 A
./folder/in 644 A
./gone 644 A
./link -> target
./mode 644 A
./own 644 own
./same-size 644 A
./target 644 A
./to-folder 644 A
./to-link 644 A
";
    run(&world).code(0).stdout(expect);
    assert_eq!(modal.sandboxes().len(), 1, "files that the job changed are no reason for a fresh sandbox");
    run(&world).code(0).stdout(expect);
    leave_nothing(modal, &world);
}

#[test]
fn a_sandbox_that_has_ended_is_replaced_and_that_is_said_in_a_line() {
    for after in [AfterDeath::NotFound, AfterDeath::Silent] {
        let modal = FakeModal::serve();
        modal.state().after_death = after;
        let world = warm(&modal, "cat data").file("data", "1\n");
        run(&world).code(0);
        modal.kill(&modal.alive()[0].id, Death::Idle);
        world.write("data", "2\n");
        let done = run(&world);
        done.code(0).stdout("2\n").stderr_has("the warm sandbox has ended: a fresh one takes its place");
        run(&world).code(0).stdout("2\n").stderr_lacks("takes its place");
        assert_eq!((modal.sandboxes().len(), modal.alive().len()), (2, 1));
        leave_nothing(&modal, &world);
    }
}

#[test]
fn a_sandbox_that_is_not_as_it_was_left_is_not_run_upon() {
    let modal = FakeModal::serve();
    let world = warm(&modal, "cat data; mkdir -p /cache; echo once >> /cache/count").file("data", "1\n");
    run(&world).code(0);
    let first = modal.alive()[0].id.clone();
    fs::write(modal.root_of(&first).join("__accel_run/word"), "another\n").unwrap();
    world.write("data", "2\n");
    let done = run(&world);
    done.code(0).stdout("2\n").stderr_has("is not as it was left").stderr_lacks("out of step");
    assert_eq!(fs::read_to_string(modal.root_of(&first).join("cache/count")).unwrap(), "once\n");
    assert_ne!(modal.alive()[0].id, first);
    leave_nothing(&modal, &world);
}

#[test]
fn a_token_that_is_refused_and_a_tree_that_changed_a_lot_cost_a_fresh_sandbox_at_most() {
    let modal = FakeModal::serve();
    let world = warm(&modal, "ls many | wc -l").file("many/0", "");
    run(&world).code(0);
    modal.expire_router_tokens();
    run(&world).code(0).stdout("1\n");
    for number in 1..300 {
        world.write(format!("many/{number}"), format!("{number}\n"));
    }
    run(&world).code(0).stdout("300\n").stderr_has("lacks too much of what has changed");
    run(&world).code(0).stdout("300\n").stderr_lacks("takes its place");
    leave_nothing(&modal, &world);
}

#[test]
fn only_runs_of_the_same_definition_share_one() {
    let modal = FakeModal::serve();
    let jobs = "[defaults.warm]\n[jobs.it]\nrun = 'ls'\n[jobs.same]\nrun = 'cat accel.toml >/dev/null; echo same'\nenv = { A = '1' }\n[jobs.other]\ncpu = 2\nrun = 'true'\n";
    let world = world(&modal, jobs);
    for job in ["it", "same", "other", "it", "other"] {
        world.accel(["run", job]).run().code(0);
    }
    assert_eq!(modal.sandboxes().len(), 2);
    leave_nothing(&modal, &world);
}

#[test]
fn two_runs_never_share_one_at_the_same_time() {
    let modal = FakeModal::serve();
    let world =
        warm(&modal, "echo ready; while [ -e /cache/hold ]; do sleep 0.05; done; echo $MODAL_SANDBOX_ID");
    run(&world).code(0);
    let first = modal.alive()[0].id.clone();
    fs::create_dir_all(modal.root_of(&first).join("cache")).unwrap();
    let hold = modal.root_of(&first).join("cache/hold");
    fs::write(&hold, "").unwrap();
    let mut holding = world.accel(["run", "it"]).spawn();
    holding.wait_for_stdout("ready\n");
    let second = run(&world);
    second.code(0).stdout_lacks(&first);
    fs::remove_file(hold).unwrap();
    holding.finish().code(0).stdout_has(&first);
    assert_eq!(modal.alive().len(), 2);
    leave_nothing(&modal, &world);
}

#[test]
fn a_sandbox_is_kept_only_where_that_is_wanted() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.it]\nrun = 'true'\n[jobs.warm]\nwarm = { idle = '5m' }\nrun = 'true'\n[jobs.never]\nwarm = false\nrun = 'true'\n";
    let world = world(&modal, jobs);
    let kept = |arguments: &[&str], caller: &str| {
        world.accel(arguments).env("ACCEL_CALLER", caller).run().code(0);
        let kept = modal.alive().len();
        world.accel(["prune"]).run().code(0);
        kept
    };
    assert_eq!(kept(&["run", "it"], "human"), 0);
    assert_eq!(kept(&["run", "it"], "watch"), 1);
    assert_eq!(kept(&["run", "it", "--warm"], "ci"), 1);
    assert_eq!(kept(&["run", "warm"], "human"), 1);
    assert_eq!(kept(&["run", "warm"], "ci"), 0);
    assert_eq!(kept(&["run", "never", "--warm"], "watch"), 0);
    let definition =
        modal.sandboxes().into_iter().find_map(|it| it.definition.idle_timeout_secs.filter(|it| *it == 300));
    assert_eq!(definition, Some(300), "the server is told how long it may be idle");
    assert!(modal.alive().is_empty());
}

#[test]
fn ps_shows_what_is_kept_and_stop_ends_it() {
    let modal = FakeModal::serve();
    let world = warm(&modal, "true");
    run(&world).code(0);
    let shown = world.accel(["ps"]).run();
    shown.code(0).stdout_has("kept warm").stdout_has("ends in 9m");
    let listed = world.accel(["ps", "--json"]).run().json();
    assert_eq!((listed[0]["standing"].as_str(), listed[0]["state"].as_str()), (Some("warm"), Some("parked")));
    world.accel(["prune", "--dry-run"]).run().code(0).stdout_has("would end");
    assert_eq!(modal.alive().len(), 1);
    world.accel(["stop", "it"]).run().code(0).stdout_has("stopped it");
    assert!(modal.alive().is_empty());
    run(&world).code(0).stderr_lacks("takes its place");
    leave_nothing(&modal, &world);
}

#[test]
fn a_rule_may_ask_whether_a_sandbox_is_kept_and_nothing_is_sent_for_that() {
    let modal = FakeModal::serve();
    let rules = "[[jobs.it.route]]\nwhen = { warm = true }\nto = 'modal'\n[[jobs.it.route]]\nto = 'local'\n";
    let world = world(&modal, &format!("[jobs.it]\nwarm = true\nrun = 'echo ran'\n{rules}"));
    let explained = |expect: &str| {
        modal.forget_calls();
        world.accel(["explain", "it"]).run().code(0).stdout_has(expect);
        assert!(modal.calls().is_empty(), "{:?}", modal.calls());
    };
    explained("no sandbox is kept");
    run(&world).code(0).stderr_has("it → local");
    world.accel(["run", "it", "--on", "modal"]).run().code(0);
    explained("→ modal");
    run(&world).code(0).stderr_has("it → modal");
    assert_eq!(modal.sandboxes().len(), 1);
    let once = world.accel(["run", "it"]).env("ACCEL_CALLER", "ci").run();
    once.code(0).stderr_has("it → local");
    leave_nothing(&modal, &world);
    run(&world).code(0).stderr_has("it → local");
}

#[test]
fn what_the_job_leaves_running_ends_with_it() {
    let modal = FakeModal::serve();
    let world = warm(
        &modal,
        "! grep -q sleep /proc/$(cat /cache/pid 2>/dev/null)/cmdline 2>/dev/null || echo lives; mkdir -p /cache; setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $! > /cache/pid",
    );
    run(&world).code(0);
    run(&world).code(0).stdout("");
    assert_eq!(modal.sandboxes().len(), 1);
    leave_nothing(&modal, &world);
}

#[test]
fn a_stopped_job_leaves_its_sandbox_for_the_next_run_and_a_killed_one_does_not() {
    let modal = FakeModal::serve();
    let world = warm(&modal, "cat data; [ ! -e wait ] || { echo ready; exec sleep 1000; }")
        .file("data", "1\n")
        .file("wait", "");
    let mut running = world.accel(["run", "it"]).spawn();
    running.wait_for_stdout("ready\n").signal(Signal::INT);
    running.finish().code(130);
    assert_eq!(modal.alive().len(), 1);
    let mut running = world.accel(["run", "it"]).spawn();
    running.wait_for_stdout("ready\n").signal(Signal::KILL);
    running.finish();
    fs::remove_file(world.path("wait")).unwrap();
    world.write("data", "2\n");
    run(&world).code(0).stdout("2\n").stderr_has("ended what an earlier run left");
    assert_eq!((modal.sandboxes().len(), modal.alive().len()), (2, 1));
    leave_nothing(&modal, &world);
}

#[test]
fn nothing_outlives_its_idle_time_whatever_accel_died_of() {
    let modal = FakeModal::serve();
    // Ten minutes of a sandbox.
    modal.state().second = Duration::from_millis(10);
    let world = warm(&modal, "[ ! -e wait ] || { echo ready; sleep 3; }").file("data", "1\n");
    // Parked, then nobody comes.
    run(&world).code(0);
    // While a command runs; it is not idle before that has ended.
    world.write("wait", "");
    let mut running = world.accel(["run", "it"]).spawn();
    running.wait_for_stdout("ready\n").signal(Signal::KILL);
    running.finish();
    modal.wait_for_ends();
    modal.state().second = Duration::from_secs(1);
    fs::remove_file(world.path("wait")).unwrap();
    run(&world).code(0);
    leave_nothing(&modal, &world);
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// Few names, so that they meet again as other things; some of them odd.
const NAMES: [&str; 8] = ["a", "b", "c d", "e'f", "ü", "back\\slash", "new\nline", "-dash"];

/// A path of one to three names below the folder.
fn random_path(random: &mut Random) -> String {
    let depth = 1 + random.below(3);
    (0..depth).map(|_| random.of(&NAMES)).collect::<Vec<_>>().join("/")
}

fn remove(path: &Path) {
    if path.symlink_metadata().is_ok_and(|it| it.is_dir()) {
        fs::remove_dir_all(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
}

/// Makes way for something below this path.
fn clear_way(root: &Path, path: &str) {
    let mut folder = root.to_owned();
    for name in Path::new(path).parent().into_iter().flat_map(Path::components) {
        folder.push(name);
        if !folder.symlink_metadata().is_ok_and(|it| it.is_dir()) {
            remove(&folder);
            fs::create_dir(&folder).unwrap();
        }
    }
    remove(&root.join(path));
}

fn edit(root: &Path, random: &mut Random) {
    let path = random_path(random);
    let at = root.join(&path);
    match random.below(8) {
        0..=2 => {
            clear_way(root, &path);
            let size = random.of(&[&0, &1, &5, &3000]);
            let bytes: Vec<u8> = (0..*size).map(|_| random.below(256) as u8).collect();
            fs::write(at, bytes).unwrap();
        }
        3 => {
            clear_way(root, &path);
            symlink(random.of(&["a", "no where", "b"]), at).unwrap();
        }
        4 => {
            clear_way(root, &path);
            fs::create_dir(at).unwrap();
        }
        5 => remove(&at),
        _ => {
            let Ok(found) = at.symlink_metadata() else { return };
            if !found.is_symlink() {
                let modes = if found.is_dir() { [0o755, 0o700] } else { [0o644, 0o755] };
                fs::set_permissions(at, fs::Permissions::from_mode(modes[random.below(2)])).unwrap();
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Thing {
    File(u32, Vec<u8>),
    Folder(u32),
    Link(String),
}

fn look(root: &Path, folder: &Path, found: &mut BTreeMap<String, Thing>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let seen = path.symlink_metadata().unwrap();
        let mode = seen.permissions().mode() & 0o7777;
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let thing = if seen.is_symlink() {
            Thing::Link(fs::read_link(&path).unwrap().to_str().unwrap().to_owned())
        } else if seen.is_dir() {
            look(root, &path, found);
            Thing::Folder(mode)
        } else {
            Thing::File(mode, fs::read(&path).unwrap())
        };
        found.insert(name, thing);
    }
}

fn tree(root: &Path) -> BTreeMap<String, Thing> {
    let mut found = BTreeMap::new();
    look(root, root, &mut found);
    found
}

/// The job keeps what it saw, then spoils some of it; `./tree` is all that matters.
const SEE: &str =
    "mkdir -p /cache; rm -rf /cache/seen; cp -a tree /cache/seen; echo $MODAL_SANDBOX_ID; sh -c \"$SPOIL\"";

fn spoil(random: &mut Random) -> String {
    let mut script = "cd tree".to_owned();
    for _ in 0..random.below(4) {
        let path = random.of(&["a", "b", "-dash", "ü", "c d"]);
        let act = random.of(&["rm -rf", "chmod 700", "mkdir -p", "echo spoiled >"]);
        script.push_str(&format!("; {act} './{path}' 2>/dev/null"));
    }
    script + "; true"
}

fn history(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let modal = FakeModal::serve();
    let world = world(&modal, &format!("[jobs.it]\nwarm = true\npass_env = ['SPOIL']\nrun = '''{SEE}'''\n"));
    fs::create_dir(world.path("tree")).unwrap();
    for round in 0..4 {
        for _ in 0..3 + random.below(12) {
            edit(&world.path("tree"), &mut random);
        }
        for _ in 0..random.below(3) {
            let method =
                random.of(&["TaskExecStart", "TaskExecStdinWrite", "TaskExecStdioRead", "TaskExecWait"]);
            let fault = match random.below(4) {
                0 => Fault::AnswerLost,
                1 => Fault::Disconnected,
                2 => Fault::CutAfter(random.below(20)),
                _ => Fault::code(Code::Unavailable),
            };
            modal.fail_nth(method, 1 + random.below(3), fault);
        }
        let done = world.accel(["run", "it"]).env("SPOIL", spoil(&mut random)).run();
        done.code(0);
        let seen = modal.root_of(done.stdout_text().trim()).join("cache/seen");
        let (here, mut there) = (tree(&world.path("tree")), tree(&seen));
        // What the job has put where nothing is here may stay.
        let own = |path: &str, thing: &Thing| match thing {
            Thing::File(_, bytes) => bytes == b"spoiled\n",
            Thing::Folder(_) => !here.keys().any(|known| known == path),
            Thing::Link(_) => false,
        };
        there.retain(|path, thing| here.contains_key(path) || !own(path, thing));
        assert!(here == there, "seed {seed}, round {round}:\nhere {here:#?}\nthere {there:#?}");
        assert_eq!(modal.alive().len(), 1, "seed {seed}, round {round}");
    }
    leave_nothing(&modal, &world);
}

#[test]
fn a_kept_sandbox_holds_what_is_here_after_any_history() {
    each_seed("ACCEL_DELTA_SEEDS", "ACCEL_DELTA_SEED", 4, 1, |seed| {
        println!("delta seed {seed}");
        history(seed);
    });
}
