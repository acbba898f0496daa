//! What `[budget]` allows, through the real binary: refusals before any call, stops in the middle, and the ledger.
//!
//! `ACCEL_KILLS` sets how often the last test kills accel.

use std::path::Path;
use std::time::Duration;

use accel::base::money::Dollars;
use accel::store::ledger::Account;
use accel::store::{Database, Directories, Ledger};

use crate::fake_modal::{FakeModal, Fate};
use crate::modal_project::Random;
use crate::world::{Finished, Signal, World};

fn world(modal: &FakeModal, budget: &str, jobs: &str) -> World {
    let text =
        format!("version = 1\n[project]\nname = 'demo'\n[defaults]\ncpu = 1\n[budget]\n{budget}\n{jobs}");
    World::new().file("accel.toml", text).envs(modal.variables())
}

/// accel is told that a core costs a dollar a second.
pub fn make_dear(world: &World, modal: &FakeModal) {
    modal.state().rates = [("cpu_core_hour", "3600"), ("memory_gib_hour", "0")]
        .map(|(name, price)| (name.to_owned(), price.to_owned()))
        .into();
    let toml = world.read("accel.toml");
    world.write("accel.toml", "version = 1\n[project]\nname = 'other'\n[jobs.ask]\nrun = 'true'\n");
    world.accel(["run", "ask", "--on", "modal"]).run().code(0);
    world.write("accel.toml", toml);
    modal.forget_calls();
}

fn database(world: &World) -> Database {
    let state = world.state().join("accel").into_os_string();
    let variable = |name: &str| (name == "ACCEL_STATE_DIR").then(|| state.clone());
    Database::new(Directories::resolve(variable, Path::new("/"), Path::new("/nowhere"), 0))
}

fn today(world: &World, project: &str) -> Account {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Ledger::new(database(world)).today(Some(project))).unwrap()
}

/// What a query counts.
fn count(world: &World, query: &str) -> i64 {
    database(world).read_now(|connection| connection.query_row(query, [], |row| row.get(0))).unwrap()
}

const JOBS: &str = "[jobs.sleep]\nrun = 'sleep 60'\nroute = 'modal'\n\
                    [jobs.quick]\nrun = 'true'\nroute = 'modal'\n\
                    [jobs.strict]\nrun = 'true'\nroute = 'modal'\nstrict = true\n\
                    [jobs.racer]\nrun = 'true'\nroute = 'race'\npure = true\n";

/// Uses up what a day has, by a job of a dollar a second.
fn spend_the_day(world: &World) -> Finished {
    world.accel(["run", "sleep"]).run()
}

#[test]
fn a_run_that_has_spent_all_is_stopped_and_its_sandbox_ended() {
    let modal = FakeModal::serve();
    let world = world(&modal, "per_run = '$1'\non_exceed = 'local'", JOBS);
    make_dear(&world, &modal);
    let events = world.accel(["run", "sleep", "--json"]).run().code(125).json_lines();
    let finished = events.iter().find(|event| event["event"] == "job_finished").unwrap();
    assert_eq!((finished["verdict"].as_str(), finished["cause"].as_str()), (Some("errored"), Some("budget")));
    let message = finished["message"].as_str().unwrap();
    assert!(
        message.starts_with("budget.per_run of $1.00 is used up: $1.")
            && message.contains(" spent by this run; stopped after 1.")
            && message.ends_with("s at ≥ $3600.00/h"),
        "{message}"
    );
    assert!(finished["help"].as_str().unwrap().starts_with("raise `per_run` of [budget]"), "{finished}");
    assert!(!events.iter().any(|event| event["event"] == "fallback"), "half of its work is done there");
    assert!(modal.alive().is_empty());
    // Should accel be gone, the server ends it: after the second, the job's grace and a minute.
    let created = modal.sandboxes().pop().unwrap();
    assert_eq!(created.definition.timeout_secs, 1 + 10 + 60);
    let account = today(&world, "demo");
    assert_eq!(account.held, Dollars(0));
    assert!(account.spent >= Dollars(1_000_000), "{account:?}");
    let cost = events.iter().find(|event| event["event"] == "job_cost").unwrap()["at_least_usd"].as_f64();
    assert_eq!((cost.unwrap() * 1e6).round() as u64, account.spent.0, "the ledger says what was told");
    let history = world.accel(["history", "sleep", "--json"]).run().code(0).json();
    assert_eq!(history["runs"][0]["cause"], "budget");
}

