//! From the text of accel.toml to plans.

mod rendering;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::spec::*;
use super::*;
use crate::config::model::{Layer, Matrix, Origin};
use crate::config::{LoadRequest, load};
use crate::domain::Place;

fn config(toml: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("accel.toml"), toml).unwrap();
    let root = folder.path().to_owned();
    let request = LoadRequest { start: root.clone(), display_base: root, ..LoadRequest::default() };
    match load(&request) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{:#?}", error.diagnostics),
    }
}

fn files(files: &[(&str, &str)]) -> Files {
    files.iter().map(|(path, text)| (PathBuf::from(path), Ok(Arc::from(text.as_bytes())))).collect()
}

fn compiled(toml: &str, requested: &[&str]) -> Plan {
    compile(&config(toml), &Selection::of(requested.iter().copied()), &Files::new()).unwrap()
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.jobs.iter().map(|job| job.id.as_str()).collect()
}

/// `message | help` of every finding.
fn findings(toml: &str, selection: &Selection, given: &Files) -> String {
    let findings = compile(&config(toml), selection, given).unwrap_err();
    let lines = findings.iter().map(|f| format!("{}: {} | {}", f.code, f.message, f.help.join("; ")));
    lines.collect::<Vec<_>>().join("\n")
}

fn flag<T>(name: &str, value: T) -> Option<Valued<T>> {
    Some(Valued { value, origin: Origin { layer: Layer::Flag(name.into()), location: None } })
}

const GRAPH: &str = r#"
version = 1
[jobs.lint]
run = "ruff check ."
[jobs.build]
run = "make ${matrix.os}"
matrix = { os = ["linux", "mac"] }
[jobs.test]
needs = ["lint", "build"]
matrix = { python = ["3.11", "3.12"], os = ["linux", "mac"], exclude = [{ python = "3.11", os = "mac" }] }
run = ["pytest", "--python=${matrix.python}", "$HOME", "$${matrix.os}"]
[jobs.all]
needs = ["test"]
[jobs.other]
run = "true"
"#;

#[test]
fn only_the_closure_is_compiled_and_needs_come_first() {
    let plan = compiled(GRAPH, &["all"]);
    assert_eq!(
        ids(&plan),
        [
            "lint",
            "build[os=linux]",
            "test[python=3.11,os=linux]",
            "test[python=3.12,os=linux]",
            "build[os=mac]",
            "test[python=3.12,os=mac]",
            "all"
        ]
    );
    // A need agrees on the axes that both have.
    assert_eq!(plan.jobs[5].needs, [0, 4]);
    assert_eq!(plan.jobs[6].needs, [2, 3, 5]);
    let words = ["pytest", "--python=3.12", "$HOME", "${matrix.os}"].map(str::to_owned);
    assert_eq!(plan.jobs[5].spec.command, CommandSpec::Argv(words.into()));
    assert_eq!(plan.jobs[6].spec.command, CommandSpec::Shell(String::new()));
}

#[test]
fn requests_are_names_ids_and_globs() {
    let check = |requested: &[&str], expected: &[&str]| {
        let plan = compiled(GRAPH, requested);
        let requested: Vec<&str> = plan.requested.iter().map(|id| id.as_str()).collect();
        assert_eq!(requested, expected);
    };
    check(&["lint", "lint"], &["lint"]);
    check(&["build"], &["build[os=linux]", "build[os=mac]"]);
    check(&["build[os=mac]"], &["build[os=mac]"]);
    check(&["test[os=linux]"], &["test[python=3.11,os=linux]", "test[python=3.12,os=linux]"]);
    check(&["test[os=mac, python=3.12]"], &["test[python=3.12,os=mac]"]);
    check(&["[lo]*"], &["lint", "other"]);
    check(&["*t*r"], &["other"]);
}

