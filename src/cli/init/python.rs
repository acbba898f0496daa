//! A Python project: what it installs, which tools it configures, what it can start.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::survey::Files;

/// What a Python project says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PythonProject {
    pub name: Option<String>,
    /// `3.12`, from `.python-version` or `requires-python`.
    pub python: Option<String>,
    pub install: Install,
    /// Packages that `install` does not bring: test groups, tools that are configured only.
    pub extra_packages: Vec<String>,
    pub tools: Vec<Tool>,
    /// mypy's configuration names the files to check.
    pub mypy_knows_its_files: bool,
    /// The package lies in `src`, so tests need it on the module path.
    pub src_layout: bool,
    /// Command name and `module:function`.
    pub scripts: Vec<(String, String)>,
}

/// Where the dependencies are written.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Install {
    #[default]
    Nothing,
    /// uv.lock beside pyproject.toml.
    UvLock,
    /// `[project]` of pyproject.toml, with the extras that developers need.
    Pyproject {
        extras: Vec<String>,
    },
    Requirements(Vec<String>),
}

/// Tools with a configuration in the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    Pytest,
    Ruff,
    Flake8,
    Black,
    Mypy,
}

impl Tool {
    pub fn package(self) -> &'static str {
        match self {
            Self::Pytest => "pytest",
            Self::Ruff => "ruff",
            Self::Flake8 => "flake8",
            Self::Black => "black",
            Self::Mypy => "mypy",
        }
    }

    /// Files and tables of pyproject.toml and setup.cfg that configure the tool.
    fn traces(self) -> (&'static [&'static str], &'static str, &'static str) {
        match self {
            Self::Pytest => (&["pytest.ini", "conftest.py", "tests/conftest.py"], "pytest", "[tool:pytest]"),
            Self::Ruff => (&["ruff.toml", ".ruff.toml"], "ruff", "[ruff]"),
            Self::Flake8 => (&[".flake8"], "flake8", "[flake8]"),
            Self::Black => (&[], "black", "[black]"),
            Self::Mypy => (&["mypy.ini", ".mypy.ini"], "mypy", "[mypy]"),
        }
    }
}

const TOOLS: [Tool; 5] = [Tool::Pytest, Tool::Ruff, Tool::Flake8, Tool::Black, Tool::Mypy];

/// Names of extras and groups that developers install.
const DEVELOPMENT_GROUPS: [&str; 8] =
    ["dev", "test", "tests", "testing", "lint", "typing", "types", "development"];

const REQUIREMENTS_FILES: [&str; 9] = [
    "requirements.txt",
    "requirements-dev.txt",
    "requirements-test.txt",
    "requirements_dev.txt",
    "requirements_test.txt",
    "dev-requirements.txt",
    "test-requirements.txt",
    "requirements/base.txt",
    "requirements/dev.txt",
];

impl PythonProject {
    /// `None` where nothing says that the folder holds Python.
    pub fn find(files: &mut Files<'_>) -> Option<Self> {
        let pyproject = files.read_toml("pyproject.toml");
        let setup_cfg = files.read("setup.cfg").unwrap_or_default();
        let requirements: Vec<String> =
            REQUIREMENTS_FILES.iter().filter(|name| files.has(name)).map(|name| (*name).to_owned()).collect();
        let has_tests = has_test_files(files);
        let evident = pyproject.is_some()
            || !setup_cfg.is_empty()
            || !requirements.is_empty()
            || files.has("setup.py")
            || has_tests;
        if !evident {
            return None;
        }
        let pyproject = pyproject.unwrap_or_default();
        let dependencies = Dependencies::of(&pyproject, &setup_cfg, files, &requirements);
        let tools = tools(files, &pyproject, &setup_cfg, &dependencies, has_tests);
        let mut extra_packages = dependencies.listed;
        for tool in &tools {
            if !dependencies.names.contains(tool.package()) {
                extra_packages.push(tool.package().to_owned());
            }
        }
        Some(Self {
            name: project_name(&pyproject, &setup_cfg),
            python: python_version(files, &pyproject),
            install: dependencies.install,
            extra_packages,
            tools,
            mypy_knows_its_files: mypy_knows_its_files(&pyproject),
            src_layout: has_src_layout(files),
            scripts: scripts(&pyproject),
        })
    }
}

