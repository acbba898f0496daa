//! Rules: where a job runs. Comparisons stay data; what they mean is the business of `route`.

use serde_json::{Value as Json, json};

use super::{Definitions, Grammar, NameGlob, Plain, glob_problem, keys, word::unknown_word};
use crate::base::compare::Operator;
use crate::base::duration::{DURATION_HELP, parse_duration};
use crate::base::money::{Dollars, MONEY_HELP};
use crate::base::size::{Bytes, SIZE_HELP};
use crate::base::suggest::nearest;
use crate::config::codes;
use crate::config::model::{Condition, Fact, FactTest, RuleTarget};
use crate::config::reader::Reader;
use crate::config::tree::{Entry, Node, Value};
use crate::diag::{Diagnostic, Location};

keys! {
    /// One rule: when everything in `when` holds, the job runs at `to`.
    RuleKeys as "a rule" {
        /// Facts that must all hold; without it the rule always holds.
        when: WhenConditions,
        /// local, modal, auto or race.
        to: RuleTarget,
    }
}

keys! {
    /// A rule for several jobs.
    SharedRouteKeys as "a [[route]] entry" {
        /// Globs of job names. Default: every job.
        jobs: Vec<NameGlob>,
        /// Labels; a job with any of them. Default: every job.
        labels: Vec<Plain>,
        /// Facts that must all hold; without it the rule always holds.
        when: WhenConditions,
        /// local, modal, auto or race.
        to: RuleTarget,
    }
}

/// `route = …` of a job.
#[derive(Debug, Clone)]
pub enum RouteValue {
    Target(RuleTarget),
    Rules(Vec<(RuleKeys, Location)>),
}

impl Grammar for RouteValue {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let rule = |node: &Node<'_>, reader: &mut Reader| {
            let keys = RuleKeys::decode(node, reader)?;
            if keys.to.is_none() && !has_key(node, "to") {
                reader.missing_key(node.location, "to", RuleKeys::SPOKEN);
            }
            Some((keys, node.location))
        };
        match &node.value {
            Value::String(_) => RuleTarget::decode(node, reader).map(Self::Target),
            Value::Table(_) => rule(node, reader).map(|rule| Self::Rules(vec![rule])),
            Value::List(items) => {
                Some(Self::Rules(items.iter().filter_map(|item| rule(item, reader)).collect()))
            }
            _ => {
                reader.wrong_type(node, "local, modal, auto, race, or a list of rules");
                None
            }
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let rule = json!({ "allOf": [RuleKeys::schema(definitions)], "required": ["to"] });
        json!({ "anyOf": [RuleTarget::schema(definitions), rule, { "type": "array", "items": rule }] })
    }
}

pub fn has_key(node: &Node<'_>, key: &str) -> bool {
    matches!(&node.value, Value::Table(entries) if entries.iter().any(|entry| entry.key == key))
}

/// What a fact is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    /// A number; the smallest that the fact can be.
    Count(u32),
    Size,
    Duration,
    Money,
    /// Globs over text.
    Text,
    /// Globs over text of which these words are all there are.
    Words(&'static [&'static str]),
    /// True or false (is there any), or globs over what there is.
    BoolOrText,
    /// True or false, a number, or globs over names.
    Devices,
    Variables,
}

const FACTS: [(&str, Fact, Kind, &str); 24] = [
    ("changed", Fact::Changed, Kind::BoolOrText, "Globs of which a changed file matches one."),
    ("changed_files", Fact::ChangedFiles, Kind::Count(0), "How many files changed: `\"<=3\"`."),
    ("sync_bytes", Fact::SyncBytes, Kind::Size, "What a run on Modal would have to send: `\">100MB\"`."),
    ("p50", Fact::P50, Kind::Duration, "Median time that the command took in earlier runs: `\"<20s\"`."),
    ("p90", Fact::P90, Kind::Duration, "Time that the command stayed below in nine of ten earlier runs."),
    ("runs", Fact::Runs, Kind::Count(0), "How many earlier runs there are."),
    ("local_cpus", Fact::LocalCpus, Kind::Count(1), "Cores of this machine."),
    ("local_load", Fact::LocalLoad, Kind::Count(0), "Load of this machine, per core."),
    ("local_memory", Fact::LocalMemory, Kind::Size, "Free memory of this machine: `\">8GiB\"`."),
    (
        "local_gpu",
        Fact::LocalGpu,
        Kind::Devices,
        "Whether this machine has a GPU, how many, or globs over their names.",
    ),
    (
        "local_gpu_memory",
        Fact::LocalGpuMemory,
        Kind::Size,
        "Memory of the largest GPU of this machine: `\">=24GiB\"`.",
    ),
    ("on_battery", Fact::OnBattery, Kind::Bool, "This machine runs on battery."),
    ("modal_ready", Fact::ModalReady, Kind::Bool, "Modal answers and accepts the credentials."),
    ("branch", Fact::Branch, Kind::Text, "Globs of which the git branch matches one."),
    ("env", Fact::Env, Kind::Variables, "Variables by name: a glob over the value, or true if set."),
    ("ci", Fact::Ci, Kind::Bool, "accel runs in CI."),
    (
        "caller",
        Fact::Caller,
        Kind::Words(&["human", "ci", "agent", "watch"]),
        "Who asked: human, ci, agent, watch.",
    ),
    ("labels", Fact::Labels, Kind::Text, "Globs of which a label of the job matches one."),
    ("gpu", Fact::Gpu, Kind::BoolOrText, "Whether the job wants a GPU, or globs over its kind."),
    ("os", Fact::Os, Kind::Words(&["linux", "macos", "windows"]), "This machine's system."),
    ("arch", Fact::Arch, Kind::Words(&["x86_64", "aarch64"]), "This machine's processor."),
    ("attempt", Fact::Attempt, Kind::Count(1), "Which attempt this is, from 1."),
    ("cost", Fact::Cost, Kind::Money, "Expected cost on Modal: `\"<$0.10\"`."),
    ("warm", Fact::Warm, Kind::Bool, "A warm sandbox for the job is there."),
];

