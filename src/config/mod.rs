//! accel.toml: read, merged, checked.
//!
//! Pipeline: text → spanned tree (TOML or YAML) → raw settings per file → merged by precedence (built-in,
//! `extends`, file, profile, accel.local.toml, `ACCEL_*`) → checked [`model::Config`]. The only place that reads
//! accel.toml. Every stage collects all its findings; nothing here prints, waits or reaches a network.

pub mod model;
