//! Image definitions become exactly the requests that the official SDK was recorded to send for them.
//!
//! `tests/data/modal/golden-image-requests.jsonl` holds those requests, one layer a line; `project/` beside it holds
//! the files that the definitions name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use accel::backend::modal::image::{
    BuildOptions, BuildSecret, Builder, ContextMount, ImageError, LayerIds, LayerRequest, compile,
};
use accel::plan::spec::ImageSpec;
use accel::plan::{self, Selection};
use base64::Engine as _;
use prost::Message;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/modal")
}

fn project() -> PathBuf {
    data().join("project")
}

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

/// Every recorded definition: its name, and the keys of its image.
const DEFINITIONS: &[(&str, &str)] = &[
    ("debian_slim-default", "python = '3.11'"),
    ("debian_slim-3.10", "python = '3.10'"),
    ("debian_slim-3.11", "python = '3.11'"),
    ("debian_slim-3.12", "base = 'debian_slim'"),
    ("debian_slim-3.13", "python = '3.13'"),
    ("debian_slim-3.14", "python = '3.14'"),
    ("debian_slim-micro", "python = '3.12.8'"),
    ("registry-plain", "base = 'python:3.12-slim'"),
    ("registry-add_python-3.11", "base = 'ubuntu:22.04'\nadd_python = true\npython = '3.11'"),
    ("registry-add_python-3.12", "base = 'nvidia/cuda:12.8.1-devel-ubuntu22.04'\nadd_python = true"),
    ("registry-add_python-3.13", "base = 'ubuntu:22.04'\nadd_python = true\npython = '3.13'"),
    ("registry-add_python-3.14", "base = 'ubuntu:22.04'\nadd_python = true\npython = '3.14'"),
    (
        "registry-setup",
        r#"base = 'ubuntu:22.04'
        add_python = true
        setup = ['RUN apt-get update', 'SHELL ["/bin/bash", "-c"]']"#,
    ),
    ("registry-secret", "base = 'ghcr.io/o/i:1'\nregistry_secret = 'registry-creds'"),
    (
        "registry-secret-add_python",
        "base = 'ghcr.io/o/i:1'\nregistry_secret = 'registry-creds'\nadd_python = true",
    ),
    ("ecr", "base = '0.dkr.ecr.us-east-1.amazonaws.com/r:1'\necr_secret = 'aws'"),
    ("scratch", "base = 'scratch'"),
    ("micromamba-default", "base = 'micromamba'\npython = '3.11'"),
    ("micromamba-3.12", "base = 'micromamba'"),
    (
        "micromamba_install",
        "base = 'micromamba'
        micromamba = { packages = ['numpy', 'b>=2'], spec_file = 'spec.yml', channels = ['conda-forge', 'bioconda'] }",
    ),
    ("pip_install", "pip = ['torch>=2', 'numpy[x]', 'b', 'a']\ninstaller = 'pip'"),
    (
        "pip_install-options",
        "pip = ['flash-attn==2.5.8']
        installer = 'pip'
        find_links = 'https://f/links'
        index_url = 'https://i/simple'
        extra_index_url = 'https://e/simple?a=b&c'
        pre = true
        extra_options = '--no-build-isolation'",
    ),
    ("pip_install-pre", "pip = ['a']\ninstaller = 'pip'\npre = true"),
    (
        "pip_install-gpu-env-secrets",
        "layers = [{
            pip = ['a'],
            installer = 'pip',
            gpu = 'A100:2',
            env = { K = 'v' },
            secrets = ['s1'],
            env_secrets = [{ X = 'y' }],
        }]",
    ),
    (
        "pip_install_private_repos",
        "private_repos = { repositories = ['github.com/o/r@1.0', 'gitlab.com/o/q@main'], git_user = 'me' }
        secrets = ['gh']",
    ),
    ("requirements", "requirements = ['requirements.txt']\ninstaller = 'pip'"),
    (
        "requirements-options",
        "requirements = ['requirements.txt']
        installer = 'pip'
        find_links = 'https://f/l'
        index_url = 'https://i/s'
        pre = true
        extra_options = '--no-deps'",
    ),
    (
        "pyproject",
        "pyproject = { path = 'pyproject.toml', optional_dependencies = ['test'] }\ninstaller = 'pip'",
    ),
    ("uv_pip_install", "pip = ['torch>=2', 'numpy[x]', 'b', 'a']"),
    (
        "uv_pip_install-options",
        "[[images.x.layers]]
        pip = ['a']
        requirements = ['requirements.txt', 'reqs/dev.txt']
        find_links = 'https://f/l'
        index_url = 'https://i/s'
        extra_index_url = 'https://e/s'
        pre = true
        extra_options = '--no-deps'
        uv_version = '0.8.0'
        gpu = 'T4'",
    ),
    ("uv_sync", "uv_lock = true"),
    (
        "uv_sync-options",
        "uv_lock = { groups = ['dev'], extras = ['test'], frozen = false, extra_options = '--no-cache', uv_version = '0.8.0' }",
    ),
    ("uv_sync-nolock", "uv_lock = { project = 'nolock', frozen = false }"),
    ("poetry", "poetry = 'poetry/pyproject.toml'"),
    (
        "poetry-options",
        "[images.x.poetry]
        pyproject = 'poetry/pyproject.toml'
        lock = false
        with = ['a', 'b']
        without = ['c']
        only = ['d']
        version = '1.8.3'
        old_installer = true",
    ),
    ("apt_install", "apt = ['git', 'a b', 'ffmpeg']"),
    (
        "run_commands",
        r#"[[images.x.layers]]
        run = ["echo one", "echo 'two'", "echo three"]
        secrets = ['s1']
        volumes = { '/cache' = 'c' }
        gpu = 'L4'"#,
    ),
    ("env", r#"env = { B = "plain", A = "two words", C = "it's", D = "", E = "a=b/c:d,e.f-g_h@%+" }"#),
    ("workdir", "workdir = '/my dir'"),
    (
        "cmd-entrypoint-shell",
        "layers = [
            { cmd = ['python', 'app.py'] },
            { entrypoint = ['/bin/tini', '--'] },
            { shell = ['/bin/bash', '-c'] },
        ]",
    ),
    (
        "dockerfile_commands",
        "[images.x.dockerfile_commands]
        commands = ['COPY app /srv/app', 'RUN echo hi']
        context = 'ctx'
        context_files = { '/.x' = 'requirements.txt' }
        build_args = { A = '1' }",
    ),
    ("add_local_file-copy", "copy = [{ from = 'ctx/data.txt', to = '/opt/' }]"),
    (
        "add_local_dir-copy",
        "copy = [{ from = 'ctx', to = '/srv', ignore = ['*.log', '**/*.log', 'Dockerfile*'] }]",
    ),
    ("dockerfile", "dockerfile = 'ctx/Dockerfile'\ncontext = 'ctx'"),
    (
        "dockerfile-nocopy",
        "dockerfile = 'ctx/Dockerfile.nocopy'
        context = 'ctx'
        build_args = { A = '1' }
        secrets = ['s1']
        build_gpu = 'T4'",
    ),
    ("dockerfile-fromonly", "dockerfile = 'ctx/Dockerfile.fromonly'"),
    ("dockerfile-arg-before-from", "dockerfile = 'ctx/Dockerfile.arg'"),
    ("dockerfile-multistage", "dockerfile = 'ctx/Dockerfile.multi'"),
    ("dockerfile-alias", "dockerfile = 'ctx/Dockerfile.alias'"),
    ("dockerfile-directive", "dockerfile = 'ctx/Dockerfile.directive'"),
    ("dockerfile-add_python", "dockerfile = 'ctx/Dockerfile.nocopy'\nadd_python = true"),
    (
        "dockerfile-registry_secret",
        "dockerfile = 'ctx/Dockerfile'\ncontext = 'ctx'\nregistry_secret = 'registry-creds'",
    ),
    (
        "force_build-chain",
        "force_build = true
        layers = [{ pip = ['a'], installer = 'pip' }, { env = { A = '1' } }, { pip = ['b'], installer = 'pip' }]",
    ),
    (
        "force_build-layer",
        "layers = [{ pip = ['a'], installer = 'pip' }, { run = ['date'], force_build = true }, { apt = ['git'] }]",
    ),
];

