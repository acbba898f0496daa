//! What is begun before it is known to be needed, through the real binary: sandboxes that are asked for while the tree is
//! walked, before a place is decided on and before another gets too old; and that none of them is left when they are not used.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::Code;

use crate::fake_modal::{FakeModal, Fault};
use crate::modal_world::world;
use crate::world::{Finished, Running, Signal, World};

const SHOW: &str = "[jobs.it]\nrun = 'cat data; ls | wc -l'\n";

fn run(world: &World) -> Finished {
    world.accel(["run", "it"]).run()
}

/// Holds a lease on a file: whoever opens it waits until the lease is given back.
const HOLD: &str = "
import fcntl, signal, sys
def asked(*_):
    print('asked', flush=True)
signal.signal(signal.SIGIO, asked)
file = open(sys.argv[1], 'r+')
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
sys.stdin.read()
";

/// The system takes a lease away after 45 seconds.
const LEASE: Duration = Duration::from_secs(30);

/// A walk reads the ignore rules of every folder, so it goes no further before the gate is dropped.
struct Gate {
    holder: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Gate {
    /// `None` where there are no leases.
    fn close(world: &World) -> Option<Self> {
        let mut holder = Command::new("python3");
        holder
            .args(["-c", HOLD])
            .arg(world.path("deep/.gitignore"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut holder = holder.spawn().ok()?;
        let mut said = BufReader::new(holder.stdout.take()?).lines();
        let held = said.next()?.ok()?;
        assert_eq!(held, "held");
        Some(Self { holder, said })
    }

    fn wait_for_a_walk(&mut self) {
        assert_eq!(self.said.next().unwrap().unwrap(), "asked");
    }

    fn open(mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().unwrap();
    }
}

/// A run whose sandbox is asked for before the tree is walked. `None` where there are no leases.
fn run_ahead(modal: &FakeModal, world: &World) -> Option<Finished> {
    modal.forget_calls();
    let mut gate = Gate::close(world)?;
    let running = world.accel(["run", "it"]).spawn();
    gate.wait_for_a_walk();
    wait_for_creation(modal);
    gate.open();
    Some(running.finish())
}

#[test]
fn a_sandbox_is_asked_for_while_the_tree_is_walked() {
    let modal = FakeModal::serve();
    let world = world(&modal, SHOW).file("data", "1\n").file("deep/.gitignore", "ignored\n");
    run(&world).code(0).stdout("1\n3\n");
    world.write("data", "2\n");
    let Some(finished) = run_ahead(&modal, &world) else { return skipped() };
    finished.code(0).stdout("2\n3\n");
    assert_eq!((modal.sandboxes().len(), modal.alive().len()), (2, 0));
}

#[test]
fn a_sandbox_that_was_asked_for_too_early_is_ended() {
    let modal = FakeModal::serve();
    let world = world(&modal, SHOW).file("data", "1\n").file("deep/.gitignore", "ignored\n");
    run(&world).code(0).stdout("1\n3\n");
    for number in 0..300 {
        world.write(format!("more{number}"), "");
    }
    let Some(finished) = run_ahead(&modal, &world) else { return skipped() };
    finished.code(0).stdout("1\n303\n");
    assert_eq!((modal.sandboxes().len(), modal.alive().len()), (3, 0), "more has changed than follows");
    run(&world).code(0).stdout("1\n303\n");
    assert_eq!((modal.sandboxes().len(), modal.alive().len()), (4, 0), "the new mount is known now");
}

#[test]
fn a_tree_that_was_mounted_before_another_is_asked_for_once_it_is_back() {
    let modal = FakeModal::serve();
    let world = world(&modal, "[jobs.it]\nrun = 'cat more0'\n").file("deep/.gitignore", "ignored\n");
    let branch = |text: &str| (0..300).for_each(|number| world.write(format!("more{number}"), text));
    branch("a\n");
    run(&world).code(0).stdout("a\n");
    for (text, made) in [("b\n", 2), ("a\n", 2), ("a\n", 1)] {
        branch(text);
        let Some(finished) = run_ahead(&modal, &world) else { return skipped() };
        finished.code(0).stdout(text);
        assert_eq!(created(&modal), made, "{text}");
    }
    assert!(modal.alive().is_empty());
}

#[test]
fn a_tree_that_cannot_be_sent_leaves_no_sandbox() {
    let modal = FakeModal::serve();
    let world = world(&modal, &format!("[sync]\nmax_size = '1MB'\n{SHOW}")).file("data", "1\n");
    run(&world).code(0);
    world.write("big", vec![0; 2 << 20]);
    run(&world).code(125).stderr_has("max_size").stderr_lacks("may still run");
    assert!(modal.alive().is_empty());
    world.accel(["ps"]).run().code(0).stderr_has("nothing of accel runs on Modal");
}

/// A job that runs here as long as there is little to send, and keeps its sandbox.
fn undecided(modal: &FakeModal, budget: &str) -> World {
    let config = "[defaults]\nroute = [{ when = { sync_bytes = '<1MB' }, to = 'local' }, { to = 'modal' }]\n\
                  [jobs.it]\nwarm = true\nwatch.paths = ['data']\nrun = 'cat data; echo ${MODAL_SANDBOX_ID:-here}'\n";
    let config = format!("version = 1\n[project]\nname = 'demo'\n{budget}{config}");
    let world = World::new().file("accel.toml", config).envs(modal.variables());
    let world = world.file("data", "1\n").file("deep/.gitignore", "ignored\n");
    // From here on all is known that a sandbox is made from.
    world.accel(["run", "it", "--on", "modal"]).run().code(0);
    world.accel(["prune"]).run().code(0);
    modal.forget_calls();
    world
}

const PREWARM: &str = "[budget]\nprewarm_per_day = '$1'\n";

fn created(modal: &FakeModal) -> usize {
    modal.calls_of("SandboxCreateV2").len()
}

fn wait_for_creation(modal: &FakeModal) {
    let held = Instant::now();
    modal.wait_for_calls_of("SandboxCreateV2", 1, || held.elapsed() > LEASE);
    assert_eq!(created(modal), 1, "nobody waits for the tree");
}

#[allow(clippy::print_stdout, reason = "a skipped test says why")]
fn skipped() {
    println!("skipped: python3 cannot hold a lease on a file here");
}

#[test]
fn a_decision_for_this_machine_ends_a_sandbox_that_was_made_before_it() {
    let modal = FakeModal::serve();
    let world = undecided(&modal, PREWARM);
    let Some(mut gate) = Gate::close(&world) else { return skipped() };
    let running = world.accel(["run", "it"]).spawn();
    gate.wait_for_a_walk();
    wait_for_creation(&modal);
    gate.open();
    running.finish().code(0).stdout("1\nhere\n").stderr_lacks("sandbox");
    assert!(modal.alive().is_empty(), "{:?}", modal.alive());
    world.accel(["ps"]).run().code(0).stderr_has("nothing of accel runs on Modal");
}

#[test]
fn a_decision_for_modal_finds_the_sandbox_there() {
    let modal = FakeModal::serve();
    let world = undecided(&modal, PREWARM);
    world.write("data", vec![b'x'; 2 << 20]);
    let Some(mut gate) = Gate::close(&world) else { return skipped() };
    let running = world.accel(["run", "it"]).spawn();
    gate.wait_for_a_walk();
    wait_for_creation(&modal);
    gate.open();
    let finished = running.finish();
    let (id, seen) = (&modal.alive()[0].id, finished.stdout_text());
    assert!(seen.ends_with(&format!("x{id}\n")), "{}", seen.trim_start_matches('x'));
    finished.code(0).stderr_has("the sandbox stays warm").stderr_lacks("takes its place");
    assert_eq!((created(&modal), modal.alive().len()), (1, 1));
    let again = world.accel(["run", "it", "--on", "modal"]).run();
    again.code(0);
    assert!(again.stdout_text().ends_with(&format!("x{id}\n")), "it is kept as any other");
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty());
}

#[test]
fn nothing_is_made_before_a_decision_without_money_for_it() {
    for budget in ["", "[budget]\nprewarm_per_day = '$0.0001'\n"] {
        let modal = FakeModal::serve();
        let world = undecided(&modal, budget);
        world.accel(["run", "it"]).run().code(0).stdout("1\nhere\n").stderr_lacks("budget");
        assert_eq!(created(&modal), 0, "{budget}");
    }
}

/// A watch that has asked for its sandbox and waits for the tree.
fn watch_at_the_gate(modal: &FakeModal, world: &World) -> Option<(Gate, Running)> {
    let mut gate = Gate::close(world)?;
    let watch = world.accel(["watch", "it", "--on", "modal"]).spawn();
    gate.wait_for_a_walk();
    wait_for_creation(modal);
    Some((gate, watch))
}

#[test]
fn a_watch_asks_for_its_sandbox_while_it_looks_at_the_tree() {
    let modal = FakeModal::serve();
    let world = undecided(&modal, "");
    let Some((gate, mut watch)) = watch_at_the_gate(&modal, &world) else { return skipped() };
    gate.open();
    watch.wait_for_stdout("1\n").wait_for_stderr("waiting for changes");
    assert_eq!((created(&modal), modal.alive().len()), (1, 1));
    watch.signal(Signal::INT);
    watch.finish().code(130);
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty());
}

#[test]
fn a_watch_that_ends_before_its_first_run_leaves_no_sandbox() {
    let modal = FakeModal::serve();
    let world = undecided(&modal, "");
    let Some((gate, mut watch)) = watch_at_the_gate(&modal, &world) else { return skipped() };
    watch.signal(Signal::INT);
    gate.open();
    watch.finish().code(130);
    assert!(modal.alive().is_empty(), "{:?}", modal.alive());
}

#[test]
fn a_second_signal_does_not_wait_for_a_sandbox_that_was_asked_for_ahead() {
    let modal = FakeModal::serve();
    let world = undecided(&modal, "");
    modal.fail("SandboxCreateV2", [Fault::Silence]);
    let mut watch = world.accel(["watch", "it", "--on", "modal"]).spawn();
    wait_for_creation(&modal);
    watch.wait_for_stderr("starting the sandbox").signal(Signal::INT);
    watch.wait_for_stderr("cancelled before its command ran").signal(Signal::INT);
    watch.finish().code(130).stderr_lacks("leaving at once");
}

#[test]
fn a_save_has_a_sandbox_made_where_none_is_kept_any_more() {
    let modal = FakeModal::serve();
    let world = undecided(&modal, PREWARM);
    let mut watch = world.accel(["watch", "it", "--on", "modal"]).spawn();
    watch.wait_for_stderr_times("waiting for changes", 1);
    world.accel(["stop", "it"]).run().code(0);
    modal.forget_calls();
    // Whether a job is concerned is not known yet; here none is.
    world.write("other", "");
    modal.wait_until(|| modal.alive().len() == 1);
    modal.forget_calls();
    world.write("data", "2\n");
    watch.wait_for_stdout("2\n").wait_for_stderr_times("waiting for changes", 2);
    assert_eq!((created(&modal), modal.alive().len()), (0, 1));
    watch.signal(Signal::INT);
    watch.finish().code(130).stderr_lacks("takes its place");
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty());
}

