//! One step of an image → the Dockerfile lines of its layer.

use super::dockerfile::{self, copy_context};
use super::layer::BuildSecret;
use super::{Builder, ContextMount, ImageError, LayerRequest, Namespace, packages};
use crate::base::quote::{shell_join, shell_quote};
use crate::plan::spec::{LayerSpec, StepSpec};

/// Steps that are built again because a layer below was forced. The others are not, as in the official SDK.
pub(super) fn inherits_force_build(step: &StepSpec) -> bool {
    !matches!(step, StepSpec::Env(_) | StepSpec::Workdir(_) | StepSpec::Copy { .. })
}

/// The layers of one step: none when it does nothing, several when files and packages are both installed by pip.
pub(super) fn compile(
    layer: &LayerSpec,
    builder: Builder,
    force_build: bool,
) -> Result<Vec<LayerRequest>, ImageError> {
    let mut requests = match &layer.step {
        StepSpec::Pip { packages, requirements, options, installer } => {
            packages::install(packages, requirements, options, *installer)?
        }
        step => single(step, layer, builder)?.into_iter().collect(),
    };
    for request in &mut requests {
        request.has_parent = true;
        request.force_build = force_build;
        request.gpu = layer.gpu.clone();
        request.origin.clone_from(&layer.origin);
        request.secrets = secrets(layer);
        request.volumes.clone_from(&layer.volumes);
    }
    Ok(requests)
}

/// Later ones win, so the step's own `env` is last.
fn secrets(layer: &LayerSpec) -> Vec<BuildSecret> {
    let named = layer.secrets.iter().cloned().map(BuildSecret::Named);
    let env = (!layer.env.is_empty()).then_some(&layer.env);
    let inline = layer.env_secrets.iter().chain(env).cloned().map(BuildSecret::Inline);
    named.chain(inline).collect()
}

fn single(step: &StepSpec, layer: &LayerSpec, builder: Builder) -> Result<Option<LayerRequest>, ImageError> {
    Ok(match step {
        StepSpec::Apt(names) if names.is_empty() => None,
        StepSpec::Apt(names) => Some(apt(names)),
        StepSpec::Pip { .. } => None,
        StepSpec::Pyproject { file: _, dependencies, options, installer } => {
            packages::pyproject(dependencies, options, *installer)?
        }
        StepSpec::UvSync { sync, pyproject, lock } => {
            Some(packages::uv_sync(sync, pyproject, lock.as_ref(), builder)?)
        }
        StepSpec::Poetry { poetry, pyproject, lock } => {
            Some(packages::poetry(poetry, pyproject, lock.as_ref(), builder))
        }
        StepSpec::MicromambaInstall { packages, spec_file, channels } => {
            packages::micromamba(packages, spec_file.as_ref(), channels)
        }
        StepSpec::PipPrivateRepos { repositories, git_user, options } => {
            Some(packages::private_repositories(repositories, git_user, options, &layer.secrets)?)
        }
        StepSpec::Run(commands) if commands.is_empty() => None,
        StepSpec::Run(commands) => {
            Some(on_base(commands.join(" && "), commands.iter().map(|command| format!("RUN {command}"))))
        }
        StepSpec::Copy { from, to, ignore } => {
            let mut request = on_base(format!("copy {}", from.display()), ["COPY . /".to_owned()]);
            request.context =
                Some(ContextMount::Local { from: from.clone(), to: to.clone(), ignore: ignore.clone() });
            Some(request)
        }
        StepSpec::Env(pairs) => {
            let line = |(key, value): (&String, &String)| format!("ENV {key}={}", shell_quote(value));
            Some(on_base("env", pairs.iter().map(line)))
        }
        StepSpec::Workdir(path) => Some(on_base("workdir", [format!("WORKDIR {}", shell_quote(path))])),
        StepSpec::Entrypoint(words) => Some(json_command("ENTRYPOINT", words)),
        StepSpec::Cmd(words) => Some(json_command("CMD", words)),
        StepSpec::Shell(words) => Some(json_command("SHELL", words)),
        StepSpec::Dockerfile { commands, .. } if commands.is_empty() => None,
        StepSpec::Dockerfile { commands, context, ignore, context_files, build_args } => {
            let mut request = on_base("dockerfile commands", commands.iter().cloned());
            request.context = copy_context(commands, context, ignore.as_deref(), None)?;
            request.build_args.clone_from(build_args);
            request.context_files =
                context_files.iter().map(|(path, file)| (path.clone(), file.contents.clone())).collect();
            Some(request)
        }
    })
}

/// A layer of the workspace on top of another.
pub(super) fn on_base(title: impl Into<String>, commands: impl IntoIterator<Item = String>) -> LayerRequest {
    let commands = [dockerfile::FROM_BASE.to_owned()].into_iter().chain(commands).collect();
    let mut request = LayerRequest::base(title, Namespace::Workspace, commands);
    request.has_parent = true;
    request
}

fn apt(names: &[String]) -> LayerRequest {
    let names = shell_join(names.iter().map(String::as_str));
    on_base(
        format!("apt {names}"),
        ["RUN apt-get update".to_owned(), format!("RUN apt-get install -y {names}")],
    )
}

/// An instruction in its JSON form, written as Python's `json.dumps` does.
fn json_command(instruction: &str, words: &[String]) -> LayerRequest {
    let words: Vec<_> = words.iter().map(|word| serde_json::Value::from(word.as_str()).to_string()).collect();
    on_base(instruction.to_lowercase(), [format!("{instruction} [{}]", words.join(", "))])
}
