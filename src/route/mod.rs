//! Where a planned job runs, and why.
//!
//! Pure: facts are asked of an argument, each only when a rule names it. Rules are tried strongest first (the
//! plan has put them in order), the first whose conditions all hold decides; where none does, the built-in
//! rule: a job whose gpu is not on this machine goes to Modal, all else stays local. A fact that is not known
//! makes its condition false, and the reason says so. A decision carries its reasons and never has none.
//! Gathering facts is left to `workspace`, acting on decisions to the engine.

pub mod auto;
mod condition;
mod facts;
mod gpu;
mod race;

use serde::Serialize;

use crate::config::model::Fact;
use crate::domain::Place;
use crate::event::Rival;
use crate::plan::spec::{PlannedJob, RoutingRule, RuleSource, RuleTarget};

pub use auto::{Forecast, Memory, Sample, Weighed};
pub use condition::ConditionReport;
pub use facts::{FactValue, Facts, KnownFacts};
pub use gpu::is_here;
pub use race::USUAL_HEAD_START;

use condition::JobFacts;

/// A place and how it was found; `accel explain --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub place: Place,
    /// In a race: the other place, which starts later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rival: Option<Rival>,
    /// The one line that people see.
    pub reason: String,
    /// Everything that was weighed, in order; the last one decided. Never empty.
    pub reasons: Vec<String>,
    /// Every rule that was looked at.
    pub rules: Vec<RuleReport>,
    /// What earlier runs say about both places: where `auto` decided, and where it was asked to explain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighed: Option<Weighed>,
}

impl Decision {
    /// What the job is expected to take where it will run, as far as there is anything to tell by.
    pub fn expected(&self) -> Option<&Forecast> {
        let weighed = self.weighed.as_ref()?;
        Some(if self.place == Place::Local { &weighed.local } else { &weighed.modal })
    }
}

/// One rule as it was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleReport {
    pub source: RuleSource,
    /// `accel.toml:41`, `--on`.
    pub origin: String,
    /// `local`, `modal`, `auto` or `race`.
    pub to: &'static str,
    pub outcome: RuleOutcome,
    /// Empty: the rule always applies.
    pub conditions: Vec<ConditionReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleOutcome {
    Decided,
    /// A condition does not hold.
    NoMatch,
    /// Would apply, but a stronger rule decided.
    Overruled,
}

/// Decides; rules after the deciding one are not looked at and their facts not asked for.
pub fn decide(job: &PlannedJob, facts: &dyn Facts) -> Decision {
    let mut trail = Trail::new(job, facts);
    for rule in &job.routing.rules {
        if trail.weigh(rule) {
            break;
        }
    }
    trail.conclude()
}

/// The same decision with every condition of every rule evaluated, those after the deciding rule too.
pub fn explain(job: &PlannedJob, facts: &dyn Facts) -> Decision {
    let mut trail = Trail::new(job, facts);
    for rule in &job.routing.rules {
        trail.weigh(rule);
    }
    if trail.weighed.is_none() {
        trail.weighed = auto::weigh(&facts.memory());
    }
    trail.conclude()
}

struct Trail<'a> {
    job: &'a PlannedJob,
    facts: JobFacts<'a>,
    decided: Option<(Place, String)>,
    rival: Option<Rival>,
    reasons: Vec<String>,
    rules: Vec<RuleReport>,
    weighed: Option<Weighed>,
}

impl<'a> Trail<'a> {
    fn new(job: &'a PlannedJob, facts: &'a dyn Facts) -> Self {
        let facts = JobFacts { job, facts };
        Self { job, facts, decided: None, rival: None, reasons: Vec::new(), rules: Vec::new(), weighed: None }
    }

    /// Whether the rule decided.
    fn weigh(&mut self, rule: &RoutingRule) -> bool {
        let conditions: Vec<ConditionReport> =
            rule.when.iter().map(|condition| condition::evaluate(condition, &self.facts)).collect();
        let failing = conditions.iter().find(|condition| !condition.holds);
        let outcome = match (failing, &self.decided) {
            (Some(_), _) => RuleOutcome::NoMatch,
            (None, Some(_)) => RuleOutcome::Overruled,
            (None, None) => RuleOutcome::Decided,
        };
        if let (Some(failing), None) = (failing, &self.decided) {
            self.reasons.push(format!("{} does not apply: {failing}", rule.origin));
        }
        let why = because(rule, &conditions);
        let report = RuleReport {
            source: rule.source,
            origin: rule.origin.clone(),
            to: target_name(rule.to),
            outcome,
            conditions,
        };
        self.rules.push(report);
        if outcome == RuleOutcome::Decided {
            self.settle(rule.to, why);
        }
        outcome == RuleOutcome::Decided
    }

    fn settle(&mut self, to: RuleTarget, why: String) {
        match to {
            RuleTarget::Place(place) => self.decide(place, why),
            RuleTarget::Auto => self.by_forecast(&why),
            RuleTarget::Race => self.race(&why),
        }
    }

