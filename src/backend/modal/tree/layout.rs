//! The tree as a mount: files as they are, and a script for what a mount cannot hold.
//!
//! A mount holds files with their permission bits. Empty folders, symlinks and the modes of folders are left to
//! `finish.sh`, which runs in the copy of the tree. The script is part of the mount, so equal trees are equal mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::backend::modal::script::MOUNT;
use crate::base::quote::shell_quote;
use crate::workspace::tree::{Contents, Manifest, ManifestEntry};

/// Modes that copying gives by itself.
const USUAL_FILE: u32 = 0o644;
const USUAL_FOLDER: u32 = 0o755;
/// Paths of one command, so that its arguments stay far below every limit.
const PORTION: usize = 100;

/// The path of a tree's file in the mount.
pub(super) fn in_mount(path: &str) -> String {
    format!("{MOUNT}/tree/{path}")
}

pub(super) fn finish_path() -> String {
    format!("{MOUNT}/finish.sh")
}

/// What is to be done in a copy of the mounted files to make it the tree.
pub(super) fn finish_script(manifest: &Manifest) -> String {
    let mut script = Script::default();
    for folder in manifest.empty_folders() {
        script.command("mkdir -p", folder);
    }
    for folder in folders_of_links_alone(manifest) {
        script.command("mkdir -p", folder);
    }
    for (path, target) in manifest.symlinks() {
        script.link(path, target);
    }
    script.modes(manifest.entries().iter());
    script.text
}

/// Folders with a symlink and no file directly in them: the mount need not have them.
fn folders_of_links_alone(manifest: &Manifest) -> BTreeSet<&str> {
    let folder = |path: &'_ str| path.rfind('/').map(|at| 0..at);
    let mut found: BTreeSet<&str> =
        manifest.symlinks().filter_map(|(path, _)| folder(path).map(|range| &path[range])).collect();
    for entry in manifest.entries() {
        if let (Contents::File { .. }, Some(range)) = (&entry.contents, folder(&entry.path)) {
            found.remove(&entry.path[range]);
        }
    }
    found
}

/// Lines of shell; every path starts with `./`, so that none is taken for an option.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) text: String,
}

impl Script {
    pub(super) fn command(&mut self, command: &str, path: &str) {
        self.line(format_args!("{command} {} || return 1", quote(path)));
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        let path = quote(path);
        self.line(format_args!("rm -rf {path} && ln -s -- {} {path} || return 1", shell_quote(target)));
    }

    /// Contents of a delta at `offset` (from 1).
    pub(super) fn put(&mut self, path: &str, offset: usize, size: u64) {
        self.line(format_args!("put {offset} {size} {} || return 1", quote(path)));
    }

    /// Modes that are not the usual ones; of folders last and from below, since they may forbid writing.
    pub(super) fn modes<'a>(&mut self, entries: impl Iterator<Item = &'a ManifestEntry>) {
        let mut files: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        let mut folders = Vec::new();
        for entry in entries {
            match entry.contents {
                Contents::File { mode, .. } if mode != USUAL_FILE => {
                    files.entry(mode).or_default().push(&entry.path);
                }
                Contents::Directory { mode } if mode != USUAL_FOLDER => folders.push((mode, &*entry.path)),
                _ => {}
            }
        }
        for (mode, paths) in files {
            self.chmod(mode, &paths);
        }
        folders.reverse();
        for same in folders.chunk_by(|a, b| a.0 == b.0) {
            self.chmod(same[0].0, &same.iter().map(|(_, path)| *path).collect::<Vec<_>>());
        }
    }

    pub(super) fn chmod(&mut self, mode: u32, paths: &[&str]) {
        for portion in paths.chunks(PORTION) {
            let paths: Vec<_> = portion.iter().map(|path| quote(path)).collect();
            self.line(format_args!("chmod {mode:04o} {} || return 1", paths.join(" ")));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a string does not fail");
    }
}

fn quote(path: &str) -> String {
    shell_quote(&format!("./{path}")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::tree::Sha256Digest;

    #[test]
    fn what_a_mount_cannot_hold_is_scripted() {
        let entry = |path: &str, contents| ManifestEntry { path: path.into(), contents };
        let file = |mode| Contents::File { mode, size: 1, sha256: Sha256Digest([0; 32]) };
        let manifest = Manifest::new(vec![
            entry("plain", file(0o644)),
            entry("run me", file(0o755)),
            entry("-x", file(0o755)),
            entry("locked", Contents::Directory { mode: 0o555 }),
            entry("locked/in", Contents::Directory { mode: 0o555 }),
            entry("link", Contents::Symlink { target: "-x".into() }),
            entry("links/alone", Contents::Symlink { target: "../-x".into() }),
            entry("with/file", file(0o644)),
            entry("with/link", Contents::Symlink { target: "file".into() }),
        ]);
        insta::assert_snapshot!(finish_script(&manifest), @r"
        mkdir -p ./locked/in || return 1
        mkdir -p ./links || return 1
        rm -rf ./link && ln -s -- -x ./link || return 1
        rm -rf ./links/alone && ln -s -- ../-x ./links/alone || return 1
        rm -rf ./with/link && ln -s -- file ./with/link || return 1
        chmod 0755 ./-x './run me' || return 1
        chmod 0555 ./locked/in ./locked || return 1
        ");
    }
}
