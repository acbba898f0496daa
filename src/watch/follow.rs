//! The loop: joins source, settle machine, observation and agenda, and starts runs.

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use super::agenda::{Agenda, Graph, Reaction};
use super::observed::{Findings, Observed, Unfinished};
use super::restless::Restless;
use super::settle::Settle;
use super::source::{Happening, Means, Source};
use super::work::{Cause, Command, Ended, Following, NAMED_PATHS, News, Reloaded, Run, Sign, Trigger, Work};
use crate::backend::{Cancel, CancelLevel, CancelSource, StopReason};
use crate::domain::JobId;
use crate::plan::spec::{Plan, PlannedJob, StopSignal};
use crate::workspace::tree::Rules;

/// How long the project's folder may be away before that is said.
const AWAY: Duration = Duration::from_secs(10);

/// A run that goes on, and what stops it.
type Current<'a> = (Pin<Box<dyn Future<Output = Ended> + 'a>>, CancelSource);

/// Runs everything, and again what changes concern, until told to quit. `rules` say which paths of the folder can
/// matter at all.
pub async fn follow(
    work: &impl Work,
    following: Following,
    rules: Rules,
    polling: Option<Means>,
    mut quit: Cancel,
) {
    work.sign(Sign::Start);
    let mut state = Follow::begun(following, rules, polling).await;
    state.ready(work);
    let mut current: Option<Current<'_>> = None;
    let mut seen = CancelLevel::Run;
    let mut quitting = false;
    loop {
        if current.is_none() {
            if quitting {
                return;
            }
            if let Some((jobs, trigger)) = state.next_run() {
                let source = CancelSource::beside(&quit);
                let run = Run { jobs, trigger, cancel: source.watch() };
                current = Some((Box::pin(work.run(run)), source));
            }
        }
        let due = state.settle.due();
        tokio::select! {
            biased;
            level = quit.above(seen) => {
                (seen, quitting) = (level, true);
                if let Some((_, source)) = &current {
                    source.raise(level);
                }
            }
            ended = finished(&mut current) => {
                current = None;
                state.agenda.ended(&ended.passed);
            }
            command = work.command() => {
                let level = state.obey(command, quitting, work);
                quitting |= command == Command::Quit;
                if let (Some(level), Some((_, source))) = (level, &current) {
                    source.raise(level);
                }
            }
            happening = state.source.next(), if !quitting => {
                let was_quiet = state.settle.due().is_none();
                state.happened(happening, work);
                if current.is_none() && was_quiet && state.settle.due().is_some() {
                    work.sign(Sign::Save);
                }
            }
            () = until(due), if !quitting && due.is_some() => {
                if state.settled(work) == Reaction::Stop && let Some((_, source)) = &current {
                    source.raise(state.stop_level());
                }
            }
            () = until(state.away_said_at), if state.away_said_at.is_some() => {
                state.away_said_at = None;
                state.away_was_said = true;
                work.tell(News::Away);
            }
        }
    }
}

