//! Truth tables: every fact with every operator its tests may use, and the order of rules.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::compare::Operator;
use crate::base::digest::Digest;
use crate::base::money::Dollars;
use crate::base::size::Bytes;
use crate::config::model::{
    Condition, Escalate, FactTest, LocalEngine, OnBusy, Retry, StopSignal, WatchNotify,
};
use crate::diag::{Location, SourceMap};
use crate::domain::{Gpu, JobId};
use crate::plan::spec::{
    BaseSpec, CommandSpec, GpuChoice, ImageSpec, LocalSpec, NetworkSpec, Routing, SandboxSpec, WatchSpec,
};

fn location() -> Location {
    Location::new(SourceMap::default().add_text("accel.toml", ""), 0..0)
}

fn job(rules: Vec<RoutingRule>, gpus: &[&str], labels: &[&str]) -> PlannedJob {
    let image = ImageSpec {
        name: "host".into(),
        digest: Digest::of(b""),
        base: BaseSpec::None,
        python: None,
        force_build: false,
        layers: Vec::new(),
        workdir: None,
        local: LocalSpec { engine: LocalEngine::Host, run: Vec::new() },
    };
    let second = Duration::from_secs(1);
    let gpu = gpus.iter().map(|text| GpuChoice { gpu: Gpu::parse(text).expect(text), wait: None });
    let spec = SandboxSpec {
        command: CommandSpec::Argv(vec!["true".into()]),
        cwd: ".".into(),
        image: Arc::new(image),
        env: Default::default(),
        dotenv: Vec::new(),
        pass_env: Vec::new(),
        secrets: Vec::new(),
        volumes: Default::default(),
        cpu: None,
        memory: None,
        gpu: gpu.collect(),
        ports: Vec::new(),
        network: NetworkSpec::Open,
        region: Vec::new(),
        cloud: None,
        tty: false,
        inputs: None,
        outputs: None,
        stop_timeout: second,
    };
    PlannedJob {
        id: JobId::new("test"),
        name: "test".into(),
        desc: None,
        needs: Vec::new(),
        earlier_outputs: Vec::new(),
        spec: Arc::new(spec),
        routing: Routing { changed_since: None, rules },
        timeout: None,
        retry: Retry { max: 0, on: Vec::new(), backoff: (second, second), escalate: Escalate::default() },
        fallback: Vec::new(),
        strict: false,
        pure: false,
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        warm: None,
        shard: None,
        junit: Vec::new(),
        watch: WatchSpec {
            paths: None,
            ignore: Vec::new(),
            debounce: None,
            on_busy: OnBusy::Restart,
            stop_signal: StopSignal::Terminate,
            stop_timeout: second,
            clear: false,
            notify: WatchNotify::Never,
        },
        provenance: Default::default(),
    }
}

fn rule(source: RuleSource, origin: &str, to: RuleTarget, when: Vec<Condition>) -> RoutingRule {
    RoutingRule { source, origin: origin.into(), when, to }
}

fn condition(fact: Fact, tests: Vec<FactTest>) -> Condition {
    Condition { fact, tests, location: location() }
}

fn known<const N: usize>(values: [(Fact, FactValue); N]) -> KnownFacts {
    KnownFacts { values: values.into(), ..KnownFacts::default() }
}

const LOCAL: RuleTarget = RuleTarget::Place(Place::Local);
const MODAL: RuleTarget = RuleTarget::Place(Place::Modal);

/// Evaluates one condition on a job with gpu L4 and label slow.
fn report(fact: Fact, tests: Vec<FactTest>, facts: &KnownFacts) -> ConditionReport {
    let only = rule(RuleSource::Job, "accel.toml:1", MODAL, vec![condition(fact, tests)]);
    decide(&job(vec![only], &["L4"], &["slow"]), facts).rules.remove(0).conditions.remove(0)
}

