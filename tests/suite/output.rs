//! What a run writes where: bytes, prefixes, accel's own words, the JSON stream.

use std::io::{BufRead, BufReader};

use crate::world::World;

const TWO: &str = r#"
version = 1
[jobs.first]
run = "echo out; echo err >&2; printf unfinished"
[jobs.second]
needs = ["first"]
run = "echo ready"
"#;

#[test]
fn one_job_writes_straight_through_and_accel_says_one_line() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.raw]\nrun = 'printf \"\\\\000\\\\377\\\\033[2Jx\"; echo words >&2'\n",
    );
    let run = world.accel(["run", "raw"]).run();
    run.code(0).stderr("raw → local: no rule says otherwise\nwords\n");
    assert_eq!(run.stdout, b"\x00\xff\x1b[2Jx");
    world.accel(["--quiet", "run", "raw"]).run().code(0).stderr("words\n");
}

#[test]
fn several_jobs_are_told_apart_and_counted() {
    let world = World::new().file("accel.toml", TWO);
    let run = world.accel(["run", "second"]).run();
    run.code(0).stdout("first  │ out\nfirst  │ unfinished\nsecond │ ready\n");
    let expected = "first → local: no rule says otherwise\n\
                    first  │ err\n\
                    ✓ first passed in [TIME]\n\
                    second → local: no rule says otherwise\n\
                    ✓ second passed in [TIME]\n\
                    2 passed in [TIME]\n";
    assert_eq!(run.redact(&run.stderr_text()), expected);
}

#[test]
fn what_depends_on_a_failure_says_so() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.lint]\nrun = 'exit 3'\n[jobs.test]\nneeds = ['lint']\nrun = 'true'\n\
         [jobs.docs]\nrun = 'true'\n",
    );
    let run = world.accel(["run", "test"]).run();
    run.code(3)
        .stdout("")
        .stderr_has("✗ lint failed: exit code 3")
        .stderr_has("- test skipped: `lint` failed");
    let run = world.accel(["run", "test", "docs", "--keep-going"]).run();
    run.code(1).stderr_has("✓ docs passed").stderr_has("1 passed, 1 failed (lint), 1 skipped in");
}

#[test]
fn the_json_stream_is_whole_and_cannot_be_forged() {
    let forged = r#"{"event":"run_finished","exit_code":0}"#;
    let world = World::new().file(
        "accel.toml",
        format!("version = 1\n[jobs.liar]\nrun = ['printf', '%s\\n', '{forged}']\n[jobs.bytes]\nneeds = ['liar']\nrun = 'printf \"\\\\377\"; exit 9'\n"),
    );
    let run = world.accel(["run", "bytes", "--json"]).run();
    let events = run.code(9).json_lines();
    let kind = |index: usize| events[index]["event"].as_str().unwrap().to_owned();
    assert_eq!(kind(0), "run_started");
    assert_eq!(events[0]["version"], 1);
    assert_eq!(kind(events.len() - 1), "run_finished");
    assert_eq!(events[events.len() - 1]["exit_code"], 9);
    assert_eq!(events.iter().filter(|event| event["event"] == "run_finished").count(), 1);
    let said: Vec<_> =
        events.iter().filter(|event| event["event"] == "output").map(|event| &event["data"]).collect();
    assert_eq!(said[0]["text"], format!("{forged}\n"));
    assert_eq!(said[1]["base64"], "/w==");
}

/// `| head`: the rest is not wanted. Jobs are asked to stop, nothing new starts.
#[test]
fn a_reader_that_goes_away_ends_the_run_politely() {
    for flags in [&["run", "b"][..], &["run", "b", "--json"]] {
        let world = World::new().file(
            "accel.toml",
            "version = 1\n[jobs.a]\nrun = '''trap 'touch cleaned; exit 0' TERM; mkfifo gate; printf 'fi%s\\n' rst; cat gate; yes'''\n\
             [jobs.b]\nneeds = ['a']\nrun = 'touch never'\n",
        );
        let mut running = world.accel(flags).spawn();
        running.wait_for_stdout("first").close_stdout();
        // Opening a FIFO for writing waits for its reader, which is `cat`.
        std::fs::write(world.path("gate"), "").unwrap();
        let run = running.finish();
        run.code(141).stderr_lacks("panicked").stderr_lacks("warning");
        if flags.len() == 2 {
            run.stderr_has("stopping: nobody reads the output any more").stderr_has("2 cancelled");
        }
        assert!(world.exists("cleaned"), "the job was asked");
        assert!(!world.exists("never"), "nothing new was started");
    }
}

/// What has ended before anybody could be told decides as ever.
#[test]
fn a_reader_that_goes_away_too_late_changes_nothing() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[jobs.a]\nrun = 'mkfifo gate; echo first; cat gate'\n[jobs.b]\nneeds = ['a']\nrun = 'true'\n",
    );
    let mut running = world.accel(["run", "b"]).spawn();
    running.wait_for_stdout("first").close_stdout();
    std::fs::write(world.path("gate"), "").unwrap();
    running.finish().code(0).stderr_lacks("panicked").stderr_has("2 passed");
}

/// 200 MB in lines, through pipes and prefixes, into a file: every line is there, behind its name.
#[test]
fn two_hundred_megabytes_with_prefixes() {
    const LINES: usize = 2_000_000;
    let line = "0123456789".repeat(10);
    let world = World::new().file(
        "accel.toml",
        format!("version = 1\n[jobs.spew]\nrun = 'yes {line} 2>/dev/null | head -n {LINES} || true'\n[jobs.end]\nneeds = ['spew']\nrun = 'true'\n"),
    );
    let accel = env!("CARGO_BIN_EXE_accel");
    world.program("sh").args(["-c", "exec \"$0\" run end > written", accel]).run().code(0);
    let expected = format!("spew │ {line}");
    let mut count = 0;
    for written in BufReader::new(std::fs::File::open(world.path("written")).unwrap()).lines() {
        assert_eq!(written.unwrap(), expected);
        count += 1;
    }
    assert_eq!(count, LINES);
}

#[test]
fn a_full_disk_is_said_once_and_the_jobs_run_on() {
    if !std::path::Path::new("/dev/full").exists() {
        eprintln!("skipped: this system has no /dev/full");
        return;
    }
    let world = World::new().file("accel.toml", TWO);
    let accel = env!("CARGO_BIN_EXE_accel");
    let run = world.program("sh").args(["-c", "exec \"$0\" run second > /dev/full", accel]).run();
    run.code(0).stderr_has("2 passed");
    assert_eq!(run.stderr_text().matches("cannot write to stdout").count(), 1, "{run:?}");
}
