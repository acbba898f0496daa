//! Keeps what jobs on Modal print, and how they ended, for `accel logs`.
//!
//! What must stay true: nothing is opened for a run that stays on this machine. What is written has gone through the
//! masking of secrets, as everything that sinks see.

use std::collections::BTreeMap;
use std::io;

use super::{Sink, SinkError};
use crate::domain::{JobId, Place};
use crate::event::{Event, Stamped};
use crate::store::database::DatabaseError;
use crate::store::log::LogWriter;
use crate::store::runs::{JobRun, Runs, make_log_folder};

pub struct RecordSink {
    runs: Runs,
    project: String,
    worktree: String,
    run: String,
    logs: BTreeMap<JobId, LogWriter>,
}

impl RecordSink {
    /// `worktree` is the folder of accel.toml.
    pub fn new(runs: Runs, project: impl Into<String>, worktree: impl Into<String>) -> Self {
        Self {
            runs,
            project: project.into(),
            worktree: worktree.into(),
            run: String::new(),
            logs: BTreeMap::new(),
        }
    }

    fn begin(&mut self, job: &JobId, place: Place, at_ms: u64) -> Result<(), SinkError> {
        if self.logs.contains_key(job) {
            return Ok(());
        }
        let record = JobRun {
            run: self.run.clone(),
            job: job.as_str().to_owned(),
            project: self.project.clone(),
            worktree: self.worktree.clone(),
            place: place.as_str().to_owned(),
            log: self.runs.log_path(&self.run, job.as_str()),
            started_at_ms: at_ms,
            finished_at_ms: None,
            verdict: None,
        };
        // First what is known of it, so that no log is ever without an owner.
        self.runs.started(&record).map_err(failed)?;
        make_log_folder(&record.log)?;
        self.logs.insert(job.clone(), LogWriter::create(&record.log)?);
        Ok(())
    }
}

impl Sink for RecordSink {
    fn name(&self) -> &'static str {
        "the log"
    }

    fn handle(&mut self, stamped: &Stamped) -> Result<(), SinkError> {
        let at_ms = stamped.at_ms;
        match &stamped.event {
            Event::RunStarted { run, .. } => self.run.clone_from(run),
            Event::JobRouted { job, place: Place::Modal, .. } => self.begin(job, Place::Modal, at_ms)?,
            Event::Fallback { job, to: Place::Modal, .. } => self.begin(job, Place::Modal, at_ms)?,
            Event::Output { job, stream, data } => {
                if let Some(log) = self.logs.get_mut(job) {
                    log.append(at_ms, *stream, data)?;
                }
            }
            Event::JobFinished { job, verdict, place, .. } => {
                if let Some(log) = self.logs.remove(job) {
                    log.finish(at_ms)?;
                    let verdict = serde_json::to_string(verdict).map_err(io::Error::other)?;
                    let place = place.map(Place::as_str);
                    self.runs.finished(&self.run, job.as_str(), at_ms, place, &verdict).map_err(failed)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.logs.values_mut().try_for_each(LogWriter::flush)?;
        Ok(())
    }
}

fn failed(error: DatabaseError) -> SinkError {
    SinkError::Io(io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::domain::{Exit, Stream};
    use crate::event::Verdict;
    use crate::store::log::{LogReader, Record};
    use crate::store::{Database, Directories};

    fn routed(job: &str, place: Place) -> Event {
        Event::JobRouted {
            job: JobId::new(job),
            place,
            reason: String::new(),
            reasons: Vec::new(),
            quote: None,
            rival: None,
        }
    }

    fn output(job: &str, text: &str) -> Event {
        Event::Output { job: JobId::new(job), stream: Stream::Stdout, data: text.to_owned().into() }
    }

    fn finished(job: &str) -> Event {
        finished_in(job, None)
    }

    fn finished_in(job: &str, place: Option<Place>) -> Event {
        Event::JobFinished {
            job: JobId::new(job),
            verdict: Verdict::Failed { exit: Exit::Code(3) },
            place,
            attempts: 1,
            duration: Duration::ZERO,
        }
    }

    fn feed(sink: &mut RecordSink, events: Vec<Event>) {
        for (at_ms, event) in (1..).zip(events) {
            sink.handle(&Stamped { at_ms, side: None, event }).unwrap();
        }
        sink.flush().unwrap();
    }

    fn started() -> Event {
        Event::RunStarted {
            version: 1,
            accel: String::new(),
            run: "run-1".to_owned(),
            requested: Vec::new(),
            planned: Vec::new(),
        }
    }

    #[test]
    fn jobs_on_modal_leave_a_record_and_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs::new(Database::new(Directories::in_folder(folder.path())));
        let mut sink = RecordSink::new(runs.clone(), "p", "/w");
        feed(
            &mut sink,
            vec![
                started(),
                routed("lint", Place::Local),
                routed("test", Place::Modal),
                output("lint", "not kept\n"),
                output("test", "kept\n"),
            ],
        );
        let job = runs.find("run-1").unwrap().remove(0);
        assert_eq!((job.job.as_str(), job.finished_at_ms), ("test", None));
        let mut log = LogReader::open(&job.log).unwrap();
        let bytes = b"kept\n".to_vec();
        assert_eq!(
            log.next_record().unwrap(),
            Some(Record::Output { at_ms: 5, stream: Stream::Stdout, bytes })
        );
        assert!(log.is_written());

        feed(&mut sink, vec![finished("test"), finished("lint")]);
        assert_eq!(log.next_record().unwrap(), Some(Record::End));
        let job = runs.find("run-1").unwrap().remove(0);
        assert_eq!(job.verdict.unwrap()["verdict"], "failed");
    }

    #[test]
    fn a_job_is_recorded_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs::new(Database::new(Directories::in_folder(folder.path())));
        let mut sink = RecordSink::new(runs.clone(), "p", "/w");
        feed(&mut sink, vec![started(), routed("race", Place::Modal)]);
        assert_eq!(runs.find("race").unwrap()[0].place, "modal");
        feed(&mut sink, vec![finished_in("race", Some(Place::Local))]);
        assert_eq!(runs.find("race").unwrap()[0].place, "local");
    }

    #[test]
    fn a_run_on_this_machine_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs::new(Database::new(Directories::in_folder(folder.path())));
        let mut sink = RecordSink::new(runs, "p", "/w");
        feed(&mut sink, vec![started(), routed("a", Place::Local), output("a", "x"), finished("a")]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
