//! The surroundings of a command: arguments, variables, PATH, terminal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use accel::backend::modal::wire::client as wire;
use tokio::process::Command;

use super::Sandbox;

impl Sandbox {
    pub(super) fn command(
        &self,
        arguments: &[String],
        environment: BTreeMap<String, String>,
        workdir: Option<&str>,
    ) -> Command {
        let arguments: Vec<_> = arguments.iter().map(|text| self.world.rewrite(text)).collect();
        let mut command = Command::new(&arguments[0]);
        let workdir = self.world.place(workdir.unwrap_or(&self.workdir));
        let _ = std::fs::create_dir_all(&workdir);
        command.args(&arguments[1..]).current_dir(&workdir).env_clear();
        command.env("PATH", self.search_path()).env("LANG", "C.UTF-8");
        command.envs(network_variables());
        command.env("HOME", self.world.place("/root")).env("TMPDIR", self.world.place("/tmp"));
        command.env("FAKE_MODAL_ROOT", self.root());
        command.env("MODAL_SANDBOX_ID", &self.id).env("MODAL_TASK_ID", &self.task_id);
        for (name, value) in self.environment.clone().into_iter().chain(environment) {
            let value = value.replace("$PATH", &self.search_path());
            command.env(name, self.world.rewrite(&value));
        }
        command
    }

    fn search_path(&self) -> String {
        match &self.packages {
            Some(packages) => format!("{}:{}", packages.join("bin").display(), search_path()),
            None => search_path(),
        }
    }
}

/// How the package index is reached and trusted: the network of the sandboxes is that of this machine.
fn network_variables() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    let names = [
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "https_proxy",
        "http_proxy",
        "no_proxy",
        "PIP_INDEX_URL",
    ];
    names.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// The tests' own, with Python first.
fn search_path() -> String {
    static PATH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    PATH.get_or_init(|| {
        let path = std::env::var("PATH").unwrap_or_default();
        let script = "import os, sys; print(os.path.dirname(sys.executable))";
        let python = std::process::Command::new("python3").args(["-c", script]).output();
        match python {
            Ok(output) if output.status.success() => {
                format!("{}:{path}", String::from_utf8_lossy(&output.stdout).trim())
            }
            _ => path,
        }
    })
    .clone()
}

/// Runs a command in a terminal of its own; Python's library does what is needed on every system.
const TERMINAL: &str = r"
import fcntl, os, select, signal, struct, sys, termios
rows, columns = int(sys.argv[1]), int(sys.argv[2])
terminal, inner = os.openpty()
if rows and columns:
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
pid = os.fork()
if pid == 0:
    try:
        os.setsid()
        fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
        for descriptor in range(3):
            os.dup2(inner, descriptor)
        os.closerange(3, 256)
        os.execvp(sys.argv[3], sys.argv[3:])
    finally:
        os._exit(127)
os.close(inner)
sources = [0, terminal]
while True:
    ready, _, _ = select.select(sources, [], [])
    if terminal in ready:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            data = b''
        if not data:
            break
        os.write(1, data)
    if 0 in ready:
        data = os.read(0, 65536)
        if data:
            os.write(terminal, data)
        else:
            os.write(terminal, b'\x04')
            sources.remove(0)
_, status = os.waitpid(pid, 0)
code = os.waitstatus_to_exitcode(status)
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
";

pub(super) fn in_terminal(command: &Command, pty: &wire::PtyInfo) -> Command {
    let inner = command.as_std();
    let mut outer = Command::new("python3");
    outer.args(["-c", TERMINAL, &pty.winsz_rows.to_string(), &pty.winsz_cols.to_string()]);
    outer.arg(inner.get_program()).args(inner.get_args()).env_clear();
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let described =
        [("TERM", &pty.env_term), ("COLORTERM", &pty.env_colorterm), ("TERM_PROGRAM", &pty.env_term_program)];
    outer.envs(described.into_iter().filter(|(_, value)| !value.is_empty()));
    outer.current_dir(inner.get_current_dir().map_or_else(PathBuf::new, Path::to_owned));
    outer
}
