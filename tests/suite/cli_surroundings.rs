//! Odd surroundings: closed pipes, no HOME, folders that cannot be written, narrow and wide terminals.

use crate::world::World;

const JOBS: &str = r#"
version = 1
[jobs.hello]
desc = "says hello to whoever is there, in a sentence that is longer than a narrow terminal is wide"
run = "echo hello"
[jobs.a-rather-long-name-for-a-job]
run = ["echo", "long"]
[jobs.matrix]
matrix = { n = ["1", "2"] }
run = "echo ${matrix.n}"
"#;

fn world() -> World {
    World::new().file("accel.toml", JOBS)
}

/// Thousands of jobs: more than a pipe holds.
fn many_jobs() -> World {
    let jobs: String = (0..5000).map(|n| format!("[jobs.job-{n}]\nrun = 'true'\n")).collect();
    World::new().file("accel.toml", format!("version = 1\n{jobs}"))
}

#[test]
fn a_reader_that_goes_away_is_success() {
    let world = many_jobs();
    let head = world
        .program("sh")
        .arg("-c")
        .arg(format!("{} list | head -n 1; exit \"${{PIPESTATUS:-0}}\"", env!("CARGO_BIN_EXE_accel")));
    head.run().code(0).stdout("job-0     local  true\n").stderr("");
    let mut running = world.accel(["list"]).spawn();
    running.close_stdout();
    running.finish().code(0).stderr("");
}

#[test]
fn a_job_whose_reader_goes_away_is_quiet_about_it() {
    let world = World::new().file("accel.toml", "version = 1\n[jobs.count]\nrun = ['seq', '1', '1000000']\n");
    let line =
        format!("{} -q run count | head -n 1; echo \"${{PIPESTATUS[0]}}\"", env!("CARGO_BIN_EXE_accel"));
    world.program("bash").args(["-c", &line]).run().code(0).stdout("1\n141\n").stderr("");
}

#[test]
fn no_home_is_needed_for_a_host_job() {
    world()
        .accel(["run", "hello"])
        .env_remove("HOME")
        .env_remove("XDG_CACHE_HOME")
        .env_remove("XDG_STATE_HOME")
        .run()
        .code(0)
        .stdout("hello\n");
}

