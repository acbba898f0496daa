//! `accel init` on projects of several kinds: what it writes passes check, and runs.

use crate::world::World;

/// Stands in for a task runner: says what it was asked to do.
const ECHO_TOOL: &str = "#!/bin/sh\necho \"$(basename \"$0\") $*\"\n";

fn written(world: &World) -> String {
    world
        .accel(["init"])
        .run()
        .code(0)
        .stdout("")
        .stderr_has("wrote accel.toml")
        .stderr_has("try: accel run");
    world.accel(["check"]).run().code(0).stderr("").stdout_has("no errors");
    world.read("accel.toml")
}

#[test]
fn an_empty_folder_gets_a_first_job() {
    let world = World::new();
    written(&world);
    world.accel(["run", "hello"]).run().code(0).stdout("hello from accel\n");
}

#[test]
fn a_file_that_is_there_is_kept() {
    let world = World::new().file("accel.toml", "version = 1\n");
    world.accel(["init"]).run().code(2).stderr_has("already").stderr_has("--force");
    assert_eq!(world.read("accel.toml"), "version = 1\n");
    world.accel(["init", "--print"]).run().code(0).stdout_has("[jobs.hello]");
    assert_eq!(world.read("accel.toml"), "version = 1\n");
    world.accel(["init", "--force"]).run().code(0);
    assert!(world.read("accel.toml").contains("[jobs.hello]"));
    World::new().file("accel.yaml", "version: 1\n").accel(["init"]).run().code(2).stderr_has("accel.yaml");
}

#[test]
fn a_python_project_with_everything() {
    let world = World::new()
        .file(
            "pyproject.toml",
            "[project]\nname = \"demo\"\nrequires-python = \">=3.9\"\ndependencies = [\"iniconfig\"]\n\
             [project.optional-dependencies]\ntest = [\"pytest>=8\"]\ndocs = [\"sphinx\"]\n\
             [project.scripts]\ndemo = \"demo.cli:main\"\n[tool.ruff]\n[tool.mypy]\nstrict = true\n",
        )
        .file("src/demo/__init__.py", "")
        .file("src/demo/cli.py", "def main():\n    return 0\n")
        .file("tests/test_demo.py", "def test_demo():\n    import demo\n");
    let text = written(&world);
    for line in [
        "name = \"demo\"",
        "python = \"3.12\"",
        "pyproject = { path = \"pyproject.toml\", optional_dependencies = [\"test\"] }",
        "pip = [\"ruff\", \"mypy\"]",
        "run = [\"pytest\"]\nenv = { PYTHONPATH = \"src\" }",
        "run = [\"mypy\", \"src\"]",
        "run = [\"python\", \"-c\", \"import sys; from demo.cli import main; sys.exit(main())\"]",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
}

#[test]
fn a_locked_project_uses_its_lock() {
    let world = World::new()
        .file(
            "pyproject.toml",
            "[project]\nname = \"project\"\nversion = \"1\"\nrequires-python = \">=3.10,<3.12\"\n\
             dependencies = []\n[dependency-groups]\ndev = [\"pytest\", \"ruff\"]\n",
        )
        .file("uv.lock", "version = 1\nrequires-python = \">=3.10\"\n")
        .file("tests/test_a.py", "");
    let text = written(&world);
    assert!(text.contains("uv_lock = true") && text.contains("python = \"3.11\""), "{text}");
    assert!(!text.contains("pip = ") && !text.contains("[project]"), "{text}");
}

#[test]
fn requirements_files_and_setup_cfg() {
    let world = World::new()
        .file("requirements.txt", "iniconfig\n")
        .file("requirements-dev.txt", "-r requirements.txt\npytest\nflake8\n")
        .file("setup.cfg", "[metadata]\nname = old\n[flake8]\nmax-line-length = 100\n");
    let text = written(&world);
    assert!(text.contains("requirements = [\"requirements.txt\", \"requirements-dev.txt\"]"), "{text}");
    assert!(
        text.contains("[jobs.flake8]") && text.contains("[jobs.test]") && !text.contains("pip = "),
        "{text}"
    );
    assert!(text.contains("name = \"old\""), "{text}");
}

#[test]
fn a_poetry_project_lists_its_packages() {
    let world = World::new().file(
        "pyproject.toml",
        "[tool.poetry]\nname = \"project\"\n[tool.poetry.dependencies]\npython = \"^3.10\"\niniconfig = \"^2.0\"\n\
         [tool.poetry.group.dev.dependencies]\npytest = \"*\"\n",
    );
    let text = written(&world);
    assert!(text.contains("pip = [\"iniconfig>=2.0,<3\", \"pytest\"]"), "{text}");
}

#[test]
fn task_runners_become_jobs_that_run() {
    let mut world = World::new()
        .file("justfile", "# build all\nbuild:\n    true\n_private:\n    true\n")
        .file("Makefile", ".PHONY: docs\ndocs: ## write the docs\n\ttrue\n")
        .file(
            "Taskfile.yml",
            "version: '3'\ntasks:\n  deploy:\n    desc: ship it\n    cmds: [\"true\"]\n  build: echo\n",
        )
        .file("package.json", r#"{"scripts": {"test:unit": "vitest", "postinstall": "x"}}"#)
        .file("pnpm-lock.yaml", "");
    for tool in ["just", "make", "task", "pnpm"] {
        world = world.command(tool, ECHO_TOOL);
    }
    written(&world);
    world.accel(["list"]).run().code(0).stdout_has("build all").stdout_has("ship it");
    let run = |job: &str, expect: &str| {
        world.accel(["run", job]).run().code(0).stdout(expect);
    };
    run("build", "just build\n");
    run("task-build", "task build\n");
    run("docs", "make docs\n");
    run("deploy", "task deploy\n");
    run("test-unit", "pnpm run test:unit\n");
}

#[test]
fn files_that_cannot_be_read_are_named_and_passed_over() {
    let world = World::new()
        .file("pyproject.toml", "[project\n")
        .file("package.json", "{")
        .file("Taskfile.yml", "tasks: [")
        .file("Dockerfile", "FROM debian\n");
    let init = world.accel(["init"]).run();
    init.code(0)
        .stderr_has("passed over pyproject.toml")
        .stderr_has("package.json")
        .stderr_has("Taskfile.yml");
    let text = world.read("accel.toml");
    assert!(text.contains("# dockerfile = \"Dockerfile\""), "{text}");
    world.accel(["check"]).run().code(0);
}

#[test]
fn a_written_python_job_runs_in_an_image_of_its_own() {
    let world = World::new()
        .with_host_tools()
        .file("requirements.txt", "iniconfig==2.0.0\n")
        .file(".python-version", "3.11\n")
        .file("test_it.py", "import iniconfig\n\ndef test_it():\n    assert iniconfig.IniConfig\n");
    written(&world);
    let run = world.accel(["run", "test", "--", "-q"]).run();
    let unreachable = ["error sending request", "dns error", "Failed to fetch", "client error (Connect)"];
    if unreachable.iter().any(|sign| run.stderr_text().contains(sign)) {
        println!("skipped: the package index is out of reach");
        return;
    }
    run.code(0).stdout_has("1 passed");
}
