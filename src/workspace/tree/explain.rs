//! Why a path is in or out, by the same decisions as the walk.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::ignores::{self, Folder, Present, Scope, describe};
use super::links;
use super::rules::{Asked, Coverage, In, Out, Rules, Start, Verdict};
use super::walk;

/// The answer to `accel sync --plan <path>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub path: String,
    pub travels: bool,
    /// `sub/.gitignore:3: *.log`, `[sync] include "data/**"`, `nothing leaves it out`.
    pub reason: String,
    /// The folder above that the reason is about, when it is not the path itself.
    pub because_of: Option<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.travels { "travels" } else { "stays" };
        write!(f, "{} {verb}: {}", self.path, self.reason)?;
        match &self.because_of {
            Some(folder) => write!(f, " (on {folder}/)"),
            None => Ok(()),
        }
    }
}

impl Rules {
    /// Why `path` (relative to `root`, parted by `/`) travels or stays. It need not exist; a final `/` makes it a folder.
    pub fn explain(&self, root: &Path, path: &str) -> Explanation {
        let asked_for_folder = path.ends_with('/');
        let path = path.trim_start_matches("./").trim_end_matches('/');
        let start = self.start(root);
        let mut way =
            Way { rules: self, root, start: &start, scope: start.scope.clone(), coverage: Coverage::Open };
        let mut reason = ("nothing leaves it out".to_owned(), None);
        let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).chain([path.len()]).collect();
        for end in ends {
            let part = &path[..end];
            let is_folder = end < path.len()
                || asked_for_folder
                || super::place(root, path).symlink_metadata().is_ok_and(|found| found.is_dir());
            let step = way.step(part, is_folder);
            let on = (end < path.len()).then(|| part.to_owned());
            match step {
                Step::Silent => {}
                Step::Reason(text) => reason = (text, on),
                Step::Stays(text) => {
                    return Explanation {
                        path: path.to_owned(),
                        travels: false,
                        reason: text,
                        because_of: on,
                    };
                }
                Step::Ignored(text) => reason = (text, on),
            }
        }
        let travels = way.coverage != Coverage::Ignored;
        if travels && let Some((reason, because_of)) = self.forbidden_by_kind(root, path) {
            return Explanation { path: path.to_owned(), travels: false, reason, because_of };
        }
        Explanation { path: path.to_owned(), travels, reason: reason.0, because_of: reason.1 }
    }

    /// What a path is may keep here what its name lets travel.
    fn forbidden_by_kind(&self, root: &Path, path: &str) -> Option<(String, Option<String>)> {
        let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        let is_link = |folder: &&str| super::place(root, folder).is_symlink();
        if let Some(link) = folders.clone().find(is_link) {
            let text = "it is a link, which travels as a link, without what is behind it";
            return Some((text.to_owned(), Some(link.to_owned())));
        }
        let place = super::place(root, path);
        let found = rustix::fs::lstat(&place).ok()?;
        let kind = rustix::fs::FileType::from_raw_mode(found.st_mode);
        if let Some(kind) = walk::special(kind) {
            return Some((format!("it is a {kind}"), None));
        }
        if kind != rustix::fs::FileType::Symlink || self.include.names_exactly(path) {
            return None;
        }
        let target = std::fs::read_link(&place).ok()?;
        let refusal = links::outside(path, &target.to_string_lossy())?;
        Some((format!("a run refuses it: {refusal}"), None))
    }
}

struct Way<'a> {
    rules: &'a Rules,
    root: &'a Path,
    start: &'a Start,
    /// Of the folder that holds the next name.
    scope: Option<Arc<Scope>>,
    coverage: Coverage,
}

enum Step {
    Silent,
    Reason(String),
    /// Out, with everything in it.
    Stays(String),
    /// Out, but something in it may be in.
    Ignored(String),
}

impl Way<'_> {
    fn step(&mut self, path: &str, is_folder: bool) -> Step {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let place = super::place(self.root, parent);
        let prefix = if parent.is_empty() {
            self.start.prefix.clone()
        } else {
            format!("{}{parent}/", self.start.prefix)
        };
        let folder = Folder { place: &place, prefix: &prefix, present: Present::of(&place) };
        self.scope = ignores::enter(self.scope.as_ref(), &folder, self.rules.honoured, &mut Vec::new());
        let full = format!("{}{path}", self.start.prefix);
        let name = path.rsplit('/').next().unwrap_or_default();
        let asked = Asked { full: &full, path, name, is_folder };
        let (coverage, step) = match self.rules.decide(self.start, self.scope.as_ref(), self.coverage, asked)
        {
            Verdict::In { coverage, why } => (coverage, self.inside(&why)),
            Verdict::Out { why, descend } => (Coverage::Ignored, self.outside(&why, descend)),
        };
        self.coverage = coverage;
        step
    }

    fn inside(&self, why: &In<'_>) -> Step {
        match why {
            In::NothingAgainst => Step::Silent,
            // Said where it began.
            In::Include(_) if matches!(self.coverage, Coverage::Included { .. }) => Step::Silent,
            In::Include(pattern) => Step::Reason(format!("[sync] include \"{pattern}\"")),
            In::Whitelisted(rule) => Step::Reason(describe(rule)),
        }
    }

    fn outside(&self, why: &Out<'_>, descend: bool) -> Step {
        let text = match why {
            Out::Git => ".git never travels".to_owned(),
            Out::Staging => "accel's own folder".to_owned(),
            Out::Exclusion { pattern, reason } => format!("{reason} (\"{pattern}\")"),
            Out::Exclude(pattern) => format!("[sync] exclude \"{pattern}\""),
            Out::Ignored(rule) => describe(rule),
            Out::Secret => {
                "it is ignored and looks like a secret; only [sync] include with this very path sends it"
                    .to_owned()
            }
            // The folder above has given the reason.
            Out::Above => return Step::Silent,
        };
        if descend { Step::Ignored(text) } else { Step::Stays(text) }
    }
}
