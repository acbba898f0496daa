//! The checked configuration: what the rest of accel sees of `accel.toml`.
//!
//! Every value knows where it came from ([`Origin`]). All text has been read and all units parsed; names of
//! images, jobs and profiles are known to exist. Texts marked [`Text`] may still hold `${matrix.…}`; the plan
//! fills them in.

mod image;
mod job;
mod route;

use std::path::PathBuf;

use indexmap::IndexMap;

pub use self::image::*;
pub use self::job::*;
pub use self::route::*;
use crate::base::money::Dollars;
use crate::base::size::Bytes;
use crate::diag::{Location, SourceMap};

/// Which layer of configuration a value was set in, weakest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    BuiltIn,
    /// A file named by `extends`.
    Extends,
    /// accel.toml (or accel.yaml) itself.
    File,
    Profile(String),
    /// accel.local.toml.
    Local,
    /// An `ACCEL_*` variable.
    Variable(String),
    /// A command-line flag.
    Flag(String),
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub layer: Layer,
    /// Absent for built-in values, variables and flags.
    pub location: Option<Location>,
}

/// A value and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valued<T> {
    pub value: T,
    pub origin: Origin,
}

/// A key that may be set. Boxed: most keys of most jobs are not.
pub type Setting<T> = Option<Box<Valued<T>>>;

/// A string that may hold `${matrix.NAME}` placeholders (`$${matrix.NAME}` escapes one).
pub type Text = String;

/// The whole of one accel.toml with everything it extends, after precedence.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of accel.toml: every relative path is relative to it.
    pub root: PathBuf,
    pub sources: SourceMap,
    /// Chosen profile, if any.
    pub profile: Option<String>,
    /// Names of all profiles of the file.
    pub profiles: Vec<String>,
    pub project: Valued<String>,
    pub modal: ModalSettings,
    pub defaults: JobSettings,
    pub sync: SyncSettings,
    pub images: IndexMap<String, Image>,
    pub jobs: IndexMap<String, Job>,
    /// `[[route]]`, after every job's own rules.
    pub shared_routes: Vec<SharedRule>,
    /// `[profile.x] route`: replaces every job's route.
    pub profile_route: Setting<Route>,
    pub budget: Budget,
    pub mcp: McpSettings,
}

#[derive(Debug, Clone)]
pub struct ModalSettings {
    pub app: Valued<String>,
    pub environment: Option<Valued<String>>,
    pub region: Vec<Valued<String>>,
    pub cloud: Option<Valued<String>>,
}

/// `[sync]`: what travels to Modal.
#[derive(Debug, Clone)]
pub struct SyncSettings {
    pub gitignore: Valued<bool>,
    pub include: Vec<Valued<String>>,
    pub exclude: Vec<Valued<String>>,
    pub max_size: Valued<Bytes>,
}

#[derive(Debug, Clone, Default)]
pub struct Budget {
    pub per_run: Setting<Dollars>,
    pub per_day: Setting<Dollars>,
    pub prewarm_per_day: Setting<Dollars>,
    pub on_exceed: Setting<OnExceed>,
    /// Dollars an hour of waiting is worth (`route = "auto"`).
    pub value_of_time: Setting<Dollars>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnExceed {
    Local,
    #[default]
    Stop,
}

#[derive(Debug, Clone)]
pub struct McpSettings {
    /// `None`: every job.
    pub jobs: Setting<Vec<String>>,
    pub exec: Valued<McpExec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum McpExec {
    None,
    Modal,
    Any,
}
