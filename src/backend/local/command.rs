//! From a command as written to a program and its arguments.
//!
//! A string is for `bash -euo pipefail -c`, else for `sh -eu -c`; an array is a program and its arguments. Both
//! are looked up on the job's own PATH, the environment's folders included.
//!
//! # Strings that need no shell
//!
//! Starting bash costs more than everything accel does. A string that is nothing but words is therefore started
//! as bash itself would end up doing it (`bash -c 'tool arg'` replaces itself by `tool`), under conditions that
//! leave bash nothing else to do ([`plain_words`]):
//! - every word consists of characters that no shell expands, and the first is no assignment, keyword, builtin
//!   or job (`%1`); `true` and `false` alone are taken as the programs that behave the same;
//! - nothing in the environment changes what bash does at its start or what a name means to it;
//! - the program is found on a PATH of absolute folders. If it is not, or if it is a script without an
//!   interpreter line, the shell is asked after all, so that its words and codes (126, 127) stay its own.
//!
//! What the command can tell: `SHLVL` and `_` are as accel found them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::plan::spec::CommandSpec;
use crate::process::{FindError, find_program, path_folders};

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invocation {
    pub(super) program: PathBuf,
    pub(super) name: OsString,
    pub(super) args: Vec<OsString>,
    /// The string was started without a shell; if that turns out impossible, a shell is to run it.
    pub(super) in_place_of_shell: bool,
}

/// Where commands are looked up when the job has no PATH at all, as shells do.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Where a command is looked up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) env: &'a [(OsString, OsString)],
    pub(super) cwd: &'a Path,
}

impl Surroundings<'_> {
    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    fn path(&self) -> &OsStr {
        self.variable("PATH").unwrap_or(OsStr::new(DEFAULT_PATH))
    }
}

pub(super) fn resolve(command: &CommandSpec, around: Surroundings<'_>) -> Result<Invocation, FindError> {
    match command {
        CommandSpec::Argv(argv) => {
            let (name, args) = argv.split_first().map_or(("", &[][..]), |(name, args)| (name.as_str(), args));
            let program = find_program(name.as_ref(), around.path(), around.cwd)?;
            Ok(Invocation { program, name: name.into(), args: os(args), in_place_of_shell: false })
        }
        CommandSpec::Shell(text) => match without_shell(text, around) {
            Some(invocation) => Ok(invocation),
            None => in_shell(text, around),
        },
    }
}

/// The string under bash, or sh where there is none.
pub(super) fn in_shell(text: &str, around: Surroundings<'_>) -> Result<Invocation, FindError> {
    let shell = |name: &str, options: &[&str]| {
        let program = find_program(name.as_ref(), around.path(), around.cwd)?;
        let args = options.iter().copied().chain(["-c", text]).map(OsString::from).collect();
        Ok(Invocation { program, name: name.into(), args, in_place_of_shell: false })
    };
    shell("bash", &["-euo", "pipefail"]).or_else(|_| shell("sh", &["-eu"]))
}

fn without_shell(text: &str, around: Surroundings<'_>) -> Option<Invocation> {
    let words = plain_words(text)?;
    if around.env.iter().any(|(name, _)| steers_bash(name)) || !around.path_is_absolute() {
        return None;
    }
    let (name, args) = words.split_first()?;
    let program = find_program(name.as_ref(), around.path(), around.cwd).ok()?;
    let args = args.iter().map(OsString::from).collect();
    Some(Invocation { program, name: name.into(), args, in_place_of_shell: true })
}

impl Surroundings<'_> {
    fn path_is_absolute(&self) -> bool {
        path_folders(self.path()).all(|folder| folder.is_absolute())
    }
}

/// Variables from which bash takes startup files, options or functions.
fn steers_bash(name: &OsStr) -> bool {
    matches!(name.as_encoded_bytes(), b"BASH_ENV" | b"SHELLOPTS" | b"BASHOPTS" | b"POSIXLY_CORRECT")
        || name.as_encoded_bytes().starts_with(b"BASH_FUNC_")
}

