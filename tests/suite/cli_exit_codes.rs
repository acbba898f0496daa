//! Every documented exit code, from the real binary.

use crate::until::wait_until;
use crate::world::{Signal, World};

const JOBS: &str = r#"
version = 1
[jobs.pass]
run = "true"
[jobs.seven]
run = "exit 7"
[jobs.slow]
run = "sleep 600"
timeout = "200ms"
[jobs.missing]
run = ["no-such-command-anywhere"]
[jobs.forbidden]
run = ["./not-executable"]
[jobs.terminated]
run = "kill -TERM $$"
[jobs.remote]
route = "modal"
run = "true"
[jobs.waits]
run = "echo ready; exec sleep 600"
[jobs.depends]
needs = ["seven"]
run = "true"
"#;

fn world() -> World {
    World::new().file("accel.toml", JOBS).file("not-executable", "data")
}

#[test]
fn the_codes_of_runs_that_end_by_themselves() {
    let world = world();
    let check = |arguments: &[&str], code| {
        world.accel(["run"]).args(arguments).run().code(code);
    };
    check(&["pass"], 0);
    check(&["seven"], 7);
    check(&["pass", "seven"], 1);
    check(&["--keep-going", "pass", "seven"], 1);
    check(&["depends"], 7);
    check(&["slow"], 124);
    check(&["remote"], 125);
    check(&["forbidden"], 126);
    check(&["missing"], 127);
    check(&["terminated"], 143);
}

#[test]
fn usage_and_configuration_are_two() {
    let world = world();
    world.accel(["run"]).run().code(2).stdout("").stderr_has("pass, seven");
    world.accel(["run", "--no-such-flag"]).run().code(2).stdout("");
    world.accel(["run", "pas"]).run().code(2).stderr_has("did you mean `pass`?");
    world.write("accel.toml", "version = 1\n[jobs.a]\nrun = 1\nrunn = 'x'\n");
    world.accel(["run", "a"]).run().code(2).stderr_has("accel.toml:3").stderr_has("2 errors in accel.toml");
}

#[test]
fn a_project_without_a_file_says_how_to_begin() {
    World::new().accel(["run", "test"]).run().code(2).stdout("").stderr_has("accel init");
}

#[test]
fn a_signal_stops_the_run_and_names_its_code() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let world = world();
        let mut running = world.accel(["run", "waits"]).spawn();
        running.wait_for_stdout("ready\n").signal(signal);
        running.finish().code(code);
    }
}

#[test]
fn what_cannot_be_run_says_why_and_fails_as_accel() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.split]\nrun = 'true'\nshard = { count = 2 }\n\n[jobs.there]\nroute = 'modal'\nrun = 'true'\n",
    );
    world.accel(["run", "split"]).run().code(125).stderr_has("not built yet").stderr_has("split");
    world.accel(["run", "there"]).run().code(125).stderr_has("no Modal token").stderr_has("MODAL_TOKEN_ID");
    world.accel(["run", "there", "--on", "local"]).run().code(0);
    world.accel(["run", "there"]).env("ACCEL_ON", "local").run().code(0);
    world.accel(["run", "there"]).env("ACCEL_ON", "moon").run().code(2).stderr_has("ACCEL_ON");
}

#[test]
fn a_second_signal_kills_what_ignores_the_first() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.stubborn]\nstop_timeout = '1h'\n\
         run = \"trap '' INT TERM; echo ready; sleep 600 & wait\"\n[jobs.other]\nrun = 'true'\n",
    );
    // Alone, a job has accel's own output; with others, it writes into pipes.
    for jobs in [&["stubborn"][..], &["stubborn", "other"]] {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let mut running = world.accel(["run"]).args(jobs).spawn();
            running.wait_for_stdout("ready\n").signal(signal);
            running.wait_for_stderr("once more to kill").signal(Signal::INT);
            running.finish().code(code).stderr_has("ended by SIGKILL");
        }
    }
}

/// Nobody reads its output, so that accel itself cannot end.
#[test]
fn a_third_signal_leaves_at_once() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.chatty]\nstop_timeout = '1h'\n\
         run = \"trap 'touch asked' INT; echo $$ > pid.new; mv pid.new pid; while :; do yes || true; done\"\n",
    );
    let (unread, stdout) = std::io::pipe().unwrap();
    let same_pipe = stdout.try_clone().unwrap();
    let mut running = world.accel(["run", "--json", "chatty"]).stdout_to(stdout).spawn();
    wait_until(|| !is_writable(&same_pipe), || "the pipe is full".to_owned());
    running.signal(Signal::INT);
    wait_until(|| world.exists("asked"), || "the job is asked".to_owned());
    running.signal(Signal::INT);
    let job = format!("/proc/{}", world.read("pid").trim());
    wait_until(|| !std::path::Path::new(&job).exists(), || "the job ends".to_owned());
    running.signal(Signal::INT);
    running.finish().code(130).stderr_has("leaving at once");
    drop(unread);
}

/// The job is over, and what it wrote still waits for a reader. Three kinds of signal, since two of one kind at
/// once are one.
#[test]
fn signals_are_heard_while_the_last_output_waits_for_its_reader() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.chatty]\nrun = \"echo $$ > pid.new; mv pid.new pid; yes | head -c 200000\"\n",
    );
    let (unread, stdout) = std::io::pipe().unwrap();
    let same_pipe = stdout.try_clone().unwrap();
    let mut running = world.accel(["run", "--json", "chatty"]).stdout_to(stdout).spawn();
    wait_until(|| !is_writable(&same_pipe) && world.exists("pid"), || "the pipe is full".to_owned());
    let job = format!("/proc/{}", world.read("pid").trim());
    wait_until(|| !std::path::Path::new(&job).exists(), || "the job ends".to_owned());
    running.signal(Signal::INT).signal(Signal::TERM).signal(Signal::HUP);
    let finished = running.finish();
    finished.stderr_has("leaving at once");
    assert!([129, 130, 143].contains(&finished.status.code().unwrap()), "{finished:?}");
    drop(unread);
}

fn is_writable(pipe: &std::io::PipeWriter) -> bool {
    let mut asked = [rustix::event::PollFd::new(pipe, rustix::event::PollFlags::OUT)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut asked, Some(&now)).unwrap() > 0
}

#[test]
fn a_mistake_in_accel_is_one_line_and_its_own_code() {
    let broken = World::new().program(crate::beacons::helper()).arg("panic").run();
    broken
        .code(125)
        .stdout("")
        .stderr_has("index out of range")
        .stderr_has("help: this is a mistake in accel");
    broken.stderr_lacks("RUST_BACKTRACE");
}
