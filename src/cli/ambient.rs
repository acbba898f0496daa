//! What surrounds the process, read once: arguments, variables, folder, terminal.
//!
//! Everything below the command line gets it as plain data from here; nothing else in the library asks the
//! environment, the working folder or the terminal.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use super::error::CommandError;
use crate::diag::ColorChoice;
use crate::net::NetworkSettings;
use crate::store::Directories;

/// Columns assumed where there is no terminal to ask.
const DEFAULT_WIDTH: usize = 100;
/// Columns that renderings may count on; narrower terminals wrap.
const MINIMUM_WIDTH: usize = 20;

/// `COLUMNS`: width of the terminal, stronger than the terminal's own answer.
pub const COLUMNS: &str = "COLUMNS";
/// `NO_COLOR`: no colour when set and not empty.
pub const NO_COLOR: &str = "NO_COLOR";
/// `CLICOLOR_FORCE`: colour although the stream is no terminal, when set and not `0`.
pub const CLICOLOR_FORCE: &str = "CLICOLOR_FORCE";

pub struct Ambient {
    /// With the program's name first.
    pub arguments: Vec<OsString>,
    pub variables: Variables,
    /// The error is kept: only commands that need the folder fail over it.
    pub folder: io::Result<PathBuf>,
    pub stdout_is_terminal: bool,
    pub stderr_is_terminal: bool,
    /// At the start.
    terminal_width: Option<usize>,
}

/// Environment variables as given to the process.
#[derive(Debug, Clone, Default)]
pub struct Variables(pub Vec<(OsString, OsString)>);

impl Variables {
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// Those that are text.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let text = |(name, value): &(OsString, OsString)| {
            Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()))
        };
        self.0.iter().filter_map(text).collect()
    }

    /// The value where it is set, not empty and text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(OsStr::to_str).filter(|value| !value.is_empty())
    }
}

impl Ambient {
    pub fn collect() -> Self {
        Self {
            arguments: std::env::args_os().collect(),
            variables: Variables(std::env::vars_os().collect()),
            folder: std::env::current_dir(),
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            terminal_width: terminal_width(),
        }
    }

    /// Columns that diagnostics may use.
    pub fn width(&self) -> usize {
        self.wished_width().or_else(|| self.width_now()).unwrap_or(DEFAULT_WIDTH).max(MINIMUM_WIDTH)
    }

    /// Columns that a line has before the terminal breaks it, at this moment.
    pub fn columns(&self) -> usize {
        self.width_now().or_else(|| self.wished_width()).unwrap_or(DEFAULT_WIDTH)
    }

    /// Terminals get other sizes while accel runs.
    fn width_now(&self) -> Option<usize> {
        self.terminal_width.map(|at_start| terminal_width().unwrap_or(at_start))
    }

    /// Columns that lists on stdout may use; a pipe takes lines of any length.
    pub fn list_width(&self) -> Option<usize> {
        let width = self.wished_width().or(self.width_now().filter(|_| self.stdout_is_terminal))?;
        Some(width.max(MINIMUM_WIDTH))
    }

    /// A variable that turns something on.
    pub fn switch(&self, name: &str) -> Result<bool, CommandError> {
        match self.variables.text(name) {
            None | Some("0" | "false" | "no") => Ok(false),
            Some("1" | "true" | "yes") => Ok(true),
            Some(text) => {
                Err(CommandError::usage(format!("{name} is `{text}`")).help("set it to 1, or unset it"))
            }
        }
    }

    /// Where accel keeps its files; nothing is made.
    pub fn directories(&self, folder: &Path) -> Directories {
        let temporary = self.variables.get("TMPDIR").map_or_else(|| Path::new("/tmp"), Path::new);
        let user = rustix::process::geteuid().as_raw();
        let variable = |name: &str| self.variables.get(name).map(OsStr::to_owned);
        Directories::resolve(variable, folder, temporary, user)
    }

    pub fn network(&self) -> NetworkSettings {
        NetworkSettings::from_variables(|name| self.variables.get(name).map(OsStr::to_owned))
    }