#[test]
fn numbers_compare_with_every_operator() {
    use FactValue as Value;
    use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
    let minutes = |n: u64| Duration::from_secs(60 * n);
    // Truth for a seen value below, at and above the bound.
    let table = [
        (Less, [true, false, false]),
        (LessOrEqual, [true, true, false]),
        (Greater, [false, false, true]),
        (GreaterOrEqual, [false, true, true]),
        (Equal, [false, true, false]),
    ];
    for (operator, truth) in table {
        for (seen, expected) in [2_u32, 3, 4].into_iter().zip(truth) {
            let check = |fact: Fact, test: FactTest, value: Value| {
                let report = report(fact, vec![test], &known([(fact, value)]));
                assert_eq!(report.holds, expected, "{report}");
            };
            let count = FactTest::Count(operator, 3.0);
            for fact in [Fact::ChangedFiles, Fact::Runs, Fact::LocalCpus, Fact::LocalLoad, Fact::Attempt] {
                check(fact, count.clone(), Value::Count(f64::from(seen)));
            }
            let names = vec!["NVIDIA L4".to_owned(); seen as usize];
            check(Fact::LocalGpu, count.clone(), Value::Texts(names.clone()));
            check(Fact::Changed, count, Value::Texts(names));
            for fact in [Fact::SyncBytes, Fact::LocalMemory, Fact::LocalGpuMemory] {
                let size = FactTest::Size(operator, Bytes(3));
                check(fact, size, Value::Size(Bytes(seen.into())));
            }
            for fact in [Fact::P50, Fact::P90] {
                let duration = FactTest::Duration(operator, minutes(3));
                check(fact, duration, Value::Duration(minutes(seen.into())));
            }
            let money = FactTest::Money(operator, Dollars(3));
            check(Fact::Cost, money, Value::Money(Dollars(seen.into())));
        }
    }
}

#[test]
fn flags_are_true_or_false() {
    for fact in [Fact::OnBattery, Fact::ModalReady, Fact::Ci, Fact::Warm] {
        for (seen, expected) in [(true, true), (true, false), (false, true), (false, false)] {
            let facts = known([(fact, FactValue::Is(seen))]);
            assert_eq!(report(fact, vec![FactTest::Is(expected)], &facts).holds, seen == expected);
        }
    }
    let some = FactValue::Texts(vec!["a.py".into()]);
    let none = FactValue::Texts(Vec::new());
    for fact in [Fact::Changed, Fact::LocalGpu] {
        let check = |value: &FactValue, test, expected| {
            let facts = known([(fact, value.clone())]);
            assert_eq!(report(fact, vec![FactTest::Is(test)], &facts).holds, expected);
        };
        check(&some, true, true);
        check(&some, false, false);
        check(&none, true, false);
        check(&none, false, true);
    }
}

#[test]
fn texts_match_globs() {
    let check = |fact: Fact, seen: &[&str], globs: &[&str], expected: bool| {
        let texts: Vec<String> = seen.iter().map(|text| (*text).to_owned()).collect();
        let value = match fact {
            Fact::Changed | Fact::LocalGpu => FactValue::Texts(texts),
            _ => FactValue::Text(texts[0].clone()),
        };
        let tests = globs.iter().map(|glob| FactTest::Glob((*glob).to_owned())).collect();
        let report = report(fact, tests, &known([(fact, value)]));
        assert_eq!(report.holds, expected, "{report}");
    };
    for fact in [Fact::Branch, Fact::Os, Fact::Arch, Fact::Caller] {
        check(fact, &["main"], &["main"], true);
        check(fact, &["main"], &["ma*"], true);
        check(fact, &["main"], &["!main"], false);
        check(fact, &["dev"], &["!main"], true);
        check(fact, &["dev"], &["main", "dev"], true);
        check(fact, &["dev"], &["main", "next"], false);
        // Not main, and not dev: refusals must all hold.
        check(fact, &["dev"], &["!main", "!dev"], false);
    }
    check(Fact::Branch, &["feat/a/b"], &["feat/*"], false);
    check(Fact::Branch, &["feat/a/b"], &["feat/**"], true);
    check(Fact::Changed, &["src/a.py", "docs/x/y.md"], &["docs/**"], true);
    check(Fact::Changed, &["src/a.py"], &["docs/**", "*.md"], false);
    check(Fact::Changed, &["src/a.py", "docs/x.md"], &["docs/**", "!src/**"], false);
    check(Fact::Changed, &["docs/x.md"], &["docs/**", "!src/**"], true);
    check(Fact::Changed, &[], &["**"], false);
    check(Fact::LocalGpu, &["NVIDIA H200"], &["*H200*"], true);
}

