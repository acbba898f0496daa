//! Connections that are dead and do not know it: a partition in the middle of the output, a laptop that slept or a cut. The output goes on byte for byte, the command runs once; or the sandbox's own end is told.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use accel::backend::BoxFuture;
use accel::backend::modal::clock::Clock;
use accel::domain::Cause;
use accel::event::{Event, Verdict};
use accel::net::KeepAlive;

use crate::fake_modal::{Death, FakeModal, Fault};
use crate::modal_faults::QuickClock;
use crate::modal_project::{Done, Project};

const CONFIG: &str = "version = 1
[project]
name = 'demo'
[jobs.lines]
outputs = ['kept']
run = '''
echo once >> kept
i=0
while [ $i -lt 120 ]; do echo line $i; echo apart >&2; i=$((i+1)); sleep 0.01; done
'''
";

/// The line at which it happens.
const MIDDLE: &str = "line 40\n";

/// The machine's clocks, as if it had slept for so long.
#[derive(Default)]
struct SleptClock(Mutex<Duration>);

impl SleptClock {
    fn sleep_for(&self, duration: Duration) {
        *self.0.lock().unwrap() += duration;
    }
}

impl Clock for SleptClock {
    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + *self.0.lock().unwrap()
    }

    fn awake(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn fraction(&self) -> f64 {
        0.5
    }
}

fn project(clock: &Arc<SleptClock>, keep_alive: KeepAlive) -> Project {
    let mut project = Project::new(CONFIG, Arc::clone(clock) as Arc<dyn Clock>);
    project.network.keep_alive = keep_alive;
    project
}

/// So patient that only something else can notice.
const NEVER: KeepAlive =
    KeepAlive { interval: Duration::from_secs(3600), timeout: Duration::from_secs(3600) };

/// Runs the job that prints lines, and acts in the middle of them.
fn run_lines(project: &Project, mut act: impl FnMut(&Event), middle: impl Fn(&FakeModal)) -> Done {
    let (mut seen, done) = (Vec::new(), AtomicBool::new(false));
    project.run_watched("lines", |event| {
        act(event);
        if let Event::Output { data, stream: accel::domain::Stream::Stdout, .. } = event {
            seen.extend_from_slice(data);
            let reached = seen.windows(MIDDLE.len()).any(|at| at == MIDDLE.as_bytes());
            if reached && !done.swap(true, Ordering::Relaxed) {
                middle(&project.modal);
            }
        }
    })
}

fn assert_whole(project: &Project, done: &Done) {
    let expect: String = (0..120).map(|number| format!("line {number}\n")).collect();
    assert_eq!(done.verdict, Verdict::Passed, "{done:?}");
    assert!(done.stdout == expect.as_bytes(), "{}", String::from_utf8_lossy(&done.stdout));
    let kept = std::fs::read_to_string(project.root().join("kept")).unwrap();
    assert_eq!(kept, "once\n", "the command was started again");
    assert!(project.modal.alive().is_empty());
    assert!(project.unsettled().is_empty());
}

fn said<'a>(done: &'a Done, code: &str) -> Vec<&'a str> {
    done.notices.iter().filter(|notice| notice.starts_with(code)).map(String::as_str).collect()
}

#[test]
fn a_partition_in_the_middle_of_the_output_is_noticed_shown_and_got_over() {
    // Long enough that a crowded machine is not taken for a partition.
    let short = Duration::from_secs(1);
    let clock = Arc::default();
    let project = project(&clock, KeepAlive { interval: short, timeout: short });
    let heal = |event: &Event| {
        if matches!(event, Event::Notice { code: "connection-lost", .. }) {
            project.modal.heal();
        }
    };
    let done = run_lines(&project, heal, FakeModal::partition);
    assert_whole(&project, &done);
    let said = said(&done, "connection-");
    assert!(!said.is_empty());
    for outage in said.chunks(2) {
        assert_eq!(
            outage,
            [
                "connection-lost: connection lost, reconnecting",
                "connection-back: connected again; the output goes on where it stopped",
            ]
        );
    }
}

#[test]
fn a_silent_connection_is_noticed_within_35_seconds() {
    let KeepAlive { interval, timeout } = KeepAlive::default();
    assert_eq!((interval, timeout), (Duration::from_secs(20), Duration::from_secs(10)));
}

#[test]
fn short_interruptions_are_nobodys_concern() {
    let project = project(&Arc::default(), KeepAlive::default());
    let done = run_lines(&project, |_| {}, FakeModal::cut_connections);
    assert_whole(&project, &done);
    assert_eq!(done.notices, Vec::<String>::new());
}

#[test]
fn connections_that_are_told_to_go_away_and_streams_that_are_reset_are_nobodys_concern() {
    let mut aged = project(&Arc::default(), KeepAlive::default());
    aged.modal = FakeModal::with_connection_age(Duration::from_millis(100));
    let done = run_lines(&aged, |_| {}, |_| {});
    assert_whole(&aged, &done);
    assert_eq!(done.notices, Vec::<String>::new());

    let reset = project(&Arc::default(), KeepAlive::default());
    for reading in 1..12 {
        let fault = [Fault::CutAfter(37 * reading), Fault::AnswerLost][reading % 2].clone();
        reset.modal.fail_nth("TaskExecStdioRead", reading, fault);
    }
    let done = run_lines(&reset, |_| {}, |_| {});
    assert_whole(&reset, &done);
    assert_eq!(done.notices, Vec::<String>::new());
}

