//! Image definitions become exactly the requests that the official SDK was recorded to send for them.
//!
//! `tests/data/modal/golden-image-requests.jsonl` holds those requests, one layer a line; `project/` beside it holds
//! the files that the definitions name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use accel::backend::modal::image::{
    BuildOptions, BuildSecret, Builder, ContextMount, ImageError, LayerIds, LayerRequest, compile,
};
use accel::base::digest::Digest;
use accel::domain::Gpu;
use accel::plan::spec::{
    BaseSpec, FileRef, ImageSpec, Installer, LayerSpec, LocalEngine, LocalSpec, PipOptions, Poetry,
    RegistryAuth, Secret, StepSpec, UvSync, Volume,
};
use base64::Engine as _;
use indexmap::IndexMap;
use prost::Message;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/modal")
}

fn project() -> PathBuf {
    data().join("project")
}

/// What accel.toml cannot say, and why.
const NOT_EXPRESSIBLE: [(&str, &str); 1] = [(
    "pip_install-gpu-env-secrets",
    "two unnamed secrets on one layer: accel merges a layer's variables into one",
)];

struct Recorded {
    builder: Builder,
    case: String,
    layers: Vec<Vec<u8>>,
}

fn recorded() -> Vec<Recorded> {
    let text = std::fs::read_to_string(data().join("golden-image-requests.jsonl")).unwrap();
    let mut cases: Vec<Recorded> = Vec::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let builder = Builder::parse(line["builder"].as_str().unwrap()).unwrap();
        let case = line["case"].as_str().unwrap().to_owned();
        let bytes = base64::prelude::BASE64_STANDARD.decode(line["request_b64"].as_str().unwrap()).unwrap();
        match cases.last_mut().filter(|last| last.case == case && last.builder == builder) {
            Some(last) => last.layers.push(bytes),
            None => cases.push(Recorded { builder, case, layers: vec![bytes] }),
        }
        let layers = cases.last().map_or(0, |last| last.layers.len());
        assert_eq!(line["layer"], layers, "layers come in order");
    }
    cases
}

/// Gives out ids as the recording server did: per kind, in order of first use.
#[derive(Default)]
struct Server {
    known: BTreeMap<String, String>,
    counts: BTreeMap<&'static str, u32>,
}

impl Server {
    fn id(&mut self, kind: &'static str, thing: String) -> String {
        let counts = &mut self.counts;
        self.known
            .entry(format!("{kind} {thing}"))
            .or_insert_with(|| {
                let count = counts.entry(kind).or_default();
                *count += 1;
                format!("{kind}-AAAAAAAAAAAAAAAAAAAA{count:02}")
            })
            .clone()
    }

    fn requests(&mut self, layers: &[LayerRequest], builder: Builder) -> Vec<Vec<u8>> {
        let mut parent = String::new();
        let mut requests = Vec::new();
        for layer in layers {
            let secret = |secret: &BuildSecret| format!("{secret:?}");
            let mount = match &layer.context {
                None => String::new(),
                Some(mount) => self.id("mo", format!("{mount:?}")),
            };
            let ids = LayerIds {
                app: "ap-AAAAAAAAAAAAAAAAAAAAAA",
                parent: &parent,
                context_mount: &mount,
                secrets: layer.secrets.iter().map(|it| self.id("st", secret(it))).collect(),
                registry_secret: &layer
                    .registry_secret()
                    .map_or(String::new(), |name| self.id("st", name.into())),
                volumes: layer.volumes.values().map(|volume| self.id("vo", volume.name.clone())).collect(),
            };
            requests.push(layer.to_wire(builder, BuildOptions::default(), &ids).encode_to_vec());
            parent = format!("im-AAAAAAAAAAAAAAAAAAAA{:02}", requests.len());
        }
        requests
    }
}

fn image(base: BaseSpec, python: &str, steps: Vec<StepSpec>) -> ImageSpec {
    ImageSpec {
        name: "test".into(),
        digest: Digest::of(b""),
        base,
        python: Some(python.into()),
        force_build: false,
        layers: steps.into_iter().map(layer).collect(),
        workdir: None,
        local: LocalSpec { engine: LocalEngine::Host, run: Vec::new() },
    }
}