#[test]
fn a_day_that_is_used_up_stops_jobs_before_any_call() {
    let modal = FakeModal::serve();
    let world = world(&modal, "per_day = '$1'", JOBS);
    make_dear(&world, &modal);
    spend_the_day(&world).code(125).stderr_has("budget.per_day of $1.00 is used up: $1.");
    modal.forget_calls();
    let refused = world.accel(["run", "quick"]).run();
    refused
        .code(2)
        .stdout("")
        .stderr_has("error: `quick` is not run on Modal: budget.per_day of $1.00 is used up: $1.")
        .stderr_has("help: raise `per_day` of [budget], or run here: --on local");
    assert!(modal.calls().is_empty(), "{:?}", modal.calls());
    world.accel(["explain", "quick"]).run().code(0).stdout_has("  budget.per_day of $1.00 is used up: $1.");
    world.accel(["explain", "quick"]).run().code(0).stdout_has(" spent today: it is not run\n");
    let history = world.accel(["history"]).run();
    history
        .code(0)
        .stdout_has("\ntoday on Modal: ≥ $1.")
        .stdout_has(" spent, of $1.00 a day (budget.per_day)\n");
    world.accel(["run", "quick", "--on", "local"]).run().code(0);
    // A profile may allow more.
    world.write("accel.toml", world.read("accel.toml") + "[profile.rich]\nbudget = { per_day = '$1000' }\n");
    world.accel(["run", "quick", "--profile", "rich"]).run().code(0).stderr_has("quick → modal");
}

#[test]
fn a_day_that_is_used_up_keeps_jobs_here_unless_they_are_strict() {
    let modal = FakeModal::serve();
    let world = world(&modal, "per_day = '$1'\non_exceed = 'local'", JOBS);
    make_dear(&world, &modal);
    spend_the_day(&world).code(125);
    modal.forget_calls();
    world.accel(["explain", "quick"]).run().code(0).stdout_has(" spent today: it runs here\n");
    world.accel(["explain", "strict"]).run().code(0).stdout_has(" spent today: it is not run\n");
    let here = world.accel(["run", "quick"]).run();
    here.code(0)
        .stderr_has("quick → local: budget.per_day of $1.00 is used up: $1.")
        .stderr_has("; else on modal: the job's route, accel.toml:");
    for arguments in [&["run", "strict"][..], &["run", "quick", "--strict"]] {
        let refused = world.accel(arguments).run();
        refused.code(2).stderr_has("is not run on Modal: budget.per_day").stderr_has("is strict, so");
    }
    assert!(modal.calls().is_empty(), "{:?}", modal.calls());
    // A race has a side that costs nothing.
    world
        .accel(["run", "racer"])
        .run()
        .code(0)
        .stderr_has("racer → local: budget.per_day of $1.00 is used up: $1.")
        .stderr_has("; else on modal: race: this machine starts 5.0s later");
}

/// What a job took before says what it is going to cost.
#[test]
fn a_job_that_is_expected_to_cost_too_much_is_not_begun() {
    let modal = FakeModal::serve();
    let world = world(&modal, "", "[jobs.nap]\nrun = 'sleep 0.5'\nroute = 'modal'\n");
    make_dear(&world, &modal);
    world.accel(["run", "nap"]).run().code(0);
    world.accel(["run", "nap"]).run().code(0).stderr_has("≥ $3600.00/h, ≥ $0.").stderr_has(" expected");
    world.write("accel.toml", world.read("accel.toml").replace("[budget]", "[budget]\nper_run = '$0.40'"));
    modal.forget_calls();
    world
        .accel(["run", "nap"])
        .run()
        .code(2)
        .stderr_has("budget.per_run of $0.40 would be exceeded: $0.00 spent by this run, ≥ $0.")
        .stderr_has(" expected for this one");
    assert!(modal.calls().is_empty());
}

#[test]
fn the_jobs_of_a_run_share_what_it_may_cost() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.a]\nrun = 'sleep 60'\nroute = 'modal'\n[jobs.b]\nextends = 'a'\n\
                [jobs.c]\nrun = 'true'\nroute = 'modal'\n[jobs.all]\nneeds = ['a', 'b']\n";
    let world = world(&modal, "per_run = '$1'\non_exceed = 'local'", jobs);
    make_dear(&world, &modal);
    // The first may cost all that there is, so for the second there is nothing left.
    let done = world.accel(["run", "a", "c", "--keep-going"]).run();
    done.code(1)
        .stderr_has("c → local: budget.per_run of $1.00 is used up: $0.00 spent by this run, $1.00 held");
    assert_eq!(modal.sandboxes().len(), 2, "one of the run, one that asked for the rates");
}

