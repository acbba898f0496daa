//! What each mistake looks like: `tests/data/config_diagnostics.txt` holds a text per rule and what is said.
//!
//! Refresh with `ACCEL_UPDATE_GENERATED=1 cargo test config_diagnostics`, then read the difference.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use accel::config::{codes, load_text};
use accel::diag::{ColorChoice, Diagnostic, SourceMap, render};

const CASE: &str = "=== ";
const SAID: &str = "--- says\n";

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/config_diagnostics.txt")
}

fn findings(name: &str, text: &str) -> (SourceMap, Vec<Diagnostic>) {
    match load_text(name, text) {
        Ok(loaded) => (loaded.config.sources, loaded.warnings),
        Err(error) => (error.sources, error.diagnostics),
    }
}

fn said(name: &str, text: &str) -> String {
    let (sources, diagnostics) = findings(name, text);
    let mut shown = String::new();
    for diagnostic in &diagnostics {
        let rendered = render(diagnostic, &sources, ColorChoice::Plain, 100);
        for line in rendered.lines() {
            writeln!(shown, "{}", line.trim_end()).unwrap();
        }
    }
    shown
}

/// `=== title` (with `.yaml` in it for YAML), a text, `--- says`, what is said.
fn cases() -> Vec<(String, String, String)> {
    let data = fs::read_to_string(file()).unwrap();
    data.split(CASE)
        .skip(1)
        .map(|case| {
            let (title, rest) = case.split_once('\n').unwrap();
            let (text, said) = rest.split_once(SAID).unwrap_or((rest, ""));
            (title.to_owned(), text.to_owned(), said.to_owned())
        })
        .collect()
}

fn name_of(title: &str) -> &'static str {
    if title.contains(".yaml") { "accel.yaml" } else { "accel.toml" }
}

#[test]
fn every_rule_says_what_is_wrong_where_and_what_to_do() {
    let mut all = String::new();
    let mut wrong = String::new();
    for (title, text, expected) in cases() {
        let found = said(name_of(&title), &text);
        write!(all, "{CASE}{title}\n{text}{SAID}{found}").unwrap();
        if found != expected {
            write!(wrong, "{CASE}{title}\n{text}--- should say\n{expected}{SAID}{found}").unwrap();
        }
    }
    if std::env::var_os("ACCEL_UPDATE_GENERATED").is_some() {
        fs::write(file(), all).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_finding_has_a_known_code_and_a_remedy() {
    let mut seen = BTreeSet::new();
    for (title, text, _) in cases() {
        let (_, diagnostics) = findings(name_of(&title), &text);
        assert!(!diagnostics.is_empty(), "{title}: nothing is said");
        for diagnostic in diagnostics {
            assert!(!diagnostic.help.is_empty(), "{title}: no remedy for {}", diagnostic.message);
            assert!(diagnostic.location.is_some(), "{title}: no place for {}", diagnostic.message);
            seen.insert(diagnostic.code);
        }
    }
    // These need files, flags or variables; `config_load` has them.
    let elsewhere =
        ["no-config", "unreadable", "ignored-file", "unknown-profile", "unknown-variable", "more"];
    let missing: Vec<&str> = codes::ALL
        .iter()
        .map(|(code, _)| *code)
        .filter(|code| !seen.contains(code) && !elsewhere.contains(code))
        .collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

#[test]
fn five_mistakes_are_five_findings_in_the_order_of_the_file() {
    let text =
        "[jobs.a]\nneeds = [\"b\"]\ntimeout = \"10x\"\ngpu = \"L4:9\"\nimag = \"py\"\n[jobs.c]\nruns = 1\n";
    let (sources, diagnostics) = findings("accel.toml", text);
    let lines: Vec<(usize, &str)> = diagnostics
        .iter()
        .map(|diagnostic| (sources.line_column(diagnostic.location.unwrap()).0, diagnostic.code))
        .collect();
    assert_eq!(
        lines,
        [(2, "unknown-job"), (3, "bad-unit"), (4, "bad-gpu"), (5, "unknown-key"), (7, "unknown-key")]
    );
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_strange(text in ".{0,200}|[\\[\\]{}=\"'a-z.\\n #:&*!|>-]{0,80}") {
        said("accel.toml", &text);
        said("accel.yaml", &text);
    }

    #[test]
    fn no_value_is_too_strange(
        key in "run|image|needs|gpu|matrix|route|env|volumes|secrets|retry|fallback|warm|cpu|memory|extends|watch",
        value in "1|-1|1e400|0x1F|true|\"\"|\"é\\\\n\"|\\[\\]|\\[1, 2, 3\\]|\\[\\[\\]\\]|\\{\\}|\\{ a = 1 \\}|1979-05-27|inf|nan",
    ) {
        said("accel.toml", &format!("[jobs.a]\n{key} = {value}\n[defaults]\n{key} = {value}\n"));
    }
}
