//! Circles in graphs of names.

use std::collections::HashMap;

use crate::config::codes;
use crate::diag::{Diagnostic, Location};

/// Edges of each name: the name it points to, and where that is written.
pub type Graph<'a> = HashMap<&'a str, Vec<(&'a str, Option<Location>)>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Open,
    Done,
}

/// Every circle that a walk in `order` closes, as its edges in turn.
pub fn find<'a>(
    order: impl Iterator<Item = &'a str>,
    graph: &Graph<'a>,
) -> Vec<Vec<(&'a str, Option<Location>)>> {
    let mut marks: HashMap<&str, Mark> = HashMap::new();
    let mut circles = Vec::new();
    for start in order {
        if marks.contains_key(start) {
            continue;
        }
        // Each step of the path: a name, and how many of its edges were followed.
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        marks.insert(start, Mark::Open);
        while let Some((name, followed)) = path.last_mut() {
            let Some((target, _)) = graph.get(*name).and_then(|edges| edges.get(*followed)) else {
                marks.insert(name, Mark::Done);
                path.pop();
                continue;
            };
            *followed += 1;
            match marks.get(target) {
                None => {
                    marks.insert(target, Mark::Open);
                    path.push((target, 0));
                }
                Some(Mark::Open) => circles.push(closed(&path, target, graph)),
                Some(Mark::Done) => {}
            }
        }
    }
    circles
}

fn closed<'a>(
    path: &[(&'a str, usize)],
    target: &str,
    graph: &Graph<'a>,
) -> Vec<(&'a str, Option<Location>)> {
    let from = path.iter().position(|(name, _)| *name == target).unwrap_or(0);
    path[from..]
        .iter()
        .filter_map(|(name, followed)| {
            let (_, location) = graph.get(name)?.get(followed.checked_sub(1)?)?;
            Some((*name, *location))
        })
        .collect()
}

/// `a → b → a`, with every edge shown.
/// `verb` for one and for several: `needs`, `need`.
pub fn diagnostic(
    circle: &[(&str, Option<Location>)],
    kind: &str,
    (verb, plural): (&str, &str),
    help: &str,
) -> Diagnostic {
    let mut names: Vec<&str> = circle.iter().map(|(name, _)| *name).collect();
    names.extend(circle.first().map(|(name, _)| *name));
    let message = match circle {
        [(name, _)] => format!("{kind} `{name}` {verb} itself"),
        _ => format!("{kind}s {plural} each other in a circle: {}", names.join(" → ")),
    };
    let mut found = Diagnostic::error(codes::CYCLE, message).help(help);
    for (at, (name, location)) in circle.iter().enumerate() {
        let next = names[at + 1];
        let label = format!("`{name}` {verb} `{next}`");
        match location {
            Some(location) if found.location.is_none() => found = found.at(*location).label(label),
            Some(location) => found = found.related(*location, label),
            None => {}
        }
    }
    found
}
