//! What the workspace pays: asked for beside a run, kept for a day, else the published table.
//!
//! What must stay true: no run waits for rates, neither at its start nor at its end. A run is quoted by what an earlier
//! one was told; the first run of a workspace by the table. Losing what is kept costs a question.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::common::memory_key;
use super::link::Link;
use super::method::client;
use super::quote::Prices;
use super::retry::RetryPolicy;
use super::wire::client as wire;
use crate::event::now_ms;
use crate::store::{Database, Remembered};

/// How long rates are used before they are asked for again. An answer without any that is understood is kept as long.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the server has to tell them; nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(120);
const KIND: &str = "rates";
const KEY: &str = "workspace";

/// As the server told them.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    at_ms: u64,
    /// Decimal text by names of the server's choice.
    rates: BTreeMap<String, String>,
}

impl Told {
    fn is_fresh(&self, now_ms: u64) -> bool {
        // A clock that was set back makes them old, not eternal.
        now_ms.checked_sub(self.at_ms).is_some_and(|age| u128::from(age) < KEPT.as_millis())
    }

    /// `None` when no name is understood.
    fn prices(&self) -> Option<Prices> {
        let at = i64::try_from(self.at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())?;
        Prices::published().with_rates(&self.rates, &at.strftime("%Y-%m-%d").to_string())
    }
}

/// What an account in an environment was told before, where that is not too old; asks nobody.
pub fn remembered(database: Database, account: &str, environment: Option<&str>) -> Option<Prices> {
    let text = Remembered::new(database, memory_key(account, environment)).get_now(KIND, KEY)?;
    let told: Told = serde_json::from_str(&text).ok()?;
    told.is_fresh(now_ms()).then(|| told.prices()).flatten()
}

/// The rates of one account.
pub(super) struct Rates {
    remembered: Remembered,
    kept: OnceCell<Option<Told>>,
    /// Newer than what was kept.
    told: Arc<Mutex<Option<Prices>>>,
}

impl Rates {
    pub(super) fn new(remembered: Remembered) -> Self {
        Self { remembered, kept: OnceCell::new(), told: Arc::default() }
    }

    /// The best that is known now; asks nobody.
    pub(super) async fn prices(&self) -> Prices {
        if let Some(told) = &*self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            return told.clone();
        }
        self.fresh().await.and_then(Told::prices).unwrap_or_else(Prices::published)
    }

    async fn fresh(&self) -> Option<&Told> {
        let kept = self.kept.get_or_init(async || {
            let text = self.remembered.get(KIND, KEY).await.ok().flatten()?;
            serde_json::from_str(&text).ok()
        });
        kept.await.as_ref().filter(|told| told.is_fresh(now_ms()))
    }

    /// Asks beside the run when what is kept is too old; given up when the run is `leaving` first.
    pub(super) async fn refresh(&self, link: &Link, aside: &TaskTracker, leaving: &CancellationToken) {
        if self.fresh().await.is_some() {
            return;
        }
        let (plane, remembered, told) = (link.plane.clone(), self.remembered.clone(), self.told.clone());
        let asking = async move {
            let policy = RetryPolicy::NONE.attempt_timeout(PATIENCE);
            let method = client::WORKSPACE_BILLING_RATES.with_retry(policy);
            let rates = match plane.call(method, wire::WorkspaceBillingRatesRequest {}).await {
                Ok(answer) => usable(answer),
                // A token may lack the right to see them: that, too, stays so for a while.
                Err(error) if error.is_answer() => BTreeMap::new(),
                Err(error) => return tracing::debug!(%error, "rates are not known"),
            };
            let news = Told { at_ms: now_ms(), rates };
            if let Some(prices) = news.prices() {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(prices);
            }
            let text = serde_json::to_string(&news).expect("plain texts");
            if let Err(error) = remembered.put(KIND, KEY, &text).await {
                tracing::debug!(%error, "rates are not kept");
            }
        };
        let leaving = leaving.clone();
        aside.spawn(async move {
            tokio::select! {
                () = leaving.cancelled() => {}
                () = asking => {}
            }
        });
    }
}

/// Those that the server does not say to skip.
fn usable(answer: wire::WorkspaceBillingRatesResponse) -> BTreeMap<String, String> {
    let skipped = answer.deprecation_errors;
    answer.rates.into_iter().filter(|(name, _)| !skipped.contains_key(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_used_for_a_day() {
        let day = u64::try_from(KEPT.as_millis()).unwrap();
        let told = Told { at_ms: 1_782_777_600_000, rates: BTreeMap::new() };
        assert!(told.is_fresh(told.at_ms) && told.is_fresh(told.at_ms + day - 1));
        assert!(!told.is_fresh(told.at_ms + day) && !told.is_fresh(told.at_ms - 1));
        assert_eq!(told.prices(), None);
        let told = Told { rates: BTreeMap::from([("cpu_core_hour".into(), "3.6".into())]), ..told };
        let prices = told.prices().unwrap();
        assert_eq!((prices.as_of.as_str(), prices.source.as_str()), ("2026-06-30", "workspace"));
    }

    #[test]
    fn what_the_server_says_to_skip_is_skipped() {
        let text = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
        let answer = wire::WorkspaceBillingRatesResponse {
            rates: text(&["cpu_core_hour", "old_hour"]),
            deprecation_warnings: text(&["cpu_core_hour"]),
            deprecation_errors: text(&["old_hour"]),
            ..Default::default()
        };
        assert_eq!(usable(answer).into_keys().collect::<Vec<_>>(), ["cpu_core_hour"]);
    }
}