#[test]
fn a_loop_has_another_sandbox_ready_before_its_own_is_too_old() {
    let modal = FakeModal::serve();
    let config = "version = 1\n[project]\nname = 'demo'\n[jobs.it]\nwarm = { idle = '4s', max = '4s' }\n\
                  run = 'cat data; if [ $(cat data) = 1 ]; then sleep 4; fi; ls | wc -l; echo > left'\n";
    let world = World::new().file("accel.toml", config).file("data", "1\n").envs(modal.variables());
    let mut watch = world.accel(["watch", "it", "--on", "modal"]).spawn();
    watch.wait_for_stderr_times("waiting for changes", 1);
    // The old one goes when the other is there.
    modal.wait_until(|| modal.sandboxes().len() == 2 && modal.alive().len() == 1);
    modal.forget_calls();
    world.write("data", "2\n");
    watch.wait_for_stdout("2\n2\n").wait_for_stderr_times("waiting for changes", 2);
    assert_eq!((created(&modal), modal.alive().len()), (0, 1));
    watch.signal(Signal::INT);
    let text = "is soon too old for another run: a fresh one takes its place";
    watch.finish().code(130).stderr_has(text).stderr_lacks("warm sandbox is too old");
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty());
}

#[test]
fn a_watch_that_finds_nothing_made_ahead_begins_as_any_run() {
    let modal = FakeModal::serve();
    // The first run finds a connection in the making.
    modal.put_at(Duration::from_millis(150));
    modal.fail(
        "ImageGetOrCreate",
        [Fault::code(Code::FailedPrecondition), Fault::code(Code::FailedPrecondition)],
    );
    let config = "version = 1\n[project]\nname = 'demo'\n[jobs.it]\nrun = 'cat data'\n";
    let world = World::new().file("accel.toml", config).file("data", "1\n").envs(modal.variables());
    let mut watch = world.accel(["watch", "it", "--on", "modal"]).spawn();
    watch.wait_for_stderr("waiting for changes");
    assert_eq!(modal.calls_of("ImageGetOrCreate").len(), 1, "what fails is not done twice");
    watch.signal(Signal::INT);
    watch.finish().code(130);
}

