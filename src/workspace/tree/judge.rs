//! Whether single paths belong to the tree, for whoever follows changes instead of walking: the same decisions as the
//! walk's, with what ignore files say about each folder remembered.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ignores::{self, Folder, Present, Scope};
use super::rules::{Asked, Coverage, Rules, Start, Verdict};
use super::walk::{self, Below, file_stat};
use super::{Entry, EntryKind};

/// Folders remembered before all are forgotten.
const MOST_FOLDERS: usize = 50_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    In,
    /// A folder that is out, while something in it may be in.
    Way,
    Out,
}

/// Remembers; [`forget`](Self::forget) when an ignore file changes.
#[derive(Debug)]
pub struct Judge {
    root: PathBuf,
    rules: Rules,
    start: Start,
    /// What holds in each folder; `None` where nothing in it is in.
    folders: HashMap<String, Option<Inside>>,
}

#[derive(Debug, Clone)]
struct Inside {
    /// Of the folder above.
    above: Option<Arc<Scope>>,
    scope: Option<Arc<Scope>>,
    coverage: Coverage,
}

impl Judge {
    pub fn new(root: &Path, rules: Rules) -> Self {
        let start = rules.start(root);
        Self { root: root.to_owned(), rules, start, folders: HashMap::new() }
    }

    /// Ignore files are read anew from here on.
    pub fn forget(&mut self) {
        self.folders.clear();
        self.start = self.rules.start(&self.root);
    }

    /// Whether a change of the file means that other paths come in or go out.
    pub fn is_rule_file(path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        [ignores::ACCELIGNORE, ignores::IGNORE, ignores::GITIGNORE].contains(&name)
    }

    /// `path` is relative to the root, parted by `/`; it need not exist.
    pub fn judge(&mut self, path: &str, is_folder: bool) -> Judgement {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let Some(inside) = self.inside(parent) else { return Judgement::Out };
        match self.decide(&inside, path, is_folder) {
            Verdict::In { .. } => Judgement::In,
            Verdict::Out { descend: true, .. } => Judgement::Way,
            Verdict::Out { .. } => Judgement::Out,
        }
    }

    /// What the path is now; `None` where it is not there, or nothing that travels.
    pub fn entry(&self, path: &str) -> Option<EntryKind> {
        let place = super::place(&self.root, path);
        let found = rustix::fs::lstat(&place).ok()?;
        Some(match rustix::fs::FileType::from_raw_mode(found.st_mode) {
            rustix::fs::FileType::RegularFile => EntryKind::File(file_stat(&found)),
            rustix::fs::FileType::Directory => EntryKind::Directory { mode: file_stat(&found).mode },
            rustix::fs::FileType::Symlink => {
                let target = std::fs::read_link(&place).ok()?;
                EntryKind::Symlink { target: target.to_string_lossy().into() }
            }
            _ => return None,
        })
    }

    /// Everything in a folder that is in, sorted; the root is `""`.
    pub fn survey(&mut self, folder: &str) -> Vec<Entry> {
        let Some(inside) = self.inside(folder) else { return Vec::new() };
        let below = Below { path: folder.to_owned(), scope: inside.above, coverage: inside.coverage };
        walk::survey(&self.root, &self.rules, &self.start, below)
    }

    fn inside(&mut self, folder: &str) -> Option<Inside> {
        if let Some(known) = self.folders.get(folder) {
            return known.clone();
        }
        if self.folders.len() >= MOST_FOLDERS {
            self.folders.clear();
        }
        let inside = self.find_inside(folder);
        self.folders.insert(folder.to_owned(), inside.clone());
        inside
    }

    fn find_inside(&mut self, folder: &str) -> Option<Inside> {
        if folder.is_empty() {
            let above = self.start.scope.clone();
            return Some(Inside { scope: self.enter("", above.as_ref()), above, coverage: Coverage::Open });
        }
        let parent = folder.rsplit_once('/').map_or("", |(parent, _)| parent);
        let outer = self.inside(parent)?;
        let coverage = match self.decide(&outer, folder, true) {
            Verdict::In { coverage, .. } => coverage,
            Verdict::Out { descend: true, .. } => Coverage::Ignored,
            Verdict::Out { .. } => return None,
        };
        Some(Inside { scope: self.enter(folder, outer.scope.as_ref()), above: outer.scope, coverage })
    }

    fn enter(&self, folder: &str, above: Option<&Arc<Scope>>) -> Option<Arc<Scope>> {
        let place = super::place(&self.root, folder);
        let prefix = match folder {
            "" => self.start.prefix.clone(),
            folder => format!("{}{folder}/", self.start.prefix),
        };
        let present = Present::of(&place);
        let folder = Folder { place: &place, prefix: &prefix, present };
        ignores::enter(above, &folder, self.rules.honoured, &mut Vec::new())
    }

    fn decide(&self, inside: &Inside, path: &str, is_folder: bool) -> Verdict<'_> {
        let full = format!("{}{path}", self.start.prefix);
        let name = path.rsplit('/').next().unwrap_or(path);
        let asked = Asked { full: &full, path, name, is_folder };
        // Scopes are kept by the caller's map; a verdict that borrowed one could not outlive the call.
        match self.rules.decide(&self.start, inside.scope.as_ref(), inside.coverage, asked) {
            Verdict::In { coverage, .. } => Verdict::In { coverage, why: super::rules::In::NothingAgainst },
            Verdict::Out { descend, .. } => Verdict::Out { why: super::rules::Out::Above, descend },
        }
    }
}
