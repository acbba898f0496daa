//! The local backend, driven directly: commands, ends, stops, leftovers, output.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use accel::backend::local::{
    ColorHint, Environments, LocalBackend, LocalSettings, OomKills, PrepareRequest, Prepared,
};
use accel::backend::{
    Backend, BoxFuture, CancelLevel, CancelSource, Failure, OpenRequest, OutputMode, Prospect, Shortage,
    StopReason, Workplace,
};
use accel::base::digest::Digest;
use accel::domain::{Exit, JobId, Stream};
use accel::event::{Event, channel};
use accel::plan::spec::{BaseSpec, CommandSpec, ImageSpec, LocalEngine, LocalSpec, NetworkSpec, SandboxSpec};
use accel::process::{Ownership, Supervisor};
use accel::store::Directories;
use indexmap::IndexMap;

use crate::beacons::{Beacons, helper};

const STOP: CancelLevel = CancelLevel::Stop(StopReason::Terminate);

struct NoEnvironments;

impl Environments for NoEnvironments {
    fn prepare<'a>(&'a self, _: PrepareRequest<'a>) -> BoxFuture<'a, Result<Prepared, Failure>> {
        unreachable!("every image of these tests is the host")
    }
}

/// One machine; its jobs may run side by side.
#[derive(Clone)]
struct Machine {
    backend: Arc<LocalBackend>,
    root: Arc<tempfile::TempDir>,
}

impl Machine {
    fn new() -> Self {
        Self::with_color(ColorHint::Unsaid)
    }

    fn with_color(color: ColorHint) -> Self {
        let settings = LocalSettings {
            host_env: vec![
                ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
                ("HOST".into(), "1".into()),
            ],
            run: Some("run-1".to_owned()),
            color,
            supervisor: Supervisor::new(Ownership::Shared),
            environments: Arc::new(NoEnvironments),
            oom_kills: OomKills::default(),
            global_ignore: || None,
            directories: Directories::resolve(|_| None, Path::new("/"), Path::new("/tmp"), 0),
        };
        Self { backend: Arc::new(LocalBackend::new(settings)), root: Arc::new(tempfile::tempdir().unwrap()) }
    }

    fn shell(&self, text: &str) -> Job {
        self.job(CommandSpec::Shell(text.to_owned()))
    }

    fn argv<S: AsRef<str>>(&self, argv: impl AsRef<[S]>) -> Job {
        self.job(CommandSpec::Argv(argv.as_ref().iter().map(|word| word.as_ref().to_owned()).collect()))
    }

    fn job(&self, command: CommandSpec) -> Job {
        Job { machine: self.clone(), spec: spec(command) }
    }
}

struct Job {
    machine: Machine,
    spec: SandboxSpec,
}

/// What a job that has ended left.
#[derive(Debug)]
struct Done {
    result: Result<Exit, Failure>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    notices: Vec<(&'static str, String)>,
}

struct Running {
    cancel: Arc<CancelSource>,
    thread: JoinHandle<Done>,
}

impl Job {
    fn stop_timeout(mut self, grace: Duration) -> Self {
        self.spec.stop_timeout = grace;
        self
    }

    fn cwd(mut self, cwd: &str) -> Self {
        self.spec.cwd = cwd.into();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.spec.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn run(self) -> Done {
        self.start().done()
    }

    fn start(self) -> Running {
        self.start_with(Sink::Collecting)
    }

    fn start_with(self, sink: Sink) -> Running {
        let cancel = Arc::new(CancelSource::default());
        let watched = cancel.watch();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (emitter, mut events) = channel();
                let request = OpenRequest {
                    job: JobId::new("job"),
                    spec: Arc::new(self.spec),
                    root: self.machine.root.path().to_owned(),
                    attempt: 1,
                    timeout: None,
                    queue_limit: None,
                    shortage: Shortage::MakeDo,
                    prospect: Prospect::Last,
                    keep: None,
                    workplace: Workplace::Project,
                    needed_outputs: Vec::new(),
                    emitter,
                    cancel: watched,
                };
                let job = async move {
                    let mut session = self.machine.backend.open(request).await?;
                    let exit = session.execute(OutputMode::Events).await;
                    session.close().await?;
                    exit
                };
                let mut done = Done {
                    result: Ok(Exit::Code(0)),
                    stdout: Vec::new(),
                    stderr: Vec::new(),
                    notices: Vec::new(),
                };
                done.result = match sink {
                    Sink::Stuck => job.await,
                    Sink::Collecting => {
                        let collect = async {
                            while let Some(stamped) = events.recv().await {
                                done.take(stamped.event);
                            }
                        };
                        tokio::join!(job, collect).0
                    }
                };
                done
            })
        });
        Running { cancel, thread }
    }
}

