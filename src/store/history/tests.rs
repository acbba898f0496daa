use super::*;
use crate::event::now_ms;
use crate::store::Directories;

fn entry(run: &str, job: &str, place: Place, started_at_ms: u64) -> Entry {
    Entry {
        run: run.to_owned(),
        job: JobId::new(job),
        attempt: 1,
        project: "p".to_owned(),
        worktree: "/w".to_owned(),
        digest: "d".to_owned(),
        place,
        started_at_ms,
        phases: Phases { run_ms: 1_500, sync_ms: 20, ..Phases::default() },
        image_built: true,
        warm: false,
        bytes_sent: 7,
        ended: Ending::Passed,
        cause: None,
        cost: Some(Dollars(120)),
        load_percent: Some(150),
    }
}

fn history(folder: &tempfile::TempDir) -> History {
    History::new(Database::new(Directories::in_folder(folder.path())))
}

fn all() -> Filter {
    Filter { limit: usize::MAX, ..Filter::default() }
}

#[test]
fn entries_come_back_as_they_were_newest_first() {
    let folder = tempfile::tempdir().unwrap();
    let history = history(&folder);
    let spool = Spool::new(Directories::in_folder(folder.path()));
    let now = now_ms();
    let failed = Entry {
        ended: Ending::Errored,
        cause: Some(Cause::Queue),
        attempt: 2,
        ..entry("b", "test", Place::Modal, now + 1)
    };
    for each in [&entry("a", "test", Place::Local, now), &failed, &entry("c", "lint", Place::Local, now + 2)]
    {
        spool.append(each).unwrap();
    }
    let found = history.entries(&Filter { job: Some("test".into()), ..all() }).unwrap();
    assert_eq!(found, [failed, entry("a", "test", Place::Local, now)]);
    // A line after the fold goes to a new file, and what is folded twice is there once.
    spool.append(&entry("a", "test", Place::Local, now)).unwrap();
    spool.append(&entry("d", "test", Place::Local, now + 3)).unwrap();
    assert_eq!(history.entries(&all()).unwrap().len(), 4);
    assert_eq!(history.recent("p", &JobId::new("test")).unwrap().len(), 3);
    assert_eq!(history.recent("other", &JobId::new("test")).unwrap(), []);
    assert_eq!(history.last_passed("/w", &JobId::new("test")).unwrap(), Some(now + 3));
    assert_eq!(history.last_passed("/elsewhere", &JobId::new("test")).unwrap(), None);
}

#[test]
fn a_line_that_was_cut_off_spoils_no_other() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::new(Directories::in_folder(folder.path()));
    let now = now_ms();
    spool.append(&entry("a", "test", Place::Local, now)).unwrap();
    let path = folder.path().join("state").join(spool::SPOOL);
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(b"\n{\"run\":\"b\",\"job").unwrap();
    spool.append(&entry("c", "test", Place::Local, now)).unwrap();
    assert_eq!(history(&folder).entries(&all()).unwrap().len(), 2);
}

#[test]
fn what_a_killed_accel_was_folding_is_folded_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::new(Directories::in_folder(folder.path()));
    let state = folder.path().join("state");
    spool.append(&entry("a", "test", Place::Local, now_ms())).unwrap();
    std::fs::rename(state.join(spool::SPOOL), state.join("history.folding")).unwrap();
    spool.append(&entry("b", "test", Place::Local, now_ms())).unwrap();
    assert_eq!(history(&folder).entries(&all()).unwrap().len(), 2);
}

#[test]
fn a_file_that_is_being_written_is_folded_later() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::new(Directories::in_folder(folder.path()));
    spool.append(&entry("a", "test", Place::Local, now_ms())).unwrap();
    let writing = std::fs::File::open(folder.path().join("state").join(spool::SPOOL)).unwrap();
    writing.lock_shared().unwrap();
    let history = history(&folder);
    assert_eq!(history.entries(&all()).unwrap(), []);
    spool.append(&entry("b", "test", Place::Local, now_ms())).unwrap();
    drop(writing);
    assert_eq!(history.entries(&all()).unwrap().len(), 2);
}

#[test]
fn many_writers_and_readers_lose_nothing() {
    const WRITERS: usize = 4;
    const LINES: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let directories = Directories::in_folder(folder.path());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let directories = directories.clone();
            scope.spawn(move || {
                let spool = Spool::new(directories);
                for line in 0..LINES {
                    let run = format!("{writer}-{line}");
                    let entry = entry(&run, "test", Place::Local, now_ms());
                    // Only a reader that folds without pause makes it give up.
                    while spool.append(&entry).is_err() {}
                }
            });
        }
        for _ in 0..2 {
            let history = History::new(Database::new(directories.clone()));
            scope.spawn(move || (0..20).for_each(|_| history.fold().unwrap()));
        }
    });
    assert_eq!(history(&folder).entries(&all()).unwrap().len(), WRITERS * LINES);
}

#[test]
fn old_entries_and_those_beyond_the_limit_go() {
    let folder = tempfile::tempdir().unwrap();
    let history = history(&folder);
    let spool = Spool::new(Directories::in_folder(folder.path()));
    let day = 24 * 60 * 60 * 1000;
    for (run, age) in [("a", 200), ("b", 10), ("c", 1)] {
        spool.append(&entry(run, "test", Place::Local, now_ms() - age * day)).unwrap();
    }
    let runs = |history: &History| {
        history.entries(&all()).unwrap().into_iter().map(|entry| entry.run).collect::<Vec<_>>()
    };
    assert_eq!(runs(&history), ["c", "b"]);
    assert_eq!(history.prune(Duration::from_millis(5 * day)).unwrap(), 1);
    assert_eq!(runs(&history), ["c"]);

    let many: Vec<Entry> = (0..fold::KEPT as u64 + 5)
        .map(|at| entry(&at.to_string(), "test", Place::Local, now_ms() + at))
        .collect();
    history
        .database()
        .write_now(crate::store::database::Durability::Process, |connection| {
            many.iter().try_for_each(|entry| insert(connection, entry))
        })
        .unwrap();
    history.prune(fold::KEPT_FOR).unwrap();
    assert_eq!(history.entries(&all()).unwrap().len(), fold::KEPT);
}

#[test]
fn percentiles_are_values_that_were_seen() {
    let of = |values: &[u64], percent| {
        let values: Vec<Duration> = values.iter().map(|ms| Duration::from_millis(*ms)).collect();
        percentile(&values, percent).map(milliseconds)
    };
    assert_eq!(of(&[], 50), None);
    assert_eq!(of(&[7], 50), Some(7));
    assert_eq!(of(&[4, 1, 3, 2], 50), Some(2));
    assert_eq!(of(&[10, 1, 2, 3, 4, 5, 6, 7, 8, 9], 90), Some(9));
}
