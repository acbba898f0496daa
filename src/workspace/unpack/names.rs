//! What may be called what: every rule about an entry that its name, kind and neighbours decide.

use std::collections::HashMap;

use super::archive::{Member, MemberKind, refused};
use super::{Policy, UnpackError};
use crate::workspace::tree::{STAGING_PREFIX, stays_inside};

/// Longest path, in bytes.
const LONGEST_PATH: usize = 4096;

/// Configuration that decides what runs on this machine.
const ALWAYS_PROTECTED: [&str; 6] =
    ["accel.toml", "accel.yaml", "accel.yml", "accel.local.toml", "accel.local.yaml", "accel.local.yml"];

/// Why an archive was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the name is empty")]
    Empty,
    #[error("the name is not UTF-8")]
    NotText,
    #[error("the name has a control character")]
    Control,
    #[error("the path is absolute")]
    Absolute,
    #[error("the path leaves the project")]
    Parent,
    #[error("the name has a backslash")]
    Backslash,
    #[error("the path begins with a drive letter")]
    Drive,
    #[error("the name is too long")]
    LongName,
    #[error("the path has more than {0} names")]
    Deep(usize),
    #[error(".git is never written")]
    Git,
    #[error("this file is never written by a job's outputs")]
    Protected,
    #[error("no declared output covers it")]
    NotDeclared,
    #[error("it is in the archive twice")]
    Twice,
    #[error("it lies below {0}, which is not a folder")]
    Below(String),
    #[error("it differs from {0} only in case, which this disk does not tell apart")]
    CaseTwin(String),
    #[error("it is a {0}")]
    Kind(&'static str),
    #[error("it has the setuid or setgid bit")]
    SetUid,
    #[error("it links to {0}, outside the project")]
    OutsideLink(String),
    #[error("it links into .git")]
    GitLink,
    #[error("its links lead round in a circle")]
    Loop,
    #[error("it is a hard link to {0}, which is no earlier file of the archive")]
    HardLink(String),
    #[error("its sizes contradict each other")]
    SizesDiffer,
    #[error("a header for all entries sets names or sizes")]
    GlobalName,
    #[error("more than {0} entries")]
    Entries(usize),
    #[error("more than {} of contents", crate::base::size::Bytes(*.0))]
    Bytes(u64),
    #[error("{0} is a link in the project, and outputs are not written through links")]
    ThroughLink(String),
    #[error("{0} is a file in the project")]
    ParentIsFile(String),
    #[error("there is a folder of this name in the project")]
    IsFolder,
}

/// An entry that may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) path: String,
    pub(super) kind: AcceptedKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AcceptedKind {
    File {
        size: u64,
        mode: u32,
    },
    Directory {
        mode: u32,
    },
    Symlink {
        target: String,
    },
    /// A file with the contents of an earlier one.
    Copy {
        of: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File { size: u64 },
    Link,
}

/// The names of one archive.
pub(super) struct Names<'a> {
    policy: &'a Policy,
    seen: HashMap<String, Kind>,
    /// Names without case, where the disk does not tell it: folded → as written.
    folded: Option<HashMap<String, String>>,
    links: HashMap<String, String>,
    entries: usize,
    bytes: u64,
}

