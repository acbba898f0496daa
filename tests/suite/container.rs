//! `engine = "container"` through the real binary, against a stand-in for docker that writes down what it is
//! asked and runs the command itself. That a real engine takes the same arguments is not shown here.

use std::fs;

use crate::beacons::Beacons;
use crate::world::{Signal, World};

const DOCKER: &str = r#"#!/bin/sh
echo "$*" >> calls
case $1 in
image) [ -e built ] ;;
build)
  for last; do :; done
  cp "$last/.accel/Dockerfile" dockerfile
  (cd "$last" && find . -type f | sort) > context
  echo "building"
  echo "$PIN_TOKEN" >> given
  if [ -e broken ]; then echo "E: no such package" >&2; exit 1; fi
  touch built ;;
run)
  shift
  while :; do
    case $1 in
    --rm | --init) shift ;;
    --*) shift 2 ;;
    *) break ;;
    esac
  done
  shift
  exec "$@" ;;
esac
"#;

const JOBS: &str = r#"
version = 1
[images.box]
python = "3.11"
apt = ["git"]
pip = ["alpha>=1", "beta"]
run = ["echo one"]
copy = [{ from = "tools", to = "/opt/tools" }]
env = { MODE = "a $b" }
workdir = "/work"
[images.box.local]
engine = "container"
[jobs.inside]
image = "box"
run = "echo $SECRET $ACCEL_JOB; pwd; exit 7"
env = { SECRET = "hush", PATH = "/usr/bin:/bin" }
cpu = 2
memory = "1GiB"
[jobs.argv]
image = "box"
run = ["echo", "a b"]
"#;

fn world() -> World {
    World::new().command("docker", DOCKER).file("accel.toml", JOBS).file("tools/a.sh", "echo a\n")
}

#[test]
fn layers_become_a_dockerfile_that_is_built_once() {
    let world = world();
    world.accel(["run", "argv"]).run().code(0).stdout("a b\n");
    assert_eq!(
        world.read("dockerfile"),
        "FROM python:3.11-slim-bookworm\n\
         RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*\n\
         COPY --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv\n\
         RUN /.uv/uv pip install --break-system-packages --python \"$(command -v python)\" 'alpha>=1' beta\n\
         ENV MODE=\"a \\$b\"\n\
         WORKDIR /work\n\
         COPY [\".accel/4/tools\",\"/opt/tools\"]\n\
         RUN echo one\n"
    );
    assert!(world.read("context").contains("tools/a.sh"), "{}", world.read("context"));
    world.accel(["run", "argv"]).run().code(0);
    let builds =
        |world: &World| world.read("calls").lines().filter(|call| call.starts_with("build ")).count();
    assert_eq!(builds(&world), 1);
    // Its contents are part of the image's name.
    let first = world.read("calls").lines().next().unwrap().to_owned();
    world.write("tools/a.sh", "echo b\n");
    world.accel(["run", "argv"]).run().code(0);
    assert_ne!(world.read("calls").lines().last().unwrap(), first);
}

#[test]
fn a_job_runs_in_the_container_with_its_limits_and_no_value_on_the_command_line() {
    let world = world();
    let done = world.accel(["run", "inside"]).run();
    done.code(7).stdout(&format!("hush inside\n{}\n", world.project().display())).stderr_lacks("not applied");
    let calls = world.read("calls");
    let run = calls.lines().find(|call| call.starts_with("run ")).unwrap();
    let project = world.project();
    let project = project.display();
    for part in [
        &format!("--volume {project}:{project} --workdir {project}"),
        "--cpus 2",
        "--memory 1073741824",
        "--env PATH=/usr/bin:/bin",
        "--env SECRET --env ACCEL_JOB",
        "--rm --init --name accel-",
    ] {
        assert!(run.contains(part), "{part}: {run}");
    }
    assert!(!calls.contains("hush"), "{calls}");
}

#[test]
fn arguments_of_a_build_reach_it_without_their_values_on_the_command_line() {
    let world = world().file("Dockerfile", "FROM scratch\n");
    let image = "[images.own]\ndockerfile = 'Dockerfile'\nbuild_args = { PIN_TOKEN = 'hush', PATH = '/x' }\n\
                 local.engine = 'container'\n[jobs.own]\nimage = 'own'\nrun = 'true'\n";
    world.write("accel.toml", format!("{JOBS}{image}"));
    world.accel(["run", "own"]).run().code(0);
    let calls = world.read("calls");
    assert!(calls.contains("--build-arg PIN_TOKEN --build-arg PATH=/x "), "{calls}");
    assert!(!calls.contains("hush"), "{calls}");
    assert_eq!(world.read("given"), "hush\n\n", "the base's build has it, that of the layers above has not");
}

#[test]
fn a_build_that_fails_ends_with_its_last_words() {
    let world = world().file("broken", "");
    let done = world.accel(["run", "argv"]).run();
    done.code(125).stderr_has("image `box`: docker build ended with").stderr_has("E: no such package");
}

#[test]
fn without_an_engine_the_remedy_is_named() {
    let world = world();
    fs::remove_file(world.root().join("bin/docker")).unwrap();
    let done = world.accel(["run", "argv"]).env("PATH", world.root().join("bin")).run();
    done.code(125).stderr_has("needs docker or podman").stderr_has("engine = \"venv\"");
}

#[test]
fn a_stopped_job_leaves_no_container() {
    let beacons = Beacons::new();
    let world = world();
    let job = format!("[jobs.waits]\nimage = \"box\"\nrun = {:?}\n", beacons.role("beacon", "inside"));
    world.write("accel.toml", format!("{JOBS}{job}"));
    let mut running = world.accel(["run", "waits"]).spawn();
    let inside = beacons.next();
    running.signal(Signal::INT);
    running.finish().code(130);
    inside.assert_gone();
    let calls = world.read("calls");
    let name = calls.split("--name ").nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!(calls.lines().last(), Some(&*format!("rm --force {name}")), "{calls}");
}

#[test]
fn what_a_container_is_not_given_is_said() {
    let world = world();
    let jobs = JOBS.replace("workdir =", "secrets = [\"private-index\"]\nworkdir =");
    let limited =
        "[jobs.limited]\nimage = \"box\"\nrun = \"true\"\nnetwork = { allow_domains = [\"pypi.org\"] }\n";
    world.write("accel.toml", format!("{jobs}{limited}"));
    world
        .accel(["run", "limited"])
        .run()
        .code(0)
        .stderr_has("image box: Modal secrets are not read by its steps here: private-index")
        .stderr_has("network allow-lists are not applied to containers")
        .stderr_has("network = { block = true }");
    let blocked = limited.replace("allow_domains = [\"pypi.org\"]", "block = true");
    world.write("accel.toml", format!("{JOBS}{blocked}"));
    world.accel(["run", "limited"]).run().code(0).stderr_lacks("network").stderr_lacks("secrets");
    assert!(world.read("calls").contains("--network none"));
}

#[test]
fn what_this_machine_does_not_limit_is_said() {
    let job = |network: &str| format!("version = 1\n[jobs.it]\nrun = 'true'\nnetwork = {{ {network} }}\n");
    let said = |network: &str| {
        let done = World::new().file("accel.toml", job(network)).accel(["run", "it"]).run();
        done.code(0).stderr_text()
    };
    assert!(said("block = true").contains("network is not blocked on this machine"));
    assert!(said("allow_cidrs = ['10.0.0.0/8']").contains("allow-lists are not applied to this machine"));
}
