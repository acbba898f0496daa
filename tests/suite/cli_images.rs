//! `accel image`: listed, built, pruned, from wheels that the test writes.

use std::io::Write;

use crate::world::World;

const IMAGE: &str = "version = 1\n[images.py]\npip = ['pebble==1.0']\nfind_links = 'wheels'\n\
                     [jobs.show]\nimage = 'py'\nrun = ['python', '-c', 'import pebble; print(pebble.VERSION)']\n\
                     [jobs.hold]\nimage = 'py'\nrun = 'echo held; exec sleep 600'\n";

fn world() -> World {
    let world = World::new().with_host_tools().file("accel.toml", IMAGE).file("wheels/.keep", "");
    let path = world.path("wheels/pebble-1.0-py3-none-any.whl");
    let mut wheel = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let info = "pebble-1.0.dist-info";
    for (name, contents) in [
        ("pebble.py".to_owned(), "VERSION = '1.0'\n".to_owned()),
        (format!("{info}/METADATA"), "Metadata-Version: 2.1\nName: pebble\nVersion: 1.0\n".to_owned()),
        (
            format!("{info}/WHEEL"),
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_owned(),
        ),
        (format!("{info}/RECORD"), format!("pebble.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")),
    ] {
        wheel.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        wheel.write_all(contents.as_bytes()).unwrap();
    }
    wheel.finish().unwrap();
    world
}

/// uv has to come from the package index where it is not on PATH.
fn built(world: &World) -> bool {
    let build = world.accel(["image", "build"]).run();
    if build.status.success() {
        build.stdout("").stderr_has("1 image ready");
        return true;
    }
    let text = build.stderr_text();
    assert!(text.contains("uv") && text.contains("pypi"), "{build:?}");
    false
}

#[test]
fn an_image_is_built_listed_used_and_pruned() {
    let world = world();
    world.accel(["image", "ls"]).run().code(0).stdout("").stderr_has("no environments yet");
    if !built(&world) {
        println!("skipped: no uv here, and the package index is out of reach");
        return;
    }
    world.accel(["run", "show"]).run().code(0).stdout("1.0\n");
    let list = world.accel(["image", "ls"]).run();
    list.code(0).stdout_has("py").stdout_has("1 package");
    assert_eq!(list.stdout_text().lines().count(), 1);
    let json = world.accel(["image", "ls", "--json"]).run().json();
    let environment = &json[0];
    assert_eq!((&environment["image"], &environment["complete"]), (&"py".into(), &true.into()), "{json}");
    assert!(environment["size_bytes"].as_u64().unwrap() > 0);
    assert!(std::path::Path::new(environment["path"].as_str().unwrap()).is_dir());

    // What this project needs stays, unless everything is to go.
    world.accel(["image", "prune"]).run().code(0).stdout("");
    world.accel(["image", "prune", "--all", "--dry-run"]).run().code(0).stdout_has("would remove");
    assert_eq!(world.accel(["image", "ls"]).run().stdout_text().lines().count(), 1);

    // One in use stays in any case.
    let mut holder = world.accel(["run", "hold"]).spawn();
    holder.wait_for_stdout("held\n");
    world.accel(["image", "prune", "--all"]).run().code(0).stdout_has("in use, kept:");
    holder.signal(crate::world::Signal::INT);
    holder.finish().code(130);

    world.accel(["image", "prune", "--all"]).run().code(0).stdout_has("removed").stderr_has("freed");
    world.accel(["image", "ls"]).run().code(0).stdout("");
}

#[test]
fn a_wrong_name_and_an_image_without_packages() {
    let world = world();
    world.accel(["image", "build", "pyy"]).run().code(2).stderr_has("did you mean `py`?");
    world.write("accel.toml", "version = 1\n[jobs.a]\nrun = 'true'\n");
    world.accel(["image", "build"]).run().code(0).stderr_has("no image of these needs an environment");
}