#[test]
fn a_jobs_own_labels_and_gpu_are_facts() {
    let facts = KnownFacts::default();
    let holds = |fact, test| report(fact, vec![test], &facts).holds;
    assert!(holds(Fact::Labels, FactTest::Glob("sl*".into())));
    assert!(!holds(Fact::Labels, FactTest::Glob("quick".into())));
    assert!(holds(Fact::Gpu, FactTest::Is(true)));
    assert!(holds(Fact::Gpu, FactTest::Glob("L4".into())));
    assert!(!holds(Fact::Gpu, FactTest::Glob("A100*".into())));
}

#[test]
fn variables_are_all_required_and_never_shown() {
    let facts = KnownFacts { variables: [("TOKEN".into(), "hush".into())].into(), ..Default::default() };
    let test = |name: &str, glob: Option<&str>| FactTest::Variable {
        name: name.into(),
        glob: glob.map(str::to_owned),
    };
    let check = |tests: Vec<FactTest>, expected: bool| {
        let report = report(Fact::Env, tests, &facts);
        assert_eq!(report.holds, expected, "{report}");
        assert!(!report.to_string().replace("TOKEN=hush", "").contains("hush"));
    };
    check(vec![test("TOKEN", None)], true);
    check(vec![test("OTHER", None)], false);
    check(vec![test("TOKEN", Some("hu*"))], true);
    check(vec![test("TOKEN", Some("a*")), test("TOKEN", Some("hush"))], true);
    check(vec![test("TOKEN", None), test("OTHER", None)], false);
    check(vec![test("OTHER", Some("!x"))], true);
}

#[test]
fn an_unknown_fact_makes_its_condition_false_and_says_so() {
    for fact in Fact::ALL {
        if matches!(fact, Fact::Labels | Fact::Gpu | Fact::Env) {
            continue;
        }
        let when = vec![condition(fact, vec![FactTest::Is(false)])];
        let rules = vec![rule(RuleSource::Job, "accel.toml:7", MODAL, when)];
        let decision = decide(&job(rules, &[], &[]), &KnownFacts::default());
        assert_eq!(decision.place, Place::Local);
        let expected = format!("accel.toml:7 does not apply: {} is unknown: not gathered", fact.as_str());
        assert_eq!(decision.reasons, [expected.as_str(), "no rule says otherwise"]);
    }
}

