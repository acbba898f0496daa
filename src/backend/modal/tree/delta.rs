//! The difference to a tree that Modal already holds, for the stdin of the job's own start.
//!
//! Sending a small change along with the command costs no call of its own; making a new mount of the tree costs
//! two. Format: a shell script, then the contents of all written files one after the other, where the script says.
//! Its words `put`, `gone` and `folder` are those of `script/run.sh`.

use std::path::Path;

use super::layout::Script;
use crate::workspace::tree::{Contents, Manifest, TreeError, read_verified};

/// Most files of a delta: each costs the sandbox some processes.
const MOST_FILES: usize = 200;
/// Most deletions, links and folders of a delta.
const MOST_OTHERS: usize = 1000;
/// Most bytes of a delta's contents.
const MOST_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The script and what it refers to.
    pub bytes: Vec<u8>,
    pub script_size: usize,
    /// Paths written, deleted or given another mode.
    pub changes: usize,
}

impl Delta {
    pub fn label(&self) -> String {
        if self.changes == 1 { "1 change".to_owned() } else { format!("{} changes", self.changes) }
    }
}

/// What turns `old` into `new`, with contents read from `root`; `None` when a new mount is cheaper.
pub(super) fn between(old: &Manifest, new: &Manifest, root: &Path) -> Result<Option<Delta>, TreeError> {
    let difference = new.since(old);
    let files = difference.write.iter().filter_map(|entry| match entry.contents {
        Contents::File { size, .. } => Some(size),
        _ => None,
    });
    let (count, bytes) =
        files.fold((0, 0_u64), |(count, bytes), size| (count + 1, bytes.saturating_add(size)));
    let changes = difference.write.len() + difference.delete.len() + difference.change_mode.len();
    if count > MOST_FILES || bytes > MOST_BYTES || changes - count > MOST_OTHERS {
        return Ok(None);
    }
    let mut contents = Vec::new();
    let mut puts = Vec::new();
    for entry in &difference.write {
        if let Contents::File { size, sha256, .. } = entry.contents {
            puts.push((&*entry.path, contents.len(), size));
            contents.extend(read_verified(root, &entry.path, size, sha256)?);
        }
    }
    let script = script(&difference, &puts);
    let mut bytes = script.into_bytes();
    let script_size = bytes.len();
    bytes.extend(contents);
    Ok(Some(Delta { bytes, script_size, changes }))
}

fn script(difference: &crate::workspace::tree::Delta<'_>, puts: &[(&str, usize, u64)]) -> String {
    // Its length is part of the offsets in it: grow it until it says its own length.
    let mut length = 0;
    loop {
        let text = script_before(difference, puts, length);
        if text.len() == length {
            return text;
        }
        length = text.len();
    }
}

fn script_before(
    difference: &crate::workspace::tree::Delta<'_>,
    puts: &[(&str, usize, u64)],
    length: usize,
) -> String {
    let mut script = Script::default();
    for path in &difference.delete {
        script.command("gone", path);
    }
    for entry in &difference.write {
        match &entry.contents {
            Contents::Directory { .. } => script.command("folder", &entry.path),
            Contents::Symlink { target } => script.link(&entry.path, target),
            Contents::File { .. } => {}
        }
    }
    for (path, at, size) in puts {
        script.put(path, length + at + 1, *size);
    }
    script.modes(difference.write.iter().copied());
    for entry in &difference.change_mode {
        if let Contents::File { mode, .. } | Contents::Directory { mode } = entry.contents {
            script.chmod(mode, &[&entry.path]);
        }
    }
    script.text
}
