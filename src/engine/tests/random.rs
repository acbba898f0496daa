//! What random runs are made of, whatever their shape: how a job ends, and when somebody stops it.

use std::sync::Arc;

use proptest::prelude::*;

use super::world::seconds;
use crate::backend::fake::{Act, Script};
use crate::backend::{CancelLevel, CancelSource, StopReason};
use crate::domain::{Cause, Exit};

#[derive(Debug, Clone, Copy)]
pub enum Fate {
    Pass,
    Fail,
    RefuseOpen,
    BreakWhileRunning,
    LoseOutputs,
    FailToClose,
}

impl Fate {
    /// Passing and failing as often as said, every other fate once.
    pub fn any(passes: u32, fails: u32) -> impl Strategy<Value = Self> {
        prop_oneof![
            passes => Just(Self::Pass),
            fails => Just(Self::Fail),
            1 => Just(Self::RefuseOpen),
            1 => Just(Self::BreakWhileRunning),
            1 => Just(Self::LoseOutputs),
            1 => Just(Self::FailToClose),
        ]
    }

    pub fn befall(self, script: &mut Script) {
        let failure = Act::fails(Cause::Infra).failure;
        match self {
            Self::Pass => {}
            Self::Fail => script.exit = Exit::Code(1),
            Self::RefuseOpen => script.open.failure = failure,
            Self::BreakWhileRunning => script.execute.failure = failure,
            Self::LoseOutputs => script.collect.failure = failure,
            Self::FailToClose => script.close.failure = failure,
        }
    }
}

/// Levels, each so many seconds after the one before.
pub type Cancels = Vec<(u64, CancelLevel)>;

pub fn cancel_level() -> impl Strategy<Value = CancelLevel> {
    prop_oneof![
        Just(CancelLevel::Drain),
        Just(CancelLevel::Stop(StopReason::Interrupt)),
        Just(CancelLevel::Kill),
    ]
}

pub async fn raise(source: Arc<CancelSource>, cancels: Cancels) {
    for (after, level) in cancels {
        tokio::time::sleep(seconds(after)).await;
        source.raise(level);
    }
}