/// What reads the events.
enum Sink {
    Collecting,
    /// Nothing, for as long as the job lasts.
    Stuck,
}

impl Done {
    fn take(&mut self, event: Event) {
        match event {
            Event::Output { stream: Stream::Stdout, data, .. } => self.stdout.extend(data),
            Event::Output { stream: Stream::Stderr, data, .. } => self.stderr.extend(data),
            Event::Notice { code, text, .. } => self.notices.push((code, text)),
            other => panic!("unexpected: {other:?}"),
        }
    }

    fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    #[track_caller]
    fn exit(&self) -> Exit {
        *self.result.as_ref().unwrap_or_else(|failure| panic!("{failure:?}"))
    }

    fn notice_codes(&self) -> Vec<&str> {
        self.notices.iter().map(|(code, _)| *code).collect()
    }
}

impl Running {
    fn raise(&self, level: CancelLevel) {
        self.cancel.raise(level);
    }

    fn done(self) -> Done {
        self.thread.join().unwrap()
    }
}

fn spec(command: CommandSpec) -> SandboxSpec {
    let image = ImageSpec {
        name: "host".to_owned(),
        digest: Digest::of(b"host"),
        base: BaseSpec::None,
        python: None,
        force_build: false,
        layers: Vec::new(),
        workdir: None,
        local: LocalSpec { engine: LocalEngine::Host, run: Vec::new() },
    };
    SandboxSpec {
        command,
        cwd: PathBuf::from("."),
        image: Arc::new(image),
        env: IndexMap::new(),
        dotenv: Vec::new(),
        pass_env: Vec::new(),
        secrets: Vec::new(),
        volumes: IndexMap::new(),
        cpu: None,
        memory: None,
        gpu: Vec::new(),
        ports: Vec::new(),
        network: NetworkSpec::Open,
        region: Vec::new(),
        cloud: None,
        tty: false,
        inputs: None,
        outputs: None,
        stop_timeout: Duration::from_secs(60),
    }
}

#[test]
fn every_way_to_end_is_reported_as_it_is() {
    let machine = Machine::new();
    let check = |text: &str, expect: Exit| assert_eq!(machine.shell(text).run().exit(), expect, "{text}");
    check("true", Exit::Code(0));
    check("false", Exit::Code(1));
    check("", Exit::Code(0));
    check("exit 42", Exit::Code(42));
    check("exit 255", Exit::Code(255));
    check("kill -KILL $$", Exit::Signal(9));
    check("kill -SEGV $$", Exit::Signal(11));
    // Strict mode: a failing command, a failing pipe stage, an unset variable.
    check("false; true", Exit::Code(1));
    check("false | true", Exit::Code(1));
    assert!(!machine.shell("true $no_such_variable").run().exit().success());
    // The shell's own verdicts.
    check("no-such-command-anywhere", Exit::Code(127));
    check("/etc/passwd", Exit::Code(126));
}

#[test]
fn what_cannot_start_is_explained_with_the_code_a_shell_would_give() {
    let machine = Machine::new();
    let root = machine.root.path();
    std::fs::write(root.join("plain"), "text").unwrap();
    std::fs::write(root.join("script"), "echo hi\n").unwrap();
    std::fs::write(root.join("lost"), "#!/no/such/interpreter\n").unwrap();
    for name in ["script", "lost"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(root.join(name), mode).unwrap();
    }
    let check = |job: Job, code: u8, text: &str| {
        let failure = job.run().result.unwrap_err();
        assert_eq!(failure.exit_code, code, "{failure:?}");
        assert!(failure.message.contains(text), "{failure:?}");
        assert!(failure.help.is_some(), "{failure:?}");
    };
    check(machine.argv(["no-such-command-anywhere"]), 127, "no-such-command-anywhere: command not found");
    check(machine.argv(["./missing"]), 127, "missing");
    check(machine.argv(["./plain"]), 126, "plain: not executable");
    check(machine.argv(["./script"]), 126, "no interpreter line");
    check(machine.argv(["./lost"]), 126, "interpreter");
    check(machine.argv(["true"]).cwd("nowhere"), 125, "nowhere does not exist");
    check(machine.shell("true").cwd("plain"), 125, "plain is not a folder");
    let long = "x".repeat(200_000);
    check(machine.argv(["true", &long]), 126, "too long");

    // A shell runs a script without an interpreter line; a string therefore may name one.
    let done = machine.shell("./script").run();
    assert_eq!((done.exit(), done.stdout()), (Exit::Code(0), "hi\n"));
}

