//! Virtual environments through the library: real uv, real Python, packages from wheels that the tests write.
//!
//! uv is installed once by accel itself from the package index, into a folder that all tests share.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use accel::backend::local::environment::{
    Freshness, Host, PruneMode, PruneRequest, PrunedOutcome, UvEnvironments, environments, of_image, prune,
};
use accel::backend::local::{PrepareRequest, Prepared};
use accel::backend::{CancelLevel, CancelSource, Failure, StopReason};
use accel::base::digest::Digest;
use accel::domain::JobId;
use accel::event::{Event, StepOutcome, channel};
use accel::net::NetworkSettings;
use accel::plan::spec::{
    BaseSpec, FileRef, ImageSpec, Installer, LayerSpec, LocalEngine, LocalSpec, PipOptions, StepSpec, UvSync,
};
use accel::process::{Ownership, Supervisor};
use accel::store::Directories;
use indexmap::IndexMap;

/// A home of its own, with a folder of wheels and accel's uv.
struct Home {
    folder: tempfile::TempDir,
    variables: BTreeMap<OsString, OsString>,
}

impl Home {
    fn new() -> Self {
        let home = Self::bare();
        let tools = shared().join("cache/tools");
        install_shared_uv();
        fs::create_dir_all(home.cache()).unwrap();
        std::os::unix::fs::symlink(tools, home.cache().join("tools")).unwrap();
        home.set("UV_OFFLINE", "1")
    }

    /// Without uv.
    fn bare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os()
            .filter(|(name, _)| {
                let name = name.to_string_lossy().to_uppercase();
                name == "PATH" || name.starts_with("SSL_CERT") || name.ends_with("_PROXY")
            })
            .collect();
        variables.insert("HOME".into(), folder.path().join("home").into());
        variables.insert("UV_CACHE_DIR".into(), shared().join("uv").into());
        variables.insert("UV_PYTHON_DOWNLOADS".into(), "never".into());
        fs::create_dir_all(folder.path().join("home")).unwrap();
        fs::create_dir_all(folder.path().join("project/wheels")).unwrap();
        Self { folder, variables }
    }

    fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn cache(&self) -> PathBuf {
        self.host().directories.cache_path().to_owned()
    }

    fn host(&self) -> Host {
        let lookup = |name: &str| self.variables.get(std::ffi::OsStr::new(name)).cloned();
        let user = rustix::process::getuid().as_raw();
        Host {
            directories: Directories::resolve(lookup, Path::new("/"), self.folder.path(), user),
            variables: self.variables.clone(),
            network: NetworkSettings::from_variables(lookup),
            supervisor: Supervisor::new(Ownership::Shared),
        }
    }

    /// A wheel with one module that knows its version.
    fn wheel(self, name: &str, version: &str) -> Self {
        let path = self.root().join("wheels").join(format!("{name}-{version}-py3-none-any.whl"));
        let mut wheel = zip::ZipWriter::new(fs::File::create(path).unwrap());
        let info = format!("{name}-{version}.dist-info");
        let files = [
            (format!("{name}.py"), format!("VERSION = '{version}'\n")),
            (
                format!("{info}/METADATA"),
                format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
            ),
            (
                format!("{info}/WHEEL"),
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n".into(),
            ),
            (format!("{info}/RECORD"), format!("{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")),
        ];
        for (name, contents) in files {
            wheel.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            wheel.write_all(contents.as_bytes()).unwrap();
        }
        wheel.finish().unwrap();
        self
    }

    fn write(&self, name: &str, contents: &str) -> FileRef {
        fs::write(self.root().join(name), contents).unwrap();
        FileRef { path: name.into(), contents: Arc::from(contents.as_bytes()) }
    }

    async fn prepare(&self, image: &Arc<ImageSpec>) -> (Result<Prepared, Failure>, Vec<Event>) {
        self.make(image, Freshness::Ready, &CancelSource::default()).await
    }

    async fn make(
        &self,
        image: &Arc<ImageSpec>,
        freshness: Freshness,
        cancel: &CancelSource,
    ) -> (Result<Prepared, Failure>, Vec<Event>) {
        let made = UvEnvironments::new(self.host());
        let (emitter, mut receiver) = channel();
        let (job, root) = (JobId::new("test"), self.root());
        let work = async move {
            let request =
                PrepareRequest { image, root: &root, job: &job, emitter: &emitter, cancel: cancel.watch() };
            made.make(request, freshness).await
        };
        let watch = async move {
            let mut events = Vec::new();
            while let Some(stamped) = receiver.recv().await {
                events.push(stamped.event);
            }
            events
        };
        tokio::join!(work, watch)
    }

    /// Runs Python in the environment and returns what it prints.
    fn python(&self, prepared: &Prepared, code: &str) -> String {
        let python = prepared.path_prefix[0].join("python");
        let output = std::process::Command::new(python).args(["-c", code]).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
    }
}

