//! The short-lived token of the newer calls: fetched once for all callers, renewed before it expires.
//!
//! A renewal starts at a random point after half of the token's life, so that many clients do not come at once.
//! While the old token is good, only the caller that renews it waits.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;

use super::clock::Clock;
use super::error::{ErrorKind, ModalError};
use super::retry::RetryPolicy;

const REFRESH_FRACTION: f64 = 0.5;
const REFRESH_JITTER: f64 = 0.1;
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const FETCH_TOTAL: Duration = Duration::from_secs(15);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// A token of an earlier run is used while it is good for at least this long; it is renewed when half of this is left.
const SEED_LIFE: Duration = Duration::from_secs(180);
/// Life of a token that does not say.
const DEFAULT_LIFE: Duration = Duration::from_secs(20 * 60);

pub struct AuthTokens {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held by the one caller that fetches.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    token: String,
    expires: Duration,
    refresh_at: Duration,
    retry_at: Duration,
    backoff: Duration,
    /// Counts fetches, so that those who waited for one share its outcome.
    fetches: u64,
    failure: Option<ModalError>,
}

impl AuthTokens {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::new(State::default()), fetching: tokio::sync::Mutex::new(()) }
    }

    /// Starts with a token of an earlier run, if it is still good for a while.
    pub fn seed(&self, token: String) {
        let now = self.clock.now();
        let Some(expires) = expiry(&token).filter(|expires| *expires > now + SEED_LIFE) else { return };
        let mut state = self.state();
        let fetches = state.fetches + 1;
        *state = State {
            token,
            expires,
            refresh_at: expires.saturating_sub(SEED_LIFE / 2),
            fetches,
            ..State::default()
        };
    }

    /// After the server refused the token.
    pub fn forget(&self) {
        let mut state = self.state();
        *state = State { fetches: state.fetches + 1, ..State::default() };
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token; `fetch` asks the server for one, repeating as told.
    pub async fn get<F>(&self, fetch: impl FnOnce(RetryPolicy) -> F) -> Result<String, ModalError>
    where
        F: Future<Output = Result<String, ModalError>>,
    {
        let (valid, due, seen) = self.standing();
        let _fetching = match (valid, due) {
            (true, false) => return Ok(self.state().token.clone()),
            (true, true) => match self.fetching.try_lock() {
                Ok(guard) => guard,
                Err(_) => return Ok(self.state().token.clone()),
            },
            (false, _) => self.fetching.lock().await,
        };
        let (valid, due, now_seen) = self.standing();
        if now_seen != seen {
            // The state is locked for this line alone: what follows locks it again.
            let failure = self.state().failure.clone();
            if let Some(failure) = failure {
                return self.without_a_new_one(failure);
            }
            if valid && !due {
                return Ok(self.state().token.clone());
            }
        }
        let retries = if valid { 0 } else { 3 };
        let policy = RetryPolicy::DEFAULT
            .attempt_timeout(FETCH_TIMEOUT)
            .total_timeout(FETCH_TOTAL)
            .max_retries(retries);
        let fetched = fetch(policy).await.and_then(|token| self.keep(token));
        fetched.or_else(|failure| {
            self.remember(&failure);
            self.without_a_new_one(failure)
        })
    }

    /// Whether there is a good token, whether it is time for a new one, and how many fetches there were.
    fn standing(&self) -> (bool, bool, u64) {
        let now = self.clock.now();
        let state = self.state();
        let valid = !state.token.is_empty() && now < state.expires;
        (valid, now >= state.refresh_at && now >= state.retry_at, state.fetches)
    }

    fn keep(&self, token: String) -> Result<String, ModalError> {
        if token.is_empty() {
            return Err(ModalError::new(ErrorKind::Service, "AuthTokenGet", "the server sent no token"));
        }
        let now = self.clock.now();
        let expires = expiry(&token).unwrap_or(now + DEFAULT_LIFE);
        let fraction = REFRESH_FRACTION + self.clock.fraction() * REFRESH_JITTER;
        let mut state = self.state();
        *state = State {
            token: token.clone(),
            expires,
            refresh_at: now + expires.saturating_sub(now).mul_f64(fraction),
            fetches: state.fetches + 1,
            ..State::default()
        };
        Ok(token)
    }

    fn remember(&self, failure: &ModalError) {
        let now = self.clock.now();
        let mut state = self.state();
        state.fetches += 1;
        state.failure = Some(failure.clone());
        state.backoff = (state.backoff * 2).clamp(FIRST_BACKOFF, LONGEST_BACKOFF);
        state.retry_at = now + state.backoff;
    }

    /// An old token may still do, unless the credentials themselves were refused.
    fn without_a_new_one(&self, failure: ModalError) -> Result<String, ModalError> {
        let token = self.state().token.clone();
        if token.is_empty() || matches!(failure.kind, ErrorKind::Auth | ErrorKind::Permission) {
            Err(failure)
        } else {
            Ok(token)
        }
    }
}

/// When a JWT expires, since the Unix epoch; `None` if it does not say. Nothing is verified.
pub fn expiry(token: &str) -> Option<Duration> {
    time_claim(token, "exp")
}

/// When a JWT was made, since the Unix epoch, by the clock of who made it; `None` if it does not say.
pub fn issued(token: &str) -> Option<Duration> {
    time_claim(token, "iat")
}

fn time_claim(token: &str, name: &str) -> Option<Duration> {
    let payload = token.split('.').nth(1)?.trim_end_matches('=');
    let json = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&json).ok()?;
    Duration::try_from_secs_f64(claims.get(name)?.as_f64()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::clock::SystemClock;
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_fetch_that_fails_shares_the_failure() {
        let tokens = AuthTokens::new(Arc::new(SystemClock));
        let refused = ModalError::new(ErrorKind::NotFound, "AuthTokenGet", "no such environment");
        let first = tokens.get(async |_| {
            tokio::task::yield_now().await;
            Err(refused.clone())
        });
        let second = tokens.get(async |_| panic!("the server is not asked again"));
        let (first, second) = tokio::join!(first, second);
        assert_eq!(first.unwrap_err().message, "no such environment");
        assert_eq!(second.unwrap_err().message, "no such environment");
    }

    proptest! {
        #[test]
        fn a_token_of_any_kind_is_read_or_not(token in "(?s).{0,40}", claims in "(?s).{0,40}", time in any::<f64>()) {
            let wrapped = |payload: &str| format!("a.{}.b", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(payload));
            let timed = wrapped(&format!("{{\"exp\":{time:e},\"iat\":[{time:e}]}}"));
            for token in [token, wrapped(&claims), timed] {
                let tokens = AuthTokens::new(Arc::new(SystemClock));
                let _ = (expiry(&token), issued(&token), tokens.keep(token.clone()));
                tokens.seed(token);
            }
        }
    }
}
