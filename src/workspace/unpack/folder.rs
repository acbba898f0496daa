//! Outputs that lie in another folder of this machine: the same entries, checked and placed as those of an archive.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::archive::{Member, MemberKind};
use super::names::Names;
use super::staging::Staging;
use super::{Policy, Report, UnpackError, place};
use crate::base::files::FileError;
use crate::workspace::kept::covered;

/// Puts what the outputs cover in the folder `from` below `root`: all of it or none. Blocks.
pub fn bring(from: &Path, policy: &Policy, root: &Path) -> Result<Report, UnpackError> {
    let mut staging = Staging::create(root)?;
    let mut names = Names::new(policy, staging.case_matters(policy.case)?);
    for (path, found) in covered(from, &policy.outputs)? {
        let place = from.join(&path);
        let wrap = |source| FileError::new("read", &place, source);
        let Some(member) = member(&path, &place, &found).map_err(wrap)? else { continue };
        let entry = names.accept(&member)?;
        match member.kind {
            MemberKind::File { .. } => staging.add(entry, &mut File::open(&place).map_err(wrap)?)?,
            _ => staging.add(entry, &mut io::empty())?,
        }
    }
    names.finish()?;
    let bytes = names.bytes();
    let report = place::place(root, staging)?;
    Ok(Report { bytes, ..report })
}

/// What is neither file, link nor folder is left out, as where outputs are packed.
fn member(path: &str, place: &Path, found: &Metadata) -> io::Result<Option<Member>> {
    let kind = if found.is_file() {
        MemberKind::File { size: found.size() }
    } else if found.is_dir() {
        MemberKind::Directory
    } else if found.is_symlink() {
        MemberKind::Symlink { target: fs::read_link(place)?.as_os_str().as_bytes().to_vec() }
    } else {
        return Ok(None);
    };
    Ok(Some(Member { name: path.as_bytes().to_vec(), kind, mode: found.mode() & 0o7777 }))
}
