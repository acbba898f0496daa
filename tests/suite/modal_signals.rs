//! Three signals in a row at any point of a run on Modal: accel leaves at once, says what it leaves, and the next start
//! ends it.
//!
//! `ACCEL_SIGNAL_SEEDS` sets how many random points are tried, `ACCEL_SIGNAL_SEED` tries a single one; `ACCEL_KILL_SEEDS`
//! and `ACCEL_KILL_SEED` do the same for a kill, after which only the next start can say and end anything.

use std::path::Path;
use std::time::Duration;

use accel::event::now_ms;
use accel::store::journal::Entry;
use accel::store::journal::warm::is_kept;
use accel::store::{Database, Directories, Journal};

use crate::fake_modal::{FakeModal, Fault};
use crate::modal_project::{Random, each_seed};
use crate::world::{Finished, Signal, World};

const CONFIG: &str = "version = 1
[project]
name = 'demo'
[defaults]
route = 'modal'
[images.py]
base = 'debian_slim'
[jobs.cpu]
image = 'py'
secrets = ['s']
run = '''if [ -e quick ]; then exit; fi; trap \"\" INT TERM HUP; echo started; sleep 600 & wait; sleep 600'''
[jobs.gpu]
extends = 'cpu'
gpu = 'L4'
[jobs.early]
extends = 'cpu'
warm = true
route = [{ when = { sync_bytes = '>1GB' }, to = 'local' }, { to = 'modal' }]
[jobs.loop]
run = 'cat data'
[budget]
prewarm_per_day = '$1'
";

/// Points tried where nothing else is asked for.
const SEEDS: u64 = 60;
/// Runs side by side: most of the time all of them wait.
const AT_ONCE: usize = 6;
/// Calls of a run until its command prints, and some that never come.
const CALLS: usize = 20;
/// Between two signals, at most.
const GAP_MS: usize = 25;
/// Answers take a little, so that there is something to interrupt.
const LATENCY: Duration = Duration::from_millis(15);
/// A creation that is under way for longer than accel waits.
const SLOW_CREATION: Duration = Duration::from_millis(600);

fn world(modal: &FakeModal) -> World {
    World::new().file("accel.toml", CONFIG).file("data", "text\n").envs(modal.variables())
}

/// All is known that a sandbox is made from, so that one is made before a place is decided on.
fn informed(modal: &FakeModal, job: &str) -> World {
    let world = world(modal);
    if job == "early" {
        let faults = std::mem::take(&mut modal.state().faults);
        world.write("quick", "");
        world.accel(["run", job, "--on", "modal"]).run().code(0);
        std::fs::remove_file(world.path("quick")).unwrap();
        world.accel(["prune"]).run().code(0);
        modal.state().faults = faults;
        modal.forget_calls();
    }
    world
}

fn unsettled(world: &World) -> Vec<Entry> {
    let state = world.state().join("accel");
    let variable = |name: &str| (name == "ACCEL_STATE_DIR").then(|| state.clone().into_os_string());
    let database = Database::new(Directories::resolve(variable, Path::new("/"), Path::new("/nowhere"), 0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Journal::new(database).unsettled()).unwrap()
}

/// What must be true of an accel that was told to leave at once.
fn judge(done: &Finished, world: &World, told: &str) {
    let said = done.stderr_text();
    assert!([129, 130, 143].contains(&done.status.code().unwrap_or(-1)), "{told}: {done:?}");
    assert!(!said.contains("panicked") && !said.contains("backtrace"), "{told}: {done:?}");
    // What is kept for another run is no leftover.
    for entry in unsettled(world).into_iter().filter(|entry| !is_kept(entry, now_ms())) {
        assert!(said.contains(entry.lease.as_str()), "{told}: {entry:?} is not told: {done:?}");
        if let Some(sandbox) = &entry.sandbox {
            assert!(said.contains(sandbox), "{told}: {entry:?} is not named: {done:?}");
        }
    }
}

/// A server whose answers take a little, the creation perhaps longer. The job, and what is told of it.
fn scene(random: &mut Random) -> (FakeModal, &'static str, String) {
    let modal = FakeModal::serve();
    modal.secret("s", &[("A", "1")]);
    modal.delay(LATENCY);
    let jobs = [("cpu", "SandboxCreateV2"), ("gpu", "SandboxCreate"), ("early", "SandboxCreateV2")];
    let (job, create) = jobs[random.below(3)];
    let slow = random.below(3);
    if slow > 0 {
        let fault = [Fault::Slow(SLOW_CREATION), Fault::LateAnswer(SLOW_CREATION)][slow - 1].clone();
        modal.fail(create, [fault]);
    }
    (modal, job, format!("{job}, creation {slow}"))
}

fn command(random: &mut Random, job: &str) -> &'static str {
    if job == "early" { ["run", "watch"][random.below(2)] } else { "run" }
}