/// Where packages come from, those to list one by one, and the names of all that can be seen.
#[derive(Default)]
struct Dependencies {
    install: Install,
    listed: Vec<String>,
    names: BTreeSet<String>,
}

impl Dependencies {
    fn of(pyproject: &Table, setup_cfg: &str, files: &Files<'_>, requirements: &[String]) -> Self {
        let mut found = Self::default();
        let project = table(pyproject, &["project"]);
        let groups = table(pyproject, &["dependency-groups"]);
        let has_project = project.is_some_and(|project| project.contains_key("name"));
        if files.has("uv.lock") && has_project {
            found.install = Install::UvLock;
            found.note(strings(project.and_then(|project| project.get("dependencies"))));
            found.note(strings(groups.and_then(|groups| groups.get("dev"))));
            return found;
        }
        if let Some(poetry) = table(pyproject, &["tool", "poetry"])
            && !has_project
        {
            found.list(poetry_packages(poetry));
            return found;
        }
        if let Some(project) = project {
            found.take_project(project);
        }
        for group in groups.into_iter().flatten().filter(|(name, _)| is_development(name)) {
            found.list(strings(Some(group.1)));
        }
        if !requirements.is_empty() && found.install == Install::Nothing {
            found.install = Install::Requirements(requirements.to_vec());
        }
        for file in requirements {
            found.note(requirement_lines(&files.read(file).unwrap_or_default()));
        }
        found.list(setup_cfg_packages(setup_cfg));
        found
    }

    fn take_project(&mut self, project: &Table) {
        let dependencies = strings(project.get("dependencies"));
        let extras: Vec<(&String, &Value)> = project
            .get("optional-dependencies")
            .and_then(Value::as_table)
            .into_iter()
            .flatten()
            .filter(|(name, _)| is_development(name))
            .collect();
        if dependencies.is_empty() && extras.is_empty() {
            return;
        }
        self.note(dependencies);
        for (_, packages) in &extras {
            self.note(strings(Some(packages)));
        }
        let extras = extras.into_iter().map(|(name, _)| name.clone()).collect();
        self.install = Install::Pyproject { extras };
    }

    fn note(&mut self, requirements: Vec<String>) {
        self.names.extend(requirements.iter().map(|requirement| package_name(requirement)));
    }

    fn list(&mut self, requirements: Vec<String>) {
        self.note(requirements.clone());
        self.listed.extend(requirements);
    }
}

fn is_development(group: &str) -> bool {
    DEVELOPMENT_GROUPS.contains(&group.to_lowercase().as_str())
}

/// The name of a requirement as the package index normalises it.
fn package_name(requirement: &str) -> String {
    let name: String = requirement
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .collect();
    name.to_lowercase().replace(['_', '.'], "-")
}

/// `[tool.poetry.dependencies]` and groups as requirements: versions are kept where they are plain
/// constraints, and Poetry's own `^` and `~` become the range that they stand for.
fn poetry_packages(poetry: &Table) -> Vec<String> {
    let groups = table(poetry, &["group"]);
    let grouped = groups.into_iter().flatten().filter_map(|(_, group)| group.get("dependencies")?.as_table());
    let old = table(poetry, &["dev-dependencies"]);
    table(poetry, &["dependencies"])
        .into_iter()
        .chain(grouped)
        .chain(old)
        .flatten()
        .filter(|(name, _)| *name != "python")
        .filter_map(|(name, version)| poetry_requirement(name, version))
        .collect()
}

fn poetry_requirement(name: &str, version: &Value) -> Option<String> {
    let version = match version {
        Value::String(version) => version.as_str(),
        Value::Table(details) if details.get("optional").and_then(Value::as_bool) == Some(true) => {
            return None;
        }
        Value::Table(details) => details.get("version")?.as_str()?,
        _ => return None,
    };
    let constraint = match version.chars().next()? {
        '*' => String::new(),
        '^' => caret_range(&version[1..]),
        '~' if !version.starts_with("~=") => format!("~={}", at_least_two_parts(&version[1..])),
        digit if digit.is_ascii_digit() => format!("=={version}"),
        _ => version.to_owned(),
    };
    Some(format!("{name}{constraint}"))
}

