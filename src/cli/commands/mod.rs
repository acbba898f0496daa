//! One file per command: parse → one operation → print.

pub mod adhoc;
pub mod check;
pub mod completions;
pub mod doctor;
pub mod explain;
pub mod history;
pub mod image;
mod image_on_modal;
pub mod init;
pub mod list;
pub mod logs;
pub mod plan;
pub mod prune;
pub mod ps;
pub mod run;
pub mod schema;
pub mod stop;
pub mod sync;
pub mod unknown;
pub mod watch;
pub mod welcome;
