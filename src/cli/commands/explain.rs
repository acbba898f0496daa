//! `accel explain`: every rule, every condition with the value seen, and the decision.

use serde::Serialize;

use crate::backend::CancelSource;
use crate::cli::Outcome;
use crate::cli::args::ExplainArgs;
use crate::cli::budget::{self, Guard};
use crate::cli::context::Context;
use crate::cli::printer::{Format, Printer, Style};
use crate::cli::project::Project;
use crate::cli::remote::ModalFacts;
use crate::cli::{routing, runtime};
use crate::domain::Place;
use crate::plan::Selection;
use crate::process::{Ownership, Supervisor};
use crate::route::{Decision, RuleOutcome, RuleReport};

pub fn run(args: &ExplainArgs, context: &Context<'_>) -> Outcome {
    let project = Project::open(context)?;
    let plan = project.plan(&Selection::of(args.jobs.clone()))?;
    let asked = plan.jobs.iter().filter(|job| plan.requested.contains(&job.id));
    let supervisor = Supervisor::new(Ownership::Process);
    let source = CancelSource::default();
    let caller = routing::caller(context.ambient, None)?;
    let folder = &project.folder;
    let gatherer = routing::gatherer(&plan, context.ambient, caller, &supervisor, source.watch(), folder);
    let prices = ModalFacts::new(&plan, context.ambient, context.ambient.directories(folder));
    let explained = runtime::runtime()?.block_on(async {
        let mut explained = Vec::new();
        let mut guard = Guard::of(&plan, &gatherer.ledger()).await;
        let standing = match guard {
            Some(_) => {
                budget::standing(&plan.budget, budget::today(&gatherer.ledger(), Some(&plan.project)).await)
            }
            None => None,
        };
        for job in asked {
            let decision = gatherer.explain(job).await;
            let quote = priced(&decision).then(|| prices.quote(&job.spec));
            let expected = gatherer.sandbox_time(job).await;
            let refusal = match (&mut guard, &quote) {
                (Some(guard), Some(quote)) if decision.place == Place::Modal => {
                    guard.admit(job, quote, expected.map(|time| quote.of(time))).err()
                }
                _ => None,
            };
            let budget = refusal.map(|refusal| refusal.consequence(job, plan.budget.on_exceed));
            explained.push(Explained {
                job: job.id.as_str(),
                decision,
                budget: budget.or_else(|| standing.clone().filter(|_| quote.is_some())),
                price: quote.map(|quote| format!("{quote} by prices of {}", quote.as_of)),
            });
        }
        explained
    });
    if context.printer.format == Format::Json {
        context.printer.json(&explained)?;
        return Ok(0);
    }
    let texts: Vec<String> = explained.iter().map(|one| text(one, &context.printer)).collect();
    context.printer.result(texts.join("\n"))?;
    Ok(0)
}

#[derive(Serialize)]
struct Explained<'a> {
    job: &'a str,
    #[serde(flatten)]
    decision: Decision,
    /// What a sandbox costs, where one may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<String>,
    /// What `[budget]` says about it: what is left, or that nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<String>,
}

/// Whether the job may come to run on Modal.
fn priced(decision: &Decision) -> bool {
    decision.place == Place::Modal || decision.rules.iter().any(|rule| rule.to != Place::Local.as_str())
}

fn text(explained: &Explained<'_>, printer: &Printer) -> String {
    let Explained { job, decision, price, budget } = explained;
    let mut text =
        format!("{} runs on {}: {}\n", printer.paint(Style::Name, job), places(decision), decision.reason);
    for rule in &decision.rules {
        text.push_str(&rule_text(rule, printer));
    }
    if !decision.rules.iter().any(|rule| rule.outcome == RuleOutcome::Decided) {
        let decides = printer.paint(Style::Good, "decides");
        text.push_str(&format!("  built-in rule → {}: {decides}\n", decision.place));
    }
    text.push_str(&expected_text(decision));
    if let Some(price) = price {
        text.push_str(&format!("  a sandbox costs {price}\n"));
    }
    if let Some(budget) = budget {
        text.push_str(&format!("  {budget}\n"));
    }
    text
}

fn places(decision: &Decision) -> String {
    match decision.rival {
        Some(rival) => format!("{} and {}", decision.place, rival.place),
        None => decision.place.to_string(),
    }
}

/// What earlier runs say about both places, term by term.
fn expected_text(decision: &Decision) -> String {
    match &decision.weighed {
        Some(weighed) => format!("  expected on {}\n  expected on {}\n", weighed.local, weighed.modal),
        None => "  no run of this job has passed yet, so what it takes is not known\n".to_owned(),
    }
}

fn rule_text(rule: &RuleReport, printer: &Printer) -> String {
    let outcome = match rule.outcome {
        RuleOutcome::Decided => printer.paint(Style::Good, "decides"),
        RuleOutcome::NoMatch => printer.paint(Style::Dim, "does not apply"),
        RuleOutcome::Overruled => printer.paint(Style::Dim, "would apply"),
    };
    let mut text = format!("  {} → {}: {outcome}\n", rule.origin, rule.to);
    for condition in &rule.conditions {
        let mark = if condition.holds { "true " } else { "false" };
        let (fact, test, seen) = (condition.fact, &condition.test, &condition.seen);
        text.push_str(&format!("    {mark}  {fact} {test} (is {seen})\n"));
    }
    text
}