/// `^1.2` is `>=1.2,<2`; `^0.3` is `>=0.3,<0.4`.
fn caret_range(version: &str) -> String {
    let parts: Vec<u64> = version.split('.').map_while(|part| part.parse().ok()).collect();
    let fixed = parts.iter().take_while(|part| **part == 0).count().min(parts.len().saturating_sub(1));
    let Some(raised) = parts.get(fixed) else { return format!(">={version}") };
    let mut upper: Vec<String> = vec!["0".to_owned(); fixed];
    upper.push((raised + 1).to_string());
    format!(">={version},<{}", upper.join("."))
}

fn at_least_two_parts(version: &str) -> String {
    if version.contains('.') { version.to_owned() } else { format!("{version}.0") }
}

/// Requirements of `[options] install_requires` and of development extras in setup.cfg.
fn setup_cfg_packages(text: &str) -> Vec<String> {
    let mut section = "";
    let mut wanted = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = name;
            wanted = false;
        } else if !line.starts_with([' ', '\t']) && line.contains('=') {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let key = key.trim();
            wanted = (section == "options" && key == "install_requires")
                || (section == "options.extras_require" && is_development(key));
            if wanted {
                found.extend(requirement_lines(value));
            }
        } else if wanted {
            found.extend(requirement_lines(line));
        }
    }
    found
}

/// Requirements among the lines of a requirements file: no options, no comments, no paths.
fn requirement_lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split(" #").next().unwrap_or_default().trim())
        .filter(|line| line.chars().next().is_some_and(|c| c.is_ascii_alphanumeric()))
        .filter(|line| !line.contains("://") || line.contains(" @ "))
        .map(str::to_owned)
        .collect()
}

fn tools(
    files: &Files<'_>,
    pyproject: &Table,
    setup_cfg: &str,
    dependencies: &Dependencies,
    has_tests: bool,
) -> Vec<Tool> {
    let configured = |tool: &Tool| {
        let (names, key, section) = tool.traces();
        names.iter().any(|name| files.has(name))
            || table(pyproject, &["tool", key]).is_some()
            || setup_cfg.lines().any(|line| line.trim() == section)
            || dependencies.names.contains(tool.package())
    };
    TOOLS.into_iter().filter(|tool| configured(tool) || (*tool == Tool::Pytest && has_tests)).collect()
}

fn mypy_knows_its_files(pyproject: &Table) -> bool {
    let keys = ["files", "packages", "modules"];
    table(pyproject, &["tool", "mypy"]).is_some_and(|mypy| keys.iter().any(|key| mypy.contains_key(*key)))
}

fn has_test_files(files: &Files<'_>) -> bool {
    let is_test =
        |name: &String| (name.starts_with("test_") && name.ends_with(".py")) || name.ends_with("_test.py");
    ["tests", "test", "."].iter().any(|folder| files.names_in(folder).iter().any(is_test))
}

fn has_src_layout(files: &Files<'_>) -> bool {
    files.names_in("src").iter().any(|name| files.has(&format!("src/{name}/__init__.py")))
}

fn project_name(pyproject: &Table, setup_cfg: &str) -> Option<String> {
    let named = |path: &[&str]| table(pyproject, path)?.get("name")?.as_str().map(str::to_owned);
    let from_setup = || {
        let line = setup_cfg.lines().find(|line| {
            line.split_once('=').is_some_and(|(key, _)| key.trim() == "name" && !key.starts_with(' '))
        })?;
        Some(line.split_once('=')?.1.trim().to_owned())
    };
    named(&["project"]).or_else(|| named(&["tool", "poetry"])).or_else(from_setup)
}

/// The series to use: what `.python-version` says, else the newest common one that `requires-python` allows.
fn python_version(files: &Files<'_>, pyproject: &Table) -> Option<String> {
    if let Some(text) = files.read(".python-version") {
        let version = text.lines().next().unwrap_or_default().trim();
        let series: Vec<&str> = version.split('.').take(2).collect();
        if series.len() == 2 && series.iter().all(|part| part.parse::<u32>().is_ok()) {
            return Some(series.join("."));
        }
    }
    let wanted = table(pyproject, &["project"])
        .and_then(|project| project.get("requires-python")?.as_str())
        .or_else(|| table(pyproject, &["tool", "poetry", "dependencies"])?.get("python")?.as_str())?;
    allowed_series(wanted).map(|minor| format!("3.{minor}"))
}