impl<'a> Names<'a> {
    pub(super) fn new(policy: &'a Policy, case_matters: bool) -> Self {
        Self {
            policy,
            seen: HashMap::new(),
            folded: (!case_matters).then(HashMap::new),
            links: HashMap::new(),
            entries: 0,
            bytes: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn accept(&mut self, member: &Member) -> Result<Accepted, UnpackError> {
        self.check(member).map_err(|why| refused(&member.name, why))
    }

    fn check(&mut self, member: &Member) -> Result<Accepted, Refused> {
        self.entries += 1;
        let limits = self.policy.limits;
        if self.entries > limits.entries {
            return Err(Refused::Entries(limits.entries));
        }
        if let MemberKind::Other { kind } = member.kind {
            return Err(Refused::Kind(kind));
        }
        let path = clean(&member.name, limits.depth)?;
        self.check_place(&path)?;
        if member.mode & 0o6000 != 0 && !matches!(member.kind, MemberKind::Directory) {
            return Err(Refused::SetUid);
        }
        let kind = self.kind(member, &path)?;
        self.remember(&path, &kind)?;
        Ok(Accepted { path, kind })
    }

    fn check_place(&self, path: &str) -> Result<(), Refused> {
        if path.split('/').any(is_git) {
            return Err(Refused::Git);
        }
        let protected = self.policy.protected.iter().map(String::as_str).chain(ALWAYS_PROTECTED);
        if path.starts_with(STAGING_PREFIX) || fold_is_any(path, protected) {
            return Err(Refused::Protected);
        }
        self.policy.outputs.covering(path).map(drop).ok_or(Refused::NotDeclared)
    }

    fn kind(&mut self, member: &Member, path: &str) -> Result<AcceptedKind, Refused> {
        match &member.kind {
            MemberKind::File { size } => {
                self.count(*size)?;
                Ok(AcceptedKind::File { size: *size, mode: file_mode(member.mode) })
            }
            MemberKind::Directory => Ok(AcceptedKind::Directory { mode: file_mode(member.mode) | 0o100 }),
            MemberKind::Symlink { target } => {
                let target = link_target(path, target)?;
                Ok(AcceptedKind::Symlink { target })
            }
            MemberKind::HardLink { target } => self.hard_link(target),
            MemberKind::Other { kind } => Err(Refused::Kind(kind)),
        }
    }

    fn hard_link(&mut self, target: &[u8]) -> Result<AcceptedKind, Refused> {
        let of = clean(target, self.policy.limits.depth)?;
        match self.seen.get(&of) {
            Some(Kind::File { size }) => {
                self.count(*size)?;
                Ok(AcceptedKind::Copy { of })
            }
            _ => Err(Refused::HardLink(of)),
        }
    }

    fn count(&mut self, size: u64) -> Result<(), Refused> {
        self.bytes = self.bytes.saturating_add(size);
        let most = self.policy.limits.bytes;
        if self.bytes > most { Err(Refused::Bytes(most)) } else { Ok(()) }
    }

    fn remember(&mut self, path: &str, kind: &AcceptedKind) -> Result<(), Refused> {
        let kind = match kind {
            AcceptedKind::File { size, .. } => Kind::File { size: *size },
            AcceptedKind::Copy { of } => self.seen[of],
            AcceptedKind::Directory { .. } => Kind::Folder,
            AcceptedKind::Symlink { target } => {
                self.links.insert(path.to_owned(), target.clone());
                Kind::Link
            }
        };
        for (at, _) in path.rmatch_indices('/') {
            let folder = &path[..at];
            match self.seen.get(folder) {
                Some(Kind::Folder) => break,
                Some(_) => return Err(Refused::Below(folder.to_owned())),
                None => self.see(folder, Kind::Folder)?,
            }
        }
        match self.seen.get(path) {
            Some(Kind::Folder) if kind == Kind::Folder => Ok(()),
            Some(_) => Err(Refused::Twice),
            None => self.see(path, kind),
        }
    }

    fn see(&mut self, path: &str, kind: Kind) -> Result<(), Refused> {
        if let Some(folded) = &mut self.folded
            && let Some(twin) = folded.insert(path.to_lowercase(), path.to_owned())
        {
            return Err(Refused::CaseTwin(twin));
        }
        self.seen.insert(path.to_owned(), kind);
        Ok(())
    }

    /// What only the whole archive tells.
    pub(super) fn finish(&self) -> Result<(), UnpackError> {
        let mut paths: Vec<&String> = self.links.keys().collect();
        paths.sort();
        match paths.into_iter().find(|path| self.leads_round(path)) {
            Some(path) => Err(refused(path.as_bytes(), Refused::Loop)),
            None => Ok(()),
        }
    }

    fn leads_round(&self, path: &str) -> bool {
        /// As many links as systems follow.
        const MOST_HOPS: usize = 40;
        let mut at = path.to_owned();
        for _ in 0..MOST_HOPS {
            let Some(next) = self.links.get(&at).and_then(|target| stays_inside(&at, target)) else {
                return false;
            };
            at = next;
        }
        true
    }
}

/// A relative path of plain names.
fn clean(name: &[u8], depth: usize) -> Result<String, Refused> {
    if name.len() > LONGEST_PATH {
        return Err(Refused::LongName);
    }
    let text = std::str::from_utf8(name).map_err(|_| Refused::NotText)?;
    if text.chars().any(char::is_control) {
        return Err(Refused::Control);
    }
    if text.starts_with('/') {
        return Err(Refused::Absolute);
    }
    if text.contains('\\') {
        return Err(Refused::Backslash);
    }
    if let [letter, b':', ..] = text.as_bytes()
        && letter.is_ascii_alphabetic()
    {
        return Err(Refused::Drive);
    }
    let names: Vec<&str> = text.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return Err(Refused::Parent);
    }
    if names.len() > depth {
        return Err(Refused::Deep(depth));
    }
    if names.is_empty() { Err(Refused::Empty) } else { Ok(names.join("/")) }
}

fn link_target(path: &str, target: &[u8]) -> Result<String, Refused> {
    let text = std::str::from_utf8(target).map_err(|_| Refused::NotText)?;
    if text.is_empty() {
        return Err(Refused::Empty);
    }
    if text.chars().any(char::is_control) {
        return Err(Refused::Control);
    }
    let outside = || Refused::OutsideLink(text.to_owned());
    if text.starts_with('/') || text.contains('\\') {
        return Err(outside());
    }
    let leads_to = stays_inside(path, text).ok_or_else(outside)?;
    if leads_to.split('/').any(is_git) {
        return Err(Refused::GitLink);
    }
    Ok(text.to_owned())
}

/// `.git` under every spelling that some file system takes for it.
fn is_git(name: &str) -> bool {
    let visible: String = name.chars().filter(|c| !is_ignorable(*c)).collect();
    let stem = visible.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
    stem.eq_ignore_ascii_case(".git") || stem.eq_ignore_ascii_case("git~1")
}

/// Characters that HFS+ leaves out when it compares names.
fn is_ignorable(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

fn fold_is_any<'a>(path: &str, mut protected: impl Iterator<Item = &'a str>) -> bool {
    let path = path.to_lowercase();
    protected.any(|protected| protected.trim_start_matches("./").to_lowercase() == path)
}

/// Never writable for others, always usable by the owner.
fn file_mode(mode: u32) -> u32 {
    (mode & 0o755) | 0o600
}