#[test]
fn a_machine_that_slept_connects_anew_and_goes_on_where_it_was() {
    let clock = Arc::<SleptClock>::default();
    let project = project(&clock, NEVER);
    let asleep = |modal: &FakeModal| {
        modal.strand_connections();
        clock.sleep_for(Duration::from_secs(2 * 3600));
    };
    let done = run_lines(&project, |_| {}, asleep);
    assert_whole(&project, &done);
    let slept = said(&done, "slept");
    assert!(slept.len() == 1 && slept[0].contains("slept for 2h"), "{:?}", done.notices);
}

#[test]
fn a_sandbox_that_ended_while_the_machine_slept_says_which_limit_ended_it() {
    for (death, sentence) in [
        (Death::Idle, "because nothing ran in it"),
        (Death::Timeout, "the sandbox reached the end of its lifetime"),
        (Death::Terminated, "terminated by somebody else"),
    ] {
        let clock = Arc::<SleptClock>::default();
        let project = project(&clock, NEVER);
        let asleep = |modal: &FakeModal| {
            modal.strand_connections();
            modal.kill(&modal.alive()[0].id, death);
            clock.sleep_for(Duration::from_secs(20 * 60));
        };
        let done = run_lines(&project, |_| {}, asleep);
        let Verdict::Errored { exit_code: 125, message, .. } = &done.verdict else { panic!("{done:?}") };
        assert!(message.contains(sentence), "{death:?}: {message}");
        assert!(!message.contains('\n'), "one sentence: {message}");
        assert!(project.unsettled().is_empty(), "{death:?}");
    }
}

const KEPT: &str = "version = 1
[project]
name = 'demo'
[jobs.lines]
warm = true
run = 'echo once >> kept; cat kept; cat data'
";

/// A sandbox that stays, after one run in it.
fn kept(clock: Arc<dyn Clock>) -> Project {
    let mut project = Project::new(KEPT, clock).in_a_loop();
    project.network.keep_alive = NEVER;
    project.limits.silence = Duration::from_millis(200);
    project.write("data", "first\n");
    assert_kept(&project, &project.run("lines"), "once\nfirst\n");
    project.write("data", "second\n");
    project
}

fn assert_kept(project: &Project, done: &Done, expected: &str) {
    assert_eq!((&done.verdict, &*done.stdout), (&Verdict::Passed, expected.as_bytes()), "{done:?}");
    assert_eq!(project.modal.sandboxes().len(), 1, "one sandbox for both runs");
    project.modal.allow_survivors();
}

#[test]
fn a_connection_that_died_unheard_between_two_runs_is_made_anew_and_the_command_runs_once() {
    let project = kept(Arc::new(SleptClock::default()));
    project.modal.strand_connections();
    assert_kept(&project, &project.run("lines"), "once\nonce\nsecond\n");
}

#[test]
fn a_start_that_is_not_answered_for_long_is_sent_again_and_the_command_runs_once() {
    // More often than one call is repeated. Each of them reaches the worker.
    let project = kept(Arc::new(QuickClock::default()));
    project.modal.fail("TaskExecStart", (0..14).map(|_| Fault::Disconnected));
    assert_kept(&project, &project.run("lines"), "once\nonce\nsecond\n");
}

/// Counts the pauses between two attempts.
#[derive(Default)]
struct CountingClock {
    quick: QuickClock,
    pauses: AtomicUsize,
}

impl Clock for CountingClock {
    fn now(&self) -> Duration {
        self.quick.now()
    }

    fn awake(&self) -> Instant {
        self.quick.awake()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.pauses.fetch_add(1, Ordering::Relaxed);
        self.quick.sleep(duration)
    }

    fn fraction(&self) -> f64 {
        self.quick.fraction()
    }
}

#[test]
fn jobs_beside_each_other_try_once_to_reach_a_server_that_is_not_there() {
    let job = "[jobs.a]\nrun = 'true'\n[jobs.b]\nrun = 'true'\n[jobs.both]\nneeds = ['a', 'b']\n";
    let pauses = ["a", "both"].map(|asked| {
        let clock = Arc::new(CountingClock::default());
        let config = format!("version = 1\n[project]\nname = 'demo'\n{job}");
        let mut project = Project::new(&config, Arc::clone(&clock) as Arc<dyn Clock>);
        project.server = Some("http://127.0.0.1:9".to_owned());
        let done = project.run(asked);
        let Verdict::Errored { cause, .. } = done.verdict else { panic!("{done:?}") };
        assert_eq!(cause, Cause::Unreachable);
        clock.pauses.load(Ordering::Relaxed)
    });
    assert!(pauses[0] > 0 && pauses[0] == pauses[1], "{pauses:?}");
}
