//! Recipes of a justfile and targets of a Makefile: those that can be run without arguments.

use super::survey::{Files, FoundCommand};

pub fn justfile(files: &Files<'_>) -> Vec<FoundCommand> {
    let Some(name) = files.first_of(&["justfile", "Justfile", ".justfile"]) else { return Vec::new() };
    files.read(name).map(|text| just_recipes(&text)).unwrap_or_default()
}

/// A recipe head is `name:` at the start of a line; comments above it describe it, attributes may hide it.
fn just_recipes(text: &str) -> Vec<FoundCommand> {
    let mut found = Vec::new();
    let mut comment: Option<&str> = None;
    let mut private = false;
    for line in text.lines() {
        if let Some(words) = line.strip_prefix('#') {
            comment = Some(words.trim());
            continue;
        }
        if line.starts_with('[') {
            private |= line.contains("private");
            continue;
        }
        if let Some(name) = just_recipe_name(line)
            && !private
            && !name.starts_with('_')
        {
            found.push(command("just", name, comment, "justfile"));
        }
        if !line.starts_with([' ', '\t']) {
            comment = None;
            private = false;
        }
    }
    found
}

/// The name, unless a parameter has no default.
fn just_recipe_name(line: &str) -> Option<&str> {
    if line.starts_with([' ', '\t']) {
        return None;
    }
    let (head, tail) = line.split_once(':')?;
    if tail.starts_with('=') {
        return None;
    }
    let mut words = head.trim_start_matches('@').split_whitespace();
    let name = words.next().filter(|name| is_name(name))?;
    let needs_argument = words.any(|word| !word.contains('=') && !word.starts_with('*'));
    let is_keyword = ["set", "alias", "export", "import", "mod"].contains(&name);
    (!needs_argument && !is_keyword).then_some(name)
}

pub fn makefile(files: &Files<'_>) -> Vec<FoundCommand> {
    let Some(name) = files.first_of(&["GNUmakefile", "makefile", "Makefile"]) else { return Vec::new() };
    files.read(name).map(|text| make_targets(&text)).unwrap_or_default()
}

/// Targets that many Makefiles have without declaring them phony, and that are hardly ever files.
const CONVENTIONAL: [&str; 8] = ["test", "tests", "check", "lint", "format", "fmt", "build", "bench"];

/// Targets that are declared phony, described with `##` or named as is the custom; the others are files.
fn make_targets(text: &str) -> Vec<FoundCommand> {
    let phony: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix(".PHONY:"))
        .flat_map(|names| names.trim_end_matches('\\').split_whitespace())
        .collect();
    let mut found: Vec<FoundCommand> = Vec::new();
    let mut above: Option<&str> = None;
    for line in text.lines() {
        if let Some(words) = line.strip_prefix('#') {
            above = Some(words.trim_start_matches('#').trim());
            continue;
        }
        if let Some((target, rest)) = make_target(line) {
            let described = rest.split_once("##").map(|(_, words)| words.trim());
            let wanted = phony.contains(&target) || described.is_some() || CONVENTIONAL.contains(&target);
            if wanted && !found.iter().any(|known| known.name == target) {
                found.push(command("make", target, described.or(above), "Makefile"));
            }
        }
        above = None;
    }
    found
}

fn make_target(line: &str) -> Option<(&str, &str)> {
    let (head, rest) = line.split_once(':')?;
    let assignment = rest.starts_with(['=', ':']);
    (!assignment && is_name(head.trim_end())).then(|| (head.trim_end(), rest))
}

fn is_name(word: &str) -> bool {
    let first = word.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn command(tool: &str, name: &str, desc: Option<&str>, source: &'static str) -> FoundCommand {
    FoundCommand {
        name: name.to_owned(),
        desc: desc.filter(|desc| !desc.is_empty()).map(str::to_owned),
        run: vec![tool.to_owned(), name.to_owned()],
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(commands: &[FoundCommand]) -> Vec<(&str, Option<&str>)> {
        commands.iter().map(|command| (command.name.as_str(), command.desc.as_deref())).collect()
    }

    #[test]
    fn just_recipes_that_need_nothing() {
        let text = "set shell := ['bash', '-c']\nversion := '1'\n\n# run the tests\ntest *args:\n  pytest {{args}}\n\
                    build target:\n  make {{target}}\nlint fix='no': test\n  ruff check\n_hidden:\n  true\n\
                    [private]\nsecret:\n  true\nalias t := test\n";
        assert_eq!(names(&just_recipes(text)), [("test", Some("run the tests")), ("lint", None)]);
    }

    #[test]
    fn make_targets_that_are_no_files() {
        let text = ".PHONY: test clean\nCC := gcc\n# run all tests\ntest: build/a.o\n\tpytest\nbuild/a.o: a.c\n\
                    \tcc a.c\nclean:\n\trm -rf build\nhelp: ## show help\n\t@true\n%.o: %.c\nlint:\n\truff check\n";
        assert_eq!(
            names(&make_targets(text)),
            [("test", Some("run all tests")), ("clean", None), ("help", Some("show help")), ("lint", None)]
        );
    }
}
