//! The one function that says whether a path travels, and why.
//!
//! It is asked for one name at a time, from the root down, by the walk and by [`Rules::explain`]; what it answers for a folder
//! ([`Coverage`]) is handed to the questions about what is in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, Glob};

use super::ignores::{self, Folder, Honoured, Present, Scope};
use super::patterns::{PatternError, PatternSet};
use super::secrets::looks_secret;
use super::{Notice, STAGING_PREFIX};
use crate::base::size::Bytes;
use crate::plan::spec::SyncSet;

/// A pattern of the caller that nothing overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    pub pattern: String,
    /// As shown: `output of job test`.
    pub reason: String,
}

/// What travels, compiled once.
#[derive(Debug)]
pub struct Rules {
    exclusions: PatternSet,
    reasons: Vec<String>,
    exclude: PatternSet,
    pub(super) include: PatternSet,
    pub(super) honoured: Honoured,
    pub(super) global_ignore: Option<PathBuf>,
    pub(super) max_size: Bytes,
}

/// What a folder's own verdict means for what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coverage {
    /// Ignore files decide.
    Open,
    /// `[sync] include` covers the folder; `ignored` says whether ignore files would leave it out.
    Included { pattern: usize, ignored: bool },
    /// Ignored, and walked only for what `[sync] include` may bring back.
    Ignored,
}

