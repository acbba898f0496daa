//! The build context: a temporary folder with the Dockerfile and exactly what it names.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::dockerfile::{ContextFile, Rendered};
use crate::base::digest::{Digest, DigestBuilder};

/// Name of the rendered Dockerfile in the context.
pub(super) const DOCKERFILE: &str = ".accel/Dockerfile";

/// Lays the context out below `folder`. Returns the digest of all that the image is made from.
pub(super) fn lay_out(rendered: &Rendered, root: &Path, folder: &Path) -> io::Result<Digest> {
    let mut digest = DigestBuilder::new("accel container image v1");
    digest.field(rendered.text.as_bytes());
    for file in &rendered.context {
        match file {
            ContextFile::Contents { at, contents } => {
                put(&folder.join(at), |to| fs::write(to, contents))?;
                digest.field(at.as_bytes()).field(contents);
            }
            ContextFile::Tree { at, from, ignore } => {
                let (from, to) = (root.join(from), folder.join(at));
                copy_tree(&from, &to, &ignored(&from, ignore), &mut digest)
                    .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", from.display())))?;
            }
        }
    }
    put(&folder.join(DOCKERFILE), |to| fs::write(to, &rendered.text))?;
    Ok(digest.finish())
}

fn put(to: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    write(to)
}

fn ignored(root: &Path, patterns: &[String]) -> Gitignore {
    let mut builder = GitignoreBuilder::new(root);
    for pattern in patterns {
        // A pattern that is none ignores nothing; the configuration has said so.
        let _ = builder.add_line(None, pattern);
    }
    builder.build().unwrap_or_else(|_| Gitignore::empty())
}

/// In the order of names, so that the digest is the same everywhere. Links are copied as links.
fn copy_tree(from: &Path, to: &Path, ignored: &Gitignore, digest: &mut DigestBuilder) -> io::Result<()> {
    let found = from.symlink_metadata()?;
    if ignored.matched(from, found.is_dir()).is_ignore() {
        return Ok(());
    }
    digest.field(to.file_name().unwrap_or_default().as_encoded_bytes());
    digest.field(&found.permissions().mode().to_le_bytes());
    if found.is_dir() {
        fs::create_dir_all(to)?;
        let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        entries
            .iter()
            .try_for_each(|entry| copy_tree(&entry.path(), &to.join(entry.file_name()), ignored, digest))
    } else if found.is_symlink() {
        let target = fs::read_link(from)?;
        digest.field(target.as_os_str().as_encoded_bytes());
        put(to, |to| std::os::unix::fs::symlink(&target, to))
    } else if found.is_file() {
        digest.field(&fs::read(from)?);
        put(to, |to| fs::copy(from, to).map(drop))
    } else {
        Ok(())
    }
}
