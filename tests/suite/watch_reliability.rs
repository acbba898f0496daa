//! `accel watch` and what tools do to a tree: editors, git, indexers, jobs that write into it, a root that is away.
//!
//! `ACCEL_WATCH_FULL=1` takes as many files, saves and commits as reliability asks for.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::until::wait_until;
use crate::watch::{Watch, size};
use crate::world::World;

/// Writes one line per run: what it saw.
const LOOK: &str = "run = 'echo \"$(cat a.txt)\" >> ../log'\n";

fn world(extra: &str) -> World {
    World::new().file("accel.toml", format!("version = 1\n[jobs.look]\n{LOOK}{extra}")).file("a.txt", "0")
}

fn git(world: &World, arguments: &[&str]) {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"];
    world.program("git").args(identity).args(arguments).run().code(0);
}

#[test]
fn an_editor_that_is_opened_and_closed_triggers_nothing_and_its_saves_do() {
    if !Path::new("/usr/bin/vim").exists() {
        eprintln!("skipped: vim is not installed");
        return;
    }
    let watch = Watch::start(world(""));
    watch.saw("0");
    let vim = |settings: &str, commands: &[&str]| {
        let base = ["-u", "NONE", "-N", "-e", "-s", "-c", settings];
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        watch.world.program("/usr/bin/vim").args(base).args(commands).arg("a.txt").run().code(0);
    };
    let mut number = 0;
    for settings in ["set backup backupcopy=yes", "set backup backupcopy=no", "set nobackup backupcopy=auto"]
    {
        for _ in 0..size(5, 50) {
            number += 1;
            // A swap file comes, is written and goes.
            vim(settings, &["preserve", "qall!"]);
            vim(settings, &[&format!("%s/.*/{number}/"), "preserve", "wqall"]);
            watch.saw(&number.to_string());
        }
    }
    let runs = watch.log().len();
    println!("{runs} runs, {number} saves");
    assert!((number + 1..=2 * number + 1).contains(&runs), "{runs} runs, {number} saves");
    let finished = watch.ends();
    for litter in [".swp", ".swo", "4913", "~"] {
        finished.stderr_lacks(litter);
    }
}

#[test]
fn what_tools_leave_beside_the_files_triggers_nothing() {
    let writes = "mkdir -p __pycache__ .pytest_cache/v && date +%N > __pycache__/a.pyc && \
                  date +%N > .pytest_cache/v/last && date +%N > out.txt && echo \"$(cat a.txt)\" >> ../log";
    let config = format!("version = 1\n[jobs.look]\nrun = '''{writes}'''\noutputs = ['out.txt']\n");
    let watch = Watch::start(World::new().file("accel.toml", config).file("a.txt", "0"));
    watch.saw("0");
    for number in 1..=10 {
        for litter in [".a.txt.swp", "a.txt~", "#a.txt#", "4913", "sub/.DS_Store", "sub/__pycache__/b.pyc"] {
            watch.write(litter, &number.to_string());
        }
        std::os::unix::fs::symlink("somebody@host.1", watch.path(".#a.txt")).unwrap();
        fs::remove_file(watch.path(".#a.txt")).unwrap();
        watch.write("a.txt", &number.to_string()).saw(&number.to_string());
    }
    assert_eq!(watch.log(), (0..=10).map(|number: i32| number.to_string()).collect::<Vec<_>>());
    watch.ends();
}

#[test]
fn a_job_that_writes_what_it_follows_is_named_and_gets_to_its_end() {
    let config = "version = 1\n[jobs.look]\nrun = '''date +%N > report.txt\n\
                  for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.02; done; echo done >> ../log'''\n";
    let mut watch = Watch::start(World::new().file("accel.toml", config));
    watch.running.wait_for_stderr("report.txt changes with every run, and interrupts runs no longer");
    watch.runs(3);
    watch.ends();
}

#[test]
fn reading_every_file_and_setting_times_triggers_nothing() {
    let world = world("");
    let files: Vec<_> =
        (0..size(2_000, 100_000)).map(|number| format!("many/{}/{number}", number / 500)).collect();
    for file in &files {
        world.write(file, file);
    }
    let watch = Watch::start(world);
    watch.saw("0");
    for file in &files {
        let path = watch.path(file);
        fs::read(&path).unwrap();
        let file = fs::File::open(&path).unwrap();
        file.set_times(fs::FileTimes::new().set_accessed(SystemTime::now())).unwrap();
    }
    watch.write("a.txt", "1").saw("1");
    assert_eq!(watch.log(), ["0", "1"]);
    watch.ends();
}

