//! Which jobs a change concerns. Pure.
//!
//! A job follows its `watch.paths`, else its `inputs`, else everything that travels; `watch.ignore` takes paths away.
//! Changes in what only a needed job follows concern that job; what needs it runs after it (see
//! [`Agenda`](super::Agenda)).

use std::collections::BTreeSet;

use crate::domain::JobId;
use crate::plan::spec::{Plan, PlannedJob};
use crate::workspace::tree::{PatternError, PatternSet};

/// What every job of a plan follows.
#[derive(Debug, Default)]
pub struct Interests(Vec<Interest>);

#[derive(Debug)]
struct Interest {
    job: JobId,
    /// `None`: everything.
    paths: Option<PatternSet>,
    ignore: PatternSet,
}

impl Interests {
    /// # Errors
    /// A pattern that is none.
    pub fn of(plan: &Plan) -> Result<Self, PatternError> {
        let set = |patterns: &[String]| PatternSet::new(patterns.iter().map(String::as_str));
        let interest = |job: &PlannedJob| {
            let paths = followed(job).map(|paths| set(&paths)).transpose()?;
            Ok(Interest { job: job.id.clone(), paths, ignore: set(&job.watch.ignore)? })
        };
        plan.jobs.iter().filter(|job| !job.is_group()).map(interest).collect::<Result<_, _>>().map(Self)
    }

    /// The jobs that follow one of the paths.
    pub fn affected<'a>(&self, changed: impl IntoIterator<Item = &'a str> + Clone) -> BTreeSet<JobId> {
        let concerned = |interest: &&Interest| changed.clone().into_iter().any(|path| interest.follows(path));
        self.0.iter().filter(concerned).map(|interest| interest.job.clone()).collect()
    }
}

impl Interest {
    fn follows(&self, path: &str) -> bool {
        self.paths.as_ref().is_none_or(|paths| paths.covering(path).is_some())
            && self.ignore.covering(path).is_none()
    }
}

/// Patterns that the job names, with the dotenv files that it reads; `None`: everything that travels.
pub fn followed(job: &PlannedJob) -> Option<Vec<String>> {
    let mut paths = job.watch.paths.clone().or_else(|| job.spec.inputs.clone())?;
    paths.extend(dotenv_files(job));
    Some(paths)
}

/// Paths without wildcards that some job names: they are followed even where ignore files leave them out.
pub fn named_exactly(plan: &Plan) -> BTreeSet<String> {
    let named = |job: &PlannedJob| followed(job).unwrap_or_else(|| dotenv_files(job).collect());
    let literal = |path: &String| !path.contains(['*', '?', '[', '{', '\\']);
    plan.jobs.iter().flat_map(named).filter(literal).collect()
}

fn dotenv_files(job: &PlannedJob) -> impl Iterator<Item = String> {
    job.spec.dotenv.iter().map(|file| file.path.to_string_lossy().into_owned())
}
