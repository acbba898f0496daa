//! Commands through the real binary in an isolated home.

#[path = "../support/world.rs"]
#[allow(dead_code, reason = "a library for every topic; each uses its part")]
mod world;

mod cli_basics;