#[test]
fn what_was_made_ahead_says_nothing_about_whether_a_job_is_warm() {
    let modal = FakeModal::serve();
    let config = "version = 1\n[project]\nname = 'demo'\n[budget]\nprewarm_per_day = '$1'\n\
                  [jobs.it]\nwarm = true\nrun = 'echo ${MODAL_SANDBOX_ID:-here}'\n\
                  route = [{ when = { sync_bytes = '<1GB', warm = true }, to = 'modal' }, { to = 'local' }]\n";
    let world = World::new().file("accel.toml", config).file("deep/.gitignore", "ignored\n");
    let world = world.envs(modal.variables());
    world.accel(["run", "it", "--on", "modal"]).run().code(0);
    world.accel(["prune"]).run().code(0);
    modal.forget_calls();
    let Some(mut gate) = Gate::close(&world) else { return skipped() };
    let running = world.accel(["run", "it"]).spawn();
    gate.wait_for_a_walk();
    modal.wait_until(|| modal.alive().len() == 1);
    gate.open();
    running.finish().code(0).stdout("here\n");
    assert!(modal.alive().is_empty(), "{:?}", modal.alive());
}

#[test]
fn a_job_that_stays_here_leaves_what_another_of_its_kind_waits_for() {
    let modal = FakeModal::serve();
    let config = "version = 1\n[project]\nname = 'demo'\n[budget]\nprewarm_per_day = '$1'\n\
                  [jobs.near]\nwarm = true\nrun = 'echo near ${MODAL_SANDBOX_ID:-here}'\n\
                  route = [{ when = { sync_bytes = '<1GB' }, to = 'local' }, { to = 'modal' }]\n\
                  [jobs.far]\nwarm = true\nrun = 'echo far ${MODAL_SANDBOX_ID:-here}'\n\
                  route = [{ when = { sync_bytes = '<1GB' }, to = 'modal' }, { to = 'local' }]\n";
    let world = World::new().file("accel.toml", config).file("deep/.gitignore", "ignored\n");
    let world = world.envs(modal.variables());
    for job in ["near", "far"] {
        world.accel(["run", job, "--on", "modal"]).run().code(0);
    }
    world.accel(["prune"]).run().code(0);
    modal.forget_calls();
    let Some(mut gate) = Gate::close(&world) else { return skipped() };
    let running = world.accel(["run", "near", "far"]).spawn();
    gate.wait_for_a_walk();
    wait_for_creation(&modal);
    gate.open();
    running.finish().code(0).stdout_has("near here").stdout_lacks("far here");
    assert_eq!((created(&modal), modal.alive().len()), (1, 1));
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty());
}
