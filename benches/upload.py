#!/usr/bin/env python3
"""Measures running `true` on Modal with a working tree, for accel beside the official SDK, in one run.

    cargo build --release --bin accel --example fake_modal
    python3 -m venv /tmp/sdk && /tmp/sdk/bin/pip install modal
    python3 benches/upload.py --python /tmp/sdk/bin/python [--files 1000 10000 100000]
        [--distance 40] [--json FILE]

The server is the tests' own Modal on this machine, begun anew for each tree and client: what is measured are the
clients, and what the server does on the same cores. Three runs each: the first, where all contents are missing; one
where nothing changed; one after a change of one file. Seconds are those of the whole process, memory is its peak.
Planning is `accel sync --plan`: the walk without the hashing. Files hold 4 KB each. Absolute figures are of this
machine on this day: compare the rows of one run. With `--distance 40` everything takes 40 ms to the server and as long
back, which is what a remote service is like; a tree of one file (`--files 1`) then shows what the round trips cost.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_SIZE = 4096
CONFIG = "version = 1\n[project]\nname = 'upload'\n[sync]\nmax_size = '2GB'\n[jobs.look]\nrun = {}\n"
NEEDED = {"MODAL_SERVER_URL", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"}
SDK = """
import sys, modal
app = modal.App.lookup('upload', create_if_missing=True)
image = modal.Image.debian_slim().add_local_dir(sys.argv[1], '/workspace')
sandbox = modal.Sandbox.create(app=app, image=image, timeout=600)
process = sandbox.exec('true')
assert process.wait() == 0
sandbox.terminate()
"""


def make_tree(folder, count, job=("true",), distinct=None):
    """Of so many different contents; without `distinct` all differ."""
    for number in range(count):
        path = folder / f"d{number // 10000}" / f"e{number // 100}" / f"f{number}"
        if number % 100 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{number % (distinct or count)}\n".encode().ljust(FILE_SIZE, b"."))
    (folder / "accel.toml").write_text(CONFIG.format(json.dumps(job)))
    return folder / "d0" / "e0" / "f0"


class Server:
    """The tests' Modal, and what a client has to be told."""

    def __init__(self, program, distance):
        command = [program, "--count-calls", "--distance", str(distance)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.variables = {}
        while not NEEDED <= self.variables.keys():
            name, found, value = self.process.stdout.readline().strip().removeprefix("export ").partition("=")
            if not found:
                sys.exit(f"{program} did not say how to reach it")
            self.variables[name] = value

    def __enter__(self):
        return self

    def sequential_calls(self):
        """How many calls followed one another since this was asked before."""
        self.process.stdin.write("calls\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def run(command, folder, variables):
    """Seconds and MiB of one process, which has to succeed."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status != 0:
        sys.exit(f"{command[0]} failed: {said.decode(errors='replace')[-2000:]}")
    return {"seconds": round(seconds, 3), "mib": round(usage.ru_maxrss / 1024)}


def measure(name, command, tree, changed, place, home):
    with Server(*place) as server:
        variables = {"PATH": os.environ["PATH"], "HOME": str(home), **server.variables}
        rows = {"first": run(command, tree, variables), "unchanged": run(command, tree, variables)}
        changed.write_bytes(os.urandom(FILE_SIZE))
        rows["one changed"] = run(command, tree, variables)
    return [{"client": name, "run": which, **row} for which, row in rows.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--python", help="an interpreter that has the package modal")
    parser.add_argument("--programs", type=Path, default=ROOT / "target" / "release")
    parser.add_argument("--distance", type=int, default=0, help="milliseconds to the server, each way")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    accel, server = (arguments.programs.resolve() / name for name in ["accel", "examples/fake_modal"])
    for program in [accel, server]:
        if not program.exists():
            sys.exit(f"{program} is not there: cargo build --release --bin accel --example fake_modal")
    place, results = (server, arguments.distance), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for count in arguments.files:
            tree, homes = folder / f"tree-{count}", [folder / f"home-{count}-{client}" for client in "as"]
            for made in [tree, *homes]:
                made.mkdir()
            changed = make_tree(tree, count)
            environment = {"PATH": os.environ["PATH"], "HOME": str(homes[0])}
            rows = [{"client": "accel", "run": "plan", **run([accel, "sync", "--plan"], tree, environment)}]
            rows += measure("accel", [accel, "-q", "run", "look", "--on", "modal"], tree, changed, place, homes[0])
            if arguments.python:
                command = [arguments.python, "-c", SDK, str(tree)]
                rows += measure("modal (Python)", command, tree, changed, place, homes[1])
            for row in rows:
                result = {"files": count, "distance": arguments.distance, **row}
                print(json.dumps(result), flush=True)
                results.append(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
