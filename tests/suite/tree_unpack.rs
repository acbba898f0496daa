//! Outputs coming back: hostile archives, limits, interruption, and the sender's two ways.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use accel::workspace::tree::{PatternSet, STAGING_PREFIX};
use accel::workspace::unpack::{CaseRule, Limits, Policy, Report, UnpackError, pack_command, sweep, unpack};
use proptest::prelude::*;
use tar::{EntryType, Header};

/// A project beside files that nothing may touch.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(place.root().join("out")).unwrap();
        fs::create_dir(place.root().join(".git")).unwrap();
        fs::write(place.root().join(".git/config"), "git").unwrap();
        fs::write(place.root().join("accel.toml"), "version = 1").unwrap();
        fs::write(place.root().join("out/old"), "old").unwrap();
        fs::create_dir(place.folder.path().join("outside")).unwrap();
        fs::write(place.folder.path().join("outside/canary"), "canary").unwrap();
        place
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn unpack(&self, archive: &[u8]) -> Result<Report, UnpackError> {
        unpack(archive, &policy(), &self.root())
    }

    /// Every path with its kind, mode and contents.
    fn state(&self) -> Vec<String> {
        let mut lines = Vec::new();
        list(self.folder.path(), self.folder.path(), &mut lines);
        lines.sort();
        lines
    }
}

fn list(folder: &Path, root: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let shown = path.strip_prefix(root).unwrap().display().to_string();
        let found = fs::symlink_metadata(&path).unwrap();
        if found.is_dir() {
            lines.push(format!("{shown}/ {:o}", found.mode() & 0o7777));
            list(&path, root, lines);
        } else if found.is_symlink() {
            lines.push(format!("{shown} -> {}", fs::read_link(&path).unwrap().display()));
        } else {
            lines.push(format!("{shown} {:o} {:?}", found.mode() & 0o7777, fs::read(&path).unwrap()));
        }
    }
}

fn policy() -> Policy {
    Policy {
        outputs: PatternSet::new(["**"]).unwrap(),
        protected: vec!["ci/base.toml".into()],
        limits: Limits::default(),
        case: CaseRule::AsDisk,
    }
}

/// An archive written block by block, so that it can be as wrong as it likes.
#[derive(Default, Clone)]
struct Archive(Vec<u8>);

impl Archive {
    fn header(name: &[u8], kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        let field = &mut header.as_old_mut().name;
        let fits = name.len().min(field.len());
        field[..fits].copy_from_slice(&name[..fits]);
        header
    }

    fn push(mut self, mut header: Header, contents: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, contents: &str) -> Self {
        self.push(
            Self::header(name.as_bytes(), EntryType::Regular, contents.len() as u64),
            contents.as_bytes(),
        )
    }

