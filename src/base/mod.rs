//! Leaf values that every layer may use: units, digests, exit codes, quoting, names.
//!
//! Owns the text forms of durations, sizes, money and comparisons. Nothing here knows what a job is,
//! reads a file or waits for anything.

pub mod compare;
pub mod digest;
pub mod duration;
pub mod exit_code;
pub mod files;
pub mod interpolate;
pub mod money;
pub mod quote;
pub mod size;
pub mod suggest;
