//! Where the paths of a sandbox's world lie on this machine.
//!
//! The rule: a text is searched for the paths that the sandbox owns, and each one found is put below the folder that
//! stands for the sandbox's `/`. A path is owned when it begins with
//! - one of [`ALWAYS`], as a whole component (`/workspace`, `/workspace/x`, not `/workspaces`), or with one of
//!   [`FAMILIES`], whatever follows (`/accel`, `/accel-7/x`, `/tmp/accel.123`);
//! - a folder that holds a mount's files, a volume's path, or a working directory of the sandbox or its image.
//!
//! A path begins where nothing that could belong to a path comes before: `FLAG=/workspace`, `'/workspace'` and
//! `a:/workspace` are found, `/tmp/workspace` and `$HOME/workspace` are not.

use std::path::{Path, PathBuf};

/// Owned by every sandbox.
const ALWAYS: &[&str] = &["/workspace", "/__modal", "/outputs", "/cache", "/data"];

/// Owned by every sandbox, as beginnings of names.
const FAMILIES: &[&str] =
    &["/accel", "/__accel", "/tmp/accel", "/run/accel", "/var/tmp/accel", "/dev/shm/accel"];

#[derive(Debug, Clone)]
pub struct World {
    root: PathBuf,
    owned: Vec<String>,
}

impl World {
    pub fn new(root: PathBuf) -> Self {
        Self { root, owned: ALWAYS.iter().map(|path| (*path).to_owned()).collect() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Adds a path that the sandbox owns. `/` and folders that this machine needs are left alone.
    pub fn own(&mut self, path: &str) {
        let path = path.trim_end_matches('/');
        const SHARED: &[&str] =
            &["", "/bin", "/usr", "/usr/bin", "/usr/local", "/usr/local/bin", "/dev", "/proc", "/tmp"];
        if !SHARED.contains(&path) && !self.owned.iter().any(|owned| owned == path) {
            self.owned.push(path.to_owned());
        }
    }

    /// Where an absolute path of the sandbox lies, owned or not.
    pub fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text with every owned path in it rewritten.
    pub fn rewrite(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut before = None;
        while let Some(next) = rest.chars().next() {
            if next == '/' && !before.is_some_and(within_path) && self.owns(rest) {
                out.push_str(&self.root.to_string_lossy());
            }
            out.push(next);
            before = Some(next);
            rest = &rest[next.len_utf8()..];
        }
        out
    }

    fn owns(&self, text: &str) -> bool {
        let whole = |path: &String| {
            text.strip_prefix(path.as_str())
                .is_some_and(|rest| rest.starts_with('/') || !rest.starts_with(within_path))
        };
        self.owned.iter().any(whole) || FAMILIES.iter().any(|path| text.starts_with(path))
    }
}

fn within_path(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '/' | '.' | '_' | '-' | '~')
}

#[cfg(test)]
mod tests {
    use super::World;

    #[test]
    fn owned_paths_are_found_wherever_they_begin() {
        let mut world = World::new("/r".into());
        world.own("/app/project/");
        world.own("/");
        for (text, expected) in [
            ("/workspace", "/r/workspace"),
            ("/workspaces", "/workspaces"),
            ("cat /workspace/a;ls '/accel-7/x'", "cat /r/workspace/a;ls '/r/accel-7/x'"),
            ("A=/app/project:/usr/bin", "A=/r/app/project:/usr/bin"),
            ("/tmp/workspace $HOME/workspace", "/tmp/workspace $HOME/workspace"),
            ("/tmp/accel.1/x /tmp/other", "/r/tmp/accel.1/x /tmp/other"),
            ("/app /bin/sh ünï/workspace", "/app /bin/sh ünï/workspace"),
        ] {
            assert_eq!(world.rewrite(text), expected);
        }
    }
}
