//! What is to be run, and what a change during a run means. Pure: no clock, no files, no processes.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::JobId;
use crate::plan::spec::{OnBusy, Plan};

pub type Jobs = BTreeSet<JobId>;

/// The jobs of a plan with what each needs, and how each treats a change while it runs.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    jobs: BTreeMap<JobId, Node>,
}

#[derive(Debug, Clone)]
struct Node {
    needs: Vec<JobId>,
    on_busy: OnBusy,
}

impl Graph {
    pub fn of(plan: &Plan) -> Self {
        let id = |index: &usize| plan.jobs[*index].id.clone();
        let node = |job: &crate::plan::spec::PlannedJob| Node {
            needs: job.needs.iter().map(id).collect(),
            on_busy: job.watch.on_busy,
        };
        Self { jobs: plan.jobs.iter().map(|job| (job.id.clone(), node(job))).collect() }
    }

    pub fn all(&self) -> Jobs {
        self.jobs.keys().cloned().collect()
    }

    /// The jobs, and all that need one of them.
    fn with_dependants(&self, jobs: &Jobs) -> Jobs {
        let mut found: Jobs = jobs.iter().filter(|job| self.jobs.contains_key(*job)).cloned().collect();
        loop {
            let before = found.len();
            for (job, node) in &self.jobs {
                if node.needs.iter().any(|need| found.contains(need)) {
                    found.insert(job.clone());
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    /// Adds what the jobs need and what has not passed.
    fn add_needs(&self, jobs: &mut Jobs, passed: &Jobs) {
        let mut waiting: Vec<JobId> = jobs.iter().cloned().collect();
        while let Some(job) = waiting.pop() {
            for need in self.jobs.get(&job).iter().flat_map(|node| &node.needs) {
                if !passed.contains(need) && jobs.insert(need.clone()) {
                    waiting.push(need.clone());
                }
            }
        }
    }
}

/// What to do about a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing, or nothing yet.
    Wait,
    /// End the current run, politely; the next begins when it is over.
    Stop,
}

/// Holds what waits to be run, and which results still hold.
#[derive(Debug, Default)]
pub struct Agenda {
    graph: Graph,
    wanted: Jobs,
    /// Passed, and nothing of theirs has changed since they started.
    passed: Jobs,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    jobs: Jobs,
    /// Those whose files changed since: what they say is not of the present tree.
    outdated: Jobs,
    stopped: bool,
}

impl Agenda {
    pub fn new(graph: Graph) -> Self {
        Self { graph, ..Self::default() }
    }

    /// Another plan: jobs keep their results by name.
    pub fn replace(&mut self, graph: Graph) {
        self.graph = graph;
        self.wanted.retain(|job| self.graph.jobs.contains_key(job));
        self.passed.retain(|job| self.graph.jobs.contains_key(job));
    }

    /// Asks for jobs whether or not something changed; after the current run.
    pub fn want(&mut self, jobs: &Jobs) {
        self.wanted.extend(jobs.iter().cloned());
    }

    /// Asks for jobs as somebody who waits for them: one that is running begins anew where a change would have it
    /// begin anew, else it runs once more afterwards, also where changes are ignored.
    pub fn ask(&mut self, jobs: &Jobs) -> Reaction {
        self.want(jobs);
        self.restart(jobs)
    }

    /// What these jobs follow has changed.
    pub fn changed(&mut self, affected: &Jobs) -> Reaction {
        let outdated = self.changed_meanwhile(affected);
        self.restart(&outdated)
    }

    /// Ends the current run for one of the jobs, if that is in it and wants to.
    fn restart(&mut self, jobs: &Jobs) -> Reaction {
        let Some(running) = &mut self.running else { return Reaction::Wait };
        let restarts = |job: &JobId| {
            let on_busy = self.graph.jobs.get(job).map(|node| node.on_busy);
            running.jobs.contains(job) && on_busy == Some(OnBusy::Restart)
        };
        if jobs.iter().any(restarts) && !running.stopped {
            running.stopped = true;
            return Reaction::Stop;
        }
        Reaction::Wait
    }

    /// The same, but whatever runs goes on to its end. Returns the jobs whose results are of the past.
    pub fn changed_meanwhile(&mut self, affected: &Jobs) -> Jobs {
        let outdated = self.graph.with_dependants(affected);
        self.passed.retain(|job| !outdated.contains(job));
        let Some(running) = &mut self.running else {
            self.wanted.extend(outdated.iter().cloned());
            return outdated;
        };
        let on_busy = |job: &JobId| self.graph.jobs.get(job).map_or(OnBusy::Queue, |node| node.on_busy);
        let ignored = |job: &&JobId| running.jobs.contains(*job) && on_busy(job) == OnBusy::Ignore;
        let followed: Jobs = outdated.iter().filter(|job| !ignored(job)).cloned().collect();
        self.wanted.extend(followed.iter().cloned());
        running.outdated.extend(followed);
        outdated
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The jobs to run now; `None` while a run is going or nothing is wanted.
    pub fn start(&mut self) -> Option<Jobs> {
        if self.running.is_some() || self.wanted.is_empty() {
            return None;
        }
        let mut jobs = self.graph.with_dependants(&std::mem::take(&mut self.wanted));
        self.graph.add_needs(&mut jobs, &self.passed);
        if jobs.is_empty() {
            return None;
        }
        self.passed.retain(|job| !jobs.contains(job));
        self.running = Some(Running { jobs: jobs.clone(), outdated: Jobs::new(), stopped: false });
        Some(jobs)
    }

    /// The run is over. What a stopped one did not get to is wanted again.
    pub fn ended(&mut self, passed: &Jobs) {
        let Some(running) = self.running.take() else { return };
        if running.stopped {
            self.wanted.extend(running.jobs.difference(passed).cloned());
        }
        self.passed.extend(passed.difference(&running.outdated).cloned());
        // The plan may have changed meanwhile.
        self.wanted.retain(|job| self.graph.jobs.contains_key(job));
        self.passed.retain(|job| self.graph.jobs.contains_key(job));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;
    use crate::watch::Settle;

    fn jobs(names: &str) -> Jobs {
        names.split_whitespace().map(JobId::new).collect()
    }

    /// `"test: build"`: test needs build.
    fn graph(lines: &[&str], on_busy: OnBusy) -> Graph {
        let node = |line: &&str| {
            let (job, needs) = line.split_once(':').unwrap_or((line, ""));
            let needs = needs.split_whitespace().map(JobId::new).collect();
            (JobId::new(job), Node { needs, on_busy })
        };
        Graph { jobs: lines.iter().map(node).collect() }
    }

    fn agenda(on_busy: OnBusy) -> Agenda {
        let mut agenda = Agenda::new(graph(&["lint", "build", "test: build", "e2e: test"], on_busy));
        agenda.want(&agenda.graph.all());
        assert_eq!(agenda.start(), Some(jobs("lint build test e2e")));
        agenda
    }

    #[test]
    fn a_needed_job_runs_again_before_what_needs_it_and_what_passed_is_not_repeated() {
        let mut agenda = agenda(OnBusy::Queue);
        agenda.ended(&jobs("lint build test e2e"));
        assert_eq!(agenda.start(), None);
        assert_eq!(agenda.changed(&jobs("test")), Reaction::Wait);
        assert_eq!(agenda.start(), Some(jobs("test e2e")));
        agenda.ended(&jobs("test e2e"));
        agenda.changed(&jobs("build"));
        assert_eq!(agenda.start(), Some(jobs("build test e2e")));
        // A need that failed runs again with whatever needs it.
        agenda.ended(&jobs(""));
        agenda.changed(&jobs("e2e"));
        assert_eq!(agenda.start(), Some(jobs("build test e2e")));
    }

    #[test]
    fn a_change_during_a_run_follows_the_policy() {
        let mut queue = agenda(OnBusy::Queue);
        assert_eq!(queue.changed(&jobs("lint")), Reaction::Wait);
        assert_eq!(queue.start(), None, "runs never overlap");
        queue.ended(&jobs("lint build test e2e"));
        assert_eq!(queue.start(), Some(jobs("lint")));

        let mut restart = agenda(OnBusy::Restart);
        assert_eq!(restart.changed(&jobs("test")), Reaction::Stop);
        assert_eq!(restart.changed(&jobs("test")), Reaction::Wait, "it is being stopped already");
        restart.ended(&jobs("build"));
        assert_eq!(restart.start(), Some(jobs("lint test e2e")), "what passed before the stop still holds");

        let mut ignore = agenda(OnBusy::Ignore);
        assert_eq!(ignore.changed(&jobs("lint")), Reaction::Wait);
        ignore.ended(&jobs("lint build test e2e"));
        assert_eq!(ignore.start(), None);
        ignore.changed(&jobs("lint"));
        assert_eq!(ignore.start(), Some(jobs("lint")));
    }

    #[test]
    fn whoever_asks_for_a_job_that_runs_gets_it_anew_and_never_nothing() {
        for on_busy in [OnBusy::Restart, OnBusy::Queue, OnBusy::Ignore] {
            let mut agenda = agenda(on_busy);
            let expected = if on_busy == OnBusy::Restart { Reaction::Stop } else { Reaction::Wait };
            assert_eq!(agenda.ask(&jobs("lint")), expected);
            assert_eq!(agenda.ask(&jobs("lint")), Reaction::Wait, "once");
            agenda.ended(&jobs("lint build test e2e"));
            assert_eq!(agenda.start(), Some(jobs("lint")));
        }
    }

    #[test]
    fn a_change_that_does_not_concern_what_runs_stops_nothing() {
        let mut agenda = agenda(OnBusy::Restart);
        agenda.ended(&jobs("lint build test e2e"));
        agenda.changed(&jobs("lint"));
        assert_eq!(agenda.start(), Some(jobs("lint")));
        assert_eq!(agenda.changed(&jobs("e2e")), Reaction::Wait);
        agenda.ended(&jobs("lint"));
        assert_eq!(agenda.start(), Some(jobs("e2e")));
    }

    #[test]
    fn another_plan_keeps_results_by_name() {
        let mut agenda = agenda(OnBusy::Restart);
        agenda.ended(&jobs("lint build test e2e"));
        agenda.replace(graph(&["build", "check: build"], OnBusy::Restart));
        agenda.want(&jobs("check gone"));
        assert_eq!(agenda.start(), Some(jobs("check")));
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Change(usize),
        /// The run of the moment ends, with which jobs passed (bits).
        End(u8),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0_usize..4).prop_map(Step::Change),
            2 => any::<u8>().prop_map(Step::End),
            3 => (0_u64..3_000).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..80)
    }

    /// The settle machine and the agenda as the loop joins them, with a clock of its own.
    struct Model {
        names: [&'static str; 4],
        now: Instant,
        settle: Settle,
        agenda: Agenda,
        pending: Jobs,
        running: Option<Jobs>,
        changed_at: BTreeMap<JobId, Instant>,
        started_at: BTreeMap<JobId, Instant>,
        changes: usize,
        runs: usize,
    }

    impl Model {
        fn advance(&mut self, to: Instant) {
            while let Some(due) = self.settle.due().filter(|due| *due <= to) {
                self.now = due.max(self.now);
                assert!(self.settle.take(self.now));
                let affected = std::mem::take(&mut self.pending);
                self.agenda.changed(&affected);
                self.start();
            }
            self.now = to;
        }

        fn start(&mut self) {
            let Some(jobs) = self.agenda.start() else { return };
            assert!(self.running.is_none(), "runs never overlap");
            self.runs += 1;
            for job in &jobs {
                self.started_at.insert(job.clone(), self.now);
            }
            self.running = Some(jobs);
        }

        fn end(&mut self, bits: u8) {
            let Some(running) = self.running.take() else { return };
            let passes = |job: &&JobId| {
                let at = self.names.iter().position(|name| *name == job.as_str()).unwrap();
                bits >> at & 1 == 1
            };
            self.agenda.ended(&running.iter().filter(passes).cloned().collect());
            self.start();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_change_is_followed_by_a_run_that_started_after_it(steps in steps(), restart in any::<bool>()) {
            let on_busy = if restart { OnBusy::Restart } else { OnBusy::Queue };
            let names = ["lint", "build", "test", "e2e"];
            let now = Instant::now();
            let mut model = Model {
                names,
                now,
                settle: Settle::new(None),
                agenda: Agenda::new(graph(&["lint", "build", "test: build", "e2e: test"], on_busy)),
                pending: Jobs::new(),
                running: None,
                changed_at: BTreeMap::new(),
                started_at: BTreeMap::new(),
                changes: 0,
                runs: 0,
            };
            for step in steps {
                match step {
                    Step::Change(index) => {
                        let job = JobId::new(names[index]);
                        model.settle.note(model.now);
                        model.changed_at.insert(job.clone(), model.now);
                        model.pending.insert(job);
                        model.changes += 1;
                    }
                    Step::End(bits) => model.end(bits),
                    Step::Wait(millis) => model.advance(model.now + Duration::from_millis(millis)),
                }
            }
            // Quiet: nothing changes any more, and every run ends well.
            model.advance(model.now + Duration::from_secs(10));
            while model.running.is_some() {
                model.end(u8::MAX);
            }
            for (job, changed) in &model.changed_at {
                let started = model.started_at.get(job);
                prop_assert!(started.is_some_and(|started| started >= changed), "{job}");
            }
            // Two runs for a change at most: it, and what it interrupted.
            prop_assert!(model.runs <= 2 * model.changes, "{} runs, {} changes", model.runs, model.changes);
        }
    }
}
