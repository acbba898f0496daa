//! Measures the regret of `route = "auto"` against an oracle, over synthetic jobs and over recorded ones.
//!
//! ```text
//! cargo bench --bench auto_routing [-- --jobs 2000 --runs 60]
//! ```
//!
//! A job has a time here, a time on Modal, a start, a queue, a bandwidth, a tree, a chance of image builds, noise, and a
//! machine that may be busy; some change for good half-way. The oracle knows the expected time of both places at every
//! run and takes the better; regret is what auto takes more, as a share of the oracle's time. Nothing waits: times are numbers, and the
//! same seed gives the same figures. The recorded jobs are in `auto_traces.json`: what real runs took here and on the tests'
//! Modal, played again and again in their order (`record_traces.py` says how they were made). The bench fails when the mean
//! regret after run 20 is above 10 %, for either kind.

#![allow(clippy::print_stdout, reason = "a measuring program prints")]

use std::time::Duration;

use accel::base::size::Bytes;
use accel::domain::Place;
use accel::route::{Memory, Sample, auto};

/// Runs of a job after which auto must have learned.
const LEARNED: usize = 20;
const MOST_REGRET: f64 = 0.10;
/// What history keeps per place.
const RECENT: usize = 50;

/// Splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + self.unit() * (high - low)
    }

    /// Every order of magnitude is as likely as the others.
    fn scale(&mut self, low: f64, high: f64) -> f64 {
        self.between(low.ln(), high.ln()).exp()
    }

    fn one_of(&mut self, values: &[f64]) -> f64 {
        values[(self.unit() * values.len() as f64) as usize]
    }

    /// About normal: the sum of twelve.
    fn noise(&mut self, spread: f64) -> f64 {
        let normal = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        (normal * spread).exp()
    }
}

/// Seconds and bytes.
struct Job {
    local: f64,
    modal: f64,
    start: f64,
    queue: f64,
    outputs: f64,
    bandwidth: f64,
    tree: f64,
    build: f64,
    build_chance: f64,
    spread: f64,
    busiest: f64,
    /// The command takes this many times longer in the second half, in both places or only here.
    changes_here: f64,
}

impl Job {
    fn any(random: &mut Random) -> Self {
        let local = random.scale(0.5, 600.0);
        Self {
            local,
            modal: local * random.scale(0.1, 3.0),
            start: random.between(0.5, 6.0),
            queue: random.one_of(&[0.0, 0.0, 0.0, 2.0, 10.0]),
            outputs: random.between(0.0, 1.0),
            bandwidth: random.scale(1e6, 5e7),
            tree: random.scale(1e4, 3e8),
            build: random.between(10.0, 90.0),
            build_chance: random.one_of(&[0.0, 0.02, 0.1]),
            spread: random.between(0.03, 0.3),
            busiest: random.one_of(&[0.2, 0.2, 2.0]),
            changes_here: random.one_of(&[1.0, 1.0, 1.0, 0.5, 2.0]),
        }
    }

    fn here(&self, run: usize, runs: usize) -> f64 {
        if run >= runs / 2 { self.local * self.changes_here } else { self.local }
    }
}

fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value.max(0.0))
}

/// Expected seconds of auto and of the oracle, run by run.
fn simulate(job: &Job, runs: usize, random: &mut Random) -> Vec<(f64, f64)> {
    let mut memory = Memory { busy: 1.0, ..Memory::default() };
    let mut sent = false;
    let mut taken = Vec::new();
    for run in 0..runs {
        memory.busy = (random.between(0.0, job.busiest) + 0.5).max(1.0);
        let bytes = job.tree * if sent { random.one_of(&[0.001, 0.01, 0.05]) } else { 1.0 };
        memory.to_send = Some(Bytes(bytes as u64));
        let here = job.here(run, runs) * memory.busy;
        let first = if sent { 0.0 } else { job.build };
        let sending = bytes / job.bandwidth + 0.1;
        let there =
            sending + first + job.build_chance * job.build + job.queue + job.start + job.modal + job.outputs;
        let place = auto::weigh(&memory).map_or(Place::Local, |weighed| weighed.place);
        taken.push((if place == Place::Local { here } else { there }, here.min(there)));
        let mut sample = Sample {
            sync: Duration::ZERO,
            image: Duration::ZERO,
            queue: Duration::ZERO,
            start: Duration::ZERO,
            run: seconds(job.here(run, runs) * random.noise(job.spread)),
            outputs: Duration::ZERO,
            bytes_sent: 0,
            image_built: false,
        };
        if place == Place::Modal {
            let built = !sent || random.unit() < job.build_chance;
            sample = Sample {
                sync: seconds(sending),
                image: seconds(if built { job.build * random.noise(job.spread) } else { 0.1 }),
                queue: seconds(job.queue),
                start: seconds(job.start * random.noise(job.spread)),
                run: seconds(job.modal * random.noise(job.spread)),
                outputs: seconds(job.outputs),
                bytes_sent: bytes as u64,
                image_built: built,
            };
            sent = true;
        }
        let samples = if place == Place::Local { &mut memory.local } else { &mut memory.modal };
        samples.insert(0, sample);
        samples.truncate(RECENT);
    }
    taken
}

