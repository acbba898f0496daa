//! `route = "auto"`: how long a job would take in each place, term by term, from what its runs took.
//!
//! Pure: what is remembered is an argument. A forecast is the sum of its terms; every term says what it was made of.
//! The place with the lower *weight* is chosen: its seconds, and with `budget.value_of_time` its dollars as seconds. Two
//! rules make it learn without trying much:
//!
//! - a place that was never tried is guessed with [`FIRST_GUESS`]: tried once if it could be clearly better;
//! - a place that was tried seldom is given the benefit of [`DOUBT`], which shrinks with each run there.
//!
//! `cargo bench --bench auto_routing` measures the regret of this against an oracle.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::base::duration::ShortDuration;
use crate::base::money::Dollars;
use crate::base::size::Bytes;
use crate::domain::Place;

/// Newest runs that a guess is made from: enough to be calm, few enough to follow a job that changes.
const SAMPLES: usize = 15;

/// A command is guessed to take this share of its time in the place where it was never run.
const FIRST_GUESS: f64 = 0.5;

/// Share of the forecast that a place is given for each unit of doubt, and the most that it is given.
const DOUBT: f64 = 0.1;
const MOST_DOUBT: f64 = 0.6;

/// Bytes a second to Modal, and how long a sandbox takes to start, until a run has measured them.
const FIRST_BANDWIDTH: f64 = 5e6;
const FIRST_START: Duration = Duration::from_secs(2);

/// Less is not worth showing.
const LEAST_SHOWN: Dollars = Dollars(100);

/// A transfer that is smaller says little about bandwidth.
const TELLING: u64 = 1_000_000;

const SECONDS_PER_HOUR: f64 = 3600.0;

/// One run that is remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub sync: Duration,
    pub image: Duration,
    pub queue: Duration,
    pub start: Duration,
    /// The command; on this machine as if it had been idle.
    pub run: Duration,
    pub outputs: Duration,
    pub bytes_sent: u64,
    pub image_built: bool,
}

impl Sample {
    pub fn total(&self) -> Duration {
        self.sync + self.image + self.queue + self.start + self.run + self.outputs
    }
}

/// What a forecast is made from. Samples are newest first, and of runs that passed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    pub local: Vec<Sample>,
    pub modal: Vec<Sample>,
    /// No run on Modal has passed, and the last one did not get to the end of the command.
    pub modal_errored: bool,
    /// What would be sent now.
    pub to_send: Option<Bytes>,
    /// How many times longer a command takes on this machine while it is as busy as now: 1 or more.
    pub busy: f64,
    /// What a sandbox costs at least.
    pub per_hour: Option<Dollars>,
    /// What an hour of waiting is worth.
    pub value_of_time: Option<Dollars>,
}

/// One part of a forecast.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Term {
    pub name: &'static str,
    #[serde(rename = "ms", serialize_with = "millis")]
    pub time: Duration,
    /// What it was made of.
    pub from: String,
}

/// What a job is expected to take in a place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    pub place: Place,
    /// Runs there that are remembered.
    pub runs: usize,
    #[serde(rename = "ms", serialize_with = "millis")]
    pub time: Duration,
    /// At least; absent where no price is known. Nothing on this machine.
    #[serde(rename = "cost_microdollars")]
    pub cost: Option<Dollars>,
    pub terms: Vec<Term>,
}

/// Both forecasts and what follows from them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Weighed {
    pub local: Forecast,
    pub modal: Forecast,
    pub place: Place,
    pub why: String,
}

/// `run 3.1s (median of 8), start 2.0s (not measured yet)`.
impl std::fmt::Display for Forecast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.place, ShortDuration(self.time))?;
        if let Some(cost) = self.cost.filter(|cost| *cost >= LEAST_SHOWN) {
            write!(f, ", ≥ {cost}")?;
        }
        let terms: Vec<String> = self
            .terms
            .iter()
            .map(|term| format!("{} {} ({})", term.name, ShortDuration(term.time), term.from))
            .collect();
        write!(f, ": {}", terms.join(", "))
    }
}

