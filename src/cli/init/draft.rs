//! Survey → what accel.toml should hold: one image for Python, one job per thing that can be run.

use std::collections::BTreeSet;

use super::python::{Install, PythonProject, Tool};
use super::survey::{FoundCommand, Survey};

#[derive(Debug, Default)]
pub struct Draft {
    /// The project's name where it is not the folder's.
    pub project: Option<String>,
    pub image: Option<DraftImage>,
    pub jobs: Vec<DraftJob>,
    pub dockerfile: Option<String>,
    pub not_understood: Vec<String>,
}

/// The image `py`.
#[derive(Debug)]
pub struct DraftImage {
    pub python: Option<String>,
    pub install: Install,
    /// With the reason that is written beside them.
    pub packages: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftJob {
    pub name: String,
    pub desc: Option<String>,
    pub run: Vec<String>,
    pub in_image: bool,
    pub env: Option<(&'static str, &'static str)>,
    /// What led to the job, for a comment.
    pub source: Option<&'static str>,
}

impl Draft {
    pub fn from_survey(survey: Survey) -> Self {
        let mut jobs = Vec::new();
        let mut image = None;
        let mut project = None;
        if let Some(python) = survey.python {
            jobs.extend(python_jobs(&python));
            project = python.name.filter(|name| *name != survey.folder_name);
            let useful = python.install != Install::Nothing || !python.extra_packages.is_empty();
            if useful {
                let PythonProject { python, install, extra_packages, .. } = python;
                image = Some(DraftImage { python, install, packages: extra_packages });
            }
        }
        jobs.extend(survey.commands.into_iter().map(command_job));
        if jobs.is_empty() {
            jobs.push(hello());
        }
        make_names_unique(&mut jobs);
        let has_image = image.is_some();
        jobs.iter_mut().for_each(|job| job.in_image &= has_image);
        Self { project, image, jobs, dockerfile: survey.dockerfile, not_understood: survey.not_understood }
    }
}

fn python_jobs(python: &PythonProject) -> Vec<DraftJob> {
    let module_path = python.src_layout.then_some(("PYTHONPATH", "src"));
    let sources = if python.src_layout { "src" } else { "." };
    let tool_job = |tool: &Tool| {
        let (name, desc, run): (&str, &str, &[&str]) = match tool {
            Tool::Pytest => ("test", "run the tests", &["pytest"]),
            Tool::Ruff => ("lint", "lint with ruff", &["ruff", "check", "."]),
            Tool::Flake8 => ("flake8", "lint with flake8", &["flake8"]),
            Tool::Black => ("format-check", "is the code formatted?", &["black", "--check", "."]),
            Tool::Mypy if python.mypy_knows_its_files => ("types", "check types with mypy", &["mypy"]),
            Tool::Mypy => ("types", "check types with mypy", &["mypy", sources]),
        };
        let env = module_path.filter(|_| matches!(tool, Tool::Pytest));
        job(name, desc, run, env)
    };
    let mut jobs: Vec<DraftJob> = python.tools.iter().map(tool_job).collect();
    for (name, target) in &python.scripts {
        let Some((module, function)) = target.split_once(':') else { continue };
        let code = format!("import sys; from {module} import {function}; sys.exit({function}())");
        let mut script =
            job(name, &format!("the project's command {name}"), &["python", "-c", &code], module_path);
        script.source = Some("[project.scripts]; arguments go after --");
        jobs.push(script);
    }
    jobs
}

fn job(name: &str, desc: &str, run: &[&str], env: Option<(&'static str, &'static str)>) -> DraftJob {
    DraftJob {
        name: name.to_owned(),
        desc: Some(desc.to_owned()),
        run: run.iter().map(|word| (*word).to_owned()).collect(),
        in_image: true,
        env,
        source: None,
    }
}

fn command_job(command: FoundCommand) -> DraftJob {
    DraftJob {
        name: job_name(&command.name),
        desc: command.desc,
        run: command.run,
        in_image: false,
        env: None,
        source: Some(command.source),
    }
}

/// A job that shows that things work, where nothing better was found.
fn hello() -> DraftJob {
    DraftJob {
        in_image: false,
        ..job("hello", "a first job: replace it", &["echo", "hello from accel"], None)
    }
}

/// `test:unit` and `docs/build` as job names.
fn job_name(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    let name: String = name.chars().map(allowed).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "job".to_owned() } else { name.to_owned() }
}

/// The first job of a name keeps it; later ones are named after the tool that runs them, then counted.
fn make_names_unique(jobs: &mut [DraftJob]) {
    let mut taken = BTreeSet::new();
    for job in jobs {
        let plain = job.name.clone();
        let with_tool = format!("{}-{plain}", job_name(&job.run[0]));
        let counted = (2..).map(|count| format!("{with_tool}-{count}"));
        let free = [plain, with_tool.clone()].into_iter().chain(counted).find(|name| !taken.contains(name));
        job.name = free.expect("counting never ends");
        taken.insert(job.name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_fit_and_unique() {
        let command = |name: &str, tool: &str| {
            command_job(FoundCommand {
                name: name.into(),
                desc: None,
                run: vec![tool.into(), name.into()],
                source: "x",
            })
        };
        let mut jobs = [
            command("test", "npm"),
            command("test", "just"),
            command("test", "just"),
            command("test:unit", "npm"),
            command(":", "npm"),
        ];
        make_names_unique(&mut jobs);
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        assert_eq!(names, ["test", "just-test", "just-test-2", "test-unit", "job"]);
    }
}
