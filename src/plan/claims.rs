//! Outputs that two jobs of one plan both make: one would overwrite the other's.
//!
//! Two jobs that say the same output clash wherever they say it. What they have from one place (`extends`,
//! `[defaults]`, the combinations of a matrix) clashes only where it is one file: a glob may stand for different
//! files of each.

use std::collections::{BTreeSet, HashMap};

use crate::config::model::Config;
use crate::diag::{Diagnostic, Location};

use super::Purpose;
use super::select::Node;
use super::spec::PlannedJob;

/// Every clash, at the later job's outputs.
pub fn clashes(
    config: &Config,
    nodes: &[Node<'_>],
    jobs: &[PlannedJob],
    purpose: Purpose,
) -> Vec<Diagnostic> {
    let mut claimed: HashMap<&str, (usize, Option<Location>)> = HashMap::new();
    let mut found = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        let at = said_at(config, &nodes[index]);
        for output in job.spec.outputs.iter().flatten().filter(|output| !output.starts_with('!')) {
            let Some((first, first_at)) = claimed.get(output.as_str()).copied() else {
                claimed.insert(output, (index, at));
                continue;
            };
            let one_saying = at == first_at && is_glob(output);
            let apart = purpose == Purpose::Look && !meet(nodes, first, index);
            if first != index && !one_saying && !apart {
                found.push(clash(output, (&nodes[first], first_at), (&nodes[index], at)));
            }
        }
    }
    found
}

fn is_glob(output: &str) -> bool {
    output.contains(['*', '?', '[', '{'])
}

fn said_at(config: &Config, node: &Node<'_>) -> Option<Location> {
    let outputs = node.job.settings.outputs.as_ref().or(config.defaults.outputs.as_ref());
    outputs.and_then(|outputs| outputs.origin.location)
}

/// Whether one job runs both: it is one of them, needs them, or they are combinations of one matrix.
fn meet(nodes: &[Node<'_>], first: usize, second: usize) -> bool {
    nodes[first].job.name == nodes[second].job.name
        || !dependents(nodes, first).is_disjoint(&dependents(nodes, second))
}

/// A job and all that need it. Needs come before what needs them, so one pass suffices.
fn dependents(nodes: &[Node<'_>], of: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::from([of]);
    for (index, node) in nodes.iter().enumerate().skip(of + 1) {
        if node.needs.iter().any(|need| found.contains(need)) {
            found.insert(index);
        }
    }
    found
}

fn clash(
    output: &str,
    (first, first_at): (&Node<'_>, Option<Location>),
    (second, second_at): (&Node<'_>, Option<Location>),
) -> Diagnostic {
    let message = format!("jobs `{}` and `{}` both make `{output}`", first.id, second.id);
    let found = Diagnostic::error("duplicate", message).at(second_at);
    if first_at == second_at {
        let help = match second.values.first() {
            Some((axis, _)) => format!("put an axis into the path: \"${{matrix.{axis}}}/{output}\""),
            None => "give each job outputs of its own".to_owned(),
        };
        return found.help(help);
    }
    let found = match first_at {
        Some(at) => found.related(at, format!("`{}` makes it here", first.id)),
        None => found,
    };
    found.help("give each job outputs of its own: one would overwrite the other's")
}