    fn wished_width(&self) -> Option<usize> {
        self.variables.text(COLUMNS).and_then(|text| text.parse().ok()).filter(|width| *width > 0)
    }

    /// Whether a stream may be coloured: the flag, then `NO_COLOR`, `CLICOLOR_FORCE`, then the stream.
    pub fn color(&self, wish: ColorWish, is_terminal: bool) -> ColorChoice {
        let variable = |name| self.variables.text(name).is_some_and(|value| value != "0");
        let dumb = self.variables.text("TERM") == Some("dumb");
        let colored = match wish {
            ColorWish::Always => true,
            ColorWish::Never => false,
            ColorWish::Auto if self.variables.text(NO_COLOR).is_some() => false,
            ColorWish::Auto if variable(CLICOLOR_FORCE) => true,
            ColorWish::Auto => is_terminal && !dumb,
        };
        if colored { ColorChoice::Ansi } else { ColorChoice::Plain }
    }
}

/// The user's own git ignore file, as git finds it, whether or not it is there. Reads git's configuration.
pub fn global_ignore() -> Option<PathBuf> {
    ignore::gitignore::gitconfig_excludes_path()
}

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorWish {
    #[default]
    Auto,
    Always,
    Never,
}

/// What the first standard stream that is a terminal says.
fn terminal_width() -> Option<usize> {
    let ask = |size: rustix::io::Result<rustix::termios::Winsize>| {
        size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
    };
    ask(rustix::termios::tcgetwinsize(io::stdout()))
        .or_else(|| ask(rustix::termios::tcgetwinsize(io::stderr())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::SystemRoots;

    fn ambient(variables: &[(&str, &str)]) -> Ambient {
        Ambient {
            arguments: Vec::new(),
            variables: Variables(
                variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ),
            folder: Ok(PathBuf::from("/")),
            stdout_is_terminal: false,
            stderr_is_terminal: false,
            terminal_width: None,
        }
    }

    #[test]
    fn colour_follows_flag_then_variables_then_the_stream() {
        let check = |wish, variables: &[(&str, &str)], is_terminal, expect: bool| {
            let choice = ambient(variables).color(wish, is_terminal);
            assert_eq!(choice == ColorChoice::Ansi, expect, "{wish:?} {variables:?} {is_terminal}");
        };
        check(ColorWish::Auto, &[], true, true);
        check(ColorWish::Auto, &[], false, false);
        check(ColorWish::Auto, &[("NO_COLOR", "1")], true, false);
        check(ColorWish::Auto, &[("NO_COLOR", "")], true, true);
        check(ColorWish::Auto, &[("CLICOLOR_FORCE", "1")], false, true);
        check(ColorWish::Auto, &[("CLICOLOR_FORCE", "0")], false, false);
        check(ColorWish::Auto, &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], true, false);
        check(ColorWish::Auto, &[("TERM", "dumb")], true, false);
        check(ColorWish::Always, &[("NO_COLOR", "1")], false, true);
        check(ColorWish::Never, &[("CLICOLOR_FORCE", "1")], true, false);
    }

    #[test]
    fn the_network_is_what_the_variables_say() {
        let network = ambient(&[("ACCEL_SYSTEM_CERTS", "1"), ("https_proxy", "http://p:3128")]).network();
        assert_eq!(network.system_roots, SystemRoots::Trusted);
        assert_eq!(network.https_proxy.as_deref(), Some("http://p:3128"));
    }

    #[test]
    fn width_comes_from_columns_and_has_a_floor() {
        assert_eq!(ambient(&[]).width(), DEFAULT_WIDTH);
        assert_eq!(ambient(&[("COLUMNS", "300")]).width(), 300);
        assert_eq!(ambient(&[("COLUMNS", "3")]).width(), MINIMUM_WIDTH);
        assert_eq!(ambient(&[("COLUMNS", "wide")]).width(), DEFAULT_WIDTH);
    }
}