fn layer(step: StepSpec) -> LayerSpec {
    LayerSpec {
        step,
        gpu: None,
        secrets: Vec::new(),
        env: IndexMap::new(),
        volumes: IndexMap::new(),
        force_build: false,
        digest: Digest::of(b""),
        origin: "accel.toml:1".into(),
    }
}

fn slim(steps: Vec<StepSpec>) -> ImageSpec {
    image(BaseSpec::DebianSlim, "3.12", steps)
}

fn slim_with(step: StepSpec, change: impl FnOnce(&mut LayerSpec)) -> ImageSpec {
    let mut spec = slim(vec![step]);
    change(&mut spec.layers[0]);
    spec
}

fn registry(reference: &str, python: Option<&str>) -> ImageSpec {
    registry_with(reference, python, RegistryAuth::Public, &[])
}

fn registry_with(reference: &str, python: Option<&str>, auth: RegistryAuth, setup: &[&str]) -> ImageSpec {
    let base = BaseSpec::Registry {
        reference: reference.into(),
        auth,
        add_python: python.is_some(),
        setup: strings(setup),
    };
    image(base, python.unwrap_or("3.12"), Vec::new())
}

fn dockerfile(name: &str, change: impl FnOnce(&mut BaseSpec)) -> ImageSpec {
    let mut base = BaseSpec::Dockerfile {
        file: file(&format!("ctx/{name}")),
        context: "ctx".into(),
        ignore: None,
        build_args: IndexMap::new(),
        add_python: false,
        auth: RegistryAuth::Public,
        secrets: Vec::new(),
        env: IndexMap::new(),
        gpu: None,
    };
    change(&mut base);
    image(base, "3.12", Vec::new())
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> IndexMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn file(path: &str) -> FileRef {
    FileRef { path: path.into(), contents: std::fs::read(project().join(path)).unwrap().into() }
}

fn secret(name: &str) -> Secret {
    Secret { name: name.into(), required_keys: Vec::new() }
}

fn gpu(kind: &str, count: u32) -> Option<Gpu> {
    Some(Gpu { kind: kind.into(), count })
}

fn pip(installer: Installer, packages: &[&str], requirements: &[&str], options: PipOptions) -> StepSpec {
    StepSpec::Pip {
        packages: strings(packages),
        requirements: requirements.iter().map(|path| file(path)).collect(),
        options,
        installer,
    }
}

fn options(change: impl FnOnce(&mut PipOptions)) -> PipOptions {
    let mut options = PipOptions::default();
    change(&mut options);
    options
}

fn uv_sync(folder: &str, lock: bool, change: impl FnOnce(&mut UvSync)) -> StepSpec {
    let mut sync = UvSync {
        project: folder.into(),
        groups: Vec::new(),
        extras: Vec::new(),
        frozen: true,
        extra_options: None,
        uv_version: None,
    };
    change(&mut sync);
    StepSpec::UvSync {
        sync,
        pyproject: file(&format!("{folder}/pyproject.toml")),
        lock: lock.then(|| file(&format!("{folder}/uv.lock"))),
    }
}

fn poetry(lock: bool, change: impl FnOnce(&mut Poetry)) -> StepSpec {
    let mut poetry = Poetry {
        pyproject: "poetry/pyproject.toml".into(),
        lock: None,
        ignore_lock: !lock,
        with: Vec::new(),
        without: Vec::new(),
        only: Vec::new(),
        version: None,
        preinstalled: false,
        old_installer: false,
    };
    change(&mut poetry);
    StepSpec::Poetry {
        poetry,
        pyproject: file("poetry/pyproject.toml"),
        lock: lock.then(|| file("poetry/poetry.lock")),
    }
}

/// Every recorded definition that accel.toml can express, by its name.
fn definitions() -> BTreeMap<&'static str, ImageSpec> {
    let mut cases = base_definitions();
    cases.extend(package_definitions());
    cases.extend(step_definitions());
    cases.extend(dockerfile_definitions());
    cases.into_iter().collect()
}