#[test]
fn an_array_knows_no_shell_and_a_string_does() {
    let machine = Machine::new();
    let done = machine.argv(["echo", "$HOME", "a  b", "*"]).run();
    assert_eq!(done.stdout(), "$HOME a  b *\n");
    let done = machine.shell("echo out; echo err >&2").run();
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
}

#[test]
fn a_job_sees_its_environment() {
    let machine = Machine::with_color(ColorHint::Always);
    let folder = machine.root.path().join("sub");
    std::fs::create_dir(&folder).unwrap();
    let done = machine.argv(["env"]).cwd("sub").env("MINE", "yes").env("FORCE_COLOR", "0").run();
    let mut seen: Vec<&str> =
        done.stdout().lines().filter(|line| !line.starts_with("ACCEL_JOB_TOKEN=")).collect();
    seen.sort_unstable();
    let pwd = format!("PWD={}", folder.display());
    let expect = [
        "ACCEL_JOB=job",
        "ACCEL_PLACE=local",
        "ACCEL_RUN=run-1",
        "CLICOLOR_FORCE=1",
        "FORCE_COLOR=0",
        "HOST=1",
        "MINE=yes",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        &pwd,
    ];
    assert_eq!(seen, expect);
}

#[test]
fn programs_are_looked_up_on_the_jobs_own_path() {
    let machine = Machine::new();
    let tool = machine.root.path().join("tools/only-here");
    std::fs::create_dir(tool.parent().unwrap()).unwrap();
    std::fs::write(&tool, "#!/bin/sh\necho found\n").unwrap();
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", tool.parent().unwrap().display());
    for job in [machine.shell("only-here"), machine.shell("only-here; true"), machine.argv(["only-here"])] {
        assert_eq!(job.env("PATH", &path).run().stdout(), "found\n");
    }
}

#[test]
fn standard_input_ends_at_once() {
    assert_eq!(Machine::new().argv([&helper(), "stdin"]).run().stdout(), "0 bytes\n");
}

#[test]
fn a_job_is_given_no_descriptor_of_another_however_many_run_beside_it() {
    let machine = Machine::new();
    // What whoever runs the tests left open reaches every child; as a rule that is nothing.
    let given = std::process::Command::new(helper()).arg("descriptors").output().unwrap().stdout;
    let given = String::from_utf8(given).unwrap();
    assert!(given.starts_with("[0, 1, 2"), "{given}");
    let jobs: Vec<Running> = (0..32).map(|_| machine.argv([&helper(), "descriptors"]).start()).collect();
    for job in jobs {
        assert_eq!(job.done().stdout(), given);
    }
}

#[test]
fn output_is_byte_exact_on_both_streams() {
    const BYTES: usize = 20_000_003;
    let done = Machine::new().argv([&helper(), "spew", &BYTES.to_string()]).run();
    assert_eq!(done.exit(), Exit::Code(0));
    for seen in [&done.stdout, &done.stderr] {
        assert_eq!(seen.len(), BYTES);
        assert!(
            seen.chunks(251).all(|period| period.iter().zip(0u8..).all(|(seen, expect)| *seen == expect))
        );
    }
}

#[test]
fn a_job_that_leaves_something_behind_passes_and_is_told_on() {
    for role in ["leave", "escape", "daemon"] {
        let beacons = Beacons::new();
        let job = Machine::new().argv(beacons.role(role, "left")).start();
        let left = beacons.next();
        let done = job.done();
        left.assert_gone();
        assert_eq!(done.exit(), Exit::Code(0), "{role}");
        assert_eq!(done.notice_codes(), ["leaky"], "{role}: {:?}", done.notices);
        assert!(done.notices[0].1.contains("helper (pid "), "{:?}", done.notices);
    }
}

#[test]
fn what_is_written_after_the_leaders_end_is_heard_out() {
    let done = Machine::new().argv([&helper(), "late", "10", "30"]).run();
    let expect: String = (1..=10).map(|line| format!("line {line}\n")).collect();
    assert_eq!(done.stdout(), expect);
    assert_eq!(done.notices, []);
}

#[test]
fn what_is_written_without_end_is_cut() {
    let done = Machine::new().argv([&helper(), "late", "1000000", "30"]).run();
    assert_eq!(done.exit(), Exit::Code(0));
    assert!(done.stdout().starts_with("line 1\nline 2\n"));
    assert_eq!(done.notice_codes(), ["leaky"]);
}

