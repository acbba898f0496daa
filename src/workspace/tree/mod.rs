//! The working tree as it travels: which paths, with which contents, under one name.
//!
//! ```text
//! rules + folder → scan (walked in parallel, sorted) → hash (stat cache) → manifest (named by content) → delta
//! ```
//!
//! What must stay true: a path is in or out by one function ([`rules`]), which both the walk and
//! [`explain`](Rules::explain) ask; nothing travels under a digest that is not the digest of its bytes;
//! symlinks are never followed. Uploading is the backend's business.
//!
//! Rules, strongest first:
//!
//! 1. `.git` never travels, nor do accel's own staging folders;
//! 2. patterns of the caller (declared outputs, accel's files);
//! 3. `[sync] exclude`;
//! 4. `[sync] include`: brings back what ignore files leave out, also inside ignored folders, but for ignored files
//!    that look like secrets, which travel only when a pattern names them exactly;
//! 5. ignore files: `.accelignore`, `.ignore`, `.gitignore`, `.git/info/exclude`, the user's own git ignore file; within
//!    one kind the deepest folder wins. Those above the project count up to the root of its repository. With
//!    `gitignore = false` only `.accelignore` counts.
//!
//! | found | what happens |
//! |---|---|
//! | file | travels with its mode bits |
//! | folder | travels with its mode bits, also when empty |
//! | symlink to somewhere inside | travels as a link, whether or not its target is there |
//! | symlink to outside, or absolute | refused, unless `[sync] include` names exactly this link |
//! | socket, FIFO, device | left behind with a notice |
//! | name or link target that is not UTF-8 | refused: names travel as text |
//! | file that looks like a secret and is not ignored | travels with a notice |
//! | folder or file that cannot be read | refused |

mod board;
mod content;
mod explain;
mod hash;
mod ignores;
mod judge;
mod links;
mod manifest;
mod order;
mod patterns;
mod rules;
mod secrets;
mod size;
mod stat_cache;
mod walk;

use std::path::PathBuf;

pub use content::{VerifiedReader, open_verified, read_verified};
pub use explain::Explanation;
pub use hash::{HashOptions, HashReport, Hashed, hash};
pub use judge::{Judge, Judgement};
pub(crate) use links::stays_inside;
pub use manifest::{Contents, Delta, Manifest, ManifestEntry, Sha256Digest};
pub use order::path_order;
pub use patterns::{PatternError, PatternSet};
pub use rules::{Exclusion, Rules};
pub use stat_cache::StatCache;
pub use walk::scan;

use crate::base::files::FileError;
use crate::base::size::Bytes;

/// Folders in which accel gathers what it is about to put into the project; they never travel.
pub const STAGING_PREFIX: &str = ".accel-incoming-";

/// What a walk found, in [`path_order`]: a folder comes right before what it holds.
#[derive(Debug, Default)]
pub struct Scan {
    pub entries: Vec<Entry>,
    pub notices: Vec<Notice>,
    /// Bytes of all files.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root, parted by `/`.
    pub path: Box<str>,
    pub kind: EntryKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File(FileStat),
    Symlink { target: Box<str> },
    Directory { mode: u32 },
}

/// What tells whether a file may have changed since it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified: i64,
    /// Nanoseconds since 1970; set by the system on every change of contents or mode.
    pub changed: i64,
    pub inode: u64,
    /// Permission bits: `st_mode & 0o7777`.
    pub mode: u32,
}

/// Something worth saying that stops nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Notice {
    #[error("{path} is a {kind} and does not travel")]
    Special { path: String, kind: &'static str },
    #[error(
        "{path} looks like a secret and travels (add it to .gitignore or [sync] exclude to keep it here)"
    )]
    SecretTravels { path: String },
    #[error(
        "{path} looks like a secret and is ignored: it stays here (name it exactly in [sync] include to send it)"
    )]
    SecretStays { path: String },
    #[error("{place}: {problem}; the line is left out")]
    IgnoreFile { place: String, problem: String },
}

/// A path that cannot travel as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("{path}: the name is not UTF-8")]
    Name { path: String },
    #[error("{path}: the link's target is not UTF-8")]
    Target { path: String },
    #[error("{path} links to {target}, outside the project")]
    OutsideLink { path: String, target: String },
    #[error("{path} links to {target}, an absolute path")]
    AbsoluteLink { path: String, target: String },
    #[error("{path} cannot be read: {reason}")]
    Unreadable { path: String, reason: String },
}

/// The most refusals that one error names; the rest are counted.
const NAMED_REFUSALS: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} cannot travel:\n{}", paths(.0.len()), list_refusals(.0))]
    Refused(Vec<Refusal>),
    #[error("the tree is {size}, more than [sync] max_size = {limit}; largest: {}", list_sizes(.largest))]
    TooLarge {
        size: Bytes,
        limit: Bytes,
        /// Folders (with a final `/`) and files, largest first.
        largest: Vec<(String, Bytes)>,
    },
    #[error("{path} keeps changing while it is read")]
    Changing { path: String },
    #[error("{path} changed after the tree was hashed")]
    Changed { path: String },
    #[error("stopped")]
    Stopped,
}

impl TreeError {
    /// What to do about it.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::Pattern(_) => {
                "patterns are relative to the folder of accel.toml: \"data/**\", \"**/*.bin\""
            }
            Self::Refused(refusals) => refusal_help(refusals.first()?),
            Self::TooLarge { .. } => {
                "leave folders out with .gitignore, .accelignore or [sync] exclude, or raise [sync] max_size; `accel sync --plan` lists what travels"
            }
            Self::Changing { .. } | Self::Changed { .. } => {
                "run again when nothing writes to the file, or leave it out with [sync] exclude"
            }
            Self::File(_) => "make the file readable, or leave it out with [sync] exclude",
            Self::Stopped => return None,
        })
    }
}

fn refusal_help(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Name { .. } | Refusal::Target { .. } => "rename it, or leave it out with [sync] exclude",
        Refusal::OutsideLink { .. } => {
            "leave the link out with [sync] exclude, or name it exactly in [sync] include to send it as it is"
        }
        Refusal::AbsoluteLink { .. } => {
            "make the link relative, leave it out with [sync] exclude, or name it exactly in [sync] include to send it as it is"
        }
        Refusal::Unreadable { .. } => "make it readable, or leave it out with [sync] exclude",
    }
}

fn paths(count: usize) -> String {
    if count == 1 { "1 path".to_owned() } else { format!("{count} paths") }
}

fn list_refusals(refusals: &[Refusal]) -> String {
    let mut lines: Vec<String> =
        refusals.iter().take(NAMED_REFUSALS).map(|refusal| format!("  {refusal}")).collect();
    if refusals.len() > NAMED_REFUSALS {
        lines.push(format!("  and {} more", refusals.len() - NAMED_REFUSALS));
    }
    lines.join("\n")
}

fn list_sizes(sizes: &[(String, Bytes)]) -> String {
    sizes.iter().map(|(path, size)| format!("{path} {size}")).collect::<Vec<_>>().join(", ")
}

/// `path` of the project, as a place on this machine.
fn place(root: &std::path::Path, path: &str) -> PathBuf {
    if path.is_empty() { root.to_owned() } else { root.join(path) }
}
