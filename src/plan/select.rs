//! Which jobs: requests resolved, matrices expanded, needs closed over, in an order in which needs come first.
//!
//! A matrix job is one planned job per combination of its axes, `name[axis=value,…]`, axes in file order, the
//! first axis changing slowest. A need on a matrix job means those of its combinations that agree with the
//! dependent on every axis that both have (so `test[python=3.12]` needs `build[python=3.12]`), and all of them
//! where none agrees. Order is the order of the requests, then of `needs` as written; what a glob finds comes
//! by name, so that the order of tables in the file never shows.

use std::collections::{BTreeMap, BTreeSet};

use globset::GlobBuilder;

use crate::base::suggest::nearest;
use crate::config::model::{Config, Job, Matrix, Valued};
use crate::diag::Diagnostic;
use crate::domain::JobId;

use super::fill::Values;

/// One combination of one job.
pub struct Node<'a> {
    pub id: JobId,
    pub job: &'a Job,
    pub values: Values,
    /// Indices of earlier nodes.
    pub needs: Vec<usize>,
}

pub struct Closure<'a> {
    pub nodes: Vec<Node<'a>>,
    /// Indices of the nodes that were asked for, in the order of asking.
    pub requested: Vec<usize>,
}

/// A combination within its job: (job name, position in [`expand`]).
type Key<'a> = (&'a str, usize);

pub fn close<'a>(config: &'a Config, selection: &super::Selection) -> Result<Closure<'a>, Vec<Diagnostic>> {
    let mut walk = Walk { config, expanded: BTreeMap::new(), placed: BTreeMap::new(), nodes: Vec::new() };
    let mut findings = Vec::new();
    let mut wanted: Vec<Key<'a>> = Vec::new();
    for request in &selection.requested {
        match walk.resolve(request) {
            Ok(keys) => wanted.extend(keys),
            Err(finding) => findings.push(finding),
        }
    }
    let mut seen = BTreeSet::new();
    wanted.retain(|key| seen.insert(*key));
    for key in &wanted {
        if let Err(finding) = walk.place(*key) {
            findings.push(finding);
        }
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    let requested = wanted.iter().map(|key| walk.placed[key]).collect();
    Ok(Closure { nodes: walk.nodes, requested })
}

struct Walk<'a> {
    config: &'a Config,
    expanded: BTreeMap<&'a str, Vec<Values>>,
    placed: BTreeMap<Key<'a>, usize>,
    nodes: Vec<Node<'a>>,
}

