//! Processes and signals through the real binary: stops, leftovers, suspension, output, environments.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::beacons::{Beacon, Beacons, helper};
use crate::until::wait_until;
use crate::world::{Running, Signal, World};

fn jobs(text: &str) -> World {
    World::new().file("accel.toml", format!("version = 1\n{text}"))
}

/// A shell that starts a helper, which starts another: three processes that hold sockets.
fn family(beacons: &Beacons, name: &str) -> String {
    let (helper, socket) = (helper(), beacons.path());
    let socket = socket.display();
    format!(
        "[jobs.{name}]\nrun = \"\"\"'{helper}' beacon '{socket}' background &\n\
         '{helper}' forker '{socket}' parent & wait\"\"\"\n"
    )
}

fn role(beacons: &Beacons, role: &str, name: &str) -> String {
    format!("[jobs.{name}]\nrun = {:?}\n", beacons.role(role, name))
}

fn arrived(beacons: &Beacons, count: usize) -> Vec<Beacon> {
    (0..count).map(|_| beacons.next()).collect()
}

#[test]
fn one_signal_ends_every_process_of_every_job_and_names_their_fates() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let beacons = Beacons::new();
        let world = jobs(&(family(&beacons, "one") + &family(&beacons, "two")));
        let mut running = world.accel(["run", "-j2", "one", "two"]).spawn();
        let all = arrived(&beacons, 6);
        running.signal(signal);
        let finished = running.finish();
        all.iter().for_each(Beacon::assert_gone);
        finished.code(code).stderr_has("one").stderr_has("two").stderr_has("cancelled");
    }
}

#[test]
fn the_second_signal_kills_whoever_ignores_the_first() {
    let beacons = Beacons::new();
    let world = jobs(&role(&beacons, "stubborn", "one"));
    let mut running = world.accel(["run", "one"]).spawn();
    let stubborn = beacons.next();
    running.signal(Signal::INT);
    running.wait_for_stderr("SIGINT");
    stubborn.assert_alive();
    running.signal(Signal::INT);
    running.finish().code(130);
    stubborn.assert_gone();
}

/// At twenty moments of a run, from before accel listens to after its end.
#[test]
fn three_signals_at_once_end_accel_at_any_moment_without_a_panic() {
    for moment in 0..20 {
        let beacons = Beacons::new();
        let world = jobs(&(role(&beacons, "beacon", "a") + &role(&beacons, "beacon", "b")));
        let mut running = world.accel(["run", "a", "b"]).spawn();
        let until = Instant::now() + Duration::from_millis(moment);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        for _ in 0..3 {
            running.signal(Signal::INT);
        }
        let finished = running.finish();
        // Before it listens, a signal ends accel as it would end any program.
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&finished.status);
        assert!(finished.status.code() == Some(130) || by_signal == Some(2), "{finished:?}");
        finished.stderr_lacks("panicked").stderr_lacks("RUST_BACKTRACE");
        // What was left to itself on purpose is not this test's to leave.
        end_strays(&world);
    }
}

/// Kills what the third signal left to itself, by the folder it works in.
fn end_strays(world: &World) {
    let project = world.project();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { continue };
        if fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == project) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
fn one_signal_reaches_through_an_accel_inside_accel() {
    let beacons = Beacons::new();
    let world = jobs(&format!(
        "[jobs.outer]\nrun = [{:?}, \"run\", \"inner\"]\n{}",
        env!("CARGO_BIN_EXE_accel"),
        family(&beacons, "inner")
    ));
    let mut running = world.accel(["run", "outer"]).spawn();
    let all = arrived(&beacons, 3);
    running.signal(Signal::INT);
    running.finish().code(130);
    all.iter().for_each(Beacon::assert_gone);
}

#[test]
fn a_job_that_uses_its_grace_has_timed_out_all_the_same() {
    let world = jobs(
        "[jobs.slow]\nrun = \"trap 'echo cleaned; exit 124' TERM; echo ready; while :; do sleep 0.01; done\"\n\
         timeout = \"200ms\"\n[jobs.own]\nrun = \"exit 124\"\n",
    );
    let timed_out = world.accel(["run", "slow"]).run();
    timed_out.code(124).stdout("ready\ncleaned\n").stderr_has("timed out");
    world.accel(["run", "own"]).run().code(124).stderr_lacks("timed out");
}

#[test]
fn a_job_is_given_three_descriptors() {
    let lone = format!("[jobs.lone]\nrun = [{:?}, \"descriptors\"]\n", helper());
    let world = jobs(&(lone + "[jobs.many]\nneeds = [\"lone\"]\nrun = \"true\"\n"));
    let given = world.program(helper()).arg("descriptors").run().stdout_text();
    world.accel(["run", "lone"]).run().code(0).stdout(&given);
    assert!(world.accel(["run", "many"]).run().stdout_text().contains(given.trim()));
}

/// Two hundred megabytes, and what accel needed at most for it.
#[test]
fn much_output_arrives_byte_for_byte_in_little_memory() {
    const BYTES: usize = 100_000_000;
    let spew = format!("'{}' spew {BYTES}", helper());
    let world = jobs(&format!(
        "[jobs.spew]\nrun = \"\"\"{spew}; grep VmHWM /proc/$PPID/status > memory\"\"\"\n\
         [jobs.first]\nrun = \"true\"\n[jobs.both]\nneeds = [\"first\", \"spew\"]\nrun = \"true\"\n"
    ));
    let accel = env!("CARGO_BIN_EXE_accel");
    for (job, unprefixed) in [("spew", "cat"), ("both", "LC_ALL=C sed -n 's/^spew *│ //p'")] {
        let compare = format!(
            "set -o pipefail; '{accel}' run {job} 2>/dev/null | {unprefixed} | head -c {BYTES} | cmp - <({spew} 2>/dev/null)"
        );
        let done = world.program("bash").args(["-c", &compare]).run();
        done.code(0).stdout("").stderr("");
        let memory = world.read("memory");
        let peak: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(peak <= 64 * 1024, "{job}: {memory}");
    }
}