/// The smallest value that a counted fact can have.
pub fn smallest(fact: Fact) -> u32 {
    FACTS.iter().find(|(_, known, ..)| *known == fact).map_or(0, |(_, _, kind, _)| match kind {
        Kind::Count(smallest) => *smallest,
        _ => 0,
    })
}

/// `when = { … }`.
#[derive(Debug, Clone, Default)]
pub struct WhenConditions(pub Vec<Condition>);

impl Grammar for WhenConditions {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let entries = reader.table(node, "a table of fact = test")?;
        Some(Self(entries.iter().filter_map(|entry| condition(entry, reader)).collect()))
    }

    fn schema(definitions: &mut Definitions) -> Json {
        definitions.named("WhenConditions", |definitions| {
            let properties: serde_json::Map<_, _> = FACTS
                .iter()
                .map(|(name, _, kind, about)| {
                    ((*name).to_owned(), super::described(kind.schema(definitions), about))
                })
                .collect();
            json!({ "type": "object", "properties": properties, "additionalProperties": false })
        })
    }
}

fn condition(entry: &Entry<'_>, reader: &mut Reader) -> Option<Condition> {
    let Some((_, fact, kind, _)) = FACTS.iter().find(|(name, ..)| *name == entry.key) else {
        let names = FACTS.iter().map(|(name, ..)| *name);
        let found = Diagnostic::error(codes::UNKNOWN_FACT, format!("unknown fact `{}`", entry.key))
            .at(entry.key_location);
        reader.report(match nearest(&entry.key, names.clone()) {
            Some(near) => found.label(format!("did you mean `{near}`?")).help(format!("write `{near}`")),
            None => found.help(format!("known facts: {}", names.collect::<Vec<_>>().join(", "))),
        });
        return None;
    };
    let location = Location { start: entry.key_location.start, ..entry.node.location };
    let location = if location.start < location.end { location } else { entry.node.location };
    let tests = match (&entry.node.value, kind) {
        (Value::Table(variables), Kind::Variables) => {
            variables.iter().flat_map(|variable| variable_tests(variable, reader)).collect()
        }
        (Value::List(items), Kind::Variables) | (Value::List(items), _) => {
            items.iter().filter_map(|item| test(item, *kind, &entry.key, reader)).collect()
        }
        _ => vec![test(&entry.node, *kind, &entry.key, reader)?],
    };
    if let (Value::List(items), true) = (&entry.node.value, tests.is_empty()) {
        if items.is_empty() {
            reader.report(
                Diagnostic::error(codes::NEVER_FIRES, "an empty list never holds")
                    .at(entry.node.location)
                    .help("list what may hold, or leave the fact out"),
            );
        }
        return None;
    }
    (!tests.is_empty()).then_some(Condition { fact: *fact, tests, location })
}

/// `NAME = true`, `NAME = "glob"` or a list of globs of which one must match.
fn variable_tests(entry: &Entry<'_>, reader: &mut Reader) -> Vec<FactTest> {
    let name = || entry.key.clone().into_owned();
    if let Value::Bool(true) = entry.node.value {
        return vec![FactTest::Variable { name: name(), glob: None }];
    }
    if !matches!(entry.node.value, Value::String(_) | Value::List(_)) {
        reader.wrong_type(&entry.node, "a glob over the value, a list of globs, or true");
        return Vec::new();
    }
    let globs = Vec::<NameGlob>::decode(&entry.node, reader).unwrap_or_default();
    globs.into_iter().map(|glob| FactTest::Variable { name: name(), glob: Some(glob.0) }).collect()
}

