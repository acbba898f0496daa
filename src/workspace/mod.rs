//! The project's folder as accel finds it: files that plans need, dotenv files, facts for rules.
//!
//! Owns all reading of the project that is not accel.toml itself, the one writing of outputs into it ([`unpack`]), and
//! taking back what an abandoned attempt wrote there ([`kept`]), and copies of it ([`copy`]). What must stay true: nothing else here writes to the project, a missing thing is said with its
//! path, and a fact is gathered only when a rule asks for it, once. Folder, variables and caller are arguments.
//! What a job's environment is made of is left to the backends.

pub mod copy;
pub mod dotenv;
pub mod facts;
mod git;
pub mod kept;
pub mod tree;
pub mod unpack;

use std::path::Path;
use std::sync::Arc;

use crate::config::model::Config;
use crate::plan::{Files, Selection, files_needed};

/// The largest file that an image may name: requirements and lock files are far smaller.
pub const MAX_NAMED_FILE: u64 = 16 << 20;

/// Reads the files that the selected jobs' images name, and those that these name in turn.
pub fn read_files(config: &Config, selection: &Selection) -> Files {
    let mut files = Files::new();
    loop {
        let needed = files_needed(config, selection, &files);
        let unread: Vec<_> = needed.into_iter().filter(|path| !files.contains_key(path)).collect();
        if unread.is_empty() {
            return files;
        }
        for path in unread {
            let contents = read_file(&config.root.join(&path));
            files.insert(path, contents);
        }
    }
}

/// Reads what the selected jobs need and compiles them: the whole way from configuration to plan.
pub fn plan(
    config: &Config,
    selection: &Selection,
) -> Result<crate::plan::spec::Plan, Vec<crate::diag::Diagnostic>> {
    crate::plan::compile(config, selection, &read_files(config, selection))
}

fn read_file(path: &Path) -> Result<Arc<[u8]>, String> {
    let reason = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    };
    let metadata = std::fs::metadata(path).map_err(reason)?;
    // A pipe or a device would never end.
    if !metadata.is_file() {
        return Err(if metadata.is_dir() { "it is a folder" } else { "it is not a regular file" }.to_owned());
    }
    if metadata.len() > MAX_NAMED_FILE {
        return Err(format!("it is larger than {}", crate::base::size::Bytes(MAX_NAMED_FILE)));
    }
    std::fs::read(path).map(Arc::from).map_err(reason)
}

#[cfg(test)]
mod tests;