#[test]
fn the_first_rule_that_holds_decides() {
    let few = || vec![condition(Fact::ChangedFiles, vec![FactTest::Count(Operator::LessOrEqual, 3.0)])];
    let rules = vec![
        rule(RuleSource::Job, "accel.toml:40", LOCAL, few()),
        rule(RuleSource::Shared, "accel.toml:90", MODAL, Vec::new()),
        rule(RuleSource::Defaults, "[defaults] accel.toml:8", LOCAL, Vec::new()),
    ];
    let seen = |files| known([(Fact::ChangedFiles, FactValue::Count(files))]);
    let outcomes = |decision: &Decision| decision.rules.iter().map(|rule| rule.outcome).collect::<Vec<_>>();

    let near = decide(&job(rules.clone(), &[], &[]), &seen(2.0));
    assert_eq!((near.place, outcomes(&near)), (Place::Local, vec![RuleOutcome::Decided]));
    insta::assert_snapshot!(near.reason, @"changed_files 2 is <=3 (accel.toml:40)");

    let far = explain(&job(rules, &[], &[]), &seen(9.0));
    assert_eq!(far.place, Place::Modal);
    assert_eq!(outcomes(&far), [RuleOutcome::NoMatch, RuleOutcome::Decided, RuleOutcome::Overruled]);
    insta::assert_snapshot!(far.reasons.join("\n"), @r"
    accel.toml:40 does not apply: changed_files 9 is not <=3
    [[route]] accel.toml:90
    ");
}

#[test]
fn without_a_rule_the_gpu_decides() {
    let check = |gpus: &[&str], here: &[&str], place: Place, reason: &str| {
        let names = here.iter().map(|name| (*name).to_owned()).collect();
        let facts = known([(Fact::LocalGpu, FactValue::Texts(names))]);
        let decision = decide(&job(Vec::new(), gpus, &[]), &facts);
        assert_eq!((decision.place, decision.reason.as_str()), (place, reason));
        assert_eq!(decision.reasons, [reason]);
    };
    check(&[], &["NVIDIA L4"], Place::Local, "no rule says otherwise");
    check(&["L4"], &["NVIDIA L4"], Place::Local, "this machine has L4");
    check(&["L4"], &[], Place::Modal, "needs L4, which this machine lacks");
    check(&["H100:2", "L4"], &["NVIDIA L4"], Place::Local, "this machine has L4");
    check(&["H100", "A100-40GB:2"], &[], Place::Modal, "needs H100 or A100-40GB:2, which this machine lacks");
}

#[test]
fn auto_says_that_it_has_no_history() {
    let rules = vec![rule(RuleSource::Job, "accel.toml:5", RuleTarget::Auto, Vec::new())];
    let decision = decide(&job(rules, &[], &[]), &KnownFacts::default());
    assert_eq!(decision.place, Place::Local);
    insta::assert_snapshot!(decision.reasons.join("\n"), @r"
    the job's route, accel.toml:5: auto, but no run of this job has passed yet
    auto has no history yet; no rule says otherwise
    ");
}

fn remembered(local: u64, modal: u64) -> Memory {
    let sample = |seconds| Sample {
        sync: Duration::ZERO,
        image: Duration::ZERO,
        queue: Duration::ZERO,
        start: Duration::ZERO,
        run: Duration::from_secs(seconds),
        outputs: Duration::ZERO,
        bytes_sent: 0,
        image_built: false,
    };
    Memory { local: vec![sample(local); 3], modal: vec![sample(modal); 3], busy: 1.0, ..Memory::default() }
}

#[test]
fn auto_prints_every_term_and_chooses_the_faster_place() {
    let rules = vec![rule(RuleSource::Job, "accel.toml:5", RuleTarget::Auto, Vec::new())];
    let ready = known([(Fact::ModalReady, FactValue::Is(true))]);
    let facts = KnownFacts { memory: remembered(60, 20), ..ready };
    let decision = decide(&job(rules.clone(), &[], &[]), &facts);
    assert_eq!(decision.place, Place::Modal);
    insta::assert_snapshot!(decision.reasons.join("\n"), @r"
    the job's route, accel.toml:5: auto
    local 1m00s: run 1m00s (median of 3)
    modal 20.0s: sync 0ms (median of 3), start 0ms (median of 3), run 20.0s (median of 3)
    auto: about 1m00s here, 20.0s on Modal
    ");
    assert_eq!(decision.expected().map(|forecast| forecast.time), Some(Duration::from_secs(20)));
    // What is faster must be there.
    let facts = KnownFacts {
        memory: remembered(60, 20),
        ..known([(Fact::ModalReady, FactValue::IsNot("no token".into()))])
    };
    let decision = decide(&job(rules.clone(), &[], &[]), &facts);
    let reason = "auto: about 1m00s here, 20.0s on Modal, which cannot be used: no token";
    assert_eq!((decision.place, decision.reason.as_str()), (Place::Local, reason));
    let facts = KnownFacts { memory: remembered(60, 20), ..KnownFacts::default() };
    let decision = decide(&job(rules.clone(), &[], &[]), &facts);
    let reason = "auto: about 1m00s here, 20.0s on Modal; whether it can be used is not known: not gathered";
    assert_eq!((decision.place, decision.reason.as_str()), (Place::Modal, reason));
    // A GPU that is not here is no matter of time.
    let facts =
        KnownFacts { memory: remembered(1, 20), ..known([(Fact::LocalGpu, FactValue::Texts(Vec::new()))]) };
    let decision = decide(&job(rules, &["L4"], &[]), &facts);
    assert_eq!(
        (decision.place, decision.reason.as_str()),
        (Place::Modal, "auto; needs L4, which this machine lacks")
    );
}

fn raced(gpus: &[&str], facts: &KnownFacts) -> Decision {
    let rules = vec![rule(RuleSource::Job, "accel.toml:5", RuleTarget::Race, Vec::new())];
    decide(&PlannedJob { pure: true, ..job(rules, gpus, &[]) }, facts)
}

#[test]
fn a_race_gives_modal_a_head_start_that_is_learned() {
    let race = |memory: Memory| {
        let decision = raced(&[], &KnownFacts { memory, ..KnownFacts::default() });
        assert_eq!(decision.place, Place::Modal);
        let rival = decision.rival.unwrap();
        assert_eq!(rival.place, Place::Local);
        (rival.after, decision.reason)
    };
    let unknown = "race: this machine starts 5.0s later; it is not known yet what both take";
    assert_eq!(race(Memory::default()), (USUAL_HEAD_START, unknown.to_owned()));
    let only_here = Memory { modal: Vec::new(), ..remembered(60, 20) };
    assert_eq!(race(only_here), (USUAL_HEAD_START, unknown.to_owned()));
    let at_once = "race: both start at once; about 10.0s here, 20.0s on Modal";
    assert_eq!(race(remembered(10, 20)), (Duration::ZERO, at_once.to_owned()));
    let mut memory = remembered(60, 20);
    memory.modal = (11..=20).flat_map(|seconds| remembered(0, seconds).modal.pop()).collect();
    let later = "race: this machine starts 19.0s later, by when nine of ten runs on Modal were over; \
                 about 1m00s here, 15.0s on Modal";
    assert_eq!(race(memory), (Duration::from_secs(19), later.to_owned()));
}

#[test]
fn a_race_without_a_rival_is_a_run_in_one_place_and_says_why() {
    let alone = |decision: Decision| {
        assert_eq!(decision.rival, None);
        (decision.place, decision.reason)
    };
    let gpus = known([(Fact::LocalGpu, FactValue::Texts(Vec::new()))]);
    let reason = "race, on Modal alone: needs L4, which this machine lacks";
    assert_eq!(alone(raced(&["L4"], &gpus)), (Place::Modal, reason.to_owned()));
    let not_ready = known([(Fact::ModalReady, FactValue::IsNot("no token".into()))]);
    let reason = "race, on this machine alone: Modal cannot be used: no token";
    assert_eq!(alone(raced(&[], &not_ready)), (Place::Local, reason.to_owned()));
    // Another command in the job's environment.
    let rules = vec![rule(RuleSource::Job, "accel.toml:5", RuleTarget::Race, Vec::new())];
    let reason = "no race, since this may not be run twice; no rule says otherwise";
    assert_eq!(alone(decide(&job(rules, &[], &[]), &NoFacts)), (Place::Local, reason.to_owned()));
}

#[test]
fn a_no_with_a_reason_is_a_no_and_tells_it() {
    let facts = known([(Fact::ModalReady, FactValue::IsNot("there is no token".into()))]);
    assert!(report(Fact::ModalReady, vec![FactTest::Is(false)], &facts).holds);
    let report = report(Fact::ModalReady, vec![FactTest::Is(true)], &facts);
    assert!(!report.holds);
    assert_eq!(report.to_string(), "modal_ready is not true: there is no token");
    assert_eq!(report.why.as_deref(), Some("there is no token"));
}

/// Panics when asked: what no rule names must cost nothing.
struct NoFacts;

impl Facts for NoFacts {
    fn get(&self, fact: Fact) -> FactValue {
        panic!("asked for {}", fact.as_str())
    }

    fn variable(&self, name: &str) -> Option<String> {
        panic!("asked for {name}")
    }

    fn memory(&self) -> Memory {
        panic!("asked for what earlier runs took")
    }
}

#[test]
fn facts_that_no_rule_needs_are_not_asked_for() {
    let on_battery = || vec![condition(Fact::OnBattery, vec![FactTest::Is(true)])];
    let rules = vec![
        rule(RuleSource::Forced, "--on", LOCAL, Vec::new()),
        rule(RuleSource::Shared, "accel.toml:90", MODAL, on_battery()),
    ];
    let decision = decide(&job(rules, &["L4"], &[]), &NoFacts);
    assert_eq!((decision.place, decision.reason.as_str()), (Place::Local, "--on"));
    assert_eq!(decide(&job(Vec::new(), &[], &[]), &NoFacts).place, Place::Local);
}
