//! The manifest: digests, the stat cache, files in motion, differences.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use accel::workspace::tree::{
    Contents, HashOptions, HashReport, Hashed, Manifest, ManifestEntry, Rules, Sha256Digest, StatCache,
    TreeError, hash, path_order, read_verified, scan,
};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::tree_scan::sync_set;

struct Project {
    folder: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(path, contents)| project.write(path, contents));
        project
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, path: &str, contents: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn cache(&self) -> PathBuf {
        self.state.path().join("trees/cache")
    }

    /// As if an hour had passed, so that no file is too young to be stored.
    fn hash(&self) -> Hashed {
        self.hash_at(SystemTime::now() + Duration::from_secs(3600))
    }

    fn hash_at(&self, now: SystemTime) -> Hashed {
        let stop = AtomicBool::new(false);
        let rules = Rules::new(&sync_set(), &[], None).unwrap();
        let found = scan(self.root(), &rules, &stop).unwrap();
        hash(self.root(), found, &HashOptions { cache: Some(&self.cache()), now, stop: &stop }).unwrap()
    }
}

fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(bytes).into())
}

fn digest_of(hashed: &Hashed, path: &str) -> Sha256Digest {
    hashed.manifest.files().find(|file| file.0 == path).unwrap().3
}

fn read(files: usize, bytes: u64, known: usize) -> HashReport {
    HashReport { read_files: files, read_bytes: bytes, known_files: known, vanished: 0 }
}

