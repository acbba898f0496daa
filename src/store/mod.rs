//! accel's own places on disk: where they are, and who may write there at one moment.
//!
//! Owns the choice of the state and cache directories and the lock files in them. Nothing is opened or
//! created before it is needed: a plain host job touches neither. Any number of accel processes may run at once.
//!
//! | path | owner |
//! |---|---|
//! | `<cache>/environments/v1/` | [`crate::backend::local::environment`] |
//! | `<cache>/tools/uv/<version>/` | [`crate::backend::local::environment`] |

pub mod directories;
pub mod lock;

pub use directories::{Directories, DirectoryError};
pub use lock::Lock;
