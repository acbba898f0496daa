//! `accel watch` under random changes: once they cease, the last run has seen exactly the tree that is there.
//!
//! `ACCEL_WATCH_SEEDS=100 cargo test --test suite watch_torture` tries that many seeds instead of two. A failure names
//! its seed; `ACCEL_WATCH_SEED=7` tries that one alone. `ACCEL_WATCH_SOAK=600` goes on for that many seconds instead of
//! two, in one watch whose memory, descriptors and watches have to stay as they are.
//!
//! Every change is to something new (contents, names, permissions), as a change that is undone before it was looked
//! at is documented not to be seen.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::until::happens;
use crate::world::{Signal, World};

const OPERATIONS: usize = 500;
const COMMITS: u64 = 6;
const TRACKED: usize = 100;

/// Lists names, permissions, link targets and checksums.
const LIST: &str = r"find . -name .git -prune -o \( -type f -o -type l \) -printf '%P %m %l\n' 2>/dev/null | LC_ALL=C sort
find . -name .git -prune -o -type f -exec cksum {} + 2>/dev/null | LC_ALL=C sort
";

fn config() -> String {
    format!(
        "version = 1\n[jobs.look]\nrun = '''\n\
         set +e +o pipefail\n\
         trap 'rmdir ../busy; exit 143' TERM\n\
         mkdir ../busy || echo overlap >> ../overlaps\n\
         echo run >> ../runs\n\
         {{ {LIST} }} > ../seen.new\n\
         mv ../seen.new ../seen\n\
         rmdir ../busy'''\n"
    )
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

struct Torture {
    world: World,
    random: Random,
    /// Makes every name, text and mode a new one.
    number: u64,
    commit: u64,
}

impl Torture {
    fn new(seed: u64) -> Self {
        Self::with_time(seed, Duration::ZERO)
    }

    fn with_time(seed: u64, more: Duration) -> Self {
        let world = World::new().with_time(more).file("accel.toml", config()).file("free/first", "0");
        let torture = Self { world, random: Random::new(seed), number: 0, commit: 0 };
        torture.git(&["init", "-q"]);
        for commit in 0..COMMITS {
            for file in 0..TRACKED {
                torture.world.write(format!("tracked/{}/{file}", file % 7), format!("{commit} {file}"));
            }
            torture.git(&["add", "tracked"]);
            torture.git(&["commit", "-q", "-m", "state"]);
            torture.git(&["tag", &format!("state-{commit}")]);
        }
        torture
    }

    fn git(&self, arguments: &[&str]) {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
        self.world.program("git").args(identity).args(arguments).run().code(0);
    }

    fn free(&self) -> PathBuf {
        self.world.path("free")
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Some file or folder below `free`.
    fn some(&mut self, wanted: fn(&Path) -> bool) -> Option<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.free()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder {
                    folders.push(path.clone());
                }
                if wanted(&path) {
                    found.push(path);
                }
            }
        }
        found.sort();
        (!found.is_empty()).then(|| found.swap_remove(self.random.below(found.len())))
    }

    fn some_folder(&mut self) -> PathBuf {
        let free = self.free();
        self.some(|path| path.is_dir() && !path.is_symlink()).unwrap_or(free)
    }

    fn new_path(&mut self, kind: &str) -> PathBuf {
        let number = self.next();
        self.some_folder().join(format!("{kind}{number}"))
    }

    fn operate(&mut self) {
        let text = format!("text {}", self.next());
        let is_file: fn(&Path) -> bool = |path| path.is_file() && !path.is_symlink();
        match self.random.below(40) {
            0..8 => fs::write(self.new_path("file"), text).unwrap(),
            8..14 => self.some(is_file).into_iter().for_each(|path| fs::write(path, &text).unwrap()),
            14..19 => {
                let new = self.new_path("temporary");
                let over = self.some(is_file).unwrap_or_else(|| self.new_path("file"));
                fs::write(&new, text).unwrap();
                fs::rename(new, over).unwrap();
            }
            19..23 => {
                let to = self.new_path("moved");
                self.some(is_file).into_iter().for_each(|path| fs::rename(path, &to).unwrap());
            }
            23..25 => {
                let folder = self.new_path("folder").join("deep");
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("inside"), text).unwrap();
            }
            25..28 => {
                let to = self.free().join(format!("folder{}", self.next()));
                let is_folder: fn(&Path) -> bool = |path| path.is_dir() && !path.is_symlink();
                self.some(is_folder).into_iter().for_each(|path| fs::rename(path, &to).unwrap());
            }
            28..31 => self.some(is_file).into_iter().for_each(|path| fs::remove_file(path).unwrap()),
            31..33 => {
                let folder = self.some_folder();
                if folder != self.free() {
                    fs::remove_dir_all(&folder).unwrap();
                    fs::create_dir(&folder).unwrap();
                    fs::write(folder.join("again"), text).unwrap();
                }
            }
            33..36 => {
                let mode = 0o600 + u32::try_from(self.next() % 64).unwrap();
                let set = |path| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
                self.some(is_file).into_iter().for_each(set);
            }
            36 => {
                let link = self.new_path("link");
                std::os::unix::fs::symlink(format!("target{}", self.next()), link).unwrap();
            }
            37 if self.random.below(8) == 0 => {
                let folder = self.new_path("burst");
                fs::create_dir(&folder).unwrap();
                for file in 0..1_000 {
                    fs::write(folder.join(file.to_string()), format!("{text} {file}")).unwrap();
                }
            }
            38 => {
                self.commit = (self.commit + 1) % COMMITS;
                self.git(&["checkout", "-q", "-f", &format!("state-{}", self.commit)]);
            }
            // Variety: bursts with gaps between them.
            _ => std::thread::sleep(Duration::from_millis(self.random.below(60) as u64)),
        }
    }

    /// Keeps the tree as large as it was: a watch has to forget what is gone.
    fn start_over(&self) {
        let free = self.free();
        fs::remove_dir_all(&free).unwrap();
        fs::create_dir(&free).unwrap();
        fs::write(free.join("first"), self.number.to_string()).unwrap();
    }

    fn expected(&self) -> String {
        self.world.program("sh").args(["-c", LIST]).run().stdout_text()
    }

    fn beside(&self, name: &str) -> String {
        fs::read_to_string(self.world.root().join(name)).unwrap_or_default()
    }
}

