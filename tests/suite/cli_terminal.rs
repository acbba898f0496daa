//! On a terminal, narrow and wide: a pseudo terminal stands in for one.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use crate::world::World;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

const JOBS: &str = r#"
version = 1
[jobs.hello]
desc = "says hello to whoever is there, in a sentence that is longer than a narrow terminal is wide"
run = "echo hello; test -t 1 && echo sees a terminal"
[jobs.other]
run = "echo other"
"#;

/// The two ends of a terminal of a width.
fn terminal(columns: u16) -> (File, OwnedFd) {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&near).unwrap();
    unlockpt(&near).unwrap();
    let name = ptsname(&near, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let far = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
    tcsetwinsize(&far, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (File::from(near), far)
}

/// All that a command shows on a terminal, and its exit code.
fn shown(world: &World, arguments: &[&str], columns: u16) -> (String, Option<i32>) {
    let (mut near, far) = terminal(columns);
    let running = world.accel(arguments).env("TERM", "xterm-256color").terminal(far).spawn();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        // The end is an error on Linux: nobody holds the other side any more.
        let _ = near.read_to_end(&mut text);
        String::from_utf8_lossy(&text).replace("\r\n", "\n")
    });
    let code = running.finish().status.code();
    (reader.join().unwrap(), code)
}

/// Without colours and the like.
fn plain(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('\u{1b}') {
        result.push_str(&rest[..start]);
        let after = &rest[start + 1..];
        let end = after.find(|c: char| c.is_ascii_alphabetic()).map_or(after.len(), |end| end + 1);
        rest = &after[end..];
    }
    result + rest
}

#[test]
fn lists_fit_and_are_coloured() {
    let world = World::new().file("accel.toml", JOBS);
    let (narrow, code) = shown(&world, &["list"], 20);
    assert_eq!((plain(&narrow).as_str(), code), ("hello\nother\n", Some(0)));
    let (wide, _) = shown(&world, &["list"], 300);
    assert!(wide.contains("\u{1b}[1mhello"), "{wide:?}");
    assert!(plain(&wide).contains("narrow terminal is wide\n"), "{wide}");
    let (middle, _) = shown(&world, &["list"], 60);
    assert!(plain(&middle).lines().all(|line| line.chars().count() <= 60), "{middle}");
}

#[test]
fn findings_fit_and_are_coloured() {
    let world = World::new().file("accel.toml", "version = 1\n[jobs.a]\nrunn = 'x'\n");
    for columns in [20, 300] {
        let (text, code) = shown(&world, &["check"], columns);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("\u{1b}[") && plain(&text).contains("runn"), "{text}");
    }
}

#[test]
fn a_job_alone_has_the_terminal_itself() {
    let world = World::new().file("accel.toml", JOBS);
    for columns in [20, 300] {
        let (text, code) = shown(&world, &["run", "hello"], columns);
        assert_eq!(code, Some(0));
        assert!(plain(&text).contains("hello\nsees a terminal\n"), "{text}");
        let (both, code) = shown(&world, &["run", "hello", "other"], columns);
        assert!(plain(&both).contains("other │ other\n"), "{both}");
        assert_eq!(code, Some(1), "through a prefix there is no terminal, so that `test -t 1` fails");
    }
}

/// Moving lines return to the start of a line and erase; on a pipe nothing does.
#[test]
fn nothing_moves_on_a_pipe() {
    let world = World::new().command("uv", "#!/bin/sh\nexit 1\n").file(
        "accel.toml",
        "version = 1\n[images.py]\npip = ['pebble']\n[jobs.a]\nimage = 'py'\nrun = 'true'\n",
    );
    let piped = world.accel(["run", "a"]).env("TERM", "xterm-256color").run();
    assert!(!piped.stderr_text().contains(['\r', '\u{1b}']), "{piped:?}");
}
