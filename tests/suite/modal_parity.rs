//! The same definition by accel.toml and by the official SDK, each through its own front door, asks Modal for the
//! same image layers with the same files.

use std::collections::BTreeSet;
use std::fs;

use crate::fake_modal::FakeModal;
use crate::official_sdk::{self, Program};
use crate::world::World;

/// Files that both sides find where they run.
const FILES: &[(&str, &str)] = &[
    ("requirements.txt", "numpy==2.2.0\npandas>=2\n"),
    ("tools/run.sh", "#!/bin/sh\n"),
    ("tools/deep/data.txt", "data\n"),
    ("Dockerfile", "FROM python:3.12-slim\nCOPY tools /tools\nRUN true\n"),
];

/// An image as a table of accel.toml, and as an expression of Python.
const SAME: &[(&str, &str)] = &[
    ("python = '3.12'", "modal.Image.debian_slim('3.12')"),
    (
        "python = '3.11'\napt = ['git', 'ffmpeg']\npip = ['pytest>=8', 'torch==2.6.*']",
        "modal.Image.debian_slim('3.11').apt_install('git', 'ffmpeg').uv_pip_install('pytest>=8', 'torch==2.6.*')",
    ),
    (
        "python = '3.12'\nlayers = [
            { requirements = ['requirements.txt'], installer = 'pip' },
            { env = { A = 'b c', Z = '' } },
            { workdir = '/srv/app' },
            { run = ['echo one', 'echo two'] },
        ]",
        "modal.Image.debian_slim('3.12').pip_install_from_requirements('requirements.txt')\
         .env({'A': 'b c', 'Z': ''}).workdir('/srv/app').run_commands('echo one', 'echo two')",
    ),
    (
        "base = 'nvidia/cuda:12.8.0-devel-ubuntu22.04'\npython = '3.12'\nadd_python = true\npip = ['triton']",
        "modal.Image.from_registry('nvidia/cuda:12.8.0-devel-ubuntu22.04', add_python='3.12').uv_pip_install('triton')",
    ),
    (
        "python = '3.12'\ncopy = [{ from = 'tools', to = '/opt/tools' }]",
        "modal.Image.debian_slim('3.12').add_local_dir('tools', '/opt/tools', copy=True)",
    ),
    ("dockerfile = 'Dockerfile'", "modal.Image.from_dockerfile('Dockerfile')"),
];

fn sdk_requests(builder: &str, expression: &str) -> Option<BTreeSet<String>> {
    let modal = FakeModal::serve().lenient();
    modal.state().builder = builder.into();
    let program = Program::new(&modal)?;
    for (path, text) in FILES {
        let path = program.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    program.run(&format!(
        "import modal\n{expression}.build(modal.App.lookup('parity', create_if_missing=True))\n"
    ));
    Some(official_sdk::image_requests(&modal))
}

fn accel_requests(builder: &str, table: &str) -> BTreeSet<String> {
    let modal = FakeModal::serve();
    modal.state().builder = builder.into();
    let config = format!(
        "version = 1\n[images.it]\n{table}\n[jobs.it]\nimage = 'it'\nroute = 'modal'\nrun = ['true']\n"
    );
    let mut world = World::new().file("accel.toml", config);
    for (path, text) in FILES {
        world = world.file(path, text);
    }
    for (name, value) in modal.variables() {
        world = world.env(name, value);
    }
    world.accel(["run", "it"]).run().code(0);
    official_sdk::image_requests(&modal)
}

#[test]
fn both_sides_ask_for_the_same_layers() {
    for builder in ["2024.10", "2025.06", "2026.10"] {
        for (table, expression) in SAME {
            let Some(official) = sdk_requests(builder, expression) else { return };
            let ours = accel_requests(builder, table);
            assert!(!official.is_empty());
            let different: Vec<_> = official.symmetric_difference(&ours).collect();
            assert!(
                different.is_empty(),
                "{builder}: only one side of\n{table}\n{expression}\nasks {different:#?}"
            );
        }
    }
}