/// `None` without any run to learn from.
pub fn weigh(memory: &Memory) -> Option<Weighed> {
    if memory.local.is_empty() && memory.modal.is_empty() {
        return None;
    }
    let (local, modal) = (local(memory), modal(memory));
    let total = local.runs + modal.runs;
    let weight = |forecast: &Forecast| {
        let doubt =
            (DOUBT * (((total + 1) as f64).ln() / forecast.runs.max(1) as f64).sqrt()).min(MOST_DOUBT);
        let share = if forecast.runs == 0 { 1.0 } else { 1.0 - doubt };
        forecast.time.as_secs_f64() * share + money_as_seconds(forecast.cost, memory.value_of_time)
    };
    let faster = if weight(&modal) < weight(&local) { Place::Modal } else { Place::Local };
    // What did not work is not tried again by itself.
    let place = if memory.modal_errored && !memory.local.is_empty() { Place::Local } else { faster };
    let times = times(&local, &modal, memory);
    let why = if place == faster {
        why(&times, place, &local, &modal)
    } else {
        format!("auto: {times}, where the last run did not get to its end")
    };
    Some(Weighed { local, modal, place, why })
}

fn money_as_seconds(cost: Option<Dollars>, value_of_time: Option<Dollars>) -> f64 {
    match (cost, value_of_time) {
        (Some(cost), Some(value)) if value.0 > 0 => cost.0 as f64 / value.0 as f64 * SECONDS_PER_HOUR,
        _ => 0.0,
    }
}

/// Both, and the money where it counts.
fn times(local: &Forecast, modal: &Forecast, memory: &Memory) -> String {
    let cost = match (modal.cost, memory.value_of_time) {
        (Some(cost), Some(value)) => format!(" and ≥ {cost} at {value} an hour of waiting"),
        _ => String::new(),
    };
    format!("about {} here, {} on Modal{cost}", ShortDuration(local.time), ShortDuration(modal.time))
}

/// In one line, with a word where it is a trial.
fn why(times: &str, place: Place, local: &Forecast, modal: &Forecast) -> String {
    let (chosen, other) = if place == Place::Local { (local, modal) } else { (modal, local) };
    match chosen.runs {
        0 => format!("auto: {times}; not tried there yet"),
        // Only doubt makes it choose the slower; only money does it for this machine.
        runs if place == Place::Modal && chosen.time > other.time => {
            format!("auto: {times}; tried again, after {runs} there")
        }
        _ => format!("auto: {times}"),
    }
}

fn local(memory: &Memory) -> Forecast {
    let samples = newest(&memory.local);
    let mut terms: Vec<Term> = image(samples).into_iter().collect();
    let run = match median(samples, |sample| sample.run) {
        Some(run) => term("run", run.mul_f64(memory.busy.max(1.0)), of(samples.len(), Some(memory.busy))),
        None => first_guess(&memory.modal, "Modal"),
    };
    terms.push(run);
    forecast(Place::Local, samples.len(), terms, Some(Dollars(0)))
}

fn modal(memory: &Memory) -> Forecast {
    let samples = newest(&memory.modal);
    let count = samples.len();
    let mut terms = vec![sync(memory, samples)];
    terms.extend(image(samples));
    let measured = |name, part: fn(&Sample) -> Duration| {
        median(samples, part).map(|time| term(name, time, of(count, None)))
    };
    terms.extend(measured("queue", |sample| sample.queue).filter(|term| !term.time.is_zero()));
    terms.push(
        measured("start", |sample| sample.start)
            .unwrap_or_else(|| term("start", FIRST_START, "not measured yet".to_owned())),
    );
    terms.push(
        measured("run", |sample| sample.run).unwrap_or_else(|| first_guess(&memory.local, "this machine")),
    );
    terms.extend(measured("outputs", |sample| sample.outputs).filter(|term| !term.time.is_zero()));
    let sandbox: Duration = terms.iter().filter(|term| lives(term.name)).map(|term| term.time).sum();
    let cost = memory.per_hour.map(|per_hour| {
        Dollars((per_hour.0 as f64 * sandbox.as_secs_f64() / SECONDS_PER_HOUR).round() as u64)
    });
    forecast(Place::Modal, count, terms, cost)
}