/// The image that accel makes of the keys of one `[images.x]`, Python 3.12 unless they say otherwise.
fn image(keys: &str) -> Arc<ImageSpec> {
    let text = format!("version = 1\n[jobs.j]\nrun = 'true'\nimage = 'x'\n[images.x]\n{keys}\n");
    let loaded = accel::config::load_text("accel.toml", &text);
    let config = loaded.unwrap_or_else(|error| panic!("{text}\n{:?}", error.diagnostics)).config;
    let selection = Selection::everything();
    let mut files = BTreeMap::new();
    loop {
        let known = files.len();
        for path in plan::files_needed(&config, &selection, &files) {
            let contents = std::fs::read(project().join(&path));
            files.insert(path, contents.map(Arc::from).map_err(|error| error.to_string()));
        }
        if files.len() == known {
            break;
        }
    }
    let plan =
        plan::compile(&config, &selection, &files).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"));
    plan.jobs[0].spec.image.clone()
}

fn definition(case: &str) -> Option<Arc<ImageSpec>> {
    DEFINITIONS.iter().find(|(name, _)| *name == case).map(|(_, keys)| image(keys))
}

#[test]
fn every_recorded_definition_gives_the_recorded_bytes() {
    let mut seen = BTreeSet::new();
    for recorded in recorded() {
        let spec =
            definition(&recorded.case).unwrap_or_else(|| panic!("no definition for {}", recorded.case));
        seen.insert(recorded.case.clone());
        let at = format!("{} under {}", recorded.case, recorded.builder.as_str());
        let layers = compile(&spec, recorded.builder).unwrap_or_else(|error| panic!("{at}: {error}"));
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
    let unused: Vec<_> = DEFINITIONS.iter().filter(|(case, _)| !seen.contains(*case)).collect();
    assert!(unused.is_empty(), "no recording of {unused:?}");
}

fn decode(bytes: &[u8]) -> accel::backend::modal::wire::client::ImageGetOrCreateRequest {
    Message::decode(bytes).unwrap()
}

#[test]
fn definitions_that_the_official_sdk_refuses_are_refused() {
    let refused = |case: &str, builder| compile(&definition(case).unwrap(), builder).unwrap_err();
    let unsupported = |error| matches!(error, ImageError::UnsupportedPython { .. });
    assert!(unsupported(refused("debian_slim-3.10", Builder::V2026_10)));
    assert!(unsupported(refused("debian_slim-3.14", Builder::V2024_10)));
    assert!(unsupported(refused("registry-add_python-3.14", Builder::V2024_10)));
    let full = image("base = 'ubuntu:22.04'\nadd_python = true\npython = '3.12.1'");
    let error = compile(&full, Builder::V2025_06).unwrap_err();
    assert_eq!(error, ImageError::PythonNotASeries("3.12.1".into()));
}

#[test]
fn steps_that_do_nothing_make_no_layer() {
    let empty = image("apt = []\nrun = []\npip = []");
    assert_eq!(compile(&empty, Builder::V2026_10).unwrap().len(), 1);
}

/// Remote paths of the context of the definition's last layer that has one.
fn context_of(case: &str) -> Vec<String> {
    let layers = compile(&definition(case).unwrap(), Builder::V2025_06).unwrap();
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
        sources: vec!["./**".into()],
        ignore: Some(vec!["sub".into(), "!sub/b".into()]),
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
const SAME_DEFINITIONS: [&str; 6] = [
    r#"layers = [
        { apt = ["git"] },
        { pip = ["numpy[x]", "b>=2"], requirements = ["requirements.txt"] },
        { env = { A = "it's" } },
    ]"#,
    "base = 'ghcr.io/o/i:1'
    registry_secret = 'creds'
    add_python = true
    python = '3.13'
    layers = [{ pip = ['a'], installer = 'pip', env = { K = 'v' } }]",
    "dockerfile = 'ctx/Dockerfile'
    context = 'ctx'
    build_args = { A = '1' }
    build_gpu = 'T4'
    workdir = '/w'",
    "layers = [{ copy = [{ from = 'ctx', to = '/srv' }] }, { run = ['echo one'], volumes = { '/c' = 'v' } }]",
    "layers = [{ uv_lock = { extras = ['test'] } }, { poetry = { pyproject = 'poetry/pyproject.toml', only = ['d'] } }]",
    "base = 'micromamba'
    layers = [
        { micromamba = { packages = ['n'], spec_file = 'spec.yml', channels = ['c'] } },
        { entrypoint = ['x', 'é'] },
    ]",
];

#[tokio::test]
async fn the_official_sdk_sends_the_same_requests_today() {
    let Some(interpreter) = crate::python::with_modal() else { return };
    for builder in [Builder::V2024_10, Builder::V2025_06, Builder::V2026_10] {
        let modal = crate::fake_modal::FakeModal::start().await.lenient();
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
        let theirs: BTreeSet<_> =
            modal.state().image_requests.iter().cloned().map(crate::official_sdk::without_ids).collect();
        let mut server = Server::default();
        let ours: BTreeSet<_> = SAME_DEFINITIONS
            .iter()
            .flat_map(|keys| server.requests(&compile(&image(keys), builder).unwrap(), builder))
            .map(|bytes| crate::official_sdk::without_ids(decode(&bytes)))
            .collect();
        let missing: Vec<_> = theirs.symmetric_difference(&ours).collect();
        assert!(missing.is_empty(), "under {} only one side sends {missing:#?}", builder.as_str());
    }
}
