//! The local files that the build of a layer sees: found, read once, hashed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::super::image::context::{ContextFile, ContextMount};
use super::super::upload::{Content, Source};
use crate::backend::Failure;
use crate::domain::Cause;
use crate::workspace::tree::Sha256Digest;

const READ_BUFFER: usize = 256 << 10;

#[derive(Clone)]
pub(super) struct ContextContent {
    pub(super) remote: String,
    pub(super) mode: u32,
    pub(super) content: Content,
}

pub(super) fn context_files(context: &ContextMount, root: &Path) -> Result<Vec<ContextContent>, Failure> {
    let unusable = |error: String| Failure::new(Cause::Image, error).help("correct the layer that copies it");
    let files = context.files(root).map_err(|error| unusable(error.to_string()))?;
    // A path that several sources name is one file.
    let distinct: BTreeMap<String, ContextFile> =
        files.into_iter().map(|file| (file.remote.clone(), file)).collect();
    distinct
        .into_values()
        .map(|file| {
            let hashed = hash(&file.local);
            hashed
                .map(|(content, mode)| ContextContent { remote: file.remote, mode, content })
                .map_err(|error| unusable(format!("cannot read {}: {error}", file.local.display())))
        })
        .collect()
}

fn hash(local: &Path) -> io::Result<(Content, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    // Links are followed: the file's contents travel under the link's name.
    let local = local.canonicalize()?;
    let mut file = File::open(&local)?;
    let mode = file.metadata()?.mode() & 0o7777;
    let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; READ_BUFFER]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
    let (Some(folder), Some(name)) = (local.parent(), local.file_name().and_then(|name| name.to_str()))
    else {
        return Err(io::Error::other("the name is not UTF-8"));
    };
    let source = Source::File { root: folder.into(), path: name.into() };
    Ok((Content { sha256: Sha256Digest(hasher.finalize().into()), size, source }, mode))
}
