//! `accel watch` with jobs in several places: races, one here and one on Modal, terminals there, moves that cannot be
//! made, money that is used up. Whatever becomes of a run, the loop goes on.

use crate::fake_modal::FakeModal;
use crate::terminal::Terminal;
use crate::world::{Running, Signal, World};

const WAITS: &str = "q quit";
/// Ends every run of a loop without a terminal.
const WAITING: &str = "waiting for changes";
/// Says what it saw, and where.
const LOOK: &str = "run = 'echo \"saw-$(cat data) in ${MODAL_SANDBOX_ID:-here}.\"'\n";

fn world(modal: &FakeModal, jobs: &str) -> World {
    let config = format!("version = 1\n[project]\nname = 'demo'\n{jobs}");
    let world = World::new().file("accel.toml", config).file("data", "1\n").envs(modal.variables());
    // That of all commands of this world, those on the terminal too.
    let state = world.root().join("state");
    world.env("XDG_STATE_HOME", state)
}

fn ends(mut running: Running) -> crate::world::Finished {
    running.signal(Signal::TERM);
    let finished = running.finish();
    finished.code(143);
    finished
}

fn leave_nothing(modal: &FakeModal, world: &World) {
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty(), "{:?}", modal.alive());
}

#[test]
fn every_save_begins_a_race_anew_and_the_loser_leaves_nothing() {
    let modal = FakeModal::serve();
    let world = world(&modal, &format!("[jobs.it]\n{LOOK}pure = true\nroute = 'race'\n"));
    let mut running = world.accel(["watch", "it"]).spawn();
    for number in 1..5 {
        if number > 1 {
            world.write("data", format!("{number}\n"));
        }
        running.wait_for_stdout(&format!("saw-{number} in")).wait_for_stderr_times(WAITING, number);
    }
    // Each race has one result; a race that a save interrupts has none.
    let finished = ends(running);
    assert_eq!(finished.stdout_text().matches("saw-").count(), 4, "{}", finished.stdout_text());
    finished.stderr_has(" won");
    assert_eq!(std::fs::read_dir(world.cache().join("copies")).map_or(0, Iterator::count), 0);
    leave_nothing(&modal, &world);
}

#[test]
fn a_race_is_moved_to_one_place_by_a_key() {
    let modal = FakeModal::serve();
    let world = world(&modal, &format!("[jobs.it]\n{LOOK}pure = true\nroute = 'race'\n"));
    let mut terminal = Terminal::start_in(world, &["accel", "watch", "it"]);
    let won = terminal.shown_before(" won");
    terminal.shows(WAITS);
    let here = ("the next runs stay on this machine", "saw-1 in here.");
    let there = ("the next runs go to Modal", "saw-1 in sb-");
    // Away from the winner, which on a busy machine is either.
    let moves = if won.ends_with("modal") { [here, there] } else { [there, here] };
    for (said, saw) in moves {
        terminal.types("m").shows(said).shows(saw).shows(WAITS);
    }
    terminal.types("q").ends_with(0);
    leave_nothing(&modal, &terminal.world);
}

#[test]
fn jobs_in_both_places_run_side_by_side_and_only_those_that_a_save_concerns() {
    let modal = FakeModal::serve();
    let jobs = format!(
        "[jobs.near]\n{LOOK}inputs = ['data']\n[jobs.far]\n{LOOK}route = 'modal'\ninputs = ['data', 'other']\n"
    );
    let world = world(&modal, &jobs).file("other", "");
    let mut terminal = Terminal::start_in(world, &["accel", "watch", "near", "far"]);
    terminal.shows("2 passed in").shows("local and modal · start").shows(WAITS);
    let kept: Vec<_> = modal.alive().into_iter().map(|sandbox| sandbox.id).collect();
    terminal.world.write("other", "x");
    let shown = terminal.shown_before("passed in");
    assert!(shown.contains("saw-1 in sb-") && !shown.contains("here."), "{shown:?}");
    terminal.shows("modal · other changed").shows(WAITS);
    terminal.world.write("data", "2\n");
    terminal.shows("2 passed in").shows("local and modal · data changed").shows(WAITS);
    // Those that are there already stay.
    terminal.types("m").shows("the next runs go to Modal; nothing changes for far").shows("2 passed in");
    terminal.shows("modal · key").shows(WAITS);
    terminal.types("m").shows("the next runs stay on this machine\r\n").shows("2 passed in");
    terminal.shows("local · key").shows(WAITS).types("q").ends_with(0);
    let now: Vec<_> = modal.alive().into_iter().map(|sandbox| sandbox.id).collect();
    assert!(now.starts_with(&kept) || now.ends_with(&kept), "{kept:?} {now:?}");
    leave_nothing(&modal, &terminal.world);
}

