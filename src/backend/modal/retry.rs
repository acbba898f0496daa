//! When a call is tried again, and after how long: the rules of the official SDK, as a machine without a clock.
//!
//! Transient faults have a budget; a server that asks to come back later does not use it up.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

use super::error::is_transport;
use super::settings::ThrottleLimit;
use super::wire::client::{RpcRetryPolicy, RpcStatus};

/// Statuses that may go away by themselves.
const TRANSIENT: [Code; 5] =
    [Code::DeadlineExceeded, Code::Unavailable, Code::Cancelled, Code::Internal, Code::Unknown];
/// An attempt never gets less, even when the total is nearly used up.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(2);
/// Least wait when the server asks for one.
const SHORTEST_THROTTLE: Duration = Duration::from_millis(100);
/// A server that asks for more does not want to be asked: nobody waits for it.
const LONGEST_THROTTLE: Duration = Duration::from_secs(60 * 60);
/// How often a user hears that requests are being throttled.
pub const THROTTLE_NOTICE_INTERVAL: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// After the first failure; doubles each time.
    pub first_delay: Duration,
    pub longest_delay: Duration,
    /// After the first attempt. `None`: for ever.
    pub max_retries: Option<u32>,
    pub attempt_timeout: Option<Duration>,
    /// Over all attempts.
    pub total_timeout: Option<Duration>,
}

impl RetryPolicy {
    pub const DEFAULT: Self = Self {
        first_delay: Duration::from_millis(100),
        longest_delay: Duration::from_secs(1),
        max_retries: Some(3),
        attempt_timeout: None,
        total_timeout: None,
    };
    /// For calls that upload or look up many files: a longer first pause.
    pub const FILES: Self = Self { first_delay: Duration::from_secs(1), ..Self::DEFAULT };
    pub const NONE: Self = Self { max_retries: Some(0), ..Self::DEFAULT };
    /// For calls to a sandbox's router.
    pub const ROUTER: Self = Self {
        first_delay: Duration::from_millis(10),
        longest_delay: Duration::from_secs(60),
        max_retries: Some(10),
        ..Self::DEFAULT
    };

    #[must_use]
    pub const fn attempt_timeout(self, timeout: Duration) -> Self {
        Self { attempt_timeout: Some(timeout), ..self }
    }

    #[must_use]
    pub const fn total_timeout(self, timeout: Duration) -> Self {
        Self { total_timeout: Some(timeout), ..self }
    }

    #[must_use]
    pub const fn max_retries(self, retries: u32) -> Self {
        Self { max_retries: Some(retries), ..self }
    }
}

/// Which errors the server may attach a pause to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttling {
    /// The control plane: any status.
    AnyStatus,
    /// The router: only RESOURCE_EXHAUSTED.
    ExhaustedOnly,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    RetryAfter(Duration),
    /// The server asked for a pause; `notice`: tell the user.
    ThrottledFor {
        delay: Duration,
        notice: bool,
    },
    GiveUp,
    /// The server asked for a pause that nobody is willing to wait.
    GiveUpThrottled,
}

/// One logical call and what happened to it so far. Times are since the Unix epoch.
#[derive(Debug, Clone)]
pub struct Attempts {
    policy: RetryPolicy,
    limit: ThrottleLimit,
    throttling: Throttling,
    started: Duration,
    delay: Duration,
    transient: u32,
    throttled: u32,
    last_notice: Option<Duration>,
}

impl Attempts {
    pub fn new(policy: RetryPolicy, limit: ThrottleLimit, throttling: Throttling, now: Duration) -> Self {
        Self {
            policy,
            limit,
            throttling,
            started: now,
            delay: policy.first_delay,
            transient: 0,
            throttled: 0,
            last_notice: None,
        }
    }

    pub fn count(&self) -> u32 {
        self.transient + self.throttled + 1
    }

    pub fn throttled(&self) -> u32 {
        self.throttled
    }

    /// How the server learns which attempt this is.
    pub fn headers(&self, now: Duration) -> Vec<(&'static str, String)> {
        let seconds = |duration: Duration| duration.as_secs_f64().to_string();
        let since = seconds(now.saturating_sub(self.started));
        let mut headers = vec![
            ("x-retry-attempt", self.transient.to_string()),
            ("x-throttle-retry-attempt", self.throttled.to_string()),
            ("x-modal-timestamp", seconds(self.started)),
        ];
        if self.transient > 0 {
            headers.push(("x-retry-delay", since.clone()));
        }
        if self.throttled > 0 {
            headers.push(("x-throttle-retry-delay", since));
        }
        headers
    }

    /// Deadline of the next attempt.
    pub fn timeout(&self, now: Duration) -> Option<Duration> {
        let left = self
            .policy
            .total_timeout
            .map(|total| (self.started + total).saturating_sub(now).max(SHORTEST_ATTEMPT));
        match (self.policy.attempt_timeout, left) {
            (Some(attempt), Some(left)) => Some(attempt.min(left)),
            (attempt, left) => attempt.or(left),
        }
    }

