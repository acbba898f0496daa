//! Jobs in Modal sandboxes, without Python.
//!
//! Speaks Modal's protocol itself, in layers: [`wire`] are the messages, [`method`] the calls, [`connect`] opens
//! channels, [`retry`] says when a call is repeated, [`control_plane`] and [`router`] make calls. [`settings`] are the
//! user's credentials and options as the official SDK reads them; [`image`] turns an image into the requests that
//! the official SDK would send. Nothing outside this folder sees a message of the wire.

pub mod account;
pub mod auth_token;
pub mod clock;
pub mod connect;
pub mod control_plane;
pub mod error;
pub mod identity;
pub mod image;
pub mod leases;
pub mod method;
pub mod probe;
pub mod retry;
pub mod router;
pub mod settings;
pub mod sweep;
pub mod wire;