fn base_definitions() -> Vec<(&'static str, ImageSpec)> {
    let debian = |python| image(BaseSpec::DebianSlim, python, Vec::new());
    let creds = || RegistryAuth::Static("registry-creds".into());
    let setup = ["RUN apt-get update", "SHELL [\"/bin/bash\", \"-c\"]"];
    vec![
        ("debian_slim-default", debian("3.11")),
        ("debian_slim-3.10", debian("3.10")),
        ("debian_slim-3.11", debian("3.11")),
        ("debian_slim-3.12", debian("3.12")),
        ("debian_slim-3.13", debian("3.13")),
        ("debian_slim-3.14", debian("3.14")),
        ("debian_slim-micro", debian("3.12.8")),
        ("registry-plain", registry("python:3.12-slim", None)),
        ("registry-add_python-3.11", registry("ubuntu:22.04", Some("3.11"))),
        ("registry-add_python-3.12", registry("nvidia/cuda:12.8.1-devel-ubuntu22.04", Some("3.12"))),
        ("registry-add_python-3.13", registry("ubuntu:22.04", Some("3.13"))),
        ("registry-add_python-3.14", registry("ubuntu:22.04", Some("3.14"))),
        ("registry-setup", registry_with("ubuntu:22.04", Some("3.12"), RegistryAuth::Public, &setup)),
        ("registry-secret", registry_with("ghcr.io/o/i:1", None, creds(), &[])),
        ("registry-secret-add_python", registry_with("ghcr.io/o/i:1", Some("3.12"), creds(), &[])),
        (
            "ecr",
            registry_with(
                "0.dkr.ecr.us-east-1.amazonaws.com/r:1",
                None,
                RegistryAuth::Aws("aws".into()),
                &[],
            ),
        ),
        ("scratch", image(BaseSpec::Scratch, "3.12", Vec::new())),
        ("micromamba-default", image(BaseSpec::Micromamba, "3.11", Vec::new())),
        ("micromamba-3.12", image(BaseSpec::Micromamba, "3.12", Vec::new())),
    ]
}

fn package_definitions() -> Vec<(&'static str, ImageSpec)> {
    let none = PipOptions::default;
    let four = ["torch>=2", "numpy[x]", "b", "a"];
    let all = || {
        options(|options| {
            options.find_links = Some("https://f/links".into());
            options.index_url = Some("https://i/simple".into());
            options.extra_index_url = Some("https://e/simple?a=b&c".into());
            options.pre = true;
            options.extra_options = Some("--no-build-isolation".into());
        })
    };
    let short = |change: fn(&mut PipOptions)| {
        options(|options| {
            options.find_links = Some("https://f/l".into());
            options.index_url = Some("https://i/s".into());
            options.pre = true;
            options.extra_options = Some("--no-deps".into());
            change(options);
        })
    };
    let uv = short(|options| {
        options.extra_index_url = Some("https://e/s".into());
        options.uv_version = Some("0.8.0".into());
    });
    let files = ["requirements.txt", "reqs/dev.txt"];
    let micromamba = StepSpec::MicromambaInstall {
        packages: strings(&["numpy", "b>=2"]),
        spec_file: Some(file("spec.yml")),
        channels: strings(&["conda-forge", "bioconda"]),
    };
    let private = StepSpec::PipPrivateRepos {
        repositories: strings(&["github.com/o/r@1.0", "gitlab.com/o/q@main"]),
        git_user: "me".into(),
        options: none(),
    };
    let pyproject = StepSpec::Pyproject {
        file: file("pyproject.toml"),
        dependencies: strings(&["modal", "requests>=2", "click", "pytest"]),
        options: none(),
        installer: Installer::Pip,
    };
    let locked = uv_sync(".", true, |sync| {
        sync.groups = strings(&["dev"]);
        sync.extras = strings(&["test"]);
        sync.frozen = false;
        sync.extra_options = Some("--no-cache".into());
        sync.uv_version = Some("0.8.0".into());
    });
    let old_poetry = poetry(false, |poetry| {
        poetry.with = strings(&["a", "b"]);
        poetry.without = strings(&["c"]);
        poetry.only = strings(&["d"]);
        poetry.version = Some("1.8.3".into());
        poetry.old_installer = true;
    });
    vec![
        ("micromamba_install", image(BaseSpec::Micromamba, "3.12", vec![micromamba])),
        ("pip_install", slim(vec![pip(Installer::Pip, &four, &[], none())])),
        ("pip_install-options", slim(vec![pip(Installer::Pip, &["flash-attn==2.5.8"], &[], all())])),
        (
            "pip_install-pre",
            slim(vec![pip(Installer::Pip, &["a"], &[], options(|options| options.pre = true))]),
        ),
        ("pip_install_private_repos", slim_with(private, |layer| layer.secrets = vec![secret("gh")])),
        ("requirements", slim(vec![pip(Installer::Pip, &[], &["requirements.txt"], none())])),
        ("requirements-options", slim(vec![pip(Installer::Pip, &[], &["requirements.txt"], short(|_| ()))])),
        ("pyproject", slim(vec![pyproject])),
        ("uv_pip_install", slim(vec![pip(Installer::Uv, &four, &[], none())])),
        (
            "uv_pip_install-options",
            slim_with(pip(Installer::Uv, &["a"], &files, uv), |layer| layer.gpu = gpu("T4", 1)),
        ),
        ("uv_sync", slim(vec![uv_sync(".", true, |_| ())])),
        ("uv_sync-options", slim(vec![locked])),
        ("uv_sync-nolock", slim(vec![uv_sync("nolock", false, |_| ())])),
        ("poetry", slim(vec![poetry(true, |_| ())])),
        ("poetry-options", slim(vec![old_poetry])),
    ]
}

