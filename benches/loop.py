#!/usr/bin/env python3
"""Measures a loop on Modal, from a file write to the command and its verdict: accel watch beside doing it by hand with
the official SDK in a sandbox that is up already, and beside accel watch on this machine, in one run.

    cargo build --release --bin accel --example fake_modal
    python3 -m venv /tmp/sdk && /tmp/sdk/bin/pip install modal
    python3 benches/loop.py --python /tmp/sdk/bin/python [--files 1000 100000] [--saves 20] [--distance 40] [--json FILE]

The server is the tests' own Modal on this machine, 40 ms away each way, so a call is 80 ms. Files hold 4 KB each; every
save writes one of them. By hand means a program that holds the sandbox and is told of the save: it writes the file
there with one command, as the SDK's own file functions do, and runs another; or, quickest of all, one command that
takes the file on its standard input and goes on. Nobody watches the tree, hashes it or looks after it then, so its size
does not matter.

Milliseconds are medians from just before the write: `start` to the command's first instruction, `verdict` to the moment
at which the exit code is told, `hurried` to the start where the save comes with the verdict of the one before, so that
the sandbox is still being put in order. `calls` are those that followed one another up to the verdict, each begun
after the answer to another one had come back. Absolute figures are of this machine on this day: compare the rows of one
run.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from upload import FILE_SIZE, ROOT, Server, make_tree
from watch import compiled, lines, wait_for

PAUSE = 2  # until a sandbox with a large tree is in order
DISTINCT = 100  # contents, so that the first run does not send them all
BY_HAND = """
import sys, modal
stamp, log, in_one = sys.argv[1], sys.argv[2], len(sys.argv) > 3
app = modal.App.lookup('loop', create_if_missing=True)
sandbox = modal.Sandbox.create(app=app, image=modal.Image.debian_slim(), timeout=3600)

def feed(contents, *command):
    process = sandbox.exec(*command)
    process.stdin.write(contents)
    process.stdin.write_eof()
    process.stdin.drain()
    assert process.wait() == 0

print('ready', flush=True)
for line in sys.stdin:
    contents = open(line.strip(), 'rb').read()
    if in_one:
        feed(contents, 'sh', '-c', 'mkdir -p /workspace && cat >/workspace/f0 && exec "$@"', 'sh', stamp, log)
    else:
        feed(contents, 'sh', '-c', 'mkdir -p /workspace && cat >/workspace/f0')
        assert sandbox.exec(stamp, log).wait() == 0
    print('ready', flush=True)
sandbox.terminate()
"""


class Listener:
    """Lines that a process prints, each with the moment at which it came."""

    def __init__(self, process):
        self.heard, self.condition = [], threading.Condition()
        self.thread = threading.Thread(target=self.listen, args=[process.stdout], daemon=True)
        self.thread.start()

    def listen(self, stream):
        for line in stream:
            with self.condition:
                self.heard.append((time.monotonic_ns(), line))
                self.condition.notify()

    def wait_for(self, text, since, seconds=240):
        """When a line with this text came, of those from number `since` on."""
        end = time.monotonic() + seconds
        with self.condition:
            while True:
                for moment, line in self.heard[since:]:
                    if text in line:
                        return moment
                if not self.thread.is_alive() or not self.condition.wait(max(end - time.monotonic(), 0)):
                    sys.exit(f"never said {text}: {[line for _, line in self.heard[-20:]]}")


class Loop:
    """A process that runs the command after each save; `verdict` is part of what it prints then, `ready` before."""

    def __init__(self, command, tree, variables, verdict, ready, told):
        self.verdict, self.told = verdict, told
        self.process = subprocess.Popen(
            command, cwd=tree, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, start_new_session=True,
        )
        self.listener = Listener(self.process)
        self.listener.wait_for(ready, 0)

    def save(self, path, log):
        """Nanoseconds to the start and to the verdict."""
        heard, started = len(self.listener.heard), len(lines(log))
        contents = os.urandom(FILE_SIZE)
        begin = time.monotonic_ns()
        path.write_bytes(contents)
        if self.told:
            self.process.stdin.write(f"{path}\n")
            self.process.stdin.flush()
        verdict = self.listener.wait_for(self.verdict, heard)
        if not wait_for(log, started + 1):
            sys.exit("the command never ran")
        start = int(lines(log)[started])
        return start - begin, verdict - begin

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def measure(loop, server, tree_file, log, saves):
    taken, calls, hurried = [], [], []
    for _ in range(saves):
        time.sleep(PAUSE)
        if server:
            server.sequential_calls()
        taken.append(loop.save(tree_file, log))
        calls.append(server.sequential_calls() if server else 0)
    for _ in range(saves):
        hurried.append(loop.save(tree_file, log)[0])
    middle = lambda values: round(statistics.median(values) / 1e6, 1)
    start, verdict = map(middle, zip(*taken))
    return {
        "start_ms": start, "verdict_ms": verdict, "hurried_ms": middle(hurried[1:]),
        "calls": statistics.median(calls),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--saves", type=int, default=20)
    parser.add_argument("--python", help="an interpreter that has the package modal")
    parser.add_argument("--programs", type=Path, default=ROOT / "target" / "release")
    parser.add_argument("--distance", type=int, default=40, help="milliseconds to the server, each way")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    accel, program = (arguments.programs.resolve() / name for name in ["accel", "examples/fake_modal"])
    for needed in [accel, program]:
        if not needed.exists():
            sys.exit(f"{needed} is not there: cargo build --release --bin accel --example fake_modal")
    results = []

    def row(name, files, figures):
        results.append({"loop": name, "files": files, "distance": arguments.distance, **figures})
        print(json.dumps(results[-1]), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        stamp, log = compiled(folder), folder / "log"
        surroundings = {"PATH": os.environ["PATH"], "HOME": str(folder / "home")}
        (folder / "home").mkdir()
        if arguments.python:
            for name, extra in [("by hand: write, then run", []), ("by hand: write and run in one", ["one"])]:
                with Server(program, arguments.distance) as server:
                    command = [arguments.python, "-c", BY_HAND, str(stamp), str(log), *extra]
                    loop = Loop(command, folder, {**surroundings, **server.variables}, "ready", "ready", told=True)
                    row(name, 1, measure(loop, server, folder / "f0", log, arguments.saves))
                    loop.end()
        for files in arguments.files:
            tree = folder / f"tree-{files}"
            tree.mkdir()
            saved = make_tree(tree, files, job=[str(stamp), str(log)], distinct=DISTINCT)
            for name, place in [("accel watch on Modal", "modal"), ("accel watch here", "local")]:
                with Server(program, arguments.distance) as server:
                    command = [accel, "--json", "watch", "look", "--on", place]
                    variables = {**surroundings, **server.variables}
                    loop = Loop(command, tree, variables, '"job_finished"', '"watch_waiting"', told=False)
                    row(name, files, measure(loop, server if place == "modal" else None, saved, log, arguments.saves))
                    loop.end()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
