//! Jobs on Modal through the real binary, against the tests' own Modal: what a job sees, what comes back, what is
//! left, and how many calls it takes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use crate::fake_modal::{Build, BuildEnd, FakeModal, Fate, Fault, Kind, Moment, Version};
use crate::modal_world::world;
use crate::world::{Finished, Signal, World};

/// A project whose jobs all run on Modal.
fn job(command: &str) -> String {
    format!("[jobs.it]\nrun = '''{command}'''\n")
}

fn run(world: &World) -> Finished {
    world.accel(["run", "it"]).run()
}

/// One job, from start to end, alone in its world.
fn check(command: &str) -> Finished {
    let modal = FakeModal::serve();
    let world = world(&modal, &job(command));
    let done = run(&world);
    assert!(modal.alive().is_empty(), "a sandbox was left");
    done
}

fn mode(path: std::path::PathBuf) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn output_comes_back_apart_and_exit_codes_are_the_commands_own() {
    check("echo hello; echo oops >&2").code(0).stdout("hello\n").stderr_has("oops\n");
    check("exit 7").code(7);
    check("kill -TERM $$").code(143);
    check("false | true").code(1);
    check("printf 'no newline'; printf '\\377\\000x'").code(0);
    check("cat; echo end").code(0).stdout("end\n");
    let modal = FakeModal::serve();
    let argv = world(&modal, "[jobs.it]\nrun = ['printf', '%s|', 'a b', \"c'd\", '']\n");
    run(&argv).code(0).stdout("a b|c'd||");
    let missing = world(&modal, "[jobs.it]\nrun = ['no-such-program']\n");
    run(&missing).code(127).stderr_has("no-such-program");
}

