//! What a sandbox costs at least: requests times prices, per hour and for a measured time.
//!
//! Pure. Prices come from the workspace where the server gives them in a form that is understood, else from a
//! dated table ([`Prices::published`]). What must stay true: a quote is a lower bound and never says more than is known:
//! Modal bills the higher of request and use, and a GPU without a price makes the quote [`partial`](Quote::unpriced).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::base::money::Dollars;
use crate::domain::Gpu;
use crate::event;
use crate::plan::spec::SandboxSpec;
use crate::store::ledger;

/// The source of rates that the server told.
pub const WORKSPACE: &str = "workspace";
const TABLE: &str = include_str!("prices.toml");
/// Nothing that a sandbox uses costs more: such a rate is not understood.
const MOST_PER_SECOND: f64 = 1000.0;
const SECONDS_PER_HOUR: f64 = 3600.0;
const MIB_PER_GIB: f64 = 1024.0;

/// Dollars per second.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// When the table was entered (`2026-06`), or the day on which the workspace's rates were told.
    pub as_of: String,
    /// The table's address, or [`WORKSPACE`].
    pub source: String,
    pub cpu_core: f64,
    pub memory_gib: f64,
    pub default_cpu_cores: f64,
    pub default_memory_mib: f64,
    pub region_factor: f64,
    pub gpu: BTreeMap<String, f64>,
}

/// At least this much.
#[derive(Debug, Clone, PartialEq)]
pub struct Quote {
    pub per_hour: Dollars,
    /// A GPU that is not part of the amount, since its price is not known.
    pub unpriced: Option<Gpu>,
    /// As of the prices.
    pub as_of: String,
    pub source: String,
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "≥ {}/h", self.per_hour)?;
        match &self.unpriced {
            Some(gpu) => write!(f, " and the {gpu}, whose price is not known"),
            None => Ok(()),
        }
    }
}

impl From<Quote> for event::Quote {
    fn from(quote: Quote) -> Self {
        let Quote { per_hour, unpriced, as_of, source } = quote;
        let unpriced = unpriced.map(|gpu| gpu.to_string());
        Self { per_hour, expected: None, unpriced, as_of, source }
    }
}

impl Quote {
    /// For a time that was measured.
    pub fn of(&self, time: Duration) -> Dollars {
        ledger::price(self.per_hour, time)
    }
}

impl Prices {
    /// The table of this version of accel.
    pub fn published() -> Self {
        toml::from_str(TABLE).expect("a test reads the table")
    }

    /// With what the workspace pays, as far as the server's words for it are understood: `rates` are amounts in
    /// decimal text by names such as `cpu_core_hour`, which are the server's to choose. `None` when nothing is.
    pub fn with_rates(&self, rates: &BTreeMap<String, String>, as_of: &str) -> Option<Self> {
        let mut prices = Self { as_of: as_of.to_owned(), source: WORKSPACE.to_owned(), ..self.clone() };
        let mut understood = false;
        for (name, amount) in rates {
            let Some((resource, per_second)) = rate(name, amount) else { continue };
            understood = true;
            match resource {
                Resource::Cpu => prices.cpu_core = per_second,
                Resource::Memory => prices.memory_gib = per_second,
                Resource::Gpu(kind) => drop(prices.gpu.insert(kind, per_second)),
            }
        }
        understood.then_some(prices)
    }