#[test]
fn a_reader_that_has_enough_ends_the_run_quietly() {
    let world = jobs(
        "[jobs.many]\nrun = \"seq 1 300000\"\n\
         [jobs.both]\nneeds = [\"many\"]\nrun = \"true\"\n",
    );
    for job in ["many", "both"] {
        let piped = format!("'{}' run {job} | head -n 1", env!("CARGO_BIN_EXE_accel"));
        let done = world.program("bash").args(["-c", &piped]).run();
        assert_eq!(done.stdout_text().lines().count(), 1, "{done:?}");
        done.stderr_lacks("panicked").stderr_lacks("BACKTRACE");
    }
}

/// Letter of the process state, as `ps` shows it.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[test]
fn suspending_accel_suspends_its_jobs() {
    if !Path::new("/proc/self/stat").exists() {
        eprintln!("skipped: the state of processes is read from /proc");
        return;
    }
    let world = jobs("[jobs.waits]\nrun = \"echo $$; read -r line < gate; echo $line\"\n");
    world.program("mkfifo").arg("gate").run().code(0);
    let mut running: Running = world.accel(["run", "waits"]).spawn();
    running.wait_for_stdout("\n");
    let job = child_of(running.pid());
    running.signal(Signal::TSTP);
    wait_until(|| state(running.pid()) == Some('T'), || "accel stops".to_owned());
    wait_until(|| state(job) == Some('T'), || "the job stops".to_owned());
    running.signal(Signal::CONT);
    wait_until(|| state(job) != Some('T'), || "the job goes on".to_owned());
    fs::write(world.path("gate"), "through\n").unwrap();
    running.finish().code(0).stdout_has("through\n");
}

/// As in many CI services: accel sees no number of the session that it belongs to.
#[test]
fn accel_suspends_in_a_session_led_from_outside_its_pid_namespace() {
    const INSIDE: [&str; 4] = ["--pid", "--fork", "--mount-proc", "sh"];
    let world = jobs("[jobs.waits]\nrun = \"echo up; read -r line < gate; echo $line\"\n");
    let possible = world.program("unshare").args(INSIDE).args(["-c", "true"]);
    if !Path::new("/usr/bin/unshare").exists() || possible.run().status.code() != Some(0) {
        eprintln!("skipped: a pid namespace cannot be made here");
        return;
    }
    world.program("mkfifo").arg("gate").run().code(0);
    let script = format!("'{}' run waits; exit $?", env!("CARGO_BIN_EXE_accel"));
    let mut running = world.program("unshare").args(INSIDE).args(["-c", &script]).spawn();
    running.wait_for_stdout("up\n");
    let accel = child_of(child_of(running.pid()));
    let signal = |signal| {
        let pid = rustix::process::Pid::from_raw(accel).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    signal(Signal::TSTP);
    wait_until(|| state(accel) == Some('T'), || "accel stops".to_owned());
    signal(Signal::CONT);
    wait_until(|| state(accel) != Some('T'), || "accel goes on".to_owned());
    fs::write(world.path("gate"), "through\n").unwrap();
    running.finish().code(0).stdout_has("through\n");
}

fn child_of(parent: i32) -> i32 {
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        fields.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_child).expect("a child")
}

/// A world whose `uv` is a script: it makes what counts as an environment and writes down what it was asked.
fn world_with_scripted_uv(install: &str) -> World {
    let uv = format!(
        "#!/bin/sh\ncase $1 in\n--version) echo 'uv 0.9.2';;\n\
         venv) for last; do :; done; mkdir -p \"$last/bin\"; ln -s /bin/sh \"$last/bin/python\"; echo venv >> calls;;\n\
         pip) echo pip >> calls\n{install};;\nesac\n"
    );
    jobs("[images.py]\npip = [\"alpha\"]\n[jobs.inside]\nimage = \"py\"\nrun = \"echo $VIRTUAL_ENV\"\n")
        .command("uv", uv)
}

#[test]
fn an_accel_killed_while_it_builds_an_environment_leaves_nothing_in_the_way() {
    let beacons = Beacons::new();
    let [helper, role, socket, _] = &beacons.role("beacon", "")[..] else { unreachable!() };
    let block = format!("if [ ! -e later ]; then exec '{helper}' {role} '{socket}' $$; fi");
    let world = world_with_scripted_uv(&block);
    let mut running = world.accel(["run", "inside"]).spawn();
    let installer = beacons.next();
    running.signal(Signal::KILL);
    running.finish().killed_by(Signal::KILL);
    // The installer was left to itself and holds the lock; the next accel waits for it.
    installer.assert_alive();
    world.write("later", "");
    let mut next = world.accel(["run", "inside"]).spawn();
    next.wait_for_stderr("waiting for");
    let pid = rustix::process::Pid::from_raw(installer.name.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    next.finish().code(0).stdout_has("environments");
    assert_eq!(world.read("calls"), "venv\npip\nvenv\npip\n");
    world.accel(["run", "inside"]).run().code(0);
    assert_eq!(world.read("calls").lines().count(), 4);
}

#[test]
fn accels_that_start_at_once_build_an_environment_once() {
    let world = world_with_scripted_uv("");
    let racers: Vec<Running> = (0..4).map(|_| world.accel(["run", "inside"]).spawn()).collect();
    for racer in racers {
        racer.finish().code(0).stdout_has("environments");
    }
    assert_eq!(world.read("calls"), "venv\npip\n");
}