/// What a job took in both places, run by run, in the order of the file's `fields`.
#[derive(serde::Deserialize)]
struct Trace {
    job: String,
    local: Vec<[u64; 7]>,
    modal: Vec<[u64; 7]>,
}

#[derive(serde::Deserialize)]
struct Recorded {
    traces: Vec<Trace>,
}

fn sample([sync, image, queue, start, run, outputs, bytes_sent]: [u64; 7]) -> Sample {
    Sample {
        sync: Duration::from_millis(sync),
        image: Duration::from_millis(image),
        queue: Duration::from_millis(queue),
        start: Duration::from_millis(start),
        run: Duration::from_millis(run),
        outputs: Duration::from_millis(outputs),
        bytes_sent,
        image_built: false,
    }
}

/// The same for a recorded job; the oracle knows what it takes on average in each place.
fn replay(trace: &Trace, runs: usize) -> Vec<(f64, f64)> {
    let total = |runs: &[[u64; 7]]| runs.iter().map(|run| sample(*run).total().as_secs_f64()).sum::<f64>();
    let here = total(&trace.local) / trace.local.len() as f64;
    let there = total(&trace.modal) / trace.modal.len() as f64;
    let mut memory = Memory { busy: 1.0, ..Memory::default() };
    let mut taken = Vec::new();
    for run in 0..runs {
        let (local, modal) = (trace.local[run % trace.local.len()], trace.modal[run % trace.modal.len()]);
        memory.to_send = Some(Bytes(modal[6]));
        let place = auto::weigh(&memory).map_or(Place::Local, |weighed| weighed.place);
        let (samples, recorded, expected) = match place {
            Place::Local => (&mut memory.local, local, here),
            Place::Modal => (&mut memory.modal, modal, there),
        };
        samples.insert(0, sample(recorded));
        samples.truncate(RECENT);
        taken.push((expected, here.min(there)));
    }
    taken
}

fn regret(taken: &[(f64, f64)]) -> f64 {
    let (auto, oracle) = taken.iter().fold((0.0, 0.0), |sum, run| (sum.0 + run.0, sum.1 + run.1));
    auto / oracle - 1.0
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Prints the regret of recorded jobs, each by itself; returns the mean after it has learned.
fn recorded(runs: usize) -> f64 {
    let recorded: Recorded = serde_json::from_str(include_str!("auto_traces.json"))
        .expect("the traces are what record_traces.py writes");
    println!("{} recorded jobs, {runs} runs each", recorded.traces.len());
    let mut late = Vec::new();
    for trace in &recorded.traces {
        let taken = replay(trace, runs);
        let (first, after) = (regret(&taken[..LEARNED]), regret(&taken[LEARNED..]));
        println!("  {}: runs 1 to 20 {:.1} %, after run 20 {:.1} %", trace.job, first * 100.0, after * 100.0);
        late.push(after);
    }
    mean(&late)
}

fn number(name: &str, default: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let (jobs, runs) = (number("--jobs", 2000), number("--runs", 60).max(LEARNED + 1));
    let mut random = Random(1);
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for _ in 0..jobs {
        let job = Job::any(&mut random);
        let taken = simulate(&job, runs, &mut random);
        early.push(regret(&taken[..LEARNED]));
        late.push(regret(&taken[LEARNED..]));
    }
    println!("{jobs} jobs, {runs} runs each; regret against an oracle");
    for (name, values) in [("runs 1 to 20", &mut early), ("after run 20", &mut late)] {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
        println!(
            "  {name}: mean {:.1} %, median {:.1} %, p90 {:.1} %, worst {:.0} %",
            mean(values) * 100.0,
            at(0.5) * 100.0,
            at(0.9) * 100.0,
            at(1.0) * 100.0
        );
    }
    for learned in [mean(&late), recorded(runs)] {
        assert!(learned <= MOST_REGRET, "the mean regret after run {LEARNED} is {:.1} %", learned * 100.0);
    }
}