    /// With a list of GPUs, the cheapest: any of them may be the one.
    pub fn quote(&self, spec: &SandboxSpec) -> Quote {
        let cores = spec.cpu.as_ref().map_or(self.default_cpu_cores, |range| range.request);
        let mebibytes = spec.memory.as_ref().map(|range| range.request.mebibytes() as f64);
        let gibibytes = mebibytes.unwrap_or(self.default_memory_mib) / MIB_PER_GIB;
        let gpus: Vec<(&Gpu, Option<f64>)> =
            spec.gpu.iter().map(|choice| (&choice.gpu, self.gpu(&choice.gpu))).collect();
        let unpriced = gpus.iter().find(|(_, price)| price.is_none()).map(|(gpu, _)| (*gpu).clone());
        let cheapest = gpus.iter().filter_map(|(_, price)| *price).reduce(f64::min);
        let gpu = if unpriced.is_some() { 0.0 } else { cheapest.unwrap_or(0.0) };
        let factor = if spec.region.is_empty() { 1.0 } else { self.region_factor };
        let per_second = (cores * self.cpu_core + gibibytes * self.memory_gib + gpu) * factor;
        let per_hour = Dollars((per_second * SECONDS_PER_HOUR * 1e6).round() as u64);
        Quote { per_hour, unpriced, as_of: self.as_of.clone(), source: self.source.clone() }
    }

    /// In a machine with this GPU, of those that are asked for.
    pub fn quote_with(&self, spec: &SandboxSpec, gpu: Option<&Gpu>) -> Quote {
        let chosen = spec.gpu.iter().filter(|choice| Some(&choice.gpu) == gpu).cloned().collect();
        self.quote(&SandboxSpec { gpu: chosen, ..spec.clone() })
    }

    /// Of all that are asked for. A name without a size means the smaller one, and any means the cheapest.
    fn gpu(&self, gpu: &Gpu) -> Option<f64> {
        let kind = gpu.kind.trim_end_matches(['!', '+']);
        let one = match kind {
            "ANY" => self.gpu.values().copied().reduce(f64::min),
            "A10G" => self.gpu.get("A10").copied(),
            "A100" => self.gpu.get("A100-40GB").copied(),
            kind => self.gpu.get(kind).copied(),
        };
        one.map(|price| price * f64::from(gpu.count))
    }
}

#[derive(Debug, PartialEq)]
enum Resource {
    Cpu,
    Memory,
    Gpu(String),
}

/// A rate whose name says resource and unit of time; anything else is not understood.
fn rate(name: &str, amount: &str) -> Option<(Resource, f64)> {
    let amount: f64 = amount.trim().trim_start_matches('$').parse().ok()?;
    if !amount.is_finite() || amount < 0.0 {
        return None;
    }
    let words: Vec<String> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.as_str()));
    // Prices of something other than what a preemptible sandbox uses.
    if has(&["function", "functions", "nonpreemptible", "volume", "storage", "egress", "month"]) {
        return None;
    }
    let per_second = match (has(&["hour", "hours", "hr", "h"]), has(&["second", "seconds", "sec", "s"])) {
        (true, false) => amount / SECONDS_PER_HOUR,
        (false, true) => amount,
        _ => return None,
    };
    if per_second > MOST_PER_SECOND {
        return None;
    }
    let kinds = Prices::published().gpu.into_keys();
    let gpu = kinds.filter(|kind| names_kind(&words, kind)).max_by_key(String::len);
    let resource = match gpu {
        Some(kind) => Resource::Gpu(kind),
        None if has(&["gpu"]) => return None,
        None if has(&["cpu", "core", "cores"]) => Resource::Cpu,
        None if has(&["memory", "mem", "ram"]) && has(&["gib", "gb"]) => Resource::Memory,
        None => return None,
    };
    Some((resource, per_second))
}

