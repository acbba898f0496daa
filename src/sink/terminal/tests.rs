//! What each kind of run looks like, and that bytes survive.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::domain::{Cause, Exit, Place};
use crate::event::{Grown, Growth, Rival, STREAM_VERSION, SideEnd, Step, StepOutcome};

/// Both streams in the order in which they were written, and each alone.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Captured>>);

#[derive(Default)]
struct Captured {
    both: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

struct Writer {
    capture: Capture,
    stream: Stream,
    fails: Option<io::ErrorKind>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(kind) = self.fails {
            return Err(kind.into());
        }
        let mut captured = self.capture.0.lock().unwrap();
        captured.both.extend_from_slice(bytes);
        match self.stream {
            Stream::Stdout => captured.stdout.extend_from_slice(bytes),
            Stream::Stderr => captured.stderr.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How the run is shown.
#[derive(Clone, Copy)]
struct View {
    columns: Option<usize>,
    colors: Colors,
    verbosity: Verbosity,
    stdout_fails: Option<io::ErrorKind>,
}

const PIPE: View =
    View { columns: None, colors: Colors::Plain, verbosity: Verbosity::Normal, stdout_fails: None };
const TERMINAL: View = View { columns: Some(80), ..PIPE };

impl View {
    fn sink(self) -> (TerminalSink, Capture) {
        let capture = Capture::default();
        let port = |stream, fails| Port {
            writer: Box::new(Writer { capture: capture.clone(), stream, fails }),
            terminal: self.columns.is_some(),
            colors: self.colors,
        };
        let options = TerminalOptions {
            verbosity: self.verbosity,
            columns: self.columns,
            progress: Progress::Named,
            step_logs: StepLogs::OnFailure,
        };
        let sink =
            TerminalSink::new(port(Stream::Stdout, self.stdout_fails), port(Stream::Stderr, None), options);
        (sink, capture)
    }

    fn show(self, events: Vec<Event>) -> Shown {
        let (mut sink, capture) = self.sink();
        for event in events {
            sink.handle(&Stamped { at_ms: 0, side: None, event }).unwrap();
        }
        sink.flush().unwrap();
        let captured = std::mem::take(&mut *capture.0.lock().unwrap());
        Shown {
            both: String::from_utf8_lossy(&captured.both).into_owned(),
            stdout: captured.stdout,
            stderr: captured.stderr,
        }
    }
}

struct Shown {
    both: String,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn id(name: &str) -> JobId {
    JobId::new(name)
}

fn began(names: &[&str]) -> Event {
    let planned: Vec<JobId> = names.iter().map(|name| id(name)).collect();
    Event::RunStarted {
        version: STREAM_VERSION,
        accel: "0.1.0".to_owned(),
        run: "r".to_owned(),
        requested: planned.clone(),
        planned,
    }
}

fn routed(job: &str) -> Event {
    let reasons = vec!["rule 1: no: changed_files is 12, wanted <=3".to_owned(), "default".to_owned()];
    Event::JobRouted {
        job: id(job),
        place: Place::Local,
        reason: "default".to_owned(),
        reasons,
        quote: None,
        rival: None,
    }
}

fn wrote(job: &str, stream: Stream, text: &str) -> Event {
    Event::Output { job: id(job), stream, data: Bytes::copy_from_slice(text.as_bytes()) }
}

fn ended(job: &str, verdict: Verdict) -> Event {
    let attempts = u32::from(!matches!(verdict, Verdict::Skipped { .. }));
    let place = (attempts > 0).then_some(Place::Local);
    Event::JobFinished { job: id(job), verdict, place, attempts, duration: Duration::from_millis(1_240) }
}

fn over(passed: usize, failed: usize, skipped: usize) -> Event {
    let exit_code = u8::from(failed > 0);
    let duration = Duration::from_millis(2_500);
    Event::RunFinished { exit_code, passed, failed, skipped, cancelled: 0, duration }
}

fn one(verdict: Verdict) -> Vec<Event> {
    vec![
        began(&["test"]),
        routed("test"),
        Event::JobStarted {
            job: id("test"),
            place: Place::Local,
            attempt: 1,
            command: "pytest -q".to_owned(),
        },
        wrote("test", Stream::Stdout, "1 passed\n"),
        ended("test", verdict),
        over(1, 0, 0),
    ]
}

fn several() -> Vec<Event> {
    let because = "`test` failed".to_owned();
    vec![
        began(&["lint", "test-everything", "deploy"]),
        routed("lint"),
        routed("test-everything"),
        wrote("lint", Stream::Stdout, "checking"),
        wrote("test-everything", Stream::Stderr, "E   assert 1 == 2\n\nunfinished"),
        wrote("lint", Stream::Stdout, " src\nall good\n"),
        ended("lint", Verdict::Passed),
        ended("test-everything", Verdict::Failed { exit: Exit::Code(1) }),
        ended("deploy", Verdict::Skipped { because }),
        over(1, 1, 1),
    ]
}

#[test]
fn a_single_passing_job_says_where_it_runs_and_nothing_more() {
    let shown = PIPE.show(one(Verdict::Passed));
    assert_eq!(shown.stdout, b"1 passed\n");
    assert_eq!(String::from_utf8(shown.stderr).unwrap(), "test → local: default\n");
    let quiet = View { verbosity: Verbosity::Quiet, ..PIPE }.show(one(Verdict::Passed));
    assert_eq!(quiet.both, "1 passed\n");
    assert_snapshot!(View { verbosity: Verbosity::Verbose, ..PIPE }.show(one(Verdict::Passed)).both, @r"
    test → local: default
      rule 1: no: changed_files is 12, wanted <=3
      default
    test $ pytest -q
    1 passed
    ✓ test passed in 1.2s
    ");
}

#[test]
fn how_a_single_job_can_end() {
    let last = |verdict| {
        let shown = PIPE.show(one(verdict));
        let text = String::from_utf8(shown.stderr).unwrap();
        text.split_once('\n').unwrap().1.to_owned()
    };
    let errored = Verdict::Errored {
        cause: Cause::Image,
        message: "uv could not resolve numpy==99\nno such version".to_owned(),
        help: Some("correct `pip` of images.py".to_owned()),
        exit_code: 125,
    };
    let all = [
        last(Verdict::Failed { exit: Exit::Code(3) }),
        last(Verdict::Failed { exit: Exit::Signal(11) }),
        last(Verdict::TimedOut { limit: Duration::from_secs(600) }),
        last(Verdict::Cancelled { exit: Some(Exit::Signal(2)) }),
        last(errored),
    ];
    assert_snapshot!(all.concat(), @r"
    ✗ test failed: exit code 3 after 1.2s
    ✗ test failed: ended by SIGSEGV after 1.2s
    ✗ test timed out: its limit is 10m00s
    - test cancelled after 1.2s: ended by SIGINT
    ✗ test could not be run: uv could not resolve numpy==99
      no such version
      help: correct `pip` of images.py
    ");
}

/// Both sides of a race take a while; Modal cannot, and this machine wins.
fn race() -> Vec<(u64, Option<Place>, Event)> {
    let (modal, local) = (Some(Place::Modal), Some(Place::Local));
    let started =
        |place| Event::JobStarted { job: id("test"), place, attempt: 1, command: "pytest -q".to_owned() };
    let step = |step, label: &str| Event::StepStarted { job: id("test"), step, label: label.to_owned() };
    let done = |step| {
        let duration = Duration::from_millis(1_200);
        Event::StepFinished { job: id("test"), step, outcome: StepOutcome::Done, duration }
    };
    let end = |place, end| Event::SideEnded { job: id("test"), place, attempt: 1, end };
    let out = SideEnd::Out { cause: Cause::Infra, detail: "the sandbox is gone".to_owned() };
    let rival = Some(Rival { place: Place::Local, after: Duration::ZERO });
    let routed = Event::JobRouted {
        job: id("test"),
        place: Place::Modal,
        reason: "race: both start at once".to_owned(),
        reasons: Vec::new(),
        quote: None,
        rival,
    };
    let line = Event::StepProgress {
        job: id("test"),
        step: Step::Race,
        done: 0,
        total: None,
        label: "half of it".to_owned(),
    };
    vec![
        (0, None, began(&["test"])),
        (0, None, routed),
        (0, modal, step(Step::Image, "making the image")),
        (0, local, step(Step::Image, "making the environment")),
        (3_000, modal, done(Step::Image)),
        (3_100, modal, started(Place::Modal)),
        (3_100, modal, step(Step::Race, "running, output held back")),
        (3_200, modal, line),
        (6_000, local, done(Step::Image)),
        (6_100, local, started(Place::Local)),
        (6_200, modal, done(Step::Race)),
        (6_200, modal, end(Place::Modal, out)),
        (6_300, None, wrote("test", Stream::Stdout, "1 passed\n")),
        (6_400, local, end(Place::Local, SideEnd::Won)),
        (6_400, None, ended("test", Verdict::Passed)),
        (6_400, None, over(1, 0, 0)),
    ]
}

#[test]
fn a_race_tells_its_sides_apart() {
    let show = |verbosity| {
        let (mut sink, capture) = View { verbosity, ..PIPE }.sink();
        for (at_ms, side, event) in race() {
            sink.redraw(at_ms).unwrap();
            sink.handle(&Stamped { at_ms, side, event }).unwrap();
        }
        sink.flush().unwrap();
        let both = capture.0.lock().unwrap().both.clone();
        String::from_utf8(both).unwrap()
    };
    assert_snapshot!(show(Verbosity::Normal), @r"
    test → modal and local: race: both start at once
    test: modal: making the image
    test: local: making the environment
    test: modal: running, output held back
    race: test: modal is out: infra: the sandbox is gone
    1 passed
    race: test: local won
    ");
    assert_snapshot!(show(Verbosity::Verbose), @r"
    test → modal and local: race: both start at once
    test: modal: making the image
    test: local: making the environment
    test: modal: image done in 1.2s
    test (modal) $ pytest -q
    test: modal: running, output held back
    test: local: image done in 1.2s
    test (local) $ pytest -q
    race: test: modal is out: infra: the sandbox is gone
    1 passed
    race: test: local won
    ✓ test passed in 1.2s
    ");
    assert_snapshot!(show(Verbosity::Quiet), @r"
    race: test: modal is out: infra: the sandbox is gone
    1 passed
    ");
}

#[test]
fn several_jobs_on_a_pipe() {
    assert_snapshot!(PIPE.show(several()).both, @r"
    lint → local: default
    test-everything → local: default
    test-everything │ E   assert 1 == 2
    test-everything │ 
    lint            │ checking src
    lint            │ all good
    ✓ lint passed in 1.2s
    test-everything │ unfinished
    ✗ test-everything failed: exit code 1 after 1.2s
    - deploy skipped: `test` failed
    1 passed, 1 failed (test-everything), 1 skipped in 2.5s
    ");
}

#[test]
fn several_jobs_at_twenty_columns() {
    assert_snapshot!(View { columns: Some(20), ..PIPE }.show(several()).both, @r"
    lint → local: default
    test-everything → local: default
    test-… │ E   assert 1 == 2
    test-… │ 
    lint   │ checking src
    lint   │ all good
    ✓ lint passed in 1.2s
    test-… │ unfinished
    ✗ test-everything failed: exit code 1 after 1.2s
    - deploy skipped: `test` failed
    1 passed, 1 failed (test-everything), 1 skipped in 2.5s
    ");
}

#[test]
fn width_beyond_need_changes_nothing() {
    let wide = View { columns: Some(300), ..PIPE }.show(several()).both;
    assert_eq!(wide, PIPE.show(several()).both);
}

#[test]
fn colours_only_add_escapes() {
    let colored = View { colors: Colors::Allowed, ..TERMINAL }.show(several()).both;
    assert!(colored.contains("\x1b[36mlint            │\x1b[0m checking src\n"), "{colored:?}");
    let plain: String = anstream::adapter::strip_str(&colored).to_string();
    assert_eq!(plain, TERMINAL.show(several()).both);
}

#[test]
fn what_must_not_be_missed_is_said_even_when_quiet() {
    let events = vec![
        began(&["test"]),
        Event::Fallback {
            job: id("test"),
            from: Place::Modal,
            to: Place::Local,
            cause: Cause::Unreachable,
            detail: "cannot reach api.modal.com".to_owned(),
        },
        Event::Notice {
            job: Some(id("test")),
            level: Level::Warning,
            code: "x",
            text: "apt layers are not applied to this machine".to_owned(),
            help: Some("install git yourself".to_owned()),
        },
        Event::CancelRaised { level: "stop".to_owned(), by: "SIGINT".to_owned() },
        Event::Retry {
            job: id("test"),
            attempt: 2,
            cause: Cause::Infra,
            delay: Duration::from_secs(2),
            detail: "lost".to_owned(),
            grows: vec![Growth { what: Grown::Memory, from: "1GiB".to_owned(), to: "2GiB".to_owned() }],
        },
        ended("test", Verdict::Failed { exit: Exit::Code(1) }),
    ];
    assert_snapshot!(View { verbosity: Verbosity::Quiet, ..PIPE }.show(events).both, @r"
    fallback: test moves from modal to local: unreachable: cannot reach api.modal.com
    warning: test: apt layers are not applied to this machine
      help: install git yourself
    stopping (SIGINT); once more to kill
    ✗ test failed: exit code 1 after 1.2s
    ");
}

#[test]
fn accel_s_words_are_not_glued_to_an_unfinished_line() {
    let events = vec![
        began(&["test"]),
        wrote("test", Stream::Stdout, "no line end"),
        ended("test", Verdict::Failed { exit: Exit::Code(1) }),
    ];
    let on_terminal = TERMINAL.show(events.clone());
    assert_eq!(on_terminal.both, "no line end\n✗ test failed: exit code 1 after 1.2s\n");
    assert_eq!(PIPE.show(events).stdout, b"no line end", "a pipe gets exactly what was written");
}

#[test]
fn a_step_s_log_is_shown_when_it_fails() {
    let step = |outcome| {
        vec![
            began(&["test"]),
            Event::StepStarted { job: id("test"), step: Step::Image, label: "building py".to_owned() },
            Event::StepLog { job: id("test"), step: Step::Image, line: "no such \x1b[2Jversion".to_owned() },
            Event::StepFinished {
                job: id("test"),
                step: Step::Image,
                outcome,
                duration: Duration::from_secs(3),
            },
        ]
    };
    assert_eq!(PIPE.show(step(StepOutcome::Done)).both, "");
    assert_eq!(PIPE.show(step(StepOutcome::Failed)).both, "test ┆ no such version\n");
}

#[test]
fn a_long_step_is_named_once_where_nothing_can_be_drawn() {
    let (mut sink, capture) = PIPE.sink();
    let event = Event::StepStarted { job: id("test"), step: Step::Image, label: "building py".to_owned() };
    sink.handle(&Stamped { at_ms: 1_000, side: None, event }).unwrap();
    assert_eq!(sink.redraw(1_500).unwrap(), Some(Duration::from_millis(1_500)));
    assert_eq!(sink.redraw(3_000).unwrap(), None);
    assert_eq!(sink.redraw(9_000).unwrap(), None);
    sink.flush().unwrap();
    assert_eq!(capture.0.lock().unwrap().both, b"test: building py\n");
}

#[test]
fn after_a_stop_what_is_waited_for_is_named_once_a_second() {
    let (mut sink, capture) = PIPE.sink();
    let events = [
        one(Verdict::Passed).swap_remove(2),
        Event::CancelRaised { level: "stop".to_owned(), by: "SIGINT".to_owned() },
    ];
    for event in events {
        sink.handle(&Stamped { at_ms: 1_000, side: None, event }).unwrap();
    }
    assert_eq!(sink.redraw(1_400).unwrap(), Some(Duration::from_millis(600)));
    assert_eq!(sink.redraw(2_000).unwrap(), Some(Duration::from_secs(1)));
    assert_eq!(sink.redraw(3_000).unwrap(), Some(Duration::from_secs(1)));
    let event = ended("test", Verdict::Cancelled { exit: Some(Exit::Signal(9)) });
    sink.handle(&Stamped { at_ms: 3_500, side: None, event }).unwrap();
    assert_eq!(sink.redraw(4_000).unwrap(), None);
    sink.flush().unwrap();
    let shown = String::from_utf8(capture.0.lock().unwrap().both.clone()).unwrap();
    assert_snapshot!(shown, @r"
    stopping (SIGINT); once more to kill
    waiting for test
    waiting for test
    - test cancelled after 1.2s: ended by SIGKILL
    ");
}

#[test]
fn a_reader_that_went_away_is_no_error_and_a_full_disk_is_said_once() {
    let shown = |kind| {
        let view = View { stdout_fails: Some(kind), ..PIPE };
        let mut events = one(Verdict::Failed { exit: Exit::Code(1) });
        events.insert(3, wrote("test", Stream::Stdout, &"x".repeat(200_000)));
        view.show(events).both
    };
    let ends = "✗ test failed: exit code 1 after 1.2s\n";
    assert_eq!(shown(io::ErrorKind::BrokenPipe), format!("test → local: default\n{ends}"));
    let full = shown(io::ErrorKind::StorageFull);
    assert_eq!(full.matches("warning: cannot write to stdout any more").count(), 1, "{full}");
    assert!(full.ends_with(ends));
}

#[test]
fn output_cannot_move_the_cursor_of_a_shared_terminal() {
    let events = || {
        vec![
            began(&["a", "b"]),
            wrote("a", Stream::Stdout, "\x1b[31mred\x1b[0m \x1b[2Jcleared\r\n\x1b]0;ti"),
            wrote("a", Stream::Stdout, "tle\x07x\n10%\r100%\n"),
        ]
    };
    let colored = View { colors: Colors::Allowed, ..TERMINAL }.show(events()).both;
    let text: Vec<&str> = colored.lines().map(|line| line.split_once("\x1b[0m ").unwrap().1).collect();
    assert_eq!(text, ["\x1b[31mred\x1b[0m cleared\x1b[0m", "x", "100%"]);
    let piped = PIPE.show(events()).both;
    assert_eq!(
        piped, "a │ \x1b[31mred\x1b[0m \x1b[2Jcleared\r\na │ \x1b]0;title\x07x\na │ 10%\r100%\n",
        "a pipe gets the bytes"
    );
}

/// Cuts a text into chunks at the given places.
fn chunks(data: &[u8], cuts: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
    at.extend([0, data.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| Bytes::copy_from_slice(&data[pair[0]..pair[1]])).collect()
}

fn any_output() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(b"\n".to_vec()),
        Just(b"line\n".to_vec()),
        Just("é→\x1b[31mred\r\n".as_bytes().to_vec()),
        (60_000..70_000_usize).prop_map(|length| vec![b'x'; length]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn played(view: View, names: &[&str], chunks: Vec<Bytes>) -> Vec<u8> {
    let mut events = vec![began(names)];
    let output = |data| Event::Output { job: id("a"), stream: Stream::Stdout, data };
    events.extend(chunks.into_iter().map(output));
    events.push(ended("a", Verdict::Passed));
    view.show(events).stdout
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_job_s_bytes_are_exact(data in any_output(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        prop_assert_eq!(played(TERMINAL, &["a"], chunks(&data, &cuts)), data);
    }

    #[test]
    fn lines_do_not_depend_on_chunks(data in any_output(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        for view in [PIPE, TERMINAL] {
            let whole = played(view, &["a", "b"], chunks(&data, &[]));
            prop_assert_eq!(&played(view, &["a", "b"], chunks(&data, &cuts)), &whole);
        }
    }

    #[test]
    fn without_the_names_the_lines_are_the_job_s(data in any_output()) {
        let shown = played(PIPE, &["a", "b"], chunks(&data, &[]));
        let mut expected = Vec::new();
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            // Only ASCII is this long here, so pieces are cut at exactly the bound.
            let pieces = if line.is_empty() { vec![line] } else { line.chunks(LONGEST_LINE).collect() };
            for piece in pieces {
                expected.extend_from_slice("a │ ".as_bytes());
                expected.extend_from_slice(piece);
                expected.push(b'\n');
            }
        }
        if !data.iter().any(|byte| *byte >= 0x80) || data.len() <= LONGEST_LINE {
            prop_assert_eq!(shown, expected);
        }
    }
}
