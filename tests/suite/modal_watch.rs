//! `accel watch` on Modal: one sandbox for the loop, what a rerun asks of the server, and what becomes of the sandbox.

use std::collections::BTreeSet;
use std::time::Duration;

use tonic::Code;

use crate::fake_modal::{Death, FakeModal, Fault};
use crate::terminal::Terminal;
use crate::until::wait_until;
use crate::world::{Running, Signal, World};

/// Says what it saw, and where; with `wait` it does not end.
const LOOK: &str = "
if [ \"$(cat data)\" = wait ]; then echo waits; exec sleep 1000; fi
echo \"saw-$(cat data) in ${MODAL_SANDBOX_ID:-here}.\"";
/// Ends every run of a loop without a terminal.
const WAITS: &str = "waiting for changes";

fn world(modal: &FakeModal, job: &str) -> World {
    let config = format!("version = 1\n[project]\nname = 'demo'\n[jobs.it]\nrun = '''{LOOK}'''\n{job}");
    World::new().file("accel.toml", config).file("data", "1\n").envs(modal.variables())
}

struct Loop {
    world: World,
    running: Running,
    runs: usize,
}

impl Loop {
    /// Waits for the end of the first run.
    fn start(world: World, arguments: &[&str]) -> Self {
        let running = world.accel(["watch", "it", "--on", "modal"]).args(arguments).spawn();
        let mut watch = Self { world, running, runs: 0 };
        watch.saw("1");
        watch
    }

    /// Waits for the end of a run.
    fn saw(&mut self, text: &str) {
        self.runs += 1;
        let saw = format!("saw-{text} in");
        self.running.wait_for_stdout(&saw).wait_for_stderr_times(WAITS, self.runs);
    }

    /// A save, and the end of the run that follows.
    fn save(&mut self, text: &str) {
        self.world.write("data", format!("{text}\n"));
        self.saw(text);
    }

    fn ends(mut self) -> (World, crate::world::Finished) {
        self.running.signal(Signal::INT);
        let finished = self.running.finish();
        finished.code(130);
        (self.world, finished)
    }
}

fn ids(modal: &FakeModal) -> Vec<String> {
    modal.alive().into_iter().map(|sandbox| sandbox.id).collect()
}

/// What stays is within its lease; whoever prunes ends it.
fn leave_nothing(modal: &FakeModal, world: &World) {
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty(), "{:?}", modal.alive());
}

#[test]
fn a_loop_has_one_sandbox_and_leaves_it_within_its_lease() {
    let modal = FakeModal::serve();
    let mut watch = Loop::start(world(&modal, ""), &[]);
    for number in 2..6 {
        watch.save(&number.to_string());
    }
    assert_eq!(modal.calls_of("SandboxCreateV2").len(), 1);
    let kept = ids(&modal);
    // In the middle of the loop it is nobody else's to end.
    watch.world.accel(["prune"]).run().code(0).stdout_has("nothing to prune");
    let listed = || watch.world.accel(["ps"]).run().code(0).stdout_text();
    wait_until(|| listed().contains("kept warm"), listed);
    watch.save("7");
    assert_eq!(ids(&modal), kept);
    let (world, finished) = watch.ends();
    finished.stderr_has("the sandbox stays warm for 10m").stderr_lacks("takes its place");
    assert_eq!(ids(&modal), kept, "it waits for the next loop until it was idle for too long");
    world.write("data", "1\n");
    let again = Loop::start(world, &[]);
    assert_eq!(ids(&modal), kept);
    leave_nothing(&modal, &again.ends().0);
}

/// Calls made at once look like a chain unless each takes longer than the client between them.
const LATENCY: Duration = Duration::from_millis(150);

#[test]
fn a_rerun_after_a_save_is_a_call_or_two_over_connections_that_stand() {
    let modal = FakeModal::serve();
    let mut watch = Loop::start(world(&modal, ""), &[]);
    modal.delay(LATENCY);
    let mut trips = Vec::new();
    for number in 2..5 {
        modal.forget_calls();
        watch.save(&number.to_string());
        // The job's, and that of putting the sandbox in order, which goes on after the verdict.
        modal.wait_until(|| modal.answered("TaskExecWait") == 2);
        trips.push(modal.sequential_round_trips());
        let asked: Vec<_> = modal.calls().into_iter().map(|call| call.method).collect();
        // A run that takes longer than a second asks whether its sandbox lives.
        let others: Vec<_> =
            asked.iter().filter(|it| !it.starts_with("TaskExec") && *it != "SandboxWaitV2").collect();
        assert!(others.is_empty(), "{others:?}");
    }
    println!("sequential calls of reruns in a loop: {trips:?}");
    assert!(trips.iter().all(|trips| *trips <= 2), "{trips:?}");
    modal.delay(Duration::ZERO);
    leave_nothing(&modal, &watch.ends().0);
}

