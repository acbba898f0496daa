//! Longer texts of `--help`: examples and exit codes.

pub const EXIT_CODES: &str = "\
Exit codes:
  0      success
  n      the job's own code, when one job was asked for
  1      several jobs were asked for and some failed
  2      bad usage, or accel.toml has errors
  124    timed out
  125    accel itself failed
  126    the command cannot be executed
  127    the command was not found
  128+n  the job was ended by signal n
  129    stopped by SIGHUP
  130    stopped by Ctrl-C (SIGINT)
  141    stopped because nobody read the output any more (| head)
  143    stopped by SIGTERM";

pub const EXAMPLES: &str = "\
Examples:
  accel init              write an accel.toml for this project
  accel list              show the jobs
  accel run test          run one job, after those that it needs
  accel run lint test     run several, in parallel
  accel run test -- -x    add arguments to the job's command
  accel plan test         show what would run, and where each value came from";

pub const RUN_EXAMPLES: &str = "\
Examples:
  accel run test                 one job
  accel run lint test            several
  accel run 'bench-*'            all that match
  accel run 'test[python=3.12]'  one combination of a matrix
  accel run test -- -k parser    arguments for the job's command
  accel run test --on local      whatever the rules say";

pub const WATCH_EXAMPLES: &str = "\
Examples:
  accel watch test               run test now and after every change
  accel watch lint test          both; only the one that a change concerns
  accel watch test -- -k parser  with arguments for the job's command
  accel watch test --on modal    the same on Modal";