    pub fn after(&mut self, status: &Status, now: Duration) -> Verdict {
        match self.requested_pause(status) {
            Some(delay) => self.after_throttling(delay, now),
            None => self.after_fault(status, now),
        }
    }

    fn requested_pause(&self, status: &Status) -> Option<Duration> {
        let listens = self.throttling == Throttling::AnyStatus || status.code() == Code::ResourceExhausted;
        if self.limit == ThrottleLimit::Never || !listens {
            return None;
        }
        retry_after(status).map(|delay| delay.max(SHORTEST_THROTTLE))
    }

    fn after_throttling(&mut self, delay: Duration, now: Duration) -> Verdict {
        let waited = now.saturating_add(delay).saturating_sub(self.started);
        let allowed = match self.limit {
            ThrottleLimit::AtMost(limit) => waited < limit,
            ThrottleLimit::Unlimited | ThrottleLimit::Never => delay <= LONGEST_THROTTLE,
        };
        if !allowed || self.policy.total_timeout.is_some_and(|total| waited >= total) {
            return Verdict::GiveUpThrottled;
        }
        self.throttled += 1;
        let notice = self.last_notice.is_none_or(|last| now >= last + THROTTLE_NOTICE_INTERVAL);
        if notice {
            self.last_notice = Some(now);
        }
        Verdict::ThrottledFor { delay, notice }
    }

    fn after_fault(&mut self, status: &Status, now: Duration) -> Verdict {
        let transient = TRANSIENT.contains(&status.code()) || is_transport(status);
        let used_up = self.policy.max_retries.is_some_and(|max| self.transient >= max);
        let too_late = self
            .policy
            .total_timeout
            .is_some_and(|total| now + self.delay + SHORTEST_ATTEMPT >= self.started + total);
        if !transient || used_up || too_late {
            return Verdict::GiveUp;
        }
        self.transient += 1;
        let delay = self.delay;
        self.delay = (delay * 2).min(self.policy.longest_delay);
        Verdict::RetryAfter(delay)
    }
}

