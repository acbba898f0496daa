//! Plans as they are shown: every format, origins, nothing secret, the same text whatever the order.

use super::*;
use crate::plan::render::{Outlook, PlanFormat, render};

#[test]
fn shown_as_toml_with_origins() {
    let plan = compile(&config(IMAGES), &Selection::of(["train"]), &images()).unwrap();
    insta::assert_snapshot!(render(&plan, &Outlook::default(), PlanFormat::Toml), @r#"
    version = 1
    project = "sweeper"                         # accel.toml:2
    requested = ["train"]

    [modal]
    app = "accel-sweeper"                       # built-in

    [sync]
    gitignore = true                            # built-in
    max_size = "300MB"                          # built-in

    [jobs.test]
    run = "pytest"                              # accel.toml:24
    cwd = "."                                   # built-in
    image = "py"                                # accel.toml:23
    timeout = "20m"                             # accel.toml:25
    stop_timeout = "10s"                        # built-in
    dotenv = [".env"]                           # [defaults] accel.toml:6
    tty = false                                 # built-in
    pure = false                                # built-in
    strict = false                              # built-in
    network = "open"                            # built-in

    [jobs.test.env]
    A = "default"                               # [defaults] accel.toml:7
    B = "own"                                   # accel.toml:26
    C = "own"                                   # accel.toml:26

    [jobs.test.retry]
    max = 0                                     # built-in

    [[jobs.test.route]]                         # [defaults] accel.toml:5
    to = "local"

    [jobs.test.watch]
    on_busy = "restart"                         # built-in
    stop_signal = "SIGTERM"                     # built-in
    stop_timeout = "10s"                        # built-in
    clear = false                               # built-in
    notify = "never"                            # built-in

    [jobs.train]
    run = "python train.py"                     # accel.toml:29
    cwd = "."                                   # built-in
    needs = ["test"]                            # accel.toml:30
    image = "cuda"                              # accel.toml:28
    gpu = ["L4"]                                # image cuda, accel.toml:17
    timeout = "10m"                             # [defaults] accel.toml:4
    stop_timeout = "10s"                        # built-in
    dotenv = [".env"]                           # [defaults] accel.toml:6
    tty = false                                 # built-in
    pure = false                                # built-in
    strict = false                              # built-in
    network = "open"                            # built-in

    [jobs.train.env]
    A = "default"                               # [defaults] accel.toml:7
    B = "default"                               # [defaults] accel.toml:7

    [jobs.train.retry]
    max = 0                                     # built-in

    [[jobs.train.route]]                        # [defaults] accel.toml:5
    to = "local"

    [jobs.train.watch]
    on_busy = "restart"                         # built-in
    stop_signal = "SIGTERM"                     # built-in
    stop_timeout = "10s"                        # built-in
    clear = false                               # built-in
    notify = "never"                            # built-in

    [images.py]
    base = "debian_slim"                        # built-in
    python = "3.11"                             # accel.toml:9
    workdir = "/workspace"                      # accel.toml:14
    digest = "4de44429b5121b9454b8ae6b170d1ef64cde50a611952ba7bb78dd5138ee2894"

    [images.py.local]
    engine = "venv"                             # built-in

    [[images.py.layers]]                        # accel.toml:10
    apt = ["git"]
    digest = "037fa910f97e683967cd1aded87e4e7bbb55ec04849991f02db7dac43bd81888"

    [[images.py.layers]]                        # accel.toml:11
    pip = ["pytest>=8"]
    requirements = ["ci/requirements.txt"]
    installer = "uv"
    digest = "cb403704f1e6fe058b5be9b3163afb7d31323c3806fdc9af36d7f42368ee1f1e"

    [[images.py.layers]]                        # accel.toml:13
    env = { PYTHONUNBUFFERED = "1" }
    digest = "64da80cbd0b3a103123f4a485fcef63233c0bb3e2ca7bd750900da4a117ec31d"

    [[images.py.layers]]                        # accel.toml:14
    workdir = "/workspace"
    digest = "4de44429b5121b9454b8ae6b170d1ef64cde50a611952ba7bb78dd5138ee2894"

    [images.cuda]
    base = "debian_slim"                        # built-in
    python = "3.11"                             # accel.toml:9
    workdir = "/workspace"                      # accel.toml:14
    digest = "97d87bf729b95e3752bf7222c1830339621c9e51cf1cb7e9305fcbd4e9d82c65"

    [images.cuda.local]
    engine = "venv"                             # built-in

    [[images.cuda.layers]]                      # accel.toml:10
    apt = ["git"]
    digest = "037fa910f97e683967cd1aded87e4e7bbb55ec04849991f02db7dac43bd81888"

    [[images.cuda.layers]]                      # accel.toml:11
    pip = ["pytest>=8"]
    requirements = ["ci/requirements.txt"]
    installer = "uv"
    digest = "cb403704f1e6fe058b5be9b3163afb7d31323c3806fdc9af36d7f42368ee1f1e"

    [[images.cuda.layers]]                      # accel.toml:13
    env = { PYTHONUNBUFFERED = "1" }
    digest = "64da80cbd0b3a103123f4a485fcef63233c0bb3e2ca7bd750900da4a117ec31d"

    [[images.cuda.layers]]                      # accel.toml:14
    workdir = "/workspace"
    digest = "4de44429b5121b9454b8ae6b170d1ef64cde50a611952ba7bb78dd5138ee2894"

    [[images.cuda.layers]]                      # accel.toml:19
    pip = ["triton"]
    installer = "uv"
    digest = "97d87bf729b95e3752bf7222c1830339621c9e51cf1cb7e9305fcbd4e9d82c65"
    "#);
}

#[test]
fn credentials_within_addresses_are_not_shown() {
    let toml = r#"
version = 1
[images.py]
pip = ["git+https://token@example.org/x.git", "rich"]
index_url = "https://user:hush@example.org/simple"
[jobs.test]
image = "py"
run = "true"
"#;
    let plan = compiled(toml, &["test"]);
    for format in [PlanFormat::Toml, PlanFormat::Json, PlanFormat::Yaml] {
        let text = render(&plan, &Outlook::default(), format);
        assert!(text.contains("https://***@example.org/simple"), "{text}");
        assert!(!text.contains("hush") && !text.contains("token@"), "{text}");
    }
}

#[test]
fn every_format_reads_back_the_same() {
    let plan = compile(&config(IMAGES), &Selection::everything(), &images()).unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&render(&plan, &Outlook::default(), PlanFormat::Json)).unwrap();
    let yaml: serde_json::Value =
        serde_yaml::from_str(&render(&plan, &Outlook::default(), PlanFormat::Yaml)).unwrap();
    assert_eq!(json, yaml);
    let toml: toml::Table = render(&plan, &Outlook::default(), PlanFormat::Toml).parse().unwrap();
    assert_eq!(toml["jobs"]["test"]["timeout"].as_str(), json["jobs"]["test"]["timeout"].as_str());
    assert_eq!(toml["jobs"].as_table().unwrap().len(), json["jobs"].as_object().unwrap().len());
}

