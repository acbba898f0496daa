//! Who wins a race.
//!
//! ```text
//! Running ─ a command ended, outputs home ──────────────────────────┐
//!    └─ a side could not do its part → Alone(other) ─ the same ─────┴→ Claimed(by)
//! ```
//!
//! What must stay true: at most one side wins; whoever brings outputs home holds the claim meanwhile, so that two sides
//! never do so at once; a side that cannot have its outputs lets go of the claim, and the other may still win.

use std::sync::OnceLock;

use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::Instant;

use crate::domain::Place;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Running,
    /// The other side could not do its part.
    Alone(Place),
    Claimed(Place),
}

#[derive(Debug)]
pub(in crate::engine) struct Claim {
    standing: watch::Sender<Standing>,
    home: Mutex<()>,
    /// When the job's time ends: its clock starts with the first command.
    deadline: OnceLock<Option<Instant>>,
}

/// The claim, in the hands of a side.
#[derive(Debug)]
pub(in crate::engine) struct Hold<'a> {
    claim: &'a Claim,
    _home: MutexGuard<'a, ()>,
}

impl Claim {
    pub(super) fn new() -> Self {
        Self {
            standing: watch::Sender::new(Standing::Running),
            home: Mutex::default(),
            deadline: OnceLock::new(),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Waits while the other side brings its outputs home. `None`: it has won.
    pub(in crate::engine) async fn hold(&self) -> Option<Hold<'_>> {
        let home = self.home.lock().await;
        match self.standing() {
            Standing::Claimed(_) => None,
            Standing::Running | Standing::Alone(_) => Some(Hold { claim: self, _home: home }),
        }
    }

    /// A side is out; true when that leaves the other alone.
    pub(super) fn leave_to(&self, other: Place) -> bool {
        self.standing.send_if_modified(|standing| {
            let leaves = *standing == Standing::Running;
            if leaves {
                *standing = Standing::Alone(other);
            }
            leaves
        })
    }

    pub(super) async fn winner(&self) -> Place {
        let mut changes = self.standing.subscribe();
        loop {
            if let Standing::Claimed(place) = *changes.borrow_and_update() {
                return place;
            }
            changed(&mut changes).await;
        }
    }

    pub(super) async fn no_longer_running(&self) {
        let mut changes = self.standing.subscribe();
        while *changes.borrow_and_update() == Standing::Running {
            changed(&mut changes).await;
        }
    }

    pub(in crate::engine) fn deadline(&self, mine: Option<Instant>) -> Option<Instant> {
        *self.deadline.get_or_init(|| mine)
    }
}

impl Hold<'_> {
    pub(in crate::engine) fn win(self, place: Place) {
        self.claim.standing.send_replace(Standing::Claimed(place));
    }
}

async fn changed(changes: &mut watch::Receiver<Standing>) {
    if changes.changed().await.is_err() {
        // Nobody is left who could claim anything.
        std::future::pending().await
    }
}
