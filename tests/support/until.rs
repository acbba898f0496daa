//! Waiting for what nothing but a look can tell: a file that another process writes, the state of a process, times that
//! have passed. Where something can be waited for itself (output, a pipe, an exit), it is.

use std::time::{Duration, Instant};

/// On a busy machine. Shorter than the tests' watchdog leaves an accel.
const LIMIT: Duration = Duration::from_secs(50);
const PAUSE: Duration = Duration::from_millis(2);

/// False when it did not happen within the limit.
pub fn happens(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + LIMIT;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Fails the test when it does not happen, saying what `described` says then.
#[track_caller]
pub fn wait_until(holds: impl FnMut() -> bool, described: impl Fn() -> String) {
    assert!(happens(holds), "never happened: {}", described());
}
