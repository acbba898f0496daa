//! The tests' own Modal as a server of its own, for trying accel, or the official SDK, by hand.
//!
//! `cargo run --example fake_modal` prints what a client needs to know, as lines for a shell, and serves until it is
//! interrupted. With `--packages`, Python packages of images are really installed; with `--distance 40`, everything
//! takes 40 ms to the server and as long back. With `--count-calls` each line of standard input is answered by a number:
//! how many calls followed one another since the line before.
//!
//! Commands run on this machine, as you, without a container: see `fake_modal/mod.rs`.

#![allow(clippy::unwrap_used, reason = "a test program fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "standard output is what is read")]

#[path = "fake_modal/mod.rs"]
#[allow(dead_code, unused_imports, reason = "a library for every topic; each uses its part")]
mod fake_modal;

#[path = "until.rs"]
#[allow(dead_code, reason = "for tests that wait for this server")]
mod until;

use std::io::BufRead as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fake_modal::FakeModal;
use tokio::signal::unix::{SignalKind, signal};

fn main() {
    let mut modal = FakeModal::serve().lenient();
    let (mut distance, mut counts) = (Duration::ZERO, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--packages" => modal = modal.with_packages(),
            "--distance" => {
                let milliseconds = arguments.next().and_then(|text| text.parse().ok());
                distance = Duration::from_millis(milliseconds.expect("--distance takes milliseconds"));
                modal.put_at(distance);
            }
            "--count-calls" => counts = true,
            other => panic!("{other}: the options are --packages, --distance and --count-calls"),
        }
    }
    modal.allow_survivors();
    for (name, value) in modal.variables() {
        println!("export {name}={value}");
    }
    eprintln!("serving until Ctrl-C");
    let modal = Arc::new(modal);
    if counts {
        let modal = Arc::downgrade(&modal);
        std::thread::spawn(move || count_calls(&modal, distance));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).unwrap();
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.unwrap(),
            _ = terminate.recv() => {}
        }
    });
}

/// Until the server ends, or nobody asks any more.
fn count_calls(modal: &Weak<FakeModal>, distance: Duration) {
    for _ in std::io::stdin().lock().lines() {
        let Some(modal) = modal.upgrade() else { return };
        println!("{}", modal.sequential_calls_over(distance));
        modal.forget_calls();
    }
}