/// The words of a string that means the same with and without a shell.
fn plain_words(text: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    let first = words.first()?;
    let plain =
        |word: &str, marks: &[u8]| word.bytes().all(|b| b.is_ascii_alphanumeric() || marks.contains(&b));
    let harmless = plain(first, b"_./+-") && words[1..].iter().all(|word| plain(word, b"_./:=@%+,-"));
    let same_as_program = words.len() == 1 && matches!(*first, "true" | "false");
    (harmless && (same_as_program || !is_shell_word(first))).then_some(words)
}

/// Keywords and builtins of bash 5 and of the common `sh`s. A name that is wrongly in here only costs the start
/// of a shell.
fn is_shell_word(word: &str) -> bool {
    const WORDS: &[&str] = &[
        ".",
        "alias",
        "bg",
        "bind",
        "break",
        "builtin",
        "caller",
        "case",
        "cd",
        "chdir",
        "command",
        "compgen",
        "complete",
        "compopt",
        "continue",
        "coproc",
        "declare",
        "dirs",
        "disown",
        "do",
        "done",
        "echo",
        "elif",
        "else",
        "enable",
        "esac",
        "eval",
        "exec",
        "exit",
        "export",
        "false",
        "fc",
        "fg",
        "fi",
        "for",
        "function",
        "getopts",
        "hash",
        "help",
        "history",
        "if",
        "in",
        "jobs",
        "kill",
        "let",
        "local",
        "logout",
        "mapfile",
        "popd",
        "print",
        "printf",
        "pushd",
        "pwd",
        "read",
        "readarray",
        "readonly",
        "return",
        "select",
        "set",
        "shift",
        "shopt",
        "source",
        "suspend",
        "test",
        "then",
        "time",
        "times",
        "trap",
        "true",
        "type",
        "typeset",
        "ulimit",
        "umask",
        "unalias",
        "unset",
        "until",
        "wait",
        "whence",
        "while",
    ];
    WORDS.binary_search(&word).is_ok()
}

fn os(words: &[String]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_that_no_shell_touches_are_plain() {
        let check = |text: &str, expect: bool| assert_eq!(plain_words(text).is_some(), expect, "{text}");
        check("pytest -q tests/unit --cov=src", true);
        check("true", true);
        check("./build.sh all", true);
        check("  cargo   test\t-p accel ", true);
        check("true --help", false);
        check("echo hello", false);
        check("cd src", false);
        check("time make", false);
        check("A=1 make", false);
        check("a:b", false);
        check("%1", false);
        check("", false);
        for special in "$`\"'\\|&;<>()*?[]#~!{}^\n".chars() {
            check(&format!("tool a{special}b"), false);
            check(&format!("to{special}ol"), false);
        }
    }

    #[test]
    fn the_list_of_shell_words_is_sorted_and_knows_every_builtin_of_bash() {
        let listed = std::process::Command::new("bash").args(["-c", "compgen -b; compgen -k"]).output();
        let Ok(listed) = listed else {
            eprintln!("skipped: no bash here");
            return;
        };
        for word in String::from_utf8(listed.stdout).unwrap().lines() {
            let alphanumeric = word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
            assert!(!alphanumeric || is_shell_word(word), "{word}");
        }
    }

    #[test]
    fn a_shell_runs_what_needs_one() {
        let env: Vec<(OsString, OsString)> = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let resolve = |text: &str, env: &[(OsString, OsString)]| {
            let around = Surroundings { env, cwd: Path::new("/") };
            resolve(&CommandSpec::Shell(text.to_owned()), around).unwrap()
        };
        let direct = resolve("env -i", &env);
        assert!(direct.in_place_of_shell);
        assert_eq!(direct.args, ["-i"]);
        assert!(!resolve("env -i; true", &env).in_place_of_shell);
        assert!(!resolve("no-such-program-here", &env).in_place_of_shell);
        let steered: Vec<_> = [env.clone(), vec![("BASH_ENV".into(), "/x".into())]].concat();
        assert!(!resolve("env -i", &steered).in_place_of_shell);
        let relative: Vec<_> = vec![("PATH".into(), "/usr/bin:/bin:.".into())];
        assert!(!resolve("env -i", &relative).in_place_of_shell);
    }
}