fn step_definitions() -> Vec<(&'static str, ImageSpec)> {
    let run = StepSpec::Run(strings(&["echo one", "echo 'two'", "echo three"]));
    let run = slim_with(run, |layer| {
        layer.secrets = vec![secret("s1")];
        layer.gpu = gpu("L4", 1);
        layer.volumes.insert("/cache".into(), Volume { name: "c".into(), read_only: false });
    });
    let odd = [("B", "plain"), ("A", "two words"), ("C", "it's"), ("D", ""), ("E", "a=b/c:d,e.f-g_h@%+")];
    let copy = |from: &str, to: &str, ignore: &[&str]| StepSpec::Copy {
        from: from.into(),
        to: to.into(),
        ignore: strings(ignore),
    };
    let commands = StepSpec::Dockerfile {
        commands: strings(&["COPY app /srv/app", "RUN echo hi"]),
        context: "ctx".into(),
        ignore: None,
        context_files: [("/.x".to_owned(), file("requirements.txt"))].into(),
        build_args: pairs(&[("A", "1")]),
    };
    let one = |package| pip(Installer::Pip, &[package], &[], PipOptions::default());
    let mut forced_base = slim(vec![one("a"), StepSpec::Env(pairs(&[("A", "1")])), one("b")]);
    forced_base.force_build = true;
    let apt = |names: &[&str]| StepSpec::Apt(strings(names));
    let mut forced_layer = slim(vec![one("a"), StepSpec::Run(strings(&["date"])), apt(&["git"])]);
    forced_layer.layers[1].force_build = true;
    vec![
        ("apt_install", slim(vec![apt(&["git", "a b", "ffmpeg"])])),
        ("run_commands", run),
        ("env", slim(vec![StepSpec::Env(pairs(&odd))])),
        ("workdir", slim(vec![StepSpec::Workdir("/my dir".into())])),
        (
            "cmd-entrypoint-shell",
            slim(vec![
                StepSpec::Cmd(strings(&["python", "app.py"])),
                StepSpec::Entrypoint(strings(&["/bin/tini", "--"])),
                StepSpec::Shell(strings(&["/bin/bash", "-c"])),
            ]),
        ),
        ("dockerfile_commands", slim(vec![commands])),
        ("add_local_file-copy", slim(vec![copy("ctx/data.txt", "/opt/", &[])])),
        ("add_local_dir-copy", slim(vec![copy("ctx", "/srv", &["*.log", "**/*.log", "Dockerfile*"])])),
        ("force_build-chain", forced_base),
        ("force_build-layer", forced_layer),
    ]
}

