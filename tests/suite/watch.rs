//! `accel watch` on a real folder: what triggers, what does not, what the last run saw.
//!
//! Runs are counted by what the job writes outside the project; the tests wait for runs and for their number, never
//! for time. That nothing more happens is seen by a change that comes after: runs are in order, so when it has been
//! seen, everything before it has been.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::until::wait_until;
use crate::world::{Running, Signal, World};

/// A job that writes one line per run into the log: the digest of what it saw, or what `$SAW` says.
fn config(extra: &str) -> String {
    format!("version = 1\n[jobs.look]\nrun = 'echo \"$(cat a.txt)\" >> ../log'\n{extra}")
}

pub struct Watch {
    pub world: World,
    pub running: Running,
}

/// How much of something there is: less where the suite runs, as much as reliability asks for with
/// `ACCEL_WATCH_FULL=1`.
pub fn size(usual: usize, full: usize) -> usize {
    if std::env::var_os("ACCEL_WATCH_FULL").is_some() { full } else { usual }
}

impl Watch {
    pub fn start(world: World) -> Self {
        Self::start_with(world, &["watch", "look"])
    }

    fn start_with(world: World, arguments: &[&str]) -> Self {
        let running = world.accel(arguments).spawn();
        Self { world, running }
    }

    pub fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.world.root().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until so many runs have written their line.
    #[track_caller]
    pub fn runs(&self, count: usize) -> &Self {
        wait_until(|| self.log().len() >= count, || format!("{count} runs: {:?}", self.log()));
        self
    }

    /// Waits until the last run saw this.
    #[track_caller]
    pub fn saw(&self, text: &str) -> &Self {
        let seen = || self.log().last().is_some_and(|line| line == text);
        wait_until(seen, || format!("{text:?}: {:?}", self.log()));
        self
    }

    pub fn write(&self, path: &str, text: &str) -> &Self {
        self.world.write(path, text);
        self
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.world.path(path)
    }

    #[track_caller]
    pub fn ends(mut self) -> crate::world::Finished {
        self.running.signal(Signal::TERM);
        let finished = self.running.finish();
        finished.code(143);
        finished
    }
}

/// Writes a text to a path in an editor's way.
type Save = fn(&Path, &str);

fn world() -> World {
    World::new().file("accel.toml", config("")).file("a.txt", "0")
}

#[test]
fn every_way_to_save_a_file_leads_to_a_run_on_its_final_contents() {
    let watch = Watch::start(world());
    watch.saw("0");
    let saves: [(&str, Save); 7] = [
        ("truncate and write", |path, text| fs::write(path, text).unwrap()),
        ("rename over (VS Code, sed -i, mv)", |path, text| {
            let new = path.with_extension("tmp");
            fs::write(&new, text).unwrap();
            fs::rename(new, path).unwrap();
        }),
        ("backup, then a new file (vim)", |path, text| {
            let backup = path.with_extension("txt~");
            fs::rename(path, &backup).unwrap();
            fs::write(path, text).unwrap();
            fs::remove_file(backup).unwrap();
        }),
        ("safe write by two renames (JetBrains)", |path, text| {
            let (new, old) = (path.with_extension("txt___jb_tmp___"), path.with_extension("txt___jb_old___"));
            fs::write(&new, text).unwrap();
            fs::rename(path, &old).unwrap();
            fs::rename(&new, path).unwrap();
            fs::remove_file(old).unwrap();
        }),
        ("copy to a backup, then write in place (emacs, vim backupcopy)", |path, text| {
            let backup = path.with_extension("txt~");
            fs::copy(path, &backup).unwrap();
            fs::write(path, text).unwrap();
            fs::remove_file(backup).unwrap();
        }),
        ("remove and write", |path, text| {
            fs::remove_file(path).unwrap();
            fs::write(path, text).unwrap();
        }),
        ("a formatter that writes once more", |path, text| {
            fs::write(path, format!(" {text} ")).unwrap();
            fs::write(path, text).unwrap();
        }),
    ];
    let mut number = 0;
    for _ in 0..size(10, 50) {
        for (how, save) in saves {
            number += 1;
            save(&watch.path("a.txt"), &number.to_string());
            wait_until(
                || watch.log().last().is_some_and(|line| *line == number.to_string()),
                || format!("{how}: {:?}", watch.log()),
            );
        }
    }
    // One for each, and the first; a save whose steps lie far apart on a busy machine may cost one more.
    let runs = watch.log().len();
    println!("{runs} runs, {number} saves");
    assert!((number + 1..=2 * number + 1).contains(&runs), "{runs} runs, {number} saves");
    watch.ends();
}