#[test]
fn a_branch_switch_is_one_run_and_a_rebase_ends_with_one_on_its_result() {
    let count = size(500, 5_000);
    let commits = size(5, 20);
    let job = "version = 1\n[jobs.look]\nrun = '''echo begin >> ../begun\n\
               echo \"$(cat a.txt) $(cat many/0) $(ls mine | wc -l)\" >> ../log'''\n";
    let world = World::new().file("accel.toml", job).file("a.txt", "base").file("mine/0", "");
    let many = |world: &World, text: &str| {
        for number in 0..count {
            world.write(format!("many/{number}"), format!("{text} {number}"));
        }
    };
    many(&world, "old");
    git(&world, &["init", "-q", "-b", "main"]);
    let commit = |world: &World| {
        git(world, &["add", "."]);
        git(world, &["commit", "-q", "-m", "state"]);
    };
    commit(&world);
    git(&world, &["checkout", "-q", "-b", "mine"]);
    for number in 1..=commits {
        world.write(format!("mine/{number}"), "x");
        commit(&world);
    }
    git(&world, &["checkout", "-q", "main"]);
    many(&world, "new");
    commit(&world);
    git(&world, &["checkout", "-q", "mine"]);
    let watch = Watch::start(world);
    watch.saw(&format!("base old 0 {}", commits + 1));
    git(&watch.world, &["checkout", "-q", "main"]);
    watch.saw("base new 0 1");
    let after_switch = watch.log().len();
    println!("{} runs for a switch of {count} files", after_switch - 1);
    // Two where git takes longer than accel's patience.
    assert!(after_switch <= 3, "{:?}", watch.log());
    git(&watch.world, &["checkout", "-q", "mine"]);
    watch.saw(&format!("base old 0 {}", commits + 1));
    let before = watch.log().len();
    git(&watch.world, &["rebase", "-q", "main"]);
    watch.saw(&format!("base new 0 {}", commits + 1));
    let runs = watch.log().len() - before;
    println!("{runs} runs for a rebase of {commits} commits");
    assert!(runs <= commits + 1, "{:?}", watch.log());
    watch.ends();
}

#[test]
fn a_root_that_stays_away_is_told_and_followed_again_when_it_is_back() {
    let mut watch = Watch::start(world(""));
    watch.saw("0");
    let (project, away) = (watch.world.project(), watch.world.root().join("away"));
    fs::rename(&project, &away).unwrap();
    fs::write(away.join("a.txt"), "1").unwrap();
    watch.running.wait_for_stderr("is gone; waiting for it to come back");
    assert_eq!(watch.log(), ["0"]);
    fs::rename(&away, &project).unwrap();
    watch.running.wait_for_stderr("the folder is back");
    watch.saw("1").write("a.txt", "2").saw("2");
    assert_eq!(watch.log(), ["0", "1", "2"]);
    watch.ends();
}

#[test]
fn a_change_of_the_image_and_of_what_it_is_made_from_is_followed() {
    let config = |value: &str| {
        format!(
            "version = 1\n[images.base]\nenv = {{ SHADE = '{value}' }}\n\
             [jobs.look]\nimage = 'base'\nrun = 'echo \"$SHADE $(cat a.txt)\" >> ../log'\n"
        )
    };
    let world = World::new().file("accel.toml", config("red")).file("a.txt", "0");
    let mut watch = Watch::start(world);
    watch.saw("red 0").write("accel.toml", &config("blue")).saw("blue 0");
    watch.running.wait_for_stderr("configuration: look: image changed");
    watch.write("a.txt", "1").saw("blue 1");
    // Broken by an image that is none, and repaired.
    watch.write("accel.toml", &config("blue").replace("image = 'base'", "image = 'gone'"));
    watch.running.wait_for_stderr("the last good configuration stays in use");
    watch.write("a.txt", "2").saw("blue 2");
    watch.write("accel.toml", &config("green")).saw("green 2");
    wait_until(|| watch.log().len() == 5, || format!("{:?}", watch.log()));
    watch.ends();
}
