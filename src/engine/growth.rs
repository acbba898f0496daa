//! What grows with each retry (`retry.escalate`). Pure.
//!
//! | key | with each retry |
//! |---|---|
//! | `memory` | request and limit are multiplied, up to [`MOST_MEMORY`] |
//! | `timeout` | the limit over all attempts is multiplied; after a timeout the clock begins anew with the new limit |
//! | `next_gpu` | the first entry of `gpu` is left out; the last one stays |

use std::sync::Arc;
use std::time::Duration;

use crate::base::duration::ShortDuration;
use crate::base::size::Bytes;
use crate::event::{Grown, Growth};
use crate::plan::spec::{GpuChoice, PlannedJob, Range, SandboxSpec};

/// Growth ends here: a bound of accel's own, since Modal does not publish the most that it gives and refuses what is
/// above. A job that asks for more keeps what it asks for.
const MOST_MEMORY: Bytes = Bytes(336 << 30);

/// What one attempt gets.
#[derive(Debug, Clone)]
pub(super) struct Measure {
    pub spec: Arc<SandboxSpec>,
    /// Over all attempts so far.
    pub limit: Option<Duration>,
}

/// After this many retries.
pub(super) fn measure(job: &PlannedJob, retries: u32) -> Measure {
    let limit = limit(job, retries);
    let escalate = &job.retry.escalate;
    let grows = escalate.memory.is_some() && job.spec.memory.is_some();
    let moves_on = escalate.next_gpu && job.spec.gpu.len() > 1;
    if retries == 0 || !(grows || moves_on) {
        return Measure { spec: Arc::clone(&job.spec), limit };
    }
    let mut spec = SandboxSpec::clone(&job.spec);
    if let (Some(factor), Some(memory)) = (escalate.memory, spec.memory) {
        let grow = |size: Bytes| more_memory(size, power(factor, retries));
        spec.memory = Some(Range { request: grow(memory.request), limit: memory.limit.map(grow) });
    }
    if escalate.next_gpu {
        let skipped = (retries as usize).min(spec.gpu.len().saturating_sub(1));
        spec.gpu.drain(..skipped);
    }
    Measure { spec: Arc::new(spec), limit }
}

/// By how much one more retry raises the limit; `None`: there is none, or it does not grow.
pub(super) fn more_time(job: &PlannedJob, retries: u32) -> Option<Duration> {
    job.retry.escalate.timeout?;
    Some(limit(job, retries + 1)?.saturating_sub(limit(job, retries)?))
}

/// What people and programs are told.
pub(super) fn between(before: &Measure, after: &Measure) -> Vec<Growth> {
    let mut found = Vec::new();
    let mut note = |what, from: String, to: String| {
        if from != to {
            found.push(Growth { what, from, to });
        }
    };
    note(Grown::Memory, memory_text(&before.spec), memory_text(&after.spec));
    note(Grown::Timeout, limit_text(before.limit), limit_text(after.limit));
    note(Grown::Gpu, gpu_text(&before.spec.gpu), gpu_text(&after.spec.gpu));
    found
}

fn limit(job: &PlannedJob, retries: u32) -> Option<Duration> {
    let limit = job.timeout?;
    let Some(factor) = job.retry.escalate.timeout else { return Some(limit) };
    let seconds = limit.as_secs_f64() * power(factor, retries);
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn power(factor: f64, retries: u32) -> f64 {
    factor.powi(i32::try_from(retries).unwrap_or(i32::MAX))
}

fn more_memory(size: Bytes, factor: f64) -> Bytes {
    // Whole MiB, as Modal counts; far more than there is saturates.
    let mib = (size.0 as f64 / f64::from(1 << 20) * factor).ceil();
    let grown = Bytes((mib as u64).saturating_mul(1 << 20));
    grown.min(MOST_MEMORY.max(size))
}

fn memory_text(spec: &SandboxSpec) -> String {
    spec.memory.map_or_else(String::new, |memory| memory.request.to_string())
}

fn limit_text(limit: Option<Duration>) -> String {
    limit.map_or_else(String::new, |limit| ShortDuration(limit).to_string())
}

fn gpu_text(choices: &[GpuChoice]) -> String {
    choices.first().map_or_else(String::new, |choice| choice.gpu.to_string())
}
