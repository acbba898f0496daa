//! What is begun before it is known to be needed, through the real binary: sandboxes that are asked for while the tree is
//! walked, and that none of them is left when they are not used.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::fake_modal::FakeModal;
use crate::modal_world::world;
use crate::world::{Finished, World};

const SHOW: &str = "[jobs.it]\nrun = 'cat data; ls | wc -l'\n";

fn run(world: &World) -> Finished {
    world.accel(["run", "it"]).run()
}

/// Holds a lease on a file: whoever opens it waits until the lease is given back.
const HOLD: &str = "
import fcntl, signal, sys
def asked(*_):
    print('asked', flush=True)
signal.signal(signal.SIGIO, asked)
file = open(sys.argv[1], 'r+')
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
sys.stdin.read()
";

/// The system takes a lease away after 45 seconds.
const LEASE: Duration = Duration::from_secs(30);

/// A walk reads the ignore rules of the tree, so it goes no further before the gate is dropped.
struct Gate {
    holder: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Gate {
    /// `None` where there are no leases.
    fn close(world: &World) -> Option<Self> {
        let mut holder = Command::new("python3");
        holder.args(["-c", HOLD]).arg(world.path(".gitignore")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = holder.spawn().ok()?;
        let mut said = BufReader::new(holder.stdout.take()?).lines();
        let held = said.next()?.ok()?;
        assert_eq!(held, "held");
        Some(Self { holder, said })
    }

    fn wait_for_a_walk(&mut self) {
        assert_eq!(self.said.next().unwrap().unwrap(), "asked");
    }

    fn open(mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().unwrap();
    }
}

#[test]
fn a_sandbox_is_asked_for_while_the_tree_is_walked() {
    let modal = FakeModal::serve();
    let world = world(&modal, SHOW).file("data", "1\n").file(".gitignore", "ignored\n");
    run(&world).code(0).stdout("1\n2\n");
    world.write("data", "2\n");
    modal.forget_calls();
    let Some(mut gate) = Gate::close(&world) else {
        println!("skipped: python3 cannot hold a lease on a file here");
        return;
    };
    let running = world.accel(["run", "it"]).spawn();
    gate.wait_for_a_walk();
    let held = Instant::now();
    modal.wait_for_calls_of("SandboxCreateV2", 1, || held.elapsed() > LEASE);
    assert_eq!(modal.calls_of("SandboxCreateV2").len(), 1, "nobody waits for the tree");
    gate.open();
    running.finish().code(0).stdout("2\n2\n");
    assert_eq!((modal.sandboxes().len(), modal.alive().len()), (2, 0));
}

#[test]
fn a_sandbox_that_was_asked_for_too_early_is_ended() {
    let modal = FakeModal::serve();
    let world = world(&modal, SHOW).file("data", "1\n");
    run(&world).code(0).stdout("1\n2\n");
    for number in 0..300 {
        world.write(format!("more{number}"), "");
    }
    run(&world).code(0).stdout("1\n302\n");
    assert_eq!((modal.sandboxes().len(), modal.alive().len()), (3, 0), "more has changed than follows");
    run(&world).code(0).stdout("1\n302\n");
    assert_eq!((modal.sandboxes().len(), modal.alive().len()), (4, 0), "the new mount is known now");
}

#[test]
fn a_tree_that_cannot_be_sent_leaves_no_sandbox() {
    let modal = FakeModal::serve();
    let world = world(&modal, &format!("[sync]\nmax_size = '1MB'\n{SHOW}")).file("data", "1\n");
    run(&world).code(0);
    world.write("big", vec![0; 2 << 20]);
    run(&world).code(125).stderr_has("max_size").stderr_lacks("may still run");
    assert!(modal.alive().is_empty());
    world.accel(["ps"]).run().code(0).stderr_has("nothing of accel runs on Modal");
}
