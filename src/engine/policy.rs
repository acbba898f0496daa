//! What follows a failure: another attempt, another place, or the verdict. Pure, but for the jitter it is given.

use std::time::Duration;

use super::{FallbackPolicy, Jitter, growth};
use crate::backend::{Prospect, Shortage};
use crate::domain::{Cause, Place};
use crate::plan::spec::{FallbackOn, FallbackSpec, OnExceed, PlannedJob, Retry};

#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Where the rules say, after the delay; what grows with it is the business of [`growth`].
    Retry {
        delay: Duration,
    },
    Fallback {
        to: Place,
    },
    /// It stays as it is; a fallback that was configured and forbidden is named.
    Verdict {
        forbidden: Option<Place>,
    },
}

impl Next {
    /// Whether the attempt is abandoned for another one.
    pub(super) fn is_another(&self) -> bool {
        !matches!(self, Self::Verdict { .. })
    }
}

/// What the decision depends on, besides the failure.
#[derive(Debug, Clone)]
pub(super) struct Situation {
    pub policy: FallbackPolicy,
    /// Retries already made, fallbacks not counted.
    pub retries: u32,
    /// Places already tried, the present one among them.
    pub tried: Vec<Place>,
    pub on_exceed: OnExceed,
}

impl Situation {
    /// `time_left` is until the job's time ends; `None`: no limit, or its clock has not started.
    pub(super) fn next(
        &self,
        job: &PlannedJob,
        cause: Cause,
        time_left: Option<Duration>,
        jitter: &Jitter,
    ) -> Next {
        if let Some(delay) = self.retry(job, cause, time_left, jitter) {
            return Next::Retry { delay };
        }
        if matches!(cause, Cause::Command | Cause::Timeout) {
            return Next::Verdict { forbidden: None };
        }
        let Some(to) = self.fallback(job, cause) else { return Next::Verdict { forbidden: None } };
        if self.forbids(job) {
            return Next::Verdict { forbidden: Some(to) };
        }
        Next::Fallback { to }
    }

    /// A retry that could not begin before the job's time ends is not made: the failure says more than the timeout
    /// would. A timeout is retried only where the limit grows, since no time is left otherwise.
    fn retry(
        &self,
        job: &PlannedJob,
        cause: Cause,
        time_left: Option<Duration>,
        jitter: &Jitter,
    ) -> Option<Duration> {
        let retry = &job.retry;
        if self.retries >= retry.max || !retry.on.contains(&cause) {
            return None;
        }
        let more = growth::more_time(job, self.retries);
        let delay = backoff(retry, self.retries, jitter);
        let in_time = match cause {
            Cause::Timeout => more.is_some_and(|more| !more.is_zero()),
            _ => time_left.is_none_or(|left| delay < left.saturating_add(more.unwrap_or_default())),
        };
        in_time.then_some(delay)
    }

    fn forbids(&self, job: &PlannedJob) -> bool {
        job.strict || self.policy == FallbackPolicy::Forbidden
    }

    /// In order; those that lead to a place not tried yet.
    fn fallbacks<'a>(&'a self, job: &'a PlannedJob) -> impl Iterator<Item = &'a FallbackSpec> {
        job.fallback.iter().filter(|fallback| !self.tried.contains(&fallback.to))
    }

    fn fallback(&self, job: &PlannedJob, cause: Cause) -> Option<Place> {
        if cause == Cause::Budget {
            let here = self.on_exceed == OnExceed::Local && !self.tried.contains(&Place::Local);
            return here.then_some(Place::Local);
        }
        let applies = |on: &FallbackOn| match on {
            FallbackOn::Cause(named) => *named == cause,
            FallbackOn::QueueLonger(_) => cause == Cause::Queue,
        };
        self.fallbacks(job).find(|fallback| fallback.on.iter().any(applies)).map(|fallback| fallback.to)
    }

    /// How long the job may wait for a machine: only where a fallback would follow.
    pub(super) fn queue_limit(&self, job: &PlannedJob) -> Option<Duration> {
        if self.forbids(job) {
            return None;
        }
        let limit = |on: &FallbackOn| match on {
            FallbackOn::QueueLonger(limit) => Some(*limit),
            FallbackOn::Cause(_) => None,
        };
        self.fallbacks(job).flat_map(|fallback| &fallback.on).filter_map(limit).min()
    }

    /// Whether some failure of the attempt would be followed by another one.
    pub(super) fn prospect(&self, job: &PlannedJob) -> Prospect {
        let retried = self.retries < job.retry.max && !job.retry.on.is_empty();
        let falls_back = !self.forbids(job) && self.fallbacks(job).next().is_some();
        if retried || falls_back { Prospect::Another } else { Prospect::Last }
    }

    /// A place that lacks what the job asks for is left where another may have it.
    pub(super) fn shortage(&self, job: &PlannedJob) -> Shortage {
        let falls_back = self.fallback(job, Cause::Capacity).is_some() && !self.forbids(job);
        if falls_back { Shortage::Refuse } else { Shortage::MakeDo }
    }
}

/// Doubles from the first delay up to the longest; half of it is fixed, half is jitter.
fn backoff(retry: &Retry, retries: u32, jitter: &Jitter) -> Duration {
    let (first, longest) = retry.backoff;
    let full = first.saturating_mul(1_u32.checked_shl(retries).unwrap_or(u32::MAX)).min(longest.max(first));
    full.mul_f64(0.5 + jitter.draw() / 2.0)
}
