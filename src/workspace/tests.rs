use std::process::Command;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use super::facts::{Remote, Surroundings};
use crate::backend::CancelSource;
use crate::base::money::Dollars;
use crate::base::size::Bytes;
use crate::plan::spec::{PlannedJob, SandboxSpec, SyncSet};
use crate::process::{Ownership, Supervisor};
use crate::store::{Database, Directories, History};

/// For facts that are not Modal's.
struct Nowhere;

impl Remote for Nowhere {
    fn remembered_ready(&self) -> Option<Result<(), String>> {
        None
    }

    fn ready(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + '_>> {
        Box::pin(std::future::ready(Err("not asked for".to_owned())))
    }

    fn per_hour(&self, _: &SandboxSpec) -> Result<Dollars, String> {
        Err("not asked for".to_owned())
    }

    fn warm<'a>(&'a self, _: &'a PlannedJob) -> Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        Box::pin(std::future::ready(Err("not asked for".to_owned())))
    }
}

/// What git says is changed in a folder.
async fn changed(root: &Path) -> Result<Vec<String>, String> {
    let source = CancelSource::default();
    super::git::changed(&surroundings(root, &source), None).await
}

fn there_is_git() -> bool {
    let there = Command::new("git").arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: git is not installed");
    }
    there
}

/// A repository on `main` with one commit of these files.
fn repository(root: &Path, files: &[&str]) {
    std::fs::create_dir_all(root).unwrap();
    git(root, &["init", "-q", "-b", "main"]);
    for file in files {
        std::fs::write(root.join(file), format!("{file}\n").repeat(20)).unwrap();
    }
    git(root, &["add", "."]);
    git(root, &["commit", "-qm", "first"]);
}

fn git(folder: &std::path::Path, arguments: &[&str]) {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
    let status = Command::new("git").current_dir(folder).args(identity).args(arguments).output().unwrap();
    assert!(status.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&status.stderr));
}

fn surroundings(root: &Path, source: &CancelSource) -> Surroundings {
    Surroundings {
        root: root.to_owned(),
        project: "p".to_owned(),
        variables: vec![("PATH".into(), std::env::var_os("PATH").unwrap_or_default())],
        caller: "human",
        supervisor: Supervisor::new(Ownership::Shared),
        cancel: source.watch(),
        sync: SyncSet { gitignore: true, include: Vec::new(), exclude: Vec::new(), max_size: Bytes(1 << 30) },
        global_ignore: || None,
        history: History::new(Database::new(Directories::in_folder(&root.join(".git/accel")))),
        remote: Arc::new(Nowhere),
        value_of_time: None,
    }
}

#[tokio::test]
async fn changed_files_are_those_since_the_default_branch() {
    if !there_is_git() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let project = root.join("project");
    std::fs::create_dir(&project).unwrap();
    let write = |path: &str, text: &str| std::fs::write(root.join(path), text).unwrap();
    git(root, &["init", "-q", "-b", "main"]);
    ["project/same", "project/edited", "outside"].into_iter().for_each(|path| write(path, "1"));
    write(".gitignore", "ignored\n");
    git(root, &["add", "."]);
    git(root, &["commit", "-qm", "first"]);
    git(root, &["checkout", "-qb", "feat/x"]);
    write("project/committed", "1");
    git(root, &["add", "."]);
    git(root, &["commit", "-qm", "second"]);
    ["project/edited", "project/untracked", "project/ignored", "outside"]
        .into_iter()
        .for_each(|path| write(path, "2"));

    let source = CancelSource::default();
    let surroundings = surroundings(&project, &source);
    let changed = super::git::changed(&surroundings, None).await;
    assert_eq!(changed, Ok(["committed", "edited", "untracked"].map(str::to_owned).into()));
    assert_eq!(super::git::branch(&project), Ok("feat/x".to_owned()));
    git(root, &["stash", "-q"]);
    git(root, &["checkout", "-q", "--detach"]);
    assert_eq!(super::git::branch(&project).unwrap().len(), 12);
}

#[tokio::test]
async fn changed_files_may_be_those_since_any_commit() {
    if !there_is_git() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let commit = |name: &str| {
        std::fs::write(root.join(name), "1").unwrap();
        git(root, &["add", "."]);
        git(root, &["commit", "-qm", name]);
    };
    repository(root, &["first"]);
    git(root, &["checkout", "-qb", "develop"]);
    commit("of-develop");
    git(root, &["checkout", "-qb", "work"]);
    commit("second");
    git(root, &["tag", "v1"]);
    commit("third");
    // The other branch goes on: what it has got since is none of ours.
    git(root, &["checkout", "-q", "develop"]);
    commit("later");
    git(root, &["checkout", "-q", "work"]);
    std::fs::write(root.join("untracked"), "1").unwrap();
    let source = CancelSource::default();
    let surroundings = surroundings(root, &source);
    for (since, expected) in [
        (None, &["of-develop", "second", "third", "untracked"][..]),
        (Some("develop"), &["second", "third", "untracked"]),
        (Some("v1"), &["third", "untracked"]),
        (Some("HEAD~1"), &["third", "untracked"]),
        (Some("HEAD"), &["untracked"]),
    ] {
        let changed = super::git::changed(&surroundings, since).await.unwrap();
        assert_eq!(changed, expected, "{since:?}");
    }
    let unknown = super::git::changed(&surroundings, Some("origin/none")).await.unwrap_err();
    assert_eq!(unknown, "git knows no commit `origin/none` (changed_since): fetch it, or correct its name");
}