async fn finished(current: &mut Option<Current<'_>>) -> Ended {
    match current {
        Some((run, _)) => run.await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

struct Follow {
    following: Following,
    observed: Observed,
    source: Source,
    settle: Settle,
    agenda: Agenda,
    graph: Graph,
    /// Changed paths of the burst.
    pending: BTreeSet<String>,
    again: bool,
    /// How often a save of this burst that looked half done was waited for.
    waits: u32,
    plan_changed: bool,
    trigger: Trigger,
    last: BTreeSet<JobId>,
    away_said_at: Option<Instant>,
    away_was_said: bool,
    polling_was_said: bool,
    restless: Restless,
}

impl Follow {
    fn new(following: Following, rules: Rules, polling: Option<Means>) -> Self {
        let root = &following.plan.root;
        let graph = Graph::of(&following.plan);
        Self {
            observed: Observed::new(root, rules),
            source: Source::new(root, polling),
            settle: Settle::new(debounce(&following.plan)),
            agenda: Agenda::new(graph.clone()),
            graph,
            following,
            pending: BTreeSet::new(),
            again: false,
            waits: 0,
            plan_changed: false,
            trigger: Trigger::default(),
            last: BTreeSet::new(),
            away_said_at: None,
            away_was_said: false,
            polling_was_said: false,
            restless: Restless::default(),
        }
    }

    /// Looks at the tree on another thread: what a sign has set going goes on meanwhile.
    async fn begun(following: Following, rules: Rules, polling: Option<Means>) -> Self {
        let look = move || {
            let mut state = Self::new(following, rules, polling);
            state.take_tree();
            state
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(state) => state,
            Err(broken) => std::panic::resume_unwind(broken.into_panic()),
        }
    }

    fn ready(&mut self, work: &impl Work) {
        self.say_means(work);
        work.tell(News::Ready { files: self.observed.files() });
        self.agenda.want(&self.graph.all());
    }

    /// The tree as it is, watched.
    fn take_tree(&mut self) {
        let began = Instant::now();
        let came = self.observed.begin();
        self.source.looked(began.elapsed());
        self.absorb(Findings { came, ..Findings::default() });
        self.watch_plan_files();
        self.observed.read_ahead();
    }

    fn watch_plan_files(&mut self) {
        let files = self.following.config_files.iter().chain(&self.following.plan_files);
        let folders: BTreeSet<&Path> = files.filter_map(|file| file.parent()).collect();
        for folder in folders.into_iter().filter(|folder| *folder != self.following.plan.root) {
            self.source.watch_place(folder);
        }
    }

    /// Watches what came and looks at it once more: it may have changed before it was watched.
    fn absorb(&mut self, findings: Findings) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let mut watched = BTreeSet::new();
        let mut findings = findings;
        loop {
            all.append(&mut findings.changed);
            self.source.unwatch(&findings.went);
            let fresh: BTreeSet<String> = findings.came.difference(&watched).cloned().collect();
            if fresh.is_empty() {
                return all;
            }
            self.source.watch(fresh.iter().map(String::as_str));
            watched.extend(fresh.iter().cloned());
            findings = self.observed.examine(&topmost(fresh));
        }
    }

    fn say_means(&mut self, work: &impl Work) {
        if let Means::Polled { why, help } = self.source.means()
            && !std::mem::replace(&mut self.polling_was_said, true)
        {
            work.tell(News::Polling { why: why.clone(), help: help.clone() });
        }
    }

    fn happened(&mut self, happening: Happening, work: &impl Work) {
        let now = Instant::now();
        match happening {
            Happening::Paths(paths) => {
                for path in paths {
                    self.path_changed(&path, now, work);
                }
            }
            Happening::LookAgain => {
                self.again = true;
                self.settle.note(now);
            }
            Happening::Gone => {
                self.away_said_at = Some(now + AWAY);
                self.again = true;
            }
            Happening::Replaced => {
                self.away_said_at = None;
                if std::mem::take(&mut self.away_was_said) {
                    work.tell(News::Back);
                }
                self.source.start_over();
                self.watch_plan_files();
                self.again = true;
                self.settle.note(now);
            }
        }
    }

    fn path_changed(&mut self, path: &Path, now: Instant, work: &impl Work) {
        let is_config = self.following.config_files.contains(path);
        if is_config || self.following.plan_files.contains(path) {
            self.plan_changed = true;
            self.settle.note(now);
        }
        if is_config {
            return;
        }
        if let Some(path) = self.observed.concerns(path) {
            if path.is_empty()
                && let Some(happening) = self.source.check_root()
            {
                self.happened(happening, work);
            }
            self.pending.insert(path);
            self.settle.note(now);
        }
    }

    /// The burst may be over: looks at what changed.
    fn settled(&mut self, work: &impl Work) -> Reaction {
        let now = Instant::now();
        if self.settle.due().is_none_or(|due| due > now) {
            return Reaction::Wait;
        }
        let half_saved = self.observed.unfinished(&self.pending).is_some_and(|what| self.waits < waits(what));
        self.waits += u32::from(half_saved);
        if (half_saved || self.git_is_at_work()) && self.settle.hold(now) || !self.settle.take(now) {
            return Reaction::Wait;
        }
        self.waits = 0;
        let pending = std::mem::take(&mut self.pending);
        let findings = if std::mem::take(&mut self.again) {
            let began = Instant::now();
            let findings = self.observed.look_again();
            self.source.looked(began.elapsed());
            findings
        } else {
            self.observed.examine(&pending)
        };
        let changed = self.absorb(findings);
        self.say_means(work);
        if let Some(path) = self.restless.note(&changed, self.agenda.is_running(), now) {
            work.tell(News::Restless { path });
        }
        let mut reaction = self.files_changed(&changed);
        if std::mem::take(&mut self.plan_changed) || self.polls_config() {
            let reloaded = self.reload(work);
            reaction = if reloaded == Reaction::Stop { reloaded } else { reaction };
        }
        reaction
    }

    /// A git command that changes the tree holds this lock.
    fn git_is_at_work(&self) -> bool {
        self.following.plan.root.join(".git/index.lock").exists()
    }

    /// Where nothing is told, the configuration is read again with every look.
    fn polls_config(&self) -> bool {
        matches!(self.source.means(), Means::Polled { .. })
    }

    fn files_changed(&mut self, changed: &BTreeSet<String>) -> Reaction {
        let root = &self.following.plan.root;
        let is_config = |path: &str| self.following.config_files.contains(&root.join(path));
        let changed: Vec<&str> = changed.iter().map(String::as_str).filter(|path| !is_config(path)).collect();
        let affected = self.following.interests.affected(changed.iter().copied());
        if affected.is_empty() {
            return Reaction::Wait;
        }
        self.trigger.cause = Cause::Change;
        self.trigger.count += changed.len();
        let room = NAMED_PATHS.saturating_sub(self.trigger.paths.len());
        self.trigger.paths.extend(changed.iter().take(room).map(|path| (*path).to_owned()));
        if self.restless.interrupts(&changed) {
            return self.agenda.changed(&affected);
        }
        self.agenda.changed_meanwhile(&affected);
        Reaction::Wait
    }

    fn reload(&mut self, work: &impl Work) -> Reaction {
        match work.reload() {
            Reloaded::Same => Reaction::Wait,
            Reloaded::Broken(files) => {
                self.following.config_files.extend(files);
                self.watch_plan_files();
                Reaction::Wait
            }
            Reloaded::Changed { following, rules, jobs } => {
                self.following = *following;
                self.graph = Graph::of(&self.following.plan);
                self.agenda.replace(self.graph.clone());
                self.settle.set_quiet(debounce(&self.following.plan));
                let jobs = if rules.is_some() { self.graph.all() } else { jobs };
                if let Some(rules) = rules {
                    self.observed = Observed::new(&self.following.plan.root, *rules);
                    self.take_tree();
                }
                self.watch_plan_files();
                if jobs.is_empty() {
                    return Reaction::Wait;
                }
                if self.trigger.cause == Cause::Start {
                    self.trigger.cause = Cause::Configuration;
                }
                self.agenda.changed(&jobs)
            }
        }
    }

    /// What that means for a run that goes on.
    fn obey(&mut self, command: Command, quitting: bool, work: &impl Work) -> Option<CancelLevel> {
        match command {
            Command::Quit if quitting => return Some(CancelLevel::Kill),
            Command::Quit => return Some(CancelLevel::Stop(StopReason::Quit)),
            _ if quitting => return None,
            Command::Move => {
                let plan = work.switch_place()?;
                self.following.plan = plan;
                self.asked_for();
                // The current run goes on where it is.
                self.agenda.want(&self.last);
                return None;
            }
            Command::Again => {}
            Command::All => self.last = self.graph.all(),
        }
        self.asked_for();
        match self.agenda.ask(&self.last) {
            Reaction::Stop => return Some(self.stop_level()),
            Reaction::Wait if self.agenda.is_running() => work.tell(News::Queued),
            Reaction::Wait => {}
        }
        None
    }

    fn asked_for(&mut self) {
        if self.trigger.cause == Cause::Start {
            self.trigger.cause = Cause::Key;
        }
    }

    /// What to run now. A burst that is going on is waited for: the run would be outdated at once.
    fn next_run(&mut self) -> Option<(BTreeSet<JobId>, Trigger)> {
        if self.settle.due().is_some() || self.away_said_at.is_some() || self.away_was_said {
            return None;
        }
        let jobs = self.agenda.start()?;
        self.last.clone_from(&jobs);
        Some((jobs, std::mem::take(&mut self.trigger)))
    }

    /// How a run that is outdated is told to stop: as the first job that was asked for says.
    fn stop_level(&self) -> CancelLevel {
        match requested(&self.following.plan).map(|job| job.watch.stop_signal) {
            Some(StopSignal::Kill) => CancelLevel::Kill,
            Some(signal) => CancelLevel::Stop(StopReason::Superseded(signal)),
            None => CancelLevel::Stop(StopReason::Terminate),
        }
    }
}

/// The first job that was asked for: its `watch` table decides what holds for the whole loop.
pub fn requested(plan: &Plan) -> Option<&PlannedJob> {
    let first = plan.requested.first()?;
    plan.jobs.iter().find(|job| job.id == *first)
}

/// How often that is waited for. Files are removed often and emptied hardly ever, while one that is being written may
/// stay empty for as long as a busy machine lets its writer wait: a run on that would see what nobody saved.
fn waits(unfinished: Unfinished) -> u32 {
    match unfinished {
        Unfinished::Gone => 1,
        Unfinished::Empty => 12,
    }
}

/// The shortest that a job of the plan asks for.
fn debounce(plan: &Plan) -> Option<Duration> {
    plan.jobs.iter().filter_map(|job| job.watch.debounce).min()
}

/// Without those that lie in another one.
fn topmost(folders: BTreeSet<String>) -> BTreeSet<String> {
    let mut top: BTreeSet<String> = BTreeSet::new();
    for folder in folders {
        let above = folder.match_indices('/').map(|(at, _)| &folder[..at]);
        if !top.contains("") && !above.into_iter().any(|above| top.contains(above)) {
            top.insert(folder);
        }
    }
    top
}
