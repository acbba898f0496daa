//! The command line: flags, commands, help. The only folder with clap types.
//!
//! Parsing collects; what a flag means together with the file and the variables is resolved by each command.
//! A command is listed here only when it works.

mod completions;
mod parse;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
pub use clap_complete::Shell;

pub use self::completions::completions;
pub use self::parse::{Parsed, Rendered, UnknownCommand, command_names, parse, short_help};
use super::ambient::ColorWish;
use super::help::{EXAMPLES, EXIT_CODES, RUN_EXAMPLES, WATCH_EXAMPLES};
use crate::base::duration::{DURATION_HELP, parse_duration};

/// Run the jobs of accel.toml, on this machine or on Modal.
///
/// accel.toml lies at the root of a project and names jobs and the images they run in. accel looks for it in
/// the current folder and upwards.
#[derive(Debug, Parser)]
#[command(
    name = "accel",
    version,
    after_help = EXAMPLES,
    after_long_help = long_examples(),
    max_term_width = 100,
    disable_help_subcommand = true,
    propagate_version = false,
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

fn long_examples() -> String {
    format!("{EXAMPLES}\n\n{EXIT_CODES}")
}

#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// The file to read [default: accel.toml here or in a folder above; env: ACCEL_CONFIG]
    #[arg(short, long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,

    /// Apply a profile of the file [env: ACCEL_PROFILE]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub profile: Option<String>,

    /// Work as if started in this folder
    #[arg(
        short = 'C',
        long = "directory",
        global = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub directory: Option<PathBuf>,

    /// Print JSON for programs: one event per line for run, one document for the others
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,

    /// When to colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Global options")]
    pub color: ColorArg,

    /// Say less: only the jobs' own output and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: bool,

    /// Say more
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ColorArg {
    Auto,
    Always,
    Never,
}