/// Waits for that call of the run, or for its command to be read.
fn wait_for(modal: &FakeModal, point: usize) {
    modal.wait_for_calls(point, || modal.calls_of("TaskExecStdioRead").len() >= 2);
}

fn interrupt(seed: u64) {
    let mut random = Random::new(seed);
    let (modal, job, what) = scene(&mut random);
    let point = 1 + random.below(CALLS);
    let command = command(&mut random, job);
    let told = format!("ACCEL_SIGNAL_SEED={seed} {command} {what}, call {point}");
    let world = informed(&modal, job);
    let mut run = world.accel([command, job]).spawn();
    wait_for(&modal, point);
    for _ in 0..3 {
        run.signal([Signal::INT, Signal::TERM, Signal::HUP][random.below(3)]);
        std::thread::sleep(Duration::from_millis(random.below(GAP_MS) as u64));
    }
    judge(&run.finish(), &world, &told);

    if random.below(2) == 0 {
        // The next start may come while the creation is still under way.
        world.accel(["prune"]).run().code(0);
    }
    modal.wait_for_creations();
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty(), "{told}: {:?}", modal.alive());
    assert!(unsettled(&world).is_empty(), "{told}");
}

#[test]
fn three_signals_at_any_point_leave_nothing_that_is_not_told_and_ended() {
    each_seed("ACCEL_SIGNAL_SEEDS", "ACCEL_SIGNAL_SEED", SEEDS, AT_ONCE, interrupt);
}

/// The second run of a loop: in the sandbox of the first, which is put in order afterwards.
fn interrupt_loop(seed: u64) {
    let mut random = Random::new(seed);
    let modal = FakeModal::serve();
    let world = world(&modal);
    let mut watch = world.accel(["watch", "loop"]).spawn();
    watch.wait_for_stderr("waiting for changes");
    modal.delay(LATENCY);
    modal.forget_calls();
    let point = 1 + random.below(CALLS);
    let saves_again = random.below(2) == 0;
    let told = format!("ACCEL_SIGNAL_SEED={seed} loop, call {point}, saves again: {saves_again}");
    world.write("data", "other\n");
    modal.wait_for_calls(point, || modal.answered("TaskExecWait") >= 2);
    if saves_again {
        // Perhaps while the sandbox is put in order.
        watch.wait_for_stderr_times("waiting for changes", 2);
        world.write("data", "more\n");
        watch.wait_for_stderr_times("data changed", 2);
    }
    for _ in 0..1 + random.below(3) {
        watch.signal([Signal::INT, Signal::TERM, Signal::HUP][random.below(3)]);
        std::thread::sleep(Duration::from_millis(random.below(GAP_MS) as u64));
    }
    judge(&watch.finish(), &world, &told);
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty(), "{told}: {:?}", modal.alive());
    assert!(unsettled(&world).is_empty(), "{told}");
}

#[test]
fn signals_at_any_point_of_a_loop_leave_nothing_that_is_not_told_and_ended() {
    each_seed("ACCEL_SIGNAL_SEEDS", "ACCEL_SIGNAL_SEED", SEEDS, AT_ONCE, interrupt_loop);
}

fn kill(seed: u64) {
    let mut random = Random::new(seed);
    let (modal, job, what) = scene(&mut random);
    let point = 1 + random.below(CALLS);
    let command = command(&mut random, job);
    let told = format!("ACCEL_KILL_SEED={seed} {command} {what}, call {point}");
    let world = informed(&modal, job);
    let mut run = world.accel([command, job]).spawn();
    wait_for(&modal, point);
    let stops_first = random.below(3) == 0;
    if stops_first {
        // In the middle of its stopping.
        run.signal(Signal::INT);
        std::thread::sleep(Duration::from_millis(random.below(GAP_MS) as u64));
    }
    run.signal(Signal::KILL);
    drop(run.finish());
    // What was made is known here, by its id or by its intent: nothing is made without one.
    let known = unsettled(&world);
    modal.wait_for_creations();
    assert!(modal.alive().len() <= known.len(), "{told}: {known:?} {:?}", modal.alive());
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty(), "{told}: {:?}", modal.alive());
    assert!(unsettled(&world).is_empty(), "{told}");
    world.accel(["prune"]).run().code(0).stdout("nothing to prune\n");
}

#[test]
fn a_kill_at_any_point_leaves_nothing_that_the_next_start_does_not_end() {
    each_seed("ACCEL_KILL_SEEDS", "ACCEL_KILL_SEED", SEEDS, AT_ONCE, kill);
}
