//! `accel prune`: ends what dead accels left on Modal and what is kept warm there, and forgets what is old.

use std::time::Duration;

use serde::Serialize;

use crate::backend::modal::leases;
use crate::backend::modal::sweep::{Look, SweepMode, Swept};
use crate::cli::Outcome;
use crate::cli::args::PruneArgs;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::held::Held;
use crate::cli::printer::Format;
use crate::cli::runtime;
use crate::event::now_ms;
use crate::store::history::KEPT_FOR;
use crate::store::remembered::{Forgetting, forget_unused};

/// How long logs are kept unless another time is named.
const LOGS: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// How long an id is remembered that no run was given again.
const IDS: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long settled leases are kept: late sandboxes are told by them.
const LEASES: Duration = Duration::from_secs(35 * 24 * 60 * 60);

#[derive(Debug, Default, Serialize)]
struct Pruned {
    dry_run: bool,
    /// Sandboxes that were ended, or would be.
    sandboxes: Vec<String>,
    /// Sandboxes that could not be ended.
    failed: Vec<String>,
    logs: usize,
    ids: usize,
    /// Recorded runs.
    runs: usize,
}

pub fn run(args: &PruneArgs, context: &Context<'_>) -> Outcome {
    let held = Held::here(context)?;
    let mut pruned = Pruned { dry_run: args.dry_run, ..Pruned::default() };
    let swept = runtime::runtime()?.block_on(prune(args, &held, &mut pruned, context));
    held.mention_notices(&context.printer);
    if context.printer.format == Format::Json {
        context.printer.json(&pruned)?;
    } else {
        context.printer.result(pruned.text())?;
    }
    let swept = swept?;
    for (leftover, error) in &swept.failed {
        let sandbox = leftover.sandbox.as_deref().unwrap_or("-");
        context.printer.error(&format!("cannot end {sandbox}: {error}"), &[]);
    }
    Ok(if swept.failed.is_empty() { 0 } else { crate::base::exit_code::ACCEL_FAILED })
}

/// Local things first: they need no account.
async fn prune(
    args: &PruneArgs,
    held: &Held,
    pruned: &mut Pruned,
    context: &Context<'_>,
) -> Result<Swept, CommandError> {
    let before = |age: Duration| now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let old = held.runs.older_than(before(args.older_than.unwrap_or(LOGS)))?;
    pruned.logs = old.len();
    let database = held.journal.database();
    let forgetting = if args.dry_run { Forgetting::Count } else { Forgetting::Remove };
    pruned.ids = forget_unused(database, before(IDS), forgetting).await?;
    if !args.dry_run {
        old.iter().try_for_each(|job| held.runs.forget(job))?;
        held.history.fold()?;
        pruned.runs = held.history.prune(KEPT_FOR)?;
        held.journal.forget_settled(before(LEASES)).await?;
        held.journal.remove_dead_owners().await?;
    }
    let sweeper = match held.sweeper(context).await {
        Ok(sweeper) => sweeper,
        // Without an account there is nothing on Modal, unless the journal says so.
        Err(_) if held.journal.unsettled().await?.is_empty() => return Ok(Swept::default()),
        Err(error) => return Err(error),
    };
    for entry in leases::warm(&sweeper).await? {
        if args.dry_run || leases::end_warm(&sweeper, &entry).await?.is_some() {
            pruned.sandboxes.extend(entry.sandbox);
        }
    }
    let mode = if args.dry_run { SweepMode::Report } else { SweepMode::End };
    let swept = sweeper.sweep(Look::Always, mode).await?;
    let names = |leftover: &crate::backend::modal::sweep::Leftover| leftover.sandbox.clone();
    pruned.sandboxes.extend(swept.ended.iter().filter_map(names));
    pruned.failed = swept.failed.iter().filter_map(|(leftover, _)| names(leftover)).collect();
    Ok(swept)
}

impl Pruned {
    fn text(&self) -> String {
        let would = if self.dry_run { "would " } else { "" };
        let mut text: String = self
            .sandboxes
            .iter()
            .map(|sandbox| format!("{would}end{} {sandbox}\n", if self.dry_run { "" } else { "ed" }))
            .collect();
        let removed = if self.dry_run { "would remove" } else { "removed" };
        for (count, what) in [(self.logs, "log"), (self.ids, "remembered id"), (self.runs, "recorded run")] {
            if count > 0 {
                text.push_str(&format!("{removed} {count} {what}{}\n", if count == 1 { "" } else { "s" }));
            }
        }
        if text.is_empty() { "nothing to prune\n".to_owned() } else { text }
    }
}
