//! `accel stop`: ends runs on Modal by run, sandbox, lease or job.

use crate::backend::modal::leases::{self, Stopped};
use crate::backend::modal::sweep::{Standing, Sweeper};
use crate::cli::Outcome;
use crate::cli::args::StopArgs;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::held::Held;
use crate::cli::runtime;
use crate::store::journal::{Entry, LeaseState};

pub fn run(args: &StopArgs, context: &Context<'_>) -> Outcome {
    let held = Held::here(context)?;
    runtime::runtime()?.block_on(async {
        let mut targets = Vec::new();
        for target in &args.targets {
            targets.push((target, leases_of(target, &held).await?));
        }
        held.mention_notices(&context.printer);
        let sweeper = held.sweeper(context).await?;
        for (target, entries) in targets {
            if entries.is_empty() {
                stop_unknown(target, args, &sweeper, context).await?;
            }
            for entry in entries {
                let stopped = leases::stop(&sweeper, &entry).await?;
                context.printer.result(format!("{}\n", outcome(&entry, stopped)))?;
            }
        }
        Ok(0)
    })
}

/// A job's name means the job of this project, as everywhere.
async fn leases_of(target: &str, held: &Held) -> Result<Vec<Entry>, CommandError> {
    let mut entries = held.journal.find(target).await?;
    entries.retain(|entry| entry.state != LeaseState::Settled);
    let by_name = |entry: &Entry| entry.job == target && entry.run != target;
    match &held.project {
        Some(project) => entries.retain(|entry| !by_name(entry) || entry.project == *project),
        None if entries.iter().any(by_name) => {
            return Err(CommandError::usage(format!("`{target}` is a job, and there is no accel.toml here"))
                .help("name the run or the sandbox: see `accel ps`"));
        }
        None => {}
    }
    Ok(entries)
}

fn outcome(entry: &Entry, stopped: Stopped) -> String {
    let sandbox = entry.sandbox.as_deref().unwrap_or("-");
    match stopped {
        Stopped::Ended => format!("stopped {} ({sandbox})", entry.job),
        Stopped::WasGone => format!("{} had ended already ({sandbox})", entry.job),
        Stopped::NotCreatedYet => {
            format!(
                "{} has no sandbox yet: stop its accel (pid {}), or `accel prune` if that died",
                entry.job, entry.pid
            )
        }
    }
}

/// What the journal does not know is ended by its full id only, and only when that was insisted on.
async fn stop_unknown(
    target: &str,
    args: &StopArgs,
    sweeper: &Sweeper,
    context: &Context<'_>,
) -> Result<(), CommandError> {
    let listed = sweeper.sandboxes.list(&sweeper.environment, &[]).await?;
    let Some(found) = listed.into_iter().find(|listed| listed.sandbox == target) else {
        return Err(CommandError::usage(format!("nothing that runs on Modal is called `{target}`"))
            .help("`accel ps` shows what does"));
    };
    let whose = match sweeper.standing(&found).await? {
        Standing::Untagged => Some("was not made by accel"),
        Standing::Elsewhere => Some("belongs to another machine"),
        Standing::NotInJournal => Some("is not in this machine's journal"),
        Standing::InUse | Standing::Warm | Standing::Leftover => None,
    };
    if let (Some(whose), false) = (whose, args.force) {
        return Err(CommandError::usage(format!("sandbox {target} {whose}")).help("--force ends it anyway"));
    }
    leases::end(sweeper, target).await?;
    context.printer.result(format!("stopped {target}\n"))?;
    Ok(())
}
