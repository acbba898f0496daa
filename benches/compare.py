#!/usr/bin/env python3
"""Measures accel beside just, task and make, in one run on one machine.

    cargo build --release && python3 benches/compare.py [--only NAME] [--json FILE]

Needs hyperfine on PATH (Debian: apt-get install hyperfine). just and task are installed from PyPI into a
throw-away environment unless they are on PATH; make is taken from PATH. Absolute figures are of this machine on
this day: compare the columns of one run. The floor is what the kernel and the work itself cost, measured with
tiny Rust programs that this script compiles.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ACCEL = ROOT / "target" / "release" / "accel"

SPAWNING_HELLO = 'fn main() { std::process::Command::new("/bin/true").status().expect("spawn"); println!("hello"); }'
TWO_WORKERS = """
use std::sync::atomic::{AtomicUsize, Ordering};
static NEXT: AtomicUsize = AtomicUsize::new(0);
fn main() {
    let count: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let work = move || while NEXT.fetch_add(1, Ordering::Relaxed) < count {
        std::process::Command::new("/bin/true").status().expect("spawn");
    };
    let other = std::thread::spawn(work);
    work();
    other.join().unwrap();
}
"""
ONE_PIPE_COPY = """
use std::io::{Read, Write};
fn main() {
    let mut child = std::process::Command::new("cat").arg(std::env::args().nth(1).unwrap())
        .stdout(std::process::Stdio::piped()).spawn().expect("spawn");
    let (mut from, mut to, mut buffer) = (child.stdout.take().unwrap(), std::io::stdout().lock(), vec![0; 65536]);
    loop {
        let read = from.read(&mut buffer).unwrap();
        if read == 0 { break }
        to.write_all(&buffer[..read]).unwrap();
    }
    child.wait().unwrap();
}
"""
PREFIX_EVERY_LINE = """
use std::io::{BufRead, BufReader, BufWriter, Write};
fn main() {
    let mut child = std::process::Command::new("cat").arg(std::env::args().nth(1).unwrap())
        .stdout(std::process::Stdio::piped()).spawn().expect("spawn");
    let mut from = BufReader::with_capacity(65536, child.stdout.take().unwrap());
    let mut to = BufWriter::with_capacity(65536, std::io::stdout().lock());
    let mut line = Vec::new();
    while from.read_until(b'\\n', &mut line).unwrap() > 0 {
        to.write_all(b"job | ").unwrap();
        to.write_all(&line).unwrap();
        line.clear();
    }
    child.wait().unwrap();
}
"""


class Rig:
    def __init__(self, folder):
        self.folder = folder
        self.environment = dict(
            os.environ, HOME=str(folder / "home"), XDG_CACHE_HOME=str(folder / "cache"), XDG_STATE_HOME=str(folder / "state")
        )
        (folder / "home").mkdir()
        self.peers = self.find_peers()
        self.results = []

    def find_peers(self):
        peers = {name: shutil.which(name) for name in ("just", "task", "make")}
        if not (peers["just"] and peers["task"]):
            venv = self.folder / "peers"
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([venv / "bin" / "pip", "install", "-q", "rust-just", "go-task-bin"], check=True)
            for name in ("just", "task"):
                peers[name] = peers[name] or str(venv / "bin" / name)
        return {name: path for name, path in peers.items() if path}

    def compile(self, name, source):
        program = self.folder / name
        program.with_suffix(".rs").write_text(source)
        subprocess.run(["rustc", "-O", "-o", program, program.with_suffix(".rs")], check=True)
        return str(program)

    def project(self, name, files):
        folder = self.folder / name
        folder.mkdir()
        for path, text in files.items():
            (folder / path).write_text(text)
        return folder

    def measure(self, title, folder, commands, runs=20):
        """Times each command with hyperfine; prints and keeps one row per command."""
        print(f"\n{title}", flush=True)
        for label, command in commands.items():
            export = self.folder / "result.json"
            hyperfine = ["hyperfine", "-N", "--style=none", "--warmup=2", f"--runs={runs}", f"--export-json={export}", "--output=null", command]
            done = subprocess.run(hyperfine, cwd=folder, env=self.environment, capture_output=True, text=True)
            if done.returncode != 0:
                print(f"  {label:<28} failed: {done.stderr.strip().splitlines()[-1:]}")
                continue
            times = json.loads(export.read_text())["results"][0]["times"]
            memory = self.peak_memory(command, folder)
            median = statistics.median(times) * 1000
            self.results.append({"title": title, "label": label, "median_ms": median, "peak_mib": memory})
            print(f"  {label:<28} {median:9.1f} ms   {memory:6.1f} MiB", flush=True)

    def peak_memory(self, command, folder):
        """Peak resident size in MiB of the command and what it waited for, whichever is largest."""
        code = (
            "import resource, shlex, subprocess, sys\n"
            "subprocess.run(shlex.split(sys.argv[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
        )
        done = subprocess.run([sys.executable, "-c", code, command], cwd=folder, env=self.environment, capture_output=True, text=True)
        return float(done.stdout)


def job_files(count, needs=False):
    """The same `count` jobs for each tool; `needs` adds one job that needs all of them."""
    accel, justfile, makefile = ["version = 1\n"], [], []
    taskfile = ["version: '3'\nsilent: true\ntasks:\n"]
    for number in range(count):
        accel.append(f'[jobs.job-{number}]\ndesc = "job number {number}"\nrun = ["true"]\n\n')
        justfile.append(f"# job number {number}\njob-{number}:\n    @true\n\n")
        taskfile.append(f"  job-{number}:\n    desc: job number {number}\n    cmds: ['true']\n")
        makefile.append(f".PHONY: job-{number}\njob-{number}:\n\t@/bin/true\n\n")
    if needs:
        names = [f"job-{number}" for number in range(count)]
        quoted = ", ".join(f'"{name}"' for name in names)
        accel.append(f'[jobs.all]\nrun = ["true"]\nneeds = [{quoted}]\n')
        justfile.append("[parallel]\nall: " + " ".join(names) + "\n    @true\n")
        taskfile.append(f"  all:\n    deps: [{', '.join(names)}]\n    cmds: ['true']\n")
        makefile.append("all: " + " ".join(names) + "\n\t@/bin/true\n")
    return {
        "accel.toml": "".join(accel),
        "justfile": "".join(justfile),
        "Taskfile.yml": "".join(taskfile),
        "Makefile": "".join(makefile),
    }


def commands(rig, accel, just, task, make):
    found = {"accel": f"{ACCEL} {accel}"}
    for name, arguments in (("just", just), ("task", task), ("make", make)):
        if arguments and name in rig.peers:
            found[name] = f"{rig.peers[name]} {arguments}"
    return found


def bench_start(rig):
    folder = rig.project("start", job_files(1))
    floor = {"floor: hello that spawns": rig.compile("hello", SPAWNING_HELLO)}
    rig.measure("1, 2  start-up: one host job `true`", folder, floor | commands(rig, "run job-0", "job-0", "job-0", "job-0"), runs=200)


def bench_list(rig):
    for count in (1000, 5000):
        folder = rig.project(f"list-{count}", job_files(count))
        rig.measure(f"3  list {count:,} jobs", folder, commands(rig, "list", "--list", "--list-all", None))
        rig.measure(f"3  plan one of {count:,} jobs", folder, {"accel": f"{ACCEL} plan job-{count - 1}"})
        one = f"job-{count - 1}"
        rig.measure(f"4  run one of {count:,} jobs", folder, commands(rig, f"run {one}", one, one, one))


def bench_graph(rig):
    floor = rig.compile("two-workers", TWO_WORKERS)
    for count in (1000, 5000):
        folder = rig.project(f"graph-{count}", job_files(count, needs=True))
        measured = {"floor: two spawning workers": f"{floor} {count}"}
        measured |= commands(rig, "run -j2 all", "all", "-C 2 all", "-j2 all")
        rig.measure(f"8  graph of {count:,} jobs, -j2", folder, measured, runs=5)


def bench_output(rig):
    folder = rig.project("output", {})
    data = folder / "data.txt"
    line = b"the quick brown fox jumps over the lazy dog, again and again and again and again\n"
    with data.open("wb") as file:
        for _ in range(200_000_000 // len(line) // 1000):
            file.write(line * 1000)
    jobs = {
        "accel.toml": 'version = 1\n[jobs.cat]\nrun = ["cat", "data.txt"]\n[jobs.other]\nrun = ["true"]\n[jobs.both]\nneeds = ["cat", "other"]\nrun = ["true"]\n',
        "justfile": "cat:\n    @cat data.txt\n",
        "Taskfile.yml": "version: '3'\nsilent: true\noutput: prefixed\ntasks:\n  cat:\n    cmds: [cat data.txt]\n",
        "Makefile": "cat:\n\t@cat data.txt\n.PHONY: cat\n",
    }
    for path, text in jobs.items():
        (folder / path).write_text(text)
    copy = {"floor: copy through one pipe": f"{rig.compile('copy', ONE_PIPE_COPY)} data.txt"}
    rig.measure("6  200 MB of output, one job", folder, copy | commands(rig, "run cat", "cat", None, "cat"), runs=5)
    prefix = {"floor: prefix every line": f"{rig.compile('prefix', PREFIX_EVERY_LINE)} data.txt"}
    rig.measure("7  the same with prefixes", folder, prefix | commands(rig, "run both", None, "cat", None), runs=3)


BENCHES = {"start": bench_start, "list": bench_list, "graph": bench_graph, "output": bench_output}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=BENCHES, action="append", help="one group; may be given again")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if not ACCEL.exists():
        sys.exit("build first: cargo build --release")
    if not shutil.which("hyperfine"):
        sys.exit("hyperfine is missing: apt-get install hyperfine, or cargo install hyperfine")
    with tempfile.TemporaryDirectory(prefix="accel-bench-") as folder:
        rig = Rig(Path(folder))
        for name in options.only or BENCHES:
            BENCHES[name](rig)
    if options.json:
        options.json.write_text(json.dumps(rig.results, indent=2))


if __name__ == "__main__":
    main()