/// The pause that the server asks for in an error's details.
pub fn retry_after(status: &Status) -> Option<Duration> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let policy = details.iter().find(|detail| detail.type_url.ends_with("/modal.client.RPCRetryPolicy"))?;
    let seconds = RpcRetryPolicy::decode(policy.value.as_ref()).ok()?.retry_after_secs;
    Some(Duration::try_from_secs_f32(seconds).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::from_secs(1_000);

    fn attempts(policy: RetryPolicy, limit: ThrottleLimit) -> Attempts {
        Attempts::new(policy, limit, Throttling::AnyStatus, START)
    }

    fn throttled(code: Code, seconds: f32) -> Status {
        let value = RpcRetryPolicy { retry_after_secs: seconds }.encode_to_vec();
        let detail =
            prost_types::Any { type_url: "type.modal.com/modal.client.RPCRetryPolicy".into(), value };
        let details = RpcStatus { code: code as i32, message: String::new(), details: vec![detail] };
        Status::with_details(code, "slow down", details.encode_to_vec().into())
    }

    fn after(millis: u64) -> Verdict {
        Verdict::RetryAfter(Duration::from_millis(millis))
    }

    #[test]
    fn four_attempts_with_doubling_delays() {
        let mut call = attempts(RetryPolicy::DEFAULT, ThrottleLimit::Unlimited);
        let status = Status::unavailable("");
        let verdicts: Vec<_> = (0..4).map(|_| call.after(&status, START)).collect();
        assert_eq!(verdicts, [after(100), after(200), after(400), Verdict::GiveUp]);
        assert_eq!(call.count(), 4);
        let mut call = attempts(RetryPolicy::FILES, ThrottleLimit::Unlimited);
        let verdicts: Vec<_> = (0..4).map(|_| call.after(&status, START)).collect();
        assert_eq!(verdicts, [after(1000), after(1000), after(1000), Verdict::GiveUp]);
    }

    #[test]
    fn only_transient_statuses_are_retried() {
        for code in (0..=16).map(Code::from_i32).filter(|code| *code != Code::Ok) {
            let verdict =
                attempts(RetryPolicy::DEFAULT, ThrottleLimit::Unlimited).after(&Status::new(code, ""), START);
            let expect = if TRANSIENT.contains(&code) { after(100) } else { Verdict::GiveUp };
            assert_eq!(verdict, expect, "{code:?}");
        }
    }

    #[test]
    fn a_requested_pause_costs_no_retry_and_is_told_every_half_minute() {
        let mut call = attempts(RetryPolicy::DEFAULT, ThrottleLimit::Unlimited);
        let status = throttled(Code::PermissionDenied, 20.0);
        let verdicts: Vec<_> =
            (0..4).map(|round| call.after(&status, START + Duration::from_secs(round * 20))).collect();
        let wait = |notice| Verdict::ThrottledFor { delay: Duration::from_secs(20), notice };
        assert_eq!(verdicts, [wait(true), wait(false), wait(true), wait(false)]);
        assert_eq!(call.after(&Status::internal(""), START), after(100));
        let headers = call.headers(START + Duration::from_millis(1500));
        let expect = [
            ("x-retry-attempt", "1"),
            ("x-throttle-retry-attempt", "4"),
            ("x-modal-timestamp", "1000"),
            ("x-retry-delay", "1.5"),
            ("x-throttle-retry-delay", "1.5"),
        ];
        assert_eq!(headers, expect.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn pauses_have_a_least_length_and_limits() {
        let tenth = Verdict::ThrottledFor { delay: SHORTEST_THROTTLE, notice: true };
        let short = throttled(Code::ResourceExhausted, 0.0);
        assert_eq!(attempts(RetryPolicy::DEFAULT, ThrottleLimit::Unlimited).after(&short, START), tenth);
        let long = throttled(Code::ResourceExhausted, 30.0);
        let at_most = |seconds| ThrottleLimit::AtMost(Duration::from_secs(seconds));
        assert_eq!(attempts(RetryPolicy::DEFAULT, at_most(30)).after(&long, START), Verdict::GiveUpThrottled);
        let allowed = attempts(RetryPolicy::DEFAULT, at_most(31)).after(&long, START);
        assert!(matches!(allowed, Verdict::ThrottledFor { .. }), "{allowed:?}");
        let total = RetryPolicy::DEFAULT.total_timeout(Duration::from_secs(15));
        assert_eq!(attempts(total, ThrottleLimit::Unlimited).after(&long, START), Verdict::GiveUpThrottled);
        // Only who asks for it waits for longer than an hour.
        for endless in [3601.0, 1e19] {
            let endless = throttled(Code::ResourceExhausted, endless);
            let mut unlimited = attempts(RetryPolicy::DEFAULT, ThrottleLimit::Unlimited);
            assert_eq!(unlimited.after(&endless, START), Verdict::GiveUpThrottled);
        }
        let patient = attempts(RetryPolicy::DEFAULT, at_most(4000))
            .after(&throttled(Code::ResourceExhausted, 3601.0), START);
        assert!(matches!(patient, Verdict::ThrottledFor { .. }), "{patient:?}");
        // As if the server had not asked: RESOURCE_EXHAUSTED is final, UNAVAILABLE an ordinary fault.
        assert_eq!(attempts(RetryPolicy::DEFAULT, ThrottleLimit::Never).after(&long, START), Verdict::GiveUp);
        let fault = throttled(Code::Unavailable, 30.0);
        assert_eq!(attempts(RetryPolicy::DEFAULT, ThrottleLimit::Never).after(&fault, START), after(100));
    }

    #[test]
    fn the_router_is_heard_only_when_exhausted() {
        let router =
            || Attempts::new(RetryPolicy::ROUTER, ThrottleLimit::Unlimited, Throttling::ExhaustedOnly, START);
        assert_eq!(router().after(&throttled(Code::Unavailable, 5.0), START), after(10));
        assert_eq!(router().after(&Status::resource_exhausted(""), START), Verdict::GiveUp);
        let pause = router().after(&throttled(Code::ResourceExhausted, 5.0), START);
        assert!(matches!(pause, Verdict::ThrottledFor { .. }), "{pause:?}");
    }

    #[test]
    fn deadlines_shrink_with_the_total_but_not_below_two_seconds() {
        let policy = RetryPolicy::DEFAULT
            .attempt_timeout(Duration::from_secs(5))
            .total_timeout(Duration::from_secs(15));
        let mut call = attempts(policy, ThrottleLimit::Unlimited);
        let at = |seconds| START + Duration::from_secs(seconds);
        assert_eq!(call.timeout(at(0)), Some(Duration::from_secs(5)));
        assert_eq!(call.timeout(at(12)), Some(Duration::from_secs(3)));
        assert_eq!(call.timeout(at(14)), Some(Duration::from_secs(2)));
        assert_eq!(call.after(&Status::unavailable(""), at(12)), after(100));
        assert_eq!(call.after(&Status::unavailable(""), at(13)), Verdict::GiveUp);
        assert_eq!(attempts(RetryPolicy::DEFAULT, ThrottleLimit::Unlimited).timeout(START), None);
    }

    #[test]
    fn details_that_do_not_decode_are_ignored() {
        let status = Status::with_details(Code::Internal, "", bytes::Bytes::from_static(b"\xff\xff"));
        assert_eq!(retry_after(&status), None);
        assert_eq!(retry_after(&throttled(Code::Internal, f32::NAN)), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn no_pause_that_a_server_asks_for_is_too_much_to_count(
            details in any::<Vec<u8>>(), seconds in any::<f32>(), code in 1..=16, now in any::<u32>(),
        ) {
            let status = Status::with_details(Code::from_i32(code), "", details.into());
            let now = Duration::from_secs(now.into());
            for status in [status, throttled(Code::from_i32(code), seconds)] {
                for limit in [ThrottleLimit::Unlimited, ThrottleLimit::AtMost(Duration::MAX), ThrottleLimit::Never] {
                    let policy = RetryPolicy::DEFAULT.total_timeout(Duration::from_secs(15));
                    for policy in [policy, RetryPolicy::ROUTER] {
                        let mut call = attempts(policy, limit);
                        let _ = (call.after(&status, now), call.timeout(now), call.headers(now));
                    }
                }
            }
        }
    }
}