    fn mode(self, name: &str, mode: u32) -> Self {
        let mut header = Self::header(name.as_bytes(), EntryType::Regular, 0);
        header.set_mode(mode);
        self.push(header, b"")
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut header = Self::header(name.as_bytes(), kind, 0);
        header.set_link_name_literal(target).unwrap();
        self.push(header, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, name, target)
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Link, name, target)
    }

    fn special(self, kind: EntryType) -> Self {
        self.push(Self::header(b"out/special", kind, 0), b"")
    }

    fn folder(self, name: &str) -> Self {
        self.push(Self::header(name.as_bytes(), EntryType::Directory, 0), b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut body = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body += &format!("{length} {key}={value}\n");
        }
        self.push(Self::header(b"pax", EntryType::XHeader, body.len() as u64), body.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn archive() -> Archive {
    Archive::default()
}

/// Each is refused with its entry's name, behind a good entry that must not arrive either.
#[test]
fn hostile_archives_change_nothing_and_are_refused_by_name() {
    let good = || archive().file("out/good", "good");
    let long = "x/".repeat(600) + "y";
    let cases: Vec<(&str, Archive)> = vec![
        ("parent", good().file("../outside/canary", "evil")),
        ("parent inside", good().file("out/../../outside/canary", "evil")),
        ("parent at the end", good().folder("out/..")),
        ("absolute", good().file("/tmp/evil", "evil")),
        ("absolute twice", good().file("//tmp/evil", "evil")),
        ("drive", good().file("C:/evil", "evil")),
        ("drive without slash", good().file("c:evil", "evil")),
        ("backslash", good().file("out\\..\\..\\evil", "evil")),
        ("share", good().file("\\\\host\\share", "evil")),
        ("NUL by PAX", good().pax(&[("path", "out/a\0b")]).file("x", "evil")),
        ("line break", good().pax(&[("path", "out/a\nb")]).file("x", "evil")),
        ("escape sequence", good().file("out/\u{1b}[2Jx", "evil")),
        ("empty", good().file("./", "evil")),
        ("parent by PAX", good().pax(&[("path", "../evil")]).file("x", "evil")),
        (
            "parent by a GNU long name",
            good()
                .push(Archive::header(b"././@LongLink", EntryType::GNULongName, 8), b"../evil\0")
                .file("x", "evil"),
        ),
        ("deep", good().pax(&[("path", &long)]).file("x", "evil")),
        ("link to outside", good().symlink("out/link", "../../outside")),
        ("absolute link", good().symlink("out/link", "/etc")),
        ("link to outside by PAX", good().pax(&[("linkpath", "../../outside")]).symlink("out/link", "x")),
        ("link into git", good().symlink("out/link", "../.git/hooks")),
        ("symlink, then file through it", good().symlink("out/link", "sub").file("out/link/x", "evil")),
        ("file, then symlink in its place", good().file("out/x/y", "a").symlink("out/x", "sub")),
        ("file below a file", good().file("out/x", "a").file("out/x/y", "b")),
        ("loop of one", good().symlink("out/a", "a")),
        ("loop of two", good().symlink("out/a", "b").symlink("out/b", "./a")),
        ("hard link out", good().hard_link("out/hard", "../outside/canary")),
        ("absolute hard link", good().hard_link("out/hard", "/etc/passwd")),
        ("hard link to a file of the project", good().hard_link("out/hard", "accel.toml")),
        ("hard link to a link", good().symlink("out/l", "good").hard_link("out/hard", "out/l")),
        ("character device", good().special(EntryType::Char)),
        ("block device", good().special(EntryType::Block)),
        ("FIFO", good().special(EntryType::Fifo)),
        ("sparse", good().special(EntryType::GNUSparse)),
        ("sparse by PAX", good().pax(&[("GNU.sparse.major", "1")]).file("out/sparse", "x")),
        ("unknown kind", good().special(EntryType::new(b'Z'))),
        ("setuid", good().mode("out/su", 0o4755)),
        ("setgid", good().mode("out/sg", 0o2755)),
        ("git", good().file(".git/hooks/post-checkout", "evil")),
        ("git in capitals", good().file("sub/.GIT/config", "evil")),
        ("git with a dot", good().file(".git./config", "evil")),
        ("git short name", good().file("GIT~1/config", "evil")),
        ("git with invisible characters", good().file(".g\u{200c}it/config", "evil")),
        ("configuration", good().file("accel.toml", "evil")),
        ("configuration by another spelling", good().file("./Accel.TOML", "evil")),
        ("configuration that extends", good().file("ci/base.toml", "evil")),
        ("local configuration", good().file("accel.local.toml", "evil")),
        ("staging", good().file(".accel-incoming-x/y", "evil")),
        ("twice", good().file("out/good", "again")),
        ("sizes differ", good().pax(&[("size", "1000000")]).file("out/x", "evil")),
        (
            "names for all",
            good()
                .push(Archive::header(b"g", EntryType::XGlobalHeader, 15), b"15 path=../bad\n")
                .file("x", "evil"),
        ),
        (
            "a folder that has contents",
            good().push(Archive::header(b"out/d", EntryType::Directory, 4), b"evil"),
        ),
    ];
    let mut answers = Vec::new();
    for (what, archive) in cases {
        let place = Place::new();
        let before = place.state();
        let error = place.unpack(&archive.end()).expect_err(what);
        assert!(matches!(error, UnpackError::Refused { .. }), "{what}: {error}");
        assert_eq!(place.state(), before, "{what}");
        let text = error.to_string().replace(&long[..180], "…");
        answers.push(format!("{what}: {}", text.trim_start_matches("outputs refused: ")));
    }
    insta::assert_snapshot!(answers.join("\n"), @r"
    parent: ../outside/canary: the path leaves the project
    parent inside: out/../../outside/canary: the path leaves the project
    parent at the end: out/..: the path leaves the project
    absolute: /tmp/evil: the path is absolute
    absolute twice: //tmp/evil: the path is absolute
    drive: C:/evil: the path begins with a drive letter
    drive without slash: c:evil: the path begins with a drive letter
    backslash: out\..\..\evil: the name has a backslash
    share: \\host\share: the name has a backslash
    NUL by PAX: out/a\0b: the name has a control character
    line break: out/a\nb: the name has a control character
    escape sequence: out/\u{1b}[2Jx: the name has a control character
    empty: ./: the name is empty
    parent by PAX: ../evil: the path leaves the project
    parent by a GNU long name: ../evil: the path leaves the project
    deep: …x/x/x/x/x/x/x/x/x/x/…: the path has more than 100 names
    link to outside: out/link: it links to ../../outside, outside the project
    absolute link: out/link: it links to /etc, outside the project
    link to outside by PAX: out/link: it links to ../../outside, outside the project
    link into git: out/link: it links into .git
    symlink, then file through it: out/link/x: it lies below out/link, which is not a folder
    file, then symlink in its place: out/x: it is in the archive twice
    file below a file: out/x/y: it lies below out/x, which is not a folder
    loop of one: out/a: its links lead round in a circle
    loop of two: out/a: its links lead round in a circle
    hard link out: out/hard: the path leaves the project
    absolute hard link: out/hard: the path is absolute
    hard link to a file of the project: out/hard: it is a hard link to accel.toml, which is no earlier file of the archive
    hard link to a link: out/hard: it is a hard link to out/l, which is no earlier file of the archive
    character device: out/special: it is a device
    block device: out/special: it is a device
    FIFO: out/special: it is a FIFO
    sparse: out/special: it is a sparse file
    sparse by PAX: out/sparse: it is a sparse file
    unknown kind: out/special: it is a thing of an unknown kind
    setuid: out/su: it has the setuid or setgid bit
    setgid: out/sg: it has the setuid or setgid bit
    git: .git/hooks/post-checkout: .git is never written
    git in capitals: sub/.GIT/config: .git is never written
    git with a dot: .git./config: .git is never written
    git short name: GIT~1/config: .git is never written
    git with invisible characters: .g\u{200c}it/config: .git is never written
    configuration: accel.toml: this file is never written by a job's outputs
    configuration by another spelling: ./Accel.TOML: this file is never written by a job's outputs
    configuration that extends: ci/base.toml: this file is never written by a job's outputs
    local configuration: accel.local.toml: this file is never written by a job's outputs
    staging: .accel-incoming-x/y: this file is never written by a job's outputs
    twice: out/good: it is in the archive twice
    sizes differ: out/x: its sizes contradict each other
    names for all: g: a header for all entries sets names or sizes
    a folder that has contents: out/d: its sizes contradict each other
    ");
}

#[test]
fn names_that_are_no_text_are_refused() {
    let place = Place::new();
    let bad = archive().push(Archive::header(b"out/\xff", EntryType::Regular, 0), b"").end();
    insta::assert_snapshot!(place.unpack(&bad).unwrap_err(), @"outputs refused: out/�: the name is not UTF-8");
}

#[test]
fn only_declared_outputs_come_back() {
    let place = Place::new();
    let policy = Policy { outputs: PatternSet::new(["reports/**", "dist"]).unwrap(), ..policy() };
    let good = archive().folder("reports/").file("reports/a/b.xml", "x").file("./dist/wheel", "y").end();
    let report = unpack(&good[..], &policy, &place.root()).unwrap();
    assert_eq!(report.written, ["reports/a/b.xml", "dist/wheel"]);
    let bad = archive().file("src/main.py", "evil").end();
    let error = unpack(&bad[..], &policy, &place.root()).unwrap_err();
    insta::assert_snapshot!(error, @"outputs refused: src/main.py: no declared output covers it");
}

#[test]
fn links_that_are_already_there_are_not_written_through() {
    for (planted, target) in [("out/link", "../../outside"), ("out/link", "../.git"), ("link", "out")] {
        let place = Place::new();
        symlink(target, place.root().join(planted)).unwrap();
        let before = place.state();
        let error = place.unpack(&archive().file(&format!("{planted}/canary"), "evil").end()).unwrap_err();
        assert!(error.to_string().contains("is a link in the project"), "{error}");
        assert_eq!(place.state(), before);
    }
    // A link in the very place of a file is replaced, not followed.
    let place = Place::new();
    symlink("../../outside/canary", place.root().join("out/file")).unwrap();
    place.unpack(&archive().file("out/file", "new").end()).unwrap();
    assert_eq!(fs::read(place.folder.path().join("outside/canary")).unwrap(), b"canary");
    assert!(!fs::symlink_metadata(place.root().join("out/file")).unwrap().is_symlink());
}

#[test]
fn what_is_in_the_way_is_named_before_anything_is_written() {
    let place = Place::new();
    let before = place.state();
    let over_folder = archive().file("new", "x").file("out", "x").end();
    insta::assert_snapshot!(place.unpack(&over_folder).unwrap_err(), @"outputs refused: out: there is a folder of this name in the project");
    let below_file = archive().file("new", "x").file("out/old/x", "x").end();
    insta::assert_snapshot!(place.unpack(&below_file).unwrap_err(), @"outputs refused: out/old/x: out/old is a file in the project");
    assert_eq!(place.state(), before);
}

#[test]
fn case_twins_are_refused_where_the_disk_does_not_tell_them_apart() {
    let place = Place::new();
    let same = Policy { case: CaseRule::Same, ..policy() };
    for twins in
        [archive().file("out/Ä", "1").file("out/ä", "2"), archive().file("out/a/x", "1").file("OUT/b/y", "2")]
    {
        let error = unpack(&twins.end()[..], &same, &place.root()).unwrap_err();
        assert!(error.to_string().contains("only in case"), "{error}");
    }
    let apart = archive().file("out/Ä", "1").file("out/ä", "2").end();
    if !place.root().join("OUT").exists() {
        assert_eq!(place.unpack(&apart).unwrap().written.len(), 2);
    }
}

#[test]
fn good_archives_arrive_and_modes_are_made_safe() {
    let place = Place::new();
    let good = archive()
        .folder("out/empty/")
        .file("out/sub/naïve 日本.txt", "text")
        .mode("out/open", 0o777)
        .mode("out/sealed", 0o000)
        .symlink("out/latest", "sub/../old")
        .hard_link("out/copy", "out/sub/naïve 日本.txt")
        .pax(&[("path", &format!("out/{}", "long".repeat(50))), ("mtime", "1.5")])
        .file("x", "by its PAX name")
        .end();
    let report = place.unpack(&good).unwrap();
    assert_eq!((report.written.len(), report.unchanged, report.bytes), (6, 0, 23));
    let read = |path: &str| fs::read_to_string(place.root().join(path)).unwrap();
    let mode = |path: &str| fs::metadata(place.root().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(read("out/copy"), "text");
    assert_eq!(read("out/latest"), "old");
    assert_eq!(read(&format!("out/{}", "long".repeat(50))), "by its PAX name");
    assert_eq!([mode("out/open"), mode("out/sealed")], [0o755, 0o600]);
    assert!(place.root().join("out/empty").is_dir());
}

#[test]
fn unchanged_files_are_left_alone() {
    let place = Place::new();
    let old = fs::metadata(place.root().join("out/old")).unwrap();
    symlink("old", place.root().join("out/link")).unwrap();
    let same = archive().file("out/old", "old").symlink("out/link", "old").file("out/new", "new").end();
    let report = place.unpack(&same).unwrap();
    assert_eq!((report.written, report.unchanged), (vec!["out/new".to_owned()], 2));
    let now = fs::metadata(place.root().join("out/old")).unwrap();
    assert_eq!((now.modified().unwrap(), now.ino()), (old.modified().unwrap(), old.ino()));

    place.unpack(&archive().file("out/old", "odd").end()).unwrap();
    let now = fs::metadata(place.root().join("out/old")).unwrap();
    assert_ne!(now.ino(), old.ino(), "replaced, not written into");
}

#[test]
fn a_stream_cut_anywhere_changes_nothing() {
    let whole = archive()
        .file("out/old", "new contents")
        .pax(&[("path", "out/by-pax")])
        .file("x", &"y".repeat(700))
        .file("out/last", "z")
        .end();
    // The second block of the end is padding.
    for at in 0..whole.len() - 512 {
        if at % 512 > 2 && at % 7 > 0 {
            continue;
        }
        let place = Place::new();
        let before = place.state();
        let error = place.unpack(&whole[..at]).unwrap_err();
        assert!(matches!(error, UnpackError::Truncated), "cut at {at}: {error}");
        assert_eq!(place.state(), before, "cut at {at}");
    }
    let place = Place::new();
    place.unpack(&whole).unwrap();
    assert_eq!(fs::read_to_string(place.root().join("out/old")).unwrap(), "new contents");
}

#[test]
fn a_stream_that_fails_changes_nothing() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("connection lost"))
        }
    }
    let place = Place::new();
    let before = place.state();
    let half = archive().file("out/old", &"x".repeat(3 << 20)).end();
    let stream = half[..2 << 20].chain(Failing);
    let error = unpack(stream, &policy(), &place.root()).unwrap_err();
    insta::assert_snapshot!(error, @"the outputs could not be received: connection lost");
    assert_eq!(place.state(), before);
}

#[test]
fn garbage_is_no_archive() {
    let place = Place::new();
    for garbage in [vec![b'x'; 4096], b"sh: tar: not found\n".to_vec(), Vec::new()] {
        assert!(place.unpack(&garbage).is_err());
    }
}

/// Block by block, every header's checksum right again, so that what is wrong is read.
fn with_right_sums(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn in_project_and_free(line: &str) -> bool {
    let inside = line.strip_prefix("project/");
    inside.is_some_and(|path| !path.starts_with(".git") && !path.starts_with("ci/base.toml"))
}

#[test]
fn a_broken_archive_changes_nothing_but_what_it_may_or_nothing_at_all() {
    let whole = archive()
        .folder("out/folder")
        .file("out/old", "new contents")
        .symlink("out/link", "old")
        .hard_link("out/twin", "out/old")
        .pax(&[("path", "out/by-pax"), ("size", "3")])
        .file("x", "yyy")
        .end();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"0127./\\\0 \xffgxLKS".to_vec())];
    let changes = prop::collection::vec((0..whole.len(), byte), 1..8);
    runner
        .run(&(changes, any::<bool>(), 0..whole.len()), |(changes, cut, end)| {
            let mut broken = whole.clone();
            changes.into_iter().for_each(|(at, byte)| broken[at] = byte);
            with_right_sums(&mut broken);
            broken.truncate(if cut { end } else { whole.len() });
            let place = Place::new();
            let before = place.state();
            let unpacked = place.unpack(&broken);
            let changed = |line: &String| unpacked.is_err() || !in_project_and_free(line);
            let of_others = |lines: Vec<String>| lines.into_iter().filter(changed).collect::<Vec<_>>();
            prop_assert_eq!(of_others(place.state()), of_others(before));
            Ok(())
        })
        .unwrap();
}

