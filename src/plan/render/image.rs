//! How an image is shown: base, layers in build order, digests, and how it is made on this machine.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::DEFAULT_PYTHON;
use super::super::spec::{
    BaseSpec, FileRef, ImageSpec, Installer, LayerSpec, PipOptions, RegistryAuth, StepSpec,
};
use super::view::{engine_name, secret_view, volume_view};

pub fn image_view(image: &ImageSpec, provenance: &BTreeMap<String, String>) -> Value {
    let base = base_view(&image.base);
    let python = match &image.base {
        BaseSpec::None => None,
        _ => Some(image.python.clone().unwrap_or_else(|| DEFAULT_PYTHON.to_owned())),
    };
    let own = provenance.iter().filter_map(|(key, origin)| Some((key.strip_prefix("image.")?, origin)));
    let mut view = json!({
        "base": base,
        "python": python,
        "workdir": image.workdir,
        "digest": image.digest,
        "force_build": image.force_build.then_some(true),
        "local": { "engine": engine_name(image.local.engine), "run": image.local.run },
        "layers": image.layers.iter().map(layer_view).collect::<Vec<_>>(),
        "provenance": own.collect::<BTreeMap<_, _>>(),
    });
    mask(&mut view);
    view
}

/// Hides user names and passwords within addresses: package indexes often want them.
fn mask(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(masked) = masked(text) {
                *text = masked;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(table) => table.values_mut().for_each(mask),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn masked(text: &str) -> Option<String> {
    let (before, rest) = text.split_once("://")?;
    let host_end = rest.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(host_end);
    let path = masked(path).unwrap_or_else(|| path.to_owned());
    let authority = match authority.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => authority.to_owned(),
    };
    Some(format!("{before}://{authority}{path}"))
}

fn base_view(base: &BaseSpec) -> Value {
    match base {
        BaseSpec::None => json!("host"),
        BaseSpec::DebianSlim => json!("debian_slim"),
        BaseSpec::Micromamba => json!("micromamba"),
        BaseSpec::Scratch => json!("scratch"),
        BaseSpec::Registry { reference, auth, add_python, setup } => json!({
            "registry": reference,
            "add_python": add_python,
            "setup": non_empty(setup),
            "auth": auth_view(auth),
        }),
        BaseSpec::Dockerfile { file, context, ignore, build_args, add_python, auth, secrets, env, gpu } => {
            json!({
                "dockerfile": path_of(file),
                "context": context.display().to_string(),
                "ignore": ignore,
                "build_args": (!build_args.is_empty()).then_some(build_args),
                "add_python": add_python,
                "auth": auth_view(auth),
                "secrets": (!secrets.is_empty()).then(|| secrets.iter().map(secret_view).collect::<Vec<_>>()),
                "env": (!env.is_empty()).then_some(env),
                "gpu": gpu.as_ref().map(ToString::to_string),
            })
        }
    }
}

fn auth_view(auth: &RegistryAuth) -> Option<String> {
    match auth {
        RegistryAuth::Public => None,
        RegistryAuth::Static(secret) => Some(format!("secret {secret}")),
        RegistryAuth::Aws(secret) => Some(format!("aws, secret {secret}")),
        RegistryAuth::Gcp(secret) => Some(format!("gcp, secret {secret}")),
    }
}

fn layer_view(layer: &LayerSpec) -> Value {
    let mut view = match step_view(&layer.step) {
        Value::Object(view) => view,
        other => Map::from_iter([("step".to_owned(), other)]),
    };
    let mut put = |key: &str, value: Value| {
        view.insert(key.to_owned(), value);
    };
    if let Some(gpu) = &layer.gpu {
        put("gpu", json!(gpu.to_string()));
    }
    if !layer.secrets.is_empty() {
        put("secrets", layer.secrets.iter().map(secret_view).collect());
    }
    if !layer.env.is_empty() {
        put("build_env", json!(layer.env));
    }
    if !layer.env_secrets.is_empty() {
        put("env_secrets", json!(layer.env_secrets));
    }
    if !layer.volumes.is_empty() {
        put(
            "volumes",
            layer.volumes.iter().map(|(path, volume)| (path.clone(), volume_view(volume))).collect(),
        );
    }
    if layer.force_build {
        put("force_build", json!(true));
    }
    put("digest", json!(layer.digest));
    put("origin", json!(layer.origin));
    Value::Object(view)
}

fn step_view(step: &StepSpec) -> Value {
    match step {
        StepSpec::Apt(packages) => json!({ "apt": packages }),
        StepSpec::Pip { packages, requirements, options, installer } => {
            let requirements: Vec<String> = requirements.iter().map(path_of).collect();
            let own = json!({ "pip": non_empty(packages), "requirements": non_empty(&requirements) });
            with_options(own, options, *installer)
        }
        StepSpec::Pyproject { file, dependencies, options, installer } => {
            let own = json!({ "pyproject": path_of(file), "dependencies": dependencies });
            with_options(own, options, *installer)
        }
        StepSpec::UvSync { sync, pyproject: _, lock } => json!({
            "uv_sync": sync.project,
            "lock": lock.as_ref().map(path_of),
            "groups": non_empty(&sync.groups),
            "extras": non_empty(&sync.extras),
            "frozen": sync.frozen,
            "extra_options": sync.extra_options,
            "uv_version": sync.uv_version,
        }),
        StepSpec::Poetry { poetry, pyproject, lock } => json!({
            "poetry": path_of(pyproject),
            "lock": lock.as_ref().map(path_of),
            "with": non_empty(&poetry.with),
            "without": non_empty(&poetry.without),
            "only": non_empty(&poetry.only),
            "version": poetry.version,
        }),
        StepSpec::MicromambaInstall { packages, spec_file, channels } => json!({
            "micromamba": packages,
            "spec_file": spec_file.as_ref().map(path_of),
            "channels": non_empty(channels),
        }),
        StepSpec::PipPrivateRepos { repositories, git_user, options } => {
            let own = json!({ "pip_private_repos": repositories, "git_user": git_user });
            with_options(own, options, Installer::Pip)
        }
        StepSpec::Run(commands) => json!({ "run": commands }),
        StepSpec::Copy { from, to, ignore } => {
            json!({ "copy": from.display().to_string(), "to": to, "ignore": non_empty(ignore) })
        }
        StepSpec::Env(env) => json!({ "env": env }),
        StepSpec::Workdir(path) => json!({ "workdir": path }),
        StepSpec::Entrypoint(words) => json!({ "entrypoint": words }),
        StepSpec::Cmd(words) => json!({ "cmd": words }),
        StepSpec::Shell(words) => json!({ "shell": words }),
        StepSpec::Dockerfile { commands, context, ignore, context_files, build_args } => json!({
            "dockerfile_commands": commands,
            "context": context.display().to_string(),
            "ignore": ignore,
            "context_files": (!context_files.is_empty())
                .then(|| context_files.iter().map(|(path, file)| (path.clone(), json!(path_of(file)))).collect::<Value>()),
            "build_args": (!build_args.is_empty()).then_some(build_args),
        }),
    }
}

fn with_options(mut step: Value, options: &PipOptions, installer: Installer) -> Value {
    let PipOptions { index_url, extra_index_url, find_links, pre, extra_options, uv_version } = options;
    let more = json!({
        "installer": match installer {
            Installer::Uv => "uv",
            Installer::Pip => "pip",
        },
        "index_url": index_url,
        "extra_index_url": extra_index_url,
        "find_links": find_links,
        "pre": pre.then_some(true),
        "extra_options": extra_options,
        "uv_version": uv_version,
    });
    if let (Value::Object(step), Value::Object(more)) = (&mut step, more) {
        step.extend(more);
    }
    step
}

fn non_empty(texts: &[String]) -> Option<&[String]> {
    (!texts.is_empty()).then_some(texts)
}

fn path_of(file: &FileRef) -> String {
    file.path.display().to_string()
}
