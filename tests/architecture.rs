//! The rules of the house that a compiler does not check: layers, single places, sizes.
//!
//! Reads the source as text; code below `#[cfg(test)]` does not count.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Layer of each top-level module (see the table in `src/lib.rs`).
const LAYERS: [(&str, u8); 16] = [
    ("base", 0),
    ("diag", 0),
    ("domain", 1),
    ("event", 1),
    ("redact", 1),
    ("config", 1),
    ("plan", 2),
    ("route", 2),
    ("process", 3),
    ("net", 3),
    ("store", 3),
    ("workspace", 3),
    ("backend", 3),
    ("engine", 4),
    ("sink", 4),
    ("watch", 4),
];
const TOP: u8 = 5;

struct SourceFile {
    /// Relative to `src`.
    path: String,
    code: String,
}

impl SourceFile {
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// Lines that are not comments, with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<SourceFile> {
    let mut found = Vec::new();
    collect(&root().join("src"), &mut found);
    found.sort_by(|a: &SourceFile, b| a.path.cmp(&b.path));
    assert!(found.len() > 20, "the source tree was not found");
    found
}

fn collect(folder: &Path, found: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("entry is readable").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "generated") {
                collect(&path, found);
            }
            continue;
        }
        let name =
            path.strip_prefix(root().join("src")).expect("below src").to_string_lossy().replace('\\', "/");
        if !name.ends_with(".rs") || name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("source is readable");
        let code = text.split("\n#[cfg(test)]").next().unwrap_or_default().to_owned();
        found.push(SourceFile { path: name, code });
    }
}

fn layer(module: &str) -> Option<u8> {
    match module {
        "cli" | "mcp" | "main" => Some(TOP),
        _ => LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer),
    }
}

fn report(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn every_module_has_a_layer_and_uses_only_its_own_and_lower_ones() {
    let mut offences = Vec::new();
    for file in sources().iter().filter(|file| file.path != "lib.rs") {
        let Some(own) = layer(file.module()) else {
            offences.push(format!("{}: module `{}` has no layer", file.path, file.module()));
            continue;
        };
        for (number, line) in file.lines() {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if layer(&used).is_some_and(|used| used > own) {
                    offences.push(format!("{}:{number}: layer {own} uses `{used}`", file.path));
                }
            }
        }
    }
    report("a layer may only use lower ones", &offences);
}

/// (what must not appear, in which modules, except in these files, why)
const FORBIDDEN: [(&str, &[&str], &[&str], &str); 21] = [
    ("backend::local", &["engine", "sink", "watch", "plan", "route"], &[], "the engine names no backend"),
    ("backend::modal", &["engine", "sink", "watch", "plan", "route"], &[], "the engine names no backend"),
    ("crate::backend", &["sink"], &[], "sinks name no backend"),
    ("crate::engine", &["sink"], &[], "sinks name no engine"),
    ("config::", &["backend", "engine", "sink"], &[], "only specs reach backends, engine and sinks"),
    ("async ", &["base", "diag", "domain", "config", "plan", "route"], &[], "pure stages do not wait"),
    (
        "tokio::",
        &["base", "diag", "domain", "config", "plan", "route", "sink"],
        &[],
        "pure stages do not wait",
    ),
    ("std::fs", &["plan", "route", "diag", "domain", "event"], &[], "pure stages read no files"),
    (
        "std::env",
        &[
            "base",
            "diag",
            "domain",
            "event",
            "config",
            "plan",
            "route",
            "engine",
            "sink",
            "watch",
            "backend",
            "store",
            "workspace",
            "process",
            "net",
        ],
        &[],
        "the environment is an argument",
    ),
    ("Instant::now", &["plan", "route", "config", "base"], &[], "pure stages have no clock"),
    ("SystemTime::now", &["plan", "route", "config", "base"], &[], "pure stages have no clock"),
    (
        "clap::",
        ANYWHERE,
        &["cli/args/mod.rs", "cli/args/parse.rs", "cli/args/completions.rs"],
        "clap types in one folder",
    ),
    ("Command::new(", ANYWHERE, &["process/spawn.rs"], "one place spawns processes"),
    ("annotate_snippets", ANYWHERE, &["diag/render.rs"], "one place renders diagnostics"),
    ("indicatif", ANYWHERE, &["sink/terminal/progress.rs"], "one place draws progress"),
    ("notify::", ANYWHERE, &["watch/source.rs"], "one place names notify"),
    (
        "serde_yaml",
        ANYWHERE,
        &["config/tree/yaml.rs", "plan/render/yaml.rs", "cli/init/taskfile.rs"],
        "YAML behind one module each way",
    ),
    ("io::stdout()", ANYWHERE, &["cli/ambient.rs", "cli/printer.rs"], "one place opens stdout"),
    ("Endpoint::", ANYWHERE, &["backend/modal/connect.rs"], "one place opens a channel"),
    ("tokio::spawn(", ANYWHERE, &[], "every task has an owner: JoinSet or a kept handle"),
    ("process::exit", ANYWHERE, &["main.rs", "cli/signals.rs"], "only the edge exits"),
];
const ANYWHERE: &[&str] = &[];