/// `A100-40GB` in `gpu_a100_40gb_hour`.
fn names_kind(words: &[String], kind: &str) -> bool {
    let parts: Vec<String> = kind.split('-').map(str::to_ascii_lowercase).collect();
    words.windows(parts.len()).any(|window| window == parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_is_read_and_dated() {
        let prices = Prices::published();
        assert!(prices.as_of.len() == "2026-06".len() && prices.source.starts_with("https://"), "{prices:?}");
        assert!(prices.gpu.values().chain([&prices.cpu_core, &prices.memory_gib]).all(|price| *price > 0.0));
    }

    #[test]
    fn gpus_have_prices_by_every_name_for_them() {
        let prices = Prices::published();
        let price = |text: &str| prices.gpu(&Gpu::parse(text).unwrap());
        assert_eq!(price("H100!"), price("H100"));
        assert_eq!(price("a10g"), price("A10"));
        assert_eq!(price("A100"), price("A100-40GB"));
        assert_eq!(price("any"), price("T4"));
        assert_eq!(price("L4:3").map(|three| three / 3.0), price("L4"));
        assert_eq!(price("B300"), None);
    }

    #[test]
    fn rates_of_the_server_are_understood_by_their_names() {
        let check = |name: &str, amount: &str, expected: Option<(Resource, f64)>| {
            assert_eq!(rate(name, amount), expected, "{name} = {amount}");
        };
        let gpu = |kind: &str, price| Some((Resource::Gpu(kind.to_owned()), price));
        check("cpu_core_hour", "3.6", Some((Resource::Cpu, 0.001)));
        check("CPU core / second", "1e300", None);
        check("CPU core / second", "$0.0001", Some((Resource::Cpu, 0.0001)));
        check("memory_gib_hour", "3.6", Some((Resource::Memory, 0.001)));
        check("gpu_hour_T4", "3.6", gpu("T4", 0.001));
        check("gpu-A100-80GB-sec", "0.5", gpu("A100-80GB", 0.5));
        check("gpu_hour_X9000", "3.6", None);
        check("cpu_core", "0.36", None);
        check("cpu_core_hour", "much", None);
        check("cpu_core_hour", "-1", None);
        check("function_cpu_core_hour", "0.1", None);
    }

    #[test]
    fn rates_replace_what_they_name_and_nothing_else() {
        let published = Prices::published();
        let rates =
            BTreeMap::from([("cpu_core_hour".to_owned(), "3.6".to_owned()), ("odd".into(), "1".into())]);
        let live = published.with_rates(&rates, "2026-07-01").unwrap();
        assert_eq!(
            (live.cpu_core, live.memory_gib, live.as_of.as_str()),
            (0.001, published.memory_gib, "2026-07-01")
        );
        assert_eq!(published.with_rates(&BTreeMap::from([("odd".to_owned(), "1".to_owned())]), ""), None);
    }

    #[test]
    fn a_quote_is_a_lower_bound_and_says_so() {
        let quote =
            Quote { per_hour: Dollars(590_000), unpriced: None, as_of: "2026-06".into(), source: "x".into() };
        assert_eq!(quote.to_string(), "≥ $0.59/h");
        assert_eq!(quote.of(Duration::from_secs(90)), Dollars(14_750));
        let unpriced = Gpu::parse("B300").ok();
        let quote = Quote { unpriced, ..quote };
        assert_eq!(quote.to_string(), "≥ $0.59/h and the B300, whose price is not known");
    }

    proptest! {
        #[test]
        fn rates_of_any_kind_make_a_quote_that_can_be_added_up(
            name in "(cpu|core|memory|gib|gpu|a100|40gb|t4|hour|second|_|/|é){0,5}",
            amount in "(\\$|-)?[0-9]{0,400}(\\.[0-9]{0,5})?(e-?[0-9]{1,4})?|NaN|inf|.{0,5}",
            count in 1..=8_u32,
        ) {
            let prices = Prices::published().with_rates(&BTreeMap::from([(name, amount)]), "2026-07-01");
            let prices = prices.unwrap_or_else(Prices::published);
            for price in prices.gpu.values().chain([&prices.cpu_core, &prices.memory_gib]) {
                prop_assert!(*price >= 0.0 && *price <= MOST_PER_SECOND);
            }
            let gpu = Gpu::parse(&format!("A100-40GB:{count}")).unwrap();
            prop_assert!(prices.gpu(&gpu).is_some_and(f64::is_finite));
        }
    }
}
