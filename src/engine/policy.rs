//! What follows a failure that is not the command's success: another attempt, another place, or the verdict.
//! Pure, but for the jitter it is given.

use std::time::Duration;

use super::{FallbackPolicy, Jitter};
use crate::domain::{Cause, Place};
use crate::plan::spec::{FallbackOn, PlannedJob, Retry};

#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Where the rules say, after the delay. (What grows with each attempt is `retry.escalate`'s part.)
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

/// What the decision depends on.
#[derive(Debug)]
pub(super) struct Situation<'a> {
    pub job: &'a PlannedJob,
    pub policy: FallbackPolicy,
    pub cause: Cause,
    /// Retries already made, fallbacks not counted.
    pub retries: u32,
    /// Places already tried.
    pub tried: &'a [Place],
    /// Until the job's timeout; `None`: no timeout, or its clock has not started.
    pub time_left: Option<Duration>,
}

impl Situation<'_> {
    pub(super) fn next(&self, jitter: &Jitter) -> Next {
        if self.cause == Cause::Timeout {
            return Next::Verdict { forbidden: None };
        }
        if let Some(delay) = self.retry(jitter) {
            return Next::Retry { delay };
        }
        let Some(to) = self.fallback() else { return Next::Verdict { forbidden: None } };
        if self.job.strict || self.policy == FallbackPolicy::Forbidden {
            return Next::Verdict { forbidden: Some(to) };
        }
        Next::Fallback { to }
    }

    /// A retry that could not begin before the timeout is not made: the failure says more than the timeout would.
    fn retry(&self, jitter: &Jitter) -> Option<Duration> {
        let retry = &self.job.retry;
        if self.retries >= retry.max || !retry.on.contains(&self.cause) {
            return None;
        }
        let delay = backoff(retry, self.retries, jitter);
        self.time_left.is_none_or(|left| delay < left).then_some(delay)
    }

    fn fallback(&self) -> Option<Place> {
        if self.cause == Cause::Command {
            return None;
        }
        let applies = |on: &FallbackOn| match on {
            FallbackOn::Cause(cause) => *cause == self.cause,
            FallbackOn::QueueLonger(_) => self.cause == Cause::Queue,
        };
        let possible = |to: &Place| !self.tried.contains(to);
        let mut fallbacks = self.job.fallback.iter();
        fallbacks.find(|spec| possible(&spec.to) && spec.on.iter().any(applies)).map(|spec| spec.to)
    }
}

/// Doubles from the first delay up to the longest; half of it is fixed, half is jitter.
fn backoff(retry: &Retry, retries: u32, jitter: &Jitter) -> Duration {
    let (first, longest) = retry.backoff;
    let full = first.saturating_mul(1_u32.checked_shl(retries).unwrap_or(u32::MAX)).min(longest.max(first));
    full.mul_f64(0.5 + jitter.draw() / 2.0)
}
