//! Leases and leftovers, through real processes: killed owners, many at once, `ps`, `stop`, `prune`, `logs`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use accel::backend::modal::account::account;
use accel::backend::modal::clock::SystemClock;
use accel::backend::modal::connect::{Connector, Proxies};
use accel::backend::modal::control_plane::ControlPlane;
use accel::backend::modal::identity::Machine;
use accel::backend::modal::method::client;
use accel::backend::modal::settings::Settings;
use accel::backend::modal::wire::client as wire;
use accel::domain::Stream;
use accel::net::NetworkSettings;
use accel::store::log::LogWriter;
use accel::store::runs::{JobRun, Runs, make_log_folder};
use accel::store::{Database, Directories, Journal};

use crate::fake_modal::FakeModal;
use crate::world::World;

/// The example `lease_holder`, which cargo builds beside the tests.
fn holder_program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let holder = own.ancestors().nth(2).unwrap().join("examples/lease_holder");
    assert!(holder.is_file(), "{} is missing: `cargo build --examples` makes it", holder.display());
    holder
}

/// A process that owns a lease. Ends with this value.
struct Holder {
    child: Child,
    input: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    fn start(state: &Path, account: &str) -> Self {
        let mut command = Command::new(holder_program());
        command.arg("hold").arg(state).arg(account).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, said: BufReader::new(output).lines() }
    }

    fn line(&mut self) -> String {
        self.said.next().unwrap().unwrap()
    }

    fn goes(&mut self, to: &str, answer: &str) {
        writeln!(self.input, "{to}").unwrap();
        assert_eq!(self.line(), answer);
    }

    fn kill(self) {
        drop(self);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SIGKILL: nothing of it is tidied up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Scene {
    world: World,
    modal: FakeModal,
    variables: BTreeMap<String, String>,
}

impl Scene {
    fn new() -> Self {
        let modal = FakeModal::serve();
        let mut world = World::new();
        let mut variables = BTreeMap::new();
        for (name, value) in modal.variables() {
            world = world.env(name, &value);
            variables.insert(name.to_owned(), value);
        }
        Self { world, modal, variables }
    }

    fn state(&self) -> PathBuf {
        self.world.state().join("accel")
    }

    fn database(&self) -> Database {
        let state = self.state();
        let variable = |name: &str| (name == "ACCEL_STATE_DIR").then(|| state.clone().into_os_string());
        Database::new(Directories::resolve(variable, Path::new("/"), Path::new("/nowhere"), 0))
    }

    fn settings(&self) -> Settings {
        Settings::load(Path::new("none"), None, &self.variables).unwrap()
    }

    fn account(&self) -> String {
        let settings = self.settings();
        account(&settings, settings.credentials.as_ref().unwrap())
    }

    /// A process that owns a lease, and the lease's tags.
    fn hold(&self) -> (Holder, Vec<(String, String)>) {
        let mut holder = Holder::start(&self.state(), &self.account());
        let said = holder.line();
        let tags = said.strip_prefix("intended ").unwrap().split(' ');
        let tags = tags.map(|tag| tag.split_once('=').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned()));
        (holder, tags.collect())
    }

    /// What the server does with a create call that bears these tags.
    fn create(&self, tags: &[(String, String)]) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let settings = self.settings();
            let connector = Connector::new(&NetworkSettings::default(), Proxies::Ignored).unwrap();
            let machine = Machine::default();
            let plane = ControlPlane::connect(
                &connector,
                &settings,
                settings.credentials.as_ref().unwrap(),
                &machine,
                Arc::new(SystemClock),
                Arc::new(|_| {}),
            );
            let plane = plane.await.unwrap();
            let app = wire::AppGetOrCreateRequest { app_name: "accel-p".into(), ..Default::default() };
            let app_id = plane.call(client::APP_GET_OR_CREATE, app).await.unwrap().app_id;
            let definition = wire::Sandbox {
                image_id: self.modal.empty_image(),
                timeout_secs: 600,
                entrypoint_args: vec!["sleep".into(), "600".into()],
                ..Default::default()
            };
            let tags = tags
                .iter()
                .map(|(name, value)| wire::SandboxTag { tag_name: name.clone(), tag_value: value.clone() });
            let request = wire::SandboxCreateV2Request {
                app_id,
                definition: Some(definition),
                tags: tags.collect(),
                ..Default::default()
            };
            plane.call(client::SANDBOX_CREATE_V2, request).await.unwrap().sandbox_id
        })
    }

    fn ps(&self) -> Vec<serde_json::Value> {
        let shown = self.world.accel(["ps", "--json"]).run();
        shown.code(0);
        serde_json::from_str(&shown.stdout_text()).unwrap()
    }

    fn unsettled(&self) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Journal::new(self.database()).unsettled()).unwrap().len()
    }
}

