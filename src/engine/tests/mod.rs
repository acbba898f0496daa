//! The engine on fake backends and a paused clock: no test here waits for real time.

mod cancellation;
mod exit_codes;
mod failures;
mod random_graphs;
mod scheduling;
mod world;