#[test]
fn the_verdict_is_told_before_the_sandbox_is_in_order_and_who_leaves_need_not_wait_for_that() {
    let modal = FakeModal::serve();
    let mut watch = Loop::start(world(&modal, ""), &[]);
    // The job's own is the first; those that follow would put the sandbox in order.
    (2..50).for_each(|number| modal.fail_nth("TaskExecStart", number, Fault::Silence));
    watch.save("2");
    assert_eq!(modal.alive().len(), 1);
    watch.running.signal(Signal::INT).wait_for_stderr("once more to end it instead").signal(Signal::INT);
    watch.running.finish().code(130).stderr_lacks("may still run").stderr_lacks("leaving at once");
    assert!(modal.alive().is_empty(), "{:?}", modal.alive());
}

#[test]
fn q_and_q_again_leave_while_the_sandbox_is_not_in_order() {
    let modal = FakeModal::serve();
    let mut terminal = Terminal::start_in(world(&modal, ""), &["accel", "watch", "it", "--on", "modal"]);
    terminal.shows("saw-1 in sb-").shows("m move");
    (2..50).for_each(|number| modal.fail_nth("TaskExecStart", number, Fault::Silence));
    terminal.world.write("data", "2\n");
    terminal.shows("saw-2 in sb-").shows("m move");
    terminal.types("q").shows("once more to end it instead").types("q").ends_with(0);
    assert!(modal.alive().is_empty(), "{:?}", modal.alive());
}

#[test]
fn what_is_saved_while_the_sandbox_is_put_in_order_is_run_in_it() {
    for busy in ["queue", "restart", "ignore"] {
        let modal = FakeModal::serve();
        let world = world(&modal, &format!("watch.on_busy = '{busy}'\n"));
        let mut watch = Loop::start(world, &[]);
        let kept = ids(&modal);
        modal.fail_nth("TaskExecStart", 2, Fault::Slow(Duration::from_millis(500)));
        watch.save("2");
        watch.save("3");
        assert_eq!(ids(&modal), kept);
        let (world, finished) = watch.ends();
        finished.stderr_lacks("takes its place").stderr_lacks("once more after this run");
        leave_nothing(&modal, &world);
    }
}

#[test]
fn a_job_waits_for_the_sandbox_of_the_job_that_it_needs() {
    let modal = FakeModal::serve();
    let needs = "needs = ['first']\n[jobs.first]\nrun = 'echo \"first-$(cat data) in $MODAL_SANDBOX_ID\"'\n";
    let mut watch = Loop::start(world(&modal, needs), &[]);
    modal.fail_nth("TaskExecStart", 2, Fault::Slow(Duration::from_millis(500)));
    watch.save("2");
    let (world, finished) = watch.ends();
    let sandboxes: BTreeSet<_> = finished
        .stdout_text()
        .lines()
        .filter_map(|line| line.split_once(" in "))
        .map(|(_, id)| id.trim_end_matches('.').to_owned())
        .collect();
    assert_eq!((sandboxes.len(), modal.sandboxes().len()), (1, 1), "{sandboxes:?}");
    leave_nothing(&modal, &world);
}

#[test]
fn a_sandbox_that_could_not_be_put_in_order_is_named_before_the_next_run() {
    let modal = FakeModal::serve();
    let mut watch = Loop::start(world(&modal, ""), &[]);
    modal.fail_nth("TaskExecStart", 2, Fault::code(Code::InvalidArgument));
    watch.save("2");
    watch.save("3");
    assert_eq!((modal.sandboxes().len(), modal.alive().len()), (2, 1));
    let (world, finished) = watch.ends();
    let told = finished.stderr_text();
    let (_, later) = told.split_once("it: the sandbox is not kept: ").expect("it is told");
    assert_eq!(later.matches(WAITS).count(), 1, "{told}");
    leave_nothing(&modal, &world);
}