#[test]
fn the_tree_is_there_as_it_is_here_and_writable() {
    let modal = FakeModal::serve();
    let list = "find . -mindepth 1 ! -name accel.toml -exec sh -c 'for f; do printf \"%s %s %s\\n\" \"$f\" \"$(stat -c %a \"$f\")\" \"$(readlink \"$f\")\"; done' sh {} + | LC_ALL=C sort; echo new > src/new; rm 'src/odd name'; cat src/a";
    let world = world(&modal, &job(list))
        .file("src/a", "text\n")
        .file("src/odd name", "")
        .file("ünï/ö'\"$x\n.txt", "1");
    world.write("src/run.sh", "#!/bin/sh\n");
    fs::set_permissions(world.path("src/run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(world.path("src/a"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir_all(world.path("empty/deep")).unwrap();
    fs::set_permissions(world.path("empty/deep"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("src/a", world.path("link")).unwrap();
    symlink("nowhere", world.path("dangling")).unwrap();
    symlink("src", world.path("folder-link")).unwrap();
    let expect = "\
./dangling 777 nowhere
./empty 755 
./empty/deep 700 
./folder-link 777 src
./link 777 src/a
./src 755 
./src/a 600 
./src/odd name 644 
./src/run.sh 750 
./ünï 755 
./ünï/ö'\"$x
.txt 644 
text
";
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let done = run(&world);
    done.code(0);
    assert_eq!(sorted(&done.stdout_text()), sorted(expect));
    assert!(world.exists("src/odd name") && !world.exists("src/new"), "the project itself is not touched");
}

#[test]
fn a_changed_tree_arrives_changed_without_another_mount() {
    let modal = FakeModal::serve();
    let show = "find . -type f ! -name accel.toml | LC_ALL=C sort | while read -r f; do echo \"$f $(stat -c %a \"$f\") $(cat \"$f\")\"; done; [ ! -L l ] || readlink l; ls -d d";
    let world = world(&modal, &job(show)).file("a", "1\n").file("b", "2\n").file("d/c", "3\n");
    run(&world).code(0).stdout("./a 644 1\n./b 644 2\n./d/c 644 3\nd\n");
    let mounts = || modal.calls_of("MountGetOrCreate").len();
    assert_eq!(mounts(), 1);
    world.write("a", "changed, with a NUL \u{0}and more\n");
    world.write("new/deep", "n\n");
    fs::set_permissions(world.path("new/deep"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(world.path("b")).unwrap();
    fs::remove_file(world.path("d/c")).unwrap();
    symlink("a", world.path("l")).unwrap();
    let done = run(&world);
    done.code(0).stdout("./a 644 changed, with a NUL and more\n./new/deep 755 n\na\nd\n");
    fs::set_permissions(world.path("a"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::remove_dir(world.path("d")).unwrap();
    world.write("d", "a file now\n");
    run(&world).code(0).stdout_has("./a 640 changed").stdout_has("./d 644 a file now\n");
    assert_eq!(mounts(), 1, "small changes travel with the command");
    for number in 0..300 {
        world.write(format!("many/{number:03}"), format!("{number}\n"));
    }
    run(&world).code(0).stdout_has("./many/299 644 299\n");
    assert_eq!(mounts(), 2, "a large change is a new mount");
    run(&world).code(0).stdout_has("./many/299 644 299\n");
    assert_eq!(mounts(), 2);
}

#[test]
fn outputs_come_back_also_after_a_failure() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.it]\noutputs = ['reports/**', '*.xml']\nrun = 'mkdir -p reports/sub; echo one > reports/sub/1; echo x > r.xml; echo no > other; exit 3'\n";
    let world = world(&modal, jobs);
    run(&world).code(3);
    assert_eq!(world.read("reports/sub/1"), "one\n");
    assert_eq!(world.read("r.xml"), "x\n");
    assert!(!world.exists("other"));
    assert_eq!(mode(world.path("r.xml")), 0o644);
}

#[test]
fn outputs_of_needed_jobs_travel_even_if_they_are_ignored() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.make]\nroute = 'local'\noutputs = ['dist/**']\nrun = 'mkdir -p dist; echo made > dist/x'\n[jobs.it]\nneeds = ['make']\nrun = 'cat dist/x'\n";
    let world = world(&modal, jobs).file(".gitignore", "dist/\n");
    run(&world).code(0).stdout_has("made");
}

#[test]
fn variables_and_secrets_reach_the_job_and_nothing_else_does() {
    let modal = FakeModal::serve();
    modal.secret("hf", &[("HF_TOKEN", "from-modal"), ("LEVEL", "secret")]);
    let jobs = "[jobs.it]\nsecrets = ['hf']\npass_env = ['CI', 'PASS_*']\ndotenv = ['.env']\nenv = { LEVEL = 'env', ONLY = 'x y' }\nrun = 'echo \"$HF_TOKEN $LEVEL $ONLY $CI $PASS_ME $DOT $ACCEL_JOB $ACCEL_PLACE ${HIDDEN-unset}\"'\n";
    let world = world(&modal, jobs)
        .file(".env", "DOT=dotted\nLEVEL=dot\n")
        .env("CI", "1")
        .env("PASS_ME", "passed")
        .env("HIDDEN", "secret-of-the-host");
    run(&world).code(0).stdout("from-modal env x y 1 passed dotted it modal unset\n");
    for call in modal.calls() {
        assert!(!String::from_utf8_lossy(&call.message).contains("secret-of-the-host"), "{}", call.method);
    }
}

#[test]
fn an_unknown_secret_is_named_with_the_remedy() {
    let modal = FakeModal::serve();
    let world =
        world(&modal, "[jobs.it]\nsecrets = [{ name = 'nope', required_keys = ['A'] }]\nrun = 'true'\n");
    run(&world).code(125).stderr_has("secret `nope`").stderr_has("modal secret create nope A=…");
    assert!(modal.sandboxes().is_empty());
}

#[test]
fn the_sandbox_is_what_the_job_asks_for() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.it]\ncpu = [1.5, 3]\nmemory = '2GiB'\ntimeout = '10m'\nports = [8080]\nregion = ['us-east']\ncloud = 'aws'\nvolumes = { '/cache' = 'hf-cache' }\nrun = 'echo kept > /cache/x'\n";
    let world = world(&modal, jobs);
    run(&world).code(0).stderr_has("port 8080 is at https://");
    let sandboxes = modal.sandboxes();
    let definition = &sandboxes[0].definition;
    let resources = definition.resources.as_ref().unwrap();
    assert_eq!(
        (resources.milli_cpu, resources.milli_cpu_max, resources.memory_mb, resources.memory_mb_max),
        (1500, 3000, 2048, 0)
    );
    assert!((1260..1300).contains(&definition.timeout_secs), "{}", definition.timeout_secs);
    assert_eq!(definition.idle_timeout_secs, Some(600));
    assert_eq!(definition.scheduler_placement.as_ref().unwrap().regions, ["us-east"]);
    assert_eq!(definition.cloud_provider_str, "aws");
    assert_eq!(fs::read_to_string(modal.volume("hf-cache").unwrap().join("x")).unwrap(), "kept\n");
    assert_eq!(sandboxes[0].version, Version::V2);
    assert_eq!(sandboxes[0].tags["accel-project"], "demo");
}

#[test]
fn gpus_are_tried_in_order() {
    let modal = FakeModal::serve();
    modal.gpu("B200", Fate::Refused(tonic::Status::resource_exhausted("no B200 left")));
    modal.gpu("H100", Fate::QueuedForever);
    let jobs = "[jobs.it]\ngpu = ['B200', { type = 'H100', wait = '1s' }, 'L4:2']\nrun = 'echo on a GPU'\n";
    let world = world(&modal, jobs);
    let done = run(&world);
    done.code(0)
        .stdout("on a GPU\n")
        .stderr_has("no B200 left")
        .stderr_has("H100: none within 1 s; trying L4");
    let alive = modal.alive();
    assert!(alive.is_empty(), "{alive:?}");
    let last = modal.sandboxes().into_iter().find(|sandbox| sandbox.execs > 0).unwrap();
    let gpu = last.definition.resources.unwrap().gpu_config.unwrap();
    assert_eq!((gpu.gpu_type.as_str(), gpu.count, last.version), ("L4", 2, Version::V1));
}

#[test]
fn without_a_machine_the_job_fails_for_capacity_or_queue() {
    let modal = FakeModal::serve();
    modal.gpu("H100", Fate::Refused(tonic::Status::resource_exhausted("none left")));
    let none = world(&modal, "[jobs.it]\ngpu = 'H100'\nrun = 'true'\n");
    run(&none).code(125).stderr_has("no machine for the job: H100: none left");
    modal.gpu("L4", Fate::QueuedForever);
    let queued =
        "[jobs.it]\ngpu = 'L4'\nfallback = { to = 'local', on = ['queue>1s'] }\nrun = 'echo $ACCEL_PLACE'\n";
    let queued = world(&modal, queued);
    run(&queued).code(0).stdout("local\n").stderr_has("no machine within");
    assert!(modal.alive().is_empty());
}

/// Calls made at once look like a chain unless each takes longer than the client between them.
const LATENCY: Duration = Duration::from_millis(150);

/// Of one run, to the exit code: in a chain each call begins after the one before has ended.
fn round_trips(modal: &FakeModal, world: &World) -> usize {
    modal.forget_calls();
    run(world).code(0);
    modal.sequential_round_trips()
}

/// A new user's first run, one with the same tree, one with a changed tree.
fn three_runs(jobs: &str, layers: usize) -> [usize; 3] {
    let modal = FakeModal::serve();
    modal.delay(LATENCY);
    let world = world(&modal, jobs).file("data", "1");
    let cold = round_trips(&modal, &world);
    assert_eq!(modal.calls_of("ImageGetOrCreate").len(), layers, "{jobs}");
    let unchanged = round_trips(&modal, &world);
    world.write("data", "2");
    [cold, unchanged, round_trips(&modal, &world)]
}

/// Cold with L cached layers: 4 + L calls, 6 + L with a GPU. With ids remembered: 3 and 5 with the same tree, 4 and 6
/// with a changed one. A crowded machine can only make chains longer (calls meant to be made at once begin late), so
/// of a few tries the shortest counts.
#[test]
fn sequential_round_trips_stay_within_the_budget() {
    const TRIES: usize = 4;
    // The base, then one for each of `pip` and `run`.
    for (layers, image, uses) in
        [(1, "", ""), (3, "[images.it]\npip = ['alpha']\nrun = ['true']\n", "image = 'it'\n")]
    {
        for (gpu, budget) in [("", [4 + layers, 3, 4]), ("gpu = 'L4'\n", [6 + layers, 5, 6])] {
            let jobs = format!("{image}[jobs.it]\n{uses}{gpu}run = 'cat data'\n");
            let mut least = [usize::MAX; 3];
            for _ in 0..TRIES {
                let counts = three_runs(&jobs, layers);
                for (least, count) in least.iter_mut().zip(counts) {
                    *least = count.min(*least);
                }
                if least.iter().zip(budget).all(|(least, budget)| *least <= budget) {
                    break;
                }
            }
            assert!(least.iter().zip(budget).all(|(least, budget)| *least <= budget), "{least:?}\n{jobs}");
        }
    }
}

#[test]
fn lost_ids_are_asked_for_again() {
    for kind in [Kind::Apps, Kind::Images, Kind::Mounts, Kind::Secrets, Kind::Volumes] {
        let modal = FakeModal::serve();
        modal.secret("s", &[("A", "1")]);
        let jobs = "[jobs.it]\nsecrets = ['s']\nvolumes = { '/cache' = 'v' }\nrun = 'cat data'\n";
        let world = world(&modal, jobs).file("data", "1\n");
        run(&world).code(0);
        modal.forget(kind);
        world.write("data", "2\n");
        run(&world).code(0).stdout("2\n");
        assert!(modal.alive().is_empty());
    }
    let modal = FakeModal::serve();
    let world = world(&modal, &job("echo hi"));
    run(&world).code(0);
    modal.expire_auth_tokens();
    run(&world).code(0).stdout("hi\n");
}

#[test]
fn output_survives_cut_streams_byte_for_byte() {
    let modal = FakeModal::serve();
    modal.state().chunk = 1000;
    for (nth, bytes) in [(1, 10), (2, 3000), (3, 0), (4, 12_345)] {
        modal.fail_nth("TaskExecStdioRead", nth, Fault::CutAfter(bytes));
    }
    let world = world(&modal, &job("seq 1 20000; seq 1 3000 >&2"));
    let expect: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    run(&world).code(0).stdout(&expect).stderr_has(&(1..=3000).map(|n| format!("{n}\n")).collect::<String>());
}

#[test]
fn every_death_of_a_sandbox_has_its_own_sentence() {
    use crate::fake_modal::Death;
    for (death, text) in [
        (Death::OutOfMemory, "ran out of memory"),
        (Death::MemoryManagerEviction, "more memory than it asked for"),
        (Death::MemoryThrashingEviction, "short of memory for too long"),
        (Death::InternalFailure, "failed inside Modal: worker lost"),
        (Death::Idle, "because nothing ran in it"),
        (Death::Timeout, "end of its lifetime"),
        (Death::Terminated, "terminated by somebody else"),
        (Death::Unknown, "does not know (77)"),
    ] {
        let modal = FakeModal::serve();
        modal.next_sandbox(Fate::Dies(Moment::Output(3), death));
        let world = world(&modal, &job("echo begun; sleep 1000"));
        run(&world).code(125).stderr_has(text);
    }
    let modal = FakeModal::serve();
    modal.next_sandbox(Fate::Dies(Moment::Start, Death::InitFailure));
    run(&world(&modal, &job("true"))).code(125).stderr_has("could not start: cannot mount the image");
}

#[test]
fn large_files_travel_as_blobs() {
    let modal = FakeModal::serve();
    modal.state().part_length = 5 << 20;
    modal.fail("PUT", [Fault::Http(503)]);
    let world = world(&modal, &job("cksum one two"));
    let bytes = |size: usize, seed: usize| -> Vec<u8> {
        (0..size).map(|at| (at * 31 + at / 977 + seed) as u8).collect()
    };
    world.write("one", bytes((4 << 20) + 7, 1));
    world.write("two", bytes(11 << 20, 2));
    let local = world.program("cksum").args(["one", "two"]).run();
    run(&world).code(0).stdout(&local.stdout_text());
}

#[test]
fn a_failed_build_shows_its_line_and_the_end_of_its_log() {
    let modal = FakeModal::serve();
    let failing = Build {
        logs: vec!["collecting\n".into(), "no such package\n".into()],
        end: BuildEnd::Failure("exit status 1".into()),
    };
    modal.state().builds.push(("definitely-not-a-package".to_owned(), failing));
    let jobs = "[images.py]\nbase = 'debian_slim'\npip = ['definitely-not-a-package']\n[jobs.it]\nimage = 'py'\nrun = 'true'\n";
    let world = world(&modal, jobs);
    run(&world).code(125).stderr_has("no such package").stderr_has("accel.toml:").stderr_has("exit status 1");
    assert!(modal.sandboxes().is_empty());
}

#[test]
fn an_interrupted_job_stops_politely_and_leaves_nothing() {
    let modal = FakeModal::serve();
    let world =
        world(&modal, &job("trap 'echo stopping; exit 9' INT; echo ready; while :; do sleep 0.05; done"));
    let mut running = world.accel(["run", "it"]).spawn();
    running.wait_for_stdout("ready\n");
    running.signal(Signal::INT);
    running.finish().code(130).stdout_has("stopping\n");
    assert!(modal.alive().is_empty());
}

#[test]
fn a_second_signal_ends_the_sandbox() {
    let modal = FakeModal::serve();
    let world = world(&modal, &job("trap '' INT TERM; echo ready; while :; do sleep 0.05; done"));
    let mut running = world.accel(["run", "it"]).spawn();
    running.wait_for_stdout("ready\n");
    running.signal(Signal::INT);
    running.wait_for_stderr("stopping");
    running.signal(Signal::INT);
    running.finish().code(130);
    assert!(modal.alive().is_empty());
}

#[test]
fn a_sandbox_that_is_still_being_made_when_the_run_stops_is_ended() {
    let modal = FakeModal::serve();
    modal.fail("SandboxCreateV2", [Fault::Slow(Duration::from_secs(2))]);
    let world = world(&modal, &job("echo never"));
    let mut running = world.accel(["run", "it"]).spawn();
    running.wait_for_stderr("starting the sandbox");
    running.signal(Signal::INT);
    running.finish().code(130).stdout("");
    assert!(modal.alive().is_empty());
}

#[test]
fn a_timeout_ends_the_job_and_its_sandbox() {
    let modal = FakeModal::serve();
    let world = world(&modal, "[jobs.it]\ntimeout = '1s'\nrun = 'echo begun; sleep 1000'\n");
    run(&world).code(124).stdout("begun\n");
    assert!(modal.alive().is_empty());
}

#[test]
fn what_a_killed_accel_left_is_ended_by_the_next_run() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.it]\nrun = 'echo ready; sleep 1000'\n[jobs.next]\nrun = 'echo next'\n";
    let world = world(&modal, jobs);
    let mut running = world.accel(["run", "it"]).spawn();
    running.wait_for_stdout("ready\n");
    running.signal(Signal::KILL);
    running.finish();
    assert_eq!(modal.alive().len(), 1);
    world.accel(["run", "next"]).run().code(0).stdout("next\n").stderr_has("ended what an earlier run left");
    assert!(modal.alive().is_empty());
}