fn shared() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("environment-tests")
}

/// accel installs uv for itself, once for all tests and all processes that run them.
fn install_shared_uv() {
    let home = Home::bare().set("ACCEL_CACHE_DIR", shared().join("cache")).without_uv();
    let image = image(vec![]);
    let (prepared, _) = block_on(home.prepare(&image));
    prepared.map(|_| ()).unwrap_or_else(|failure| panic!("{failure} ({:?})", failure.help));
}

impl Home {
    /// PATH without any uv, whatever machine this is.
    fn without_uv(self) -> Self {
        let path = self.variables[std::ffi::OsStr::new("PATH")].clone();
        let kept = std::env::split_paths(&path).filter(|folder| !folder.join("uv").exists());
        let path = std::env::join_paths(kept).unwrap();
        self.set("PATH", path)
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn image(steps: Vec<StepSpec>) -> Arc<ImageSpec> {
    let layers = steps.into_iter().enumerate().map(|(number, step)| LayerSpec {
        step,
        gpu: None,
        secrets: Vec::new(),
        env: IndexMap::new(),
        env_secrets: Vec::new(),
        volumes: IndexMap::new(),
        force_build: false,
        digest: Digest::of(b""),
        origin: format!("accel.toml:{}", number + 3),
    });
    Arc::new(ImageSpec {
        name: "py".into(),
        digest: Digest::of(b""),
        base: BaseSpec::DebianSlim,
        python: Some("3".into()),
        force_build: false,
        layers: layers.collect(),
        workdir: None,
        local: LocalSpec { engine: LocalEngine::Venv, run: Vec::new() },
    })
}

fn pip(packages: &[&str], requirements: Vec<FileRef>) -> StepSpec {
    StepSpec::Pip {
        packages: packages.iter().map(|name| (*name).to_owned()).collect(),
        requirements,
        options: PipOptions {
            find_links: Some("wheels".into()),
            extra_options: Some("--no-index".into()),
            ..PipOptions::default()
        },
        installer: Installer::Uv,
    }
}

fn ready((prepared, events): (Result<Prepared, Failure>, Vec<Event>)) -> Prepared {
    prepared.unwrap_or_else(|failure| panic!("{failure}\n{events:#?}"))
}

fn builds(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::StepStarted { .. })).count()
}

#[test]
fn builds_once_and_then_only_looks() {
    let home = Home::new().wheel("alpha", "1.0").wheel("beta", "2.0").wheel("gamma", "3.0");
    let requirements = home.write("requirements.txt", "beta\n-r more.txt\n");
    home.write("more.txt", "gamma\n");
    let image = image(vec![
        pip(&["alpha>=1"], vec![]),
        StepSpec::Apt(vec!["git".into()]),
        pip(&[], vec![requirements]),
    ]);

    let (prepared, events) = block_on(home.prepare(&image));
    assert_eq!(builds(&events), 1);
    assert!(
        matches!(events.last(), Some(Event::StepFinished { outcome: StepOutcome::Done, .. })),
        "{events:?}"
    );
    let prepared = ready((prepared, events));
    let code = "import alpha, beta, gamma; print(alpha.VERSION, beta.VERSION, gamma.VERSION)";
    assert_eq!(home.python(&prepared, code), "1.0 2.0 3.0");
    assert!(prepared.env["VIRTUAL_ENV"].starts_with(home.cache().to_str().unwrap()));
    assert!(prepared.unset.contains(&"PYTHONHOME".to_owned()));

    let (again, events) = block_on(home.prepare(&image));
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(again.unwrap().path_prefix, prepared.path_prefix);

    home.write("more.txt", "gamma==3.0\n");
    let (changed, events) = block_on(home.prepare(&image));
    assert_eq!(builds(&events), 1, "an included file counts");
    assert_ne!(changed.unwrap().path_prefix, prepared.path_prefix);
}

#[test]
fn two_at_once_build_one() {
    let home = Home::new().wheel("alpha", "1.0");
    let image = image(vec![pip(&["alpha"], vec![])]);
    let (first, second) = block_on(async { tokio::join!(home.prepare(&image), home.prepare(&image)) });
    assert_eq!(builds(&first.1) + builds(&second.1), 1);
    assert_eq!(ready(first).path_prefix, ready(second).path_prefix);
}