#[test]
fn whatever_point_an_accel_is_killed_at_prune_leaves_nothing() {
    for point in ["intended", "asked", "Created", "Running", "Stopping"] {
        let scene = Scene::new();
        let (mut holder, tags) = scene.hold();
        if point != "intended" {
            let sandbox = scene.create(&tags);
            if point != "asked" {
                holder.goes(&sandbox, "Created");
            }
        }
        if ["Running", "Stopping"].contains(&point) {
            holder.goes("running", "Running");
        }
        if point == "Stopping" {
            holder.goes("stopping", "Stopping");
        }
        scene.world.accel(["prune"]).run().code(0).stdout("nothing to prune\n");
        assert_eq!(scene.unsettled(), 1, "{point}: its owner lives");
        holder.kill();

        let before = scene.modal.alive().len();
        assert_eq!(before, usize::from(point != "intended"));
        scene.world.accel(["prune", "--dry-run"]).run().code(0);
        assert_eq!((scene.modal.alive().len(), scene.unsettled()), (before, 1), "{point}: a dry run");
        scene.world.accel(["prune"]).run().code(0);
        assert!(scene.modal.alive().is_empty(), "{point}");
        assert_eq!(scene.unsettled(), 0, "{point}");
        assert!(scene.ps().is_empty(), "{point}");
    }
}

#[test]
fn ps_tells_whose_a_sandbox_is_and_stop_ends_only_what_is_ours() {
    let scene = Scene::new();
    let (mut holder, tags) = scene.hold();
    let ours = scene.create(&tags);
    holder.goes(&ours, "Created");
    let foreign: Vec<_> = tags
        .iter()
        .map(|(name, value)| {
            let changed = ["accel-lease", "accel-host"].contains(&name.as_str());
            (name.clone(), if changed { "another".to_owned() } else { value.clone() })
        })
        .collect();
    let theirs = scene.create(&foreign);

    let standings: BTreeMap<String, String> = scene
        .ps()
        .iter()
        .map(|row| (row["sandbox"].as_str().unwrap().into(), row["standing"].as_str().unwrap().into()))
        .collect();
    let expect = [(ours.clone(), "in_use".to_owned()), (theirs.clone(), "elsewhere".to_owned())];
    assert_eq!(standings, BTreeMap::from(expect));
    let shown = scene.world.accel(["ps"]).run().code(0).stdout_text();
    assert!(shown.contains("ends in ") && shown.contains("of another machine"), "{shown}");

    let refused = scene.world.accel(["stop", theirs.as_str()]).run().code(2).stderr_text();
    assert!(refused.contains("belongs to another machine"), "{refused}");
    assert_eq!(scene.modal.alive().len(), 2);
    scene.world.accel(["stop", "nothing-like-it"]).run().code(2);
    let stopped = scene.world.accel(["stop", "run-of-a-holder"]).run();
    stopped.code(0);
    assert_eq!(stopped.stdout_text(), format!("stopped test ({ours})\n"));
    scene.world.accel(["stop", "--force", theirs.as_str()]).run().code(0);
    assert!(scene.modal.alive().is_empty());
    assert_eq!(scene.unsettled(), 1, "left to its accel, which lives");
    holder.goes("settle", "settle");
    drop(holder);
    assert_eq!(scene.unsettled(), 0);
}

/// Clocks may be this far apart.
const SKEW: Duration = Duration::from_secs(10 * 60);

