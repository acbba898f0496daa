//! `accel history`: what earlier runs took, and where.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::base::duration::ShortDuration;
use crate::base::money::Dollars;
use crate::base::size::Bytes;
use crate::cli::Outcome;
use crate::cli::args::HistoryArgs;
use crate::cli::budget;
use crate::cli::context::Context;
use crate::cli::held::Held;
use crate::cli::printer::{Format, Style};
use crate::cli::runtime::runtime;
use crate::domain::Place;
use crate::event::now_ms;
use crate::plan::spec::BudgetLimits;
use crate::store::history::{Ending, Entry, Filter, KEPT, milliseconds, percentile};
use crate::store::ledger::Account;

/// Version of the `--json` document.
const VERSION: u32 = 1;

pub fn run(args: &HistoryArgs, context: &Context<'_>) -> Outcome {
    let held = Held::here(context)?;
    let project = held.project.clone().filter(|_| !args.all);
    let filter = Filter { project: project.clone(), job: args.job.clone(), limit: KEPT };
    let entries = held.history.entries(&filter)?;
    held.mention_notices(&context.printer);
    let today = runtime()?.block_on(budget::today(&held.ledger, project.as_deref()));
    let usual = usual(&entries);
    let shown = &entries[..entries.len().min(args.limit)];
    if context.printer.format == Format::Json {
        context.printer.json(&Document { version: VERSION, runs: shown, usual: &usual, today })?;
        return Ok(0);
    }
    if entries.is_empty() {
        let of = args.job.as_deref().map(|job| format!(" of `{job}`")).unwrap_or_default();
        context.printer.say(format!("no run{of} is recorded yet\n"));
        return Ok(0);
    }
    let mut text = table(&rows_of_runs(shown, now_ms()), context);
    text.push('\n');
    text.push_str(&table(&rows_of_usual(&usual), context));
    // The budget of one project says nothing about all of them.
    let limits = if args.all { BudgetLimits::default() } else { held.limits };
    if let Some(standing) = budget::standing(&limits, today) {
        text.push_str(&format!("\n{standing}\n"));
    }
    context.printer.result(text)?;
    Ok(0)
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    /// Newest first.
    runs: &'a [Entry],
    usual: &'a [Usual],
    /// On Modal, since midnight, by all jobs; at least.
    today: Account,
}

/// What the runs of a job in one place have in common.
#[derive(Debug, PartialEq, Serialize)]
struct Usual {
    project: String,
    job: String,
    place: Place,
    runs: usize,
    passed: usize,
    /// Of the command alone, over runs that passed.
    p50_ms: Option<u64>,
    p90_ms: Option<u64>,
    /// Of everything around it too.
    total_p50_ms: Option<u64>,
    /// Of all runs together, at least.
    cost_microdollars: Dollars,
}

/// By project, job and place.
fn usual(entries: &[Entry]) -> Vec<Usual> {
    let mut groups: BTreeMap<(&str, &str, Place), Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        groups.entry((&entry.project, entry.job.as_str(), entry.place)).or_default().push(entry);
    }
    groups.into_iter().map(|((project, job, place), of)| of_group(project, job, place, &of)).collect()
}

fn of_group(project: &str, job: &str, place: Place, entries: &[&Entry]) -> Usual {
    let passed: Vec<&&Entry> = entries.iter().filter(|entry| entry.ended == Ending::Passed).collect();
    let commands: Vec<Duration> =
        passed.iter().map(|entry| Duration::from_millis(entry.phases.run_ms)).collect();
    let totals: Vec<Duration> = passed.iter().map(|entry| entry.phases.total()).collect();
    let at = |values: &[Duration], percent| percentile(values, percent).map(milliseconds);
    Usual {
        project: project.to_owned(),
        job: job.to_owned(),
        place,
        runs: entries.len(),
        passed: passed.len(),
        p50_ms: at(&commands, 50),
        p90_ms: at(&commands, 90),
        total_p50_ms: at(&totals, 50),
        cost_microdollars: Dollars(entries.iter().filter_map(|entry| entry.cost).map(|cost| cost.0).sum()),
    }
}

type Row = Vec<String>;

fn rows_of_runs(entries: &[Entry], now: u64) -> Vec<Row> {
    let mut rows = vec![row(["when", "job", "place", "ended", "took", "of which", "sent", "cost", "run"])];
    rows.extend(entries.iter().map(|entry| {
        let ago = Duration::from_millis(now.saturating_sub(entry.started_at_ms));
        let parts: Vec<String> =
            entry.phases.named().map(|(name, took)| format!("{name} {}", ShortDuration(took))).collect();
        // One part is all of it.
        let parts = if parts.len() > 1 { parts.join(", ") } else { String::new() };
        row([
            &format!("{} ago", coarse(ago)),
            entry.job.as_str(),
            entry.place.as_str(),
            &ended(entry),
            &ShortDuration(entry.phases.total()).to_string(),
            &parts,
            &if entry.bytes_sent > 0 { Bytes(entry.bytes_sent).to_string() } else { String::new() },
            &entry.cost.map(|cost| format!("≥ {cost}")).unwrap_or_default(),
            &entry.run.chars().take(8).collect::<String>(),
        ])
    }));
    rows
}

fn ended(entry: &Entry) -> String {
    match (entry.ended, entry.cause) {
        (Ending::Errored, Some(cause)) => cause.as_str().to_owned(),
        (Ending::Lost, _) => "lost the race".to_owned(),
        (ended, _) => ended.as_str().replace('_', " "),
    }
}

/// `12s`, `5m`, `3h`, `9d`: how long ago something was.
fn coarse(ago: Duration) -> String {
    let seconds = ago.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn rows_of_usual(usual: &[Usual]) -> Vec<Row> {
    let several = usual.iter().any(|one| one.project != usual[0].project);
    let mut rows = vec![row(["job", "place", "runs", "passed", "p50", "p90", "with all", "cost"])];
    let time = |ms: Option<u64>| {
        ms.map_or_else(|| "-".to_owned(), |ms| ShortDuration(Duration::from_millis(ms)).to_string())
    };
    rows.extend(usual.iter().map(|one| {
        let job = if several { format!("{} {}", one.project, one.job) } else { one.job.clone() };
        let cost = one.cost_microdollars;
        row([
            &job,
            one.place.as_str(),
            &one.runs.to_string(),
            &one.passed.to_string(),
            &time(one.p50_ms),
            &time(one.p90_ms),
            &time(one.total_p50_ms),
            &if cost == Dollars(0) { String::new() } else { format!("≥ {cost}") },
        ])
    }));
    rows
}

fn row<const N: usize>(cells: [&str; N]) -> Row {
    cells.map(str::to_owned).to_vec()
}

/// Columns that are empty in every row are left out; the first row is the heading.
fn table(rows: &[Row], context: &Context<'_>) -> String {
    let columns: Vec<usize> =
        (0..rows[0].len()).filter(|at| rows[1..].iter().any(|row| !row[*at].is_empty())).collect();
    let width = |at: &usize| rows.iter().map(|row| row[*at].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = columns.iter().map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = columns.iter().zip(&widths).map(|(at, width)| format!("{:width$}", row[*at]));
        let line = cells.collect::<Vec<_>>().join("  ");
        let style = if number == 0 { Style::Dim } else { Style::Plain };
        text.push_str(&context.printer.paint(style, line.trim_end()));
        text.push('\n');
    }
    text
}
