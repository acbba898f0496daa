//! The files of this machine that a layer's build sees.
//!
//! Selects them as the official SDK does: folders are walked without following links to folders, a link to a file
//! gives that file's contents under the link's name, empty folders are lost, Docker's patterns decide.

use std::fs;
use std::path::{Path, PathBuf};

use super::ImageError;
use super::pattern::Patterns;
use crate::base::files::FileError;

/// Where the build context of a layer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextMount {
    /// A mount that Modal keeps for everybody, by name.
    Global(String),
    /// A file or folder that is copied to an absolute path.
    Local { from: PathBuf, to: String, ignore: Vec<String> },
    /// What COPY instructions name, relative to `folder`.
    Copied {
        folder: PathBuf,
        sources: Vec<String>,
        /// `None`: the ignore file beside the Dockerfile, else the one of the folder.
        ignore: Option<Vec<String>>,
        dockerfile: Option<PathBuf>,
    },
}

/// One file of a build context.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContextFile {
    /// Absolute path inside the mount.
    pub remote: String,
    pub local: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Pattern(#[from] ImageError),
    #[error("{} is neither a file nor a folder", .0.display())]
    NotAFile(PathBuf),
}

impl ContextMount {
    /// The files, by remote path. `root` is the folder of accel.toml. Reads the file system.
    pub fn files(&self, root: &Path) -> Result<Vec<ContextFile>, ContextError> {
        let mut files = match self {
            Self::Global(_) => Vec::new(),
            Self::Local { from, to, ignore } => local(&root.join(from), to, ignore)?,
            Self::Copied { folder, sources, ignore, dockerfile } => {
                let folder = root.join(folder);
                let dockerfile = dockerfile.as_ref().map(|path| root.join(path));
                let ignore = match ignore {
                    Some(lines) => lines.clone(),
                    None => ignore_file(&folder, dockerfile.as_deref())?,
                };
                copied(&folder, sources, &ignore)?
            }
        };
        files.sort_unstable();
        Ok(files)
    }
}

fn local(from: &Path, to: &str, ignore: &[String]) -> Result<Vec<ContextFile>, ContextError> {
    let metadata = fs::metadata(from).map_err(|source| FileError::new("read", from, source))?;
    if metadata.is_file() {
        let name = from.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let remote = if to.ends_with('/') { format!("{to}{name}") } else { to.to_owned() };
        return Ok(vec![ContextFile { remote, local: from.to_owned() }]);
    }
    if !metadata.is_dir() {
        return Err(ContextError::NotAFile(from.to_owned()));
    }
    let ignore = Patterns::parse(ignore.iter().map(String::as_str))?;
    let mut found = Vec::new();
    let prune = ignore.can_prune();
    walk(from, "", &mut |path| prune && ignore.matches(path), &mut found)?;
    let target = to.trim_end_matches('/');
    let kept = found.into_iter().filter(|(path, _)| !ignore.matches(path));
    Ok(kept.map(|(path, local)| ContextFile { remote: format!("{target}/{path}"), local }).collect())
}

fn copied(folder: &Path, sources: &[String], ignore: &[String]) -> Result<Vec<ContextFile>, ContextError> {
    let include = Patterns::parse(sources.iter().map(String::as_str))?;
    let ignore = Patterns::parse(ignore.iter().map(String::as_str))?;
    let inside = fs::canonicalize(folder).map_err(|source| FileError::new("read", folder, source))?;
    let mut found = Vec::new();
    let prune = ignore.can_prune();
    walk(folder, "", &mut |path| prune && ignore.matches(path), &mut found)?;
    let kept = found.into_iter().filter(|(path, local)| {
        // A link that leads out of the context is no part of it.
        let leads_in = fs::canonicalize(local).is_ok_and(|target| target.starts_with(&inside));
        include.matches(path) && !ignore.matches(path) && leads_in
    });
    Ok(kept.map(|(path, local)| ContextFile { remote: format!("/{path}"), local }).collect())
}

/// Adds every regular file below `folder`, with its path relative to the start.
fn walk(
    folder: &Path,
    below: &str,
    skip: &mut dyn FnMut(&str) -> bool,
    found: &mut Vec<(String, PathBuf)>,
) -> Result<(), ContextError> {
    let fail = |source| FileError::new("read", folder, source);
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let local = entry.path();
        let name = entry.file_name();
        let path = if below.is_empty() {
            name.to_string_lossy().into_owned()
        } else {
            format!("{below}/{}", name.to_string_lossy())
        };
        let kind = entry.file_type().map_err(fail)?;
        if kind.is_dir() {
            if !skip(&path) {
                walk(&local, &path, skip, found)?;
            }
        } else if fs::metadata(&local).is_ok_and(|target| target.is_file()) {
            found.push((path, local));
        }
    }
    Ok(())
}

/// Lines of the ignore file that applies: `<Dockerfile>.dockerignore`, else `.dockerignore` beside it, else that of
/// the context; files outside the context do not count.
fn ignore_file(folder: &Path, dockerfile: Option<&Path>) -> Result<Vec<String>, ContextError> {
    let beside = dockerfile.and_then(|file| {
        let specific = format!("{}.dockerignore", file.file_name()?.to_string_lossy());
        Some([file.with_file_name(specific), file.with_file_name(".dockerignore")])
    });
    let mut candidates = beside.into_iter().flatten().chain([folder.join(".dockerignore")]);
    let Some(file) = candidates.find(|file| file.starts_with(folder) && file.is_file()) else {
        return Ok(Vec::new());
    };
    let text = String::from_utf8_lossy(&crate::base::files::read(&file)?).into_owned();
    let text = text.trim_start_matches('\u{feff}');
    Ok(text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect())
}
