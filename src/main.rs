//! The `accel` command: collects its surroundings, runs one command, exits.

fn main() {}
