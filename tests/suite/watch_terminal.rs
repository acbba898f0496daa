//! What `accel watch` is like on a terminal: the line at the bottom, keys, what stays to be read, attention.

use crate::terminal::Terminal;
use crate::world::World;

/// The end of the line at the bottom, as it is shown where there is room.
const WAITS: &str = "q quit";
/// How accel's own line begins after a command that had the terminal: at the left of an empty line.
const AT_THE_LEFT: &str = "\r\x1b[K";
/// How the line at the bottom goes.
const ERASED: &str = "\r\x1b[J";

fn watch(job: &str) -> Terminal {
    watch_in(World::new(), job, &["accel", "watch", "it"])
}

fn watch_in(world: World, job: &str, program: &[&str]) -> Terminal {
    let config = format!("version = 1\n[jobs.it]\n{job}\n");
    Terminal::start_in(world.file("accel.toml", config).file("data", "one"), program)
}

#[test]
fn what_a_job_printed_stays_though_it_did_not_end_its_line() {
    let mut terminal = watch("run = 'printf \"saw-%s\" \"$(cat data)\"; ! grep -q bad data'");
    terminal.shows("saw-one").shows(AT_THE_LEFT).shows("✓ passed in").shows(WAITS);
    terminal.world.write("data", "two");
    // The verdict stays above, the line at the bottom goes.
    terminal.shows(ERASED).shows("✓ passed in").shows("\r\ndata changed → it");
    terminal.shows("saw-two").shows(AT_THE_LEFT).shows("✓ passed in").shows(WAITS);
    terminal.world.write("data", "bad");
    terminal.shows("saw-bad").shows(AT_THE_LEFT).shows("✗ it failed: exit code 1");
    terminal.shows("✗ failed: exit code 1").shows(WAITS);
    terminal.types("q").shows(ERASED).ends_with(0);
}

#[test]
fn the_line_fits_the_terminal_also_when_that_gets_another_size() {
    let mut terminal = watch("run = 'echo saw-$(cat data)'");
    terminal.shows("saw-one").shows("start · Enter again, a all, m move, q quit");
    terminal.resize(40, 50).shows(ERASED).shows("start · Enter a m q");
    // What was drawn takes two lines now.
    terminal.resize(40, 30).shows("\x1b[1A").shows(ERASED).shows("✓ passed in");
    terminal.resize(40, 120).shows(ERASED).shows("start · Enter again, a all, m move, q quit");
    terminal.types("q").ends_with(0);
}

#[test]
fn the_line_comes_back_after_a_pause() {
    let shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"];
    let mut terminal = watch_in(World::new(), "run = 'echo saw-$(cat data)'", &shell);
    terminal.types("accel watch it\n").shows("saw-one").shows(WAITS);
    terminal.types("\x1a").shows("Stopped").types("echo shell-$((40+2))\n").shows("shell-42");
    terminal.types("fg\n").shows("accel watch it").shows("✓ passed in").shows(WAITS);
    terminal.types("\n").shows("key → it").shows("saw-one").shows(WAITS);
    terminal.types("q").types("exit 0\n").ends_with(0);
}

#[test]
fn a_watch_that_began_in_the_background_has_the_keys_when_it_comes_to_the_foreground() {
    let shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"];
    let mut terminal = watch_in(World::new(), "run = 'echo saw-$(cat data)'", &shell);
    terminal.types("accel watch it & echo begun\n").shows("begun\r\n").shows("saw-one").shows(WAITS);
    terminal.types("fg\n").shows("accel watch it").shows("✓ passed in").shows(WAITS);
    terminal.types("r").shows("key → it").shows("saw-one").shows(WAITS);
    // Paused, and continued in the background, and back.
    terminal.types("\x1a").shows("Stopped").types("bg\n").shows("&").types("fg\n").shows("accel watch it");
    terminal.shows(WAITS).types("r").shows("key → it").shows("saw-one").shows(WAITS);
    terminal.types("q").types("exit 0\n").ends_with(0);
}

#[test]
fn what_is_said_between_two_runs_stands_above_the_line() {
    let mut terminal = watch("run = 'echo saw-$(cat data)'");
    terminal.shows(WAITS);
    let good = terminal.world.read("accel.toml");
    terminal.world.write("accel.toml", "version = 1\n[jobs.it]\nrun = 3\n");
    terminal.shows(ERASED).shows("expected a command").shows("the last good configuration stays in use");
    terminal.shows("✓ passed in").shows(WAITS);
    terminal.types("m").shows("the configuration has errors: the next runs stay where they are").shows(WAITS);
    terminal.world.write("accel.toml", good);
    terminal.shows(ERASED).shows("the configuration is in order again").shows("✓ passed in").shows(WAITS);
    terminal.types("q").ends_with(0);
}