/// Minor versions of Python 3, most preferred first: the default, then newer ones, then older ones.
const PREFERRED_MINORS: [u32; 6] = [12, 13, 14, 11, 10, 9];

/// The most preferred minor version that a list of constraints allows.
fn allowed_series(constraints: &str) -> Option<u32> {
    let allowed = |minor: &u32| constraints.split(',').all(|constraint| allows(constraint.trim(), *minor));
    PREFERRED_MINORS.into_iter().find(allowed)
}

/// Whether one constraint (`>=3.9`, `<4`, `==3.11.*`) allows some release of Python 3's `minor`; what cannot
/// be read allows it.
fn allows(constraint: &str, minor: u32) -> bool {
    let number_at = constraint.find(|c: char| c.is_ascii_digit()).unwrap_or(constraint.len());
    let (operator, version) = constraint.split_at(number_at);
    let parts: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    let (bound, exact) = match parts.as_slice() {
        [3] if operator.trim() == "<" => return false,
        [3, bound, rest @ ..] => (*bound, !rest.is_empty()),
        _ => return true,
    };
    match operator.trim() {
        ">=" | "^" | "~=" | "~" => minor >= bound,
        ">" => minor > bound || (exact && minor == bound),
        "<" => minor < bound,
        "<=" => minor <= bound,
        "==" | "===" | "" => minor == bound,
        "!=" => minor != bound || exact,
        _ => true,
    }
}

/// `[project.scripts]` (or Poetry's): what the project installs as commands.
fn scripts(pyproject: &Table) -> Vec<(String, String)> {
    let listed = table(pyproject, &["project", "scripts"])
        .or_else(|| table(pyproject, &["tool", "poetry", "scripts"]));
    listed
        .into_iter()
        .flatten()
        .filter_map(|(name, target)| Some((name.clone(), target.as_str()?.to_owned())))
        .filter(|(_, target)| is_plain_target(target))
        .collect()
}

/// `package.module:function`.
fn is_plain_target(target: &str) -> bool {
    let is_name = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_');
    target
        .split_once(':')
        .is_some_and(|(module, function)| module.split('.').all(is_name) && is_name(function))
}

fn table<'t>(root: &'t Table, path: &[&str]) -> Option<&'t Table> {
    path.iter().try_fold(root, |table, key| table.get(*key)?.as_table())
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_series_that_constraints_allow() {
        let check = |constraints, expect: Option<u32>| {
            assert_eq!(allowed_series(constraints), expect, "{constraints}")
        };
        check(">=3.9", Some(12));
        check(">=3.9,<3.12", Some(11));
        check(">=3.13", Some(13));
        check("==3.10.*", Some(10));
        check("^3.8", Some(12));
        check(">=2.7", Some(12));
        check("<3", None);
    }

    #[test]
    fn poetry_versions_become_requirements() {
        let check = |version: &str, expect: &str| {
            let value = Value::String(version.to_owned());
            assert_eq!(poetry_requirement("a", &value).as_deref(), Some(expect));
        };
        check("*", "a");
        check("^1.2", "a>=1.2,<2");
        check("^0.3.1", "a>=0.3.1,<0.4");
        check("~1.2", "a~=1.2");
        check(">=1,<3", "a>=1,<3");
        check("1.0", "a==1.0");
    }

    #[test]
    fn setup_cfg_lists_requirements() {
        let text = "[metadata]\nname = demo\n[options]\ninstall_requires =\n    attrs>=20\n    idna # why\n\
                    python_requires = >=3.8\n[options.extras_require]\ntest = pytest\ndocs =\n    sphinx\n";
        assert_eq!(setup_cfg_packages(text), ["attrs>=20", "idna", "pytest"]);
        assert_eq!(project_name(&Table::new(), text).as_deref(), Some("demo"));
    }

    #[test]
    fn names_are_normalised() {
        assert_eq!(package_name("Ruamel.Yaml[jinja2]>=0.1"), "ruamel-yaml");
    }
}