fn dockerfile_definitions() -> Vec<(&'static str, ImageSpec)> {
    let plain = |name| dockerfile(name, |_| ());
    let nocopy = dockerfile("Dockerfile.nocopy", |base| {
        if let BaseSpec::Dockerfile { build_args, secrets, gpu: wanted, .. } = base {
            *build_args = pairs(&[("A", "1")]);
            *secrets = vec![secret("s1")];
            *wanted = gpu("T4", 1);
        }
    });
    let add_python = dockerfile("Dockerfile.nocopy", |base| {
        if let BaseSpec::Dockerfile { add_python, .. } = base {
            *add_python = true;
        }
    });
    let registry = dockerfile("Dockerfile", |base| {
        if let BaseSpec::Dockerfile { auth, .. } = base {
            *auth = RegistryAuth::Static("registry-creds".into());
        }
    });
    vec![
        ("dockerfile", plain("Dockerfile")),
        ("dockerfile-nocopy", nocopy),
        ("dockerfile-fromonly", plain("Dockerfile.fromonly")),
        ("dockerfile-arg-before-from", plain("Dockerfile.arg")),
        ("dockerfile-multistage", plain("Dockerfile.multi")),
        ("dockerfile-alias", plain("Dockerfile.alias")),
        ("dockerfile-directive", plain("Dockerfile.directive")),
        ("dockerfile-add_python", add_python),
        ("dockerfile-registry_secret", registry),
    ]
}

#[test]
fn every_recorded_definition_gives_the_recorded_bytes() {
    let definitions = definitions();
    let mut seen = BTreeSet::new();
    for recorded in recorded() {
        let Some(spec) = definitions.get(recorded.case.as_str()) else {
            let reason = NOT_EXPRESSIBLE.iter().find(|(case, _)| *case == recorded.case);
            assert!(reason.is_some(), "no definition for {}", recorded.case);
            continue;
        };
        seen.insert(recorded.case.clone());
        let at = format!("{} under {}", recorded.case, recorded.builder.as_str());
        let layers = compile(spec, recorded.builder).unwrap_or_else(|error| panic!("{at}: {error}"));
        let ours = Server::default().requests(&layers, recorded.builder);
        for (number, (ours, theirs)) in ours.iter().zip(&recorded.layers).enumerate() {
            assert!(
                ours == theirs,
                "{at}, layer {}:\nours   {:#?}\ntheirs {:#?}",
                number + 1,
                decode(ours),
                decode(theirs)
            );
        }
        assert_eq!(ours.len(), recorded.layers.len(), "{at}: number of layers");
    }
    let unused: Vec<_> = definitions.keys().filter(|case| !seen.contains(**case)).collect();
    assert!(unused.is_empty(), "no recording of {unused:?}");
}

fn decode(bytes: &[u8]) -> accel::backend::modal::wire::client::ImageGetOrCreateRequest {
    Message::decode(bytes).unwrap()
}

#[test]
fn definitions_that_the_official_sdk_refuses_are_refused() {
    let refused = |case: &str, builder| compile(&definitions()[case], builder).unwrap_err();
    let unsupported = |error| matches!(error, ImageError::UnsupportedPython { .. });
    assert!(unsupported(refused("debian_slim-3.10", Builder::V2026_10)));
    assert!(unsupported(refused("debian_slim-3.14", Builder::V2024_10)));
    assert!(unsupported(refused("registry-add_python-3.14", Builder::V2024_10)));
    let error = compile(&registry("ubuntu:22.04", Some("3.12.1")), Builder::V2025_06).unwrap_err();
    assert_eq!(error, ImageError::PythonNotASeries("3.12.1".into()));
    let error =
        compile(&slim(vec![pip(Installer::Uv, &["-r x"], &[], PipOptions::default())]), Builder::V2025_06);
    assert_eq!(error.unwrap_err(), ImageError::PackageIsOption("-r x".into()));
}