#[test]
fn what_is_not_ours_or_not_over_is_listed_with_the_reason_and_left_alone() {
    let scene = Scene::new();
    // Others make sandboxes there too.
    let scene = Scene { modal: scene.modal.lenient(), ..scene };
    let (mut holder, tags) = scene.hold();
    let ours = scene.create(&tags);
    holder.goes(&ours, "Created");
    let with = |changes: &[(&str, Option<String>)]| {
        let kept = tags.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        let added = changes.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
        scene.create(&kept.cloned().chain(added).collect::<Vec<_>>())
    };
    let (lease, host, expires) = ("accel-lease", "accel-host", "accel-expires");
    let word = |text: &str| Some(text.to_owned());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    // Only this machine's word, no lease of the journal: over by the clock that is ahead, not by the other.
    let skewed = with(&[(lease, word("lost")), (expires, Some((now - SKEW).as_secs().to_string()))]);
    let endless = with(&[(lease, word("lost-2")), (expires, None)]);
    let nonsense = with(&[(lease, word("lost-3")), (expires, word("tomorrow"))]);
    let elsewhere = with(&[(lease, word("theirs")), (host, word("another")), (expires, word("1"))]);
    let nameless = with(&[(lease, word("theirs-2")), (host, None), (expires, word("1"))]);
    let foreign = scene.create(&[("team".to_owned(), "vision".to_owned())]);
    let expect = BTreeMap::from(
        [
            (&ours, "in_use"),
            (&skewed, "not_in_journal"),
            (&endless, "not_in_journal"),
            (&nonsense, "not_in_journal"),
            (&elsewhere, "elsewhere"),
            (&nameless, "elsewhere"),
            (&foreign, "untagged"),
        ]
        .map(|(sandbox, standing)| (sandbox.clone(), standing.to_owned())),
    );
    let standings = || -> BTreeMap<String, String> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        scene.ps().iter().map(|row| (text(&row["sandbox"]), text(&row["standing"]))).collect()
    };
    assert_eq!(standings(), expect);
    scene.world.accel(["prune"]).run().code(0).stdout("nothing to prune\n");
    scene.world.accel(["stop", "--force"]).run().code(2);
    assert_eq!(standings(), expect);
    let shown = scene.world.accel(["ps"]).run().code(0).stdout_text();
    for (sandbox, reason) in [
        (&skewed, "overdue, not in this machine's journal"),
        (&endless, "no end known, not in this machine's journal"),
        (&elsewhere, "of another machine"),
        (&nameless, "of another machine"),
    ] {
        let line = shown.lines().find(|line| line.contains(sandbox.as_str())).unwrap_or_default();
        assert!(line.contains(reason), "{reason}: {shown}");
    }
    // Past every doubt about clocks it is ended.
    let over = with(&[(lease, word("lost-4")), (expires, Some((now - SKEW * 2).as_secs().to_string()))]);
    scene.world.accel(["prune"]).run().code(0).stdout(&format!("ended {over}\n"));
    assert_eq!(standings(), expect);
    scene.modal.allow_survivors();
}

#[test]
fn a_sandbox_that_cannot_be_ended_stays_in_the_journal() {
    let scene = Scene::new();
    let (mut holder, tags) = scene.hold();
    let sandbox = scene.create(&tags);
    holder.goes(&sandbox, "Created");
    holder.kill();
    let refusal = || crate::fake_modal::Fault::code(tonic::Code::FailedPrecondition);
    scene.modal.fail("SandboxTerminateV2", [refusal()]);
    let failed = scene.world.accel(["prune"]).run().code(125).stderr_text();
    assert!(failed.contains(&format!("cannot end {sandbox}")), "{failed}");
    assert_eq!(scene.unsettled(), 1);
    scene.world.accel(["prune"]).run().code(0).stdout(&format!("ended {sandbox}\n"));
    assert_eq!(scene.unsettled(), 0);
}

#[test]
fn without_an_account_the_journal_is_shown_and_said_to_be_all() {
    let world = World::new();
    let shown = world.accel(["ps"]).run();
    shown.code(0);
    assert!(shown.stderr_text().contains("only this machine's journal is shown"), "{}", shown.stderr_text());
    world.accel(["prune"]).run().code(0).stdout("nothing to prune\n");
}

#[test]
fn a_hundred_processes_share_one_database() {
    const PROCESSES: usize = 100;
    let world = World::new();
    let state = world.state().join("accel");
    let running: Vec<_> = (0..PROCESSES)
        .map(|_| world.program(holder_program()).arg("many").arg(&state).arg("2").spawn())
        .collect();
    for holder in running {
        holder.finish().code(0);
    }
    let variable = |name: &str| (name == "ACCEL_STATE_DIR").then(|| state.clone().into_os_string());
    let database = Database::new(Directories::resolve(variable, Path::new("/"), Path::new("/nowhere"), 0));
    let count = |table: &'static str| {
        let query = format!("SELECT count(*) FROM {table}");
        database.read_now(|connection| connection.query_row(&query, [], |row| row.get::<_, i64>(0))).unwrap()
    };
    let made = 2 * i64::try_from(PROCESSES).unwrap();
    assert_eq!((count("lease"), count("job_run")), (made, made));
    assert_eq!(count("lease WHERE state <> 'settled'"), 0);
    assert_eq!(Runs::new(database.clone()).find("test").unwrap().len(), 2 * PROCESSES);
    assert_eq!(std::fs::read_dir(state.join("owners")).unwrap().count(), 0);
}