#[test]
fn a_failed_build_says_where_and_why_and_leaves_nothing() {
    let home = Home::new();
    let image = image(vec![pip(&["absent-package"], vec![])]);
    let (failed, events) = block_on(home.prepare(&image));
    let failure = failed.err().expect("no such package");
    assert!(
        failure.message.starts_with("image `py`: uv pip install ended with exit code 1 (accel.toml:3)\n")
    );
    assert!(failure.message.contains("absent-package was not found"), "{failure}");
    assert_eq!(failure.exit_code, 125);
    assert!(matches!(events.last(), Some(Event::StepFinished { outcome: StepOutcome::Failed, .. })));
    assert!(environments(&home.cache()).unwrap().is_empty());
}

#[test]
fn debris_of_a_killed_build_is_replaced() {
    let home = Home::new().wheel("alpha", "1.0");
    let image = image(vec![pip(&["alpha"], vec![])]);
    let prepared = ready(block_on(home.prepare(&image)));
    let folder = PathBuf::from(&prepared.env["VIRTUAL_ENV"]);
    drop(prepared);
    // As a build leaves it that was killed between any two of its steps.
    fs::remove_file(folder.join("accel-environment.json")).unwrap();
    fs::write(folder.join("half-written"), "").unwrap();
    fs::create_dir(folder.with_extension("build")).unwrap();

    assert!(!of_image(&image, &home.root(), &home.cache()).unwrap().complete);
    let prepared = ready(block_on(home.prepare(&image)));
    assert_eq!(home.python(&prepared, "import alpha; print('there')"), "there");
    assert!(!folder.join("half-written").exists() && !folder.with_extension("build").exists());
}

#[test]
fn an_uninstalled_python_means_a_new_environment() {
    let home = Home::new();
    let image = image(vec![pip(&[], vec![])]);
    let prepared = ready(block_on(home.prepare(&image)));
    let python = prepared.path_prefix[0].join("python");
    drop(prepared);
    fs::remove_file(&python).unwrap();
    std::os::unix::fs::symlink("/gone/python3", &python).unwrap();
    let (prepared, events) = block_on(home.prepare(&image));
    assert_eq!(builds(&events), 1);
    assert!(prepared.is_ok() && python.exists());
}

#[test]
fn a_missing_python_is_one_clear_error() {
    let home = Home::new();
    let mut wanted = ImageSpec::clone(&image(vec![pip(&[], vec![])]));
    wanted.python = Some("3.99".into());
    let failure = block_on(home.prepare(&Arc::new(wanted.clone()))).0.err().expect("there is none");
    assert!(
        failure.message.starts_with("image `py`: python 3.99 was not found on this machine"),
        "{failure}"
    );
    assert!(failure.help.unwrap().contains("uv python install 3.99"));
}

#[test]
fn a_stop_ends_the_build_and_leaves_nothing() {
    let home = Home::new().wheel("alpha", "1.0");
    let image = image(vec![pip(&["alpha"], vec![])]);
    let cancel = CancelSource::default();
    cancel.raise(CancelLevel::Stop(StopReason::Interrupt));
    let (stopped, _) = block_on(home.make(&image, Freshness::Ready, &cancel));
    assert!(stopped.err().unwrap().message.contains("stopped while"));
    assert!(environments(&home.cache()).unwrap().is_empty());
}

#[test]
fn a_cache_that_cannot_be_written_is_used_but_not_built_in() {
    let home = Home::new().wheel("alpha", "1.0");
    let made = image(vec![pip(&["alpha"], vec![])]);
    drop(ready(block_on(home.prepare(&made))));
    let folder = home.cache().join("environments/v1");
    let writable = fs::metadata(&folder).unwrap().permissions();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let probe = fs::File::create(folder.join("probe")).is_ok();

    let (prepared, events) = block_on(home.prepare(&made));
    assert!(prepared.is_ok() && events.is_empty());
    let other = block_on(home.prepare(&image(vec![pip(&["alpha==1.0"], vec![])]))).0;
    fs::set_permissions(&folder, writable).unwrap();
    if probe {
        // A superuser writes anywhere: nothing to see.
        eprintln!("the refusal of a read-only cache is not tested as root");
        return;
    }
    assert!(other.err().unwrap().help.unwrap().contains("ACCEL_CACHE_DIR"));
}

