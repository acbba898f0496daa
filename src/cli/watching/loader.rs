//! From the files of the configuration to what a watch follows, and again whenever they change.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::backend::CancelSource;
use crate::cli::ambient;
use crate::cli::commands::run::by_flag;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::execution::Execution;
use crate::cli::not_built;
use crate::cli::project::Project;
use crate::config::model::Route;
use crate::diag::SourceMap;
use crate::domain::{JobId, Place};
use crate::plan::render::{Outlook, PlanView};
use crate::plan::spec::{Plan, SyncSet};
use crate::plan::warm::Habit;
use crate::plan::{self, Selection};
use crate::process::{Input, Launch, Tool, find_program};
use crate::watch::affected::{Interests, named_exactly};
use crate::watch::litter::LITTER;
use crate::watch::{Following, Reloaded};
use crate::workspace::tree::{Exclusion, Judge, Judgement, Rules};

/// Longest that showing a notification may take.
const NOTIFICATION_LIMIT: Duration = Duration::from_secs(2);

pub struct Loader<'a> {
    context: &'a Context<'a>,
    selection: RefCell<Selection>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// The jobs as `accel plan` shows them, to tell what changed.
    jobs: BTreeMap<JobId, Value>,
    /// What decides which paths matter.
    paths: Option<Paths>,
    /// The error that was told last; it is not told twice.
    told: Option<String>,
}

impl State {
    /// Whether this was not what was told last; it is now.
    fn is_news(&mut self, error: &CommandError) -> bool {
        let text = Some(format!("{error:?}"));
        let news = self.told != text;
        self.told = text;
        news
    }
}

/// Everything that [`Rules`] are made of.
#[derive(Debug, Clone, PartialEq)]
struct Paths {
    /// Of the configuration, in its printed form.
    sync: String,
    include: Vec<String>,
    exclusions: Vec<Exclusion>,
}

struct Loaded {
    following: Following,
    sync: SyncSet,
    paths: Paths,
    jobs: BTreeMap<JobId, Value>,
}

impl<'a> Loader<'a> {
    pub fn new(context: &'a Context<'a>, selection: Selection) -> Self {
        Self { context, selection: RefCell::new(selection), state: RefCell::default() }
    }

    /// The configuration at the start, which has to be whole.
    pub fn first(&self, command: &str) -> Result<(Following, Rules), CommandError> {
        let project = Project::open(self.context)?;
        if self.selection.borrow().requested.is_empty() {
            return Err(project.name_a_job(command));
        }
        let loaded = self.load(&project)?;
        project.mention_warnings(&self.context.printer);
        let rules = loaded.rules()?;
        let mut state = self.state.borrow_mut();
        (state.jobs, state.paths) = (loaded.jobs, Some(loaded.paths));
        Ok((loaded.following, rules))
    }

    /// Where every run goes, if that was asked for.
    pub fn sent_to(&self) -> Option<Place> {
        match self.selection.borrow().on.as_ref()?.value {
            Route::To(place) => Some(place),
            _ => None,
        }
    }

    /// Every following run goes there: the plan for that. `None` while the configuration is broken, which it says;
    /// then everything stays as it is.
    pub fn send_to(&self, place: Place) -> Option<Arc<Plan>> {
        let on = self.selection.borrow_mut().on.replace(by_flag("key m", Route::To(place)));
        let loaded = Project::open(self.context).and_then(|project| self.load(&project));
        match loaded {
            Ok(loaded) => {
                self.state.borrow_mut().jobs = loaded.jobs;
                Some(loaded.following.plan)
            }
            Err(error) => {
                self.selection.borrow_mut().on = on;
                if self.state.borrow_mut().is_news(&error) {
                    error.print(&self.context.printer);
                }
                self.context.printer.say("the configuration has errors: the next runs stay where they are\n");
                None
            }
        }
    }