impl From<ColorArg> for ColorWish {
    fn from(arg: ColorArg) -> Self {
        match arg {
            ColorArg::Auto => Self::Auto,
            ColorArg::Always => Self::Always,
            ColorArg::Never => Self::Never,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run jobs, after those that they need
    ///
    /// Independent jobs run in parallel. The exit code is the job's own when one was asked for, and 1 when
    /// several were and some failed.
    #[command(visible_alias = "r", after_help = RUN_EXAMPLES, after_long_help = format!("{RUN_EXAMPLES}\n\n{EXIT_CODES}"))]
    Run(RunArgs),

    /// Run jobs, and again whenever what they read changes
    ///
    /// A job follows its `watch.paths`, else its `inputs`, else all that would travel to Modal; never its outputs,
    /// ignored files, or a file that is written again with the same contents. A change in what a needed job reads
    /// runs that one first. Changes of accel.toml are taken over, mistakes in it shown while the last good one
    /// stays. On a terminal: Enter or r runs again, a runs all, m moves between this machine and Modal, q quits.
    ///
    /// Exit code: 0 after q; 129, 130 or 143 after a signal; 141 when nobody reads the output any more; 2 when
    /// accel.toml has errors at the start.
    #[command(visible_alias = "w", after_help = WATCH_EXAMPLES)]
    Watch(WatchArgs),

    /// Show the jobs of the file
    #[command(visible_alias = "ls")]
    List(ListArgs),

    /// Find mistakes in accel.toml and the files that it names
    Check,

    /// Show what jobs would run, and where each value came from
    #[command(after_help = "\
Examples:
  accel plan test                 the compiled sandbox spec, as TOML
  accel plan test --format json   the same for programs
  accel plan                      every job")]
    Plan(PlanArgs),

    /// Show why jobs run where they run
    Explain(ExplainArgs),

    /// Run any command in the environment of a job or an image
    ///
    /// The job's image, variables, secrets, volumes and resources, without its command, its needs and its outputs.
    /// A name that is both is the job's. The exit code is the command's. Standard input is the command's, here and on
    /// Modal: `</dev/null` gives it none. Where input, output and errors are all the terminal, it has one on Modal, too.
    #[command(after_help = "\
Examples:
  accel exec test -- python -c 'import numpy; print(numpy.__version__)'
  accel exec py -- pip list                    in the image py, on this machine
  accel exec py --on modal -- python bench.py  the same on Modal, with the working tree
  accel exec py --on modal -- wc -l < big.csv  with standard input")]
    Exec(ExecArgs),

    /// Open a shell in the environment of a job or an image, here or on Modal
    ///
    /// Here it is the user's own ($SHELL); on Modal it is bash, or sh where the image has no bash, in the working tree.
    /// Its exit code is accel's. On Modal every key goes to the shell, Ctrl-C included; Enter ~ . leaves one that does
    /// not answer. The size of the window follows where the image has stty. Without a terminal, commands are read from
    /// standard input.
    #[command(after_help = "\
Examples:
  accel shell test                with the job's image and variables
  accel shell py --on modal       on Modal, with the working tree
  accel shell py < setup.sh       commands from a file")]
    Shell(ShellArgs),

    /// Show what travels to Modal, and why a path does or does not
    ///
    /// A run sends the working tree itself; this shows what it would send. Nothing is read but names and sizes,
    /// and nothing is sent.
    #[command(after_help = "\
Examples:
  accel sync --plan                 how many files, how large, where the bytes are
  accel sync --plan -v              every path
  accel sync --plan data/model.bin  why it travels or stays: which rule, in which file and line")]
    Sync(SyncArgs),

    /// Make and manage images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),

    /// Show what runs on Modal: jobs, sandboxes, how long yet
    Ps,

    /// Stop what runs on Modal
    #[command(after_help = "\
Examples:
  accel stop test            the sandboxes of a job of this project
  accel stop 3f2a9c10        those of a run
  accel stop sb-…            one sandbox")]
    Stop(StopArgs),

    /// Show what jobs on Modal printed
    #[command(after_help = "\
Examples:
  accel logs test            the newest run of a job
  accel logs -f test         and what it prints from now on
  accel logs 3f2a9c10        all jobs of a run")]
    Logs(LogsArgs),

    /// Show what earlier runs took, and where
    ///
    /// Every attempt at a job is recorded with its parts: sync, image, queue, start, run, outputs. Rules over `p50`,
    /// `p90` and `runs`, and `route = \"auto\"`, decide by them.
    #[command(after_help = "\
Examples:
  accel history              the newest runs of this project, and what each job usually takes
  accel history test         those of one job
  accel history --all        of every project on this machine")]
    History(HistoryArgs),

    /// End what interrupted runs left on Modal and what is kept warm there, and remove old logs
    ///
    /// Ends only sandboxes of this machine that no accel uses. Every run ends what interrupted runs left, too.
    Prune(PruneArgs),

    /// Print the JSON Schema of accel.toml, for editors
    Schema,

    /// Check this machine: what accel needs, and what to do where it is missing
    Doctor,

    /// Write an accel.toml for this project
    ///
    /// Reads what is there (pyproject.toml, requirements, uv.lock, setup.cfg, Dockerfile, Taskfile, justfile,
    /// Makefile, package.json, Cargo.toml, go.mod) and writes a commented file that runs.
    #[command(after_help = "\
Examples:
  accel init              write accel.toml here; refuses to overwrite
  accel init --print      only show it")]
    Init(InitArgs),

    /// Generate a completion script for a shell
    #[command(after_help = "\
Examples:
  accel completions bash > ~/.local/share/bash-completion/completions/accel
  accel completions zsh  > ~/.zfunc/_accel
  accel completions fish > ~/.config/fish/completions/accel.fish")]
    Completions { shell: Shell },
}

/// Which jobs to run, and how.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// Names, globs or matrix combinations of jobs
    #[arg(value_name = "JOB")]
    pub names: Vec<String>,

    /// Run here or there, whatever the rules say [env: ACCEL_ON]
    #[arg(long, value_name = "PLACE")]
    pub on: Option<OnArg>,

    /// At most this many jobs at once [default: the number of cores; no limit on Modal; env: ACCEL_JOBS]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,

    /// After a failure, still run the jobs that do not depend on it [env: ACCEL_KEEP_GOING]
    #[arg(short, long)]
    pub keep_going: bool,

    /// Never fall back to another place [env: ACCEL_STRICT]
    #[arg(long)]
    pub strict: bool,

    /// Stop each job that was asked for after this long: 90s, 10m, 1h30m [env: ACCEL_TIMEOUT]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,

    /// Keep sandboxes on Modal for the next run, also where a job does not say `warm`, and in CI
    #[arg(long)]
    pub warm: bool,

    /// Start over on Modal: end what earlier runs kept, and use none of it
    #[arg(long)]
    pub clean: bool,

    /// Arguments for the job's command, after --
    #[arg(last = true, value_name = "ARG")]
    pub arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub jobs: JobArgs,

    /// Show what would run and where, and run nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Run again whenever something changes, as `accel watch` does
    #[arg(short, long, conflicts_with = "dry_run")]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    #[command(flatten)]
    pub jobs: JobArgs,

    /// Look for changes every second instead of being told: for folders whose changes the system does not tell
    #[arg(long)]
    pub poll: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| format!("{error}; {DURATION_HELP}"))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OnArg {
    Local,
    Modal,
    Auto,
}

impl OnArg {
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_str(text, false).ok()
    }
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only the names, one a line
    #[arg(long)]
    pub names: bool,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Names, globs or matrix combinations of jobs [default: all]
    #[arg(value_name = "JOB")]
    pub jobs: Vec<String>,
    #[arg(long, value_name = "FORMAT", default_value = "toml")]
    pub format: PlanFormatArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlanFormatArg {
    Toml,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Names, globs or matrix combinations of jobs
    #[arg(value_name = "JOB", required = true)]
    pub jobs: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// A job, a combination of a matrix, or an image
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Run here or there, whatever the rules say [env: ACCEL_ON]
    #[arg(long, value_name = "PLACE")]
    pub on: Option<OnArg>,
    /// Stop the command after this long: 90s, 10m, 1h30m [default: no limit; env: ACCEL_TIMEOUT]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// The command and its arguments, after --; no shell reads them
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ShellArgs {
    /// A job, a combination of a matrix, or an image
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where to open it [env: ACCEL_ON]
    #[arg(long, value_name = "PLACE")]
    pub on: Option<OnArg>,
}

#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Show, and send nothing
    #[arg(long, required = true)]
    pub plan: bool,
    /// Paths to explain; a final / asks about a folder that is not there
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List the environments that accel has made, or what Modal has of this project's images
    ///
    /// On Modal only what accel itself has built from here is known, and checked with the server. -v shows every layer.
    Ls(ImageLsArgs),
    /// Make images now: environments on this machine, or on Modal
    Build(ImageBuildArgs),
    /// Remove environments that are not in use
    Prune(ImagePruneArgs),
}

#[derive(Debug, Args)]
pub struct ImageLsArgs {
    /// Where: environments of this machine, or images on Modal
    #[arg(long, value_name = "PLACE", default_value = "local")]
    pub on: PlaceArg,
}

#[derive(Debug, Args)]
pub struct ImageBuildArgs {
    /// Names of images [default: all that jobs use]
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Make them again even if they are there
    #[arg(long)]
    pub force: bool,
    /// Where: environments of this machine, or images on Modal, whose build logs are shown
    #[arg(long, value_name = "PLACE", default_value = "local")]
    pub on: PlaceArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlaceArg {
    Local,
    Modal,
}

#[derive(Debug, Args)]
pub struct ImagePruneArgs {
    /// Only those not used for this long
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub older_than: Option<Duration>,
    /// Also those that this project's images need
    #[arg(long)]
    pub all: bool,
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct StopArgs {
    /// Jobs, runs (8 characters are enough) or sandboxes
    #[arg(required = true, value_name = "WHAT")]
    pub targets: Vec<String>,
    /// Also a sandbox that this machine did not make, named by its full id
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// A job, or a run (8 characters are enough)
    #[arg(value_name = "WHAT")]
    pub target: String,
    /// Go on until the job ends
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// A job, or a combination of a matrix [default: all]
    #[arg(value_name = "JOB")]
    pub job: Option<String>,
    /// The runs of every project
    #[arg(long)]
    pub all: bool,
    /// How many runs to show
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Logs older than this [default: 14d]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub older_than: Option<Duration>,
    /// Say what would go, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Print to standard output instead of writing the file
    #[arg(long)]
    pub print: bool,
    /// Replace an accel.toml that is there
    #[arg(long, conflicts_with = "print")]
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
