//! How long the stages of a run may stand still. What moves is never given up, however long it takes in all.
//!
//! | stage | limit | where |
//! |---|---|---|
//! | connecting | in all, attempts included | [`ConnectBudget`](super::connect::ConnectBudget) |
//! | the build of a layer | without a word of it | [`Limits::build`] |
//! | sending files | without anything of them being taken | [`Limits::upload`] |
//! | waiting for a machine | in all | the job's `gpu` list, else [`launch`](super::launch) |
//! | a connection that stood idle | without any answer | [`Limits::silence`]; other silence ends with its keep-alive |
//! | the command | in all | the job's `timeout`, kept by the engine; the sandbox's own lifetime behind it |
//! | fetching outputs | without anything of them arriving | [`Limits::download`] |

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Builds are silent while they compile; the server has limits of its own.
    pub build: Duration,
    /// Also for many files at once on a slow line, which arrive at about the same time.
    pub upload: Duration,
    /// Of one request that sends a piece of a large file. It is tried again.
    pub request: Duration,
    pub download: Duration,
    /// Of a connection that stood idle between two runs, until something is answered over it. It is made anew.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            build: Duration::from_secs(60 * 60),
            upload: Duration::from_secs(10 * 60),
            request: Duration::from_secs(3 * 60),
            download: Duration::from_secs(10 * 60),
            silence: Duration::from_secs(5),
        }
    }
}

/// When something last moved.
#[derive(Debug, Clone)]
pub(super) struct Pulse(Arc<Mutex<Instant>>);

/// Nothing moved for as long as the limit says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoodStill;

impl Pulse {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes when nothing has moved for so long.
    pub(super) async fn stops(&self, limit: Duration) -> StoodStill {
        loop {
            let last = self.last();
            tokio::time::sleep_until(last + limit).await;
            if self.last() == last {
                return StoodStill;
            }
        }
    }

    /// Does the work, unless it stands still.
    pub(super) async fn keeps<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, StoodStill> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            still = self.stops(limit) => Err(still),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    async fn working(pulse: &Pulse, steps: u32, pause: Duration) -> u32 {
        for _ in 0..steps {
            tokio::time::sleep(pause).await;
            pulse.beat();
        }
        steps
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_goes_on_and_what_stands_still_is_given_up() {
        let pulse = Pulse::new();
        let slow = pulse.keeps(LIMIT, working(&pulse, 100, LIMIT - Duration::from_secs(1))).await;
        assert_eq!(slow, Ok(100));
        let began = Instant::now();
        let still = pulse.keeps(LIMIT, async {
            working(&pulse, 2, Duration::from_secs(30)).await;
            std::future::pending::<()>().await;
        });
        assert_eq!(still.await, Err(StoodStill));
        assert_eq!(began.elapsed(), LIMIT * 2);
    }
}