    /// The configuration as it is now; says what changed, or what is wrong with it. `before_saying` makes room.
    pub fn again(&self, before_saying: &dyn Fn()) -> Reloaded {
        let loaded = Project::open(self.context).and_then(|project| {
            let loaded = self.load(&project)?;
            let rules = loaded.rules()?;
            Ok((loaded, rules))
        });
        let mut state = self.state.borrow_mut();
        let (loaded, rules) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                if state.is_news(&error) {
                    before_saying();
                    error.print(&self.context.printer);
                    self.context.printer.say("the last good configuration stays in use\n");
                }
                return Reloaded::Broken(files_of_error(&error));
            }
        };
        let was_broken = state.told.take().is_some();
        let changes = changes(&state.jobs, &loaded.jobs);
        let other_paths = state.paths.as_ref() != Some(&loaded.paths);
        if changes.is_empty() && !other_paths {
            if was_broken {
                before_saying();
                self.context.printer.say("the configuration is in order again\n");
            }
            return Reloaded::Same;
        }
        before_saying();
        for change in &changes {
            self.context.printer.say(format!("configuration: {}\n", change.text));
        }
        let jobs = changes.into_iter().filter(|change| change.runs).map(|change| change.job).collect();
        (state.jobs, state.paths) = (loaded.jobs, Some(loaded.paths));
        let rules = other_paths.then(|| Box::new(rules));
        Reloaded::Changed { following: Box::new(loaded.following), rules, jobs }
    }

    fn load(&self, project: &Project) -> Result<Loaded, CommandError> {
        let plan = project.plan(&self.selection.borrow())?;
        not_built::refuse(&plan)?;
        let interests = Interests::of(&plan).map_err(|error| CommandError::usage(error.to_string()))?;
        let mut config_files = files_of(&project.config.sources);
        for name in ["accel.toml", "accel.local.toml"] {
            config_files.insert(plan.root.join(name));
        }
        let plan_files = plan.images.values().flat_map(|image| image.files());
        let plan_files = plan_files.map(|file| plan.root.join(&file.path)).collect();
        let (jobs, paths, sync) = (views(&plan), Paths::of(&plan, self.context), plan.sync.clone());
        let following = Following { plan: Arc::new(plan), interests, config_files, plan_files };
        Ok(Loaded { following, sync, paths, jobs })
    }
}

impl Loaded {
    fn rules(&self) -> Result<Rules, CommandError> {
        let make = |include: &[String]| {
            let mut sync = self.sync.clone();
            sync.include.extend(include.iter().cloned());
            Rules::new(&sync, &self.paths.exclusions, ambient::global_ignore())
                .map_err(|error| CommandError::usage(error.to_string()))
        };
        // What is named exactly is followed though it is ignored; what is not ignored needs no help, and keeps
        // ignored files inside it out.
        let root = &self.following.plan.root;
        let mut judge = Judge::new(root, make(&[])?);
        let ignored = |path: &&String| {
            let path = path.trim_start_matches("./").trim_end_matches('/');
            judge.judge(path, root.join(path).is_dir()) != Judgement::In
        };
        let include: Vec<String> = self.paths.include.iter().filter(ignored).cloned().collect();
        make(&include)
    }
}

impl Paths {
    fn of(plan: &Plan, context: &Context<'_>) -> Self {
        let mut exclusions = Vec::new();
        for job in &plan.jobs {
            let written = job.spec.outputs.iter().flatten().chain(&job.junit);
            exclusions.extend(written.map(|pattern| Exclusion {
                pattern: pattern.clone(),
                reason: format!("output of {}", job.id),
            }));
        }
        exclusions.extend(
            LITTER.map(|(pattern, what)| Exclusion { pattern: pattern.to_owned(), reason: what.to_owned() }),
        );
        let directories = context.ambient.directories(&plan.root);
        for own in [directories.state_path(), directories.cache_path()] {
            let below =
                own.strip_prefix(&plan.root).ok().and_then(Path::to_str).filter(|path| !path.is_empty());
            exclusions.extend(
                below.map(|path| Exclusion {
                    pattern: path.to_owned(),
                    reason: "accel's own folder".to_owned(),
                }),
            );
        }
        let include = named_exactly(plan).into_iter().collect();
        Self { sync: format!("{:?}", plan.sync), include, exclusions }
    }
}