/// Waits until the last run has seen this.
fn wait(torture: &Torture, expected: &str) -> bool {
    happens(|| torture.beside("seen") == expected)
}

fn clean(seed: u64) {
    let mut torture = Torture::new(seed);
    let mut running = torture.world.accel(["watch", "look"]).spawn();
    let before = torture.expected();
    assert!(wait(&torture, &before), "seed {seed}: the first run never came");
    for _ in 0..OPERATIONS {
        torture.operate();
    }
    let expected = torture.expected();
    let seen = wait(&torture, &expected);
    running.signal(Signal::TERM);
    let finished = running.finish();
    assert!(
        seen,
        "seed {seed}: the last run did not see the last tree\n{}\n{finished:?}",
        difference(&torture, &expected)
    );
    finished.code(143);
    assert_eq!(torture.beside("overlaps"), "", "seed {seed}: runs overlapped");
    let runs = torture.beside("runs").lines().count();
    assert!(runs <= OPERATIONS + 2, "seed {seed}: {runs} runs for {OPERATIONS} operations");
    let left = processes_of(&torture.world.root());
    assert!(left.is_empty(), "seed {seed}: left running: {left:?}");
}

fn difference(torture: &Torture, expected: &str) -> String {
    let seen = torture.beside("seen");
    let only = |a: &str, b: &str, sign: &str| -> String {
        let known: std::collections::HashSet<&str> = b.lines().collect();
        let lines = a.lines().filter(|line| !known.contains(line)).take(10);
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    only(expected, &seen, "missed") + &only(&seen, expected, "outdated")
}

/// Processes that carry this world's folders in their environment.
fn processes_of(root: &Path) -> Vec<String> {
    let mark = format!("XDG_STATE_HOME={}", root.join("state").display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            found.push(fs::read_to_string(entry.path().join("comm")).unwrap_or_default());
        }
    }
    found
}

