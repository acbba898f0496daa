//! Modal's two generations of sandboxes behind one predicate.
//!
//! What differs is which call is made; messages are the same.

use super::method::{Method, client};
use super::settings::Settings;
use super::wire::client as wire;
use crate::domain::Gpu;
use crate::store::journal::SandboxKind;

type Terminate = Method<wire::SandboxTerminateRequest, wire::SandboxTerminateResponse>;
type Wait = Method<wire::SandboxWaitRequest, wire::SandboxWaitResponse>;
type Tunnels = Method<wire::SandboxGetTunnelsRequest, wire::SandboxGetTunnelsResponse>;

/// A GPU needs the first generation; all else goes to the second, unless the user's settings say otherwise.
pub(super) fn kind(gpu: Option<&Gpu>, settings: &Settings) -> SandboxKind {
    if gpu.is_some() || !settings.sandbox_v2 { SandboxKind::V1 } else { SandboxKind::V2 }
}

pub(super) fn terminate(kind: SandboxKind) -> Terminate {
    match kind {
        SandboxKind::V1 => client::SANDBOX_TERMINATE,
        SandboxKind::V2 => client::SANDBOX_TERMINATE_V2,
    }
}

pub(super) fn wait(kind: SandboxKind) -> Wait {
    match kind {
        SandboxKind::V1 => client::SANDBOX_WAIT,
        SandboxKind::V2 => client::SANDBOX_WAIT_V2,
    }
}

pub(super) fn tunnels(kind: SandboxKind) -> Tunnels {
    match kind {
        SandboxKind::V1 => client::SANDBOX_GET_TUNNELS,
        SandboxKind::V2 => client::SANDBOX_GET_TUNNELS_V2,
    }
}
