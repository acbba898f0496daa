//! Plans written in a few words, and a run of one with everything that was seen.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use crate::backend::fake::{FakeBackend, Ledger, Phase, Script};
use crate::backend::{Backend, CancelSource};
use crate::base::digest::Digest;
use crate::base::size::Bytes;
use crate::domain::{Cause, JobId, Place};
use crate::engine::{
    Backends, Decide, Decision, FallbackPolicy, Jitter, OnFailure, OutputPolicy, Parallel, RunOptions,
    Summary, run,
};
use crate::event::{Event, Rival, Verdict, channel};
use crate::plan::spec::{
    BaseSpec, BudgetLimits, CommandSpec, Escalate, FallbackOn, FallbackSpec, ImageSpec, LocalEngine,
    LocalSpec, ModalTarget, NetworkSpec, OnBusy, Plan, PlannedJob, Retry, Routing, SandboxSpec, StopSignal,
    SyncSet, WatchNotify, WatchSpec,
};

pub const GRACE: Duration = Duration::from_secs(10);

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub fn job(name: &str, needs: &[usize]) -> PlannedJob {
    PlannedJob {
        id: JobId::new(name),
        name: name.to_owned(),
        desc: None,
        needs: needs.to_vec(),
        earlier_outputs: Vec::new(),
        spec: Arc::new(spec()),
        routing: Routing::default(),
        timeout: None,
        retry: Retry {
            max: 0,
            on: Vec::new(),
            backoff: (seconds(2), seconds(30)),
            escalate: Escalate::default(),
        },
        fallback: Vec::new(),
        strict: false,
        pure: false,
        labels: Vec::new(),
        warm: None,
        shard: None,
        junit: Vec::new(),
        watch: WatchSpec {
            paths: None,
            ignore: Vec::new(),
            debounce: None,
            on_busy: OnBusy::Restart,
            stop_signal: StopSignal::Terminate,
            stop_timeout: GRACE,
            clear: false,
            notify: WatchNotify::Never,
        },
        provenance: Default::default(),
    }
}

fn spec() -> SandboxSpec {
    let image = ImageSpec {
        name: "host".to_owned(),
        digest: Digest::of(b"host"),
        base: BaseSpec::None,
        python: None,
        layers: Vec::new(),
        workdir: None,
        force_build: false,
        local: LocalSpec { engine: LocalEngine::Host, run: Vec::new() },
    };
    SandboxSpec {
        command: CommandSpec::Argv(vec!["true".to_owned()]),
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
        stop_timeout: GRACE,
    }
}

pub fn plan(jobs: Vec<PlannedJob>, requested: &[&str]) -> Plan {
    Plan {
        root: PathBuf::from("/project"),
        project: "test".to_owned(),
        modal: ModalTarget { app: "accel-test".to_owned(), environment: None },
        sync: SyncSet { gitignore: true, include: Vec::new(), exclude: Vec::new(), max_size: Bytes(1 << 30) },
        requested: requested.iter().map(|name| JobId::new(*name)).collect(),
        jobs,
        images: Default::default(),
        budget: BudgetLimits::default(),
        provenance: Default::default(),
    }
}

pub fn falls_back(to: Place, on: &[Cause]) -> Vec<FallbackSpec> {
    vec![FallbackSpec { to, on: on.iter().copied().map(FallbackOn::Cause).collect() }]
}

/// One run on fakes.
pub struct World {
    plan: Plan,
    pub options: RunOptions,
    pub local: FakeBackend,
    pub modal: Option<FakeBackend>,
    other_modal: Option<Arc<dyn Backend>>,
    pub ledger: Ledger,
    pub cancel: CancelSource,
    decide: Decide,
}

/// What a run left behind.
pub struct Seen {
    pub summary: Summary,
    pub events: Vec<Event>,
    pub ledger: Ledger,
    pub exit_code: u8,
}

impl World {
    pub fn new(jobs: Vec<PlannedJob>) -> Self {
        let requested: Vec<String> = jobs.iter().map(|job| job.name.clone()).collect();
        let requested: Vec<&str> = requested.iter().map(String::as_str).collect();
        Self::of_plan(plan(jobs, &requested))
    }

    pub fn of_plan(plan: Plan) -> Self {
        let ledger = Ledger::default();
        let options = RunOptions {
            run: "run-1".to_owned(),
            parallel: Parallel::jobs(2.try_into().unwrap()),
            on_failure: OnFailure::Drain,
            fallback: FallbackPolicy::AsPlanned,
            output: OutputPolicy::Events,
            jitter: Jitter::new(|| 1.0),
        };
        Self {
            plan,
            options,
            local: FakeBackend::new(Place::Local, &ledger),
            modal: Some(FakeBackend::new(Place::Modal, &ledger)),
            other_modal: None,
            ledger,
            cancel: CancelSource::default(),
            decide: to(Place::Local),
        }
    }

