//! Exit codes of the `accel` command: documented API, listed in `accel --help`.

/// Several jobs were asked for and some failed.
pub const SOME_FAILED: u8 = 1;
/// Bad usage or a faulty configuration.
pub const USAGE: u8 = 2;
/// The job ran into its timeout.
pub const TIMED_OUT: u8 = 124;
/// accel itself or its backend failed.
pub const ACCEL_FAILED: u8 = 125;
/// The command was found but could not be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;
/// Interrupted by Ctrl-C (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// `128 + n`, as a shell reports a process ended by signal `n`. A number that is no signal's is 255, never a success.
pub fn of_signal(signal: i32) -> u8 {
    if signal < 1 {
        return u8::MAX;
    }
    signal.checked_add(128).and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