#[test]
fn a_host_job_opens_no_database_and_leaves_one_line() {
    let world = world();
    world.accel(["run", "hello"]).run().code(0);
    world.accel(["list"]).run().code(0);
    world.accel(["check"]).run().code(0);
    world.accel(["plan"]).run().code(0);
    for folder in [world.cache(), world.home()] {
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "{}", folder.display());
    }
    let state: Vec<_> = std::fs::read_dir(world.state().join("accel"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(state, ["history.spool"]);
    let spool = std::fs::read_to_string(world.state().join("accel/history.spool")).unwrap();
    assert_eq!(spool.lines().filter(|line| line.contains("\"job\":\"hello\"")).count(), 1, "{spool}");
}

#[test]
fn a_cache_that_cannot_be_written_stops_only_what_needs_it() {
    let world = World::new().file(
        "accel.toml",
        "version = 1\n[images.py]\npip = ['iniconfig']\n[jobs.host]\nrun = 'echo fine'\n\
         [jobs.env]\nimage = 'py'\nrun = 'true'\n",
    );
    // A file stands where a folder would have to be, so that even root cannot make it.
    world.accel(["run", "host"]).env("ACCEL_CACHE_DIR", "/dev/null/cache").run().code(0).stdout("fine\n");
    let failed = world.accel(["run", "env"]).env("ACCEL_CACHE_DIR", "/dev/null/cache").run();
    failed.code(125).stderr_has("/dev/null/cache").stderr_has("ACCEL_CACHE_DIR");
}

#[test]
fn lists_fit_the_terminal() {
    let world = world();
    let list = |columns: &str| world.accel(["list"]).env("COLUMNS", columns).run().stdout_text();
    insta::assert_snapshot!(list("20"), @r"
    hello
    a-rather-long-name-for-a-job
    matrix
    ");
    insta::assert_snapshot!(list("60"), @r"
    hello                         local  says hello to whoever …
    a-rather-long-name-for-a-job  local  echo long
    matrix (x2)                   local  echo ${matrix.n}
    ");
    assert!(list("300").contains("narrow terminal is wide\n"));
    let piped = world.accel(["list"]).run().stdout_text();
    assert!(piped.contains("narrow terminal is wide\n"), "a pipe has no width: {piped}");
}

#[test]
fn diagnostics_fit_the_terminal_too() {
    let world = World::new().file("accel.toml", "version = 1\n[jobs.a]\nrunn = 'x'\n");
    for columns in ["20", "300"] {
        world.accel(["check"]).env("COLUMNS", columns).run().code(2).stdout("").stderr_has("runn");
    }
}

#[test]
fn colour_is_only_for_terminals_unless_asked_for() {
    let world = world();
    world.accel(["list"]).run().stdout_lacks("\u{1b}");
    world.accel(["list", "--color", "always"]).run().stdout_has("\u{1b}[1mhello");
    world.accel(["list"]).env("CLICOLOR_FORCE", "1").run().stdout_has("\u{1b}");
    world.accel(["list"]).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").run().stdout_lacks("\u{1b}");
    world.accel(["run", "nope", "--color", "always"]).run().stderr_has("\u{1b}").stdout("");
}

#[test]
fn another_folder_and_another_file_can_be_named() {
    let world = world().file("other/jobs.toml", "version = 1\n[jobs.there]\nrun = 'pwd'\n").file("sub/x", "");
    world.accel(["-C", "sub", "run", "hello"]).run().code(0).stdout("hello\n");
    let other = world.path("other");
    world
        .accel(["-c", "other/jobs.toml", "run", "there"])
        .run()
        .code(0)
        .stdout(&format!("{}\n", other.display()));
    world.accel(["-C", "nowhere", "list"]).run().code(2).stderr_has("nowhere");
}

#[test]
fn a_trivial_job_starts_no_threads_and_reads_no_files_that_it_does_not_need() {
    let world = world();
    let probe = world.program("sh").args(["-c", "command -v strace && strace -f -o /dev/null true"]).run();
    if !probe.status.success() {
        println!("skipped: strace is not here or may not trace");
        return;
    }
    let trace = world.root().join("trace");
    world
        .program("strace")
        .args(["-f", "-e", "trace=openat,clone,clone3,mkdir", "-o"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_accel"))
        .args(["run", "hello"])
        .run()
        .code(0)
        .stdout("hello\n");
    let trace = std::fs::read_to_string(trace).unwrap();
    let accel = trace.split_whitespace().next().unwrap();
    let own: Vec<&str> = trace.lines().filter(|line| line.starts_with(accel)).collect();
    let threads = own.iter().filter(|line| line.contains("CLONE_THREAD")).count();
    assert!(threads <= 1, "more than the thread that feeds the sinks:\n{trace}");
    // Of control groups only the count of processes that were killed for want of memory: a kill of the job is told
    // from others by what was counted before.
    let counter = "/sys/fs/cgroup/";
    let system = ["/etc/ld.so", "/lib", "/usr/lib", "/proc/self/", "/dev/null", counter];
    let opened = own.iter().filter(|line| line.contains("openat") && !line.contains("ENOENT"));
    let surprising: Vec<_> = opened
        .filter(|line| !system.iter().any(|path| line.contains(&format!("\"{path}"))))
        .filter(|line| !line.contains("/project/accel.toml\""))
        .collect();
    assert!(surprising.is_empty(), "{surprising:#?}");
    assert!(own.iter().filter(|line| line.contains(counter)).count() <= 1, "{trace}");
    assert!(!own.iter().any(|line| line.contains("mkdir")), "{trace}");
}
