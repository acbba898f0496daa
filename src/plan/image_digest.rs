//! What makes two images the same: every ingredient of the digests, in one place.
//!
//! | part | ingredients |
//! |---|---|
//! | base | kind, reference or Dockerfile contents, build arguments, set-up commands, login, python |
//! | layer | the digest below it, kind, packages, commands, options, file contents, gpu, secrets' names, env, `force_build`, volumes, env_secrets |
//! | pyproject | the dependencies taken from it, not the rest of the file |
//! | copy | the names; contents are read when the layer is built |
//!
//! Names of images, places in accel.toml and paths of requirements files stay out.

use std::path::Path;

use indexmap::IndexMap;

use crate::base::digest::{Digest, DigestBuilder};
use crate::config::model::{PipOptions, Poetry, RegistryAuth, UvSync};

use super::spec::{BaseSpec, FileRef, Installer, LayerSpec, Secret, StepSpec, Volume};

pub fn base_digest(base: &BaseSpec, python: Option<&str>, force_build: bool) -> Digest {
    let mut fields = Fields(DigestBuilder::new("accel image base 1"));
    match base {
        BaseSpec::None => fields.text("none"),
        BaseSpec::DebianSlim => fields.text("debian_slim"),
        BaseSpec::Micromamba => fields.text("micromamba"),
        BaseSpec::Scratch => fields.text("scratch"),
        BaseSpec::Registry { reference, auth, add_python, setup } => {
            fields.text("registry").text(reference).auth(auth).flag(*add_python).texts(setup)
        }
        BaseSpec::Dockerfile { file, context, ignore, build_args, add_python, auth, secrets, env, gpu } => {
            fields
                .text("dockerfile")
                .file(file)
                .path(context)
                .optional_texts(ignore.as_deref())
                .map(build_args)
                .flag(*add_python)
                .auth(auth)
                .secrets(secrets)
                .map(env)
                .option(gpu.as_ref().map(ToString::to_string).as_deref())
        }
    };
    fields.option(python).flag(force_build).0.finish()
}

/// The digest of a layer upon the one `below` it.
pub fn layer_digest(below: Digest, layer: &LayerSpec) -> Digest {
    let mut fields = Fields(DigestBuilder::new("accel image layer 1"));
    fields.text(&below.to_string());
    step(&mut fields, &layer.step);
    let gpu = layer.gpu.as_ref().map(ToString::to_string);
    fields.option(gpu.as_deref()).secrets(&layer.secrets).map(&layer.env).flag(layer.force_build);
    fields.volumes(&layer.volumes).each(&layer.env_secrets, Fields::map);
    fields.0.finish()
}

fn step(fields: &mut Fields, step: &StepSpec) {
    match step {
        StepSpec::Apt(packages) => fields.text("apt").texts(packages),
        StepSpec::Pip { packages, requirements, options, installer } => fields
            .text("pip")
            .texts(packages)
            .count(requirements.len())
            .each(requirements, Fields::file)
            .options(options)
            .installer(*installer),
        StepSpec::Pyproject { file: _, dependencies, options, installer } => {
            fields.text("pyproject").texts(dependencies).options(options).installer(*installer)
        }
        StepSpec::UvSync { sync, pyproject, lock } => {
            fields.text("uv_sync").sync(sync).file(pyproject).optional_file(lock.as_ref())
        }
        StepSpec::Poetry { poetry, pyproject, lock } => {
            fields.text("poetry").poetry(poetry).file(pyproject).optional_file(lock.as_ref())
        }
        StepSpec::MicromambaInstall { packages, spec_file, channels } => {
            fields.text("micromamba").texts(packages).optional_file(spec_file.as_ref()).texts(channels)
        }
        StepSpec::PipPrivateRepos { repositories, git_user, options } => {
            fields.text("pip_private_repos").texts(repositories).text(git_user).options(options)
        }
        StepSpec::Run(commands) => fields.text("run").texts(commands),
        StepSpec::Copy { from, to, ignore } => fields.text("copy").path(from).text(to).texts(ignore),
        StepSpec::Env(env) => fields.text("env").map(env),
        StepSpec::Workdir(path) => fields.text("workdir").text(path),
        StepSpec::Entrypoint(words) => fields.text("entrypoint").texts(words),
        StepSpec::Cmd(words) => fields.text("cmd").texts(words),
        StepSpec::Shell(words) => fields.text("shell").texts(words),
        StepSpec::Dockerfile { commands, context, ignore, context_files, build_args } => fields
            .text("dockerfile_commands")
            .texts(commands)
            .path(context)
            .optional_texts(ignore.as_deref())
            .context_files(context_files)
            .map(build_args),
    };
}

