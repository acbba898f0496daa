//! How much later this machine starts in a race. Pure: what is remembered is an argument.
//!
//! | what is known | this machine starts |
//! |---|---|
//! | no run passed in one of the places | [`USUAL_HEAD_START`] later |
//! | this machine is expected to be first | at once |
//! | Modal is expected to be first | when nine of ten runs there were over: only a slow one needs help |

use std::time::Duration;

use super::auto::{Memory, Sample, Weighed};
use crate::base::duration::ShortDuration;

/// Long enough for a job that starts at once on Modal to be over, short beside what a machine may take to come.
pub const USUAL_HEAD_START: Duration = Duration::from_secs(5);

/// Of the runs on Modal.
const NEARLY_ALL: usize = 90;

pub(super) struct HeadStart {
    pub(super) time: Duration,
    /// In one line.
    pub(super) why: String,
}

pub(super) fn head_start(memory: &Memory, weighed: Option<&Weighed>) -> HeadStart {
    let Some(weighed) = weighed.filter(|weighed| weighed.local.runs > 0 && weighed.modal.runs > 0) else {
        let time = ShortDuration(USUAL_HEAD_START);
        let why = format!("race: this machine starts {time} later; it is not known yet what both take");
        return HeadStart { time: USUAL_HEAD_START, why };
    };
    let (here, there) = (ShortDuration(weighed.local.time), ShortDuration(weighed.modal.time));
    let expected = format!("about {here} here, {there} on Modal");
    if weighed.local.time <= weighed.modal.time {
        return HeadStart { time: Duration::ZERO, why: format!("race: both start at once; {expected}") };
    }
    let time = nearly_all(&memory.modal);
    let why = format!(
        "race: this machine starts {} later, by when nine of ten runs on Modal were over; {expected}",
        ShortDuration(time)
    );
    HeadStart { time, why }
}

/// Nearest rank.
fn nearly_all(samples: &[Sample]) -> Duration {
    let mut times: Vec<Duration> = samples.iter().map(Sample::total).collect();
    times.sort_unstable();
    let rank = (times.len() * NEARLY_ALL).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or(USUAL_HEAD_START)
}
