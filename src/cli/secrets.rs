//! Which secrets a command could show by accident: those of its environment, of its jobs' dotenv files, and those that
//! accel.toml itself gives to jobs and images.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use crate::backend::modal::settings::Credentials;
use crate::domain::Place;
use crate::plan::spec::{BaseSpec, ImageSpec, LayerSpec, PipOptions, Plan, PlannedJob, RuleTarget, StepSpec};
use crate::redact::{Secrets, SecretsBuilder, Unmasked};
use crate::workspace::dotenv;

use super::account;
use super::ambient::Ambient;

/// Files that cannot be read are left to the job that needs them, which says so.
pub fn known(plan: &Plan, ambient: &Ambient) -> (Secrets, Vec<Unmasked>) {
    let mut builder = SecretsBuilder::default();
    for (name, value) in &ambient.variables.0 {
        if let (Some(name), Some(value)) = (name.to_str(), value.to_str()) {
            builder = builder.variable(name, value);
        }
    }
    let mut read: Vec<&[_]> = Vec::new();
    for spec in plan.jobs.iter().map(|job| &job.spec).filter(|spec| !spec.dotenv.is_empty()) {
        if read.contains(&spec.dotenv.as_slice()) {
            continue;
        }
        read.push(&spec.dotenv);
        for (name, value) in dotenv::read(&plan.root, &spec.dotenv).unwrap_or_default() {
            builder = builder.variable(&name, &value);
        }
    }
    let of_jobs = plan.jobs.iter().flat_map(|job| pairs(&job.spec.env));
    let of_images = plan.images.values().flat_map(|image| of_image(image));
    for (name, value) in of_jobs.chain(of_images) {
        builder = builder.written(name, value);
    }
    if plan.jobs.iter().any(may_leave) {
        for secret in modal_credentials(&ambient.variables.texts()) {
            builder = builder.secret("the Modal token", &secret);
        }
    }
    builder.build()
}

/// Variables and arguments of an image's build, and the addresses that it names.
fn of_image(image: &ImageSpec) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    if let BaseSpec::Dockerfile { build_args, env, .. } = &image.base {
        found.extend(pairs(build_args).chain(pairs(env)));
    }
    for LayerSpec { step, env, env_secrets, .. } in &image.layers {
        found.extend(env_secrets.iter().chain([env]).flat_map(pairs));
        match step {
            StepSpec::Env(variables) => found.extend(pairs(variables)),
            StepSpec::Dockerfile { build_args, .. } => found.extend(pairs(build_args)),
            StepSpec::Pip { options, .. }
            | StepSpec::Pyproject { options, .. }
            | StepSpec::PipPrivateRepos { options, .. } => found.extend(addresses(options)),
            _ => {}
        }
    }
    found
}

fn pairs(variables: &IndexMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

/// Package indexes may have a password in their addresses.
fn addresses(options: &PipOptions) -> impl Iterator<Item = (&str, &str)> {
    let named = [
        ("index_url", &options.index_url),
        ("extra_index_url", &options.extra_index_url),
        ("find_links", &options.find_links),
    ];
    named.into_iter().filter_map(|(name, address)| Some((name, address.as_deref()?)))
}

/// A run that stays here never reads Modal's settings, so it need not hide them.
fn may_leave(job: &PlannedJob) -> bool {
    let elsewhere = |target: RuleTarget| target != RuleTarget::Place(Place::Local);
    !job.spec.gpu.is_empty()
        || job.fallback.iter().any(|fallback| fallback.to == Place::Modal)
        || job.routing.rules.iter().any(|rule| elsewhere(rule.to))
}

/// Only from a file that is there anyway; what is wrong with it is said by what needs it.
fn modal_credentials(variables: &BTreeMap<String, String>) -> Vec<String> {
    let (_, settings) = account::load(variables);
    match settings.ok().and_then(|settings| settings.credentials) {
        Some(Credentials::Token { secret, .. }) => vec![secret.reveal().to_owned()],
        Some(Credentials::OAuth { refresh_token, client_secret, .. }) => {
            vec![refresh_token.reveal().to_owned(), client_secret.reveal().to_owned()]
        }
        None => Vec::new(),
    }
}
