//! Jobs in Modal sandboxes, without Python.
//!
//! Speaks Modal's protocol itself, in layers: [`wire`] are the messages, [`method`] the calls, [`connect`] opens
//! channels, [`retry`] says when a call is repeated, [`control_plane`] and [`router`] make calls. [`settings`] are the
//! user's credentials and options as the official SDK reads them; [`image`] turns an image into the requests that
//! the official SDK would send. On top of that is [`backend`]: jobs on their way into sandboxes and back. Nothing outside
//! this folder sees a message of the wire.

pub mod account;
pub mod auth_token;
pub mod backend;
mod blob;
mod body;
mod build;
pub mod clock;
mod closing;
mod common;
pub mod connect;
pub mod connection;
pub mod control_plane;
mod create;
mod death;
mod definition;
pub mod error;
mod escape;
mod exec;
mod fresh;
mod generation;
pub mod identity;
mod ids;
pub mod image;
mod launch;
pub mod leases;
pub mod limits;
pub mod link;
pub mod method;
mod opening;
mod outputs;
mod prewarm;
pub mod probe;
pub mod purse;
pub mod quote;
pub mod rates;
mod refusal;
mod reporter;
mod resolve;
pub mod retry;
pub mod router;
mod run;
mod sandbox;
mod script;
mod session;
pub mod settings;
mod settling;
pub mod standing;
mod stdin;
pub mod sweep;
mod terminal;
mod token_file;
mod tree;
mod trouble;
mod tunnel;
mod upload;
pub mod variables;
pub mod warm;
mod way;
pub mod wire;

pub use backend::{ImageBuild, ModalBackend, ModalSettings, Reuse};
pub use common::Common;
pub use definition::lifetime;
pub use link::Access;
pub use prewarm::{Ahead, Need};
pub use terminal::TerminalKind;
pub use variables::Color;
