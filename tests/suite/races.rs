//! Races through the real binary: real processes here, and on the tests' own Modal.
//!
//! What must hold: one place wins, its output and its outputs are the job's, and nothing of the other is left.

use std::path::PathBuf;

use serde_json::Value;

use crate::fake_modal::{Death, FakeModal, Fate, Moment};
use crate::terminal::Terminal;
use crate::world::{Finished, Signal, World};

const JOBS: &str = r#"version = 1
[project]
name = "racer"
[jobs.race]
run = "sh work.sh"
env = { MEET = "MEETING" }
outputs = ["out/**"]
pure = true
route = "race"
"#;

/// What each side writes before anything else, and tells the other.
const BOTH: &str =
    "mkdir -p out && echo $ACCEL_PLACE >out/who && echo x >out/only-$ACCEL_PLACE && echo in $ACCEL_PLACE
    echo $$ >$MEET/$ACCEL_PLACE
    meet() { until [ -s $MEET/$1 ]; do sleep 0.01; done; }
";

struct Race {
    modal: FakeModal,
    world: World,
    /// Where both sides leave word; no path of the sandbox.
    meeting: tempfile::TempDir,
}

impl Race {
    /// With what each place does once it has told that it is there.
    fn new(modal_does: &str, local_does: &str) -> Self {
        let modal = FakeModal::serve();
        let meeting = tempfile::Builder::new().prefix("meeting-").tempdir().unwrap();
        let path = meeting.path().canonicalize().unwrap();
        let world = World::new().file("accel.toml", JOBS.replace("MEETING", path.to_str().unwrap()));
        let world = modal.variables().into_iter().fold(world, |world, (name, value)| world.env(name, value));
        let race = Self { modal, world, meeting };
        race.work(modal_does, local_does);
        race
    }

    fn work(&self, modal: &str, local: &str) {
        let text = format!("{BOTH}\nif [ $ACCEL_PLACE = modal ]; then\n{modal}\nelse\n{local}\nfi\n");
        self.world.write("work.sh", text);
    }

    /// The same with a history by which both places start at once.
    fn at_once(modal_does: &str, local_does: &str) -> Self {
        let race = Self::new("sleep 0.3", "true");
        race.world.accel(["run", "race", "--on", "local"]).run().code(0);
        race.world.accel(["run", "race", "--on", "modal"]).run().code(0);
        for name in ["local", "modal"] {
            std::fs::remove_file(race.meeting.path().join(name)).unwrap();
        }
        std::fs::remove_dir_all(race.world.path("out")).unwrap();
        race.work(modal_does, local_does);
        race
    }

    fn run(&self) -> Finished {
        self.world.accel(["run", "race"]).run()
    }

    /// Every attempt of the newest run, in order: `modal lost`.
    fn ends(&self) -> Vec<String> {
        let runs = self.history();
        let newest = runs[0]["run"].clone();
        let text =
            |run: &Value| format!("{} {}", run["place"].as_str().unwrap(), run["ended"].as_str().unwrap());
        let mut ends: Vec<String> = runs.iter().filter(|run| run["run"] == newest).map(text).collect();
        ends.sort();
        ends
    }

    fn history(&self) -> Vec<Value> {
        let document = self.world.accel(["history", "--json"]).run().code(0).json();
        document["runs"].as_array().unwrap().clone()
    }

    fn copies(&self) -> PathBuf {
        self.world.cache().join("accel/copies")
    }

    /// Nothing is left of the race but the outputs of the place that won, if one did.
    fn left_only(&self, winner: Option<&str>) {
        assert!(self.modal.alive().is_empty(), "{:?}", self.modal.alive());
        let copies = std::fs::read_dir(self.copies()).map_or(0, Iterator::count);
        assert_eq!(copies, 0, "copies of the tree");
        if let Ok(pid) = std::fs::read_to_string(self.meeting.path().join("local")) {
            assert!(!PathBuf::from(format!("/proc/{}", pid.trim())).exists(), "the command here goes on");
        }
        match winner {
            Some(winner) => {
                assert_eq!(self.world.read("out/who"), format!("{winner}\n"));
                let other = if winner == "local" { "modal" } else { "local" };
                assert!(!self.world.exists(format!("out/only-{other}")), "outputs are mixed");
                assert!(self.world.exists(format!("out/only-{winner}")));
            }
            None => assert!(!self.world.exists("out")),
        }
    }
}

