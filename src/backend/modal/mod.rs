//! Jobs in Modal sandboxes, without Python.
//!
//! Speaks Modal's protocol itself: [`settings`] are the user's credentials and options as the official SDK reads
//! them, [`wire`] the messages, [`transport`] how a call is made and repeated, [`image`] how an image becomes the
//! requests that the official SDK would send. Nothing outside this folder sees a message of the wire.

pub mod image;
pub mod settings;
pub mod wire;