#[test]
fn steps_that_do_nothing_make_no_layer() {
    let empty = slim(vec![
        StepSpec::Apt(Vec::new()),
        StepSpec::Run(Vec::new()),
        pip(Installer::Uv, &[], &[], PipOptions::default()),
        pip(Installer::Pip, &[], &[], PipOptions::default()),
    ]);
    assert_eq!(compile(&empty, Builder::V2026_10).unwrap().len(), 1);
}

/// Remote paths of the context of the definition's last layer that has one.
fn context_of(case: &str) -> Vec<String> {
    let layers = compile(&definitions()[case], Builder::V2025_06).unwrap();
    let mount = layers.iter().rev().find_map(|layer| layer.context.clone()).unwrap();
    mount.files(&project()).unwrap().into_iter().map(|file| file.remote).collect()
}

#[test]
fn contexts_hold_the_files_of_the_recording() {
    assert_eq!(context_of("add_local_file-copy"), ["/opt/data.txt"]);
    assert_eq!(context_of("add_local_dir-copy"), ["/srv/.dockerignore", "/srv/app/main.py", "/srv/data.txt"]);
    assert_eq!(context_of("dockerfile"), ["/app/main.py"]);
    assert_eq!(context_of("dockerfile_commands"), ["/app/main.py"]);
}

#[cfg(unix)]
#[test]
fn contexts_follow_links_to_files_only_and_stay_inside() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::create_dir_all(root.join("ctx/sub/empty")).unwrap();
    std::fs::write(root.join("outside"), "o").unwrap();
    std::fs::write(root.join("ctx/a"), "a").unwrap();
    std::fs::write(root.join("ctx/sub/b"), "b").unwrap();
    let link =
        |target: &str, name: &str| std::os::unix::fs::symlink(target, root.join("ctx").join(name)).unwrap();
    link("a", "to-file");
    link("sub", "to-folder");
    link("missing", "broken");
    link("../outside", "to-outside");
    let names = |mount: ContextMount| -> Vec<String> {
        mount.files(root).unwrap().into_iter().map(|file| file.remote).collect()
    };
    let local = ContextMount::Local { from: "ctx".into(), to: "/c/".into(), ignore: Vec::new() };
    assert_eq!(names(local), ["/c/a", "/c/sub/b", "/c/to-file", "/c/to-outside"]);
    let copied = ContextMount::Copied {
        folder: "ctx".into(),
        sources: strings(&["./**"]),
        ignore: Some(strings(&["sub", "!sub/b"])),
        dockerfile: None,
    };
    assert_eq!(names(copied), ["/a", "/sub/b", "/to-file"]);
}

/// Builds definitions with the official SDK and prints nothing; what it sends is what counts.
const OFFICIAL: &str = r#"
import modal
app = modal.App.lookup("a", create_if_missing=True)
slim = modal.Image.debian_slim("3.12")
named = modal.Secret.from_name
images = [
    slim.apt_install("git").uv_pip_install("numpy[x]", "b>=2", requirements=["requirements.txt"]).env({"A": "it's"}),
    modal.Image.from_registry("ghcr.io/o/i:1", secret=named("creds"), add_python="3.13").pip_install("a", env={"K": "v"}),
    modal.Image.from_dockerfile("ctx/Dockerfile", context_dir="ctx", build_args={"A": "1"}, gpu="T4").workdir("/w"),
    slim.add_local_dir("ctx", "/srv", copy=True).run_commands("echo one", volumes={"/c": modal.Volume.from_name("v")}),
    slim.uv_sync(".", extras=["test"]).poetry_install_from_file("poetry/pyproject.toml", only=["d"]),
    modal.Image.micromamba("3.12").micromamba_install("n", spec_file="spec.yml", channels=["c"]).entrypoint(["x", "é"]),
]
for image in images:
    image.build(app)
    modal.App.lookup("end", create_if_missing=True)
"#;

