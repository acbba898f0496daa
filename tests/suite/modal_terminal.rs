//! What reaches a command on Modal from accel's own standard input and terminal, and what the terminal is like after.

use std::io::Write;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

use crate::fake_modal::{FakeModal, Fault};
use crate::terminal::Terminal;
use crate::world::World;

const JOBS: &str = r#"
version = 1
[jobs.it]
run = "true"
env = { FROM_JOB = "yes" }
[jobs.ask]
tty = true
route = "modal"
run = 'read -r line; echo "got-$line" | tee out.txt; test -t 1 && echo sees-a-terminal; exit 3'
outputs = ["out.txt"]
[jobs.serves]
tty = true
route = "modal"
ports = [8000]
run = 'read -r line; echo "got-$line"'
[images.plain]
env = { FROM_IMAGE = "yes" }
"#;

fn world(modal: &FakeModal) -> World {
    World::new().file("accel.toml", JOBS).file("tree.txt", "from the tree\n").envs(modal.variables())
}

const PLACES: [&str; 2] = ["local", "modal"];

/// Not text, and no piece of it like another.
fn bytes(count: u32) -> Vec<u8> {
    (0..count).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

fn sum(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "  -\n"
}

#[test]
fn exec_passes_standard_input_on_byte_for_byte() {
    let modal = FakeModal::serve();
    let world = world(&modal);
    for place in PLACES {
        let exec = |command: &[&str]| world.accel(["exec", "it", "--on", place, "--"]).args(command);
        for input in [bytes(1_000_000), b"no end of line".to_vec(), Vec::new()] {
            exec(&["sha256sum"]).stdin(input.clone()).run().code(0).stdout(&sum(&input));
        }
        // Its end comes, and what is behind the first line is still there for the second reader.
        exec(&["sh", "-c", "read -r first; echo $first.; cat"])
            .stdin("one\ntwo\n")
            .run()
            .code(0)
            .stdout("one.\ntwo\n");
    }
    let file = std::fs::File::open(world.path("tree.txt")).unwrap();
    world
        .accel(["exec", "it", "--on", "modal", "--", "cat"])
        .stdin_from(file)
        .run()
        .stdout("from the tree\n");
}

#[test]
fn exec_gives_up_nothing_of_its_input_when_connections_break() {
    let modal = FakeModal::serve();
    let world = world(&modal);
    let input = bytes(1_500_000);
    for (number, fault) in [
        (1, Fault::AnswerLost),
        (2, Fault::Disconnected),
        (3, Fault::code(Code::Unavailable)),
        (2, Fault::code(Code::DeadlineExceeded)),
    ] {
        modal.fail_nth("TaskExecStdinWrite", number, fault.clone());
        let done = world.accel(["exec", "it", "--on", "modal", "--", "sha256sum"]).stdin(input.clone()).run();
        assert_eq!(done.code(0).stdout_text(), sum(&input), "{fault:?}");
    }
}

#[test]
fn a_command_that_does_not_read_holds_nobody_up() {
    let modal = FakeModal::serve();
    let world = world(&modal);
    for place in PLACES {
        let exec = |command: &[&str]| world.accel(["exec", "it", "--on", place, "--"]).args(command);
        // A silent pipe that nobody closes.
        let mut running = exec(&["echo", "done"]).spawn();
        let silent = running.stdin();
        running.finish().code(0).stdout("done\n");
        drop(silent);
        // One that never ends.
        let mut running = exec(&["head", "-c", "3"]).spawn();
        let mut endless = running.stdin();
        let writer = std::thread::spawn(move || while endless.write_all(b"abcdefgh").is_ok() {});
        running.finish().code(0).stdout("abc");
        writer.join().unwrap();
        // Closed by the command, which goes on.
        exec(&["sh", "-c", "exec <&-; echo closed"]).stdin(bytes(500_000)).run().code(0).stdout("closed\n");
    }
}

#[test]
fn a_slow_reader_slows_the_writer() {
    let modal = FakeModal::serve();
    let world = world(&modal);
    let script = "echo ready; until test -e /tmp/accel.go; do sleep 0.02; done; wc -c";
    let mut running = world.accel(["exec", "it", "--on", "modal", "--", "sh", "-c", script]).spawn();
    let mut pipe = running.stdin();
    let (sender, written) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        for _ in 0..64 {
            pipe.write_all(&vec![0; 1 << 20]).unwrap();
            let _ = sender.send(());
        }
    });
    running.wait_for_stdout("ready\n");
    // What accel and the pipes hold, and no more.
    let mut count = 0;
    while written.recv_timeout(Duration::from_secs(2)).is_ok() {
        count += 1;
    }
    assert!(count < 8, "{count} MiB were taken");
    let root = modal.root_of(&modal.alive()[0].id);
    std::fs::create_dir_all(root.join("tmp")).unwrap();
    std::fs::write(root.join("tmp/accel.go"), "").unwrap();
    running.finish().code(0).stdout(&format!("ready\n{}\n", 64 << 20));
    writer.join().unwrap();
}

#[test]
fn a_shell_has_the_window_the_environment_and_the_tree() {
    let modal = FakeModal::serve();
    let world = world(&modal).env("TERM", "xterm-256color");
    let mut terminal = Terminal::start_in(world, &["accel", "shell", "it", "--on", "modal"]);
    terminal.types("stty size; echo $TERM-$FROM_JOB; cat tree.txt\r");
    terminal.shows("40 120").shows("xterm-256color-yes").shows("from the tree");
    // Keys that mean something here mean it there.
    terminal.types("sleep 600\r").shows("sleep 600").types("\x03");
    terminal.types("echo code-$?\r").shows("code-130");
    terminal.types("exit 7\r");
    terminal.ends_with(7);
}

