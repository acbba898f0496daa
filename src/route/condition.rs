//! One condition of a rule: a fact, what was seen, and whether the test holds.

use std::fmt;

use globset::GlobBuilder;
use indexmap::IndexMap;
use serde::Serialize;

use crate::config::model::{Condition, Fact, FactTest};
use crate::plan::spec::PlannedJob;

use super::facts::{FactValue, Facts};

/// A condition as it was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConditionReport {
    pub fact: &'static str,
    /// As accel.toml says it: `<=3`, `docs/** or *.md`.
    pub test: String,
    pub seen: FactValue,
    pub holds: bool,
    /// Why the fact is not known; the condition is then false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// Why the fact is false, where that has a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `changed_files 2 is <=3`, `changed_files 5 is not <=3`, `p50 is unknown: no history`.
impl fmt::Display for ConditionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.unknown {
            return write!(f, "{} is unknown: {why}", self.fact);
        }
        if let Some(why) = &self.why {
            let word = if self.holds { "is" } else { "is not" };
            return write!(f, "{} {word} {}: {why}", self.fact, self.test);
        }
        let word = if self.holds { "is" } else { "is not" };
        write!(f, "{} {} {word} {}", self.fact, self.seen, self.test)
    }
}

/// The facts of the world with those of the job itself before them.
pub struct JobFacts<'a> {
    pub job: &'a PlannedJob,
    pub facts: &'a dyn Facts,
}

impl JobFacts<'_> {
    fn get(&self, fact: Fact) -> FactValue {
        match fact {
            Fact::Labels => FactValue::Texts(self.job.labels.clone()),
            Fact::Gpu => {
                let gpus = self.job.spec.gpu.iter();
                FactValue::Texts(gpus.map(|choice| choice.gpu.to_string()).collect())
            }
            _ => self.facts.get(fact),
        }
    }
}

/// The tests of one fact are alternatives.
pub fn evaluate(condition: &Condition, facts: &JobFacts<'_>) -> ConditionReport {
    let fact = condition.fact.as_str();
    let test = condition.tests.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    if condition.fact == Fact::Env {
        return variables(condition, facts.facts, test);
    }
    let seen = facts.get(condition.fact);
    let unknown = match &seen {
        FactValue::Unknown(why) => Some(why.clone()),
        _ => None,
    };
    let why = match &seen {
        FactValue::IsNot(why) => Some(why.clone()),
        _ => None,
    };
    let holds = unknown.is_none() && any(&condition.tests, &seen);
    ConditionReport { fact, test, seen, holds, unknown, why }
}

/// Texts that are wanted are alternatives; texts that are not (`!glob`) must all be absent.
fn any(tests: &[FactTest], seen: &FactValue) -> bool {
    let (refusals, wishes): (Vec<&FactTest>, Vec<&FactTest>) =
        tests.iter().partition(|test| matches!(test, FactTest::Glob(glob) if glob.starts_with('!')));
    refusals.iter().all(|test| holds(test, seen))
        && (wishes.is_empty() || wishes.iter().any(|test| holds(test, seen)))
}

fn holds(test: &FactTest, seen: &FactValue) -> bool {
    match (test, seen) {
        (FactTest::Is(expected), FactValue::Is(seen)) => seen == expected,
        (FactTest::Is(expected), FactValue::IsNot(_)) => !expected,
        // `changed = true`, `gpu = false`: whether there is any at all.
        (FactTest::Is(expected), FactValue::Texts(texts)) => texts.is_empty() != *expected,
        (FactTest::Count(operator, bound), FactValue::Count(seen)) => operator.holds(seen, bound),
        (FactTest::Count(operator, bound), FactValue::Texts(texts)) => {
            operator.holds(&(texts.len() as f64), bound)
        }
        (FactTest::Size(operator, bound), FactValue::Size(seen)) => operator.holds(seen, bound),
        (FactTest::Duration(operator, bound), FactValue::Duration(seen)) => operator.holds(seen, bound),
        (FactTest::Money(operator, bound), FactValue::Money(seen)) => operator.holds(seen, bound),
        (FactTest::Glob(glob), FactValue::Text(text)) => glob_holds(glob, std::slice::from_ref(text)),
        (FactTest::Glob(glob), FactValue::Texts(texts)) => glob_holds(glob, texts),
        // The checked configuration pairs facts with tests of their kind.
        _ => false,
    }
}

fn glob_holds(glob: &str, texts: &[String]) -> bool {
    match glob.strip_prefix('!') {
        Some(refused) => !texts.iter().any(|text| glob_matches(refused, text)),
        None => texts.iter().any(|text| glob_matches(glob, text)),
    }
}

fn glob_matches(glob: &str, text: &str) -> bool {
    // `*` stays within a folder, as in every other glob over paths; `feat/*` is one branch, `feat/**` many.
    let glob = GlobBuilder::new(glob).literal_separator(true).case_insensitive(false).build();
    glob.is_ok_and(|glob| glob.compile_matcher().is_match(text))
}

/// `env = { CI = "1", TIER = ["a", "b"] }`: every named variable must pass, by one of its globs.
fn variables(condition: &Condition, facts: &dyn Facts, test: String) -> ConditionReport {
    let mut passed: IndexMap<&str, bool> = IndexMap::new();
    let mut seen = Vec::new();
    for test in &condition.tests {
        let FactTest::Variable { name, glob } = test else { continue };
        let value = facts.variable(name);
        if !passed.contains_key(name.as_str()) {
            // Names and whether they are set, never values: those may be secret.
            seen.push(format!("{name} {}", if value.is_some() { "set" } else { "not set" }));
        }
        *passed.entry(name).or_default() |= variable_holds(value, glob.as_deref());
    }
    let holds = passed.values().all(|passed| *passed);
    let seen = FactValue::Texts(seen);
    ConditionReport { fact: condition.fact.as_str(), test, seen, holds, unknown: None, why: None }
}

fn variable_holds(value: Option<String>, glob: Option<&str>) -> bool {
    match (value, glob) {
        (None, glob) => glob.is_some_and(|glob| glob.starts_with('!')),
        (Some(_), None) => true,
        (Some(value), Some(glob)) => glob_holds(glob, &[value]),
    }
}
