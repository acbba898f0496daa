//! The limit on jobs at once, per place, and the queue before it.

use std::collections::{BTreeMap, VecDeque};

use super::Parallel;
use crate::domain::Place;

#[derive(Debug)]
pub(super) struct Slots {
    places: BTreeMap<Place, Line>,
}

#[derive(Debug)]
struct Line {
    free: usize,
    waiting: VecDeque<usize>,
}

impl Slots {
    pub(super) fn new(parallel: Parallel) -> Self {
        let line = |limit: Option<std::num::NonZeroUsize>| Line {
            free: limit.map_or(usize::MAX, std::num::NonZeroUsize::get),
            waiting: VecDeque::new(),
        };
        Self {
            places: BTreeMap::from([
                (Place::Local, line(parallel.local)),
                (Place::Modal, line(parallel.modal)),
            ]),
        }
    }

    pub(super) fn enqueue(&mut self, place: Place, job: usize) {
        self.line(place).waiting.push_back(job);
    }

    /// Takes a slot for the next job of some place that has a free one.
    pub(super) fn take(&mut self) -> Option<(Place, usize)> {
        self.places.iter_mut().find_map(|(place, line)| {
            if line.free == 0 {
                return None;
            }
            let job = line.waiting.pop_front()?;
            line.free -= 1;
            Some((*place, job))
        })
    }

    pub(super) fn release(&mut self, place: Place) {
        self.line(place).free += 1;
    }

    fn line(&mut self, place: Place) -> &mut Line {
        self.places.get_mut(&place).expect("every place has a line")
    }
}
