//! The engine on fake backends and a paused clock: no test here waits for real time.

mod budget;
mod cancellation;
mod exit_codes;
mod failures;
mod fallbacks;
mod races;
mod random;
mod random_graphs;
mod random_races;
mod retries;
mod scheduling;
mod world;
