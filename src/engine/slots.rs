//! The limit on jobs at once, per place, and the queue before it.
//!
//! What must stay true: a [`Slot`] counts until it is dropped, whatever becomes of its holder. The second side of a race
//! takes only what no job waits for: it has a first side that runs already.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::watch;

use super::Parallel;
use crate::domain::Place;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Slots(Arc<watch::Sender<Lines>>);

type Lines = BTreeMap<Place, Line>;

#[derive(Debug)]
struct Line {
    free: usize,
    waiting: VecDeque<usize>,
}

/// The right to run in a place.
#[derive(Debug)]
pub(super) struct Slot {
    place: Place,
    slots: Slots,
}

impl Slots {
    pub(super) fn new(parallel: Parallel) -> Self {
        let line = |limit: Option<NonZeroUsize>| Line {
            free: limit.map_or(usize::MAX, NonZeroUsize::get),
            waiting: VecDeque::new(),
        };
        let lines =
            BTreeMap::from([(Place::Local, line(parallel.local)), (Place::Modal, line(parallel.modal))]);
        Self(Arc::new(watch::Sender::new(lines)))
    }

    pub(super) fn enqueue(&self, place: Place, job: usize) {
        self.0.send_if_modified(|lines| {
            line(lines, place).waiting.push_back(job);
            false
        });
    }

    /// Takes a slot for the next job of some place that has a free one.
    pub(super) fn take(&self) -> Option<(Slot, usize)> {
        let mut taken = None;
        self.0.send_if_modified(|lines| {
            taken = lines.iter_mut().find_map(|(place, line)| {
                let job = if line.free > 0 { line.waiting.pop_front() } else { None }?;
                line.free -= 1;
                Some((*place, job))
            });
            // Those that let waiting jobs go first look again.
            taken.is_some()
        });
        taken.map(|(place, job)| (Slot { place, slots: self.clone() }, job))
    }

    /// Waits for a slot that no job waits for.
    pub(super) async fn spare(&self, place: Place) -> Slot {
        let mut changes = self.0.subscribe();
        loop {
            let taken = self.0.send_if_modified(|lines| {
                let line = line(lines, place);
                let spare = line.free > 0 && line.waiting.is_empty();
                line.free -= usize::from(spare);
                spare
            });
            if taken {
                return Slot { place, slots: self.clone() };
            }
            // The sender is `self`, so it is not gone.
            let _ = changes.changed().await;
        }
    }

    pub(super) fn changes(&self) -> Changes {
        Changes(self.0.subscribe())
    }
}

/// For whoever waits until something is free.
#[derive(Debug)]
pub(super) struct Changes(watch::Receiver<Lines>);

impl Changes {
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Slot {
    pub(super) fn place(&self) -> Place {
        self.place
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.0.send_modify(|lines| line(lines, self.place).free += 1);
    }
}

fn line(lines: &mut Lines, place: Place) -> &mut Line {
    lines.get_mut(&place).expect("every place has a line")
}