/// Says what it read, and ends when it is let.
const HELD: &str = "run = '''
text=$(cat data); echo begin-$text
while [ ! -e ../let-$text ]; do sleep 0.01; done; echo end-$text'''
";

#[test]
fn a_key_during_a_run_begins_it_anew_or_has_it_once_more() {
    let mut terminal = watch(HELD);
    terminal
        .shows("begin-one")
        .types("r")
        .shows("stopping, to start anew")
        .shows("key → it")
        .shows("begin-one");
    terminal.world.write("../let-one", "");
    terminal.shows("end-one").shows(WAITS).types("q").ends_with(0);

    for policy in ["queue", "ignore"] {
        let mut terminal = watch(&format!("{HELD}watch.on_busy = '{policy}'"));
        terminal.shows("begin-one").types("\n").shows("once more after this run");
        terminal.world.write("../let-one", "");
        terminal.shows("end-one").shows("key → it").shows("end-one").shows(WAITS).types("q").ends_with(0);
    }
}

#[test]
fn arrows_and_function_keys_are_no_letters() {
    let mut terminal = watch("run = 'echo saw-$(cat data)'");
    terminal.shows(WAITS);
    // The keypad's 1 and its Enter, as some terminals send them, and an arrow.
    terminal.types("\x1bOq").types("\x1bOa").types("\x1b[A");
    terminal.world.write("data", "two");
    terminal.shows("data changed → it").shows("saw-two").shows(WAITS).types("q").ends_with(0);
}

#[test]
fn the_key_that_quits_asks_a_run_to_stop_and_kills_it_the_second_time() {
    let stubborn = "run = '''trap 'echo asked' TERM; echo begins; while :; do sleep 0.01 || :; done'''";
    let mut terminal = watch(&format!("{stubborn}\nwatch.stop_timeout = '10m'"));
    terminal.shows("begins").types("q").shows("stopping (q); once more to kill").shows("asked");
    terminal.types("q").shows("killing").ends_with(0);
}

#[test]
fn a_change_of_the_verdict_draws_attention_and_nothing_else_does() {
    let job = "run = 'echo saw-$(cat data); ! grep -q bad data'";
    let mut terminal = watch(&format!("{job}\nwatch.notify = 'bell'"));
    terminal.shows("saw-one").shows(WAITS);
    terminal.world.write("data", "two");
    terminal.shows("saw-two").shows(WAITS);
    terminal.world.write("data", "bad");
    assert!(!terminal.shown_before("saw-bad").contains('\x07'));
    terminal.shows(WAITS).shows("\x07");
    terminal.world.write("data", "bad again");
    terminal.shows(WAITS);
    terminal.world.write("data", "good");
    assert!(!terminal.shown_before("saw-good").contains('\x07'));
    terminal.shows(WAITS).shows("\x07").types("q").ends_with(0);

    let notified = "#!/bin/sh\nprintf '%s|' \"$@\" >> \"$HOME/notified\"; echo >> \"$HOME/notified\"\n";
    let world = World::new().command("notify-send", notified);
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_accel")).parent().unwrap().display().to_string();
    let path = format!("{bin}:{}:/usr/bin:/bin", world.root().join("bin").display());
    let world = world.env("PATH", path);
    let mut terminal =
        watch_in(world, &format!("{job}\nwatch.notify = 'desktop'"), &["accel", "watch", "it"]);
    for text in ["bad", "bad again", "good", "bad last"] {
        terminal.shows(WAITS);
        terminal.world.write("data", text);
        terminal.shows("data changed → it");
    }
    terminal.shows("saw-bad last").shows(WAITS).types("q").ends_with(0);
    let notified = terminal.world.read("../home/notified");
    let lines: Vec<&str> = notified.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("--app-name=accel|--|it failed|✗ failed: exit code 1 after "), "{lines:?}");
    assert!(lines[1].contains("|it passed|✓ passed in ") && !notified.contains('\x1b'), "{lines:?}");
}

#[test]
fn a_job_with_the_terminal_has_the_keys_while_it_runs() {
    let ask = "tty = true\nrun = 'echo asks; read -r line; echo \"got-$line-$(cat data)\"; [ $line != more ] || read -r line'";
    let mut terminal = watch(ask);
    // Keys of accel's would quit the watch.
    terminal.shows("asks").types("qam\n").shows("got-qam-one").shows(WAITS);
    terminal.types("r").shows("key → it").shows("asks");
    // Saved while it waits for an answer: begun anew, it has the keys again.
    terminal.world.write("data", "two");
    terminal.shows("stopping, to start anew").shows("data changed → it").shows("asks");
    terminal.types("q\n").shows("got-q-two").shows(WAITS);
    // Its Ctrl-C is its own; the watch goes on. Whoever has read the terminal is in its foreground.
    terminal
        .types("r")
        .shows("asks")
        .types("more\n")
        .shows("got-more")
        .types("\x03")
        .shows("ended by SIGINT");
    terminal.shows(WAITS);
    terminal.types("q").ends_with(0);
}

#[test]
fn the_screen_is_cleared_before_each_run_where_that_is_asked_for() {
    let mut terminal = watch("run = 'echo saw-$(cat data)'\nwatch.clear = true");
    terminal.shows("\x1b[2J").shows("saw-one").shows(WAITS);
    terminal.world.write("data", "two");
    terminal.shows("\x1b[2J").shows("data changed → it").shows("saw-two").shows(WAITS);
    terminal.types("q").ends_with(0);
}