    /// A GPU that this machine lacks is no matter of time.
    fn by_forecast(&mut self, why: &str) {
        let (place, built_in) = self.built_in();
        if place == Place::Modal {
            self.reasons.push(format!("{why}: auto"));
            return self.decide(place, format!("auto; {built_in}"));
        }
        match auto::weigh(&self.facts.facts.memory()) {
            None => {
                self.reasons.push(format!("{why}: auto, but no run of this job has passed yet"));
                self.decide(place, format!("auto has no history yet; {built_in}"));
            }
            Some(weighed) => {
                self.reasons.push(format!("{why}: auto"));
                self.reasons.extend([&weighed.local, &weighed.modal].map(ToString::to_string));
                self.unless_not_ready(&weighed);
                self.weighed = Some(weighed);
            }
        }
    }

    /// One place alone where the other cannot take part, or where the command is not the job's own: nobody has said that
    /// it may be run twice.
    fn race(&mut self, why: &str) {
        self.reasons.push(format!("{why}: race"));
        let (place, built_in) = self.built_in();
        if !self.job.pure || self.job.spec.tty {
            return self.decide(place, format!("no race, since this may not be run twice; {built_in}"));
        }
        if place == Place::Modal {
            return self.decide(place, format!("race, on Modal alone: {built_in}"));
        }
        if let FactValue::IsNot(why) = self.facts.facts.get(Fact::ModalReady) {
            return self.decide(place, format!("race, on this machine alone: Modal cannot be used: {why}"));
        }
        let memory = self.facts.facts.memory();
        self.weighed = auto::weigh(&memory);
        let race::HeadStart { time, why } = race::head_start(&memory, self.weighed.as_ref());
        if let Some(weighed) = &self.weighed {
            self.reasons.extend([&weighed.local, &weighed.modal].map(ToString::to_string));
        }
        self.rival = Some(Rival { place: Place::Local, after: time });
        self.decide(Place::Modal, why);
    }

    /// Whether Modal can be used is only asked when it would be.
    fn unless_not_ready(&mut self, weighed: &Weighed) {
        if weighed.place == Place::Local {
            return self.decide(weighed.place, weighed.why.clone());
        }
        match self.facts.facts.get(Fact::ModalReady) {
            FactValue::IsNot(why) => {
                self.decide(Place::Local, format!("{}, which cannot be used: {why}", weighed.why));
            }
            FactValue::Unknown(why) => {
                self.decide(
                    Place::Modal,
                    format!("{}; whether it can be used is not known: {why}", weighed.why),
                );
            }
            _ => self.decide(Place::Modal, weighed.why.clone()),
        }
    }

    fn decide(&mut self, place: Place, why: String) {
        self.reasons.push(why.clone());
        self.decided = Some((place, why));
    }

    fn built_in(&self) -> (Place, String) {
        let wanted = &self.job.spec.gpu;
        if wanted.is_empty() {
            return (Place::Local, "no rule says otherwise".to_owned());
        }
        let names = wanted.iter().map(|choice| choice.gpu.to_string()).collect::<Vec<_>>().join(" or ");
        let here = match self.facts.facts.get(Fact::LocalGpu) {
            FactValue::Texts(here) => here,
            FactValue::Unknown(why) => {
                let text = format!("needs {names}, and whether this machine has it is not known: {why}");
                return (Place::Modal, text);
            }
            _ => Vec::new(),
        };
        match wanted.iter().find(|choice| gpu::is_here(&choice.gpu, &here)) {
            Some(choice) => (Place::Local, format!("this machine has {}", choice.gpu)),
            None => (Place::Modal, format!("needs {names}, which this machine lacks")),
        }
    }

    fn conclude(mut self) -> Decision {
        if self.decided.is_none() {
            let (place, why) = self.built_in();
            self.decide(place, why);
        }
        let (place, reason) = self.decided.expect("decided just above where it was not before");
        let Self { rival, reasons, rules, weighed, .. } = self;
        Decision { place, rival, reason, reasons, rules, weighed }
    }
}

/// Why a rule that applies does: its conditions, or whose it is.
fn because(rule: &RoutingRule, conditions: &[ConditionReport]) -> String {
    let whose = match rule.source {
        RuleSource::Forced => return rule.origin.clone(),
        RuleSource::Job if rule.when.is_empty() => format!("the job's route, {}", rule.origin),
        RuleSource::Shared if rule.when.is_empty() => format!("[[route]] {}", rule.origin),
        _ => rule.origin.clone(),
    };
    if conditions.is_empty() {
        return whose;
    }
    let held = conditions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("{held} ({whose})")
}

fn target_name(target: RuleTarget) -> &'static str {
    match target {
        RuleTarget::Place(place) => place.as_str(),
        RuleTarget::Auto => "auto",
        RuleTarget::Race => "race",
    }
}

#[cfg(test)]
mod tests;
