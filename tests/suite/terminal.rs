//! `tty = true` on a real terminal: whose the keyboard is, and what the terminal is like afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::beacons::helper;
use crate::world::World;

const DEADLINE: Duration = Duration::from_secs(60);

const JOBS: &str = r#"
version = 1
[defaults]
tty = true
[jobs.ask]
run = 'read -r line; echo "got-$line"'
[jobs.raw]
run = "stty raw -echo; exit 5"
[jobs.trap]
run = "trap 'echo caught; exit 3' INT; read -r line; echo ready; while :; do sleep 0.01; done"
[jobs.waits]
run = 'echo ready; read -r line; echo "got-$line"'
"#;

/// A terminal with a session of its own on it.
pub struct Terminal {
    master: File,
    seen: String,
    pieces: Receiver<Vec<u8>>,
    session: Child,
    pub world: World,
}

impl Terminal {
    fn start(program: &[&str]) -> Self {
        Self::start_in(World::new().file("accel.toml", JOBS), program)
    }

    /// Runs a program as the leader of a session whose terminal, of 40 rows and 120 columns, this is.
    pub fn start_in(world: World, program: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = File::options().read(true).write(true).open(name).unwrap();
        let stdio = || Stdio::from(OwnedFd::from(slave.try_clone().unwrap()));
        let bin = std::path::Path::new(env!("CARGO_BIN_EXE_accel")).parent().unwrap();
        let session = Command::new(helper())
            .arg("session")
            .args(program)
            .current_dir(world.project())
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("HOME", world.home())
            .env("TERM", "dumb")
            .env("PS1", "")
            .envs(world.variables().iter().map(|(name, value)| (name, value)))
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let master = File::from(master);
        let (sender, pieces) = channel();
        let mut reader = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails once nobody has the terminal open.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { master, seen: String::new(), pieces, session, world }
    }

    pub fn resize(&mut self, rows: u16, columns: u16) -> &mut Self {
        tcsetwinsize(&self.master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
            .unwrap();
        self
    }

    pub fn types(&mut self, text: &str) -> &mut Self {
        self.master.write_all(text.as_bytes()).unwrap();
        self
    }

    /// Waits until `text` has appeared since the last wait.
    #[track_caller]
    pub fn shows(&mut self, text: &str) -> &mut Self {
        self.shown_before(text);
        self
    }

    /// The same; returns what was shown before it.
    #[track_caller]
    pub fn shown_before(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                let mut before = std::mem::replace(&mut self.seen, rest);
                before.truncate(at);
                return before;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("never shown: {text:?}; seen since: {:?}", self.seen),
            }
        }
    }

    #[track_caller]
    pub fn ends_with(&mut self, code: i32) {
        assert_eq!(self.session.wait().unwrap().code(), Some(code), "{:?}", self.seen);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.session.kill();
        let _ = self.session.wait();
    }
}

#[test]
fn a_job_reads_the_terminal() {
    let mut terminal = Terminal::start(&["accel", "run", "ask"]);
    terminal.types("hello\n").shows("got-hello");
    terminal.ends_with(0);
}

#[test]
fn the_terminal_is_as_it_was_after_a_job_that_changed_it() {
    // A shell without job control shares accel's group: it can read only if that is in the foreground again.
    let script = "stty -a > before; accel run raw; code=$?; stty -a > after; cmp before after && \
                  read -r line && echo \"back-$line-$code\"";
    let mut terminal = Terminal::start(&["sh", "-c", script]);
    terminal.types("again\n").shows("back-again-5");
    terminal.ends_with(0);
}

#[test]
fn an_interrupt_key_is_the_jobs() {
    let mut terminal = Terminal::start(&["accel", "run", "trap"]);
    // Whoever has read the terminal is in its foreground.
    terminal.types("go\n").shows("ready").types("\x03").shows("caught");
    terminal.ends_with(3);
}

#[test]
fn a_suspend_key_returns_to_the_shell_and_fg_to_the_job() {
    let mut terminal = Terminal::start(&["bash", "--norc", "--noprofile", "--noediting", "-i"]);
    terminal.types("accel run waits; echo code-$?\n").shows("ready").types("\x1a").shows("Stopped");
    // The line that typed it is over; the shell has the keyboard.
    terminal.types("echo shell-$((40+2))\n").shows("shell-42");
    terminal.types("fg\n").shows("accel run waits").types("more\n").shows("got-more");
    terminal.types("exit 0\n");
    terminal.ends_with(0);
}
