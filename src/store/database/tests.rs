use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;

const FILE: &str = "state/accel.db";

fn database(folder: &Path) -> Database {
    Database::new(Directories::in_folder(folder))
}

fn remember(database: &Database, key: &str) {
    let insert = |connection: &Connection| {
        connection.execute("INSERT OR REPLACE INTO remembered VALUES ('a', 'k', ?1, 'id', 0)", [key])
    };
    database.write_now(Durability::Disk, insert).expect("written");
}

fn count(database: &Database) -> i64 {
    let query = "SELECT count(*) FROM remembered";
    database.read_now(|connection| connection.query_row(query, [], |row| row.get(0))).expect("read")
}

/// A folder with a database of so many rows, all in one file.
fn made(rows: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path());
    for row in 0..rows {
        remember(&database, &row.to_string());
    }
    drop(database);
    assert!(!folder.path().join(format!("{FILE}-wal")).exists(), "the last to close tidies up");
    folder
}

fn set_aside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("state")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains(".damaged-")).collect()
}

#[test]
fn nothing_is_made_before_it_is_used_and_others_cannot_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path());
    assert!(!folder.path().join("state").exists());
    remember(&database, "x");
    for name in ["accel.db", "accel.db-wal", "accel.db-shm", "accel.db.lock"] {
        let mode = fs::metadata(folder.path().join("state").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(folder.path().join("state")).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(count(&super::tests::database(folder.path())), 1);
    assert!(database.take_notices().is_empty());
}

#[test]
fn any_truncation_and_any_garbage_is_survived() {
    let whole = fs::read(made(20).path().join(FILE)).unwrap();
    let check = |contents: &[u8], what: &str| {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        fs::write(folder.path().join(FILE), contents).unwrap();
        let database = database(folder.path());
        let seen = count(&database);
        assert!(seen <= 20, "{what}");
        remember(&database, "new");
        assert!(count(&database) >= 1, "{what}");
        let damaged = set_aside(folder.path());
        let notices = database.take_notices();
        let newer = notices.iter().filter(|text| text.contains("a newer accel")).count();
        assert_eq!(notices.len(), damaged.len() + newer, "{what}: {notices:?}");
        for path in damaged {
            assert!(notices[0].contains(&path.display().to_string()), "{notices:?}");
            assert_eq!(fs::read(&path).unwrap(), contents, "{what}: kept for whoever wants to look");
        }
    };
    // Around every boundary of pages and fields, and a sample of the rest.
    let offsets =
        (0..whole.len()).filter(|at| at % 4096 < 110 && at % 7 == 0 || at % 4096 > 4090 || at % 997 == 0);
    for at in offsets {
        check(&whole[..at], &format!("truncated at {at}"));
        let mut changed = whole.clone();
        let end = changed.len().min(at + 64);
        changed[at..end].fill(0xa5);
        check(&changed, &format!("garbage at {at}"));
    }
    check(b"no database at all, but long enough to be taken for one: ".repeat(50).as_slice(), "text");
}

#[test]
fn a_database_of_a_newer_accel_is_left_alone() {
    let folder = made(3);
    let path = folder.path().join(FILE);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();
    let first = database(folder.path());
    assert_eq!(count(&first), 0);
    remember(&first, "x");
    let notices = first.take_notices();
    assert!(notices[0].contains("a newer accel (version 99 of its layout)"), "{notices:?}");
    drop(first);
    assert_eq!(count(&database(folder.path())), 1, "what this accel keeps beside it is found again");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn where_nothing_can_be_written_runs_go_on_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("state"), "a file where a folder should be").unwrap();
    let database = database(folder.path());
    remember(&database, "x");
    assert_eq!(count(&database), 1);
    let notices = database.take_notices();
    assert_eq!(notices.len(), 1);
    assert!(
        notices[0].starts_with("cannot keep state, so nothing is remembered after this run: "),
        "{notices:?}"
    );
    assert!(database.take_notices().is_empty(), "said once");
}

#[test]
fn a_change_is_whole_or_absent() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path());
    let failed = database.write_now(Durability::Disk, |connection| {
        connection.execute("INSERT INTO remembered VALUES ('a', 'k', 'x', 'id', 0)", [])?;
        connection.execute("INSERT INTO no_such_table VALUES (1)", [])
    });
    assert!(failed.unwrap_err().to_string().contains("no such table"));
    assert_eq!(count(&database), 0);
}

#[test]
fn many_open_and_write_a_database_that_does_not_exist_yet() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let database = database(folder.path());
            scope.spawn(move || (0..4).for_each(|row| remember(&database, &format!("{thread}-{row}"))));
        }
    });
    let database = database(folder.path());
    assert_eq!(count(&database), 64);
    assert!(database.take_notices().is_empty());
}
