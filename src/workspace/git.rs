//! What git knows, by its own command: the branch, and which files differ.
//!
//! "Changed" means: differs from the merge base with the default branch, or with `changed_since`, or is uncommitted, or is
//! untracked and not ignored. Only paths below the project's folder count, relative to it. git is told to run no helper that
//! a repository's configuration names and to take no lock.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::facts::Surroundings;
use crate::domain::Exit;
use crate::process::{Input, Launch, Tool, find_program};

/// Refs that may be the default branch, best first.
const DEFAULT_BRANCHES: [&str; 5] = ["origin/HEAD", "origin/main", "origin/master", "main", "master"];

/// A fact is not worth more.
const GIT_LIMIT: Duration = Duration::from_secs(10);

/// The branch that is checked out, read without starting git; the short commit where none is.
pub fn branch(root: &Path) -> Result<String, String> {
    let head = root.ancestors().find_map(|folder| read_head(&folder.join(".git")));
    let head = head.ok_or_else(|| "not in a git repository".to_owned())?;
    match head.trim().strip_prefix("ref: refs/heads/") {
        Some(branch) => Ok(branch.to_owned()),
        None => Ok(head.trim().chars().take(12).collect()),
    }
}

/// Whether the folder lies in a repository, told without starting git.
pub fn is_repository(root: &Path) -> bool {
    root.ancestors().any(|folder| read_head(&folder.join(".git")).is_some())
}

/// `.git` is a folder, or a file that names one (worktrees, submodules).
fn read_head(git: &Path) -> Option<String> {
    if git.is_dir() {
        return fs::read_to_string(git.join("HEAD")).ok();
    }
    let named = fs::read_to_string(git).ok()?;
    let folder = Path::new(named.trim().strip_prefix("gitdir: ")?);
    fs::read_to_string(git.parent()?.join(folder).join("HEAD")).ok()
}

/// Paths of changed files, sorted; `since` is a git ref.
pub async fn changed(surroundings: &Surroundings, since: Option<&str>) -> Result<Vec<String>, String> {
    let git = Git::find(surroundings)?;
    let base = match since {
        Some(since) => git.base_with(since).await?,
        None => git.base().await?,
    };
    let differing = git
        .lines(&["diff", "--name-only", "-z", "--no-ext-diff", "--no-renames", "--relative", &base])
        .await?;
    let untracked = git.lines(&["ls-files", "--others", "--exclude-standard", "-z"]).await?;
    Ok(differing.into_iter().chain(untracked).collect::<BTreeSet<_>>().into_iter().collect())
}

struct Git<'a> {
    surroundings: &'a Surroundings,
    program: PathBuf,
}

impl<'a> Git<'a> {
    fn find(surroundings: &'a Surroundings) -> Result<Self, String> {
        let program = find_program("git".as_ref(), surroundings.search_path(), &surroundings.root)
            .map_err(|_| "git is not installed".to_owned())?;
        Ok(Self { surroundings, program })
    }

    /// What the tree is compared with: the merge base with the default branch; where there is no such branch, the commit
    /// that is checked out; in a repository without one, nothing.
    async fn base(&self) -> Result<String, String> {
        if self.run(&["rev-parse", "--verify", "--quiet", "HEAD"]).await.is_err() {
            let empty = self.run(&["hash-object", "-t", "tree", "/dev/null"]).await?;
            return Ok(String::from_utf8_lossy(&empty).trim().to_owned());
        }
        for branch in DEFAULT_BRANCHES {
            if self.knows(branch).await {
                return self.merge_base(branch).await;
            }
        }
        Ok("HEAD".to_owned())
    }

    /// A guess in place of a commit that is not there would call too little changed.
    async fn base_with(&self, since: &str) -> Result<String, String> {
        if !self.knows(since).await {
            return Err(format!(
                "git knows no commit `{since}` (changed_since): fetch it, or correct its name"
            ));
        }
        self.merge_base(since).await
    }

    async fn knows(&self, named: &str) -> bool {
        let commit = format!("{named}^{{commit}}");
        self.run(&["rev-parse", "--verify", "--quiet", &commit]).await.is_ok()
    }

    async fn merge_base(&self, branch: &str) -> Result<String, String> {
        match self.run(&["merge-base", "HEAD", branch]).await {
            Ok(base) => Ok(String::from_utf8_lossy(&base).trim().to_owned()),
            Err(_) => Err(self.without_ancestor(branch).await),
        }
    }

    /// A guess would call too little changed.
    async fn without_ancestor(&self, branch: &str) -> String {
        let shallow = self.run(&["rev-parse", "--is-shallow-repository"]).await;
        let shallow = shallow.is_ok_and(|answer| answer.starts_with(b"true"));
        let remedy =
            if shallow { ": this clone is shallow, `git fetch --unshallow` completes it" } else { "" };
        format!("git knows no common ancestor with {branch}{remedy}")
    }

    async fn lines(&self, arguments: &[&str]) -> Result<Vec<String>, String> {
        let listed = self.run(arguments).await?;
        let paths = listed.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        Ok(paths.map(|path| String::from_utf8_lossy(path).into_owned()).collect())
    }

    async fn run(&self, arguments: &[&str]) -> Result<Vec<u8>, String> {
        let quiet = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"];
        let mut env = self.surroundings.variables.clone();
        env.push(("GIT_OPTIONAL_LOCKS".into(), "0".into()));
        let tool = Tool {
            launch: Launch {
                program: self.program.clone(),
                name: "git".into(),
                args: quiet.iter().chain(arguments).map(OsString::from).collect(),
                cwd: self.surroundings.root.clone(),
                env,
                input: Input::Null,
            },
            limit: Some(GIT_LIMIT),
            log: None,
        };
        let supervisor = &self.surroundings.supervisor;
        let output = supervisor.run_tool(&tool, self.surroundings.cancel.clone()).await;
        let output = output.map_err(|error| error.to_string())?;
        if output.exit == Exit::Code(0) {
            return Ok(output.stdout);
        }
        Err(output.stderr.lines().next().unwrap_or("git failed").trim_start_matches("fatal: ").to_owned())
    }
}
