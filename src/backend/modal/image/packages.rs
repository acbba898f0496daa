//! Steps that install packages: pip, uv, poetry, micromamba and private repositories.

use std::sync::Arc;

use super::step::on_base;
use super::{Builder, ImageError, LayerRequest};
use crate::base::quote::{shell_join, shell_quote};
use crate::plan::spec::{FileRef, Installer, PipOptions, Poetry, Secret, UvSync};

/// Where uv and its files live inside an image.
const UV_ROOT: &str = "/.uv";

/// `pip = […]`, `requirements = […]`: one layer with uv; with pip one per requirements file, then the packages.
pub(super) fn install(
    packages: &[String],
    requirements: &[FileRef],
    options: &PipOptions,
    installer: Installer,
) -> Result<Vec<LayerRequest>, ImageError> {
    if let Some(option) = packages.iter().find(|package| package.starts_with('-')) {
        return Err(ImageError::PackageIsOption(option.clone()));
    }
    if installer == Installer::Uv {
        let empty = packages.is_empty() && requirements.is_empty();
        return Ok(if empty { Vec::new() } else { vec![uv_pip(packages, requirements, options)] });
    }
    let files = requirements.iter().map(|file| pip_requirements(file, options));
    let named = (!packages.is_empty()).then(|| pip(packages, options));
    Ok(files.chain(named).collect())
}

/// The dependencies of a pyproject.toml, already read.
pub(super) fn pyproject(
    dependencies: &[String],
    options: &PipOptions,
    installer: Installer,
) -> Result<Option<LayerRequest>, ImageError> {
    match installer {
        Installer::Pip => Ok(Some(pip(dependencies, options))),
        Installer::Uv => Ok(install(dependencies, &[], options, installer)?.pop()),
    }
}

fn sorted(packages: &[String]) -> Vec<&str> {
    let mut sorted: Vec<_> = packages.iter().map(String::as_str).collect();
    // By code points, which is also the order of UTF-8 bytes.
    sorted.sort_unstable();
    sorted
}

fn pip(packages: &[String], options: &PipOptions) -> LayerRequest {
    let names = shell_join(sorted(packages));
    let command = format!("RUN python -m pip install {names} {}", pip_flags(options));
    on_base(format!("pip install {names}"), [command.trim().to_owned()])
}

fn pip_requirements(file: &FileRef, options: &PipOptions) -> LayerRequest {
    // The official SDK writes find_links twice here.
    let links = options.find_links.as_ref().map_or(String::new(), |links| format!(" -f {links}"));
    let command = format!("RUN python -m pip install -r /.requirements.txt{links} {}", pip_flags(options));
    let mut request = on_base(
        format!("pip install -r {}", file.path.display()),
        ["COPY /.requirements.txt /.requirements.txt".to_owned(), command.trim().to_owned()],
    );
    request.context_files.push(("/.requirements.txt".into(), file.contents.clone()));
    request
}

fn pip_flags(options: &PipOptions) -> String {
    let flags = [
        ("--find-links", &options.find_links),
        ("--index-url", &options.index_url),
        ("--extra-index-url", &options.extra_index_url),
    ];
    let given = flags
        .iter()
        .filter_map(|(flag, value)| value.as_ref().map(|value| format!("{flag} {}", shell_quote(value))));
    let mut text = given.collect::<Vec<_>>().join(" ");
    if options.pre {
        text.push_str(" --pre");
    }
    if let Some(extra) = options.extra_options.as_deref().filter(|extra| !extra.is_empty()) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(extra);
    }
    text
}

fn copy_uv(version: Option<&str>) -> String {
    format!("COPY --from=ghcr.io/astral-sh/uv:{} /uv {UV_ROOT}/uv", version.unwrap_or("latest"))
}