#[test]
fn each_outside_thing_is_named_in_one_place() {
    let mut offences = Vec::new();
    for file in &sources() {
        for (text, modules, except, why) in FORBIDDEN {
            let applies = modules.is_empty() || modules.contains(&file.module());
            if !applies || except.contains(&file.path.as_str()) {
                continue;
            }
            for (number, line) in file.lines().filter(|(_, line)| line.contains(text)) {
                offences.push(format!("{}:{number}: `{}` ({why})", file.path, line.trim()));
            }
        }
    }
    report("some things have one place", &offences);
}

#[test]
fn every_module_says_what_it_is_for() {
    let without: Vec<String> =
        sources().iter().filter(|file| !file.code.starts_with("//!")).map(|file| file.path.clone()).collect();
    report("a file opens with what it owns", &without);
}

/// Longest function, and the 90th percentile of all.
const LONGEST_FUNCTION: usize = 120;
const USUAL_FUNCTION: usize = 35;
const LONGEST_FILE: usize = 600;

#[test]
fn functions_and_files_stay_short() {
    let sources = sources();
    let mut lengths = Vec::new();
    let mut offences = Vec::new();
    for file in &sources {
        let lines = file.code.lines().count();
        if lines > LONGEST_FILE {
            offences.push(format!("{}: {lines} lines", file.path));
        }
        for (name, at, length) in functions(&file.code) {
            if length > LONGEST_FUNCTION {
                offences.push(format!("{}:{at}: fn {name} has {length} lines", file.path));
            }
            lengths.push(length);
        }
    }
    report("functions and files stay short", &offences);
    lengths.sort_unstable();
    let ninetieth = lengths[lengths.len() * 9 / 10];
    assert!(ninetieth <= USUAL_FUNCTION, "the 90th percentile of function length is {ninetieth}");
}

/// Name, line and length of each function, found by its indentation (the code is formatted).
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let mut open: BTreeMap<usize, (String, usize)> = BTreeMap::new();
    for (at, line) in code.lines().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if let Some(name) = function_name(trimmed) {
            open.insert(indent, (name, at));
        }
        let closes = trimmed == "}" || (trimmed.ends_with('}') && function_name(trimmed).is_some());
        if closes && let Some((name, start)) = open.remove(&indent) {
            found.push((name, start + 1, at - start + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let before = line.find("fn ")?;
    let qualifiers = ["pub", "pub(crate)", "pub(super)", "async", "const", "unsafe"];
    if !line[..before].split_whitespace().all(|word| qualifiers.contains(&word)) {
        return None;
    }
    let name: String = line[before + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

#[test]
fn text_shown_and_kept_names_no_machine() {
    let mut offences = Vec::new();
    for file in &sources() {
        for (number, line) in file.code.lines().enumerate() {
            if ["/root/", "/work/", "/home/runner"].iter().any(|path| line.contains(path)) {
                offences.push(format!("{}:{}", file.path, number + 1));
            }
        }
    }
    report("no paths of a machine", &offences);
}
