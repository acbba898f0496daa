//! Dependencies that a pyproject.toml declares.

use serde::Deserialize;

use std::collections::BTreeMap;

use crate::base::suggest::nearest;
use crate::diag::Diagnostic;

use super::spec::FileRef;

#[derive(Deserialize)]
struct Pyproject {
    project: Option<Project>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Project {
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(default)]
    optional_dependencies: BTreeMap<String, Vec<String>>,
}

/// `[project] dependencies`, then those of the named groups of `[project.optional-dependencies]`, as written.
pub fn dependencies(file: &FileRef, groups: &[String]) -> Result<Vec<String>, Diagnostic> {
    let shown = file.path.display();
    let bad = |message: String| Diagnostic::error("bad-pyproject", message);
    let text = std::str::from_utf8(&file.contents).map_err(|_| bad(format!("`{shown}` is not UTF-8")))?;
    let parsed: Pyproject = toml::from_str(text).map_err(|error| {
        let line =
            error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        bad(format!("{shown}:{line}: {}", error.message()))
    })?;
    let Some(project) = parsed.project else {
        return Err(bad(format!("`{shown}` has no [project] table"))
            .help("declare `dependencies` under [project], or list the packages under `pip`"));
    };
    let mut all = project.dependencies;
    for group in groups {
        let Some(packages) = project.optional_dependencies.get(group) else {
            let names = project.optional_dependencies.keys().map(String::as_str);
            return Err(unknown_group(group, &shown.to_string(), names));
        };
        all.extend(packages.iter().cloned());
    }
    Ok(all)
}

fn unknown_group<'a>(group: &str, file: &str, known: impl Iterator<Item = &'a str> + Clone) -> Diagnostic {
    let message = format!("`{file}` has no optional dependencies `{group}`");
    let help = match nearest(group, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => match known.collect::<Vec<_>>().join(", ") {
            names if names.is_empty() => "add them under [project.optional-dependencies]".to_owned(),
            names => format!("there are {names}"),
        },
    };
    Diagnostic::error("unknown-extra", message).help(help)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn read(text: &str, groups: &[&str]) -> Result<Vec<String>, String> {
        let file = FileRef { path: "pyproject.toml".into(), contents: Arc::from(text.as_bytes()) };
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        dependencies(&file, &groups)
            .map_err(|finding| format!("{} | {}", finding.message, finding.help.join("; ")))
    }

    const TEXT: &str = r#"
        [project]
        name = "x"
        dependencies = ["numpy>=2", "rich"]
        [project.optional-dependencies]
        test = ["pytest"]
        docs = ["sphinx"]
        [tool.other]
        anything = 1
    "#;

    #[test]
    fn takes_dependencies_and_named_groups() {
        assert_eq!(read(TEXT, &[]).unwrap(), ["numpy>=2", "rich"]);
        assert_eq!(read(TEXT, &["docs", "test"]).unwrap(), ["numpy>=2", "rich", "sphinx", "pytest"]);
        assert_eq!(read("[project]", &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn says_what_is_missing() {
        insta::assert_snapshot!(read(TEXT, &["tests"]).unwrap_err(), @"`pyproject.toml` has no optional dependencies `tests` | did you mean `test`?");
        insta::assert_snapshot!(read(TEXT, &["gpu-extras"]).unwrap_err(), @"`pyproject.toml` has no optional dependencies `gpu-extras` | there are docs, test");
        insta::assert_snapshot!(read("[tool.x]", &[]).unwrap_err(), @"`pyproject.toml` has no [project] table | declare `dependencies` under [project], or list the packages under `pip`");
        assert!(read("[project]\ndependencies = 3", &[]).unwrap_err().starts_with("pyproject.toml:2: "));
    }
}