#[test]
fn a_terminal_on_modal_has_the_keys_while_its_job_runs() {
    let modal = FakeModal::serve();
    let ask = "[jobs.it]\ntty = true\nroute = 'modal'\nrun = 'echo asks; read -r line; echo \"got-$line-$(cat data)\"'\n";
    let mut terminal = Terminal::start_in(world(&modal, ask), &["accel", "watch", "it"]);
    terminal.shows("asks").types("qam\n").shows("got-qam-1").shows(WAITS);
    terminal.types("r").shows("key → it").shows("asks").types("q\n").shows("got-q-1").shows(WAITS);
    terminal.types("q").ends_with(0);
    assert!(modal.alive().is_empty());
}

#[test]
fn a_move_during_the_first_run_leads_away_from_where_that_is() {
    let modal = FakeModal::serve();
    let held = "[jobs.it]\nrun = '''echo \"begins in ${MODAL_SANDBOX_ID:-here}.\"\n\
                while [ ! -e \"$LET\" ]; do sleep 0.01; done'''\nroute = 'modal'\n";
    let world = world(&modal, held);
    let toml = world.read("accel.toml");
    // No path of the sandbox.
    let meeting = tempfile::Builder::new().prefix("meeting-").tempdir().unwrap();
    let gate = meeting.path().canonicalize().unwrap().join("let");
    world.write("accel.toml", format!("{toml}env = {{ LET = '{}' }}\n", gate.display()));
    let mut terminal = Terminal::start_in(world, &["accel", "watch", "it"]);
    terminal.shows("begins in sb-").types("m").shows("the next runs stay on this machine");
    std::fs::write(gate, "").unwrap();
    terminal.shows("it → local: key m").shows("begins in here.").shows(WAITS).types("q").ends_with(0);
    leave_nothing(&modal, &terminal.world);
}

#[test]
fn a_move_that_leads_nowhere_is_told_and_the_loop_goes_on() {
    let modal = FakeModal::serve();
    for extra in ["", "strict = true\n"] {
        let world = world(&modal, &format!("[jobs.it]\n{LOOK}{extra}"));
        let world = world.env("MODAL_TOKEN_ID", "").env("MODAL_TOKEN_SECRET", "");
        let mut terminal = Terminal::start_in(world, &["accel", "watch", "it"]);
        terminal.shows("saw-1 in here.").shows(WAITS);
        terminal.types("m").shows("the next runs go to Modal").shows("it could not be run: no Modal token");
        terminal.shows("✗ failed: exit code 125").shows(WAITS);
        terminal.world.write("data", "2\n");
        terminal.shows("data changed → it").shows("no Modal token").shows(WAITS);
        terminal.types("m").shows("the next runs stay on this machine").shows("saw-2 in here.").shows(WAITS);
        terminal.types("q").ends_with(0);
    }
    assert!(modal.calls().is_empty());
}

#[test]
fn a_budget_that_is_used_up_stops_runs_on_modal_and_not_the_loop() {
    for (on_exceed, then) in [("stop", "is used up"), ("local", "saw-last in here.")] {
        let modal = FakeModal::serve();
        let jobs = format!(
            "[budget]\nper_day = '$1'\non_exceed = '{on_exceed}'\n[defaults]\ncpu = 1\n\
             [jobs.it]\nroute = 'modal'\nrun = '''if [ $(cat data) = sleep ]; then\n\
             echo \"sleeps in ${{MODAL_SANDBOX_ID:-here}}.\"; exec sleep 60; fi\n\
             echo \"saw-$(cat data) in ${{MODAL_SANDBOX_ID:-here}}.\"'''\n"
        );
        let world = world(&modal, &jobs).file("data", "sleep\n");
        crate::budget::make_dear(&world, &modal);
        let mut terminal = Terminal::start_in(world, &["accel", "watch", "it"]);
        // A core costs a dollar a second, so the dollar of the day is soon gone.
        terminal.shows("sleeps in sb-").shows("budget.per_day of $1.00 is used up").shows("stopped after");
        terminal.shows("✗ failed: exit code 125").shows(WAITS);
        terminal.world.write("data", "last\n");
        terminal.shows("data changed → it").shows(then).shows(WAITS);
        if on_exceed == "stop" {
            terminal
                .types("m")
                .shows("the next runs stay on this machine")
                .shows("saw-last in here.")
                .shows(WAITS);
        }
        terminal.types("q").ends_with(0);
        leave_nothing(&modal, &terminal.world);
    }
}
