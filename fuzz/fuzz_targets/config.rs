//! Any text, as TOML and as YAML: read, checked, every finding rendered; what is good is compiled and printed in
//! every format. Never a panic, never a slow input.
//!
//! The stages that are fuzzed are compiled into the target on their own: the rest of accel (network, database)
//! would only make the build long. A nightly toolchain runs it with `cargo fuzz run config`; `fuzz/run` does with
//! a stable one.

#![no_main]
#![allow(dead_code, unused_imports, reason = "the target uses a part of what it includes")]

#[path = "../../src/base/mod.rs"]
mod base;
#[path = "../../src/config/mod.rs"]
mod config;
#[path = "../../src/diag/mod.rs"]
mod diag;
#[path = "../../src/domain/mod.rs"]
mod domain;
#[path = "../../src/plan/mod.rs"]
mod plan;

use libfuzzer_sys::fuzz_target;

use plan::render::PlanFormat;

/// Findings of one text that are rendered: rendering the rest would find nothing more.
const RENDERED: usize = 5;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for name in ["accel.toml", "accel.yaml"] {
        match config::load_text(name, text) {
            Ok(loaded) => {
                render(&loaded.warnings, &loaded.config.sources);
                compile(&loaded.config);
            }
            Err(error) => {
                assert!(!error.diagnostics.is_empty(), "an error says what it is");
                for diagnostic in error.diagnostics.iter().take(RENDERED) {
                    let known = config::codes::ALL.iter().any(|(code, _)| *code == diagnostic.code);
                    assert!(known, "{} is no code of config", diagnostic.code);
                }
                render(&error.diagnostics, &error.sources);
            }
        }
    }
});

/// Every job of the file, with every file that an image names there and empty.
fn compile(config: &config::model::Config) {
    let selection = plan::Selection::everything();
    if config.jobs.is_empty() {
        return;
    }
    let mut files = plan::Files::new();
    for path in plan::files_needed(config, &selection, &files) {
        files.insert(path, Ok([].into()));
    }
    match plan::compile(config, &selection, &files) {
        Ok(plan) => {
            for format in [PlanFormat::Toml, PlanFormat::Json, PlanFormat::Yaml] {
                let printed = plan::render::render(&plan, format);
                assert!(!printed.is_empty());
                if matches!(format, PlanFormat::Toml) {
                    assert!(toml::from_str::<toml::Table>(&printed).is_ok(), "a plan is TOML:\n{printed}");
                }
            }
        }
        Err(findings) => {
            assert!(!findings.is_empty(), "an error says what it is");
            render(&findings, &config.sources);
        }
    }
}

fn render(findings: &[diag::Diagnostic], sources: &diag::SourceMap) {
    for finding in findings.iter().take(RENDERED) {
        assert!(!finding.help.is_empty(), "{} has no remedy", finding.code);
        diag::render(finding, sources, diag::ColorChoice::Plain, 100);
    }
}
