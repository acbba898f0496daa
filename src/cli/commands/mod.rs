//! One file per command.

pub mod completions;
pub mod doctor;
pub mod init;
pub mod list;