#[test]
fn an_unchanged_tree_is_not_read_again() {
    let project = Project::new(&[("a", "one"), ("b/c", "three"), ("b/d", "")]);
    let first = project.hash();
    assert_eq!(first.report, read(3, 8, 0));
    assert_eq!(digest_of(&first, "a"), sha256(b"one"));
    assert_eq!(
        digest_of(&first, "b/d").to_string(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    let second = project.hash();
    assert_eq!(second.report, read(0, 0, 3));
    assert_eq!(second.manifest, first.manifest);

    project.write("b/c", "other");
    fs::remove_file(project.root().join("a")).unwrap();
    let third = project.hash();
    assert_eq!(third.report, read(1, 5, 1));
    assert_eq!(digest_of(&third, "b/c"), sha256(b"other"));
    assert_ne!(third.manifest.digest(), first.manifest.digest());
    assert_eq!(StatCache::load(&project.cache()).len(), 2);
}

#[test]
fn the_same_size_and_time_do_not_hide_a_change() {
    let project = Project::new(&[("a", "one")]);
    let first = project.hash();
    let path = project.root().join("a");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "two").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let second = project.hash();
    assert_eq!(digest_of(&second, "a"), sha256(b"two"), "first was {}", digest_of(&first, "a"));
}

#[test]
fn files_younger_than_the_clock_can_tell_are_read_again() {
    let project = Project::new(&[("a", "one")]);
    assert_eq!(project.hash_at(SystemTime::now()).report, read(1, 3, 0));
    assert_eq!(project.hash().report, read(1, 3, 0), "it was too young to be stored");
    assert_eq!(project.hash().report, read(0, 0, 1));
}

#[test]
fn a_damaged_cache_is_no_cache() {
    let project = Project::new(&[("a", "one"), ("b", "two")]);
    let manifest = project.hash().manifest;
    let whole = fs::read(project.cache()).unwrap();
    for at in 0..whole.len() {
        fs::write(project.cache(), &whole[..at]).unwrap();
        assert!(StatCache::load(&project.cache()).is_empty(), "cut at {at}");
        let mut garbled = whole.clone();
        garbled[at] ^= 0x20;
        fs::write(project.cache(), garbled).unwrap();
        assert!(StatCache::load(&project.cache()).is_empty(), "garbled at {at}");
    }
    let again = project.hash();
    assert_eq!((again.report, again.manifest), (read(2, 6, 0), manifest));
    assert_eq!(project.hash().report, read(0, 0, 2), "it has been written anew");
}

#[test]
fn a_cache_that_cannot_be_written_is_said_and_harmless() {
    let project = Project::new(&[("a", "one")]);
    fs::write(project.state.path().join("trees"), "a file in the way").unwrap();
    let hashed = project.hash();
    assert_eq!(hashed.report, read(1, 3, 0));
    assert!(hashed.cache_problem.is_some());
}

#[test]
fn a_file_that_vanishes_is_not_in_the_tree() {
    let project = Project::new(&[("a", "one"), ("b", "two")]);
    let stop = AtomicBool::new(false);
    let rules = Rules::new(&sync_set(), &[], None).unwrap();
    let found = scan(project.root(), &rules, &stop).unwrap();
    fs::remove_file(project.root().join("a")).unwrap();
    let options = HashOptions { cache: None, now: SystemTime::now(), stop: &stop };
    let hashed = hash(project.root(), found, &options).unwrap();
    assert_eq!(hashed.report.vanished, 1);
    assert_eq!(hashed.manifest.entries().len(), 1);
}

#[test]
fn a_change_between_walk_and_read_is_taken_whole() {
    let project = Project::new(&[("a", "one")]);
    let stop = AtomicBool::new(false);
    let rules = Rules::new(&sync_set(), &[], None).unwrap();
    let found = scan(project.root(), &rules, &stop).unwrap();
    project.write("a", "longer than before");
    let options = HashOptions { cache: None, now: SystemTime::now(), stop: &stop };
    let hashed = hash(project.root(), found, &options).unwrap();
    assert_eq!(digest_of(&hashed, "a"), sha256(b"longer than before"));
}

/// A writer that never rests: what is sent under a digest has that digest, or the file is named.
#[test]
fn a_file_that_keeps_changing_is_never_torn() {
    const SIZE: usize = 1 << 20;
    let project = Project::new(&[]);
    let path = project.root().join("busy");
    fs::write(&path, vec![0; SIZE]).unwrap();
    let done = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    let rules = Rules::new(&sync_set(), &[], None).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::os::unix::fs::FileExt;
            let file = fs::File::options().write(true).open(&path).unwrap();
            for byte in (0..=255u8).cycle() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                // In pieces, so that there are torn states to be seen.
                for piece in 0..16 {
                    file.write_all_at(&vec![byte; SIZE / 16], (piece * SIZE / 16) as u64).unwrap();
                }
            }
        });
        for _ in 0..50 {
            let found = scan(project.root(), &rules, &stop).unwrap();
            let options = HashOptions { cache: None, now: SystemTime::now(), stop: &stop };
            match hash(project.root(), found, &options) {
                Ok(hashed) => {
                    let digest = digest_of(&hashed, "busy");
                    match read_verified(project.root(), "busy", SIZE as u64, digest) {
                        Ok(bytes) => assert_eq!(sha256(&bytes), digest),
                        Err(error) => assert!(matches!(error, TreeError::Changed { .. }), "{error}"),
                    }
                }
                Err(error) => assert!(matches!(error, TreeError::Changing { .. }), "{error}"),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn contents_for_upload_are_those_that_were_hashed() {
    let project = Project::new(&[("a", "hello")]);
    let digest = digest_of(&project.hash(), "a");
    assert_eq!(read_verified(project.root(), "a", 5, digest).unwrap(), b"hello");
    for other in ["hellO", "hell", "hello!"] {
        project.write("a", other);
        let error = read_verified(project.root(), "a", 5, digest).unwrap_err();
        insta::allow_duplicates! {
            insta::assert_snapshot!(error, @"a changed after the tree was hashed");
        }
    }
    fs::remove_file(project.root().join("a")).unwrap();
    assert!(matches!(read_verified(project.root(), "a", 5, digest), Err(TreeError::Changed { .. })));
}

#[test]
fn unreadable_files_are_named() {
    let project = Project::new(&[("open", "x"), ("locked", "y")]);
    let locked = project.root().join("locked");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&locked).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    let stop = AtomicBool::new(false);
    let rules = Rules::new(&sync_set(), &[], None).unwrap();
    let found = scan(project.root(), &rules, &stop).unwrap();
    let options = HashOptions { cache: None, now: SystemTime::now(), stop: &stop };
    insta::assert_snapshot!(hash(project.root(), found, &options).unwrap_err(), @r"
    1 path cannot travel:
      locked cannot be read: permission denied
    ");
}

#[test]
fn everything_that_travels_is_in_the_digest() {
    let project = Project::new(&[("a/b", "x"), ("run", "#!")]);
    let mut digests = vec![project.hash().manifest.digest()];
    let mut after = |change: &dyn Fn(&Path)| {
        change(project.root());
        digests.push(project.hash().manifest.digest());
    };
    after(&|root| fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o755)).unwrap());
    after(&|root| fs::create_dir(root.join("empty")).unwrap());
    after(&|root| std::os::unix::fs::symlink("a/b", root.join("link")).unwrap());
    after(&|root| fs::rename(root.join("a/b"), root.join("a/c")).unwrap());
    after(&|root| fs::write(root.join("a/c"), "y").unwrap());
    let count = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), count);
}