    pub fn on(mut self, place: Place) -> Self {
        self.decide = to(place);
        self
    }

    /// Modal first, this machine after so many seconds.
    pub fn racing(mut self, after: u64) -> Self {
        let rival = Rival { place: Place::Local, after: seconds(after) };
        self.decide = Arc::new(move |_, _| Decision { rival: Some(rival), ..decision(Place::Modal) });
        self
    }

    pub fn deciding(mut self, place: impl Fn(u32) -> Place + Send + Sync + 'static) -> Self {
        self.decide = Arc::new(move |_, attempt| decision(place(attempt)));
        self
    }

    /// As [`racing`](Self::racing), for these jobs only; others run in `place`.
    pub fn racing_some(mut self, after: u64, jobs: Vec<JobId>, place: Place) -> Self {
        let rival = Rival { place: Place::Local, after: seconds(after) };
        self.decide = Arc::new(move |job, _| match jobs.contains(&job.id) {
            true => Decision { rival: Some(rival), ..decision(Place::Modal) },
            false => decision(place),
        });
        self
    }

    pub fn local(mut self, job: &str, script: Script) -> Self {
        self.local = self.local.script(job, script);
        self
    }

    pub fn modal(mut self, job: &str, script: Script) -> Self {
        self.modal = self.modal.map(|modal| modal.script(job, script));
        self
    }

    /// Another backend in place of the fake one.
    pub fn with_modal(mut self, backend: Arc<dyn Backend>) -> Self {
        self.other_modal = Some(backend);
        self
    }

    pub fn keep_going(mut self) -> Self {
        self.options.on_failure = OnFailure::KeepGoing;
        self
    }

    pub async fn run(self) -> Seen {
        self.run_while(|_| async {}).await
    }

    /// Runs beside what the test does with the run's cancellation.
    pub async fn run_while<F: Future<Output = ()>>(self, test: impl FnOnce(Arc<CancelSource>) -> F) -> Seen {
        let plan = Arc::new(self.plan);
        let mut backends: Backends = Backends::new();
        backends.insert(Place::Local, Arc::new(self.local) as Arc<dyn Backend>);
        let fake = self.modal.map(|modal| Arc::new(modal) as Arc<dyn Backend>);
        if let Some(modal) = self.other_modal.or(fake) {
            backends.insert(Place::Modal, modal);
        }
        let (emitter, mut receiver) = channel();
        let cancel = Arc::new(self.cancel);
        let running = run(Arc::clone(&plan), self.options, backends, self.decide, emitter, cancel.watch());
        let mut events = Vec::new();
        let collecting = async {
            while let Some(stamped) = receiver.recv().await {
                events.push(stamped.event);
            }
        };
        let (summary, (), ()) = tokio::join!(running, collecting, test(Arc::clone(&cancel)));
        let seen = Seen {
            exit_code: super::super::exit_code(&plan, &summary),
            summary,
            events,
            ledger: self.ledger,
        };
        seen.check_sessions();
        seen
    }
}

fn to(place: Place) -> Decide {
    Arc::new(move |_, _| decision(place))
}

fn decision(place: Place) -> Decision {
    Decision { place, reason: "test".to_owned(), reasons: vec!["test".to_owned()], quote: None, rival: None }
}

impl Seen {
    pub fn verdict(&self, job: &str) -> &Verdict {
        &self.summary.jobs.iter().find(|report| report.job.as_str() == job).expect(job).verdict
    }

    pub fn started(&self, job: &str) -> usize {
        self.ledger.count(job, Phase::OpenStarted)
    }

    /// What holds for every run: what was opened was closed once, and every job finished once.
    fn check_sessions(&self) {
        let count =
            |is: fn(Phase) -> bool| self.ledger.entries().iter().filter(|entry| is(entry.phase)).count();
        assert_eq!(count(|phase| phase == Phase::Dropped), 0, "sessions dropped without close");
        assert_eq!(count(|phase| phase == Phase::Opened), count(|phase| phase == Phase::Closed));
        for report in &self.summary.jobs {
            let finished =
                |event: &&Event| matches!(event, Event::JobFinished { job, .. } if *job == report.job);
            assert_eq!(self.events.iter().filter(finished).count(), 1, "{}", report.job);
        }
        assert!(matches!(self.events.first(), Some(Event::RunStarted { .. })));
        let Some(Event::RunFinished { exit_code, .. }) = self.events.last() else { panic!("no last event") };
        assert_eq!(*exit_code, self.exit_code);
    }
}
