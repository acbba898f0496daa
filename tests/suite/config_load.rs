//! Loading real files: the example, precedence, files that extend each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use accel::config::model::{Config, Layer};
use accel::config::{LoadError, LoadRequest, Loaded, load, load_every_profile};
use accel::diag::{ColorChoice, render};

fn manifest() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of files with an accel.toml to load.
pub struct Project {
    folder: tempfile::TempDir,
    request: LoadRequest,
}

impl Project {
    pub fn new(accel_toml: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let start = folder.path().join("project");
        fs::create_dir(&start).expect("a project folder");
        let request = LoadRequest { display_base: start.clone(), start, ..LoadRequest::default() };
        Self { folder, request }.file("accel.toml", accel_toml)
    }

    pub fn empty() -> Self {
        let project = Self::new("");
        fs::remove_file(project.root().join("accel.toml")).expect("it was just written");
        project
    }

    pub fn root(&self) -> &Path {
        &self.request.start
    }

    #[must_use]
    pub fn file(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
        fs::write(path, contents).expect("a file");
        self
    }

    #[must_use]
    pub fn profile(mut self, name: &str) -> Self {
        self.request.profile = Some((name.to_owned(), Layer::Flag("--profile".to_owned())));
        self
    }

    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.request.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn explicit(mut self, name: &str) -> Self {
        self.request.explicit = Some(self.root().join(name));
        self
    }

    pub fn request(&self) -> &LoadRequest {
        &self.request
    }

    pub fn load(&self) -> Result<Loaded, LoadError> {
        load(&self.request)
    }

    pub fn config(&self) -> Config {
        match self.load() {
            Ok(loaded) => loaded.config,
            Err(_) => panic!("does not load:\n{}", self.rendered()),
        }
    }

    /// Every finding as a terminal would show it.
    pub fn rendered(&self) -> String {
        let (sources, diagnostics) = match self.load() {
            Ok(loaded) => (loaded.config.sources, loaded.warnings),
            Err(error) => (error.sources, error.diagnostics),
        };
        let shown: Vec<String> = diagnostics
            .iter()
            .map(|diagnostic| render(diagnostic, &sources, ColorChoice::Plain, 100))
            .collect();
        shown.join("\n\n").replace(&*self.folder.path().to_string_lossy(), "[folder]")
    }
}

#[test]
fn the_example_loads_without_a_finding() {
    let example = fs::read_to_string(manifest().join("accel.toml.example")).expect("the example");
    let project = Project::new(&example);
    assert_eq!(project.rendered(), "");
    let config = project.profile("ci").config();
    assert_eq!(config.jobs.len(), 7);
}

/// Every key that the schema knows, by walking its properties.
fn keys_of_the_schema(schema: &serde_json::Value, found: &mut BTreeMap<String, ()>) {
    match schema {
        serde_json::Value::Object(fields) => {
            if let Some(serde_json::Value::Object(properties)) = fields.get("properties") {
                found.extend(properties.keys().map(|key| (key.clone(), ())));
            }
            fields.values().for_each(|value| keys_of_the_schema(value, found));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| keys_of_the_schema(item, found)),
        _ => {}
    }
}

#[test]
fn the_example_shows_every_key_of_the_schema() {
    let example = fs::read_to_string(manifest().join("accel.toml.example")).expect("the example");
    let words: Vec<&str> = example.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let mut keys = BTreeMap::new();
    keys_of_the_schema(&accel::config::schema(), &mut keys);
    assert!(keys.len() > 100, "the walk found {} keys", keys.len());
    let missing: Vec<&String> = keys.keys().filter(|key| !words.contains(&key.as_str())).collect();
    assert!(missing.is_empty(), "accel.toml.example does not show {missing:?}");
}

/// Refresh with `ACCEL_UPDATE_GENERATED=1 cargo test schema`, or `accel schema > schemas/accel.schema.json`.
#[test]
fn the_committed_schema_is_the_generated_one() {
    let path = manifest().join("schemas/accel.schema.json");
    let generated = format!("{:#}\n", accel::config::schema());
    if std::env::var_os("ACCEL_UPDATE_GENERATED").is_some() {
        fs::write(&path, &generated).expect("the schema is writable");
    }
    let committed = fs::read_to_string(&path).expect("the committed schema");
    assert!(committed == generated, "refresh it: ACCEL_UPDATE_GENERATED=1 cargo test schema");
}