/// The sandbox is there, and is paid for, from its start to the last output.
fn lives(term: &str) -> bool {
    matches!(term, "start" | "run" | "outputs")
}

fn forecast(place: Place, runs: usize, terms: Vec<Term>, cost: Option<Dollars>) -> Forecast {
    let time = terms.iter().map(|term| term.time).sum();
    Forecast { place, runs, time, cost, terms }
}

fn newest(samples: &[Sample]) -> &[Sample] {
    &samples[..samples.len().min(SAMPLES)]
}

fn first_guess(others: &[Sample], whose: &str) -> Term {
    let others = newest(others);
    let run = median(others, |sample| sample.run).unwrap_or_default();
    term("run", run.mul_f64(FIRST_GUESS), format!("not tried; half of {whose}'s {}", ShortDuration(run)))
}

/// Bytes over the bandwidth that was measured; where nothing is known of the tree, what it usually takes.
fn sync(memory: &Memory, samples: &[Sample]) -> Term {
    let telling = samples.iter().filter(|sample| sample.bytes_sent >= TELLING);
    let (bytes, time) = telling.fold((0_u64, 0.0), |(bytes, time), sample| {
        (bytes + sample.bytes_sent, time + sample.sync.as_secs_f64())
    });
    let measured = (time > 0.0).then(|| bytes as f64 / time);
    let bandwidth = measured.unwrap_or(FIRST_BANDWIDTH);
    let usual = median(samples, |sample| sample.sync);
    let Some(to_send) = memory.to_send else {
        return term("sync", usual.unwrap_or_default(), of(samples.len(), None));
    };
    let sending = Duration::try_from_secs_f64(to_send.0 as f64 / bandwidth).unwrap_or(Duration::MAX);
    let word = if measured.is_some() { "measured" } else { "assumed" };
    let least = samples.iter().map(|sample| sample.sync).min().unwrap_or_default();
    term("sync", sending.max(least), format!("{to_send} at {}/s {word}", Bytes(bandwidth as u64)))
}

/// The time of a build by how often there was one. The first run there says nothing about the next.
fn image(samples: &[Sample]) -> Option<Term> {
    let later = &samples[..samples.len().saturating_sub(1)];
    let built: Vec<Sample> = samples.iter().filter(|sample| sample.image_built).cloned().collect();
    let builds = later.iter().filter(|sample| sample.image_built).count();
    if builds == 0 {
        return None;
    }
    let time = median(&built, |sample| sample.image)?;
    let chance = builds as f64 / later.len() as f64;
    let from = format!("built in {builds} of {} runs, {} each", later.len(), ShortDuration(time));
    Some(term("image", time.mul_f64(chance), from))
}

fn of(count: usize, busy: Option<f64>) -> String {
    let busy = match busy {
        Some(busy) if busy > 1.0 => format!(" × {busy:.1} for load"),
        _ => String::new(),
    };
    if count == 1 { format!("one run{busy}") } else { format!("median of {count}{busy}") }
}

fn term(name: &'static str, time: Duration, from: String) -> Term {
    Term { name, time, from }
}