impl<'a> Walk<'a> {
    /// What a request names: a job, combinations of one, or jobs by glob.
    fn resolve(&mut self, request: &str) -> Result<Vec<Key<'a>>, Diagnostic> {
        let config = self.config;
        if let Some(job) = config.jobs.get(request) {
            return Ok(self.every(job));
        }
        if let Some((job, wanted)) = split_id(request).and_then(|(name, v)| Some((config.jobs.get(name)?, v)))
        {
            return self.matching(job, request, &wanted);
        }
        if request.contains(['*', '?', '{', '[']) {
            return self.by_glob(request);
        }
        Err(unknown_job(config, request))
    }

    fn by_glob(&mut self, glob: &str) -> Result<Vec<Key<'a>>, Diagnostic> {
        let matcher = GlobBuilder::new(glob).build().map_err(|error| {
            Diagnostic::error("bad-glob", format!("`{glob}` is neither a job nor a glob: {}", error.kind()))
                .help("`accel list` shows the jobs")
        })?;
        let matcher = matcher.compile_matcher();
        let mut jobs: Vec<&Job> =
            self.config.jobs.values().filter(|job| matcher.is_match(&job.name)).collect();
        jobs.sort_by_key(|job| job.name.as_str());
        if jobs.is_empty() {
            return Err(Diagnostic::error("unknown-job", format!("no job matches `{glob}`"))
                .help("`accel list` shows the jobs"));
        }
        Ok(jobs.into_iter().flat_map(|job| self.every(job)).collect())
    }

    fn every(&mut self, job: &'a Job) -> Vec<Key<'a>> {
        (0..self.combinations(job).len()).map(|position| (job.name.as_str(), position)).collect()
    }

    fn combinations(&mut self, job: &'a Job) -> &Vec<Values> {
        self.expanded.entry(&job.name).or_insert_with(|| expand(job.matrix.as_ref()))
    }

    fn matching(
        &mut self,
        job: &'a Job,
        request: &str,
        wanted: &[(&str, &str)],
    ) -> Result<Vec<Key<'a>>, Diagnostic> {
        let agrees = |values: &Values| {
            wanted.iter().all(|(axis, value)| values.iter().any(|(a, v)| a == axis && v == value))
        };
        let combinations = self.combinations(job);
        let keys: Vec<Key<'a>> = (0..combinations.len())
            .filter(|position| agrees(&combinations[*position]))
            .map(|position| (job.name.as_str(), position))
            .collect();
        if !keys.is_empty() {
            return Ok(keys);
        }
        let ids: Vec<String> = combinations.iter().map(|values| id(job, values)).collect();
        let help = match nearest(request, ids.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", shortened(&ids)),
        };
        Err(Diagnostic::error("unknown-job", format!("no such combination: `{request}`"))
            .at(job.matrix.as_ref().and_then(|matrix| matrix.origin.location))
            .help(help))
    }

    /// Places a combination after all it needs. Iterative: a chain of needs may be as long as the file.
    fn place(&mut self, key: Key<'a>) -> Result<(), Diagnostic> {
        let mut stack = vec![(key, self.needs_of(key)?, 0)];
        let mut open = BTreeSet::from([key]);
        while let Some((key, needs, next)) = stack.last_mut() {
            if self.placed.contains_key(key) {
                open.remove(key);
                stack.pop();
                continue;
            }
            if let Some(need) = needs.get(*next).copied() {
                *next += 1;
                if open.contains(&need) {
                    return Err(self.cycle(need));
                }
                if !self.placed.contains_key(&need) {
                    open.insert(need);
                    let further = self.needs_of(need)?;
                    stack.push((need, further, 0));
                }
                continue;
            }
            let (key, needs) = (*key, needs.iter().map(|need| self.placed[need]).collect());
            self.put(key, needs);
        }
        Ok(())
    }

    fn put(&mut self, key: Key<'a>, needs: Vec<usize>) {
        let job = &self.config.jobs[key.0];
        let values = self.combinations(job)[key.1].clone();
        self.placed.insert(key, self.nodes.len());
        self.nodes.push(Node { id: JobId::new(id(job, &values)), job, values, needs });
    }

    fn needs_of(&mut self, key: Key<'a>) -> Result<Vec<Key<'a>>, Diagnostic> {
        let config = self.config;
        let job = &config.jobs[key.0];
        let mut keys = Vec::new();
        for need in needs(config, job) {
            let found = match config.jobs.get(&need.value) {
                Some(needed) => self.agreeing(key, needed),
                None => self.resolve(&need.value).map_err(|finding| finding.at(need.origin.location))?,
            };
            keys.extend(found.into_iter().filter(|key| !keys.contains(key)).collect::<Vec<_>>());
        }
        Ok(keys)
    }

    /// The combinations of `needed` that have the dependent's values on shared axes; all where none has.
    fn agreeing(&mut self, key: Key<'a>, needed: &'a Job) -> Vec<Key<'a>> {
        let own = self.combinations(&self.config.jobs[key.0])[key.1].clone();
        let agrees = |values: &Values| {
            values.iter().all(|(axis, value)| own.iter().all(|(a, v)| a != axis || v == value))
        };
        let combinations = self.combinations(needed);
        let agreeing: Vec<usize> = (0..combinations.len()).filter(|at| agrees(&combinations[*at])).collect();
        let all = if agreeing.is_empty() { (0..combinations.len()).collect() } else { agreeing };
        all.into_iter().map(|position| (needed.name.as_str(), position)).collect()
    }

    fn cycle(&self, key: Key<'a>) -> Diagnostic {
        let job = &self.config.jobs[key.0];
        Diagnostic::error("cycle", format!("job `{}` needs itself", job.name))
            .at(job.location)
            .help("take one of the needs out")
    }
}

/// A job's own needs, else those of `[defaults]`. The jobs that `[defaults]` names take none from there: they
/// would need themselves.
pub fn needs<'a>(config: &'a Config, job: &'a Job) -> &'a [Valued<String>] {
    if let Some(own) = &job.settings.needs {
        return &own.value;
    }
    match &config.defaults.needs {
        Some(default) if default.value.iter().all(|need| need.value != job.name) => &default.value,
        _ => &[],
    }
}

/// Every combination of a matrix; one without values where there is none.
pub fn expand(matrix: Option<&Valued<Matrix>>) -> Vec<Values> {
    let Some(matrix) = matrix.map(|matrix| &matrix.value) else { return vec![Values::new()] };
    let mut combinations = vec![Values::new()];
    for (axis, values) in &matrix.axes {
        combinations = combinations
            .into_iter()
            .flat_map(|head| {
                values.iter().map(move |value| {
                    let mut combination = head.clone();
                    combination.push((axis.clone(), value.clone()));
                    combination
                })
            })
            .collect();
    }
    let excluded = |combination: &Values| {
        matrix.exclude.iter().any(|exclude| {
            !exclude.is_empty()
                && exclude
                    .iter()
                    .all(|(axis, value)| combination.iter().any(|(a, v)| a == axis && v == value))
        })
    };
    combinations.retain(|combination| !excluded(combination));
    combinations
}

fn id(job: &Job, values: &Values) -> String {
    if values.is_empty() {
        return job.name.clone();
    }
    let values: Vec<String> = values.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
    format!("{}[{}]", job.name, values.join(","))
}

/// `name[axis=value,…]` in its parts.
fn split_id(request: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let (name, rest) = request.strip_suffix(']')?.split_once('[')?;
    let values: Option<Vec<_>> = rest.split(',').map(|pair| pair.trim().split_once('=')).collect();
    Some((name, values?))
}

fn unknown_job(config: &Config, request: &str) -> Diagnostic {
    let finding = Diagnostic::error("unknown-job", format!("unknown job `{request}`"));
    match nearest(request, config.jobs.keys().map(String::as_str)) {
        Some(near) => finding.help(format!("did you mean `{near}`?")),
        None => finding.help("`accel list` shows the jobs"),
    }
}

fn shortened(ids: &[String]) -> String {
    const SHOWN: usize = 6;
    let more = ids.len().saturating_sub(SHOWN);
    let shown = ids[..ids.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
