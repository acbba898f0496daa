//! `[budget]` before a run: whether its jobs may go to Modal for what is left of it.
//!
//! Looks once at what was spent and is held, and adds up what the jobs of the run are expected to cost, in their order.
//! What must stay true: nothing is refused here that costs nothing, and nothing is asked of Modal. That the caps hold
//! while the jobs run, against other accels too, is kept by `backend::modal::purse` and [`crate::store::ledger`].

use std::time::Duration;

use crate::backend::modal;
use crate::backend::modal::purse;
use crate::backend::modal::quote::Quote;
use crate::base::money::Dollars;
use crate::plan::spec::{BudgetLimits, OnExceed, Plan, PlannedJob, Warm};
use crate::store::Ledger;
use crate::store::journal::tag;
use crate::store::ledger::{Account, Caps, Exceeded, price};

use super::error::CommandError;

pub fn caps(limits: &BudgetLimits) -> Caps {
    Caps { per_run: limits.per_run, per_day: limits.per_day }
}

/// Why a job may not go to Modal.
#[derive(Debug)]
pub enum Refusal {
    Exceeded(Exceeded),
    /// A GPU whose price is not known.
    Unpriced(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exceeded(exceeded) => exceeded.fmt(f),
            Self::Unpriced(gpu) => {
                write!(f, "the price of {gpu} is not known, so [budget] cannot be kept")
            }
        }
    }
}

impl Refusal {
    fn help(&self) -> &'static str {
        match self {
            Self::Exceeded(exceeded) => exceeded.help(),
            Self::Unpriced(_) => purse::UNPRICED_HELP,
        }
    }

    /// What becomes of the job.
    pub fn consequence(&self, job: &PlannedJob, on_exceed: OnExceed) -> String {
        let what = match on_exceed {
            OnExceed::Local if !job.strict => "it runs here",
            OnExceed::Local | OnExceed::Stop => "it is not run",
        };
        format!("{self}: {what}")
    }

    /// For a job that may not go elsewhere either.
    pub fn into_error(self, job: &PlannedJob, on_exceed: OnExceed) -> CommandError {
        let error =
            CommandError::usage(format!("`{}` is not run on Modal: {self}", job.id)).help(self.help());
        match on_exceed {
            OnExceed::Local => error.help(format!("`{}` is strict, so it does not run here instead", job.id)),
            OnExceed::Stop => error,
        }
    }
}

/// Adds up what the jobs of a run are expected to cost.
#[derive(Debug)]
pub struct Guard {
    caps: Caps,
    run: Account,
    today: Account,
}

impl Guard {
    /// `None` without caps. A ledger that cannot be read says that nothing was spent.
    pub async fn of(plan: &Plan, ledger: &Ledger) -> Option<Self> {
        let caps = caps(&plan.budget);
        if !caps.any() {
            return None;
        }
        let today = today(ledger, Some(&plan.project)).await;
        Some(Self { caps, run: Account::default(), today })
    }

    /// Counts the job in, if it fits. `expected` is by its earlier runs.
    pub fn admit(
        &mut self,
        job: &PlannedJob,
        quote: &Quote,
        expected: Option<Dollars>,
    ) -> Result<(), Refusal> {
        if let Some(gpu) = &quote.unpriced {
            return Err(Refusal::Unpriced(gpu.to_string()));
        }
        let wanted = purse::ahead(expected, quote.per_hour, longest(job));
        let granted = self.caps.admit(self.run, self.today, wanted).map_err(Refusal::Exceeded)?;
        self.run = self.run.and_held(granted);
        self.today = self.today.and_held(granted);
        Ok(())
    }
}

/// How long a sandbox of the job may live.
fn longest(job: &PlannedJob) -> Duration {
    modal::lifetime(job.timeout, &job.spec)
}

/// What the job costs at least, should every attempt run until the server ends its sandbox; and for how long that is.
pub fn worst_case(job: &PlannedJob, limits: &BudgetLimits, per_hour: Dollars) -> (Duration, Dollars) {
    let most = purse::Purse::new(caps(limits), None).most(per_hour, job.spec.stop_timeout);
    let one = most.map_or(longest(job), |most| most.min(longest(job)));
    let kept = match job.warm {
        Some(Warm::Keep { max, .. }) if !job.spec.tty => max,
        _ => Duration::ZERO,
    };
    let time = one.saturating_mul(1 + job.retry.max).saturating_add(kept);
    (time, price(per_hour, time))
}

/// `today: ≥ $0.12 spent and $0.03 held on Modal, of $5.00 a day (budget.per_day)`; `None` where there is nothing to say.
pub fn standing(limits: &BudgetLimits, today: Account) -> Option<String> {
    let Account { spent, held } = today;
    if limits.per_day.is_none() && today.total() == Dollars(0) {
        return None;
    }
    let held = if held == Dollars(0) { String::new() } else { format!(" and {held} held for running jobs") };
    let of = limits.per_day.map(|limit| format!(", of {limit} a day (budget.per_day)")).unwrap_or_default();
    Some(format!("today on Modal: ≥ {spent} spent{held}{of}"))
}

/// What the project has spent and holds since midnight.
pub async fn today(ledger: &Ledger, project: Option<&str>) -> Account {
    let tagged = project.map(tag::value);
    ledger.today(tagged.as_deref()).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "the ledger cannot be read");
        Account::default()
    })
}