/// Large files are staged on their own and moved.
#[test]
fn large_files_and_links_to_them_arrive() {
    let place = Place::new();
    let large = "0123456789abcdef".repeat(200_000);
    let good = archive().file("out/large", &large).hard_link("out/again", "out/large").end();
    assert_eq!(place.unpack(&good).unwrap().written.len(), 2);
    for path in ["out/large", "out/again"] {
        assert_eq!(fs::read_to_string(place.root().join(path)).unwrap(), large);
    }
    assert_eq!(place.unpack(&good).unwrap().unchanged, 2);
}

// Bombs: endless streams that only a limit ends. That they end at all is what is tested.

/// The same bytes again and again.
struct Endless {
    bytes: Vec<u8>,
    at: usize,
    given: u64,
}

impl Endless {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0, given: 0 }
    }
}

impl Read for &mut Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.bytes.len() - self.at);
        buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at = (self.at + count) % self.bytes.len();
        self.given += count as u64;
        Ok(count)
    }
}

fn bomb(before: Archive, endless: Vec<u8>, limits: Limits) -> (String, u64) {
    let place = Place::new();
    let state = place.state();
    let mut endless = Endless::new(endless);
    let policy = Policy { limits, ..policy() };
    let error = unpack(before.0.chain(&mut endless), &policy, &place.root()).unwrap_err();
    assert_eq!(place.state(), state);
    (error.to_string(), endless.given)
}

