//! Draft → the text of accel.toml, with comments for whoever reads one for the first time.

use std::fmt::Write;

use super::draft::{Draft, DraftImage, DraftJob};
use super::python::Install;

const HEADER: &str = "\
# The jobs of this project. `accel list` shows them, `accel run <job>` runs one.
# `accel check` finds mistakes in this file; `accel plan <job>` shows what a job would run.
version = 1
";

pub fn render(draft: &Draft) -> String {
    let mut text = HEADER.to_owned();
    if let Some(name) = &draft.project {
        text.push_str("\n[project]\n");
        line(&mut text, "name", &quoted(name));
    }
    if let Some(image) = &draft.image {
        render_image(&mut text, image);
    }
    if let Some(dockerfile) = &draft.dockerfile {
        render_dockerfile(&mut text, dockerfile);
    }
    for job in &draft.jobs {
        render_job(&mut text, job);
    }
    text
}

fn render_image(text: &mut String, image: &DraftImage) {
    text.push_str("\n# Packages for the jobs: a virtual environment on this machine, an image on Modal.\n");
    text.push_str("[images.py]\n");
    if let Some(python) = &image.python {
        line(text, "python", &quoted(python));
    }
    match &image.install {
        Install::Nothing => {}
        Install::UvLock => text.push_str("uv_lock = true                   # the versions of uv.lock\n"),
        Install::Pyproject { extras } if extras.is_empty() => {
            line(text, "pyproject", &quoted("pyproject.toml"));
        }
        Install::Pyproject { extras } => {
            let extras = array(extras);
            line(
                text,
                "pyproject",
                &format!("{{ path = \"pyproject.toml\", optional_dependencies = {extras} }}"),
            );
        }
        Install::Requirements(files) => line(text, "requirements", &array(files)),
    }
    if !image.packages.is_empty() {
        line(text, "pip", &array(&image.packages));
    }
}

/// A comment, because the image of a Dockerfile is not what jobs on this machine run in by default.
fn render_dockerfile(text: &mut String, dockerfile: &str) {
    let _ = write!(
        text,
        "\n# {dockerfile} can be an image too; a job uses it with image = \"app\":\n# [images.app]\n# dockerfile = {}\n",
        quoted(dockerfile)
    );
}

fn render_job(text: &mut String, job: &DraftJob) {
    text.push('\n');
    if let Some(source) = job.source {
        let _ = writeln!(text, "# from {source}");
    }
    let _ = writeln!(text, "[jobs.{}]", job.name);
    if let Some(desc) = &job.desc {
        line(text, "desc", &quoted(desc));
    }
    if job.in_image {
        line(text, "image", &quoted("py"));
    }
    line(text, "run", &array(&job.run));
    if let Some((name, value)) = job.env {
        line(text, "env", &format!("{{ {name} = {} }}", quoted(value)));
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key} = {value}");
}

/// Longest array that stays on one line.
const LINE_WIDTH: usize = 90;

fn array(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    let short = format!("[{}]", items.join(", "));
    if short.len() <= LINE_WIDTH {
        return short;
    }
    format!("[\n{}]", items.iter().map(|item| format!("    {item},\n")).collect::<String>())
}

/// A TOML string. `${matrix.…}` in a found text is no placeholder.
fn quoted(text: &str) -> String {
    toml::Value::from(text.replace("${matrix.", "$${matrix.")).to_string()
}
