//! The completion scripts: what clap generates, with the names of the project's jobs where a job is named.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// The completion script of a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "accel", &mut script);
    match shell {
        Shell::Bash => script.extend_from_slice(include_bytes!("../completions/jobs.bash")),
        Shell::Fish => script.extend_from_slice(include_bytes!("../completions/jobs.fish")),
        Shell::Zsh => return with_jobs_in_zsh(script),
        _ => {}
    }
    script
}

/// The beginnings of the help of arguments that take names of jobs.
const JOB_ARGUMENTS: [&str; 4] = [
    "-- Names, globs or matrix combinations of jobs",
    "-- A job, a combination of a matrix, or an image",
    "-- Jobs, runs",
    "-- A job, or a run",
];

/// The places of the generated script where job names go; everything else stays as it is.
fn with_jobs_in_zsh(script: Vec<u8>) -> Vec<u8> {
    let Ok(text) = String::from_utf8(script.clone()) else { return script };
    let takes_jobs = |line: &str| JOB_ARGUMENTS.iter().any(|help| line.contains(help));
    let lines = text.split_inclusive('\n').map(|line| {
        if takes_jobs(line) { line.replace(":_default", ":_accel_jobs") } else { line.to_owned() }
    });
    let text: String = lines.collect();
    text.replacen("_accel() {", concat!(include_str!("../completions/jobs.zsh"), "\n_accel() {"), 1)
        .into_bytes()
}