#[test]
fn modal_wins_and_the_command_here_is_stopped() {
    let race = Race::at_once("meet local", "sleep 600");
    let done = race.run();
    done.code(0).stdout("in modal\n").stderr_has("race → modal and local: race: both start at once; about ");
    done.stderr_has("race: race: modal won");
    race.left_only(Some("modal"));
    assert_eq!(race.ends(), ["local lost", "modal passed"]);
    let text = race.world.accel(["history"]).run().code(0).stdout_text();
    assert!(text.contains("lost the race"), "{text}");
}

#[test]
fn this_machine_wins_and_the_sandbox_is_terminated() {
    let race = Race::at_once("sleep 600", "meet modal; echo and more >&2");
    let done = race.run();
    done.code(0).stdout("in local\n").stderr_has("and more\n").stderr_has("local won");
    race.left_only(Some("local"));
    assert_eq!(race.ends(), ["local passed", "modal lost"]);
    let lost = race.history().into_iter().find(|run| run["ended"] == "lost").unwrap();
    assert!(lost["cost_microdollars"].is_u64(), "what the loser cost is kept: {lost}");
}

#[test]
fn a_failure_that_comes_first_ends_the_race() {
    let race = Race::at_once("sleep 600", "meet modal; exit 3");
    race.run().code(3).stdout("in local\n").stderr_has("failed: exit code 3");
    race.left_only(Some("local"));
    assert_eq!(race.ends(), ["local failed", "modal lost"]);
}

#[test]
fn a_fault_of_one_place_leaves_the_race_to_the_other() {
    let race = Race::new("sleep 600", "true");
    race.modal.next_sandbox(Fate::Dies(Moment::Exec, Death::InternalFailure));
    let done = race.run();
    done.code(0).stdout("in local\n").stderr_has("race: race: modal is out: infra: ");
    done.stderr_has("race: this machine starts 5.0s later; it is not known yet what both take");
    race.left_only(Some("local"));
    assert_eq!(race.ends(), ["local passed", "modal errored"]);

    // A machine that lacks what the job asks for is no rival.
    let race = Race::at_once("true", "true");
    race.work("until [ -e $MEET/out ]; do sleep 0.01; done", "true");
    let toml = race.world.read("accel.toml").replace("pure", "memory = '900TiB'\npure");
    race.world.write("accel.toml", toml);
    let mut running = race.world.accel(["run", "race"]).spawn();
    running.wait_for_stderr("race: race: local is out: capacity: asks for 900TiB");
    std::fs::write(race.meeting.path().join("out"), "").unwrap();
    running.finish().code(0).stdout("in modal\n");
    race.left_only(Some("modal"));
    assert_eq!(race.ends(), ["local errored", "modal passed"]);
}

#[test]
fn a_stopped_run_leaves_nothing_of_either_side() {
    let race = Race::at_once("sleep 600", "sleep 600");
    let mut running = race.world.accel(["run", "race", "--json"]).spawn();
    for side in ["modal", "local"] {
        running.wait_for_stdout(&format!("\"side\":\"{side}\",\"event\":\"job_started\""));
    }
    running.signal(Signal::INT);
    let done = running.finish();
    done.code(130);
    race.left_only(None);
    assert_eq!(race.ends(), ["local cancelled", "modal cancelled"]);
    let lines = done.json_lines();
    assert!(!lines.iter().any(|line| line["event"] == "output"), "no output counts");
}