/// The same definitions as [`OFFICIAL`].
fn same_definitions() -> Vec<ImageSpec> {
    let pip_layer = pip(Installer::Pip, &["a"], &[], PipOptions::default());
    let mut private = registry_with("ghcr.io/o/i:1", Some("3.13"), RegistryAuth::Static("creds".into()), &[]);
    private.layers.push(LayerSpec { env: pairs(&[("K", "v")]), ..layer(pip_layer) });
    let mut docker = dockerfile("Dockerfile", |base| {
        if let BaseSpec::Dockerfile { build_args, gpu: wanted, .. } = base {
            *build_args = pairs(&[("A", "1")]);
            *wanted = gpu("T4", 1);
        }
    });
    docker.layers.push(layer(StepSpec::Workdir("/w".into())));
    let copy = StepSpec::Copy { from: "ctx".into(), to: "/srv".into(), ignore: Vec::new() };
    let mut copied = slim(vec![copy, StepSpec::Run(strings(&["echo one"]))]);
    copied.layers[1].volumes.insert("/c".into(), Volume { name: "v".into(), read_only: false });
    let micromamba = StepSpec::MicromambaInstall {
        packages: strings(&["n"]),
        spec_file: Some(file("spec.yml")),
        channels: strings(&["c"]),
    };
    vec![
        slim(vec![
            StepSpec::Apt(strings(&["git"])),
            pip(Installer::Uv, &["numpy[x]", "b>=2"], &["requirements.txt"], PipOptions::default()),
            StepSpec::Env(pairs(&[("A", "it's")])),
        ]),
        private,
        docker,
        copied,
        slim(vec![
            uv_sync(".", true, |sync| sync.extras = strings(&["test"])),
            poetry(true, |poetry| poetry.only = strings(&["d"])),
        ]),
        image(BaseSpec::Micromamba, "3.12", vec![micromamba, StepSpec::Entrypoint(strings(&["x", "é"]))]),
    ]
}

/// Ids differ between the two sides; that one is there must not.
fn without_ids(mut request: accel::backend::modal::wire::client::ImageGetOrCreateRequest) -> String {
    let hide = |id: &mut String| {
        if !id.is_empty() {
            *id = "id".into();
        }
    };
    hide(&mut request.app_id);
    let image = request.image.as_mut().unwrap();
    hide(&mut image.context_mount_id);
    image.base_images.iter_mut().for_each(|base| hide(&mut base.image_id));
    image.secret_ids.iter_mut().for_each(hide);
    image.volume_mounts.iter_mut().for_each(|mount| hide(&mut mount.volume_id));
    image.image_registry_config.iter_mut().for_each(|config| hide(&mut config.secret_id));
    format!("{request:#?}")
}

#[tokio::test]
async fn the_official_sdk_sends_the_same_requests_today() {
    let Some(interpreter) = crate::python::with_modal() else { return };
    for builder in [Builder::V2024_10, Builder::V2025_06, Builder::V2026_10] {
        let modal = crate::fake_modal::FakeModal::start().await;
        modal.state().builder = builder.as_str().into();
        let home = tempfile::tempdir().unwrap();
        let output = tokio::process::Command::new(&interpreter)
            .args(["-c", OFFICIAL])
            .current_dir(project())
            .env_clear()
            .env("HOME", home.path())
            .env("MODAL_SERVER_URL", modal.url())
            .env("MODAL_TOKEN_ID", "ak-1")
            .env("MODAL_TOKEN_SECRET", "as-1")
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // The SDK asks once for layers that two definitions share.
        let theirs: BTreeSet<_> = modal.state().image_requests.iter().cloned().map(without_ids).collect();
        let mut server = Server::default();
        let ours: BTreeSet<_> = same_definitions()
            .iter()
            .flat_map(|spec| server.requests(&compile(spec, builder).unwrap(), builder))
            .map(|bytes| without_ids(decode(&bytes)))
            .collect();
        let missing: Vec<_> = theirs.symmetric_difference(&ours).collect();
        assert!(missing.is_empty(), "under {} only one side sends {missing:#?}", builder.as_str());
    }
}
