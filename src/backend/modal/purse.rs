//! What the jobs of a run may spend: how much is held before a sandbox is asked for, when the server ends it at the
//! latest, and when its job is told to end.
//!
//! What must stay true: with a cap no sandbox is asked for that is not paid for ahead in the ledger
//! ([`crate::store::ledger`]); a sandbox that would alone use up `per_run` is ended by the server also when this machine
//! is gone. Whether a job may go to Modal at all is decided before the run; here it is only kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::clock::Clock;
use super::quote::Quote;
use crate::backend::Failure;
use crate::base::duration::ShortDuration;
use crate::base::exit_code;
use crate::base::money::Dollars;
use crate::domain::{Cause, JobId};
use crate::event::now_ms;
use crate::store::Lease;
use crate::store::journal::LeaseId;
use crate::store::ledger::{self, Caps, Exceeded, Hold, Ledger, SLICE, Wanted, lasts, price};

/// Between two looks at the clock: this machine may have slept meanwhile, and the sandbox has not.
const LOOK: Duration = Duration::from_secs(30);
/// After the job was told to end: for its outputs and accel's own way to end the sandbox.
const MARGIN: Duration = Duration::from_secs(60);

/// The remedy where a GPU has no price.
pub const UNPRICED_HELP: &str = "ask for another GPU, or remove `per_run` and `per_day` of [budget]";

/// The caps of a run, and what its jobs are expected to cost.
#[derive(Debug, Default)]
pub struct Purse {
    caps: Caps,
    prewarm: Option<Dollars>,
    expected: Mutex<BTreeMap<JobId, Dollars>>,
}

impl Purse {
    /// `prewarm` is what sandboxes that no run has asked for yet may cost in a day; `None`: there are none.
    pub fn new(caps: Caps, prewarm: Option<Dollars>) -> Self {
        Self { caps, prewarm, expected: Mutex::default() }
    }

    pub(super) fn is_capped(&self) -> bool {
        self.caps.any()
    }

    /// By the job's earlier runs.
    pub fn expect(&self, job: &JobId, cost: Dollars) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).insert(job.clone(), cost);
    }

    /// What is held before the sandbox is asked for, of a sandbox that lives for `lifetime` at most.
    pub(super) fn hold(&self, job: &JobId, quote: &Quote, lifetime: Duration) -> Result<Hold, Failure> {
        if let (true, Some(gpu)) = (self.is_capped(), &quote.unpriced) {
            return Err(refused(format!("the price of {gpu} is not known, so [budget] cannot be kept"))
                .help(UNPRICED_HELP));
        }
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner).get(job).copied();
        Ok(Hold {
            per_hour: quote.per_hour,
            amount: ahead(expected, quote.per_hour, lifetime),
            caps: self.caps,
            need: ledger::Need::Run,
        })
    }

    /// What is held for a sandbox that no run has asked for yet: all that it costs if none comes within `idle`.
    pub(super) fn hold_expected(&self, quote: &Quote, idle: Duration) -> Result<Hold, Failure> {
        let Some(per_day) = self.prewarm else {
            return Err(refused("no sandbox is made before a run asks for it".to_owned())
                .help("set `prewarm_per_day` of [budget]"));
        };
        let amount = Wanted::Exactly(price(quote.per_hour, idle));
        Ok(Hold {
            per_hour: quote.per_hour,
            amount,
            caps: self.caps,
            need: ledger::Need::Expected { per_day },
        })
    }

    /// How long one run may last for what it may cost; then there is a little time for its end.
    pub fn most(&self, per_hour: Dollars, stop_timeout: Duration) -> Option<Duration> {
        let paid = lasts(per_hour, self.caps.per_run?)?;
        Some(paid.saturating_add(stop_timeout).saturating_add(MARGIN))
    }

    /// Keeps a sandbox paid for while a job runs in it. `None` without caps.
    pub(super) fn tab(
        &self,
        lease: &Lease,
        quote: &Quote,
        ledger: Ledger,
        clock: &Arc<dyn Clock>,
    ) -> Option<Tab> {
        self.is_capped().then(|| Tab {
            caps: self.caps,
            bill: Arc::new(Mutex::new(Bill::of(lease, quote))),
            ledger,
            clock: Arc::clone(clock),
        })
    }
}

/// What is paid ahead: all that the job is expected to cost, else the first slice.
pub fn ahead(expected: Option<Dollars>, per_hour: Dollars, lifetime: Duration) -> Wanted {
    let worst = price(per_hour, lifetime);
    match expected {
        Some(expected) => Wanted::Exactly(expected.min(worst)),
        None => Wanted::UpTo(price(per_hour, SLICE).min(worst)),
    }
}

/// Of one session; clones are of the same.
#[derive(Clone)]
pub(super) struct Tab {
    caps: Caps,
    bill: Arc<Mutex<Bill>>,
    ledger: Ledger,
    clock: Arc<dyn Clock>,
}

/// What the session's sandbox has been paid for.
#[derive(Clone)]
struct Bill {
    lease: LeaseId,
    per_hour: Dollars,
    held: Dollars,
    began_ms: u64,
}

impl Bill {
    fn of(lease: &Lease, quote: &Quote) -> Self {
        let (lease, held) = (lease.id().clone(), lease.held());
        Self { lease, per_hour: quote.per_hour, held, began_ms: now_ms() }
    }
}

impl Tab {
    /// Another sandbox has taken the place of the session's own.
    pub(super) fn turn(&self, lease: &Lease, quote: &Quote) {
        *self.bill.lock().unwrap_or_else(PoisonError::into_inner) = Bill::of(lease, quote);
    }

    fn pay(&self, lease: &LeaseId, held: Dollars) {
        let mut bill = self.bill.lock().unwrap_or_else(PoisonError::into_inner);
        if bill.lease == *lease {
            bill.held = held;
        }
    }

    /// Resolves when a cap is reached; holds more of it before.
    pub(super) async fn used_up(self) -> Failure {
        loop {
            let bill = self.bill.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let lived = Duration::from_millis(now_ms().saturating_sub(bill.began_ms));
            // What costs nothing lasts for ever.
            let left = lasts(bill.per_hour, bill.held).map_or(LOOK, |paid| paid.saturating_sub(lived));
            if !left.is_zero() {
                self.clock.sleep(left.min(LOOK)).await;
                continue;
            }
            match self.ledger.extend(&bill.lease, self.caps).await {
                Ok(Ok(held)) if held > bill.held => self.pay(&bill.lease, held),
                // Somebody else has ended the sandbox.
                Ok(Ok(_)) => self.clock.sleep(LOOK).await,
                Ok(Err(exceeded)) => return overspent(&exceeded, bill.per_hour, lived),
                // The line goes on costing its time in any case.
                Err(error) => {
                    tracing::debug!(%error, "the ledger does not say whether a job may go on");
                    self.pay(&bill.lease, bill.held.plus(price(bill.per_hour, SLICE)));
                }
            }
        }
    }
}

fn overspent(exceeded: &Exceeded, per_hour: Dollars, lived: Duration) -> Failure {
    let time = ShortDuration(lived);
    let text = format!("{exceeded}; stopped after {time} at ≥ {per_hour}/h");
    Failure::new(Cause::Budget, text).help(exceeded.help())
}

/// No sandbox was asked for.
pub(super) fn exceeded(exceeded: &Exceeded) -> Failure {
    refused(exceeded.to_string()).help(exceeded.help())
}

fn refused(text: String) -> Failure {
    Failure::new(Cause::Budget, text).exit_code(exit_code::USAGE)
}