#[tokio::test]
async fn outside_a_repository_the_facts_are_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let source = CancelSource::default();
    assert_eq!(super::git::branch(folder.path()), Err("not in a git repository".to_owned()));
    assert!(super::git::changed(&surroundings(folder.path(), &source), None).await.is_err());
}

#[tokio::test]
async fn renamed_deleted_staged_and_untracked_files_are_changed() {
    if !there_is_git() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    repository(root, &["renamed", "deleted", "staged", "same"]);
    assert_eq!(changed(root).await, Ok(Vec::new()));
    git(root, &["checkout", "-qb", "work"]);
    git(root, &["mv", "renamed", "new name"]);
    git(root, &["commit", "-qm", "rename"]);
    std::fs::remove_file(root.join("deleted")).unwrap();
    std::fs::write(root.join("staged"), "other").unwrap();
    git(root, &["add", "staged"]);
    std::fs::write(root.join("untracked-ü"), "").unwrap();
    let expected = ["deleted", "new name", "renamed", "staged", "untracked-ü"];
    assert_eq!(changed(root).await, Ok(expected.map(str::to_owned).into()));
    // Wherever the head points, the same files differ.
    git(root, &["checkout", "-q", "--detach"]);
    assert_eq!(changed(root).await.unwrap().len(), expected.len());
}

#[tokio::test]
async fn a_worktree_and_a_repository_without_commits_are_repositories() {
    if !there_is_git() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (main, beside) = (folder.path().join("main"), folder.path().join("beside"));
    repository(&main, &["a", "b"]);
    git(&main, &["worktree", "add", "-q", "-b", "work", &beside.to_string_lossy()]);
    std::fs::write(beside.join("a"), "edited").unwrap();
    assert!(super::git::is_repository(&beside));
    assert_eq!(changed(&beside).await, Ok(vec!["a".to_owned()]));
    assert_eq!(super::git::branch(&beside), Ok("work".to_owned()));
    assert_eq!(changed(&main).await, Ok(Vec::new()));

    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    git(&empty, &["init", "-q", "-b", "main"]);
    std::fs::write(empty.join("first"), "").unwrap();
    std::fs::write(empty.join("added"), "").unwrap();
    git(&empty, &["add", "added"]);
    assert_eq!(changed(&empty).await, Ok(["added", "first"].map(str::to_owned).into()));
}

#[tokio::test]
async fn a_submodule_is_changed_when_its_commit_is() {
    if !there_is_git() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (library, root) = (folder.path().join("library"), folder.path().join("main"));
    repository(&library, &["code"]);
    repository(&root, &["a"]);
    let from = library.to_string_lossy();
    git(&root, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &from, "library"]);
    git(&root, &["commit", "-qm", "with a library"]);
    assert_eq!(changed(&root).await, Ok(Vec::new()));
    let inside = root.join("library");
    std::fs::write(inside.join("code"), "edited").unwrap();
    git(&inside, &["commit", "-qam", "edited"]);
    assert_eq!(changed(&root).await, Ok(vec!["library".to_owned()]));
}

#[tokio::test]
async fn a_shallow_clone_says_that_it_cannot_tell() {
    if !there_is_git() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (origin, clone) = (folder.path().join("origin"), folder.path().join("clone"));
    repository(&origin, &["a"]);
    git(&origin, &["checkout", "-qb", "work"]);
    std::fs::write(origin.join("b"), "").unwrap();
    git(&origin, &["add", "."]);
    git(&origin, &["commit", "-qm", "second"]);
    git(&origin, &["checkout", "-q", "main"]);
    git(&origin, &["commit", "-q", "--allow-empty", "-m", "third"]);
    let url = format!("file://{}", origin.display());
    let to = clone.to_string_lossy();
    git(folder.path(), &["clone", "-q", "--depth", "1", "--no-single-branch", "-b", "work", &url, &to]);
    let why = changed(&clone).await.unwrap_err();
    assert!(why.starts_with("git knows no common ancestor with origin/"), "{why}");
    assert!(why.ends_with("`git fetch --unshallow` completes it"), "{why}");
    git(&clone, &["fetch", "-q", "--unshallow"]);
    assert_eq!(changed(&clone).await, Ok(vec!["b".to_owned()]));
}
