//! Telling whether a process lives: by a connection that only it holds.
//!
//! `helper beacon SOCKET NAME` connects and stays; end of file on the connection means that the process is
//! gone, whatever ended it. A helper that says `wait` is answered once a beacon has come for it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A safety net: reaching it fails the test.
const DEADLINE: Duration = Duration::from_secs(60);

/// The helper program; an example, so that cargo builds it with the tests.
pub fn helper() -> String {
    let tests = std::env::current_exe().unwrap();
    let helper = tests.ancestors().nth(2).unwrap().join("examples/helper");
    assert!(helper.exists(), "{} is missing: cargo build --example helper", helper.display());
    helper.to_str().unwrap().to_owned()
}

pub struct Beacons {
    folder: tempfile::TempDir,
    arrivals: Receiver<Beacon>,
}

pub struct Beacon {
    pub name: String,
    stream: UnixStream,
}

impl Beacons {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let (arrived, arrivals) = channel();
        std::thread::spawn(move || {
            let (mut seen, mut waiting) = (0, Vec::new());
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut name = String::new();
                // A process that dies while connecting never says its name.
                if BufReader::new(&stream).read_line(&mut name).is_err() || name.is_empty() {
                    continue;
                }
                if name.trim_end() == "wait" {
                    waiting.push(stream);
                } else {
                    seen += 1;
                    let beacon = Beacon { name: name.trim_end().to_owned(), stream };
                    if arrived.send(beacon).is_err() {
                        return;
                    }
                }
                while seen > 0 && !waiting.is_empty() {
                    seen -= 1;
                    let _ = waiting.remove(0).write_all(b"!");
                }
            }
        });
        Self { folder, arrivals }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// The command line of a helper role that takes a socket and a name.
    pub fn role(&self, role: &str, name: &str) -> Vec<String> {
        [helper(), role.to_owned(), self.path().display().to_string(), name.to_owned()].into()
    }

    /// Waits for the next beacon.
    #[track_caller]
    pub fn next(&self) -> Beacon {
        self.arrivals.recv_timeout(DEADLINE).expect("a beacon")
    }
}

impl Beacon {
    /// The process has not ended.
    #[track_caller]
    pub fn assert_alive(&self) {
        self.stream.set_nonblocking(true).unwrap();
        let read = (&self.stream).read(&mut [0]);
        assert_eq!(read.unwrap_err().kind(), ErrorKind::WouldBlock, "{} is gone", self.name);
    }

    /// The process has ended already.
    #[track_caller]
    pub fn assert_gone(&self) {
        self.stream.set_nonblocking(true).unwrap();
        match (&self.stream).read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{} lives: {other:?}", self.name),
        }
    }
}