#[test]
fn the_last_run_sees_the_last_tree() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("ACCEL_WATCH_SEED") {
        return clean(seed);
    }
    for seed in 1..=number("ACCEL_WATCH_SEEDS").unwrap_or(2) {
        clean(seed);
    }
}

/// What a process has.
#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: usize,
    watches: usize,
    memory_kib: usize,
    children: usize,
}

impl Held {
    fn by(pid: i32) -> Self {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let text = |path: &str| fs::read_to_string(proc.join(path)).unwrap_or_default();
        let descriptors: Vec<_> = fs::read_dir(proc.join("fdinfo")).unwrap().flatten().collect();
        let watches = |entry: &fs::DirEntry| {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            text.lines().filter(|line| line.starts_with("inotify ")).count()
        };
        let status = text("status");
        let tasks = fs::read_dir(proc.join("task")).unwrap().flatten();
        let tasks = tasks.map(|task| task.file_name().to_string_lossy().into_owned());
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|memory| memory.trim().split(' ').next()?.parse().ok());
        Self {
            descriptors: descriptors.len(),
            watches: descriptors.iter().map(watches).sum(),
            memory_kib: memory.unwrap_or_default(),
            // Also those that ended and that nobody asked about.
            children: tasks
                .map(|task| text(&format!("task/{task}/children")).split_whitespace().count())
                .sum(),
        }
    }
}

/// What it has while no run goes on.
fn at_rest(pid: i32) -> Held {
    let mut held = Held::by(pid);
    happens(|| {
        held = Held::by(pid);
        held.children == 0
    });
    held
}

#[test]
fn a_long_watch_holds_no_more_than_a_short_one() {
    let seconds = std::env::var("ACCEL_WATCH_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let mut torture = Torture::with_time(seconds, Duration::from_secs(seconds));
    let mut running = torture.world.accel(["watch", "look"]).spawn();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut held: Vec<Held> = Vec::new();
    while held.len() < 4 || Instant::now() < end {
        for _ in 0..60 {
            torture.operate();
        }
        let expected = torture.expected();
        if !wait(&torture, &expected) {
            running.signal(Signal::TERM);
            let difference = difference(&torture, &expected);
            panic!("round {}: {difference}{:?}", held.len(), running.finish());
        }
        // Always the same tree, and a run on it.
        torture.git(&["checkout", "-q", "-f", "state-0"]);
        torture.start_over();
        let expected = torture.expected();
        if !wait(&torture, &expected) {
            running.signal(Signal::TERM);
            let difference = difference(&torture, &expected);
            panic!("round {}: {difference}{:?}", held.len(), running.finish());
        }
        held.push(at_rest(running.pid()));
    }
    let early = held[held.len() / 4];
    let most = |of: fn(&Held) -> usize| held[..=held.len() / 4].iter().map(of).max().unwrap_or_default();
    let (descriptors, watches) = (most(|held| held.descriptors), most(|held| held.watches));
    // Just after a run some are still being closed.
    let mut late = at_rest(running.pid());
    happens(|| {
        late = at_rest(running.pid());
        late.descriptors <= descriptors && late.watches <= watches
    });
    running.signal(Signal::TERM);
    running.finish().code(143);
    assert_eq!(torture.beside("overlaps"), "");
    println!("{} rounds, {} runs", held.len(), torture.beside("runs").lines().count());
    println!("first {:?}\nearly {early:?}\nlate  {late:?}", held[0]);
    assert!(late.descriptors <= descriptors && late.watches <= watches, "{late:?} {held:?}");
    assert_eq!(late.children, 0, "{held:?}");
    assert!(late.memory_kib < early.memory_kib + early.memory_kib / 4, "{held:?}");
}