#[test]
fn a_loop_goes_on_in_a_fresh_sandbox_when_its_own_has_ended_or_is_too_old() {
    let modal = FakeModal::serve();
    let mut watch = Loop::start(world(&modal, ""), &[]);
    let first = ids(&modal);
    modal.kill(&first[0], Death::Idle);
    watch.save("2");
    watch.save("3");
    let second = ids(&modal);
    assert!(second.len() == 1 && second != first, "{first:?} {second:?}");
    let (world, finished) = watch.ends();
    finished.stderr_has("the warm sandbox has ended: a fresh one takes its place");
    leave_nothing(&modal, &world);

    let mut watch = Loop::start(self::world(&modal, "warm = { idle = '1s', max = '1s' }"), &[]);
    let old = ids(&modal);
    // Saved again until the second has passed.
    let mut number = 2;
    while ids(&modal) == old {
        watch.save(&number.to_string());
        number += 1;
        assert!(number < 10_000);
    }
    watch.save("last");
    let (world, finished) = watch.ends();
    finished.stderr_has("too old for another run: a fresh one takes its place");
    assert!(!ids(&modal).contains(&old[0]));
    leave_nothing(&modal, &world);
}

#[test]
fn a_run_that_a_save_makes_outdated_leaves_the_loop_its_sandbox() {
    let modal = FakeModal::serve();
    let mut watch = Loop::start(world(&modal, ""), &[]);
    let kept = ids(&modal);
    watch.world.write("data", "wait\n");
    watch.running.wait_for_stdout("waits\n");
    watch.save("2");
    // Saved while the run before may still be putting its sandbox in order.
    for number in 3..9 {
        watch.world.write("data", format!("{number}\n"));
        watch.running.wait_for_stdout(&format!("saw-{number} in"));
    }
    assert_eq!(ids(&modal), kept);
    leave_nothing(&modal, &watch.ends().0);
}

#[test]
fn a_loop_keeps_no_sandbox_where_that_is_refused_and_in_ci() {
    let modal = FakeModal::serve();
    for (job, ci) in [("warm = false", ""), ("", "true")] {
        let mut watch = Loop::start(world(&modal, job).env("CI", ci), &[]);
        assert!(modal.alive().is_empty());
        watch.save("2");
        watch.ends();
        assert!(modal.alive().is_empty());
    }
    assert_eq!(modal.sandboxes().len(), 4);
}

#[test]
fn clean_starts_over_once_and_not_with_every_run() {
    let modal = FakeModal::serve();
    let watch = Loop::start(world(&modal, ""), &[]);
    let first = ids(&modal);
    let (world, _) = watch.ends();
    let mut watch = Loop::start(world, &["--clean"]);
    let second = ids(&modal);
    assert!(second.len() == 1 && second != first, "{first:?} {second:?}");
    watch.save("2");
    watch.save("3");
    assert_eq!(ids(&modal), second);
    leave_nothing(&modal, &watch.ends().0);
}

#[test]
fn a_key_moves_the_loop_between_modal_and_this_machine() {
    let modal = FakeModal::serve();
    let folder = world(&modal, "");
    // That of all commands of this world.
    let state = folder.root().join("state");
    let folder = folder.env("XDG_STATE_HOME", state);
    let mut terminal = Terminal::start_in(folder, &["accel", "watch", "it"]);
    terminal.shows("saw-1 in here.").shows("m move");
    terminal
        .types("m")
        .shows("the next runs go to Modal")
        .shows("it → modal: key m")
        .shows("saw-1 in sb-")
        .shows("m move");
    let kept = ids(&modal);
    assert_eq!(kept.len(), 1);
    terminal.world.write("data", "2\n");
    terminal.shows("saw-2 in sb-").shows("m move");
    terminal
        .types("m")
        .shows("the next runs stay on this machine")
        .shows("it → local")
        .shows("saw-2 in here.")
        .shows("m move");
    terminal.world.write("data", "3\n");
    terminal.shows("saw-3 in here.").shows("m move");
    terminal.types("m").shows("it → modal").shows("saw-3 in sb-").shows("m move");
    assert_eq!(ids(&modal), kept, "it was kept meanwhile");
    terminal.types("q").ends_with(0);
    leave_nothing(&modal, &terminal.world);
}