#[test]
fn stronger_layers_win_and_every_value_knows_its_layer() {
    let project = Project::new(
        "extends = [\"base.toml\"]\n[defaults]\ntimeout = \"2m\"\n[jobs.a]\nrun = \"file\"\nenv = { A = \"file\" }\n\
         [jobs.b]\nrun = \"b\"\n[profile.ci.jobs.a]\ntimeout = \"3m\"\nenv = { P = \"profile\" }\n",
    )
    .file("base.toml", "[defaults]\ntimeout = \"1m\"\nstrict = true\n[jobs.a]\nrun = \"base\"\ncpu = 2\nenv = { A = \"base\", B = \"base\" }\n")
    .file("accel.local.toml", "[jobs.a]\ncpu = 8\n[jobs.a.env]\nB = \"local\"\n");
    let config = project.profile("ci").config();
    let job = &config.jobs["a"].settings;
    let layer = |origin: &accel::config::model::Origin| origin.layer.clone();
    assert_eq!(layer(&job.run.as_ref().unwrap().origin), Layer::File);
    assert_eq!(layer(&job.cpu.as_ref().unwrap().origin), Layer::Local);
    assert_eq!(layer(&job.timeout.as_ref().unwrap().origin), Layer::Profile("ci".into()));
    assert_eq!(layer(&config.defaults.strict.as_ref().unwrap().origin), Layer::Extends);
    assert_eq!(layer(&config.defaults.timeout.as_ref().unwrap().origin), Layer::File);
    let env: Vec<(&str, &str)> =
        job.env.iter().map(|(name, value)| (name.as_str(), value.value.as_str())).collect();
    assert_eq!(env, [("A", "file"), ("B", "local"), ("P", "profile")]);
    let place = |origin: &accel::config::model::Origin| config.sources.short(origin.location.unwrap());
    assert_eq!(place(&job.cpu.as_ref().unwrap().origin), "accel.local.toml:2");
    assert_eq!(place(&config.defaults.strict.as_ref().unwrap().origin), "base.toml:3");
}

#[test]
fn a_job_takes_what_it_does_not_set_from_the_one_it_extends() {
    let config = Project::new(
        "[jobs.c]\nextends = \"b\"\ncwd = \"c\"\n[jobs.b]\nextends = \"a\"\nrun = \"b\"\n\
         [jobs.a]\nrun = \"a\"\ncpu = 2\nretry = { max = 1, on = [\"oom\"] }\n",
    )
    .config();
    let job = &config.jobs["c"].settings;
    assert_eq!(job.cpu.as_ref().unwrap().value.request, 2.0);
    assert_eq!(job.cwd.as_ref().unwrap().value, "c");
    assert_eq!(job.run.as_ref().unwrap().value, accel::config::model::Command::Shell("b".into()));
    assert_eq!(job.retry.as_ref().unwrap().value.max, 1);
}

#[test]
fn variables_win_over_files_and_misspelt_ones_are_told() {
    let project = Project::new("[modal]\napp = \"file\"\n[jobs.a]\ntimeout = \"1m\"\n")
        .variable("ACCEL_MODAL_APP", "variable")
        .variable("ACCEL_TIMEOUT", "5m")
        .variable("ACCEL_PROFIL", "ci")
        .variable("ACCEL_SHARD_INDEX", "0");
    let config = project.config();
    assert_eq!(config.modal.app.value, "variable");
    assert_eq!(config.modal.app.origin.layer, Layer::Variable("ACCEL_MODAL_APP".into()));
    assert_eq!(config.jobs["a"].settings.timeout.as_ref().unwrap().value.as_secs(), 300);
    let said = project.rendered();
    assert!(said.contains("accel reads no variable `ACCEL_PROFIL`"), "{said}");
    assert!(said.contains("did you mean ACCEL_PROFILE?"), "{said}");
    assert_eq!(said.matches("warning[").count(), 1, "{said}");
}

#[test]
fn yaml_with_the_same_tree_is_the_same_configuration() {
    let toml = Project::new(
        "[images.py]\npip = [\"pytest\"]\n[jobs.a]\nimage = \"py\"\nrun = [\"pytest\", \"-q\"]\ncpu = [1, 2]\n",
    );
    let yaml = Project::empty().file(
        "accel.yaml",
        "images:\n  py:\n    pip: [pytest]\njobs:\n  a:\n    image: py\n    run: [pytest, -q]\n    cpu: [1, 2]\n",
    );
    let (toml, yaml) = (toml.config(), yaml.config());
    let shape = |config: &Config| {
        let job = &config.jobs["a"].settings;
        format!(
            "{:?} {:?} {:?}",
            job.run.as_ref().unwrap().value,
            job.cpu.as_ref().unwrap().value,
            config.images["py"].layers[0].step
        )
    };
    assert_eq!(shape(&toml), shape(&yaml));
    let at = yaml.jobs["a"].settings.cpu.as_ref().unwrap().origin.location.unwrap();
    assert_eq!(yaml.sources.short(at), "accel.yaml:8");
}

