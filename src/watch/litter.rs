//! What editors and tools put beside the files that are worked on. It never triggers, wherever it lies: else opening a
//! file in vim, or importing a Python module for the first time, would be a reason to run.
//!
//! Only names that nobody gives to anything else. What a project makes of its own is for its ignore files, and for
//! `outputs` and `watch.ignore` of its jobs.

/// Patterns, each with what it is.
pub const LITTER: [(&str, &str); 16] = [
    ("**/.*.sw[a-p]", "swap file of vim"),
    ("**/.*.sw[a-p]x", "swap file of vim"),
    ("**/4913", "vim's test of a folder"),
    ("**/*~", "backup of an editor"),
    ("**/.#*", "lock of emacs"),
    ("**/#*#", "unsaved changes of emacs"),
    ("**/*___jb_tmp___", "save of a JetBrains editor"),
    ("**/*___jb_old___", "save of a JetBrains editor"),
    ("**/.*.kate-swp", "swap file of kate"),
    ("**/.DS_Store", "view of a folder"),
    ("**/.nfs*", "file removed while it is open"),
    ("**/__pycache__", "bytecode of Python"),
    ("**/*.py[co]", "bytecode of Python"),
    ("**/.pytest_cache", "cache of pytest"),
    ("**/.mypy_cache", "cache of mypy"),
    ("**/.ruff_cache", "cache of ruff"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::tree::PatternSet;

    #[test]
    fn litter_is_told_from_files_that_are_worked_on() {
        let set = PatternSet::new(LITTER.iter().map(|(pattern, _)| *pattern)).unwrap();
        for path in [
            ".a.txt.swp",
            "src/.lib.rs.swo",
            "src/.lib.rs.swpx",
            "4913",
            "a.txt~",
            "src/.#lib.rs",
            "src/#lib.rs#",
            "a.py___jb_tmp___",
            "x/__pycache__",
            "x/__pycache__/a.cpython-312.pyc",
            "a.pyc",
            ".pytest_cache/v/cache/lastfailed",
        ] {
            assert!(set.covering(path).is_some(), "{path}");
        }
        for path in
            ["a.swp", ".swift", "swp", ".env", "src/a.py", "~a", "#a", "C#", "14913", "a#b#c", ".gitignore"]
        {
            assert!(set.covering(path).is_none(), "{path}");
        }
    }
}
