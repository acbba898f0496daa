//! What `settle.sh` finds in a tree that has long been in step: it reads only what something has happened to, and must
//! notice all of it. With the tools of this machine and with busybox's.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::Digest as _;

use super::SETTLE;
use crate::backend::modal::warm::record::Spoiled;
use crate::backend::modal::warm::settle::{Edits, judge};
use crate::workspace::tree::{Contents, Manifest, ManifestEntry, Sha256Digest};

/// A shell, and the only folder in which it finds tools; `None`: this machine's.
#[derive(Clone)]
struct Tools {
    shell: Vec<&'static str>,
    path: Option<PathBuf>,
}

/// Those that this machine lacks are named.
fn tools(folder: &Path) -> Vec<Tools> {
    let mut found = vec![Tools { shell: vec!["sh"], path: None }];
    let path = folder.join("busybox");
    fs::create_dir(&path).unwrap();
    let installed = Command::new("busybox").args(["--install", "-s"]).arg(&path).output();
    if installed.is_ok_and(|output| output.status.success()) {
        found.push(Tools { shell: vec!["busybox", "sh"], path: Some(path) });
    } else {
        println!("skipped: there is no busybox here");
    }
    found
}

struct Scene {
    folder: tempfile::TempDir,
    tools: Tools,
    tree: Manifest,
    listed: bool,
}

const FILES: [&str; 6] = ["a", "b", "c d", "same", "one/x", "two/x"];

impl Scene {
    fn new(tools: &Tools) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        for folder in ["one", "two", "../state"] {
            fs::create_dir_all(work.join(folder)).unwrap();
        }
        let mut entries = Vec::new();
        for name in FILES {
            fs::write(work.join(name), name).unwrap();
            fs::set_permissions(work.join(name), fs::Permissions::from_mode(0o644)).unwrap();
            let sha256 = Sha256Digest(sha2::Sha256::digest(name).into());
            entries.push((name, Contents::File { mode: 0o644, size: name.len() as u64, sha256 }));
        }
        for name in ["one", "two"] {
            fs::set_permissions(work.join(name), fs::Permissions::from_mode(0o755)).unwrap();
            entries.push((name, Contents::Directory { mode: 0o755 }));
        }
        symlink("a", work.join("link")).unwrap();
        entries.push(("link", Contents::Symlink { target: "a".into() }));
        let entry = |(path, contents): (&str, Contents)| ManifestEntry { path: path.into(), contents };
        let tree = Manifest::new(entries.into_iter().map(entry).collect());
        Self { folder, tools: tools.clone(), tree, listed: false }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
    }

    fn shell(&self) -> Command {
        let mut command = Command::new(self.tools.shell[0]);
        command.args(&self.tools.shell[1..]).current_dir(self.folder.path().join("work"));
        if let Some(path) = &self.tools.path {
            command.env("PATH", path);
        }
        command
    }

    fn does(&self, script: &str) {
        assert!(self.shell().args(["-ec", script]).status().unwrap().success(), "{script}");
    }

    fn settle(&mut self) -> Spoiled {
        fs::write(self.state("applied"), "mark\n").unwrap();
        fs::write(self.state("pid"), "").unwrap();
        let edits = if self.listed { Edits::default() } else { Edits::between(None, &self.tree) };
        self.listed = true;
        fs::write(self.state("stdin"), &edits.text).unwrap();
        let output = self
            .shell()
            .args(
                ["-c", SETTLE, "accel-settle", "../work", "../state", "mark", "word"]
                    .map(|word| word.replace("../", &format!("{}/", self.folder.path().display()))),
            )
            .args([edits.text.len().to_string(), edits.gone.to_string()])
            .stdin(Stdio::from(fs::File::open(self.state("stdin")).unwrap()))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        judge(&said, &self.tree).unwrap_or_else(|| panic!("{said}\n{complaint}"))
    }

    /// How many files were read before the answer.
    fn read(&self) -> usize {
        fs::read_to_string(self.state("due")).map_or(0, |text| text.lines().count())
    }
}

/// Waits until a change could not have the times of what is there by now.
fn wait_until_old(folder: &Path) {
    let now = || {
        let probe = tempfile::NamedTempFile::new_in(folder).unwrap();
        probe.as_file().metadata().unwrap().ctime()
    };
    let began = now();
    while now() < began + 3 {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a job does, what is spoiled by it, and how many files have to be read.
const CASES: [(&str, &[&str], usize); 14] = [
    (":", &[], 0),
    ("printf SAME >same; touch -r a same", &["same"], 1),
    ("printf same >same", &[], 1),
    ("printf longer >same", &["same"], 1),
    ("chmod 600 same", &["same"], 0),
    ("mv b a", &["a", "b"], 1),
    ("ln -f b a", &["a"], 2),
    ("ln same ../other; printf SAME >../other; touch -r a same", &["same"], 1),
    ("cp -p a new; printf A >new; touch -r a new; mv new a", &["a"], 1),
    ("rm -f link; ln -s b link", &["link"], 0),
    ("rm -f a; ln -s b a", &["a"], 0),
    ("rm 'c d'", &["c d"], 0),
    ("mv one three; mv two one; mv three two; printf a >a", &["one/x", "two/x"], 3),
    ("rm -r one; ln -s two one", &["one", "one/x"], 1),
];

#[test]
fn a_tree_long_in_step_is_not_read_and_whatever_is_done_to_it_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    for tools in tools(folder.path()) {
        let mut scenes: Vec<_> = CASES.iter().map(|case| (case, Scene::new(&tools))).collect();
        for (_, scene) in &mut scenes {
            assert_eq!((scene.settle(), scene.read()), (Spoiled::default(), FILES.len()));
        }
        wait_until_old(folder.path());
        for ((script, spoiled, read), scene) in &mut scenes {
            assert_eq!((scene.settle(), scene.read()), (Spoiled::default(), FILES.len()), "not old before");
            scene.does(script);
            let found = scene.settle();
            let expect: BTreeSet<String> = spoiled.iter().map(|path| (*path).to_owned()).collect();
            let shell = &scene.tools.shell;
            assert_eq!((found.paths, scene.read()), (expect, *read), "{shell:?}: {script}");
            assert!(found.modes.is_empty());
            assert_eq!(fs::read_to_string(scene.state("word")).unwrap(), "word\n");
        }
    }
}

#[test]
fn a_folder_with_other_permission_bits_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    for tools in tools(folder.path()) {
        let mut scene = Scene::new(&tools);
        scene.does("chmod 700 one");
        let found = scene.settle();
        assert_eq!((found.paths.len(), found.modes), (0, BTreeSet::from(["one".to_owned()])));
    }
}

#[test]
fn what_leaves_no_times_is_found_after_the_answer_and_takes_the_word_away() {
    let folder = tempfile::tempdir().unwrap();
    for tools in tools(folder.path()) {
        let mut scene = Scene::new(&tools);
        wait_until_old(folder.path());
        scene.settle();
        scene.does("printf SAME >same");
        wait_until_old(folder.path());
        // As if nothing had happened to it.
        scene.does("stat -c '%f\t./same\t%d %i %s %Y %Z' ./same >>../state/seen");
        assert_eq!((scene.settle(), scene.read()), (Spoiled::default(), 0));
        while scene.state("word").exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
