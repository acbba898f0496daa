//! One file per command: parse → one operation → print.

pub mod check;
pub mod completions;
pub mod doctor;
pub mod explain;
pub mod image;
pub mod init;
pub mod list;
pub mod plan;
pub mod run;
pub mod schema;
pub mod sync;
pub mod welcome;
