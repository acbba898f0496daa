//! What `accel plan` foretells: where jobs would run, why, and what that may cost, with nothing run and nobody asked.

use crate::fake_modal::FakeModal;
use crate::world::World;

const JOBS: &str = "version = 1
[project]
name = 'demo'
[jobs.here]
run = 'true'
[jobs.far]
run = 'true'
cpu = 1
timeout = '19m'
route = 'modal'
[jobs.gpu]
run = 'true'
gpu = 'L4'
[jobs.ready]
run = 'true'
route = [{ when = { modal_ready = true }, to = 'modal' }]
[jobs.changed]
run = 'true'
route = [{ when = { changed = 'src/**' }, to = 'modal' }]
[jobs.all]
needs = ['here', 'far']
";

fn world(modal: &FakeModal) -> World {
    World::new().file("accel.toml", JOBS).envs(modal.variables())
}

fn decisions(world: &World, jobs: &[&str]) -> serde_json::Value {
    world.accel(["plan", "--json"]).args(jobs).run().code(0).json()
}

#[test]
fn a_plan_says_where_jobs_would_run_and_asks_nobody() {
    let modal = FakeModal::serve();
    let world = world(&modal)
        .command("nvidia-smi", "#!/bin/sh\ntouch \"$HOME/was-run\"\n")
        .command("git", "#!/bin/sh\ntouch \"$HOME/was-run\"\n")
        .file(".git/HEAD", "ref: refs/heads/main\n");
    let plan = decisions(&world, &[]);
    let of = |job: &str| plan["decisions"][job].clone();
    assert_eq!(
        (of("here")["place"].clone(), of("here")["why"].clone()),
        ("local".into(), "no rule says otherwise".into())
    );
    assert_eq!(of("here").as_object().unwrap().len(), 2, "what runs here costs nothing");
    assert_eq!(of("far")["place"], "modal");
    assert!(of("far")["why"].as_str().unwrap().starts_with("the job's route, accel.toml:"));
    assert_eq!(
        of("gpu")["why"],
        "needs L4, and whether this machine has it is not known: nvidia-smi is not run for this"
    );
    assert_eq!(of("ready")["not_known"][0], "modal_ready: Modal is not asked for this");
    assert_eq!(of("changed")["not_known"][0], "changed: git is not run for this");
    assert_eq!(of("all"), serde_json::Value::Null, "a group runs nowhere");
    assert!(modal.calls().is_empty());
    assert!(!world.home().join("was-run").exists());
    // What was found out before is used, without asking again.
    world.accel(["explain", "ready"]).run().code(0);
    modal.forget_calls();
    assert_eq!(decisions(&world, &["ready"])["decisions"]["ready"]["place"], "modal");
    assert!(modal.calls().is_empty());
}

/// The job's own time, the start of the sandbox and the end of the job: half an hour and ten seconds.
#[test]
fn a_plan_says_what_modal_costs_at_most() {
    let modal = FakeModal::serve();
    let world = world(&modal);
    let published = decisions(&world, &["far"]);
    assert!(published["decisions"]["far"]["price"].as_str().unwrap().starts_with("≥ $0.1"), "{published}");
    modal.state().rates = [("cpu_core_hour", "3600"), ("memory_gib_hour", "0")]
        .map(|(name, price)| (name.to_owned(), price.to_owned()))
        .into();
    world.accel(["run", "far"]).run().code(0);
    // What the workspace pays is known now, and what a run takes.
    let plan = decisions(&world, &["far"]);
    let far = &plan["decisions"]["far"];
    assert_eq!((&far["price"], &far["at_most"]), (&"≥ $3600.00/h".into(), &"≥ $1810.00 for 30m10s".into()));
    assert!(far["expected"].as_str().unwrap().starts_with("≥ $"), "{far}");
    assert_eq!(plan["modal_at_most"], "≥ $1810.00, 1 job on Modal until the server ends them");
    world.accel(["explain", "far"]).run().code(0).stdout_has("a sandbox costs ≥ $3600.00/h by prices of 20");
    let text = world.accel(["plan", "far"]).run();
    text.code(0).stdout_has("[decisions.far]").stdout_has("at_most = \"≥ $1810.00 for 30m10s\"\n");
    // A cap for one run is one for the worst, too: the server ends the sandbox.
    world.write("accel.toml", format!("{JOBS}[budget]\nper_run = '$30'\n"));
    assert_eq!(decisions(&world, &["far"])["decisions"]["far"]["at_most"], "≥ $100.00 for 1m40s");
    world.write("accel.toml", format!("{JOBS}[budget]\nper_run = '$0.0001'\n"));
    let over = decisions(&world, &["far"])["decisions"]["far"]["over_budget"].clone();
    assert!(over.as_str().unwrap().starts_with("budget.per_run of $0.0001 would be exceeded"), "{over}");
    assert!(over.as_str().unwrap().ends_with("it is not run"), "{over}");
}
