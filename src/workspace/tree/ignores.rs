//! Ignore files: which rule, in which file and line, decides a path.
//!
//! Matching is the `ignore` crate's. A [`Scope`] holds what one folder's files say and points to the folder above; folders
//! without ignore files share their parent's scope.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder, Glob};

use super::Notice;

pub(super) const ACCELIGNORE: &str = ".accelignore";
pub(super) const IGNORE: &str = ".ignore";
pub(super) const GITIGNORE: &str = ".gitignore";
pub(super) const GIT: &str = ".git";

/// Ignore files larger than this are no ignore files.
const LARGEST_IGNORE_FILE: u64 = 4 << 20;

/// Which kinds of ignore files count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Honoured {
    All,
    /// `gitignore = false`.
    OnlyAccel,
}

#[derive(Debug)]
pub(super) struct Scope {
    parent: Option<Arc<Scope>>,
    /// Length of this folder's prefix (with its `/`) in the paths that are asked about.
    offset: usize,
    accel: Gitignore,
    plain: Gitignore,
    git: Gitignore,
    exclude: Gitignore,
    /// The root of a repository: git's rules from above do not reach in.
    repository: bool,
}

/// Which ignore files a folder has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Present {
    pub(super) accel: bool,
    pub(super) plain: bool,
    pub(super) git: bool,
    pub(super) repository: bool,
}

impl Present {
    pub(super) fn note(&mut self, name: &[u8]) {
        match name {
            b".accelignore" => self.accel = true,
            b".ignore" => self.plain = true,
            b".gitignore" => self.git = true,
            b".git" => self.repository = true,
            _ => {}
        }
    }

    /// As found by asking for each.
    pub(super) fn of(folder: &Path) -> Self {
        let there = |name: &str| folder.join(name).symlink_metadata().is_ok();
        Self {
            accel: there(ACCELIGNORE),
            plain: there(IGNORE),
            git: there(GITIGNORE),
            repository: there(GIT),
        }
    }

    fn any(self) -> bool {
        self.accel || self.plain || self.git || self.repository
    }
}

/// A folder whose ignore files are read.
pub(super) struct Folder<'a> {
    pub(super) place: &'a Path,
    /// Its prefix in the paths that are asked about, with a final `/` unless empty.
    pub(super) prefix: &'a str,
    pub(super) present: Present,
}

/// The scope inside a folder: its own rules over those of `parent`.
pub(super) fn enter(
    parent: Option<&Arc<Scope>>,
    folder: &Folder<'_>,
    honoured: Honoured,
    notices: &mut Vec<Notice>,
) -> Option<Arc<Scope>> {
    let mut present = folder.present;
    if honoured == Honoured::OnlyAccel {
        present = Present { accel: present.accel, ..Present::default() };
    }
    if !present.any() {
        return parent.cloned();
    }
    let mut read = |wanted: bool, name: &str| {
        if !wanted {
            return Gitignore::empty();
        }
        rules_of(&folder.place.join(name), &format!("{}{name}", folder.prefix), notices)
    };
    let exclude = present.repository.then(|| exclude_file(&folder.place.join(GIT))).flatten();
    let scope = Scope {
        parent: parent.cloned(),
        offset: folder.prefix.len(),
        accel: read(present.accel, ACCELIGNORE),
        plain: read(present.plain, IGNORE),
        git: read(present.git, GITIGNORE),
        exclude: exclude.map_or_else(Gitignore::empty, |path| {
            rules_of(&path, &format!("{}.git/info/exclude", folder.prefix), notices)
        }),
        repository: present.repository,
    };
    Some(Arc::new(scope))
}

/// The rules of the user's own git ignore file.
pub(super) fn global(path: &Path, notices: &mut Vec<Notice>) -> Gitignore {
    rules_of(path, &path.display().to_string(), notices)
}

/// What decides `path`; the paths of one walk all start at the same folder.
pub(super) fn decide<'a>(
    scope: Option<&'a Arc<Scope>>,
    global: &'a Gitignore,
    path: &str,
    is_folder: bool,
) -> Match<&'a Glob> {
    let (mut accel, mut plain, mut git, mut exclude) = (Match::None, Match::None, Match::None, Match::None);
    let mut within_repository = true;
    let mut at = scope;
    while let Some(scope) = at {
        let below = &path[scope.offset..];
        let ask = |found: &mut Match<&'a Glob>, rules: &'a Gitignore| {
            if found.is_none() && !rules.is_empty() {
                *found = rules.matched(below, is_folder);
            }
        };
        ask(&mut accel, &scope.accel);
        ask(&mut plain, &scope.plain);
        if within_repository {
            ask(&mut git, &scope.git);
            ask(&mut exclude, &scope.exclude);
        }
        within_repository = within_repository && !scope.repository;
        at = scope.parent.as_ref();
    }
    let found = accel.or(plain).or(git).or(exclude);
    if found.is_none() && !global.is_empty() { global.matched(path, is_folder) } else { found }
}

/// `sub/.gitignore:3: *.log`, as shown.
pub(super) fn describe(rule: &Glob) -> String {
    let place = rule.from().map(|from| from.display().to_string()).unwrap_or_default();
    format!("{place}: {}", rule.original())
}

/// A file's rules; each carries the file and line as its origin.
fn rules_of(path: &Path, shown: &str, notices: &mut Vec<Notice>) -> Gitignore {
    let Some(text) = read(path) else { return Gitignore::empty() };
    // Paths are handed in relative to the file's folder, so nothing is to be stripped.
    let mut builder = GitignoreBuilder::new(".");
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for (number, line) in text.lines().enumerate() {
        let place = format!("{shown}:{}", number + 1);
        if let Err(error) = builder.add_line(Some(PathBuf::from(&place)), line) {
            notices.push(Notice::IgnoreFile { place, problem: error.to_string() });
        }
    }
    builder.build().unwrap_or_else(|error| {
        notices.push(Notice::IgnoreFile { place: shown.to_owned(), problem: error.to_string() });
        Gitignore::empty()
    })
}

fn read(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST_IGNORE_FILE {
        return None;
    }
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

/// `info/exclude` of a repository; `git` is its `.git`, a folder or (worktrees, submodules) a file that points to one.
fn exclude_file(git: &Path) -> Option<PathBuf> {
    if git.is_dir() {
        return Some(git.join("info/exclude"));
    }
    let pointer = fs::read_to_string(git).ok()?;
    let folder = git.parent()?.join(pointer.strip_prefix("gitdir:")?.trim());
    let common = fs::read_to_string(folder.join("commondir")).ok();
    let common = common.map_or_else(|| folder.clone(), |common| folder.join(common.trim()));
    Some(common.join("info/exclude"))
}
