//! accel: the jobs of one committed `accel.toml`, run on this machine or on Modal, routed by rule.
//!
//! ```text
//! accel.toml text → config (spanned → checked) → plan (pure) → route (pure) → engine → backend session
//!                                                                └─ events → sinks: terminal, JSON, …
//! ```
//!
//! | layer | modules | may use | may not |
//! |---|---|---|---|
//! | 0 | [`base`], [`diag`] | std, leaf crates | know the domain; async |
//! | 1 | [`domain`], [`event`], [`redact`], [`config`] | 0 | network, terminal |
//! | 2 | [`plan`], [`route`] | 0–1 | any I/O; files and facts are arguments |
//! | 3 | [`process`], [`net`], [`store`], [`workspace`], [`backend`] | 0–2 | clap, terminal, raw config |
//! | 4 | [`engine`], [`sink`], [`watch`] | 0–3 | engine names no backend; sinks name neither backend nor engine |
//! | 5 | [`cli`] | all | wire types of Modal |
//!
//! `tests/architecture.rs` enforces the table.
//!
//! | on disk | owner |
//! |---|---|
//! | `accel.toml`, `accel.local.toml`, files they extend | [`config`]; written once by `cli::init` |
//! | `<cache>/environments/v1/<key>`, `<cache>/tools/uv` | `backend::local::environment` |
//! | `<cache>/copies`: working trees that races work in | `workspace::copy` |
//! | `<state>`: database of leases, runs and remembered ids; `owners/`, `host` | `store::database`, `store::journal` |
//! | `<state>/history.*`: what runs took, until it is read | `store::history` |
//! | `<state>/logs` | `store::log`, `store::runs` |
//! | the stat cache of the working tree | `workspace::tree` |
//! | staged outputs beside their targets | `workspace::unpack` |

pub mod backend;
pub mod base;
pub mod cli;
pub mod config;
pub mod diag;
pub mod domain;
pub mod engine;
pub mod event;
pub mod net;
pub mod plan;
pub mod process;
pub mod redact;
pub mod route;
pub mod sink;
pub mod store;
pub mod watch;
pub mod workspace;