#[test]
fn a_shell_of_an_image_hears_of_a_new_window_size() {
    let modal = FakeModal::serve();
    let mut terminal = Terminal::start_in(world(&modal), &["accel", "shell", "plain", "--on", "modal"]);
    terminal.types("echo $FROM_IMAGE-sir; while ! read -t 0.05; do stty size; done\r");
    terminal.shows("yes-sir").shows("40 120").resize(50, 100).shows("50 100");
    // A Ctrl-C that meets the shell between two commands may reach neither.
    terminal.types("\r").types("exit 3\r");
    terminal.ends_with(3);
}

/// Runs accel between two looks at the modes of the terminal; says `same-CODE` where they are the same.
fn between_looks(accel: &str) -> String {
    format!(
        "trap : INT; stty -a > before; sh -c 'echo $$ > pid; exec {accel}'; code=$?; stty -a > after; cmp before after && echo same-$code"
    )
}

#[test]
fn the_terminal_is_as_it_was_however_a_shell_ends() {
    let modal = FakeModal::serve();
    let script = between_looks("accel shell it --on modal");
    let start = || {
        let mut terminal = Terminal::start_in(world(&modal), &["sh", "-c", &script]);
        terminal.types("echo up-$((40+2))\r").shows("up-42");
        terminal
    };
    let mut exits = start();
    exits.types("exit 5\r").shows("same-5");

    let mut leaves = start();
    leaves.types("\r~.").shows("left with ~.").shows("same-137");

    let mut dies = start();
    let sandbox = modal.alive().pop().unwrap().id;
    modal.kill(&sandbox, crate::fake_modal::Death::Timeout);
    dies.shows("end of its lifetime").shows("same-125");

    let mut is_stopped = start();
    let pid = is_stopped.world.read("pid").trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    is_stopped.shows("same-143");
}

#[test]
fn a_terminal_that_does_not_answer_can_be_left() {
    let modal = FakeModal::serve();
    modal.allow_survivors();
    let script = between_looks("accel shell it --on modal");
    let mut terminal = Terminal::start_in(world(&modal), &["sh", "-c", &script]);
    terminal.types("echo up-$((40+2))\r").shows("up-42");
    modal.partition();
    terminal.types("\r~.").shows("left with ~.");
    // Ctrl-C is accel's own again.
    terminal.types("\x03").shows("stopping").types("\x03").types("\x03").shows("same-");
    modal.heal();
}

#[test]
fn accels_own_lines_begin_at_the_left_while_every_key_is_passed_on() {
    let modal = FakeModal::serve();
    let mut terminal = Terminal::start_in(world(&modal), &["accel", "run", "serves"]);
    // The command says nothing before it has read a line, so this is the end of accel's own.
    terminal.shows("port 8000 is at https://").shows("\r\n");
    terminal.types("hello\r").shows("got-hello");
    terminal.ends_with(0);
}

#[test]
fn three_signals_and_a_panic_leave_the_terminal_as_it_was() {
    let modal = FakeModal::serve();
    modal.allow_survivors();
    let script = between_looks("accel shell it --on modal");
    let mut terminal = Terminal::start_in(world(&modal), &["sh", "-c", &script]);
    terminal.types("echo up-$((40+2))\r").shows("up-42");
    modal.partition();
    let pid = Pid::from_raw(terminal.world.read("pid").trim().parse().unwrap()).unwrap();
    for _ in 0..3 {
        // It may be gone after the first already.
        let _ = kill_process(pid, Signal::TERM);
    }
    terminal.shows("same-143");
    modal.heal();

    let helper = crate::beacons::helper();
    let script = between_looks(&format!("{helper} panic-raw"));
    let mut terminal = Terminal::start_in(World::new(), &["sh", "-c", &script]);
    terminal
        .shows("index out of range\r\nhelp: this is a mistake in accel")
        .shows("line\r\n")
        .shows("same-125");
}

#[test]
fn a_job_at_the_terminal_brings_its_outputs_back() {
    let modal = FakeModal::serve();
    let mut terminal = Terminal::start_in(world(&modal), &["accel", "run", "ask"]);
    terminal.shows("ask → modal").types("hello\r").shows("got-hello").shows("sees-a-terminal");
    terminal.ends_with(3);
    assert_eq!(terminal.world.read("out.txt"), "got-hello\n");
}

#[test]
fn without_a_terminal_there_is_none_there_either() {
    let modal = FakeModal::serve();
    let world = world(&modal);
    for place in PLACES {
        let shell = world.accel(["shell", "it", "--on", place]).env("SHELL", "/bin/sh");
        let done = shell.stdin("test -t 0 || echo no terminal\necho $FROM_JOB >&2\nexit 4\n").run();
        done.code(4).stdout("no terminal\n").stderr_has("yes\n");
    }
    let asked = world.accel(["run", "ask"]).stdin("piped\n").run();
    asked.code(3).stdout("got-piped\n");
    // On a terminal, but with output that goes elsewhere.
    let script =
        "accel exec it --on modal -- sh -c 'read -r line; test -t 1 || echo plain-$line' > out; cat out";
    let mut terminal = Terminal::start_in(world, &["sh", "-c", script]);
    terminal.types("typed\r").shows("plain-typed");
    terminal.ends_with(0);
}

#[test]
fn a_changed_tree_does_not_get_in_the_way_of_the_input() {
    let modal = FakeModal::serve();
    let world = world(&modal);
    let exec = || world.accel(["exec", "it", "--on", "modal", "--", "cat", "tree.txt", "-"]).stdin("input\n");
    exec().run().code(0).stdout("from the tree\ninput\n");
    world.write("tree.txt", "changed\n");
    exec().run().code(0).stdout("changed\ninput\n");
}