#[test]
fn unknown_requests_are_named_all_at_once() {
    let selection = Selection::of(["lnt", "zebra", "build[os=linus]", "x-*", "other"]);
    insta::assert_snapshot!(findings(GRAPH, &selection, &Files::new()), @"
    unknown-job: unknown job `lnt` | did you mean `lint`?
    unknown-job: unknown job `zebra` | `accel list` shows the jobs
    unknown-job: no such combination: `build[os=linus]` | did you mean `build[os=linux]`?
    unknown-job: no job matches `x-*` | `accel list` shows the jobs
    ");
}

#[test]
fn arguments_are_appended_quoted_to_the_one_job_asked_for() {
    let with = |requested: &[&str]| Selection {
        extra_args: ["-k".into(), "a b".into()].into(),
        ..Selection::of(requested.iter().copied())
    };
    let plan = compile(&config(GRAPH), &with(&["lint"]), &Files::new()).unwrap();
    assert_eq!(plan.jobs[0].spec.command, CommandSpec::Shell("ruff check . -k 'a b'".into()));
    let plan = compile(&config(GRAPH), &with(&["test"]), &Files::new()).unwrap();
    let CommandSpec::Argv(words) = &plan.jobs[2].spec.command else { panic!("argv stays argv") };
    assert_eq!(words[4..], ["-k", "a b"]);
    assert_eq!(plan.jobs[0].spec.command, CommandSpec::Shell("ruff check .".into()));
    insta::assert_snapshot!(findings(GRAPH, &with(&["lint", "other"]), &Files::new()), @"ambiguous-arguments: arguments after `--` go to one job, but several were asked for: lint, other | run one of them at a time, or leave the arguments out");
}

const IMAGES: &str = r#"version = 1
project = { name = "sweeper" }
[defaults]
timeout = "10m"
route = "local"
dotenv = [".env"]
env = { A = "default", B = "default" }
[images.py]
python = "3.11"
apt = ["git"]
pip = ["pytest>=8"]
requirements = ["ci/requirements.txt"]
env = { PYTHONUNBUFFERED = "1" }
workdir = "/workspace"
[images.cuda]
from = "py"
gpu = "L4"
[[images.cuda.layers]]
pip = ["triton"]
[images.plain]
apt = ["jq"]
[jobs.test]
image = "py"
run = "pytest"
timeout = "20m"
env = { B = "own", C = "own" }
[jobs.train]
image = "cuda"
run = "python train.py"
needs = ["test"]
[jobs.multi]
image = { from = "py", python = "${matrix.python}" }
matrix = { python = ["3.12", "3.13"] }
run = "true"
[jobs.plain]
image = "plain"
run = "jq ."
gpu = []
"#;

fn images() -> Files {
    files(&[("ci/requirements.txt", "-r base.txt\nrich\n"), ("ci/base.txt", "numpy\n")])
}

#[test]
fn files_are_found_through_files() {
    let config = config(IMAGES);
    let selection = Selection::of(["train"]);
    let shown = |known: &Files| {
        let needed = files_needed(&config, &selection, known);
        needed.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(shown(&Files::new()), ["ci/requirements.txt"]);
    assert_eq!(shown(&images()), ["ci/base.txt", "ci/requirements.txt"]);
    assert!(files_needed(&config, &Selection::of(["plain"]), &Files::new()).is_empty());
}

#[test]
fn images_are_flattened_and_their_engine_decided() {
    let plan = compile(&config(IMAGES), &Selection::everything(), &images()).unwrap();
    let image = |id: &str| &plan.jobs.iter().find(|job| job.id.as_str() == id).unwrap().spec.image;
    let (py, cuda) = (image("test"), image("train"));
    assert_eq!(cuda.layers.len(), py.layers.len() + 1);
    assert_eq!(cuda.layers[py.layers.len() - 1].digest, py.digest);
    assert_eq!((cuda.python.as_deref(), cuda.workdir.as_deref()), (Some("3.11"), Some("/workspace")));
    assert_eq!([py.local.engine, image("plain").local.engine], [LocalEngine::Venv, LocalEngine::Host]);
    assert_ne!(image("multi[python=3.12]").digest, image("multi[python=3.13]").digest);
    let StepSpec::Pip { requirements, .. } =
        &py.layers.iter().find(|layer| layer.step.installs_python()).unwrap().step
    else {
        panic!("pip comes as one layer")
    };
    assert_eq!(&*requirements[0].contents, b"numpy\nrich\n");
    let train = plan.jobs.iter().find(|job| job.name == "train").unwrap();
    assert_eq!(train.spec.gpu[0].gpu.to_string(), "L4");
}

#[test]
fn digests_follow_what_is_built_and_nothing_else() {
    let digest = |toml: &str, files: &Files| {
        compile(&config(toml), &Selection::of(["train"]), files).unwrap().jobs[1].spec.image.digest
    };
    let same = digest(IMAGES, &images());
    assert_eq!(digest(&IMAGES.replace("\n[jobs.test]", "\n# a comment\n\n[jobs.test]"), &images()), same);
    assert_eq!(
        digest(&IMAGES.replace("images.cuda", "images.other").replace("\"cuda\"", "\"other\""), &images()),
        same
    );
    let changes = [
        ("\"git\"", "\"hg\""),
        ("pytest>=8", "pytest>=9"),
        ("python = \"3.11\"", "python = \"3.12\""),
        ("PYTHONUNBUFFERED = \"1\"", "PYTHONUNBUFFERED = \"0\""),
        ("/workspace", "/w"),
        ("[\"triton\"]", "[\"triton\", \"x\"]"),
    ];
    for (from, to) in changes {
        assert_ne!(digest(&IMAGES.replacen(from, to, 1), &images()), same, "{from} → {to}");
    }
    let mut changed = images();
    changed.insert("ci/base.txt".into(), Ok(Arc::from(&b"numpy==2\n"[..])));
    assert_ne!(digest(IMAGES, &changed), same, "contents of a file within a file");
}

#[test]
fn values_know_where_they_were_set() {
    let selection = Selection {
        on: flag("--on", Route::To(Place::Modal)),
        timeout: flag("--timeout", Duration::from_secs(5)),
        ..Selection::of(["train"])
    };
    let plan = compile(&config(IMAGES), &selection, &images()).unwrap();
    let (test, train) = (&plan.jobs[0], &plan.jobs[1]);
    let origin = |job: &PlannedJob, key: &str| job.provenance.get(key).cloned().unwrap_or_default();
    assert_eq!(origin(test, "timeout"), "accel.toml:25");
    assert_eq!(origin(train, "timeout"), "--timeout");
    assert_eq!(
        (test.timeout, train.timeout),
        (Some(Duration::from_secs(1200)), Some(Duration::from_secs(5)))
    );
    assert_eq!(origin(test, "env.A"), "[defaults] accel.toml:7");
    assert_eq!(origin(test, "env.B"), "accel.toml:26");
    assert_eq!(origin(train, "gpu"), "image cuda, accel.toml:17");
    assert_eq!(origin(train, "cwd"), "");
    let env: Vec<(&str, &str)> = test.spec.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(env, [("A", "default"), ("B", "own"), ("C", "own")]);
    assert!(!test.spec.dotenv[0].required);
    let rules: Vec<_> = train.routing.rules.iter().map(|rule| (rule.source, rule.origin.as_str())).collect();
    let expected = [(RuleSource::Forced, "--on"), (RuleSource::Defaults, "[defaults] accel.toml:5")];
    assert_eq!(rules, expected);
}

#[test]
fn every_finding_comes_at_once() {
    let toml = r#"
version = 1
[images.a]
requirements = ["missing.txt"]
pyproject = "pyproject.toml"
uv_lock = "missing"
[jobs.one]
image = "a"
run = "true"
[jobs.two]
image = "a"
matrix = { gpu = ["L4", "H900", "L4:many"] }
gpu = ["${matrix.gpu}"]
run = "true"
"#;
    let config = config(toml);
    let missing: Files = BTreeMap::from([
        (PathBuf::from("missing.txt"), Err("no such file".to_owned())),
        (PathBuf::from("pyproject.toml"), Ok(Arc::from(&b"[tool.x]"[..]))),
        (PathBuf::from("missing/pyproject.toml"), Ok(Arc::from(&b"[project]"[..]))),
        (PathBuf::from("missing/uv.lock"), Err("no such file".to_owned())),
    ]);
    let findings = compile(&config, &Selection::everything(), &missing).unwrap_err();
    let shown = findings.iter().map(|f| format!("{}: {} | {}", f.code, f.message, f.help.join("; ")));
    insta::assert_snapshot!(shown.collect::<Vec<_>>().join("\n"), @r#"
    missing-file: cannot read `missing.txt`: no such file | paths are relative to the folder of accel.toml: create the file or correct the path
    bad-pyproject: `pyproject.toml` has no [project] table | declare `dependencies` under [project], or list the packages under `pip`
    missing-file: cannot read `missing/uv.lock`: no such file | make it with `uv lock`, or write `frozen = false` in `uv_lock` to go without
    bad-gpu: `many` is no number of GPUs | write a kind and a number from 1 to 8: "H100:2"
    "#);
    assert!(findings.iter().all(|finding| finding.location.is_some()));
}

#[test]
fn sets_of_variables_of_a_layer_stay_apart_and_its_env_wins() {
    let layer = |keys: &str| {
        let toml = format!(
            "version = 1\n[jobs.j]\nrun = \"true\"\nimage = {{ layers = [{{ run = \"x\", {keys} }}] }}\n"
        );
        compiled(&toml, &["j"]).jobs[0].spec.image.layers[0].clone()
    };
    let apart = layer(r#"env = { A = "env" }, env_secrets = [{ A = "1", B = "1" }, { B = "2" }]"#);
    let together = layer(r#"env = { A = "env" }, env_secrets = [{ A = "1", B = "2" }]"#);
    assert_eq!(apart.env_secrets.len(), 2);
    let variables: Vec<_> = apart.variables().into_iter().collect();
    let expected = [("A", "env"), ("B", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(variables, expected);
    assert_eq!(apart.variables(), together.variables());
    assert_ne!(apart.digest, together.digest);
}

proptest! {
    #[test]
    fn a_matrix_has_the_product_of_its_axes(sizes in prop::collection::vec(1usize..5, 1..4), excluded in 0usize..5) {
        let axes = sizes.iter().enumerate().map(|(axis, size)| {
            (format!("a{axis}"), (0..*size).map(|value| value.to_string()).collect())
        });
        let exclude = [("a0".to_owned(), excluded.to_string())].into_iter().collect();
        let matrix = Matrix { axes: axes.collect(), exclude: vec![exclude] };
        let origin = Origin { layer: Layer::File, location: None };
        let expanded = select::expand(Some(&Valued { value: matrix, origin }));
        let product: usize = sizes.iter().product();
        let without = if excluded < sizes[0] { product / sizes[0] } else { 0 };
        prop_assert_eq!(expanded.len(), product - without);
        let unique: std::collections::BTreeSet<_> = expanded.iter().collect();
        prop_assert_eq!(unique.len(), expanded.len());
    }

    #[test]
    fn needs_come_first_in_any_graph(edges in prop::collection::vec((0usize..40, 0usize..40), 0..120), asked in 0usize..40) {
        let mut needs: Vec<std::collections::BTreeSet<usize>> = vec![Default::default(); 40];
        for (from, to) in edges.into_iter().filter(|(from, to)| from > to) {
            needs[from].insert(to);
        }
        let mut toml = String::from("version = 1\n");
        for (job, needs) in needs.iter().enumerate() {
            let needs: Vec<String> = needs.iter().map(|need| format!("\"j{need}\"")).collect();
            toml.push_str(&format!("[jobs.j{job}]\nrun = \"true\"\nneeds = [{}]\n", needs.join(", ")));
        }
        let plan = compiled(&toml, &[&format!("j{asked}")]);
        for (index, job) in plan.jobs.iter().enumerate() {
            prop_assert!(job.needs.iter().all(|need| *need < index));
        }
        let mut reached = std::collections::BTreeSet::from([asked]);
        let mut open = vec![asked];
        while let Some(job) = open.pop() {
            open.extend(needs[job].iter().filter(|need| reached.insert(**need)));
        }
        let planned: std::collections::BTreeSet<usize> =
            plan.jobs.iter().map(|job| job.name[1..].parse().unwrap()).collect();
        prop_assert_eq!(planned, reached);
        prop_assert_eq!(plan.jobs.last().unwrap().id.as_str(), format!("j{asked}"));
    }
}

#[test]
fn a_chain_as_long_as_the_file_fits() {
    let mut toml = String::from("version = 1\n[jobs.j0]\nrun = \"true\"\n");
    for job in 1..5000 {
        toml.push_str(&format!("[jobs.j{job}]\nrun = \"true\"\nneeds = [\"j{}\"]\n", job - 1));
    }
    let config = config(&toml);
    let plan = compile(&config, &Selection::of(["j4999"]), &Files::new()).unwrap();
    assert_eq!(plan.jobs.len(), 5000);
    assert!(Path::new(&plan.root).is_absolute());
    assert_eq!(compile(&config, &Selection::of(["j0"]), &Files::new()).unwrap().jobs.len(), 1);
}

#[test]
fn refuses_to_run_two_jobs_that_make_the_same_output() {
    let check = |toml: &str, selection: Selection, expected: &[&str]| {
        let config = config(toml);
        let found = compile(&config, &selection, &Files::new()).err().unwrap_or_default();
        let shown: Vec<String> = found
            .iter()
            .map(|f| format!("{} ({}, {} more)", f.message, f.location.is_some(), f.related.len()))
            .collect();
        assert_eq!(shown, expected, "{toml}");
    };
    let apart = "[jobs.a]\nrun = 'x'\noutputs = ['out/**']\n[jobs.b]\nrun = 'x'\noutputs = ['out/**']\n";
    check(apart, Selection::of(["a"]), &[]);
    check(apart, Selection::everything(), &[]);
    let clash = "jobs `a` and `b` both make `out/**` (true, 1 more)";
    check(apart, Selection::of(["a", "b"]), &[clash]);
    let brought_together = format!("{apart}[jobs.all]\nneeds = ['a', 'b']\n");
    check(&brought_together, Selection::of(["all"]), &[clash]);
    check(&brought_together, Selection::everything(), &[clash]);

    let matrix = |output: &str| {
        format!("[jobs.a]\nrun = 'x'\noutputs = ['{output}']\nmatrix = {{ os = ['linux', 'mac'] }}\n")
    };
    check(&matrix("${matrix.os}/app"), Selection::everything(), &[]);
    check(&matrix("reports/**"), Selection::everything(), &[]);
    let clash = "jobs `a[os=linux]` and `a[os=mac]` both make `app` (true, 0 more)";
    check(&matrix("app"), Selection::everything(), &[clash]);
    let same_after_filling = "[jobs.a]\nrun = 'x'\noutputs = ['mac/app']\n[jobs.b]\nneeds = ['a']\nrun = 'x'\n\
        outputs = ['${matrix.os}/app']\nmatrix = { os = ['linux', 'mac'] }\n";
    check(
        same_after_filling,
        Selection::of(["b"]),
        &["jobs `a` and `b[os=mac]` both make `mac/app` (true, 1 more)"],
    );
}

#[test]
fn a_shared_image_names_the_job_whose_matrix_lacks_the_axis() {
    let toml = "[images.py]\nlayers = [{ pip = ['a', 'django==${matrix.django}'] }]\n\
        [jobs.a]\nimage = 'py'\nrun = 'x'\nmatrix = { djngo = ['5'] }\n[jobs.b]\nimage = 'py'\nrun = 'x'\n";
    let config = config(toml);
    let found = compile(&config, &Selection::everything(), &Files::new()).unwrap_err();
    let shown: Vec<String> = found
        .iter()
        .map(|f| format!("{} | {} | {}", f.message, f.help.join("; "), &toml[f.location.unwrap().range()]))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    the matrix of job `a` has no axis `django` | did you mean `${matrix.djngo}`? | ${matrix.django}
    job `b` has no matrix to take `django` from | add matrix = { django = ["…"] } to the job, or write the value itself here | ${matrix.django}
    "#);
    assert!(found.iter().all(|f| f.related.len() == 1));
}
