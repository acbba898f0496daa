//! Time, sleep and chance as an argument, so that waiting can be tested without waiting.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::backend::BoxFuture;

pub trait Clock: Send + Sync {
    /// Since the Unix epoch.
    fn now(&self) -> Duration;

    /// Only forward, and not while the machine sleeps: for what is waited for here.
    fn awake(&self) -> Instant;

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()>;

    /// Evenly from 0 up to, not including, 1.
    fn fraction(&self) -> f64;
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn awake(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn fraction(&self) -> f64 {
        // The low 32 bits of a random UUID are random.
        let bits = uuid::Uuid::new_v4().as_u128() as u32;
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}