#[test]
fn bombs_end_at_their_limit() {
    let size = |size| archive().push(Archive::header(b"out/zeros", EntryType::Regular, size), b"");
    // Refused by what the header says, before any of it is read.
    let (text, read) = bomb(size(10 << 30), vec![0; 1 << 16], Limits::default());
    insta::assert_snapshot!(text, @"outputs refused: out/zeros: more than 2GiB of contents");
    assert_eq!(read, 0);

    let many = archive().hard_link("out/good", "out/good").0;
    let (text, _) = bomb(archive(), many, Limits::default());
    assert!(text.contains("no earlier file"), "{text}");

    let folder = archive().folder("out/again").0;
    let (text, read) = bomb(archive(), folder, Limits { entries: 5000, ..Limits::default() });
    insta::assert_snapshot!(text, @"outputs refused: out/again: more than 5000 entries");
    assert!(read <= 5001 * 512);

    let deep = archive().push(Archive::header(b"pax", EntryType::XHeader, 2 << 20), b"");
    let (text, read) = bomb(deep, b"x/".repeat(1000), Limits::default());
    insta::assert_snapshot!(text, @"outputs refused: pax: the name is too long");
    assert_eq!(read, 0);

    let long = archive().push(Archive::header(b"long", EntryType::GNULongName, 1 << 40), b"");
    let (text, _) = bomb(long, b"x/".repeat(1000), Limits::default());
    insta::assert_snapshot!(text, @"outputs refused: long: the name is too long");

    let deep = "d/".repeat(101) + "f";
    let (text, _) = bomb(archive().pax(&[("path", &deep)]).file("x", ""), vec![0], Limits::default());
    assert!(text.ends_with("the path has more than 100 names"), "{text}");

    // Hard links multiply contents without sending them.
    let mut links = archive().file("out/good", &"x".repeat(1000));
    for number in 0..20 {
        links = links.hard_link(&format!("out/{number}"), "out/good");
    }
    let (text, _) = bomb(links, vec![0], Limits { bytes: 10_000, ..Limits::default() });
    insta::assert_snapshot!(text, @"outputs refused: out/9: more than 9.8KiB of contents");
}

