//! The messages of Modal's two services, as generated from `schemas/*.proto`.
//!
//! Owns nothing but the inclusion: the files under `generated/` are made by the test `modal_wire` and compared
//! with a fresh generation by it. To refresh them after a change of the schemas:
//!
//! ```text
//! ACCEL_REFRESH_WIRE=1 cargo test --test suite modal_wire
//! ```

/// Package `modal.client`: the control plane.
#[allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]
pub mod client {
    include!("generated/modal.client.rs");
}

/// Package `modal.task_command_router`: commands inside one sandbox.
#[allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]
pub mod task_command_router {
    include!("generated/modal.task_command_router.rs");
}
