//! The engine on fake backends and a paused clock: no test here waits for real time.

mod budget;
mod cancellation;
mod exit_codes;
mod failures;
mod fallbacks;
mod random_graphs;
mod retries;
mod scheduling;
mod world;
