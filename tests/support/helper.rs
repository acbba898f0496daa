//! Programs that misbehave on purpose: one program, many roles.
//!
//! A process that connects to a test's socket and says its name lives for as long as that connection is open:
//! the system closes it when the process is gone, whatever ended it.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a program for tests")]
#![allow(clippy::zombie_processes, reason = "leaving processes behind is what these are for")]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

const ROLES: &str = "\
beacon SOCKET NAME           connect and stay
stubborn SOCKET NAME         the same, ignoring INT, TERM and HUP
polite SOCKET NAME           the same in a shell that says `bye` and exits 7 on INT, TERM or HUP
forker SOCKET NAME           a beacon with a beacon child in its group
leave SOCKET NAME            start a beacon in the background that holds the output, and exit
escape SOCKET NAME           the same, in a session of its own, double-forked
vanish SOCKET NAME           the same, with a cleared environment too
daemon SOCKET NAME           as escape, holding no output
storm SOCKET NAME            fork without end, every child likewise
late COUNT MILLIS            exit, and leave a child that writes COUNT lines, one each MILLIS
spew BYTES                   write a known pattern of that many bytes to stdout and as many to stderr
session PROGRAM ARGUMENTS    run a program as the leader of a session, its stdin as its terminal
descriptors                  list the open file descriptors
stdin                        read standard input and say how many bytes came
panic                        break as an accel that has a mistake
panic-raw                    the same while the terminal passes every key on";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["beacon", socket, name] => beacon(socket, name),
        ["panic"] => std::process::exit(accel::cli::guarded(|| panic!("index out of range")).into()),
        ["panic-raw"] => std::process::exit(accel::cli::guarded(panic_raw).into()),
        ["stubborn", socket, name] => {
            shell("trap '' INT TERM HUP; exec \"$0\" beacon \"$1\" \"$2\"", socket, name)
        }
        ["polite", socket, name] => {
            shell("trap 'echo bye; exit 7' INT TERM HUP; \"$0\" beacon \"$1\" \"$2\" & wait", socket, name);
        }
        ["forker", socket, name] => {
            let _child = start(&["beacon", socket, &format!("{name}-child")], |_| {});
            beacon(socket, name);
        }
        ["leave", socket, name] => {
            start(&["beacon", socket, name], |_| {});
            wait_for(socket);
        }
        ["escape", socket, name] => {
            start(&["own-session", "beacon", socket, name], |_| {}).wait().unwrap();
            wait_for(socket);
        }
        ["vanish", socket, name] => {
            let clear = |command: &mut Command| {
                command.env_clear();
            };
            start(&["own-session", "beacon", socket, name], clear).wait().unwrap();
            wait_for(socket);
        }
        ["daemon", socket, name] => {
            let silent = |command: &mut Command| {
                command.stdout(Stdio::null()).stderr(Stdio::null());
            };
            start(&["own-session", "beacon", socket, name], silent).wait().unwrap();
            wait_for(socket);
        }
        // Not the leader of its group, as setsid asks; its parent goes at once, so it is an orphan.
        ["own-session", ..] => {
            rustix::process::setsid().unwrap();
            start(&args[1..], |_| {});
        }
        ["storm", socket, name] => {
            start(&["beacon", socket, name], |_| {});
            wait_for(socket);
            loop {
                start(&["storm-child"], |_| {});
            }
        }
        ["storm-child"] => {
            start(&["storm-child"], |_| {});
        }
        ["late", count, millis] => {
            start(&["lines", count, millis], |_| {});
        }
        ["lines", count, millis] => {
            for line in 1..=count.parse::<u32>().unwrap() {
                std::thread::sleep(Duration::from_millis(millis.parse().unwrap()));
                println!("line {line}");
            }
        }
        ["session", program, ..] => {
            rustix::process::setsid().unwrap();
            rustix::process::ioctl_tiocsctty(std::io::stdin()).unwrap();
            panic!("{}", Command::new(program).args(&args[2..]).exec());
        }
        ["spew", bytes] => spew(bytes.parse().unwrap()),
        ["descriptors"] => descriptors(),
        ["stdin"] => {
            let mut seen = Vec::new();
            std::io::stdin().read_to_end(&mut seen).unwrap();
            println!("{} bytes", seen.len());
        }
        _ => {
            eprintln!("{ROLES}");
            std::process::exit(2);
        }
    }
}

fn panic_raw() -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let supervisor = accel::process::Supervisor::new(accel::process::Ownership::Shared);
        let _raw = accel::process::RawTerminal::enter(&supervisor).unwrap();
        panic!("index out of range");
    })
}

fn beacon(socket: &str, name: &str) {
    let mut stream = UnixStream::connect(socket).unwrap();
    writeln!(stream, "{name}").unwrap();
    loop {
        std::thread::park();
    }
}

/// Blocks until the test has seen the beacon that was just started: it answers the second connection.
fn wait_for(socket: &str) {
    let mut stream = UnixStream::connect(socket).unwrap();
    writeln!(stream, "wait").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

fn shell(script: &str, socket: &str, name: &str) {
    let error = Command::new("sh").args(["-c", script]).arg(own()).args([socket, name]).exec();
    panic!("{error}");
}

fn start(args: &[&str], change: impl Fn(&mut Command)) -> std::process::Child {
    loop {
        let mut command = Command::new(own());
        command.args(args);
        change(&mut command);
        // A storm runs out of processes; that is its purpose.
        if let Ok(child) = command.spawn() {
            return child;
        }
    }
}

fn own() -> OsString {
    std::env::current_exe().unwrap().into_os_string()
}

/// Bytes that differ from place to place, among them NUL, line ends and invalid UTF-8.
fn spew(bytes: usize) {
    let writer = std::thread::spawn(move || write_pattern(std::io::stderr().lock(), bytes));
    write_pattern(std::io::stdout().lock(), bytes);
    writer.join().unwrap();
}

fn write_pattern(mut to: impl Write, bytes: usize) {
    let period: Vec<u8> = (0..251u8).collect();
    let block: Vec<u8> = period.iter().copied().cycle().take(251 * 512).collect();
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(block.len());
        to.write_all(&block[..piece]).unwrap();
        left -= piece;
    }
}

fn descriptors() {
    let mut open: Vec<u32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let listing = std::fs::read_link(entry.path()).is_ok_and(|to| to.ends_with("fd"));
            (!listing).then(|| entry.file_name().to_str().unwrap().parse().unwrap())
        })
        .collect();
    open.sort_unstable();
    println!("{open:?}");
}