#[test]
fn a_file_in_folders_made_a_moment_ago_is_seen() {
    let config = "version = 1\n[jobs.look]\nrun = 'find . -name \"*.new\" | wc -l >> ../log'\n";
    let watch = Watch::start(World::new().file("accel.toml", config));
    watch.saw("0");
    for number in 1..=size(60, 200) {
        watch.write(&format!("deep{number}/er/still/file.new"), "x").saw(&number.to_string());
    }
    watch.ends();
}

#[test]
fn a_touch_a_rewrite_and_what_the_job_writes_trigger_nothing() {
    let config = "version = 1\n[jobs.look]\nrun = '''\n\
                  cat a.txt > copy && cat copy > a.txt && echo >> kept.log && mkdir -p out && date +%N > out/made && \
                  echo \"$(cat a.txt) $(cat b.txt)\" >> ../log'''\noutputs = [\"out/**\"]\nwatch.on_busy = \"queue\"\n";
    // A run that is interrupted while it writes leaves a.txt empty.
    let world = World::new()
        .file("accel.toml", config)
        .file(".gitignore", "copy\n*.log\n")
        .file("a.txt", "same")
        .file("b.txt", "0");
    let watch = Watch::start(world);
    watch.runs(1);
    for number in 1..=10 {
        let text = fs::read(watch.path("b.txt")).unwrap();
        fs::write(watch.path("b.txt"), &text).unwrap();
        let file = fs::File::options().append(true).open(watch.path("a.txt")).unwrap();
        file.set_modified(std::time::SystemTime::now()).unwrap();
        fs::read(watch.path("a.txt")).unwrap();
        watch.write("out/by-hand", &number.to_string()).write("more.log", &number.to_string());
        watch.write("b.txt", &number.to_string()).saw(&format!("same {number}"));
    }
    let expected: Vec<String> = (0..=10).map(|number| format!("same {number}")).collect();
    assert_eq!(watch.log(), expected, "one run for each change of contents");
    watch.ends();
}

#[test]
fn a_change_of_permissions_counts() {
    let config = "version = 1\n[jobs.look]\nrun = 'stat -c %a a.txt >> ../log'\n";
    let watch = Watch::start(World::new().file("accel.toml", config).file("a.txt", ""));
    watch.runs(1);
    fs::set_permissions(watch.path("a.txt"), fs::Permissions::from_mode(0o751)).unwrap();
    watch.saw("751");
    watch.ends();
}

#[test]
fn only_jobs_that_a_change_concerns_run_and_needs_come_first() {
    let config = r#"
version = 1
[jobs.build]
run = 'cp src/in.txt built; echo "build $(cat src/in.txt)" >> ../log'
inputs = ["src/**"]
outputs = ["built"]
[jobs.look]
needs = ["build"]
run = 'echo "look $(cat built) $(cat test.txt)" >> ../log'
watch.paths = ["test.txt"]
"#;
    let world = World::new()
        .file("accel.toml", config)
        .file("src/in.txt", "1")
        .file("test.txt", "a")
        .file("else", "");
    let watch = Watch::start(world);
    watch.saw("look 1 a");
    watch.write("test.txt", "b").saw("look 1 b");
    watch.write("else", "changed").write("src/in.txt", "2").saw("look 2 b");
    assert_eq!(watch.log(), ["build 1", "look 1 a", "look 1 b", "build 2", "look 2 b"]);
    watch.ends();
}