fn uv_pip(packages: &[String], requirements: &[FileRef], options: &PipOptions) -> LayerRequest {
    let mut words = vec!["--python $(command -v python)".to_owned(), "--compile-bytecode".to_owned()];
    let flags = [
        ("--find-links", &options.find_links),
        ("--index-url", &options.index_url),
        ("--extra-index-url", &options.extra_index_url),
    ];
    for (flag, value) in flags {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            words.push(format!("{flag} {}", shell_quote(value)));
        }
    }
    if options.pre {
        words.push("--prerelease allow".into());
    }
    words.extend(options.extra_options.clone().filter(|extra| !extra.is_empty()));
    let mut commands = vec![copy_uv(options.uv_version.as_deref())];
    let mut files: Vec<(String, Arc<[u8]>)> = Vec::new();
    for (index, file) in requirements.iter().enumerate() {
        let name = file_name(file);
        let (context, inside) = (format!("/.{index}_{name}"), format!("{UV_ROOT}/{index}/{name}"));
        commands.push(format!("COPY {context} {inside}"));
        words.push(format!("--requirements {inside}"));
        files.push((context, file.contents.clone()));
    }
    let names = sorted(packages);
    words.extend(names.iter().map(|name| shell_quote(name).into_owned()));
    commands.push(format!("RUN {UV_ROOT}/uv pip install {}", words.join(" ")));
    let files_named = requirements.iter().map(|file| format!("-r {}", file.path.display()));
    let title: Vec<_> = files_named.chain(names.iter().map(|name| (*name).to_owned())).collect();
    let mut request = on_base(format!("uv pip install {}", title.join(" ")), commands);
    request.context_files = files;
    request
}