/// Stops in a watch take as long as the watch says; its sandboxes are kept as `habit` says.
pub fn for_watching(mut plan: Plan, habit: Habit) -> Plan {
    plan::warm::apply(&mut plan, habit);
    for job in &mut plan.jobs {
        Arc::make_mut(&mut job.spec).stop_timeout = job.watch.stop_timeout;
    }
    plan
}

struct Change {
    job: JobId,
    text: String,
    /// Whether it has to run again for that.
    runs: bool,
}

/// What is different about each job: `test: run, env changed`, `test is new`, `test is gone`.
fn changes(before: &BTreeMap<JobId, Value>, now: &BTreeMap<JobId, Value>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (job, view) in now {
        let Some(old) = before.get(job) else {
            changes.push(Change { job: job.clone(), text: format!("{job} is new"), runs: true });
            continue;
        };
        let keys: Vec<&str> = view
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| old.get(key.as_str()) != Some(*value))
            .map(|(key, _)| key.as_str())
            .collect();
        if !keys.is_empty() {
            let runs = keys.iter().any(|key| !["desc", "labels", "watch"].contains(key));
            changes.push(Change {
                job: job.clone(),
                text: format!("{job}: {} changed", keys.join(", ")),
                runs,
            });
        }
    }
    for job in before.keys().filter(|job| !now.contains_key(*job)) {
        changes.push(Change { job: job.clone(), text: format!("{job} is gone"), runs: false });
    }
    changes
}

/// Each job as `accel plan` shows it, with the digest of its image and without where values were set.
fn views(plan: &Plan) -> BTreeMap<JobId, Value> {
    let tree = serde_json::to_value(PlanView::of(plan, &Outlook::default())).unwrap_or_default();
    let view = |job: &crate::plan::spec::PlannedJob| {
        let mut view = tree["jobs"][job.id.as_str()].clone();
        if let Some(view) = view.as_object_mut() {
            view.remove("provenance");
            view.insert("image".to_owned(), Value::from(format!("{:?}", job.spec.image.digest)));
            for rule in view.get_mut("route").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(rule) = rule.as_object_mut() {
                    rule.remove("origin");
                }
            }
        }
        (job.id.clone(), view)
    };
    plan.jobs.iter().map(view).collect()
}

fn files_of(sources: &SourceMap) -> BTreeSet<PathBuf> {
    sources.files().map(Path::to_owned).collect()
}

fn files_of_error(error: &CommandError) -> BTreeSet<PathBuf> {
    match error {
        CommandError::Configuration { sources, .. } => files_of(sources),
        CommandError::Usage { .. } | CommandError::Failed { .. } => BTreeSet::new(),
    }
}

/// Best effort: a desktop that cannot be reached shows nothing.
pub async fn notify_desktop(execution: &Execution<'_>, title: &str, text: &str) {
    let variables = &execution.context.ambient.variables;
    let path = variables.get("PATH").unwrap_or_default();
    let Ok(program) = find_program("notify-send".as_ref(), path, execution.folder) else { return };
    let launch = Launch {
        program,
        name: OsString::from("notify-send"),
        args: vec!["--app-name=accel".into(), "--".into(), title.into(), text.into()],
        cwd: execution.folder.to_owned(),
        env: variables.0.clone(),
        input: Input::Null,
    };
    let tool = Tool { launch, limit: Some(NOTIFICATION_LIMIT), log: None };
    let _ = execution.supervisor.run_tool(&tool, CancelSource::default().watch()).await;
}