#[test]
fn what_a_dead_process_left_is_swept() {
    let place = Place::new();
    let abandoned = place.root().join(format!("{STAGING_PREFIX}dead"));
    fs::create_dir(&abandoned).unwrap();
    fs::write(abandoned.join("lock"), "").unwrap();
    fs::write(abandoned.join("spool"), "half a file").unwrap();
    let in_use = place.root().join(format!("{STAGING_PREFIX}busy"));
    fs::create_dir(&in_use).unwrap();
    let lock = fs::File::create(in_use.join("lock")).unwrap();
    lock.lock().unwrap();
    let being_made = place.root().join(format!("{STAGING_PREFIX}new"));
    fs::create_dir(&being_made).unwrap();
    sweep(&place.root()).unwrap();
    assert_eq!([abandoned.exists(), in_use.exists(), being_made.exists()], [false, true, true]);
    drop(lock);
    sweep(&place.root()).unwrap();
    assert!(!in_use.exists());
}

// The sender.

fn outputs(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

/// A machine with only these tools.
fn path_with(tools: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for tool in tools {
        let found = ["/usr/bin", "/bin", "/usr/local/bin"]
            .iter()
            .map(|place| Path::new(place).join(tool))
            .find(|path| path.exists());
        let found = found.or_else(|| which(tool));
        symlink(found.unwrap_or_else(|| panic!("{tool} is needed")), folder.path().join(tool)).unwrap();
    }
    folder
}

fn which(tool: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(tool))
        .find(|path| path.exists())
}