#[test]
fn a_polite_stop_lets_the_job_finish_its_own_way() {
    for reason in [StopReason::Interrupt, StopReason::Terminate, StopReason::Hangup] {
        let beacons = Beacons::new();
        let job = Machine::new().argv(beacons.role("polite", "child")).start();
        let child = beacons.next();
        child.assert_alive();
        job.raise(CancelLevel::Stop(reason));
        let done = job.done();
        child.assert_gone();
        assert_eq!((done.exit(), done.stdout()), (Exit::Code(7), "bye\n"), "{reason:?}");
        assert_eq!(done.notices, []);
    }
}

#[test]
fn a_stop_reaches_the_whole_group() {
    let beacons = Beacons::new();
    let job = Machine::new().argv(beacons.role("forker", "parent")).start();
    let both = [beacons.next(), beacons.next()];
    job.raise(CancelLevel::Stop(StopReason::Interrupt));
    assert_eq!(job.done().exit(), Exit::Signal(2));
    both.iter().for_each(|beacon| beacon.assert_gone());
}

#[test]
fn whoever_ignores_the_request_is_killed_when_the_grace_is_over() {
    let beacons = Beacons::new();
    let grace = Duration::from_millis(100);
    let job = Machine::new().argv(beacons.role("stubborn", "one")).stop_timeout(grace).start();
    let stubborn = beacons.next();
    job.raise(STOP);
    let done = job.done();
    stubborn.assert_gone();
    assert_eq!(done.exit(), Exit::Signal(9));
    assert_eq!(done.notice_codes(), ["killed-after-grace"]);
    assert!(done.notices[0].1.contains("0.1 s"), "{:?}", done.notices);
}

#[test]
fn a_kill_does_not_wait_for_the_grace() {
    let beacons = Beacons::new();
    let job = Machine::new().argv(beacons.role("stubborn", "one")).start();
    let stubborn = beacons.next();
    job.raise(STOP);
    stubborn.assert_alive();
    job.raise(CancelLevel::Kill);
    let done = job.done();
    stubborn.assert_gone();
    assert_eq!((done.exit(), done.notices.len()), (Exit::Signal(9), 0));
}

#[test]
fn a_stop_while_lingering_ends_what_lingers() {
    let beacons = Beacons::new();
    // The leader is gone; its child writes on, and is heard out until the stop.
    let script = format!(
        "({h} lines 1000000 20 & {h} beacon {s} left) & true",
        h = helper(),
        s = beacons.path().display()
    );
    let job = Machine::new().shell(&script).start();
    let left = beacons.next();
    job.raise(CancelLevel::Kill);
    let done = job.done();
    left.assert_gone();
    assert!(done.result.is_ok());
}

#[test]
fn only_the_jobs_own_descendants_end_with_it() {
    let machine = Machine::new();
    let (ours, theirs) = (Beacons::new(), Beacons::new());
    let script = |beacons: &Beacons| {
        let [helper, _, socket, _] = beacons.role("escape", "escaped").try_into().unwrap();
        format!("{helper} escape {socket} escaped; {helper} beacon {socket} own")
    };
    let long = machine.shell(&script(&theirs)).start();
    let others = [theirs.next(), theirs.next()];
    let short = machine.argv(ours.role("escape", "left")).start();
    let left = ours.next();
    assert_eq!(short.done().exit(), Exit::Code(0));
    left.assert_gone();
    others.iter().for_each(|beacon| beacon.assert_alive());
    long.raise(STOP);
    assert_eq!(long.done().exit(), Exit::Signal(15));
    others.iter().for_each(|beacon| beacon.assert_gone());
}

#[test]
fn a_fork_storm_is_swept() {
    let beacons = Beacons::new();
    let job = Machine::new().argv(beacons.role("storm", "storm")).start();
    let storm = beacons.next();
    job.raise(CancelLevel::Kill);
    let done = job.done();
    storm.assert_gone();
    assert_eq!(done.exit(), Exit::Signal(9));
    assert_eq!(done.notices, []);
}

#[test]
fn a_stuck_sink_does_not_hold_a_kill_up() {
    let beacons = Beacons::new();
    let script =
        format!("{} beacon {} one & exec {} spew 100000000", helper(), beacons.path().display(), helper());
    let job = Machine::new().shell(&script).start_with(Sink::Stuck);
    let one = beacons.next();
    job.raise(STOP);
    job.raise(CancelLevel::Kill);
    assert!(matches!(job.done().exit(), Exit::Signal(15 | 9)));
    one.assert_gone();
}
