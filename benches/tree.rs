//! Measures planning what travels: walk, hash cold, hash warm, beside their floors, in one run.
//!
//! ```text
//! cargo bench --bench tree [-- --files 1000,10000,100000] [--python PYTHON]
//! ```
//!
//! The floors: a bare walk with one lstat per path (two ways), and reading plus SHA-256 of a known list of files by all cores.
//! With `--python`, an interpreter that has the package `modal`: the official SDK's choice and hashing of the same folder.
//! Files hold 4 KB. Absolute figures are of this machine on this day: compare the lines of one run. Medians.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program prints, and fails by panicking"
)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use accel::base::size::Bytes;
use accel::plan::spec::SyncSet;
use accel::workspace::tree::{HashOptions, Hashed, Rules, hash, scan};
use sha2::{Digest as _, Sha256};

const FILE_SIZE: usize = 4096;
const FILES_PER_FOLDER: usize = 100;
const ROUNDS: usize = 15;

/// What the SDK does before it asks the server: choose the files and hash each, in its pool of threads.
const SDK: &str = "
import asyncio, sys, time
from modal.mount import _MountDir
from modal._utils.blob_utils import FileUploadSpec
from pathlib import Path, PurePosixPath
import concurrent.futures, modal.mount as m
root = Path(sys.argv[1])
entry = m._MountDir(local_dir=root, remote_path=PurePosixPath('/r'), ignore=lambda p: False, recursive=True)
from modal._utils.blob_utils import get_file_upload_spec_from_path
best = []
for _ in range(3):
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        futures = [pool.submit(get_file_upload_spec_from_path, p, r) for p, r in entry.get_files_to_upload()]
        count = sum(1 for f in futures if f.result())
    best.append(time.perf_counter() - start)
print(sorted(best)[1], count)
";

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut sizes, mut python) = ("1000,10000,100000".to_owned(), None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--files" => sizes = arguments.next().unwrap(),
            "--python" => python = arguments.next(),
            other => panic!("unknown argument {other}"),
        }
    }
    for files in sizes.split(',') {
        measure(files.parse().unwrap(), python.as_deref());
    }
}

fn measure(files: usize, python: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tree");
    let cache = folder.path().join("cache");
    let paths = make(&root, files);
    println!("\n{files} files of {FILE_SIZE} bytes, {ROUNDS} rounds");

    plan(&root, Some(&cache));
    let forget = || drop(plan(&root, None));
    let remember = || assert_eq!(plan(&root, Some(&cache)).report.read_files, 0);
    let [walk_std, walk_crate, read, walk_accel, cold, warm] = medians([
        &|| bare_walk(&root),
        &|| ignore_walk(&root),
        &|| read_and_hash(&paths),
        &|| accel_scan(&root),
        &forget,
        &remember,
    ]);
    let floor = walk_std + read;

    let line = |what: &str, took: Duration, of: &[(&str, Duration)]| {
        let ratios: Vec<String> = of
            .iter()
            .map(|(name, floor)| format!("{:.2} × {name}", took.as_secs_f64() / floor.as_secs_f64()))
            .collect();
        println!("  {what:<44} {:>9.1} ms  {}", took.as_secs_f64() * 1e3, ratios.join(", "));
    };
    line("floor: stat walk, std, all cores", walk_std, &[]);
    line("floor: stat walk, ignore crate without rules", walk_crate, &[]);
    line("floor: walk, then read + SHA-256, all cores", floor, &[]);
    line("accel: scan", walk_accel, &[("std walk", walk_std), ("ignore walk", walk_crate)]);
    line("accel: scan + hash, cold", cold, &[("floor", floor)]);
    line("accel: scan + hash, nothing changed", warm, &[("std walk", walk_std), ("ignore walk", walk_crate)]);
    println!("  accel: peak memory of this process           {:>9.1} MiB", peak_memory());
    match python.map(|python| sdk(python, &root)) {
        Some(took) => {
            line("official SDK: choose and hash", took, &[("accel cold", cold), ("accel warm", warm)])
        }
        None => println!("  official SDK: not measured (--python, an interpreter with the package modal)"),
    }
}

fn make(root: &Path, files: usize) -> Vec<PathBuf> {
    let mut paths = Vec::with_capacity(files);
    for number in 0..files {
        let folder = number / FILES_PER_FOLDER;
        let folder = root.join(format!("package{}/module{folder}", folder / 10));
        if number % FILES_PER_FOLDER == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        let path = folder.join(format!("file{number}.py"));
        let mut contents = vec![b'#'; FILE_SIZE];
        contents[..8].copy_from_slice(&(number as u64).to_le_bytes());
        fs::write(&path, contents).unwrap();
        paths.push(path);
    }
    fs::write(root.join(".gitignore"), "*.log\nbuild/\n__pycache__/\n").unwrap();
    paths
}

/// In turns, so that whatever else the machine does hits all alike.
fn medians<const N: usize>(runs: [&dyn Fn(); N]) -> [Duration; N] {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..ROUNDS {
        for (run, times) in runs.iter().zip(&mut times) {
            let start = Instant::now();
            run();
            times.push(start.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort();
        times[ROUNDS / 2]
    })
}

fn rules() -> Rules {
    let sync =
        SyncSet { gitignore: true, include: Vec::new(), exclude: Vec::new(), max_size: Bytes(u64::MAX) };
    Rules::new(&sync, &[], None).unwrap()
}

fn accel_scan(root: &Path) {
    drop(scan(root, &rules(), &AtomicBool::new(false)).unwrap());
}

fn plan(root: &Path, cache: Option<&Path>) -> Hashed {
    let stop = AtomicBool::new(false);
    // As if long after the files were made, so that the second time knows them all.
    let now = SystemTime::now() + Duration::from_secs(3600);
    let found = scan(root, &rules(), &stop).unwrap();
    hash(root, found, &HashOptions { cache, now, stop: &stop }).unwrap()
}

/// Folders shared out between the cores, one lstat per path, nothing kept.
fn bare_walk(root: &Path) {
    let waiting = std::sync::Mutex::new(vec![root.to_owned()]);
    let unfinished = AtomicUsize::new(1);
    thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                while unfinished.load(Ordering::Acquire) > 0 {
                    let Some(folder) = waiting.lock().unwrap().pop() else {
                        thread::yield_now();
                        continue;
                    };
                    for entry in fs::read_dir(folder).unwrap() {
                        let entry = entry.unwrap();
                        if entry.metadata().unwrap().is_dir() {
                            unfinished.fetch_add(1, Ordering::AcqRel);
                            waiting.lock().unwrap().push(entry.path());
                        }
                    }
                    unfinished.fetch_sub(1, Ordering::AcqRel);
                }
            });
        }
    });
}

fn ignore_walk(root: &Path) {
    let walk = ignore::WalkBuilder::new(root).standard_filters(false).threads(cores()).build_parallel();
    walk.run(|| {
        Box::new(|entry| {
            entry.unwrap().metadata().unwrap();
            ignore::WalkState::Continue
        })
    });
}

fn read_and_hash(paths: &[PathBuf]) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 16];
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut file = fs::File::open(path).unwrap();
                    let mut hasher = Sha256::new();
                    loop {
                        let count = file.read(&mut buffer).unwrap();
                        if count == 0 {
                            break;
                        }
                        hasher.update(&buffer[..count]);
                    }
                    std::hint::black_box(hasher.finalize());
                }
            });
        }
    });
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// In MiB; of the largest tree so far.
fn peak_memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or_default() / 1024.0
}

fn sdk(python: &str, root: &Path) -> Duration {
    let output = Command::new(python).args(["-c", SDK]).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
}