#[test]
fn jobs_side_by_side_share_what_they_have_in_common() {
    let modal = FakeModal::serve();
    let jobs = "[jobs.it]\nmatrix = { n = ['1', '2', '3', '4'] }\nrun = 'echo ${matrix.n} $(cat data)'\n";
    let world = world(&modal, jobs).file("data", "d");
    run(&world).code(0);
    for method in ["AppGetOrCreate", "AuthTokenGet", "ImageGetOrCreate", "MountGetOrCreate"] {
        assert_eq!(modal.calls_of(method).len(), 1, "{method}");
    }
    assert_eq!(modal.sandboxes().len(), 4);
}

#[test]
fn what_is_wrong_with_the_account_is_said_with_the_remedy() {
    let modal = FakeModal::serve();
    modal.state().credentials = Some(("ak-right".to_owned(), "as-right".to_owned()));
    run(&world(&modal, &job("true")))
        .code(125)
        .stderr_has("refuses the credentials")
        .stderr_has("modal token new");
    let nobody = World::new().file("accel.toml", "version = 1\n[jobs.it]\nroute = 'modal'\nrun = 'true'\n");
    run(&nobody).code(125).stderr_has("no Modal token").stderr_has("MODAL_TOKEN_ID");
}

#[test]
fn a_tree_that_is_too_large_is_refused_before_anything_is_sent() {
    let modal = FakeModal::serve();
    let world = world(&modal, "[sync]\nmax_size = '1MB'\n[jobs.it]\nrun = 'true'\n");
    world.write("big/data.bin", vec![0; 2_000_000]);
    run(&world).code(125).stderr_has("max_size").stderr_has("big/data.bin");
    assert!(modal.calls_of("MountPutFile").is_empty());
}

#[test]
fn the_older_generation_is_used_where_the_user_says_so() {
    let modal = FakeModal::serve();
    let world = world(&modal, &job("echo hi")).env("MODAL_SANDBOX_V2", "0");
    run(&world).code(0).stdout("hi\n");
    assert_eq!(modal.sandboxes()[0].version, Version::V1);
}

#[test]
fn a_server_that_does_not_answer_is_named_before_it_is_given_up() {
    let modal = FakeModal::serve();
    let world = world(&modal, &job("true")).env("MODAL_SERVER_URL", "http://127.0.0.1:9");
    let mut running = world.accel(["run", "it"]).spawn();
    running.wait_for_stderr("does not answer yet").signal(Signal::INT);
    running.finish().code(130).stderr_has("--on local");
}
