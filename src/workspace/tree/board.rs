//! Work that is found while work is done: who takes what, and when all of it is done.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Pieces of work that wait, and how many are in hand. The first one has the place 0.
pub(super) struct Board<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: Vec<T>,
    unfinished: usize,
    given: usize,
}

impl<T> Board<T> {
    pub(super) fn new(first: T) -> Self {
        let state = State { waiting: vec![first], unfinished: 1, given: 1 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves places for what comes of `count` pieces.
    pub(super) fn reserve(&self, count: usize) -> usize {
        let mut state = self.lock();
        state.given += count;
        state.given - count
    }

    /// Hands in what was found and how many pieces were finished, and takes the next one; `None` when all are done.
    pub(super) fn next(&self, found: &mut Vec<T>, finished: usize) -> Option<T> {
        let mut state = self.lock();
        state.unfinished = state.unfinished + found.len() - finished;
        let more = found.len() > 1 || state.unfinished == 0;
        state.waiting.append(found);
        if more {
            self.changed.notify_all();
        }
        loop {
            if let Some(task) = state.waiting.pop() {
                return Some(task);
            }
            if state.unfinished == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