/// A job's log as a run leaves it.
fn logged(scene: &Scene, run: &str, started_at_ms: u64) -> (Runs, JobRun, LogWriter) {
    let runs = Runs::new(scene.database());
    let job = JobRun {
        run: run.to_owned(),
        job: "test".to_owned(),
        project: "p".to_owned(),
        worktree: "w".to_owned(),
        place: "modal".to_owned(),
        log: runs.log_path(run, "test"),
        started_at_ms,
        finished_at_ms: None,
        verdict: None,
    };
    runs.started(&job).unwrap();
    make_log_folder(&job.log).unwrap();
    let log = LogWriter::create(&job.log).unwrap();
    (runs, job, log)
}

#[test]
fn logs_gives_back_each_stream_byte_for_byte_and_follows_to_the_end() {
    let scene = Scene::new();
    let (_runs, _job, mut log) = logged(&scene, "0123456789abcdef", accel::event::now_ms());
    log.append(1, Stream::Stdout, b"out \xff\n").unwrap();
    log.append(2, Stream::Stderr, b"err\n").unwrap();
    log.flush().unwrap();
    let shown = scene.world.accel(["logs", "test"]).run();
    shown.code(0);
    assert_eq!(shown.stdout, b"out \xff\n");
    assert_eq!(shown.stderr, b"err\n");

    let mut following = scene.world.accel(["logs", "-f", "01234567"]).spawn();
    following.wait_for_stdout("out");
    log.append(3, Stream::Stdout, b"late\n").unwrap();
    log.flush().unwrap();
    following.wait_for_stdout("late\n");
    log.finish(4).unwrap();
    assert_eq!(following.finish().code(0).stdout, b"out \xff\nlate\n");

    let json = scene.world.accel(["logs", "test", "--json"]).run().code(0).stdout_text();
    assert_eq!(json.lines().count(), 3, "{json}");
    let unknown = scene.world.accel(["logs", "nobody"]).run().code(2).stderr_text();
    assert!(unknown.contains("there is no log of `nobody`"), "{unknown}");
}

#[test]
fn prune_removes_old_logs_and_keeps_new_ones() {
    let scene = Scene::new();
    let (_, old, log) = logged(&scene, "old-run", 1_000);
    drop(log);
    let (_, new, log) = logged(&scene, "new-run", accel::event::now_ms());
    drop(log);
    scene.world.accel(["prune", "--dry-run"]).run().code(0).stdout("would remove 1 log\n");
    assert!(old.log.exists());
    scene.world.accel(["prune"]).run().code(0).stdout("removed 1 log\n");
    assert!(!old.log.exists() && new.log.exists());
}

/// A project whose one job runs on Modal.
fn project(scene: Scene, command: &str) -> Scene {
    let config = format!(
        "version = 1\n[project]\nname = 'demo'\n[defaults]\nroute = 'modal'\ndotenv = ['.env']\n[jobs.it]\nrun = '''{command}'''\n"
    );
    Scene { world: scene.world.file("accel.toml", config), ..scene }
}

#[test]
fn a_killed_run_s_sandbox_is_ended_by_the_next_run_and_its_log_is_kept() {
    let scene = project(Scene::new(), "echo started; [ -e quick ] || sleep 600");
    let mut run = scene.world.accel(["run", "it"]).spawn();
    run.wait_for_stdout("started");
    let left = scene.modal.alive().remove(0).id;
    run.signal(crate::world::Signal::KILL);
    drop(run.finish());
    assert_eq!(scene.modal.alive().len(), 1);

    scene.world.write("quick", "");
    let next = scene.world.accel(["run", "it"]).run();
    next.code(0);
    let said = next.stderr_text();
    assert!(said.contains(&format!("ended what an earlier run left on Modal: {left}")), "{said}");
    assert!(scene.modal.alive().is_empty());
    assert_eq!(scene.unsettled(), 0);
    scene.world.accel(["logs", "it"]).run().code(0).stdout("started\n");
}