#[test]
fn what_a_list_of_files_cannot_carry() {
    let project = Project::new(&[("a/b", "x")]);
    fs::create_dir_all(project.root().join("empty/deep")).unwrap();
    std::os::unix::fs::symlink("a", project.root().join("link")).unwrap();
    let manifest = project.hash().manifest;
    assert_eq!(manifest.empty_folders().collect::<Vec<_>>(), ["empty/deep"]);
    assert_eq!(manifest.symlinks().collect::<Vec<_>>(), [("link", "a")]);
}

// Differences.

fn file(path: &str, mode: u32, contents: &str) -> ManifestEntry {
    let contents = Contents::File { mode, size: contents.len() as u64, sha256: sha256(contents.as_bytes()) };
    ManifestEntry { path: path.into(), contents }
}

fn folder(path: &str) -> ManifestEntry {
    ManifestEntry { path: path.into(), contents: Contents::Directory { mode: 0o755 } }
}

#[test]
fn differences_are_named_by_what_is_to_be_done() {
    let old = Manifest::new(vec![
        file("same", 0o644, "x"),
        file("changed", 0o644, "x"),
        file("mode", 0o644, "x"),
        folder("gone"),
        file("gone/file", 0o644, "x"),
        folder("turns"),
        file("turns/inner", 0o644, "x"),
    ]);
    let new = Manifest::new(vec![
        file("same", 0o644, "x"),
        file("changed", 0o644, "y"),
        file("mode", 0o755, "x"),
        file("turns", 0o644, "now a file"),
        folder("new"),
        file("new/file", 0o644, "z"),
    ]);
    let delta = new.since(&old);
    let paths =
        |entries: &[&ManifestEntry]| entries.iter().map(|entry| entry.path.to_string()).collect::<Vec<_>>();
    assert_eq!(delta.delete, ["turns/inner", "turns", "gone/file", "gone"]);
    assert_eq!(paths(&delta.write), ["changed", "new", "new/file", "turns"]);
    assert_eq!(paths(&delta.change_mode), ["mode"]);
    assert!(new.since(&new).is_empty());
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let name = prop::sample::select(vec!["a", "b", "c", "a.b", "a-b"]);
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let kind = (0..3u8, 0..2u32, 0..3u8);
    prop::collection::vec((path, kind), 0..16).prop_map(|wanted| {
        let mut entries: BTreeMap<String, ManifestEntry> = BTreeMap::new();
        for (path, (kind, mode, contents)) in wanted {
            let parents: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
            let blocked = parents.iter().any(|parent| {
                entries
                    .get(*parent)
                    .is_some_and(|entry| !matches!(entry.contents, Contents::Directory { .. }))
            });
            if blocked || entries.contains_key(&path) {
                continue;
            }
            for parent in parents {
                entries.entry(parent.to_owned()).or_insert_with(|| folder(parent));
            }
            let entry = match kind {
                0 => folder(&path),
                1 => ManifestEntry {
                    path: path.clone().into(),
                    contents: Contents::Symlink { target: contents.to_string().into() },
                },
                _ => file(&path, 0o644 + mode, &contents.to_string()),
            };
            entries.insert(path, entry);
        }
        Manifest::new(entries.into_values().collect())
    })
}

/// Applies a delta as a receiver would, failing where a file system would.
fn apply(old: &Manifest, new: &Manifest) -> Vec<ManifestEntry> {
    let mut tree: BTreeMap<String, ManifestEntry> =
        old.entries().iter().map(|entry| (entry.path.to_string(), entry.clone())).collect();
    let delta = new.since(old);
    for path in &delta.delete {
        tree.remove(*path).unwrap();
        let prefix = format!("{path}/");
        assert!(!tree.keys().any(|other| other.starts_with(&prefix)), "{path} is not empty");
    }
    for entry in delta.write.iter().chain(&delta.change_mode) {
        if let Some((parent, _)) = entry.path.rsplit_once('/') {
            assert!(matches!(tree[parent].contents, Contents::Directory { .. }), "{parent} is no folder");
        }
        tree.insert(entry.path.to_string(), (*entry).clone());
    }
    let mut entries: Vec<_> = tree.into_values().collect();
    entries.sort_by(|a, b| path_order(a.path.as_bytes(), b.path.as_bytes()));
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_difference_turns_the_old_tree_into_the_new(old in manifest(), new in manifest()) {
        prop_assert_eq!(apply(&old, &new), new.entries());
        prop_assert_eq!(old.digest() == new.digest(), old.entries() == new.entries());
    }
}
