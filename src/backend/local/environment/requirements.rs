//! Requirement files and the files that they include, for the key of an environment.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::base::files::{self, FileError};
use crate::plan::spec::FileRef;

/// Adds a requirement file and, as they are on disk, the files that its `-r` and `-c` lines name. An included
/// file that is absent is left to the installer to complain about.
pub(super) fn collect(file: &FileRef, root: &Path, found: &mut Vec<FileRef>) -> Result<(), FileError> {
    if found.iter().any(|known| known.path == file.path) {
        return Ok(());
    }
    found.push(file.clone());
    let folder = file.path.parent().unwrap_or(Path::new(""));
    for included in included(&String::from_utf8_lossy(&file.contents)) {
        let path = normal(&folder.join(included));
        let whole = root.join(&path);
        if whole.is_file() {
            let contents = Arc::from(files::read(&whole)?);
            collect(&FileRef { path, contents }, root, found)?;
        }
    }
    Ok(())
}

/// Without `.` and `..`, so that files which include each other end.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if normal.file_name().is_some() => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

/// The paths of `-r FILE`, `--requirement=FILE`, `-c FILE` and `--constraint FILE` lines.
fn included(text: &str) -> Vec<PathBuf> {
    const OPTIONS: [&str; 4] = ["--requirement", "--constraint", "-r", "-c"];
    let path = |line: &str| {
        let line = line.trim();
        let rest = OPTIONS.iter().find_map(|option| line.strip_prefix(option))?;
        let rest = rest.trim_start_matches(['=', ' ', '\t']);
        let path = rest.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        (!path.is_empty() && !path.contains("://")).then(|| PathBuf::from(path))
    };
    text.lines().filter_map(path).collect()
}

/// The first file that is no longer what the key stands for.
pub(super) fn changed<'a>(files: &'a [FileRef], root: &Path) -> Option<&'a FileRef> {
    files.iter().find(|file| std::fs::read(root.join(&file.path)).ok().as_deref() != Some(&*file.contents))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_requirement_file_includes() {
        let text = "six\n-r base.txt\n--requirement=more.txt # why\n -c 'limits.txt'\n-r https://x/y.txt\n--pre\n-e .\n";
        let expected: Vec<PathBuf> = ["base.txt", "more.txt", "limits.txt"].map(PathBuf::from).into();
        assert_eq!(included(text), expected);
    }

    #[test]
    fn includes_are_read_beside_their_file_and_loops_end() {
        let root = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir(root.path().join("req")).expect("folder");
        std::fs::write(root.path().join("req/base.txt"), "-r ../all.txt\n-r gone.txt\n").expect("write");
        std::fs::write(root.path().join("all.txt"), "-r req/base.txt\n").expect("write");
        let all = FileRef { path: "all.txt".into(), contents: Arc::from(&b"-r req/base.txt\n"[..]) };
        let mut found = Vec::new();
        collect(&all, root.path(), &mut found).expect("read");
        let paths: Vec<_> = found.iter().map(|file| file.path.display().to_string()).collect();
        assert_eq!(paths, ["all.txt", "req/base.txt"]);
    }
}