fn median(samples: &[Sample], part: impl Fn(&Sample) -> Duration) -> Option<Duration> {
    let mut values: Vec<Duration> = samples.iter().map(part).collect();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: u64) -> Sample {
        Sample {
            sync: Duration::ZERO,
            image: Duration::ZERO,
            queue: Duration::ZERO,
            start: Duration::from_secs(1),
            run: Duration::from_secs(seconds),
            outputs: Duration::ZERO,
            bytes_sent: 0,
            image_built: false,
        }
    }

    fn memory(local: &[u64], modal: &[u64]) -> Memory {
        let samples = |seconds: &[u64]| seconds.iter().map(|seconds| run(*seconds)).collect();
        Memory { local: samples(local), modal: samples(modal), busy: 1.0, ..Memory::default() }
    }

    #[test]
    fn nothing_is_foretold_without_a_run() {
        assert_eq!(weigh(&Memory::default()), None);
    }

    #[test]
    fn the_place_that_was_faster_is_chosen() {
        assert_eq!(weigh(&memory(&[60, 60, 60], &[20, 20, 20])).unwrap().place, Place::Modal);
        assert_eq!(weigh(&memory(&[20, 20, 20], &[60, 60, 60])).unwrap().place, Place::Local);
    }

    #[test]
    fn a_place_that_was_never_tried_is_tried_only_where_it_could_pay() {
        let long = weigh(&memory(&[600], &[])).unwrap();
        assert_eq!(long.place, Place::Modal);
        assert!(long.why.ends_with("not tried there yet"), "{}", long.why);
        assert_eq!(weigh(&memory(&[1], &[])).unwrap().place, Place::Local);
        // Sending the tree would take longer than the job.
        let heavy = Memory { to_send: Some(Bytes(5_000_000_000)), ..memory(&[600], &[]) };
        assert_eq!(weigh(&heavy).unwrap().place, Place::Local);
        let errored = weigh(&Memory { modal_errored: true, ..memory(&[600], &[]) }).unwrap();
        assert_eq!(errored.place, Place::Local);
        assert!(
            errored.why.ends_with("on Modal, where the last run did not get to its end"),
            "{}",
            errored.why
        );
    }

    #[test]
    fn a_busy_machine_is_slower_and_says_so() {
        let busy = Memory { busy: 3.0, ..memory(&[20, 20, 20], &[40, 40, 40]) };
        let weighed = weigh(&busy).unwrap();
        assert_eq!(weighed.place, Place::Modal);
        assert_eq!(weighed.local.to_string(), "local 1m00s: run 1m00s (median of 3 × 3.0 for load)");
    }

    #[test]
    fn money_counts_as_time_where_time_has_a_price() {
        let priced = |value_of_time| Memory {
            per_hour: Some(Dollars(2_000_000)),
            value_of_time,
            ..memory(&[40, 40, 40], &[30, 30, 30])
        };
        assert_eq!(weigh(&priced(None)).unwrap().place, Place::Modal);
        assert_eq!(weigh(&priced(Some(Dollars(100_000_000)))).unwrap().place, Place::Modal);
        // Waiting ten seconds longer is worth less than the sandbox costs.
        let cheap = weigh(&priced(Some(Dollars(1_000_000)))).unwrap();
        assert_eq!(cheap.place, Place::Local);
        assert_eq!(
            cheap.why,
            "auto: about 40.0s here, 31.0s on Modal and ≥ $0.02 at $1.00 an hour of waiting"
        );
    }

    #[test]
    fn sending_and_building_are_weighed_by_what_was_measured() {
        let mut memory = memory(&[60, 60, 60, 60], &[5, 5, 5, 5]);
        for (at, sample) in memory.modal.iter_mut().enumerate() {
            sample.sync = Duration::from_secs(2);
            sample.bytes_sent = 20_000_000;
            sample.image_built = at == 0;
            sample.image = Duration::from_secs(if at == 0 { 30 } else { 0 });
        }
        memory.to_send = Some(Bytes(100_000_000));
        assert_eq!(
            weigh(&memory).unwrap().modal.to_string(),
            "modal 26.0s: sync 10.0s (95.4MiB at 9.5MiB/s measured), \
             image 10.0s (built in 1 of 3 runs, 30.0s each), start 1.0s (median of 4), run 5.0s (median of 4)"
        );
    }
}
