//! Races: only of jobs that may run twice at the same time, and that nobody has to type into.

use globset::Glob;
use indexmap::IndexMap;

use super::job::ends_with_default;
use super::{Checker, place};
use crate::config::codes;
use crate::config::model::{Job, JobSettings, Route, RuleTarget, SharedRule, Valued};
use crate::diag::{Diagnostic, Location};

/// Where jobs are routed besides their own `route`, strongest first.
pub(super) struct Routes<'a> {
    pub profile: Option<&'a Valued<Route>>,
    pub shared: &'a [SharedRule],
    pub defaults: &'a JobSettings,
}

/// What says that a job is raced.
struct Starter {
    at: Option<Location>,
    own: bool,
}

impl Checker {
    pub(super) fn races(&mut self, jobs: &IndexMap<String, Job>, routes: &Routes<'_>) {
        let mut named: Vec<Option<Location>> = Vec::new();
        for job in jobs.values().filter(|job| job.settings.run.is_some()) {
            let Some(starter) = routes.starter(job) else { continue };
            let (own, defaults) = (&job.settings, routes.defaults);
            let pure = own.pure.as_ref().or(defaults.pure.as_ref()).is_some_and(|pure| pure.value);
            // A rule for many jobs is wrong once.
            if !pure && !named.contains(&starter.at) {
                named.push(starter.at);
                self.report(not_pure(job, &starter));
            }
            let tty = own.tty.as_ref().or(defaults.tty.as_ref()).filter(|tty| tty.value);
            if let Some(tty) = tty {
                let message =
                    format!("`{}` is at the terminal, and only one side of a race could have it", job.name);
                self.contradiction(message, starter.at, place(tty), "remove `tty`, or send it to one place");
            }
        }
    }
}

fn not_pure(job: &Job, starter: &Starter) -> Diagnostic {
    let found = if starter.own {
        Diagnostic::error(codes::CONTRADICTION, "only a job that is `pure` may race")
    } else {
        let message = format!("`{}` would race here, and is not `pure`", job.name);
        Diagnostic::error(codes::CONTRADICTION, message).related(job.location, "the job is here")
    };
    found.at(starter.at).help("add `pure = true` to the job if running it twice does no harm")
}

impl Routes<'_> {
    /// The first rule that may race the job; none behind one that always decides.
    fn starter(&self, job: &Job) -> Option<Starter> {
        let own = job.settings.route.as_deref();
        if let Some(first) = self.profile.or(own) {
            if let Some(at) = race(first) {
                return Some(Starter { at, own: self.profile.is_none() });
            }
            if decides(&first.value) {
                return None;
            }
        }
        for shared in self.shared.iter().filter(|shared| self.selects(shared, job)) {
            if shared.rule.to == RuleTarget::Race {
                return Some(Starter { at: Some(shared.rule.location), own: false });
            }
            if shared.rule.when.is_empty() {
                return None;
            }
        }
        let at = race(self.defaults.route.as_deref()?)?;
        Some(Starter { at, own: false })
    }

    fn selects(&self, shared: &SharedRule, job: &Job) -> bool {
        let labels = job.settings.labels.as_ref().or(self.defaults.labels.as_ref());
        let labels = labels.map_or(&[][..], |labels| &labels.value);
        let matches = |glob: &String, text: &str| {
            Glob::new(glob).is_ok_and(|glob| glob.compile_matcher().is_match(text))
        };
        (shared.jobs.is_empty() && shared.labels.is_empty())
            || shared.jobs.iter().any(|glob| matches(glob, &job.name))
            || shared.labels.iter().any(|glob| labels.iter().any(|label| matches(glob, label)))
    }
}

/// Where the route races, if it may.
fn race(route: &Valued<Route>) -> Option<Option<Location>> {
    match &route.value {
        Route::Race => Some(place(route)),
        Route::Rules(rules) => {
            rules.iter().find(|rule| rule.to == RuleTarget::Race).map(|rule| Some(rule.location))
        }
        Route::To(_) | Route::Auto => None,
    }
}

fn decides(route: &Route) -> bool {
    match route {
        Route::Rules(rules) => ends_with_default(rules),
        Route::To(_) | Route::Auto | Route::Race => true,
    }
}