fn pack(root: &Path, patterns: &[&str], path: &Path) -> std::process::Output {
    let command = pack_command(&root.display().to_string(), &outputs(patterns));
    Command::new("/bin/sh").args(&command[1..]).env("PATH", path).output().unwrap()
}

const GNU: [&str; 7] = ["tar", "find", "grep", "tr", "sh", "cat", "sort"];

fn job_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, contents: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    };
    write("reports/junit.xml", "<xml/>");
    write("reports/deep/cov.xml", "<cov/>");
    write("reports/odd nämé\nline", "odd");
    write("dist/a.whl", "wheel");
    write("src/main.py", "print()");
    write("src/.git/config", "git");
    fs::create_dir(folder.path().join("reports/empty")).unwrap();
    symlink("junit.xml", folder.path().join("reports/latest")).unwrap();
    fs::hard_link(folder.path().join("dist/a.whl"), folder.path().join("dist/b.whl")).unwrap();
    folder
}

#[test]
fn both_senders_send_the_same() {
    let job = job_folder();
    fs::remove_file(job.path().join("reports/odd nämé\nline")).unwrap();
    let patterns = ["reports/**", "dist/*.whl", "none/*.txt", "**/main.py"];
    let mut states = Vec::new();
    for tools in [&["python3"][..], &GNU] {
        let path = path_with(tools);
        let sent = pack(job.path(), &patterns, path.path());
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        let place = Place::new();
        let policy = Policy { outputs: PatternSet::new(patterns).unwrap(), ..policy() };
        unpack(&sent.stdout[..], &policy, &place.root()).unwrap();
        states.push(place.state());
    }
    assert_eq!(states[0], states[1]);
    let names: Vec<&str> = states[0]
        .iter()
        .filter_map(|line| line.strip_prefix("project/"))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    insta::assert_snapshot!(names.join("\n"), @r"
    .git/
    .git/config
    accel.toml
    dist/
    dist/a.whl
    dist/b.whl
    out/
    out/old
    reports/
    reports/deep/
    reports/deep/cov.xml
    reports/empty/
    reports/junit.xml
    reports/latest
    src/
    src/main.py
    ");
}

#[test]
fn an_image_without_tools_is_told_what_is_missing() {
    let job = job_folder();
    let nothing = tempfile::tempdir().unwrap();
    let sent = pack(job.path(), &["reports/**"], nothing.path());
    assert_eq!(sent.status.code(), Some(127));
    insta::assert_snapshot!(String::from_utf8_lossy(&sent.stderr), @"accel: outputs need python3, or tar, find and grep, in the image");
}

#[test]
fn nothing_to_send_is_an_empty_archive() {
    let job = tempfile::tempdir().unwrap();
    for tools in [&["python3"][..], &GNU] {
        let path = path_with(tools);
        let sent = pack(job.path(), &["reports/**", "a/b.txt"], path.path());
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        assert_eq!(Place::new().unpack(&sent.stdout).unwrap(), Report::default());
    }
}

fn glob() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a", "b", "*", "?", "a*", "[ab]", "[!a]", "{a,b}", "**", "a.b", "*.b", "(", "+",
    ]);
    prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.join("/"))
}