#[test]
fn a_change_during_a_run_follows_the_policy() {
    // The job reads, says so, and ends when it is let.
    let config = |policy: &str| {
        format!(
            "version = 1\n[jobs.look]\nwatch.on_busy = \"{policy}\"\nwatch.paths = [\"a.txt\"]\nrun = '''\n\
             text=$(cat a.txt); echo \"begin $text\" >> ../log\n\
             while [ ! -e ../let-$text ]; do sleep 0.01; done; echo \"end $text\" >> ../log'''\n"
        )
    };
    let let_go =
        |watch: &Watch, text: &str| fs::write(watch.world.root().join(format!("let-{text}")), "").unwrap();

    let watch = Watch::start(World::new().file("accel.toml", config("queue")).file("a.txt", "1"));
    watch.saw("begin 1").write("a.txt", "2");
    let_go(&watch, "1");
    watch.saw("begin 2");
    let_go(&watch, "2");
    watch.saw("end 2");
    assert_eq!(watch.log(), ["begin 1", "end 1", "begin 2", "end 2"]);
    watch.ends();

    let watch = Watch::start(World::new().file("accel.toml", config("restart")).file("a.txt", "1"));
    watch.saw("begin 1").write("a.txt", "2").saw("begin 2");
    let_go(&watch, "2");
    watch.saw("end 2");
    assert_eq!(watch.log(), ["begin 1", "begin 2", "end 2"]);
    watch.ends();
}

#[test]
fn a_restart_sends_the_signal_that_was_asked_for_and_waits_for_the_end() {
    let config = "version = 1\n[jobs.look]\nwatch = { stop_signal = \"SIGUSR1\", paths = [\"a.txt\"] }\nrun = '''\n\
                  trap 'echo asked >> ../log; sleep 0.2; echo gone >> ../log; exit 0' USR1\n\
                  echo \"begin $(cat a.txt)\" >> ../log; while :; do sleep 0.01; done'''\n";
    let mut watch = Watch::start(World::new().file("accel.toml", config).file("a.txt", "1"));
    watch.saw("begin 1").write("a.txt", "2").saw("begin 2");
    assert_eq!(watch.log(), ["begin 1", "asked", "gone", "begin 2"]);
    watch.running.wait_for_stderr("stopping, to start anew");
    watch.ends();
}

#[test]
fn the_configuration_is_followed_and_a_broken_one_changes_nothing() {
    let mut watch = Watch::start(world());
    watch.saw("0");
    let good = config("");
    watch.write("accel.toml", &format!("{good}# a comment changes nothing\n"));
    watch.write("accel.toml", "version = 1\n[jobs.look]\nrun = 3\n");
    watch.running.wait_for_stderr("the last good configuration stays in use");
    watch.write("a.txt", "1").saw("1");
    watch.write("accel.toml", &good.replace("$(cat a.txt)", "new $(cat a.txt)")).saw("new 1");
    watch.running.wait_for_stderr("look: run changed");
    watch.write("a.txt", "2").saw("new 2");
    // The job gets another name, and its name back.
    watch.write("accel.toml", &good.replace("look", "other"));
    watch.running.wait_for_stderr("unknown job `look`");
    watch.write("accel.toml", &good).saw("2");
    assert_eq!(watch.log(), ["0", "1", "new 1", "new 2", "2"]);
    watch.ends();
}

#[test]
fn a_folder_that_goes_away_and_comes_back_is_followed_again() {
    let watch = Watch::start(world());
    watch.saw("0");
    let (project, away) = (watch.world.project(), watch.world.root().join("away"));
    fs::rename(&project, &away).unwrap();
    fs::rename(&away, &project).unwrap();
    watch.write("a.txt", "1").saw("1");
    fs::remove_dir_all(&project).unwrap();
    fs::create_dir(&project).unwrap();
    watch.write("accel.toml", &config("")).write("a.txt", "2").saw("2");
    watch.write("a.txt", "3").saw("3");
    watch.ends();
}

#[test]
fn more_changes_than_the_system_remembers_are_found_by_looking() {
    let config = "version = 1\n[jobs.look]\nrun = 'find . -name \"*.x\" | wc -l >> ../log'\n";
    let mut watch = Watch::start(World::new().file("accel.toml", config).file("many/first.y", ""));
    watch.saw("0");
    // Stopped, it reads no events; the system keeps 16,384 by default.
    watch.running.signal(Signal::STOP);
    let count = size(20_000, 40_000);
    for number in 0..count {
        fs::write(watch.path(&format!("many/{number}.x")), "").unwrap();
    }
    watch.write("late/folder/one.x", "");
    watch.running.signal(Signal::CONT);
    watch.saw(&(count + 1).to_string());
    watch.write("late/folder/two.x", "").saw(&(count + 2).to_string());
    assert_eq!(watch.log(), ["0".to_owned(), (count + 1).to_string(), (count + 2).to_string()]);
    watch.ends();
}

