//! `accel ps`: what runs on Modal, and whose it is.

use std::time::Duration;

use crate::backend::modal::leases::{self, Holding};
use crate::backend::modal::sweep::Standing;
use crate::base::duration::ShortDuration;
use crate::cli::Outcome;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::held::Held;
use crate::cli::printer::{Format, Style};
use crate::cli::runtime;
use crate::event::now_ms;

pub fn run(context: &Context<'_>) -> Outcome {
    let held = Held::here(context)?;
    let runtime = runtime::runtime()?;
    let (holdings, doubt) = runtime.block_on(find(&held, context))?;
    held.mention_notices(&context.printer);
    if let Some(doubt) = doubt {
        context.printer.warning(&format!("only this machine's journal is shown: {}", doubt.summary()));
    }
    if context.printer.format == Format::Json {
        context.printer.json(&holdings)?;
        return Ok(0);
    }
    let (foreign, ours): (Vec<_>, Vec<_>) =
        holdings.iter().partition(|holding| holding.standing == Standing::Untagged);
    context.printer.result(table(&ours, context))?;
    if ours.is_empty() {
        context.printer.say("nothing of accel runs on Modal\n");
    }
    if ours.iter().any(|holding| holding.standing == Standing::Leftover) {
        context.printer.say("`accel prune` ends what dead accels left\n");
    }
    if !foreign.is_empty() {
        context.printer.say(format!("{} more sandboxes there are not accel's\n", foreign.len()));
    }
    Ok(0)
}

/// What is held, and why that may not be all of it.
async fn find(
    held: &Held,
    context: &Context<'_>,
) -> Result<(Vec<Holding>, Option<CommandError>), CommandError> {
    let doubt = match held.sweeper(context).await {
        Ok(sweeper) => match leases::everything(&sweeper).await {
            Ok(holdings) => return Ok((holdings, None)),
            Err(error) => error.into(),
        },
        Err(error) => error,
    };
    Ok((leases::journalled(&held.journal).await?, Some(doubt)))
}

fn table(holdings: &[&Holding], context: &Context<'_>) -> String {
    let now = now_ms();
    let widths = |cell: fn(&Holding) -> &str| {
        holdings.iter().map(|holding| cell(holding).chars().count()).max().unwrap_or_default()
    };
    let job = |holding: &Holding| holding.job.as_deref().unwrap_or("-").to_owned();
    let (job_width, sandbox_width) = (
        widths(|holding| holding.job.as_deref().unwrap_or("-")),
        widths(|holding| holding.sandbox.as_deref().unwrap_or("(not created yet)")),
    );
    let mut text = String::new();
    for holding in holdings {
        let run: String = holding.run.as_deref().unwrap_or("-").chars().take(8).collect();
        text.push_str(&format!(
            "{}  {}  {:sandbox_width$}  {run:8}  {:>7}  {}{}\n",
            context.printer.paint(Style::Name, &format!("{:job_width$}", job(holding))),
            holding.place,
            holding.sandbox.as_deref().unwrap_or("(not created yet)"),
            age(holding.started_at_ms, now),
            expiry(holding.expires_at_ms, now),
            remark(holding),
        ));
    }
    text
}

fn age(started_at_ms: u64, now: u64) -> String {
    ShortDuration(Duration::from_millis(now.saturating_sub(started_at_ms))).to_string()
}

fn expiry(expires_at_ms: Option<u64>, now: u64) -> String {
    match expires_at_ms {
        None => "no end known".to_owned(),
        Some(at) if at <= now => "overdue".to_owned(),
        Some(at) => format!("ends in {}", ShortDuration(Duration::from_millis(at - now))),
    }
}

fn remark(holding: &Holding) -> String {
    match holding.standing {
        Standing::InUse | Standing::Untagged => String::new(),
        Standing::Warm => " unless a run comes, kept warm".to_owned(),
        Standing::Leftover => ", its accel died".to_owned(),
        Standing::NotInJournal => ", not in this machine's journal".to_owned(),
        Standing::Elsewhere => ", of another machine".to_owned(),
    }
}
