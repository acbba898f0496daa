//! Rules: every rule can fire, and decides something when it does.

use std::collections::HashSet;

use globset::Glob;
use indexmap::IndexMap;

use super::{Checker, place};
use crate::base::compare::Operator;
use crate::config::codes;
use crate::config::grammar::{Placed, RouteValue, RuleKeys, SharedRouteKeys, smallest};
use crate::config::model::{Condition, Fact, FactTest, Job, Route, Rule, RuleTarget, SharedRule, Valued};
use crate::diag::{Diagnostic, Location};

impl Checker {
    pub(super) fn route(&mut self, route: Valued<RouteValue>) -> Valued<Route> {
        let location = place(&route);
        let value = match route.value {
            RouteValue::Target(RuleTarget::Place(place)) => Route::To(place),
            RouteValue::Target(RuleTarget::Auto) => Route::Auto,
            RouteValue::Target(RuleTarget::Race) => Route::Race,
            RouteValue::Rules(rules) => {
                if rules.is_empty() {
                    self.report(
                        Diagnostic::error(codes::NEVER_FIRES, "a route without a rule decides nothing")
                            .at(location)
                            .help("write a place: route = \"local\", or leave `route` out"),
                    );
                }
                let rules: Vec<Rule> = rules.into_iter().filter_map(|(keys, at)| rule(keys, at)).collect();
                self.can_fire(&rules);
                Route::Rules(rules)
            }
        };
        Valued { value, origin: route.origin }
    }

    pub(super) fn shared_routes(
        &mut self,
        entries: Vec<Placed<SharedRouteKeys>>,
        jobs: &IndexMap<String, Job>,
    ) -> Vec<SharedRule> {
        let labels: HashSet<&str> = jobs
            .values()
            .flat_map(|job| job.settings.labels.iter().flat_map(|labels| &labels.value))
            .map(String::as_str)
            .collect();
        let mut shared: Vec<SharedRule> = Vec::new();
        for Placed { value: entry, location: at } in entries {
            let jobs_at = entry.jobs.as_ref().and_then(|jobs| place(jobs));
            let labels_at = entry.labels.as_ref().and_then(|labels| place(labels));
            let globs: Vec<String> = entry
                .jobs
                .map(|list| list.value.into_iter().map(|glob| glob.0).collect())
                .unwrap_or_default();
            let wanted: Vec<String> = entry
                .labels
                .map(|list| list.value.into_iter().map(|label| label.0).collect())
                .unwrap_or_default();
            if !globs.is_empty() && !globs.iter().any(|glob| matches_some(glob, jobs)) {
                self.selects_nothing(format!("no job is called {}", quoted(&globs)), jobs_at);
            } else if !wanted.is_empty() && !wanted.iter().any(|label| labels.contains(label.as_str())) {
                self.selects_nothing(format!("no job has the label {}", quoted(&wanted)), labels_at);
            }
            let keys = RuleKeys { when: entry.when, to: entry.to };
            if keys.to.is_none() {
                self.report(
                    Diagnostic::error(codes::MISSING_KEY, "a [[route]] entry without `to`")
                        .at(at)
                        .help("add `to = \"local\"` or `to = \"modal\"`"),
                );
            }
            shared.extend(rule(keys, at).map(|rule| SharedRule { jobs: globs, labels: wanted, rule }));
        }
        self.shared_can_fire(&shared);
        shared
    }

    fn selects_nothing(&mut self, message: String, at: Option<Location>) {
        self.report(
            Diagnostic::error(codes::NEVER_FIRES, message)
                .at(at)
                .label("this rule can never fire")
                .help("name a job or label of this file, or remove the rule"),
        );
    }

    fn shared_can_fire(&mut self, rules: &[SharedRule]) {
        for (at, shared) in rules.iter().enumerate() {
            self.conditions_can_hold(&shared.rule);
            let covers = |earlier: &&SharedRule| {
                let same = earlier.jobs == shared.jobs && earlier.labels == shared.labels;
                let all = earlier.jobs.is_empty() && earlier.labels.is_empty();
                (same || all) && implies(&shared.rule, &earlier.rule)
            };
            if let Some(earlier) = rules[..at].iter().find(covers) {
                self.shadowed(&shared.rule, &earlier.rule);
            }
        }
    }

    fn can_fire(&mut self, rules: &[Rule]) {
        for (at, rule) in rules.iter().enumerate() {
            self.conditions_can_hold(rule);
            if let Some(earlier) = rules[..at].iter().find(|earlier| implies(rule, earlier)) {
                self.shadowed(rule, earlier);
            }
        }
    }

    fn shadowed(&mut self, rule: &Rule, earlier: &Rule) {
        let (label, help) = match earlier.when.is_empty() {
            true => ("this one always holds", "put the rule without `when` last"),
            false => ("this one holds whenever the later does", "put the narrower rule first, or remove it"),
        };
        self.report(
            Diagnostic::error(codes::NEVER_FIRES, "this rule can never fire")
                .at(rule.location)
                .label("an earlier rule always decides first")
                .related(earlier.location, label)
                .help(help),
        );
    }

