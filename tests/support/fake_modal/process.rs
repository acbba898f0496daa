//! Commands inside sandboxes: real processes, whose output is kept.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{Mutex, watch};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptor {
    Stdout,
    Stderr,
}

/// Everything that came out of one descriptor.
#[derive(Debug, Default)]
pub struct Output {
    pub bytes: Vec<u8>,
    pub ended: bool,
}

pub struct Exec {
    stdout: watch::Sender<Output>,
    stderr: watch::Sender<Output>,
    exit: watch::Sender<Option<Exit>>,
    stdin: Mutex<Option<ChildStdin>>,
    stdin_bytes: AtomicU64,
    stdin_closed: AtomicBool,
    /// Also the process group. 0: nothing was started.
    process: u32,
    /// Its sandbox ended before it did.
    lost: AtomicBool,
}

/// What becomes of the output.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    pub stdout: Stream,
    pub stderr: Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Kept,
    Dropped,
    /// Of stderr: goes where stdout goes.
    Joined,
}

impl Exec {
    /// Starts a command in a process group of its own. A command that cannot be started ends as in a shell.
    pub fn start(mut command: Command, streams: Streams, timeout: Option<Duration>) -> Arc<Self> {
        let target = |stream| if stream == Stream::Dropped { Stdio::null() } else { Stdio::piped() };
        command.process_group(0).stdin(Stdio::piped());
        command.stdout(target(streams.stdout)).stderr(target(streams.stderr));
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Self::failed(&command, &error),
        };
        let exec = Arc::new(Self::new(child.id().unwrap_or(0), child.stdin.take()));
        let joined = streams.stderr == Stream::Joined;
        let pumps = [
            child.stdout.take().map(|pipe| tokio::spawn(pump(exec.clone(), pipe, Descriptor::Stdout))),
            child.stderr.take().map(|pipe| {
                let descriptor = if joined { Descriptor::Stdout } else { Descriptor::Stderr };
                tokio::spawn(pump(exec.clone(), pipe, descriptor))
            }),
        ];
        let owner = exec.clone();
        tokio::spawn(async move {
            for pump in pumps.into_iter().flatten() {
                let _ = pump.await;
            }
            owner.stdout.send_modify(|output| output.ended = true);
            owner.stderr.send_modify(|output| output.ended = true);
        });
        let owner = exec.clone();
        tokio::spawn(async move {
            let limit = async {
                match timeout {
                    Some(timeout) => tokio::time::sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            let status = tokio::select! {
                status = child.wait() => status,
                () = limit => {
                    owner.kill();
                    child.wait().await
                }
            };
            use std::os::unix::process::ExitStatusExt;
            let exit = status.map_or(Exit::Code(255), |status| match (status.code(), status.signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, signal) => Exit::Signal(signal.unwrap_or(9)),
            });
            owner.exit.send_replace(Some(exit));
        });
        exec
    }

    fn new(process: u32, stdin: Option<ChildStdin>) -> Self {
        Self {
            stdout: watch::Sender::default(),
            stderr: watch::Sender::default(),
            exit: watch::Sender::default(),
            stdin_closed: AtomicBool::new(stdin.is_none()),
            stdin: Mutex::new(stdin),
            stdin_bytes: AtomicU64::new(0),
            process,
            lost: AtomicBool::new(false),
        }
    }

    fn failed(command: &Command, error: &std::io::Error) -> Arc<Self> {
        let exec = Self::new(0, None);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let message = format!("exec {program}: {error}\n").into_bytes();
        let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        exec.stderr.send_replace(Output { bytes: message, ended: true });
        exec.stdout.send_modify(|output| output.ended = true);
        exec.exit.send_replace(Some(Exit::Code(code)));
        Arc::new(exec)
    }

    pub fn output(&self, descriptor: Descriptor) -> watch::Receiver<Output> {
        self.channel(descriptor).subscribe()
    }

    fn channel(&self, descriptor: Descriptor) -> &watch::Sender<Output> {
        match descriptor {
            Descriptor::Stdout => &self.stdout,
            Descriptor::Stderr => &self.stderr,
        }
    }

    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.subscribe()
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    /// Its sandbox is gone.
    pub fn lose(&self) {
        if self.exit.borrow().is_none() {
            self.lost.store(true, Ordering::SeqCst);
        }
        self.kill();
    }

    fn kill(&self) {
        if self.exit.borrow().is_some() {
            return;
        }
        if let Some(group) = i32::try_from(self.process).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }

    /// Bytes taken so far, and whether stdin is closed.
    pub fn stdin_status(&self) -> (u64, bool) {
        (self.stdin_bytes.load(Ordering::SeqCst), self.stdin_closed.load(Ordering::SeqCst))
    }

    /// Writes what was not written before; `None`: the offset leaves a gap.
    pub async fn write(&self, offset: u64, data: &[u8], eof: bool) -> Option<()> {
        let mut stdin = self.stdin.lock().await;
        let known = self.stdin_bytes.load(Ordering::SeqCst).checked_sub(offset)?;
        let mut rest = data.get(usize::try_from(known).ok()?..).unwrap_or_default();
        while let Some(pipe) = stdin.as_mut().filter(|_| !rest.is_empty()) {
            match pipe.write(rest).await {
                Ok(written) => {
                    rest = &rest[written..];
                    self.stdin_bytes.fetch_add(written as u64, Ordering::SeqCst);
                }
                // Nobody reads any more.
                Err(_) => *stdin = None,
            }
        }
        if eof {
            *stdin = None;
        }
        self.stdin_closed.store(stdin.is_none(), Ordering::SeqCst);
        Some(())
    }
}

async fn pump(exec: Arc<Exec>, mut pipe: impl tokio::io::AsyncRead + Unpin, descriptor: Descriptor) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                exec.channel(descriptor)
                    .send_modify(|output| output.bytes.extend_from_slice(&buffer[..count]));
            }
        }
    }
}

/// Kills every process that was started with this text in its environment, whatever group it moved to.
#[cfg(target_os = "linux")]
pub fn kill_marked(marker: &str) {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
        if memchr::memmem::find(&environment, marker.as_bytes()).is_none() {
            continue;
        }
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Elsewhere only process groups can be found.
#[cfg(not(target_os = "linux"))]
pub fn kill_marked(_: &str) {}