/// The tables of `IMAGES` that follow its head, in another order.
fn shuffled(order: &[usize]) -> String {
    let (head, rest) = IMAGES.split_once("[images.py]").unwrap();
    let rest = format!("[images.py]{rest}");
    let mut tables: Vec<String> = rest.split_inclusive("\n[").map(str::to_owned).collect();
    // Each piece but the last ends in the next one's opening bracket.
    let count = tables.len();
    for (index, table) in tables.iter_mut().enumerate() {
        if index + 1 < count {
            table.pop();
        } else {
            table.push('\n');
        }
        if index > 0 {
            table.insert(0, '[');
        }
    }
    // The layers of an image stay after it.
    let layers = tables.remove(2);
    tables[1].push_str(&layers);
    let mut text = head.to_owned();
    order.iter().for_each(|index| text.push_str(&tables[index % tables.len()]));
    text
}

#[test]
fn the_order_of_tables_does_not_show() {
    let shown = |text: &str| {
        let plan = compile(&config(text), &Selection::everything(), &images()).unwrap();
        let mut json: serde_json::Value =
            serde_json::from_str(&render(&plan, &Outlook::default(), PlanFormat::Json)).unwrap();
        // Lines move with their tables.
        strip_origins(&mut json);
        json.to_string()
    };
    let written = shown(&shuffled(&[0, 1, 2, 3, 4, 5, 6]));
    assert_eq!(written, shown(&shuffled(&[6, 4, 2, 0, 1, 3, 5])));
    assert_eq!(written, shown(&shuffled(&[5, 6, 3, 4, 1, 2, 0])));
}

fn strip_origins(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(table) => {
            table.retain(|key, _| key != "provenance" && key != "origin");
            table.values_mut().for_each(strip_origins);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(strip_origins),
        _ => {}
    }
}
