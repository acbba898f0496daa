use std::process::Command;

use super::facts::{Gatherer, Surroundings};
use crate::backend::CancelSource;
use crate::config::model::Fact;
use crate::process::{Ownership, Supervisor};
use crate::route::{FactValue, Facts};

fn git(folder: &std::path::Path, arguments: &[&str]) {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
    let status = Command::new("git").current_dir(folder).args(identity).args(arguments).output().unwrap();
    assert!(status.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&status.stderr));
}

fn surroundings(root: &std::path::Path, source: &CancelSource) -> Surroundings {
    Surroundings {
        root: root.to_owned(),
        variables: vec![("PATH".into(), std::env::var_os("PATH").unwrap_or_default())],
        caller: "human",
        supervisor: Supervisor::new(Ownership::Shared),
        cancel: source.watch(),
    }
}

#[tokio::test]
async fn changed_files_are_those_since_the_default_branch() {
    if Command::new("git").arg("--version").output().is_err() {
        eprintln!("skipped: git is not installed");
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
    let changed = super::git::changed(&surroundings).await;
    assert_eq!(changed, Ok(["committed", "edited", "untracked"].map(str::to_owned).into()));
    let gatherer = Gatherer::new(surroundings);
    assert_eq!(gatherer.get(Fact::Branch), FactValue::Text("feat/x".to_owned()));
    git(root, &["stash", "-q"]);
    git(root, &["checkout", "-q", "--detach"]);
    assert_eq!(super::git::branch(&project).unwrap().len(), 12);
}

#[tokio::test]
async fn outside_a_repository_the_facts_are_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let source = CancelSource::default();
    assert_eq!(super::git::branch(folder.path()), Err("not in a git repository".to_owned()));
    assert!(super::git::changed(&surroundings(folder.path(), &source)).await.is_err());
}