fn test(node: &Node<'_>, kind: Kind, fact: &str, reader: &mut Reader) -> Option<FactTest> {
    match (kind, &node.value) {
        (Kind::Bool | Kind::BoolOrText | Kind::Devices, Value::Bool(value)) => Some(FactTest::Is(*value)),
        (Kind::Variables, Value::String(text)) => {
            Some(FactTest::Variable { name: text.clone().into_owned(), glob: None })
        }
        (Kind::Devices, Value::String(text)) if Operator::split(text).is_some() => {
            comparison(node, text, kind, fact, reader)
        }
        (Kind::Devices, Value::String(text)) => text_test(node, text, kind, fact, reader),
        (Kind::Text | Kind::BoolOrText | Kind::Words(_), Value::String(text)) => {
            text_test(node, text, kind, fact, reader)
        }
        (Kind::Count(_) | Kind::Devices, Value::Integer { .. } | Value::Float(_)) => {
            super::number(node).map(|number| FactTest::Count(Operator::Equal, number))
        }
        (Kind::Count(_) | Kind::Size | Kind::Duration | Kind::Money, Value::String(text)) => {
            comparison(node, text, kind, fact, reader)
        }
        _ => {
            reader.wrong_type(node, &format!("{} for `{fact}`", kind.expected()));
            None
        }
    }
}

fn text_test(node: &Node<'_>, text: &str, kind: Kind, fact: &str, reader: &mut Reader) -> Option<FactTest> {
    if let Some((operator, _)) = Operator::split(text) {
        let message = format!("`{fact}` is text and cannot be compared with `{operator}`");
        reader.bad_text(
            codes::BAD_COMPARISON,
            node,
            message,
            "write a glob: \"main\", \"release/*\", \"!main\"",
        );
        return None;
    }
    if let Some((message, help)) = glob_problem(text) {
        reader.bad_text(codes::BAD_GLOB, node, message, help);
        return None;
    }
    let word = text.strip_prefix('!').unwrap_or(text);
    if let Kind::Words(words) = kind
        && !word.contains(['*', '?', '[', '{'])
        && !words.contains(&word)
    {
        unknown_word(reader, node, word, &format!("one of the values of `{fact}`"), words);
        return None;
    }
    Some(FactTest::Glob(text.to_owned()))
}

fn comparison(node: &Node<'_>, text: &str, kind: Kind, fact: &str, reader: &mut Reader) -> Option<FactTest> {
    let Some((operator, bound)) = Operator::split(text) else {
        let message = format!("`{text}` is no comparison");
        let help = format!("begin with <, <=, >, >= or =: {}", kind.example());
        reader.bad_text(codes::BAD_COMPARISON, node, message, &help);
        return None;
    };
    let mut bad = |message: String, help: &str| reader.bad_text(codes::BAD_COMPARISON, node, message, help);
    match kind {
        Kind::Size => match Bytes::parse(bound) {
            Ok(bound) => return Some(FactTest::Size(operator, bound)),
            Err(error) => bad(format!("`{fact}` is a size: {error}"), SIZE_HELP),
        },
        Kind::Duration => match parse_duration(bound) {
            Ok(bound) => return Some(FactTest::Duration(operator, bound)),
            Err(error) => bad(format!("`{fact}` is a duration: {error}"), DURATION_HELP),
        },
        Kind::Money => match Dollars::parse(bound) {
            Some(bound) => return Some(FactTest::Money(operator, bound)),
            None => bad(format!("`{fact}` is money, not `{bound}`"), MONEY_HELP),
        },
        _ => match bound.parse::<f64>() {
            Ok(bound) if bound.is_finite() => return Some(FactTest::Count(operator, bound)),
            _ => bad(format!("`{fact}` is a number, not `{bound}`"), "write a number: \"<=3\""),
        },
    }
    None
}

impl Kind {
    fn expected(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Count(_) => "a comparison such as \"<=3\"",
            Self::Size => "a comparison such as \">100MB\"",
            Self::Duration => "a comparison such as \"<20s\"",
            Self::Money => "a comparison such as \"<$0.10\"",
            Self::Text | Self::Words(_) => "a glob, or a list of globs",
            Self::BoolOrText => "true, false or a glob",
            Self::Devices => "true, false, a comparison such as \">=2\" or a glob",
            Self::Variables => "a table of variable = glob",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Size => "\">100MB\"",
            Self::Duration => "\"<20s\"",
            Self::Money => "\"<$0.10\"",
            _ => "\"<=3\"",
        }
    }

    fn schema(self, definitions: &mut Definitions) -> Json {
        let compared = json!({ "type": "string", "pattern": r"^\s*(<=|>=|<|>|=).+$", "examples": [self.example().trim_matches('"')] });
        let one = match self {
            Self::Bool => json!({ "type": "boolean" }),
            Self::Text | Self::Words(_) => NameGlob::schema(definitions),
            Self::BoolOrText => json!({ "anyOf": [{ "type": "boolean" }, NameGlob::schema(definitions)] }),
            Self::Devices => {
                json!({ "anyOf": [{ "type": ["boolean", "number"] }, NameGlob::schema(definitions)] })
            }
            Self::Count(_) => json!({ "anyOf": [{ "type": "number" }, compared] }),
            Self::Size | Self::Duration | Self::Money => compared,
            Self::Variables => json!({ "anyOf": [
                { "type": "string" },
                { "type": "object", "additionalProperties": { "anyOf": [{ "const": true }, Vec::<NameGlob>::schema(definitions)] } },
            ] }),
        };
        json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}
