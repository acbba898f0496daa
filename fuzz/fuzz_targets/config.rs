//! Any text, as TOML and as YAML: read, checked, every finding rendered; never a panic, never a slow input.
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

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for name in ["accel.toml", "accel.yaml"] {
        if let Err(error) = config::load_text(name, text) {
            assert!(!error.diagnostics.is_empty(), "an error says what it is");
            for diagnostic in error.diagnostics.iter().take(5) {
                assert!(!diagnostic.help.is_empty(), "{} has no remedy", diagnostic.code);
                assert!(config::codes::ALL.iter().any(|(code, _)| *code == diagnostic.code), "{}", diagnostic.code);
                diag::render(diagnostic, &error.sources, diag::ColorChoice::Plain, 100);
            }
        }
    }
});