/// Each run that uses it has its own cap, and what it costs in between is the day's.
#[test]
fn a_kept_sandbox_is_paid_for_by_the_run_that_uses_it() {
    let modal = FakeModal::serve();
    modal.allow_survivors();
    let world = world(&modal, "per_run = '$3'\nper_day = '$1000'", JOBS);
    make_dear(&world, &modal);
    world.accel(["run", "quick", "--warm"]).run().code(0);
    let after_first = today(&world, "demo");
    assert_eq!((modal.alive().len(), after_first.held), (1, Dollars(0)), "{after_first:?}");
    world
        .accel(["run", "sleep", "--warm"])
        .run()
        .code(125)
        .stderr_has("budget.per_run of $3.00 is used up: $3.");
    assert!(modal.calls_of("SandboxCreateV2").len() == 1, "the second run used what the first one kept");
    assert_eq!(count(&world, "SELECT count(*) FROM spend WHERE project = 'demo'"), 2);
    world.accel(["prune"]).run().code(0);
    assert!(modal.alive().is_empty());
    assert_eq!(count(&world, "SELECT count(*) FROM spend WHERE ended_at IS NULL"), 0);
    assert!(today(&world, "demo").spent > after_first.spent.plus(Dollars(3_000_000)));
}

/// The time in a queue costs nothing.
#[test]
fn waiting_for_a_machine_is_not_paid_for() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.far]\nrun = 'true'\nroute = 'modal'\ngpu = { type = 'L4', wait = '2s' }\n";
    let world = world(&modal, "per_run = '$100'", jobs);
    modal.gpu("L4", Fate::QueuedForever);
    make_dear(&world, &modal);
    world.accel(["run", "far"]).run().code(125);
    assert!(modal.alive().is_empty());
    assert_eq!(today(&world, "demo").held, Dollars(0));
}

#[test]
fn a_gpu_without_a_price_is_not_used_under_a_budget() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.far]\nrun = 'true'\nroute = 'modal'\ngpu = 'B300'\n";
    let world = world(&modal, "per_day = '$100'", jobs);
    let refused = world.accel(["run", "far"]).run();
    refused.code(2).stderr_has("the price of B300 is not known, so [budget] cannot be kept");
    assert!(modal.calls().is_empty());
}

/// A fallback to Modal is subject to the budget like everything else.
#[test]
fn what_moves_to_modal_in_the_middle_of_a_run_needs_money_too() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.sleep]\nrun = 'sleep 60'\nroute = 'modal'\n\
                [jobs.big]\nrun = 'true'\nroute = 'local'\nmemory = '900TiB'\n\
                fallback = { to = 'modal', on = ['capacity'] }\n";
    let world = world(&modal, "per_day = '$1'", jobs);
    make_dear(&world, &modal);
    spend_the_day(&world).code(125);
    let before = modal.sandboxes().len();
    world.accel(["run", "big"]).run().code(2).stderr_has("budget.per_day of $1.00 is used up");
    assert_eq!(modal.sandboxes().len(), before);
}

#[test]
fn killed_at_any_moment_the_ledger_is_balanced_and_the_history_readable() {
    let kills = std::env::var("ACCEL_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(40);
    let modal = FakeModal::serve();
    modal.allow_survivors();
    let jobs = "[jobs.far]\nrun = 'sleep 0.05'\nroute = 'modal'\n";
    let world = world(&modal, "per_run = '$5'\nper_day = '$1000'", jobs);
    world.accel(["run", "far"]).run().code(0);
    let mut random = Random::new(11);
    for _ in 0..kills {
        let mut running = world.accel(["run", "far"]).spawn();
        std::thread::sleep(Duration::from_micros(random.below(250_000) as u64));
        running.signal(Signal::KILL);
        running.finish();
        // Whatever the moment: a lease and its line are there together, and end together.
        let unlike = "SELECT count(*) FROM lease FULL JOIN spend ON spend.lease = lease.id
                      WHERE lease.id IS NULL OR spend.id IS NULL
                         OR (lease.state = 'settled') <> (spend.ended_at IS NOT NULL)";
        assert_eq!(count(&world, unlike), 0);
    }
    world.accel(["prune"]).run().code(0);
    world.accel(["run", "far"]).run().code(0);
    assert!(modal.alive().is_empty(), "{:?}", modal.alive());
    assert_eq!(count(&world, "SELECT count(*) FROM spend WHERE ended_at IS NULL"), 0);
    let dearer = "SELECT count(*) FROM spend WHERE spent > per_hour * (expires_at - began_at) / 3600000 + 1";
    assert_eq!(count(&world, dearer), 0, "no line costs more than its sandbox can have cost");
    let sums: i64 = count(&world, "SELECT sum(spent) FROM spend");
    let account = today(&world, "demo");
    assert_eq!(account.held, Dollars(0));
    assert!(account.spent.0.abs_diff(sums.unsigned_abs()) <= kills as u64, "{account:?} {sums}");
    let history = world.accel(["history", "--json", "-n", "10000"]).run();
    history.code(0).stderr("");
    assert!(history.json()["runs"].as_array().unwrap().len() >= 2);
}
