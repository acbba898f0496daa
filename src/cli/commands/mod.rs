//! One file per command.

pub mod completions;
pub mod init;
pub mod list;
