#!/usr/bin/env python3
"""Records what jobs take here and on the tests' Modal, for the bench of `route = "auto"`.

    cargo build --release --bin accel --example fake_modal
    python3 benches/record_traces.py > benches/auto_traces.json

Each job runs in both places by turns, with a change of the tree before each run, so that something has to be sent.
The server is on this machine and 40 ms away, so a command takes as long there as here, but for the jobs whose name
ends in `busy`: their runs here share the machine with two endless loops, as on a laptop that does other things.
What is kept of a run are the phases of `accel history --json`, in milliseconds, and the bytes sent.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTANCE = "40"
COUNT = "import hashlib; [hashlib.sha256(bytes(1 << 20)).digest() for _ in range({})]"
JOBS = {
    "trivial": ["true"],
    "short": ["python3", "-c", COUNT.format(300)],
    "short-busy": ["python3", "-c", COUNT.format(300)],
    "long-busy": ["python3", "-c", COUNT.format(1200)],
    "unpack": ["sh", "-c", "tar -cf - data | gzip | wc -c"],
}
PHASES = ["sync", "image", "queue", "start", "run", "outputs"]


def configuration():
    jobs = "".join(f"[jobs.{name}]\nrun = {json.dumps(command)}\n" for name, command in JOBS.items())
    return f'version = 1\n[project]\nname = "traces"\n{jobs}'


def serve(program):
    process = subprocess.Popen([program, "--distance", DISTANCE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines = [process.stdout.readline().strip().removeprefix("export ") for _ in range(3)]
    return process, dict(line.split("=", 1) for line in lines)


def run(accel, job, place, project, environment):
    busy = place == "local" and job.endswith("busy")
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 if busy else 0)]
    try:
        subprocess.run([accel, "-q", "run", job, "--on", place], cwd=project, env=environment, check=True,
                       stdout=subprocess.DEVNULL)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def recorded(accel, job, project, environment):
    command = [accel, "history", job, "--json", "-n", "1000"]
    text = subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.PIPE).stdout
    runs = json.loads(text)["runs"]
    trace = {"job": job, "local": [], "modal": []}
    for entry in reversed(runs):
        phases = [entry["phases"].get(f"{phase}_ms") or 0 for phase in PHASES]
        trace[entry["place"]].append([*phases, entry.get("bytes_sent") or 0])
    return trace


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--programs", type=Path, default=ROOT / "target" / "release")
    arguments = parser.parse_args()
    accel, server = (arguments.programs.resolve() / name for name in ["accel", "examples/fake_modal"])
    with tempfile.TemporaryDirectory() as folder:
        project, home = Path(folder) / "project", Path(folder) / "home"
        home.mkdir()
        (project / "data").mkdir(parents=True)
        (project / "accel.toml").write_text(configuration())
        for number in range(50):
            (project / "data" / str(number)).write_bytes(os.urandom(20_000))
        process, variables = serve(server)
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), **variables}
        try:
            for _ in range(arguments.runs):
                for job in JOBS:
                    for place in ["local", "modal"]:
                        (project / "data" / "0").write_bytes(os.urandom(20_000))
                        run(accel, job, place, project, environment)
            traces = [recorded(accel, job, project, environment) for job in JOBS]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    lines = ",\n".join(json.dumps(trace, separators=(",", ":")) for trace in traces)
    print(f'{{"fields": {json.dumps([*PHASES, "bytes_sent"])}, "traces": [\n{lines}\n]}}')


if __name__ == "__main__":
    main()
