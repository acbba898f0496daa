//! Outputs coming back: a tar stream becomes files of the project, all of it or none.
//!
//! ```text
//! stream → archive (members, strictly read) → names (what may be called what) → staging (contents) → place (checked, then renamed)
//! ```
//!
//! The stream comes from a machine that ran foreign code, so nothing in it is believed. What must stay true:
//!
//! - nothing is written outside the project, nor through a link of the project or of the archive: places are opened name by
//!   name from the root without following links;
//! - `.git`, accel.toml and what else the policy protects are never written;
//! - an archive with one bad entry is refused with that entry's name before any file of the project is touched;
//! - a stream that ends early leaves the project as it was; a file is at every moment the old one or the new one;
//! - files that are as they were keep their times.
//!
//! | entry | what happens |
//! |---|---|
//! | file | mode `0777` becomes `0755`: never writable for others; always readable and writable for the owner |
//! | folder | made where missing; an existing one keeps its mode |
//! | symlink to somewhere inside | made as it is |
//! | symlink to outside, absolute, into `.git`, or in a loop | refused |
//! | hard link to an earlier file of the archive | becomes a copy |
//! | other hard link, device, FIFO, sparse file, setuid or setgid | refused |
//! | `..`, absolute path, drive letter, `\`, NUL, control character, name that is not UTF-8 | refused |
//! | name that no declared output covers, a name twice, a file below a file or link | refused |
//! | names that differ only in case, on a disk that does not tell them apart | refused |
//! | reserved names of Windows (`CON`, `aux.txt`) | allowed: accel runs where they are ordinary |
//! | leading `./` | dropped |
//!
//! The other end is [`pack_command`]. Where the outputs lie in another folder of this machine, [`bring`] does the same
//! without an archive.

mod archive;
mod folder;
mod names;
mod pack;
mod place;
mod staging;

use std::io::{self, Read};
use std::path::Path;

pub use folder::bring;
pub use names::Refused;
pub use pack::pack_command;
pub use staging::sweep;

use crate::base::files::FileError;
use crate::workspace::tree::PatternSet;
use archive::Archive;
use names::Names;
use staging::Staging;

/// What an archive may contain.
#[derive(Debug)]
pub struct Policy {
    /// The declared outputs.
    pub outputs: PatternSet,
    /// Paths that are never written, compared without case. accel.toml and its companions always are among them.
    pub protected: Vec<String>,
    pub limits: Limits,
    pub case: CaseRule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all contents.
    pub bytes: u64,
    pub entries: usize,
    /// Names in one path.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 2 << 30, entries: 200_000, depth: 100 }
    }
}

/// Whether names that differ only in case are one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseRule {
    /// As the project's disk does.
    AsDisk,
    Same,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files and links that are new or changed, in the archive's order.
    pub written: Vec<String>,
    pub unchanged: usize,
    /// Contents of all files of the archive, changed or not.
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("outputs refused: {entry}: {why}")]
    Refused { entry: String, why: Refused },
    #[error("the outputs ended early")]
    Truncated,
    #[error("the outputs are no tar archive: {0}")]
    Malformed(&'static str),
    #[error("the outputs could not be received: {0}")]
    Stream(io::Error),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Reads `stream` to its end and puts what it holds below `root`. Blocks; leaves no temporary files behind.
///
/// # Errors
/// Whatever is wrong with the archive leaves the project untouched.
pub fn unpack(stream: impl Read, policy: &Policy, root: &Path) -> Result<Report, UnpackError> {
    let mut staging = Staging::create(root)?;
    let mut names = Names::new(policy, staging.case_matters(policy.case)?);
    let mut archive = Archive::new(stream);
    while let Some(member) = archive.next()? {
        let entry = names.accept(&member)?;
        staging.add(entry, &mut archive)?;
    }
    names.finish()?;
    let bytes = names.bytes();
    let report = place::place(root, staging)?;
    Ok(Report { bytes, ..report })
}
