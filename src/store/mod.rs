//! accel's own places on disk: where they are, and who may write there at one moment.
//!
//! Owns the choice of the state and cache directories, the lock files in them and the state database. Nothing is
//! opened or created before it is needed: a plain host job opens no database and leaves one line in a file. Any number of accel processes may run
//! at once.
//!
//! | path | owner |
//! |---|---|
//! | `<state>/accel.db` | [`database`]; its tables: [`history`], [`journal`], [`ledger`], [`remembered`], [`runs`] |
//! | `<state>/history.spool`, `history.folding`, `history.lock` | [`history`] |
//! | `<state>/logs/` | [`runs`]; the format of a file: [`log`] |
//! | `<state>/host`, `<state>/owners/` | [`journal`] |
//! | `<cache>/environments/v1/` | [`crate::backend::local::environment`] |
//! | `<cache>/tools/uv/<version>/` | [`crate::backend::local::environment`] |

pub mod database;
pub mod directories;
pub mod history;
pub mod journal;
pub mod ledger;
pub mod lock;
pub mod log;
pub mod remembered;
pub mod runs;

pub use database::{Database, DatabaseError};
pub use directories::{Directories, DirectoryError};
pub use history::History;
pub use journal::{Journal, Lease};
pub use ledger::Ledger;
pub use lock::Lock;
pub use remembered::Remembered;
