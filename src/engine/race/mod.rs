//! A race: one attempt at a pure job in two places at the same time, of which one counts.
//!
//! The first side starts at once; the second when its head start is over, or the first is out, and there is a slot that no
//! job waits for. What must stay true: the side whose command ends first wins, whether it passed or failed, unless its
//! outputs cannot be had ([`Claim`]); a side that cannot do its part leaves the other running; whoever has not won writes
//! nothing into the project and shows no output ([`Held`]); the loser is asked to stop, killed after [`LOSER_GRACE`], and
//! cleaned up before the race is over.

mod claim;
mod held;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::{Attempt, Ended, Outcome};
use super::slots::{Slot, Slots};
use crate::backend::{Cancel, CancelLevel, CancelSource, OutputMode, StopReason};
use crate::domain::{JobId, Place};
use crate::event::{Emitter, Event, SideEnd};
pub(super) use claim::Claim;
use claim::Standing;
pub(super) use held::Held;

/// How long a loser may take to stop by itself: what it would do with more time is of no use to anybody.
pub(super) const LOSER_GRACE: Duration = Duration::from_secs(2);

pub(super) struct Race {
    first: Attempt,
    second: Attempt,
    after: Duration,
    course: Course,
}

/// What both sides share.
struct Course {
    job: JobId,
    attempt: u32,
    run: Cancel,
    claim: Arc<Claim>,
    first: Side,
    second: Side,
}

struct Side {
    place: Place,
    cancel: CancelSource,
    held: Arc<Held>,
    emitter: Emitter,
}

/// One side, as its attempt sees it.
pub(super) struct Entrant {
    pub claim: Arc<Claim>,
    pub held: Arc<Held>,
}

impl Race {
    /// Of two attempts at the same job in different places.
    pub(super) fn new(mut first: Attempt, mut second: Attempt, after: Duration) -> Self {
        let course = Course {
            job: first.job().id.clone(),
            attempt: first.number,
            run: first.cancel.clone(),
            claim: Arc::new(Claim::new()),
            first: Side::of(&first),
            second: Side::of(&second),
        };
        course.first.enter(&mut first, &course.claim);
        course.second.enter(&mut second, &course.claim);
        Self { first, second, after, course }
    }

    /// Ends when both sides are over.
    pub(super) async fn run(self, slot: Slot, slots: Slots) -> Ended {
        let Self { first, second, after, course } = self;
        let both = async {
            let first = course.side(&course.first, first, slot);
            let second = async {
                let slot = course.turn(after, &slots).await?;
                Some(course.side(&course.second, second, slot).await)
            };
            tokio::join!(first, second)
        };
        let (first, second) = tokio::select! {
            biased;
            ended = both => ended,
            never = course.pass_on() => match never {},
            never = course.withdraw_loser() => match never {},
        };
        course.settle(first, second)
    }
}

impl Side {
    fn of(attempt: &Attempt) -> Self {
        let place = attempt.backend.place();
        let emitter = attempt.emitter.of_side(place);
        let held = Arc::new(Held::new(attempt.job().id.clone(), emitter.clone()));
        Self { place, cancel: CancelSource::beside(&attempt.cancel), held, emitter }
    }

    fn enter(&self, attempt: &mut Attempt, claim: &Arc<Claim>) {
        attempt.cancel = self.cancel.watch();
        attempt.emitter = self.emitter.through(Arc::clone(&self.held) as _);
        // What is inherited cannot be held back.
        attempt.output = OutputMode::Events;
        attempt.entrant = Some(Entrant { claim: Arc::clone(claim), held: Arc::clone(&self.held) });
    }
}

impl Course {
    fn other(&self, place: Place) -> &Side {
        if self.first.place == place { &self.second } else { &self.first }
    }

    async fn side(&self, side: &Side, attempt: Attempt, slot: Slot) -> Ended {
        let ended = attempt.run().await;
        drop(slot);
        self.over(side, &ended.outcome).await;
        ended
    }

    /// `None`: there is no need for the second side any more.
    async fn turn(&self, after: Duration, slots: &Slots) -> Option<Slot> {
        let mut run = self.run.clone();
        let turn = async {
            tokio::select! {
                () = tokio::time::sleep(after) => {}
                () = self.claim.no_longer_running() => {}
            }
            slots.spare(self.second.place).await
        };
        tokio::select! {
            biased;
            _ = self.claim.winner() => None,
            // A run that is being stopped begins nothing.
            _ = run.above(CancelLevel::Run) => None,
            slot = turn => Some(slot),
        }
    }

    async fn over(&self, side: &Side, outcome: &Outcome) {
        let end = match (outcome, self.claim.standing()) {
            (_, Standing::Claimed(winner)) if winner == side.place => SideEnd::Won,
            (Outcome::Failed(failure), _) => {
                SideEnd::Out { cause: failure.cause, detail: failure.message.clone() }
            }
            (_, Standing::Claimed(_)) => SideEnd::Lost,
            _ => SideEnd::Stopped,
        };
        let is_out = matches!(end, SideEnd::Out { .. });
        let (job, place, attempt) = (self.job.clone(), side.place, self.attempt);
        side.emitter.emit(Event::SideEnded { job, place, attempt, end }).await;
        let other = self.other(side.place);
        if is_out && self.claim.leave_to(other.place) {
            other.held.release().await;
        }
    }

    /// The run's cancellation is that of both sides.
    async fn pass_on(&self) -> Infallible {
        let mut run = self.run.clone();
        let mut seen = CancelLevel::Run;
        loop {
            seen = run.above(seen).await;
            self.first.cancel.raise(seen);
            self.second.cancel.raise(seen);
        }
    }

    async fn withdraw_loser(&self) -> Infallible {
        let winner = self.claim.winner().await;
        let loser = self.other(winner);
        loser.cancel.raise(CancelLevel::Stop(StopReason::Terminate));
        loser.held.shut().await;
        tokio::time::sleep(LOSER_GRACE).await;
        loser.cancel.raise(CancelLevel::Kill);
        std::future::pending().await
    }

    /// What decides about the job: the winner, else whoever was left.
    fn settle(&self, first: Ended, second: Option<Ended>) -> Ended {
        match (self.claim.standing(), second) {
            (Standing::Claimed(place) | Standing::Alone(place), Some(second))
                if place == self.second.place =>
            {
                second
            }
            _ => first,
        }
    }
}
