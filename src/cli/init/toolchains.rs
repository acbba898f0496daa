//! What Rust and Go projects run without saying so anywhere.

use super::survey::{Files, FoundCommand};

pub fn commands(files: &Files<'_>) -> Vec<FoundCommand> {
    let mut found = Vec::new();
    if files.has("Cargo.toml") {
        found.push(command("test", "run the Rust tests", "cargo test", "Cargo.toml"));
        found.push(command("clippy", "lint the Rust code", "cargo clippy --all-targets", "Cargo.toml"));
    }
    if files.has("go.mod") {
        found.push(command("test", "run the Go tests", "go test ./...", "go.mod"));
        found.push(command("vet", "lint the Go code", "go vet ./...", "go.mod"));
    }
    found
}

fn command(name: &str, desc: &str, run: &str, source: &'static str) -> FoundCommand {
    FoundCommand {
        name: name.to_owned(),
        desc: Some(desc.to_owned()),
        run: run.split(' ').map(str::to_owned).collect(),
        source,
    }
}
