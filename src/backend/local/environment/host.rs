//! What the machine gives to a build: variables, programs, directories, network.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::net::NetworkSettings;
use crate::process::{Supervisor, path_folders};
use crate::store::Directories;

/// Values of this machine, read at the edge.
#[derive(Debug, Clone)]
pub struct Host {
    pub directories: Directories,
    /// The whole environment of accel.
    pub variables: BTreeMap<OsString, OsString>,
    pub network: NetworkSettings,
    pub supervisor: Supervisor,
}

/// Variables that would make an installer work on something else than the environment it is told to, or that a
/// job must not see inside one.
pub(super) const MISLEADING: [&str; 4] = ["VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH"];

/// Settings of uv that change what it works on; those on *how* (indexes, cache, TLS, timeouts) are kept.
const UV_MISLEADING: [&str; 12] = [
    "UV_PROJECT_ENVIRONMENT",
    "UV_PROJECT",
    "UV_WORKING_DIRECTORY",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
    "UV_TARGET",
    "UV_PREFIX",
    "UV_FROZEN",
    "UV_LOCKED",
    "UV_NO_SYNC",
    "UV_CONFIG_FILE",
    "UV_VENV_CLEAR",
];

/// Where the user's own machine gets packages from.
const INDEX_VARIABLES: [&str; 6] = [
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
];

impl Host {
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    pub(super) fn path(&self) -> &OsStr {
        self.variable("PATH").unwrap_or_default()
    }

    /// The environment of every installer: the user's, without what would mislead it.
    ///
    /// The user's uv configuration files do not count (`UV_NO_CONFIG`): what an image holds is said in
    /// accel.toml. Their index variables do; an index that only pip knows (`PIP_INDEX_URL`) is given to uv too.
    pub(super) fn installer_env(&self) -> BTreeMap<OsString, OsString> {
        let mut env = self.variables.clone();
        for name in MISLEADING.iter().chain(&UV_MISLEADING) {
            env.remove(OsStr::new(name));
        }
        env.insert("UV_NO_CONFIG".into(), "1".into());
        let uv_index = ["UV_DEFAULT_INDEX", "UV_INDEX_URL"].iter().any(|name| self.variable(name).is_some());
        if let (false, Some(index)) = (uv_index, self.variable("PIP_INDEX_URL")) {
            env.insert("UV_DEFAULT_INDEX".into(), index.to_owned());
        }
        env
    }

    /// For an image that names its own indexes: the user's are out of the way, so that no package comes from
    /// where it was not meant to.
    pub(super) fn without_indexes(env: &mut BTreeMap<OsString, OsString>) {
        for name in INDEX_VARIABLES {
            env.remove(OsStr::new(name));
        }
    }

    /// Base address of the package index that accel gets its own uv from, without credentials being shown
    /// anywhere: the simple API, with or without a final slash.
    pub(super) fn index(&self) -> String {
        ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"]
            .iter()
            .find_map(|name| self.variable(name)?.to_str())
            .unwrap_or("https://pypi.org/simple")
            .trim_end_matches('/')
            .to_owned()
    }

    /// Every executable of that name on PATH, in order.
    pub(super) fn programs(&self, name: &str) -> Vec<PathBuf> {
        path_folders(self.path())
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(name))
            .filter(|file| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
            .collect()
    }
}