/// What is said about files, rather than about keys.
#[test]
fn findings_about_files() {
    let check = |project: Project, expected: &[&str]| {
        let said = project.rendered();
        for part in expected {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
    };
    check(Project::empty(), &["error[no-config]: no accel.toml in [folder]/project", "accel init"]);
    check(
        Project::empty().explicit("ci.toml"),
        &["error[no-config]: there is no configuration file ci.toml"],
    );
    check(
        Project::new("[jobs.a]\n").file("accel.yaml", "jobs: {}\n"),
        &["warning[ignored-file]: accel.yaml is not read beside accel.toml"],
    );
    check(
        Project::new("extends = [\"b.toml\"]\n").file("b.toml", "extends = \"accel.toml\"\n"),
        &[
            "error[cycle]: files extend each other in a circle: accel.toml → b.toml → accel.toml",
            "b.toml:1:11",
        ],
    );
    check(
        Project::new("extends = [\"nothing.toml\"]\n"),
        &["error[unreadable]: cannot read nothing.toml", "accel.toml:1:12"],
    );
    check(Project::new("extends = [\".\"]\n"), &["error[unreadable]:", "is not a file"]);
    check(Project::new("").file("accel.toml", b"a\n\xff"), &["accel.toml is not UTF-8 in line 2"]);
    check(Project::new(&"#".repeat(1 << 21)), &["error[too-large]: accel.toml is larger than 1048576 bytes"]);
    check(
        Project::new("[profile.ci]\nroute = \"modal\"\n").profile("cy"),
        &["error[unknown-profile]: unknown profile `cy`", " --> --profile:1:1", "did you mean `ci`?"],
    );
    check(
        Project::new("[jobs.a]\n").file("accel.local.toml", "[jobs.a]\ntimeout = \"1x\"\n"),
        &["error[bad-unit]", "accel.local.toml:2:11"],
    );
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    check(Project::empty().file("accel.yaml", bomb), &["error[too-large]"]);
    let many = "[jobs.a]\n".to_owned() + &(0..5_000).map(|n| format!("k{n} = 1\n")).collect::<String>();
    check(Project::new(&many), &["error[unknown-key]", "warning[more]: 4800 more findings"]);
    let deep = format!("a: {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    check(Project::empty().file("accel.yaml", deep), &["error["]);
    let deep = format!("a = {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    check(Project::new(&deep), &["error["]);
}

#[test]
fn the_search_goes_upward_and_names_are_relative() {
    let project = Project::new("[jobs.a]\nrun = \"x\"\n").file("deep/er/file", "");
    let request = LoadRequest {
        start: project.root().join("deep/er"),
        display_base: project.root().to_owned(),
        ..LoadRequest::default()
    };
    let config = load(&request).expect("it loads").config;
    assert_eq!(config.root, project.root());
    assert_eq!(config.sources.short(config.jobs["a"].location), "accel.toml:1");
    assert_eq!(config.project.value, "project");
}

#[test]
fn every_profile_is_checked_and_what_they_share_is_said_once() {
    let project = Project::new(
        "[jobs.a]\nrun = 'x'\ngpu = 'H1OO'\n[profile.ci.jobs.a]\nneeds = ['b']\n[profile.dev.jobs.a]\nneeds = ['b']\n",
    );
    assert!(project.load().is_ok(), "a profile that is not chosen does no harm");
    let error = load_every_profile(project.request()).expect_err("the profiles name a job that is not there");
    let said: Vec<(&str, usize, &str)> = error
        .diagnostics
        .iter()
        .map(|found| {
            let (line, _) = error.sources.line_column(found.location.expect("a place"));
            (found.code, line, found.help.last().map_or("", String::as_str))
        })
        .collect();
    assert_eq!(
        said,
        [
            ("unknown-gpu", 3, "did you mean \"H100\"?"),
            ("unknown-job", 5, "seen with --profile ci"),
            ("unknown-job", 7, "seen with --profile dev"),
        ]
    );
    let good = Project::new("[jobs.a]\nrun = 'x'\n[profile.ci]\nroute = 'modal'\n").profile("ci");
    let every = load_every_profile(good.request()).expect("no errors");
    assert_eq!(
        every.configs.iter().map(|config| config.profile.as_deref()).collect::<Vec<_>>(),
        [Some("ci")]
    );
}
