//! accel's terminal on one side, a terminal in a sandbox on the other.
//!
//! The protocol carries the window's size at the start of a command and has no call for later ones. So a command beside
//! it sets them, by `stty` on the remote terminal: without `stty` in the image the size stays what it was.

use std::sync::Arc;

use bytes::Bytes;

use super::clock::Clock;
use super::exec::{Exec, Start};
use super::router::Router;
use super::script;
use super::wire::client::{PtyInfo, pty_info::PtyType};
use crate::process::{RawTerminal, WindowSize};

/// What programs are told about a terminal: the values of `TERM`, `COLORTERM` and `TERM_PROGRAM`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TerminalKind {
    pub term: String,
    pub color: String,
    pub program: String,
}

/// As the official SDK describes one (`modal shell`, `Sandbox.exec(pty=True)`).
pub(super) fn described(kind: &TerminalKind, size: Option<WindowSize>) -> PtyInfo {
    PtyInfo {
        enabled: true,
        winsz_rows: size.map_or(0, |size| size.rows.into()),
        winsz_cols: size.map_or(0, |size| size.columns.into()),
        env_term: kind.term.clone(),
        env_colorterm: kind.color.clone(),
        env_term_program: kind.program.clone(),
        pty_type: PtyType::Shell as i32,
        no_terminate_on_idle_stdin: true,
    }
}

/// Passes on every change of the window's size; never ends.
pub(super) async fn follow_size(
    terminal: &mut RawTerminal,
    router: &Router,
    clock: &Arc<dyn Clock>,
    task: &str,
) {
    let mut known = terminal.size();
    loop {
        terminal.resized().await;
        let size = terminal.size();
        let Some(new) = size.filter(|_| size != known) else { continue };
        known = size;
        let set = async {
            let start = Start { argv: script::resize(new), ..Start::default() };
            let exec = Exec::start(router, clock, task, start).await?;
            // One after the other: the last size is to win.
            tokio::try_join!(exec.wait(), exec.write_stdin(Bytes::new())).map(drop)
        };
        if let Err(error) = set.await {
            tracing::debug!(%error, "the window's size was not passed on");
        }
    }
}
