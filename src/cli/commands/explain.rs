//! `accel explain`: every rule, every condition with the value seen, and the decision.

use serde::Serialize;

use crate::backend::CancelSource;
use crate::cli::Outcome;
use crate::cli::args::ExplainArgs;
use crate::cli::context::Context;
use crate::cli::printer::{Format, Printer, Style};
use crate::cli::project::Project;
use crate::cli::{execution, routing};
use crate::plan::Selection;
use crate::process::{Ownership, Supervisor};
use crate::route::{Decision, RuleOutcome, RuleReport};

pub fn run(args: &ExplainArgs, context: &Context<'_>) -> Outcome {
    let project = Project::open(context)?;
    let plan = project.plan(&Selection::of(args.jobs.clone()))?;
    let asked = plan.jobs.iter().filter(|job| plan.requested.contains(&job.id));
    let supervisor = Supervisor::new(Ownership::Process);
    let source = CancelSource::default();
    let gatherer = routing::gatherer(&plan, context.ambient, &supervisor, source.watch())?;
    let explained = execution::runtime()?.block_on(async {
        let mut explained = Vec::new();
        for job in asked {
            explained.push(Explained { job: job.id.as_str(), decision: gatherer.explain(job).await });
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
}

fn text(explained: &Explained<'_>, printer: &Printer) -> String {
    let Explained { job, decision } = explained;
    let mut text =
        format!("{} runs on {}: {}\n", printer.paint(Style::Name, job), decision.place, decision.reason);
    for rule in &decision.rules {
        text.push_str(&rule_text(rule, printer));
    }
    text
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
        text.push_str(&format!(
            "    {mark}  {} {} (is {})\n",
            condition.fact, condition.test, condition.seen
        ));
    }
    text
}