struct Fields(DigestBuilder);

impl Fields {
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.field(text.as_bytes());
        self
    }

    fn path(&mut self, path: &Path) -> &mut Self {
        self.0.field(path.as_os_str().as_encoded_bytes());
        self
    }

    fn flag(&mut self, flag: bool) -> &mut Self {
        self.0.field(&[u8::from(flag)]);
        self
    }

    fn count(&mut self, count: usize) -> &mut Self {
        self.0.field(&(count as u64).to_le_bytes());
        self
    }

    fn each<T>(&mut self, items: &[T], feed: impl for<'f> Fn(&'f mut Self, &T) -> &'f mut Self) -> &mut Self {
        for item in items {
            feed(self, item);
        }
        self
    }

    fn texts(&mut self, texts: &[String]) -> &mut Self {
        self.count(texts.len()).each(texts, |fields, text| fields.text(text))
    }

    fn optional_texts(&mut self, texts: Option<&[String]>) -> &mut Self {
        match texts {
            None => self.flag(false),
            Some(texts) => self.flag(true).texts(texts),
        }
    }

    fn context_files(&mut self, files: &IndexMap<String, FileRef>) -> &mut Self {
        self.count(files.len());
        for (path, file) in files {
            self.text(path).file(file);
        }
        self
    }

    fn volumes(&mut self, volumes: &IndexMap<String, Volume>) -> &mut Self {
        self.count(volumes.len());
        for (path, volume) in volumes {
            self.text(path).text(&volume.name).flag(volume.read_only);
        }
        self
    }

    fn option(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            None => self.flag(false),
            Some(text) => self.flag(true).text(text),
        }
    }

    fn map(&mut self, map: &IndexMap<String, String>) -> &mut Self {
        self.count(map.len());
        for (key, value) in map {
            self.text(key).text(value);
        }
        self
    }

    fn file(&mut self, file: &FileRef) -> &mut Self {
        self.0.field(&file.contents);
        self
    }

    fn optional_file(&mut self, file: Option<&FileRef>) -> &mut Self {
        match file {
            None => self.flag(false),
            Some(file) => self.flag(true).file(file),
        }
    }

    fn auth(&mut self, auth: &RegistryAuth) -> &mut Self {
        match auth {
            RegistryAuth::Public => self.text("public"),
            RegistryAuth::Static(secret) => self.text("static").text(secret),
            RegistryAuth::Aws(secret) => self.text("aws").text(secret),
            RegistryAuth::Gcp(secret) => self.text("gcp").text(secret),
        }
    }

    fn installer(&mut self, installer: Installer) -> &mut Self {
        self.text(match installer {
            Installer::Uv => "uv",
            Installer::Pip => "pip",
        })
    }

    fn options(&mut self, options: &PipOptions) -> &mut Self {
        let PipOptions { index_url, extra_index_url, find_links, pre, extra_options, uv_version } = options;
        for option in [index_url, extra_index_url, find_links, extra_options, uv_version] {
            self.option(option.as_deref());
        }
        self.flag(*pre)
    }

    fn sync(&mut self, sync: &UvSync) -> &mut Self {
        let UvSync { project: _, groups, extras, frozen, extra_options, uv_version } = sync;
        self.texts(groups).texts(extras).flag(*frozen);
        self.option(extra_options.as_deref()).option(uv_version.as_deref())
    }

    fn poetry(&mut self, poetry: &Poetry) -> &mut Self {
        let Poetry {
            pyproject: _,
            lock: _,
            ignore_lock,
            with,
            without,
            only,
            version,
            preinstalled,
            old_installer,
        } = poetry;
        self.texts(with)
            .texts(without)
            .texts(only)
            .option(version.as_deref())
            .flag(*old_installer)
            .flag(*ignore_lock)
            .flag(*preinstalled)
    }

    fn secrets(&mut self, secrets: &[Secret]) -> &mut Self {
        self.count(secrets.len())
            .each(secrets, |fields, secret| fields.text(&secret.name).texts(&secret.required_keys))
    }
}
