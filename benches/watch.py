#!/usr/bin/env python3
"""Measures the time from a file write to the start of the command, for accel watch beside others, in one run.

    cargo build --release && python3 benches/watch.py [--files 1000 100000] [--saves 50] [--accel PATH] [--json FILE]

entr, watchexec and task take part where they are on PATH (Debian: apt-get install entr; cargo install watchexec-cli;
PyPI: go-task-bin). The command is a tiny Rust program, compiled here, that writes the monotonic clock. Every tool
watches the same tree of empty files, a hundred to a folder, and runs the command after each save of one file. For accel
the seconds until it is ready, its memory and the processor time that it takes while nothing happens are printed too.
Absolute figures are of this machine on this day: compare the rows of one run.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IDLE_SECONDS = 10
STAMP = """
use std::io::Write;
fn main() {
    let mut now = [0i64; 2];
    extern "C" { fn clock_gettime(clock: i32, time: *mut i64) -> i32; }
    unsafe { clock_gettime(1, now.as_mut_ptr()); }
    let mut log = std::fs::OpenOptions::new().append(true).create(true)
        .open(std::env::args().nth(1).unwrap()).unwrap();
    writeln!(log, "{}", now[0] * 1_000_000_000 + now[1]).unwrap();
}
"""


def compiled(folder):
    source = folder / "stamp.rs"
    source.write_text(STAMP)
    subprocess.run(["rustc", "-O", "-o", folder / "stamp", source], check=True)
    return folder / "stamp"


def make_tree(folder, count):
    for number in range(count):
        path = folder / f"d{number // 10000}" / f"e{number // 100}" / f"f{number}"
        if number % 100 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder / "d0" / "e0" / "f0"


def tools(accel, tree, stamp, log):
    command = f"{stamp} {log}"
    config = f'version = 1\n[jobs.stamp]\nrun = ["{stamp}", "{log}"]\n'
    (tree / "accel.toml").write_text(config)
    (tree / "zero.toml").write_text(config + 'watch.debounce = "0"\n')
    (tree / "Taskfile.yml").write_text(
        f"version: '3'\ninterval: 50ms\ntasks:\n  stamp:\n    sources: ['d0/**/*']\n    cmds: ['{command}']\n"
    )
    yield "accel", [accel, "-q", "watch", "stamp"], None
    yield "accel, debounce 0", [accel, "-q", "-c", "zero.toml", "watch", "stamp"], None
    if shutil.which("watchexec"):
        yield "watchexec", ["watchexec", "-n", "--", str(stamp), str(log)], None
        yield "watchexec, debounce 0", ["watchexec", "-n", "-d", "0", "--", str(stamp), str(log)], None
    if shutil.which("entr"):
        names = subprocess.run(["find", "d0", "-type", "f"], cwd=tree, capture_output=True, text=True).stdout
        yield "entr", ["entr", "-n", str(stamp), str(log)], names
    if shutil.which("task"):
        yield "task", ["task", "--watch", "--silent", "stamp"], None


def lines(log):
    return log.read_text().split() if log.exists() else []


def wait_for(log, count, seconds=60):
    end = time.monotonic() + seconds
    while len(lines(log)) < count:
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mebibytes(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure(name, command, names, tree, saved, log, saves):
    log.unlink(missing_ok=True)
    environment = {**os.environ, "XDG_STATE_HOME": str(log.parent / "state"), "XDG_CACHE_HOME": str(log.parent / "cache")}
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdin=subprocess.PIPE if names else subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )
    if names:
        process.stdin.write(names)
        process.stdin.close()
    result = {"tool": name}
    if not wait_for(log, 1):
        result["problem"] = "never ran"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return result
    result["ready_s"] = round(time.monotonic() - began, 3)
    time.sleep(1)
    taken = []
    for number in range(saves):
        before = len(lines(log))
        start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        saved.write_text(str(number))
        if wait_for(log, before + 1, 10):
            taken.append((int(lines(log)[before]) - start) / 1e6)
        time.sleep(0.15)
    if name == "accel":
        before = processor_seconds(process.pid)
        time.sleep(IDLE_SECONDS)
        result["idle_percent"] = round(100 * (processor_seconds(process.pid) - before) / IDLE_SECONDS, 3)
        result["memory_mib"] = round(peak_mebibytes(process.pid), 1)
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    result["missed"] = saves - len(taken)
    if taken:
        result["median_ms"] = round(statistics.median(taken), 2)
        result["p90_ms"] = round(sorted(taken)[len(taken) * 9 // 10], 2)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--saves", type=int, default=50)
    parser.add_argument("--accel", default=str(ROOT / "target" / "release" / "accel"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    accel = str(Path(arguments.accel).resolve())
    if not Path(accel).exists():
        sys.exit(f"{accel} is not there: cargo build --release")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        stamp, log = compiled(folder), folder / "log"
        for count in arguments.files:
            tree = folder / f"tree-{count}"
            tree.mkdir()
            saved = make_tree(tree, count)
            for name, command, names in tools(accel, tree, stamp, log):
                result = {"files": count, **measure(name, command, names, tree, saved, log, arguments.saves)}
                print(json.dumps(result), flush=True)
                results.append(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
