//! Which jobs ran when and where, and where their logs are.
//!
//! Owns the table `job_run` and the folder `<state>/logs`. Written for jobs that run on Modal: a plain local run keeps
//! nothing.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, params};
use serde::Serialize;

use super::database::{Database, DatabaseError, Durability};
use super::journal::SHORTEST_PREFIX;
use crate::base::digest::DigestBuilder;

/// One job of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobRun {
    pub run: String,
    pub job: String,
    pub project: String,
    /// The folder of accel.toml.
    pub worktree: String,
    pub place: String,
    #[serde(skip)]
    pub log: PathBuf,
    pub started_at_ms: u64,
    pub finished_at_ms: Option<u64>,
    /// The verdict as the event stream writes it.
    pub verdict: Option<serde_json::Value>,
}

#[derive(Debug, Clone)]
pub struct Runs(Database);

impl Runs {
    pub fn new(database: Database) -> Self {
        Self(database)
    }

    /// Where a job's log belongs; its folder may not exist yet.
    pub fn log_path(&self, run: &str, job: &str) -> PathBuf {
        self.logs().join(file_name(run)).join(format!("{}.log", file_name(job)))
    }

    fn logs(&self) -> PathBuf {
        self.0.directories().state_path().join("logs")
    }

    pub fn started(&self, job: &JobRun) -> Result<(), DatabaseError> {
        let log = job.log.to_string_lossy().into_owned();
        let insert = |connection: &Connection| {
            connection.execute(
                "INSERT OR REPLACE INTO job_run (run, job, project, worktree, place, log, started_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![job.run, job.job, job.project, job.worktree, job.place, log, time(job.started_at_ms)],
            )
        };
        self.0.write_now(Durability::Process, insert).map(drop)
    }

    /// `place`: where it ended, if it began; the loser of a race, and a place that was left, are not named.
    pub fn finished(
        &self,
        run: &str,
        job: &str,
        at_ms: u64,
        place: Option<&str>,
        verdict: &str,
    ) -> Result<(), DatabaseError> {
        let update = |connection: &Connection| {
            connection.execute(
                "UPDATE job_run SET finished_at = ?3, place = coalesce(?4, place), verdict = ?5
                 WHERE run = ?1 AND job = ?2",
                params![run, job, time(at_ms), place, verdict],
            )
        };
        self.0.write_now(Durability::Process, update).map(drop)
    }

    /// By run, which may be shortened, or by job; newest first.
    pub fn find(&self, text: &str) -> Result<Vec<JobRun>, DatabaseError> {
        let query = format!(
            "SELECT {COLUMNS} FROM job_run
             WHERE run = ?1 OR job = ?1 OR (?2 AND substr(run, 1, length(?1)) = ?1)
             ORDER BY started_at DESC, job"
        );
        self.0.read_now(|connection| {
            let mut query = connection.prepare_cached(&query)?;
            query.query_map(params![text, text.len() >= SHORTEST_PREFIX], read)?.collect()
        })
    }

    /// Jobs that ended before a moment, or began then and never said so.
    pub fn older_than(&self, before_ms: u64) -> Result<Vec<JobRun>, DatabaseError> {
        let query = format!(
            "SELECT {COLUMNS} FROM job_run WHERE coalesce(finished_at, started_at) < ?1 ORDER BY started_at"
        );
        self.0.read_now(|connection| {
            connection.prepare_cached(&query)?.query_map([time(before_ms)], read)?.collect()
        })
    }

    /// Removes a job's log, then what is known of it.
    pub fn forget(&self, job: &JobRun) -> Result<(), DatabaseError> {
        // Only ever below our own folder, whatever the database says.
        if job.log.starts_with(self.logs()) {
            let _ = std::fs::remove_file(&job.log);
            // Goes with the last log of its run.
            let _ = job.log.parent().map(std::fs::remove_dir);
        }
        let delete = |connection: &Connection| {
            connection.execute("DELETE FROM job_run WHERE run = ?1 AND job = ?2", params![job.run, job.job])
        };
        self.0.write_now(Durability::Process, delete).map(drop)
    }
}

const COLUMNS: &str = "run, job, project, worktree, place, log, started_at, finished_at, verdict";

fn read(row: &Row<'_>) -> rusqlite::Result<JobRun> {
    Ok(JobRun {
        run: row.get(0)?,
        job: row.get(1)?,
        project: row.get(2)?,
        worktree: row.get(3)?,
        place: row.get(4)?,
        log: PathBuf::from(row.get::<_, String>(5)?),
        started_at_ms: row.get::<_, i64>(6)?.unsigned_abs(),
        finished_at_ms: row.get::<_, Option<i64>>(7)?.map(i64::unsigned_abs),
        verdict: row.get::<_, Option<String>>(8)?.and_then(|text| serde_json::from_str(&text).ok()),
    })
}

/// A job's id as a file name: readable, and different for different ids.
fn file_name(text: &str) -> String {
    /// Longest part that is kept as it is.
    const READABLE: usize = 80;
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_=".contains(c) { c } else { '_' };
    let name: String = text.chars().take(READABLE).map(plain).collect();
    if name == text {
        return name;
    }
    let digest = DigestBuilder::new("log name 1").field(text.as_bytes()).finish().short();
    format!("{name}-{digest}")
}

fn time(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// A folder that only this user can enter.
pub fn make_log_folder(log: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(folder) = log.parent() else { return Ok(()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Directories;

    fn job(runs: &Runs, run: &str, job: &str, started_at_ms: u64) -> JobRun {
        JobRun {
            run: run.to_owned(),
            job: job.to_owned(),
            project: "p".to_owned(),
            worktree: "/w".to_owned(),
            place: "modal".to_owned(),
            log: runs.log_path(run, job),
            started_at_ms,
            finished_at_ms: None,
            verdict: None,
        }
    }

    #[test]
    fn runs_are_found_and_forgotten_with_their_logs() {
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs::new(Database::new(Directories::in_folder(folder.path())));
        let (old, new) = (job(&runs, "aaaa1", "test", 1_000), job(&runs, "bbbb2", "test", 2_000));
        for each in [&old, &new] {
            runs.started(each).unwrap();
            make_log_folder(&each.log).unwrap();
            std::fs::write(&each.log, "x").unwrap();
        }
        runs.finished("aaaa1", "test", 1_500, None, r#"{"verdict":"passed"}"#).unwrap();
        let found = runs.find("test").unwrap();
        assert_eq!(found.iter().map(|job| job.run.as_str()).collect::<Vec<_>>(), ["bbbb2", "aaaa1"]);
        assert_eq!(found[1].verdict.as_ref().unwrap()["verdict"], "passed");
        assert_eq!(runs.find("bbbb").unwrap(), std::slice::from_ref(&new));
        assert!(runs.find("bbb").unwrap().is_empty());

        for each in runs.older_than(1_600).unwrap() {
            runs.forget(&each).unwrap();
        }
        assert_eq!(runs.find("test").unwrap(), std::slice::from_ref(&new));
        assert!(!old.log.parent().unwrap().exists());
        assert!(new.log.exists());
    }

    #[test]
    fn file_names_are_plain_and_never_the_same_for_two_jobs() {
        assert_eq!(file_name("test"), "test");
        let odd = file_name("../../etc/passwd");
        assert!(odd.starts_with("______etc_passwd-"), "{odd}");
        assert_ne!(file_name("a[b=1]"), file_name("a(b=1)"));
        assert!(file_name(&"x".repeat(500)).len() < 120);
    }
}