fn file_name(file: &FileRef) -> String {
    file.path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

pub(super) fn uv_sync(
    sync: &UvSync,
    pyproject: &FileRef,
    lock: Option<&FileRef>,
    builder: Builder,
) -> Result<LayerRequest, ImageError> {
    check_uv_project(sync, pyproject, builder)?;
    let mut words = vec![
        format!("--project={UV_ROOT}"),
        "--no-install-workspace".to_owned(),
        "--compile-bytecode".to_owned(),
    ];
    words.extend(sync.groups.iter().map(|group| format!("--group={group}")));
    words.extend(sync.extras.iter().map(|extra| format!("--extra={extra}")));
    words.extend(sync.extra_options.clone().filter(|extra| !extra.is_empty()));
    let mut commands =
        vec![copy_uv(sync.uv_version.as_deref()), format!("COPY /.pyproject.toml {UV_ROOT}/pyproject.toml")];
    let mut files = vec![("/.pyproject.toml".to_owned(), pyproject.contents.clone())];
    if let Some(lock) = lock {
        commands.push(format!("COPY /.uv.lock {UV_ROOT}/uv.lock"));
        files.push(("/.uv.lock".to_owned(), lock.contents.clone()));
        if sync.frozen {
            words.push("--frozen".into());
        }
    }
    commands.push(format!("RUN {UV_ROOT}/uv sync {}", words.join(" ")));
    commands.push(format!("ENV PATH={UV_ROOT}/.venv/bin:$PATH"));
    let mut request = on_base(format!("uv sync {}", sync.project), commands);
    request.context_files = files;
    Ok(request)
}

/// What the official SDK refuses: workspaces, and under 2024.10 projects that do not install `modal`.
fn check_uv_project(sync: &UvSync, pyproject: &FileRef, builder: Builder) -> Result<(), ImageError> {
    let path = pyproject.path.display().to_string();
    let text = std::str::from_utf8(&pyproject.contents).map_err(|_| ImageError::NotText(path.clone()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ImageError::Pyproject {
        path: path.clone(),
        message: error.message().into(),
    })?;
    let at = |keys: &[&str]| {
        let (first, rest) = keys.split_first()?;
        rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
    };
    if at(&["tool", "uv", "workspace"]).is_some() {
        return Err(ImageError::UvWorkspace(path));
    }
    if !builder.installs_requirements() {
        return Ok(());
    }
    let groups = sync.groups.iter().map(|group| at(&["dependency-groups", group]));
    let extras = sync.extras.iter().map(|extra| at(&["project", "optional-dependencies", extra]));
    let mut listed = [at(&["project", "dependencies"])].into_iter().chain(groups).chain(extras).flatten();
    let named = |value: &toml::Value| value.as_str().is_some_and(|text| package_name(text) == "modal");
    if listed.any(|list| list.as_array().is_some_and(|list| list.iter().any(named))) {
        return Ok(());
    }
    Err(ImageError::NoModalDependency { path, builder: builder.as_str() })
}

/// The name at the start of a requirement such as `modal>=1`.
fn package_name(requirement: &str) -> &str {
    let end = requirement.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-');
    &requirement[..end.unwrap_or(requirement.len())]
}

pub(super) fn poetry(
    poetry: &Poetry,
    pyproject: &FileRef,
    lock: Option<&FileRef>,
    builder: Builder,
) -> LayerRequest {
    let mut commands = Vec::new();
    let mut files = vec![("/.pyproject.toml".to_owned(), pyproject.contents.clone())];
    if !poetry.preinstalled {
        let version = match poetry.version.as_deref() {
            None | Some("latest") => builder.poetry().to_owned(),
            Some(version) => format!("=={version}"),
        };
        commands.push(format!("RUN python -m pip install poetry{version}"));
    }
    if poetry.old_installer {
        commands.push("RUN poetry config experimental.new-installer false".into());
    }
    if let Some(lock) = lock {
        files.push(("/.poetry.lock".to_owned(), lock.contents.clone()));
        commands.push("COPY /.poetry.lock /tmp/poetry/poetry.lock".into());
    }
    let mut install = "poetry install --no-root".to_owned();
    for (flag, groups) in [("--with", &poetry.with), ("--without", &poetry.without), ("--only", &poetry.only)]
    {
        if !groups.is_empty() {
            install.push_str(&format!(" {flag} {}", groups.join(",")));
        }
    }
    install.push_str(" --compile");
    // The blanks after the continuations are part of the official bytes.
    commands.extend([
        "COPY /.pyproject.toml /tmp/poetry/pyproject.toml".to_owned(),
        "RUN cd /tmp/poetry && \\ ".to_owned(),
        "  poetry config virtualenvs.create false && \\ ".to_owned(),
        install,
    ]);
    let mut request = on_base(format!("poetry install {}", pyproject.path.display()), commands);
    request.context_files = files;
    request
}

pub(super) fn micromamba(
    packages: &[String],
    spec_file: Option<&FileRef>,
    channels: &[String],
) -> Option<LayerRequest> {
    if packages.is_empty() && spec_file.is_none() {
        return None;
    }
    let names = shell_join(packages.iter().map(String::as_str));
    let channels: String = channels.iter().map(|channel| format!(" -c {channel}")).collect();
    let Some(file) = spec_file else {
        let command = format!("RUN micromamba install {names}{channels} --yes");
        return Some(on_base(format!("micromamba install {names}"), [command]));
    };
    let path = format!("/{}", file_name(file));
    let blank = if names.is_empty() { "" } else { " " };
    let mut request = on_base(
        format!("micromamba install {names}{blank}-f {}", file.path.display()),
        [
            format!("COPY {path} {path}"),
            format!("RUN micromamba install {names}{blank}-f {path} -n base{channels} --yes"),
        ],
    );
    request.context_files.push((path, file.contents.clone()));
    Some(request)
}

pub(super) fn private_repositories(
    repositories: &[String],
    git_user: &str,
    options: &PipOptions,
    secrets: &[Secret],
) -> Result<LayerRequest, ImageError> {
    if secrets.is_empty() {
        return Err(ImageError::NoRepositorySecret);
    }
    let names: Vec<_> =
        secrets.iter().map(|secret| format!("modal.Secret.from_name('{}')", secret.name)).collect();
    let names = names.join(",");
    let check = |variable: &str| {
        format!(
            "RUN bash -c \"[[ -v {variable} ]] || (echo '{variable} env var not set by provided modal.Secret(s): {names}' && exit 1)\""
        )
    };
    let mut commands = Vec::new();
    for (prefix, variable) in [("github", "GITHUB_TOKEN"), ("gitlab", "GITLAB_TOKEN")] {
        if repositories.iter().any(|repository| repository.starts_with(prefix)) {
            commands.push(check(variable));
        }
    }
    commands.push("RUN apt-get update && apt-get install -y git".into());
    let flags = pip_flags(options);
    for repository in repositories {
        let token = match repository.split('/').next() {
            Some("github.com") => "$GITHUB_TOKEN",
            Some("gitlab.com") => "$GITLAB_TOKEN",
            _ => return Err(ImageError::UnknownForge(repository.clone())),
        };
        let command =
            format!("RUN python3 -m pip install \"git+https://{git_user}:{token}@{repository}\" {flags}");
        commands.push(command.trim().to_owned());
    }
    Ok(on_base(format!("pip install {}", repositories.join(" ")), commands))
}
