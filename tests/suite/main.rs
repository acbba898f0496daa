//! Commands through the real binary in an isolated home.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/world.rs"]
#[allow(dead_code, reason = "a library for every topic; each uses its part")]
mod world;

#[path = "../support/until.rs"]
mod until;

#[path = "../support/beacons.rs"]
mod beacons;
mod budget;

mod cli_basics;
mod cli_commands;
mod cli_exit_codes;
mod cli_images;
mod cli_init;
mod cli_readme;
mod cli_suggestions;
mod cli_surroundings;
mod cli_terminal;
mod config_diagnostics;
mod config_load;
mod config_schema;
mod container;
mod environment;
mod examples;
mod fallback_matrix;
mod outlook;
mod output;
mod process_accel;
mod process_local;
mod terminal;

#[path = "../support/fake_modal/mod.rs"]
#[allow(dead_code, unused_imports, reason = "a library for every topic; each uses its part")]
mod fake_modal;
#[path = "../support/modal_project.rs"]
mod modal_project;
#[path = "../support/modal_world.rs"]
mod modal_world;
#[path = "../support/official_sdk.rs"]
mod official_sdk;
#[path = "../support/python.rs"]
mod python;

mod canary;
mod history;
mod leases;
mod modal_ahead;
mod modal_answers;
mod modal_cli;
mod modal_examples;
mod modal_faults;
mod modal_images;
mod modal_limits;
mod modal_network;
mod modal_outages;
mod modal_parity;
mod modal_promises;
mod modal_refusals;
mod modal_run;
mod modal_sdk;
mod modal_sdk_faults;
mod modal_settings;
mod modal_signals;
mod modal_terminal;
mod modal_transport;
mod modal_warm;
mod modal_watch;
mod modal_wire;
mod races;
mod routing;
mod tree_hash;
mod tree_scan;
mod tree_unpack;
mod watch;
mod watch_places;
mod watch_reliability;
mod watch_terminal;
mod watch_torture;
