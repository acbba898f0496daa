//! Loading real files: the example, precedence, files that extend each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use accel::config::model::{Config, Layer};
use accel::config::{LoadError, LoadRequest, Loaded, load};
use accel::diag::{ColorChoice, render};

fn manifest() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of files with an accel.toml to load.
pub struct Project {
    folder: tempfile::TempDir,
    request: LoadRequest,
}

#[allow(dead_code, reason = "used by the tests of diagnostics")]
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