pub(super) enum Verdict<'a> {
    In { coverage: Coverage, why: In<'a> },
    Out { why: Out<'a>, descend: bool },
}

pub(super) enum In<'a> {
    NothingAgainst,
    Include(&'a str),
    /// A `!` rule of an ignore file.
    Whitelisted(&'a Glob),
}

pub(super) enum Out<'a> {
    Git,
    Staging,
    Exclusion {
        pattern: &'a str,
        reason: &'a str,
    },
    Exclude(&'a str),
    Ignored(&'a Glob),
    /// A folder above is ignored.
    Above,
    Secret,
}

/// A path that is asked about.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// From the folder where ignore files start to count.
    pub(super) full: &'a str,
    /// From the project's root.
    pub(super) path: &'a str,
    pub(super) name: &'a str,
    pub(super) is_folder: bool,
}

/// The rules that reach the project from above, and where its paths begin.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) scope: Option<Arc<Scope>>,
    /// Prefix of every path that is asked about: the way from the repository's root to the project's.
    pub(super) prefix: String,
    pub(super) global: Gitignore,
    pub(super) notices: Vec<Notice>,
}

impl Rules {
    /// `global_ignore` is the user's own git ignore file; whoever reads the environment knows where it is.
    pub fn new(
        sync: &SyncSet,
        exclusions: &[Exclusion],
        global_ignore: Option<PathBuf>,
    ) -> Result<Self, PatternError> {
        let texts = |list: &'_ [String]| PatternSet::new(list.iter().map(String::as_str));
        Ok(Self {
            exclusions: PatternSet::new(exclusions.iter().map(|exclusion| exclusion.pattern.as_str()))?,
            reasons: exclusions.iter().map(|exclusion| exclusion.reason.clone()).collect(),
            exclude: texts(&sync.exclude)?,
            include: texts(&sync.include)?,
            honoured: if sync.gitignore { Honoured::All } else { Honoured::OnlyAccel },
            global_ignore,
            max_size: sync.max_size,
        })
    }

    pub(super) fn decide<'a>(
        &'a self,
        start: &'a Start,
        scope: Option<&'a Arc<Scope>>,
        above: Coverage,
        asked: Asked<'_>,
    ) -> Verdict<'a> {
        if let Some(why) = self.never(asked) {
            return Verdict::Out { why, descend: false };
        }
        let included = match above {
            Coverage::Included { pattern, .. } => Some(pattern),
            _ => self.include.matching(asked.path),
        };
        match included {
            Some(pattern) => self.bring_back(start, scope, above, asked, pattern),
            None => self.by_ignore_files(start, scope, above, asked),
        }
    }

    fn never(&self, asked: Asked<'_>) -> Option<Out<'_>> {
        if asked.name == ignores::GIT {
            return Some(Out::Git);
        }
        if asked.is_folder && asked.name.starts_with(STAGING_PREFIX) {
            return Some(Out::Staging);
        }
        if let Some(index) = self.exclusions.matching(asked.path) {
            let pattern = self.exclusions.text(index);
            return Some(Out::Exclusion { pattern, reason: &self.reasons[index] });
        }
        self.exclude.matching(asked.path).map(|index| Out::Exclude(self.exclude.text(index)))
    }

    fn bring_back<'a>(
        &'a self,
        start: &'a Start,
        scope: Option<&'a Arc<Scope>>,
        above: Coverage,
        asked: Asked<'_>,
        pattern: usize,
    ) -> Verdict<'a> {
        let secret = !asked.is_folder && looks_secret(asked.name);
        let mut ignored = matches!(above, Coverage::Ignored | Coverage::Included { ignored: true, .. });
        if !ignored && (asked.is_folder || secret) {
            let decided = ignores::decide(scope, &start.global, asked.full, asked.is_folder);
            ignored = decided.is_ignore();
        }
        if secret && ignored && !self.include.names_exactly(asked.path) {
            return Verdict::Out { why: Out::Secret, descend: false };
        }
        Verdict::In {
            coverage: Coverage::Included { pattern, ignored },
            why: In::Include(self.include.text(pattern)),
        }
    }

    fn by_ignore_files<'a>(
        &'a self,
        start: &'a Start,
        scope: Option<&'a Arc<Scope>>,
        above: Coverage,
        asked: Asked<'_>,
    ) -> Verdict<'a> {
        let descend = || asked.is_folder && self.include.may_match_below(asked.path);
        if above == Coverage::Ignored {
            return Verdict::Out { why: Out::Above, descend: descend() };
        }
        match ignores::decide(scope, &start.global, asked.full, asked.is_folder) {
            Match::Ignore(rule) => Verdict::Out { why: Out::Ignored(rule), descend: descend() },
            Match::Whitelist(rule) => Verdict::In { coverage: Coverage::Open, why: In::Whitelisted(rule) },
            Match::None => Verdict::In { coverage: Coverage::Open, why: In::NothingAgainst },
        }
    }

    /// Ignore files above the project count up to the root of its repository, unless they ignore the project itself.
    pub(super) fn start(&self, root: &Path) -> Start {
        let mut start =
            Start { scope: None, prefix: String::new(), global: Gitignore::empty(), notices: Vec::new() };
        if self.honoured == Honoured::All
            && let Some(path) = &self.global_ignore
        {
            start.global = ignores::global(path, &mut start.notices);
        }
        let Some(top) = root.ancestors().find(|folder| folder.join(ignores::GIT).symlink_metadata().is_ok())
        else {
            return start;
        };
        let Some(below) =
            root.strip_prefix(top).ok().and_then(Path::to_str).filter(|below| !below.is_empty())
        else {
            return start;
        };
        if let Some((scope, prefix)) = self.rules_above(top, below, &mut start) {
            start.scope = Some(scope);
            start.prefix = prefix;
        }
        start
    }

    fn rules_above(&self, top: &Path, below: &str, start: &mut Start) -> Option<(Arc<Scope>, String)> {
        let mut scope: Option<Arc<Scope>> = None;
        let mut prefix = String::new();
        for name in below.split('/') {
            let place = top.join(&prefix);
            let folder = Folder { place: &place, prefix: &prefix, present: Present::of(&place) };
            scope = ignores::enter(scope.as_ref(), &folder, self.honoured, &mut start.notices);
            let path = format!("{prefix}{name}");
            if ignores::decide(scope.as_ref(), &Gitignore::empty(), &path, true).is_ignore() {
                return None;
            }
            prefix = path + "/";
        }
        scope.map(|scope| (scope, prefix))
    }
}