#[test]
fn without_a_home_the_cache_is_a_private_temporary_folder() {
    let mut home = Home::new().wheel("alpha", "1.0");
    home.variables.remove(std::ffi::OsStr::new("HOME"));
    fs::create_dir_all(home.folder.path().join("x")).unwrap();
    let user = rustix::process::getuid().as_raw();
    let cache = home.folder.path().join(format!("accel-{user}/cache"));
    assert_eq!(home.cache(), cache);
    fs::create_dir(cache.parent().unwrap()).unwrap();
    fs::set_permissions(cache.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(&cache).unwrap();
    std::os::unix::fs::symlink(shared().join("cache/tools"), cache.join("tools")).unwrap();
    let prepared = ready(block_on(home.prepare(&image(vec![pip(&["alpha"], vec![])]))));
    assert!(prepared.path_prefix[0].starts_with(&cache));
}

#[test]
fn local_commands_run_in_the_fresh_environment() {
    let home = Home::new().wheel("alpha", "1.0");
    let mut wanted = ImageSpec::clone(&image(vec![pip(&["alpha"], vec![])]));
    wanted.local.run = vec!["python -c 'import alpha; print(alpha.VERSION)' > said; echo hello".into()];
    let (prepared, events) = block_on(home.prepare(&Arc::new(wanted.clone())));
    ready((prepared, events.clone()));
    assert_eq!(fs::read_to_string(home.root().join("said")).unwrap(), "1.0\n");
    let hello = |event: &Event| matches!(event, Event::StepLog { line, .. } if line == "hello");
    assert!(events.iter().any(hello), "{events:?}");

    wanted.local.run = vec!["false | true".into()];
    let failure = block_on(home.prepare(&Arc::new(wanted))).0.err().expect("strict");
    assert!(failure.message.contains("([images.py.local] run)"), "{failure}");
}

#[test]
fn credentials_are_neither_arguments_nor_output() {
    // A uv that shows what it was given, and fails.
    let home = Home::bare();
    let bin = home.folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let script = "#!/bin/sh\ncase $1 in --version) echo 'uv 99.0.0';; venv) exit 0;;\n\
                  *) echo args: \"$@\"; echo index: $UV_DEFAULT_INDEX >&2; exit 3;; esac\n";
    fs::write(bin.join("uv"), script).unwrap();
    fs::set_permissions(bin.join("uv"), fs::Permissions::from_mode(0o755)).unwrap();
    let home = home.set("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    let options = PipOptions {
        index_url: Some("https://user:canary@index.example/simple".into()),
        ..PipOptions::default()
    };
    let step = StepSpec::Pip {
        packages: vec!["git+https://canary@host.example/r".into()],
        requirements: vec![],
        options,
        installer: Installer::Uv,
    };
    let (failed, events) = block_on(home.prepare(&image(vec![step])));
    let failure = failed.err().expect("it fails");
    assert!(failure.message.contains("index: https://****@index.example/simple"), "{failure}");
    assert!(failure.message.contains("args: pip install --python"), "{failure}");
    assert!(!failure.message.contains("canary") && !format!("{events:?}").contains("canary"));
}

#[test]
fn a_locked_project_is_synced_from_a_copy() {
    let home = Home::new().wheel("alpha", "1.0").wheel("beta", "2.0");
    let links = home.root().join("wheels").display().to_string();
    let pyproject = format!(
        "[project]\nname = \"app\"\nversion = \"1\"\nrequires-python = \">=3.9\"\ndependencies = [\"alpha\"]\n\
         [dependency-groups]\ntest = [\"beta\"]\n[tool.uv]\nno-index = true\nfind-links = [\"{links}\"]\n"
    );
    let pyproject = home.write("pyproject.toml", &pyproject);
    let sync = UvSync {
        project: ".".into(),
        groups: vec!["test".into()],
        extras: vec![],
        frozen: false,
        extra_options: None,
        uv_version: None,
    };
    let step = StepSpec::UvSync { sync, pyproject, lock: None };
    let prepared = ready(block_on(home.prepare(&image(vec![step]))));
    assert_eq!(home.python(&prepared, "import alpha, beta; print('both')"), "both");
    assert!(!home.root().join("uv.lock").exists() && !home.root().join(".venv").exists());
}

#[test]
fn prune_spares_what_is_in_use() {
    let home = Home::new().wheel("alpha", "1.0");
    let used = ready(block_on(home.prepare(&image(vec![pip(&["alpha"], vec![])]))));
    drop(ready(block_on(home.prepare(&image(vec![pip(&["alpha==1.0"], vec![])])))));
    let pruned = prune(&home.cache(), &PruneRequest::default(), PruneMode::Remove).unwrap();
    let mut outcomes: Vec<_> = pruned.iter().map(|one| one.outcome).collect();
    outcomes.sort_by_key(|outcome| *outcome == PrunedOutcome::Removed);
    assert_eq!(outcomes, [PrunedOutcome::InUse, PrunedOutcome::Removed]);
    assert_eq!(home.python(&used, "import alpha; print('alive')"), "alive");
    assert_eq!(environments(&home.cache()).unwrap().len(), 1);
}

#[test]
fn a_forced_rebuild_replaces_a_complete_environment() {
    let home = Home::new().wheel("alpha", "1.0");
    let image = image(vec![pip(&["alpha"], vec![])]);
    drop(ready(block_on(home.prepare(&image))));
    let home = home.wheel("alpha", "1.1");
    let prepared = ready(block_on(home.make(&image, Freshness::Rebuilt, &CancelSource::default())));
    assert_eq!(home.python(&prepared, "import alpha; print(alpha.VERSION)"), "1.1");
}

#[test]
fn an_image_without_a_python_gets_one_that_is_here_without_asking_the_network() {
    let mirror = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    mirror.set_nonblocking(true).unwrap();
    let address = format!("http://{}", mirror.local_addr().unwrap());
    let home = Home::new().set("UV_PYTHON_INSTALL_MIRROR", address);
    let mut wanted = ImageSpec::clone(&image(vec![pip(&[], vec![])]));
    wanted.python = None;
    let (prepared, events) = block_on(home.prepare(&Arc::new(wanted)));
    let prepared = ready((prepared, events.clone()));
    let version = home.python(&prepared, "import sys; print('%d.%d' % sys.version_info[:2])");
    let said = events.iter().filter(|event| {
        matches!(event, Event::StepLog { line, .. } if line.starts_with(&format!("python {version}")))
    });
    assert_eq!(said.count(), usize::from(version != accel::plan::DEFAULT_PYTHON), "{events:?}");
    assert!(!events.iter().any(|event| matches!(event, Event::Notice { .. })), "{events:?}");
    assert_eq!(mirror.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "a download was tried");
}

/// Names the project folder of a build that [`victim`] makes in a process of its own.
const VICTIM: &str = "ACCEL_TEST_VICTIM";

/// Not a test by itself: the process that `a_build_killed_half_way_is_built_anew` kills.
#[test]
fn victim() {
    let Some(root) = std::env::var_os(VICTIM).map(PathBuf::from) else {
        eprintln!("only runs for a_build_killed_half_way_is_built_anew");
        return;
    };
    let variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    let host = Host {
        directories: Directories::resolve(|name| std::env::var_os(name), Path::new("/"), &root, 0),
        network: NetworkSettings::default(),
        supervisor: Supervisor::new(Ownership::Shared),
        variables,
    };
    let image = image(vec![pip(&["alpha"], vec![])]);
    let (emitter, _receiver) = channel();
    let (job, cancel) = (JobId::new("victim"), CancelSource::default());
    let request =
        PrepareRequest { image: &image, root: &root, job: &job, emitter: &emitter, cancel: cancel.watch() };
    let _ = block_on(UvEnvironments::new(host).make(request, Freshness::Ready));
    panic!("it was to be killed");
}

#[test]
fn a_build_killed_half_way_is_built_anew() {
    let home = Home::new().wheel("alpha", "1.0");
    let real = fs::read_dir(home.cache().join("tools/uv"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("uv"))
        .find(|uv| uv.is_file())
        .unwrap();
    let bin = home.folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let (started, gate) = (bin.join("started"), bin.join("gate"));
    assert!(std::process::Command::new("mkfifo").args([&started, &gate]).status().unwrap().success());
    // Installing, it says so and stands still until it is let go.
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = pip ]; then echo > '{}'; read line < '{}'; fi\nexec '{}' \"$@\"\n",
        started.display(),
        gate.display(),
        real.display()
    );
    fs::write(bin.join("uv"), script).unwrap();
    fs::set_permissions(bin.join("uv"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = home.variables[std::ffi::OsStr::new("PATH")].clone();
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "environment::victim", "--nocapture"])
        .env_clear()
        .envs(&home.variables)
        .env("PATH", std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path))).unwrap())
        .env(VICTIM, home.root())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    fs::read(&started).unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();

    let image = image(vec![pip(&["alpha"], vec![])]);
    let debris = of_image(&image, &home.root(), &home.cache()).unwrap();
    assert!(debris.path.exists() && !debris.complete);
    let lock = debris.path.with_extension("lock");
    let attempt = accel::store::Lock::try_exclusive(&lock).unwrap();
    assert!(attempt.is_none(), "the installer outlives its accel, and the lock with it");
    fs::write(&gate, "go\n").unwrap();

    let prepared = ready(block_on(home.prepare(&image)));
    assert_eq!(home.python(&prepared, "import alpha; print(alpha.VERSION)"), "1.0");
}
