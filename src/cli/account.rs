//! The user's account of Modal as this machine knows it: settings, credentials, and how it introduces itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::ambient::Variables;
use crate::backend::modal::Access;
use crate::backend::modal::clock::SystemClock;
use crate::backend::modal::identity::Machine;
use crate::backend::modal::limits::Limits;
use crate::backend::modal::settings::{self, Settings, SettingsError};
use crate::net::NetworkSettings;

/// Where the user's settings are, and what they say.
pub fn load(variables: &BTreeMap<String, String>) -> (PathBuf, Result<Settings, SettingsError>) {
    let home = variables.get("HOME").map(PathBuf::from).unwrap_or_default();
    let path = settings::config_path(&home, variables);
    let text = std::fs::read_to_string(&path).ok();
    let settings = Settings::load(&path, text.as_deref(), variables);
    (path, settings)
}

/// What connecting takes; nothing is opened.
pub fn access(variables: &Variables, network: NetworkSettings) -> Access {
    let (config_path, settings) = load(&variables.texts());
    let (clock, limits) = (Arc::new(SystemClock), Limits::default());
    Access { settings, config_path, machine: machine(), network, clock, opening: None, limits }
}

/// This machine as `uname` names it.
pub fn machine() -> Machine {
    let name = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let system = text(name.sysname());
    Machine {
        node: text(name.nodename()),
        system: if system == "Darwin" { "macOS".to_owned() } else { system },
        release: text(name.release()),
        arch: text(name.machine()),
    }
}
