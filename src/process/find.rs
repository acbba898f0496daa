//! Finding programs as `execvp` does, on a PATH that is not accel's own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("{0}: command not found")]
    NotFound(String),
    #[error("{}: not executable", .0.display())]
    NotExecutable(PathBuf),
}

/// The file that running `name` would execute. A name with a slash is a path, relative to `cwd`; any other is
/// looked up in `path`, a list in the form of PATH, whose relative entries are relative to `cwd`.
pub fn find_program(name: &OsStr, path: &OsStr, cwd: &Path) -> Result<PathBuf, FindError> {
    if name.is_empty() {
        return Err(FindError::NotFound("(empty name)".to_owned()));
    }
    if name.as_encoded_bytes().contains(&b'/') {
        return check(cwd.join(name));
    }
    let mut refused = None;
    for folder in path_folders(path) {
        match check(cwd.join(folder).join(name)) {
            Ok(found) => return Ok(found),
            Err(FindError::NotExecutable(file)) => refused = refused.or(Some(file)),
            Err(FindError::NotFound(_)) => {}
        }
    }
    Err(refused.map_or_else(|| FindError::NotFound(name.display().to_string()), FindError::NotExecutable))
}

/// The folders of a list in the form of PATH; an empty entry is the working folder.
pub fn path_folders(path: &OsStr) -> impl Iterator<Item = &Path> {
    path.as_bytes().split(|byte| *byte == b':').map(|folder| Path::new(OsStr::from_bytes(folder)))
}

/// Most candidates do not exist, so the one call that says so comes first.
fn check(file: PathBuf) -> Result<PathBuf, FindError> {
    match accessat(CWD, &file, Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) if file.is_file() => Ok(file),
        Ok(()) => Err(FindError::NotExecutable(file)),
        Err(rustix::io::Errno::ACCESS) if file.exists() => Err(FindError::NotExecutable(file)),
        Err(_) => Err(FindError::NotFound(file.display().to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn looks_where_execvp_would() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        file(&root.join("a/tool"), 0o644);
        file(&root.join("b/tool"), 0o755);
        file(&root.join("c/data"), 0o644);
        fs::create_dir_all(root.join("b/folder")).unwrap();
        let find = |name: &str, path: &str| find_program(name.as_ref(), path.as_ref(), root);

        assert_eq!(find("tool", "a:b"), Ok(root.join("b/tool")), "a file that cannot run is passed over");
        assert_eq!(
            find("./b/tool", ""),
            Ok(root.join("./b/tool")),
            "a path is relative to the working folder"
        );
        assert_eq!(find("data", "b:c"), Err(FindError::NotExecutable(root.join("c/data"))));
        assert_eq!(find("folder", "b"), Err(FindError::NotExecutable(root.join("b/folder"))));
        assert_eq!(find("none", "a:b:/nowhere"), Err(FindError::NotFound("none".into())));
        assert!(find("", "a").is_err());
    }
}
