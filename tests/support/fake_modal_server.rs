//! The tests' own Modal as a server of its own, for trying accel, or the official SDK, by hand.
//!
//! `cargo run --example fake_modal` prints what a client needs to know, as lines for a shell, and serves until it is
//! interrupted. With `--packages`, Python packages of images are really installed; with `--distance 40`, everything
//! takes 40 ms to the server and as long back.
//!
//! Commands run on this machine, as you, without a container: see `fake_modal/mod.rs`.

#![allow(clippy::unwrap_used, reason = "a test program fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "standard output is what is read")]

#[path = "fake_modal/mod.rs"]
#[allow(dead_code, unused_imports, reason = "a library for every topic; each uses its part")]
mod fake_modal;

use std::time::Duration;

use fake_modal::FakeModal;
use tokio::signal::unix::{SignalKind, signal};

fn main() {
    let mut modal = FakeModal::serve().lenient();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--packages" => modal = modal.with_packages(),
            "--distance" => {
                let milliseconds = arguments.next().and_then(|text| text.parse().ok());
                modal.put_at(Duration::from_millis(milliseconds.expect("--distance takes milliseconds")));
            }
            other => panic!("{other}: the options are --packages and --distance"),
        }
    }
    modal.allow_survivors();
    for (name, value) in modal.variables() {
        println!("export {name}={value}");
    }
    eprintln!("serving until Ctrl-C");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).unwrap();
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.unwrap(),
            _ = terminate.recv() => {}
        }
    });
}