fn some_path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "ab", "a.b", "c", "(", "+", "axb"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

/// Sender and receiver read patterns alike: what is sent is exactly what is covered.
#[test]
fn random_patterns_mean_the_same_on_both_sides() {
    let python = path_with(&["python3"]);
    let gnu = path_with(&GNU);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let strategy = (prop::collection::vec(glob(), 1..3), prop::collection::vec(some_path(), 1..12));
    runner
        .run(&strategy, |(globs, paths)| {
            let job = tempfile::tempdir().unwrap();
            for path in &paths {
                let path = job.path().join(path);
                if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.exists() {
                    fs::write(path, "x").unwrap();
                }
            }
            let patterns = PatternSet::new(globs.iter().map(String::as_str)).unwrap();
            let files = paths.iter().filter(|path| job.path().join(path).is_file());
            let mut expected: Vec<String> =
                files.filter(|path| patterns.covering(path).is_some()).cloned().collect();
            expected.sort();
            expected.dedup();
            let globs: Vec<&str> = globs.iter().map(String::as_str).collect();
            for tools in [&python, &gnu] {
                let sent = pack(job.path(), &globs, tools.path());
                let place = tempfile::tempdir().unwrap();
                let policy = Policy { outputs: patterns.clone(), ..policy() };
                let mut written = unpack(&sent.stdout[..], &policy, place.path()).unwrap().written;
                written.sort();
                prop_assert_eq!(&written, &expected, "{:?}", globs);
            }
            Ok(())
        })
        .unwrap();
}
