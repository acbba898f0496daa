//! What earlier runs of a job tell, from the history.
//!
//! | fact | source | unit |
//! |---|---|---|
//! | `runs` | recorded runs, in either place, whose command came to its own end; at most the newest of each place ([`RECENT`](crate::store::history::RECENT)) | runs |
//! | `p50`, `p90` | the command's own time in those that passed | duration |
//!
//! Where runs of the very same command, image and resources are recorded, the others are left out of account.

use std::time::Duration;

use super::Surroundings;
use super::machine::busy;
use crate::config::model::Fact;
use crate::domain::Place;
use crate::event::now_ms;
use crate::plan::spec::PlannedJob;
use crate::route::{FactValue, Memory, Sample};
use crate::store::history::{Ending, Entry, milliseconds, percentile};

/// The runs of one job, newest first.
#[derive(Debug)]
pub(super) struct Past {
    entries: Result<Vec<Entry>, String>,
    /// Cores that the job keeps busy.
    wanted: f64,
}

/// For how long a run that did not get to its end keeps `auto` from trying Modal.
const ERRED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

impl Past {
    pub(super) async fn read(surroundings: &Surroundings, job: &PlannedJob) -> Self {
        let (history, project, id) =
            (surroundings.history.clone(), surroundings.project.clone(), job.id.clone());
        let digest = job.spec.digest().short();
        let read = tokio::task::spawn_blocking(move || history.recent(&project, &id)).await;
        let entries = match read {
            Ok(Ok(entries)) => Ok(comparable(entries, &digest)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Self { entries, wanted: super::wanted_cores(job) }
    }

    fn entries(&self) -> &[Entry] {
        self.entries.as_deref().unwrap_or_default()
    }

    fn passed(&self, place: Option<Place>) -> impl Iterator<Item = &Entry> {
        let of = move |entry: &&Entry| place.is_none_or(|place| entry.place == place);
        self.entries().iter().filter(|entry| entry.ended == Ending::Passed).filter(of)
    }

    pub(super) fn fact(&self, fact: Fact) -> FactValue {
        if let Err(why) = &self.entries {
            return FactValue::Unknown(why.clone());
        }
        let percent = match fact {
            Fact::P50 => 50,
            Fact::P90 => 90,
            _ => {
                let ended = |entry: &&Entry| matches!(entry.ended, Ending::Passed | Ending::Failed);
                return FactValue::Count(self.entries().iter().filter(ended).count() as f64);
            }
        };
        let times: Vec<Duration> =
            self.passed(None).map(|entry| Duration::from_millis(entry.phases.run_ms)).collect();
        percentile(&times, percent).map_or_else(
            || FactValue::Unknown("no run of this job has passed yet".to_owned()),
            FactValue::Duration,
        )
    }

    /// How long a sandbox of the job usually lives; where none ever did, what the command takes here.
    pub(super) fn sandbox_time(&self) -> Option<Duration> {
        let lived = |entry: &Entry| {
            Duration::from_millis(entry.phases.start_ms + entry.phases.run_ms + entry.phases.outputs_ms)
        };
        let there: Vec<Duration> = self.passed(Some(Place::Modal)).map(lived).collect();
        let here: Vec<Duration> = self.passed(Some(Place::Local)).map(lived).collect();
        percentile(&there, 50).or_else(|| percentile(&here, 50))
    }

    pub(super) fn memory(&self) -> Memory {
        let local = self.passed(Some(Place::Local)).map(|entry| self.idle(entry)).collect();
        let modal: Vec<Sample> = self.passed(Some(Place::Modal)).map(sample).collect();
        let modal_errored = modal.is_empty() && self.modal_erred_lately();
        Memory { local, modal, modal_errored, busy: 1.0, ..Memory::default() }
    }

    fn modal_erred_lately(&self) -> bool {
        let newest = self.entries().iter().find(|entry| entry.place == Place::Modal);
        let since = now_ms().saturating_sub(milliseconds(ERRED_FOR));
        newest.is_some_and(|entry| entry.ended == Ending::Errored && entry.started_at_ms >= since)
    }

    /// A run on this machine as if nothing else had run beside it.
    fn idle(&self, entry: &Entry) -> Sample {
        let sample = sample(entry);
        let load = f64::from(entry.load_percent.unwrap_or_default()) / 100.0;
        Sample { run: sample.run.div_f64(busy(load, self.wanted)), ..sample }
    }
}

fn comparable(entries: Vec<Entry>, digest: &str) -> Vec<Entry> {
    let same = |entry: &Entry| entry.digest == digest;
    if !entries.iter().any(|entry| same(entry) && entry.ended == Ending::Passed) {
        return entries;
    }
    entries.into_iter().filter(same).collect()
}

fn sample(entry: &Entry) -> Sample {
    let time = Duration::from_millis;
    let phases = entry.phases;
    Sample {
        sync: time(phases.sync_ms),
        image: time(phases.image_ms),
        queue: time(phases.queue_ms),
        start: time(phases.start_ms),
        run: time(phases.run_ms),
        outputs: time(phases.outputs_ms),
        bytes_sent: entry.bytes_sent,
        image_built: entry.image_built,
    }
}