#[test]
fn where_nothing_is_told_changes_are_found_by_looking() {
    let mut watch = Watch::start_with(world(), &["watch", "--poll", "look"]);
    watch.running.wait_for_stderr("looking for changes every second");
    watch.saw("0").write("a.txt", "1").saw("1");
    watch.write("new/folder/file", "x").runs(3);
    watch.write("accel.toml", &config("").replace("$(cat a.txt)", "new")).saw("new");
    watch.ends();
}

/// In a user namespace the system's limits can be lowered for accel alone.
#[test]
fn where_the_system_watches_no_more_changes_are_found_by_looking() {
    let inside = |world: &World, script: &str| {
        world.program("/usr/bin/unshare").args(["-Ur", "/bin/sh", "-c", script])
    };
    let possible = || inside(&world(), "echo 9 > /proc/sys/user/max_inotify_watches").run().status.success();
    if !Path::new("/usr/bin/unshare").exists() || !possible() {
        eprintln!("skipped: a user namespace with limits of its own cannot be made here");
        return;
    }
    let limits = [
        ("max_inotify_watches", 3, "fs.inotify.max_user_watches"),
        ("max_inotify_instances", 0, "fs.inotify.max_user_instances"),
    ];
    for (limit, number, remedy) in limits {
        let world = world().file("one/file", "").file("two/file", "").file("three/file", "");
        let script = format!(
            "echo {number} > /proc/sys/user/{limit}; exec '{}' watch look",
            env!("CARGO_BIN_EXE_accel")
        );
        let running = inside(&world, &script).spawn();
        let mut watch = Watch { world, running };
        watch.running.wait_for_stderr("looking for changes every second").wait_for_stderr(remedy);
        watch.saw("0").write("a.txt", "1").saw("1");
        watch.write("three/new/file", "x").runs(3);
        watch.ends();
    }
}

#[test]
fn a_linked_folder_counts_by_where_it_leads_and_by_what_is_there() {
    let config = config("").replace("a.txt", "link/a.txt");
    let world =
        World::new().file("accel.toml", config).file("here/a.txt", "0").file("there/a.txt", "elsewhere");
    std::os::unix::fs::symlink("here", world.path("link")).unwrap();
    let watch = Watch::start(world);
    watch.saw("0");
    // An editor that was given the path through the link.
    watch.write("link/a.txt", "1").saw("1");
    let (link, new) = (watch.path("link"), watch.path("new"));
    std::os::unix::fs::symlink("there", &new).unwrap();
    fs::rename(new, link).unwrap();
    watch.saw("elsewhere");
    watch.write("link/a.txt", "2").saw("2");
    watch.ends();
}

#[test]
fn programs_are_told_what_triggered() {
    let mut watch = Watch::start_with(world(), &["run", "--watch", "--json", "look"]);
    watch.running.wait_for_stdout("\"watch_waiting\"");
    watch.write("a.txt", "1").saw("1");
    watch.running.wait_for_stdout("\"a.txt\"");
    let lines = watch.ends().json_lines();
    let events: Vec<&str> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!(events[..3], ["watch_started", "watch_triggered", "run_started"]);
    let triggers: Vec<_> = lines.iter().filter(|line| line["event"] == "watch_triggered").collect();
    assert_eq!((&triggers[0]["cause"], &triggers[1]["cause"]), (&"start".into(), &"change".into()));
    assert_eq!(triggers[1]["paths"], serde_json::json!(["a.txt"]));
}

#[test]
fn a_reader_that_goes_away_ends_the_watch() {
    let config = "version = 1\n[jobs.look]\nrun = 'cat a.txt'\n";
    let world = World::new().file("accel.toml", config).file("a.txt", "first");
    let mut watch = Watch::start_with(world, &["watch", "--json", "look"]);
    watch.running.wait_for_stdout("\"watch_waiting\"").close_stdout();
    watch.write("a.txt", "second");
    watch.running.finish().code(141).stderr_lacks("panicked");
}
