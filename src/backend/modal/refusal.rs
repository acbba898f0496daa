//! What Modal refuses of what accel.toml asks for, as the user reads it: the name of the thing, the server's own words,
//! and what to correct.
//!
//! What must stay true: a mistake of the job's own has the cause `command`, so that no other place and no other
//! attempt answers it; a lack of machines has `capacity` where one was refused, `queue` where all were only waited for.

use super::error::{ErrorKind, ModalError};
use super::trouble::Trouble;
use crate::backend::Failure;
use crate::domain::Cause;
use crate::plan::spec::{GpuChoice, Secret, Volume};

/// Of calls that make what is missing: only the environment itself can be unknown.
pub(super) fn of_environment(environment: &str, error: ModalError) -> Trouble {
    if error.kind != ErrorKind::NotFound {
        return error.into();
    }
    let (name, help) = match environment {
        "" => ("the default environment".to_owned(), "name one: [modal] environment = \"main\"".to_owned()),
        name => (
            format!("environment `{name}`"),
            format!("correct [modal] environment or MODAL_ENVIRONMENT, or: modal environment create {name}"),
        ),
    };
    Failure::new(Cause::Command, format!("{name} cannot be used: {}", error.message)).help(help).into()
}

pub(super) fn of_secret(secret: &Secret, error: &ModalError) -> Failure {
    let name = &secret.name;
    let keys: String = match secret.required_keys.as_slice() {
        [] => " KEY=value".to_owned(),
        keys => keys.iter().map(|key| format!(" {key}=…")).collect(),
    };
    let help = match error.kind {
        ErrorKind::NotFound => format!("create it: modal secret create {name}{keys}"),
        _ => format!(
            "add what is missing at modal.com/secrets, or write it anew: modal secret create --force {name}{keys}"
        ),
    };
    Failure::new(Cause::Command, format!("secret `{name}` cannot be used: {}", error.message)).help(help)
}

pub(super) fn of_volume(volume: &Volume, error: &ModalError) -> Failure {
    Failure::new(Cause::Command, format!("volume `{}` cannot be used: {}", volume.name, error.message))
        .help("`modal volume list` shows those that are there; others are made when they are first used")
}

pub(super) fn of_sandbox(error: &ModalError) -> Failure {
    Failure::new(Cause::Command, format!("Modal refuses the sandbox: {}", error.message)).help(
        "correct what the job asks for: gpu, cpu, memory, region, cloud, volumes, ports, network or timeout",
    )
}

/// After every choice was refused or waited for in vain.
pub(super) fn no_machine(cause: Cause, choices: &[GpuChoice], refusals: &[String]) -> Failure {
    let remedy = match choices {
        [] => "wait for other sandboxes to end (`accel ps`), or raise the workspace's limits",
        _ => "allow other GPUs: gpu = [\"L4\", \"A10\"]; or another region",
    };
    Failure::new(cause, format!("Modal has no machine for the job: {}", refusals.join("; ")))
        .help(format!("{remedy}; or fallback = {{ to = \"local\", on = [\"{cause}\"] }}"))
}
