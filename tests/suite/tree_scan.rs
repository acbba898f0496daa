//! What travels: rules, kinds of files, explanations, and agreement with git.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use accel::base::size::Bytes;
use accel::plan::spec::SyncSet;
use accel::workspace::tree::{EntryKind, Exclusion, Rules, Scan, TreeError, scan};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

pub(crate) fn sync_set() -> SyncSet {
    SyncSet { gitignore: true, include: Vec::new(), exclude: Vec::new(), max_size: Bytes(1 << 40) }
}

fn including(patterns: &[&str]) -> SyncSet {
    SyncSet { include: patterns.iter().map(ToString::to_string).collect(), ..sync_set() }
}

fn excluding(patterns: &[&str]) -> SyncSet {
    SyncSet { exclude: patterns.iter().map(ToString::to_string).collect(), ..sync_set() }
}

/// A project folder in a temporary place.
struct Tree {
    folder: tempfile::TempDir,
}

impl Tree {
    /// `path = contents`, `path/` for an empty folder, `path -> target` for a link.
    fn new(lines: &[&str]) -> Self {
        let tree = Self { folder: tempfile::tempdir().unwrap() };
        lines.iter().for_each(|line| tree.add(line));
        tree
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn add(&self, line: &str) {
        if let Some((path, target)) = line.split_once(" -> ") {
            return symlink(target, self.parents(path)).unwrap();
        }
        if let Some(folder) = line.strip_suffix('/').filter(|line| !line.contains(" = ")) {
            return fs::create_dir_all(self.root().join(folder)).unwrap();
        }
        let (path, contents) = line.split_once(" = ").unwrap_or((line, ""));
        fs::write(self.parents(path), contents.replace('|', "\n")).unwrap();
    }

    fn parents(&self, path: &str) -> PathBuf {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn scan(&self, sync: &SyncSet) -> Result<Scan, TreeError> {
        scan(self.root(), &rules(sync), &AtomicBool::new(false))
    }

    fn paths(&self, sync: &SyncSet) -> Vec<String> {
        self.scan(sync).unwrap().entries.iter().map(|entry| shown(&entry.path, &entry.kind)).collect()
    }

    fn notices(&self, sync: &SyncSet) -> Vec<String> {
        self.scan(sync).unwrap().notices.iter().map(ToString::to_string).collect()
    }

    fn explain(&self, sync: &SyncSet, path: &str) -> String {
        rules(sync).explain(self.root(), path).to_string()
    }
}

fn rules(sync: &SyncSet) -> Rules {
    Rules::new(sync, &[], None).unwrap()
}

fn shown(path: &str, kind: &EntryKind) -> String {
    match kind {
        EntryKind::File(_) => path.to_owned(),
        EntryKind::Symlink { target } => format!("{path} -> {target}"),
        EntryKind::Directory { .. } => format!("{path}/"),
    }
}

#[test]
fn ignore_files_decide_by_kind_and_depth() {
    let tree = Tree::new(&[
        ".gitignore = *.log|/build/|secret*|!keep.log",
        ".ignore = notes",
        ".accelignore = !trace.log|heavy/",
        "a.log",
        "keep.log",
        "trace.log",
        "notes",
        "heavy/x",
        "build/out",
        "src/build/kept",
        "src/.gitignore = !a.log",
        "src/a.log",
        "src/b.log",
        ".hidden/file",
        ".git/config",
        "sub/.git = gitdir: elsewhere",
    ]);
    insta::assert_snapshot!(tree.paths(&sync_set()).join("\n"), @r"
    .accelignore
    .gitignore
    .hidden/
    .hidden/file
    .ignore
    keep.log
    src/
    src/.gitignore
    src/a.log
    src/build/
    src/build/kept
    sub/
    trace.log
    ");
    let without = SyncSet { gitignore: false, ..sync_set() };
    let all = tree.paths(&without);
    assert!(all.contains(&"a.log".to_owned()) && all.contains(&"notes".to_owned()));
    assert!(!all.iter().any(|path| path.starts_with("heavy") || path.starts_with(".git/")));
}

#[test]
fn include_reaches_into_ignored_folders_and_exclude_wins() {
    let tree = Tree::new(&[
        ".gitignore = data/|*.bin",
        "data/golden/a.csv",
        "data/golden/deep/b.bin",
        "data/golden/skip/c",
        "data/raw/huge.bin",
        "data/notes.txt",
        "model.bin",
        "docs/guide.md",
        "docs/api/x.md",
    ]);
    let sync = SyncSet {
        include: vec!["data/golden/**".to_owned(), "model.bin".to_owned()],
        exclude: vec!["docs/**".to_owned(), "data/golden/skip".to_owned()],
        ..sync_set()
    };
    insta::assert_snapshot!(tree.paths(&sync).join("\n"), @r"
    .gitignore
    data/
    data/golden/
    data/golden/a.csv
    data/golden/deep/
    data/golden/deep/b.bin
    model.bin
    ");
    insta::assert_snapshot!(tree.paths(&including(&["**/*.bin"])).join("\n"), @r"
    .gitignore
    data/
    data/golden/
    data/golden/deep/
    data/golden/deep/b.bin
    data/raw/
    data/raw/huge.bin
    docs/
    docs/api/
    docs/api/x.md
    docs/guide.md
    model.bin
    ");
}

#[test]
fn callers_patterns_are_above_everything() {
    let tree = Tree::new(&["reports/a.xml", "src/a.py", ".accel-incoming-1/x"]);
    let exclusion = Exclusion { pattern: "reports/**".into(), reason: "output of job test".into() };
    let rules = Rules::new(&including(&["reports/**"]), &[exclusion], None).unwrap();
    let found = scan(tree.root(), &rules, &AtomicBool::new(false)).unwrap();
    let paths: Vec<_> = found.entries.iter().map(|entry| &*entry.path).collect();
    assert_eq!(paths, ["src", "src/a.py"]);
    insta::assert_snapshot!(rules.explain(tree.root(), "reports/a.xml"), @r#"reports/a.xml stays: output of job test ("reports/**") (on reports/)"#);
}

#[test]
fn links_travel_as_links_unless_they_lead_outside() {
    let inside = Tree::new(&[
        "a/file",
        "a/near -> file",
        "up -> a/../a/file",
        "gone -> nothing",
        "loop -> loop",
        "dir -> a",
    ]);
    insta::assert_snapshot!(inside.paths(&sync_set()).join("\n"), @r"
    a/
    a/file
    a/near -> file
    dir -> a
    gone -> nothing
    loop -> loop
    up -> a/../a/file
    ");

    let tree = Tree::new(&[
        "bad -> ../outside",
        "deep/bad -> ../../x",
        "etc -> /etc/passwd",
        ".gitignore = ignored",
        "ignored -> /x",
    ]);
    let error = tree.scan(&sync_set()).unwrap_err();
    insta::assert_snapshot!(error, @r"
    3 paths cannot travel:
      bad links to ../outside, outside the project
      deep/bad links to ../../x, outside the project
      etc links to /etc/passwd, an absolute path
    ");
    assert!(error.help().unwrap().contains("[sync] include"));
    let allowed = including(&["bad", "deep/bad", "etc"]);
    assert!(tree.paths(&allowed).contains(&"etc -> /etc/passwd".to_owned()));
    assert!(tree.scan(&including(&["**"])).is_err(), "a wildcard does not allow outside links");
    assert_eq!(tree.paths(&excluding(&["bad", "deep/bad", "etc"])), [".gitignore", "deep/"]);
}

#[test]
fn what_is_no_file_is_said_and_left() {
    let tree = Tree::new(&["file"]);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.root().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.root().join("socket")).unwrap();
    assert_eq!(tree.paths(&sync_set()), ["file"]);
    assert_eq!(
        tree.notices(&sync_set()),
        ["pipe is a FIFO and does not travel", "socket is a socket and does not travel"]
    );
}

#[test]
fn odd_names_travel_and_those_that_are_no_text_are_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let tree =
        Tree::new(&["größe/日本", "new\u{a}line", "-dash", "sp ace", "back\\slash", "*?[", "\u{1F600}"]);
    insta::assert_snapshot!(format!("{:?}", tree.paths(&sync_set())), @r#"["*?[", "-dash", "back\\slash", "größe/", "größe/日本", "new\nline", "sp ace", "😀"]"#);
    fs::write(tree.root().join(OsStr::from_bytes(b"latin-\xe9")), "").unwrap();
    insta::assert_snapshot!(tree.scan(&sync_set()).unwrap_err(), @r"
    1 path cannot travel:
      latin-�: the name is not UTF-8
    ");
    tree.add(".gitignore = latin*");
    assert!(tree.scan(&sync_set()).is_ok(), "what is ignored need not be text");
}

#[test]
fn secrets_are_named_or_stay() {
    let tree = Tree::new(&[
        ".gitignore = .env|private/",
        ".env = A=1",
        "app/server.pem",
        "app/.env.example",
        "private/id_rsa",
        "private/data",
    ]);
    insta::assert_snapshot!(tree.notices(&sync_set()).join("\n"), @"app/server.pem looks like a secret and travels (add it to .gitignore or [sync] exclude to keep it here)");
    let wide = including(&["**"]);
    let paths = tree.paths(&wide);
    assert!(paths.contains(&"private/data".to_owned()));
    assert!(!paths.iter().any(|path| path.contains("id_rsa") || path == ".env"), "{paths:?}");
    assert_eq!(tree.notices(&wide).iter().filter(|notice| notice.contains("stays here")).count(), 2);
    assert!(tree.paths(&including(&[".env", "private/id_rsa"])).contains(&"private/id_rsa".to_owned()));
}

#[test]
fn too_large_a_tree_is_refused_before_it_is_read() {
    let tree = Tree::new(&["src/a.py = 12345"]);
    fs::create_dir_all(tree.root().join("data/raw")).unwrap();
    let huge = fs::File::create(tree.root().join("data/raw/huge.bin")).unwrap();
    huge.set_len(5 << 40).unwrap();
    let error = tree.scan(&SyncSet { max_size: Bytes::parse("300MB").unwrap(), ..sync_set() }).unwrap_err();
    insta::assert_snapshot!(error, @"the tree is 5.0TiB, more than [sync] max_size = 286.1MiB; largest: data/raw/huge.bin 5TiB, src/a.py 5B");
}

#[test]
fn folders_that_cannot_be_read_are_named() {
    let tree = Tree::new(&["locked/file", "open/file"]);
    let locked = tree.root().join("locked");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let as_root = fs::read_dir(&locked).is_ok();
    let result = tree.scan(&sync_set());
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    if as_root {
        eprintln!("skipped: this user may read everything");
        return;
    }
    insta::assert_snapshot!(result.unwrap_err(), @r"
    1 path cannot travel:
      locked cannot be read: permission denied
    ");
}

#[test]
fn modes_and_empty_folders_are_kept() {
    let tree = Tree::new(&["run.sh", "plain", "empty/deep/", "ignored-only/x.o", ".gitignore = *.o"]);
    fs::set_permissions(tree.root().join("run.sh"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(tree.root().join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
    let found = tree.scan(&sync_set()).unwrap();
    let kind = |path: &str| found.entries.iter().find(|entry| &*entry.path == path).unwrap().kind.clone();
    assert!(matches!(kind("run.sh"), EntryKind::File(stat) if stat.mode == 0o751));
    assert_eq!(kind("empty"), EntryKind::Directory { mode: 0o700 });
    assert!(matches!(kind("ignored-only"), EntryKind::Directory { .. }));
}

#[test]
fn rules_above_the_project_count_up_to_the_repository() {
    let tree = Tree::new(&[
        ".gitignore = *",
        "repository/.git/info/exclude = excluded",
        "repository/.gitignore = *.tmp|/project/anchored",
        "repository/project/a.tmp",
        "repository/project/anchored",
        "repository/project/excluded",
        "repository/project/kept",
        "dotfiles/.git/",
        "dotfiles/.gitignore = *",
        "dotfiles/project/kept",
    ]);
    let paths = |project: &str| {
        let found = scan(&tree.root().join(project), &rules(&sync_set()), &AtomicBool::new(false)).unwrap();
        found.entries.iter().map(|entry| entry.path.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(paths("repository/project"), ["kept"]);
    assert_eq!(paths("dotfiles/project"), ["kept"], "a repository that ignores the project has no say");
    insta::assert_snapshot!(
        rules(&sync_set()).explain(&tree.root().join("repository/project"), "a.tmp"),
        @"a.tmp stays: .gitignore:1: *.tmp"
    );
}

#[test]
fn the_users_own_ignore_file_counts() {
    let tree = Tree::new(&["project/a.swp", "project/b", "global = *.swp"]);
    let rules = Rules::new(&sync_set(), &[], Some(tree.root().join("global"))).unwrap();
    let found = scan(&tree.root().join("project"), &rules, &AtomicBool::new(false)).unwrap();
    assert_eq!(found.entries.len(), 1);
}

#[test]
fn explanations_name_rule_file_and_line() {
    let tree = Tree::new(&[
        ".gitignore = # comment||*.log|data/",
        "sub/.gitignore = !keep.log",
        "sub/keep.log",
        "data/golden/a",
        "data/other",
        "src/a.py",
        "docs/x",
        ".env.local",
    ]);
    let sync =
        SyncSet { include: vec!["data/golden/**".into()], exclude: vec!["docs/**".into()], ..sync_set() };
    let answers: Vec<_> = [
        "a.log",
        "sub/keep.log",
        "data/golden/a",
        "data/other",
        "data",
        "src/a.py",
        "docs/x",
        ".git/config",
        "src/none",
    ]
    .iter()
    .map(|path| tree.explain(&sync, path))
    .collect();
    insta::assert_snapshot!(answers.join("\n"), @r#"
    a.log stays: .gitignore:3: *.log
    sub/keep.log travels: sub/.gitignore:1: !keep.log
    data/golden/a travels: [sync] include "data/golden/**" (on data/golden/)
    data/other stays: .gitignore:4: data/ (on data/)
    data stays: .gitignore:4: data/
    src/a.py travels: nothing leaves it out
    docs/x stays: [sync] exclude "docs/**" (on docs/)
    .git/config stays: .git never travels (on .git/)
    src/none travels: nothing leaves it out
    "#);
}

#[test]
fn a_broken_line_is_said_and_left_out() {
    let tree = Tree::new(&[".gitignore = {a|*.log", "x.log"]);
    assert_eq!(tree.paths(&sync_set()), [".gitignore"]);
    insta::assert_snapshot!(tree.notices(&sync_set()).join("\n"), @".gitignore:1: error parsing glob '{a': unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?); the line is left out");
}

#[test]
fn a_stopped_scan_says_so() {
    let tree = Tree::new(&["a"]);
    let result = scan(tree.root(), &rules(&sync_set()), &AtomicBool::new(true));
    assert!(matches!(result, Err(TreeError::Stopped)));
}

// Agreement with git, and of the walk with the explanations, over random trees.

const SEEDS: u32 = 300;

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "src", "build", "x.log", "y.log", "z.o", "d é", ".dot"])
        .prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..4).prop_map(|names| names.join("/"))
}

fn rule() -> impl Strategy<Value = String> {
    prop_oneof![
        name(),
        name().prop_map(|name| format!("{name}/")),
        name().prop_map(|name| format!("/{name}")),
        name().prop_map(|name| format!("!{name}")),
        (name(), name()).prop_map(|(a, b)| format!("{a}/{b}")),
        (name(), name()).prop_map(|(a, b)| format!("!{a}/{b}")),
        name().prop_map(|name| format!("{name}/**")),
        name().prop_map(|name| format!("**/{name}")),
        (name(), name()).prop_map(|(a, b)| format!("{a}/**/{b}")),
        prop::sample::select(vec![
            "*.log", "!*.log", "*.o", "[ab]", "?", "*", "!*/", "# note", "", "src/*", "!src/a"
        ])
        .prop_map(str::to_owned),
    ]
}

fn ignore_files() -> impl Strategy<Value = Vec<(String, Vec<String>)>> {
    let place = prop_oneof![Just(String::new()), path()];
    prop::collection::vec((place, prop::collection::vec(rule(), 0..4)), 0..4)
}

fn build(paths: &[String], ignores: &[(String, Vec<String>)]) -> Tree {
    let tree = Tree::new(&[]);
    for path in paths {
        // A path that runs through an earlier file is no path.
        let place = tree.root().join(path);
        if fs::create_dir_all(place.parent().unwrap()).is_ok() && !place.is_dir() {
            fs::write(place, path).unwrap();
        }
    }
    for (folder, lines) in ignores {
        let folder = tree.root().join(folder);
        if folder.is_dir() {
            fs::write(folder.join(".gitignore"), lines.join("\n") + "\n").unwrap();
        }
    }
    tree
}

fn git(root: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("git")
        .current_dir(root)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .args(["-c", "core.excludesFile="])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn runner() -> TestRunner {
    let config = Config { cases: SEEDS, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

#[test]
fn random_trees_travel_as_git_lists_them() {
    let strategy = (prop::collection::vec(path(), 0..24), ignore_files());
    runner()
        .run(&strategy, |(paths, ignores)| {
            let tree = build(&paths, &ignores);
            git(tree.root(), &["init", "-q"]);
            let listed = git(tree.root(), &["ls-files", "-z", "-co", "--exclude-standard"]);
            let listed = String::from_utf8(listed).unwrap();
            let expected: BTreeSet<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
            let found = tree.scan(&sync_set()).unwrap();
            let files = found.entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File(_)));
            let files: BTreeSet<&str> = files.map(|entry| &*entry.path).collect();
            prop_assert_eq!(files, expected);
            Ok(())
        })
        .unwrap();
}

#[test]
fn explanations_agree_with_the_walk() {
    let patterns = || {
        prop::collection::vec(
            prop_oneof![
                path(),
                path().prop_map(|path| path + "/**"),
                name().prop_map(|name| format!("**/{name}"))
            ],
            0..3,
        )
    };
    let strategy = (prop::collection::vec(path(), 0..24), ignore_files(), patterns(), patterns());
    runner()
        .run(&strategy, |(paths, ignores, include, exclude)| {
            let tree = build(&paths, &ignores);
            let rules = rules(&SyncSet { include, exclude, ..sync_set() });
            let found = scan(tree.root(), &rules, &AtomicBool::new(false)).unwrap();
            let travelling: BTreeSet<&str> = found.entries.iter().map(|entry| &*entry.path).collect();
            for path in paths.iter().filter(|path| tree.root().join(path).is_file()) {
                let explained = rules.explain(tree.root(), path);
                prop_assert_eq!(explained.travels, travelling.contains(path.as_str()), "{}", explained);
            }
            let sorted = found.entries.windows(2).all(|pair| {
                accel::workspace::tree::path_order(pair[0].path.as_bytes(), pair[1].path.as_bytes()).is_lt()
            });
            prop_assert!(sorted);
            for entry in &found.entries {
                if let Some((parent, _)) = entry.path.rsplit_once('/') {
                    prop_assert!(travelling.contains(parent), "{} lacks its folder", entry.path);
                }
            }
            Ok(())
        })
        .unwrap();
}