#[test]
fn what_programs_see_of_a_race() {
    let race = Race::at_once("sleep 600", "meet modal");
    let done = race.world.accel(["run", "race", "--json"]).run();
    let lines = done.code(0).json_lines();
    let find = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let routed = find("job_routed")[0];
    assert_eq!(routed["rival"], serde_json::json!({ "place": "local", "after_ms": 0 }));
    let ends: Vec<String> = find("side_ended")
        .iter()
        .map(|end| format!("{} {} {}", end["side"], end["place"], end["end"]))
        .collect();
    assert!(ends.contains(&r#""local" "local" "won""#.to_owned()), "{ends:?}");
    assert!(ends.contains(&r#""modal" "modal" "lost""#.to_owned()), "{ends:?}");
    let finished = find("job_finished")[0];
    assert_eq!((&finished["place"], &finished["attempts"]), (&Value::from("local"), &Value::from(1)));
    let position = |event: &str| lines.iter().rposition(|line| line["event"] == event).unwrap();
    assert!(position("side_ended") < position("job_finished"));
    assert!(position("job_cost") < position("job_finished"));
    let texts: Vec<&str> = find("output").iter().filter_map(|line| line["data"]["text"].as_str()).collect();
    assert_eq!(texts.concat(), "in local\n");
}

#[test]
fn a_race_on_a_terminal_is_told_that_its_output_ends_there() {
    for winner in ["modal", "local"] {
        let says = "echo colour-${CLICOLOR_FORCE:-unsaid}";
        let Race { modal, world, meeting } = Race::new(says, says);
        if winner == "local" {
            modal.next_sandbox(Fate::Dies(Moment::Exec, Death::InternalFailure));
        }
        let world = world.env("TERM", "xterm-256color");
        let mut terminal = Terminal::start_in(world, &["accel", "run", "race"]);
        terminal.shows(&format!("in {winner}\r\n")).shows("colour-1");
        terminal.ends_with(0);
        drop(meeting);
    }
}

#[test]
fn the_log_of_a_race_that_this_machine_won_says_so() {
    let race = Race::at_once("sleep 600", "meet modal");
    let toml = race.world.read("accel.toml");
    let other = "[jobs.other]\nrun = 'echo other'\nroute = 'modal'\n";
    race.world.write("accel.toml", format!("{toml}{other}"));
    race.world.accel(["run", "race", "other"]).run().code(0);
    let run = race.history()[0]["run"].as_str().unwrap().to_owned();
    let logs = race.world.accel(["logs", &run]).run();
    logs.code(0).stdout_has("in local\n").stderr_has("── race, on this machine in the end\n");
    logs.stderr_has("── other\n");
}

#[test]
fn one_place_alone_where_the_other_cannot_take_part() {
    let race = Race::new("true", "true");
    let world = World::new().file("accel.toml", race.world.read("accel.toml"));
    world.write("work.sh", race.world.read("work.sh"));
    let done = world.accel(["run", "race"]).run();
    done.code(0).stdout("in local\n");
    done.stderr_has("race → local: race, on this machine alone: Modal cannot be used: ");
    // In the project itself: there is nobody to be kept apart from.
    assert_eq!(world.read("out/who"), "local\n");

    // Another command in the job's place was never said to be pure.
    let done = race.world.accel(["exec", "race", "--", "sh", "-c", "echo once >>log"]).run();
    done.code(0).stderr_has("no race, since this may not be run twice");
    assert_eq!(race.world.read("log"), "once\n");
    assert!(race.modal.sandboxes().is_empty());
}

#[test]
fn the_copy_here_is_what_travels_and_what_needed_jobs_made() {
    let race = Race::new("sleep 600", "true");
    race.modal.next_sandbox(Fate::Dies(Moment::Exec, Death::InternalFailure));
    let toml = race.world.read("accel.toml").replace("pure", "needs = ['make']\npure");
    let make =
        "[jobs.make]\nrun = 'mkdir made && echo made >made/it'\noutputs = ['made/**']\nroute = 'local'\n";
    race.world.write("accel.toml", format!("{toml}{make}"));
    race.world.write(".gitignore", "made\nignored\n");
    race.world.write("ignored", "");
    race.work("sleep 600", "cat made/it; ls ignored 2>/dev/null || echo not here; touch stray; pwd");
    let done = race.run();
    done.code(0).stdout_has("made").stdout_has("not here").stdout_has("/accel/copies/");
    assert!(!race.world.exists("stray"), "only declared outputs come home");
    race.left_only(Some("local"));
}