    fn conditions_can_hold(&mut self, rule: &Rule) {
        for condition in &rule.when {
            if condition
                .tests
                .iter()
                .all(|test| interval(condition.fact, test).is_some_and(|range| range.is_empty()))
            {
                let name = condition.fact.as_str();
                let lowest = smallest(condition.fact);
                self.report(
                    Diagnostic::error(codes::NEVER_FIRES, format!("`{name}` can never be that"))
                        .at(condition.location)
                        .label(format!("`{name}` is never below {lowest}"))
                        .help("change the comparison, or remove the rule"),
                );
            }
        }
        let bound = |fact: Fact| rule.when.iter().find(|condition| condition.fact == fact);
        if let (Some(p50), Some(p90)) = (bound(Fact::P50), bound(Fact::P90)) {
            let least = |condition: &Condition| {
                ranges(condition).map(|range| range.low).fold(f64::INFINITY, f64::min)
            };
            let most = |condition: &Condition| ranges(condition).map(|range| range.high).fold(0.0, f64::max);
            if least(p50) >= most(p90) {
                self.exclude_each_other(p50, p90, "`p90` is never below `p50`");
            }
        }
        self.ci_and_caller(rule);
    }

    fn ci_and_caller(&mut self, rule: &Rule) {
        let ci = rule.when.iter().find(|condition| condition.fact == Fact::Ci);
        let caller = rule.when.iter().find(|condition| condition.fact == Fact::Caller);
        let (Some(ci), Some(caller)) = (ci, caller) else { return };
        let asks_for_ci = caller.tests == [FactTest::Glob("ci".to_owned())];
        if asks_for_ci && ci.tests == [FactTest::Is(false)] {
            self.exclude_each_other(ci, caller, "the caller is `ci` only in CI");
        }
    }

    fn exclude_each_other(&mut self, one: &Condition, other: &Condition, why: &str) {
        self.report(
            Diagnostic::error(codes::NEVER_FIRES, "these two conditions exclude each other")
                .at(one.location)
                .related(other.location, why)
                .help("change one of them, or remove the rule"),
        );
    }
}

fn rule(keys: RuleKeys, location: Location) -> Option<Rule> {
    let when = keys.when.map(|when| when.value.0).unwrap_or_default();
    Some(Rule { when, to: keys.to?.value, location })
}

fn matches_some(glob: &str, jobs: &IndexMap<String, Job>) -> bool {
    jobs.contains_key(glob)
        || Glob::new(glob).is_ok_and(|glob| {
            let matcher = glob.compile_matcher();
            jobs.keys().any(|name| matcher.is_match(name))
        })
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}

/// Whether `earlier` holds whenever `later` does.
fn implies(later: &Rule, earlier: &Rule) -> bool {
    earlier.when.iter().all(|wide| {
        later.when.iter().any(|narrow| {
            narrow.fact == wide.fact
                && narrow
                    .tests
                    .iter()
                    .all(|test| wide.tests.iter().any(|other| covers(wide.fact, other, test)))
        })
    })
}

fn covers(fact: Fact, wide: &FactTest, narrow: &FactTest) -> bool {
    if wide == narrow {
        return true;
    }
    match (interval(fact, wide), interval(fact, narrow)) {
        (Some(wide), Some(narrow)) => wide.contains(&narrow),
        _ => false,
    }
}

/// The values that a comparison lets through.
#[derive(Debug, Clone, Copy)]
struct Interval {
    low: f64,
    low_open: bool,
    high: f64,
    high_open: bool,
}

impl Interval {
    fn is_empty(&self) -> bool {
        self.low > self.high || (self.low == self.high && (self.low_open || self.high_open))
    }

    fn contains(&self, other: &Self) -> bool {
        let low = self.low < other.low || (self.low == other.low && (!self.low_open || other.low_open));
        let high =
            self.high > other.high || (self.high == other.high && (!self.high_open || other.high_open));
        low && high
    }
}

fn ranges(condition: &Condition) -> impl Iterator<Item = Interval> {
    condition.tests.iter().filter_map(|test| interval(condition.fact, test))
}

/// `None` for tests that compare no numbers.
fn interval(fact: Fact, test: &FactTest) -> Option<Interval> {
    let (operator, bound) = match test {
        FactTest::Count(operator, bound) => (*operator, *bound),
        FactTest::Size(operator, bound) => (*operator, bound.0 as f64),
        FactTest::Duration(operator, bound) => (*operator, bound.as_secs_f64()),
        FactTest::Money(operator, bound) => (*operator, bound.0 as f64),
        FactTest::Is(_) | FactTest::Glob(_) | FactTest::Variable { .. } => return None,
    };
    let all =
        Interval { low: f64::from(smallest(fact)), low_open: false, high: f64::INFINITY, high_open: false };
    let above = |open| match bound < all.low {
        true => all,
        false => Interval { low: bound, low_open: open, ..all },
    };
    Some(match operator {
        Operator::Less => Interval { high: bound, high_open: true, ..all },
        Operator::LessOrEqual => Interval { high: bound, ..all },
        Operator::Greater => above(true),
        Operator::GreaterOrEqual => above(false),
        Operator::Equal => Interval { low: bound.max(all.low), high: bound, ..all },
    })
}
