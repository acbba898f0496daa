//! This machine: processors, load, memory, battery, GPUs.
//!
//! | fact | source | unit |
//! |---|---|---|
//! | `local_cpus` | the cores that this process may use | cores |
//! | `local_load` | `/proc/loadavg`, one minute | runnable processes per core |
//! | `local_memory` | `MemAvailable` of `/proc/meminfo` | bytes |
//! | `on_battery` | `/sys/class/power_supply` | whether a battery of the machine is drawn from |
//! | `local_gpu`, `local_gpu_memory` | `nvidia-smi`, absent without fuss | names, bytes of the largest |
//! | `os`, `arch` | what accel was built for | words |

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Surroundings;
use crate::base::size::Bytes;
use crate::domain::Exit;
use crate::process::{Input, Launch, Tool, find_program};

/// `nvidia-smi` can take seconds where the driver sleeps.
const GPU_LIMIT: Duration = Duration::from_secs(10);

/// The system that accel was built for.
pub(super) const OS: &str = if cfg!(target_os = "macos") {
    "macos"
} else if cfg!(target_os = "windows") {
    "windows"
} else if cfg!(target_os = "linux") {
    "linux"
} else {
    "other"
};

/// The processor that accel was built for, by the kernel's names.
pub(super) const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "x86_64"
} else if cfg!(target_arch = "aarch64") {
    "aarch64"
} else {
    "other"
};

pub(super) fn cpus() -> Option<f64> {
    std::thread::available_parallelism().ok().map(|count| count.get() as f64)
}

/// Processes that were ready to run, on average over a minute.
pub fn load_average() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

pub(super) fn load() -> Option<f64> {
    Some(load_average()? / cpus()?)
}

/// How many times longer a command takes that wants some cores, beside processes that are ready to run: all share the
/// cores.
pub(super) fn busy(load_average: f64, wanted: f64) -> f64 {
    cpus().map_or(1.0, |cpus| ((load_average + wanted) / cpus).max(1.0))
}

pub(super) fn available_memory() -> Option<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kibibytes * 1024))
}

/// Whether a battery is being drawn from; a machine without one is not on battery.
pub(super) fn on_battery(supplies: &Path) -> bool {
    let Ok(entries) = fs::read_dir(supplies) else { return false };
    entries.flatten().any(|entry| {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        // Batteries of mice and headsets have the scope `Device`.
        read("type").trim() == "Battery"
            && read("scope").trim() != "Device"
            && read("status").trim() == "Discharging"
    })
}

/// A GPU of this machine, as the driver names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalGpu {
    pub(super) name: String,
    /// `None` where the driver does not say.
    pub(super) memory: Option<Bytes>,
}

/// The tool of NVIDIA's driver. Without it there is no GPU that counts.
const GPU_TOOL: &str = "nvidia-smi";

pub(super) fn has_gpu_tool(surroundings: &Surroundings) -> bool {
    find_program(OsStr::new(GPU_TOOL), surroundings.search_path(), &surroundings.root).is_ok()
}

/// From `nvidia-smi`; none where there is no such program.
pub(super) async fn local_gpus(surroundings: &Surroundings) -> Result<Vec<LocalGpu>, String> {
    let name = OsStr::new(GPU_TOOL);
    let Ok(program) = find_program(name, surroundings.search_path(), &surroundings.root) else {
        return Ok(Vec::new());
    };
    let tool = Tool {
        launch: Launch {
            program,
            name: name.to_owned(),
            args: ["--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
                .map(OsString::from)
                .into(),
            cwd: surroundings.root.clone(),
            env: surroundings.variables.clone(),
            input: Input::Null,
        },
        limit: Some(GPU_LIMIT),
        log: None,
    };
    match surroundings.supervisor.run_tool(&tool, surroundings.cancel.clone()).await {
        Ok(output) if output.exit == Exit::Code(0) => {
            Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(gpu).collect())
        }
        Ok(output) => Err(format!("nvidia-smi: {}", output.exit)),
        Err(error) => Err(error.to_string()),
    }
}

/// `NVIDIA H100 80GB HBM3, 81559`: a name and mebibytes.
fn gpu(line: &str) -> Option<LocalGpu> {
    let (name, memory) = line.rsplit_once(',').unwrap_or((line, ""));
    let memory = memory.trim().parse::<u64>().ok().map(|mebibytes| Bytes(mebibytes << 20));
    let name = name.trim();
    (!name.is_empty()).then(|| LocalGpu { name: name.to_owned(), memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_have_a_name_and_memory() {
        let memory = Some(Bytes(81_559 << 20));
        assert_eq!(
            gpu("NVIDIA H100 80GB HBM3, 81559"),
            Some(LocalGpu { name: "NVIDIA H100 80GB HBM3".into(), memory })
        );
        assert_eq!(gpu("Tesla T4"), Some(LocalGpu { name: "Tesla T4".into(), memory: None }));
        assert_eq!(gpu("NVIDIA GB10, [N/A]"), Some(LocalGpu { name: "NVIDIA GB10".into(), memory: None }));
        assert_eq!(gpu(""), None);
    }

    #[test]
    fn only_a_discharging_battery_of_the_machine_counts() {
        let folder = tempfile::tempdir().unwrap();
        let supply = |name: &str, files: &[(&str, &str)]| {
            fs::create_dir(folder.path().join(name)).unwrap();
            for (file, text) in files {
                fs::write(folder.path().join(name).join(file), text).unwrap();
            }
        };
        assert!(!on_battery(&folder.path().join("none")));
        supply("AC", &[("type", "Mains\n"), ("online", "0\n")]);
        supply("mouse", &[("type", "Battery\n"), ("scope", "Device\n"), ("status", "Discharging\n")]);
        assert!(!on_battery(folder.path()));
        supply("BAT0", &[("type", "Battery\n"), ("status", "Discharging\n")]);
        assert!(on_battery(folder.path()));
    }
}
