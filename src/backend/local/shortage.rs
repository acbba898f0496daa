//! What a job asks for and this machine does not have: a GPU of a kind, memory.

use std::fs;
use std::path::Path;

use crate::backend::{Failure, OpenRequest, Shortage};
use crate::base::size::Bytes;
use crate::domain::Cause;
use crate::plan::spec::GpuChoice;
use crate::route;

/// One line per GPU that NVIDIA's Linux driver runs: `Model: NVIDIA A100-SXM4-40GB`.
const NVIDIA_GPUS: &str = "/proc/driver/nvidia/gpus";
/// Devices of a driver that has been set up: NVIDIA's own, and that of Windows' subsystem for Linux.
const DEVICES: [&str; 3] = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"];

/// The GPUs of this machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gpus {
    None,
    /// By the names that the driver gives.
    Named(Vec<String>),
    /// There is one, of a kind that is not told.
    Unnamed,
}

/// A place that was chosen for want of something better is refused here, if another place is to be tried then.
pub(super) fn refuse(request: &OpenRequest) -> Result<(), Failure> {
    if request.shortage == Shortage::MakeDo {
        return Ok(());
    }
    let missing = missing_gpu(&request.spec.gpu, &gpus()).or_else(|| missing_memory(request));
    match missing {
        Some(missing) => Err(Failure::new(Cause::Capacity, missing)),
        None => Ok(()),
    }
}

/// `asks for an L4 GPU; this machine has none`, unless one of the choices is here, or may be.
pub(super) fn missing_gpu(wanted: &[GpuChoice], here: &Gpus) -> Option<String> {
    let first = wanted.first()?;
    let found = match here {
        Gpus::Unnamed => return None,
        Gpus::None => "none".to_owned(),
        Gpus::Named(names) => {
            if wanted.iter().any(|choice| route::is_here(&choice.gpu, names)) {
                return None;
            }
            names.join(", ")
        }
    };
    Some(format!("asks for a {} GPU; this machine has {found}", first.gpu))
}

fn missing_memory(request: &OpenRequest) -> Option<String> {
    let (wanted, here) = (request.spec.memory?.request, memory()?);
    (wanted > here).then(|| format!("asks for {wanted} of memory; this machine has {here}"))
}

pub(super) fn gpus() -> Gpus {
    let names = names_below(Path::new(NVIDIA_GPUS));
    if !names.is_empty() {
        return Gpus::Named(names);
    }
    if DEVICES.iter().any(|device| Path::new(device).exists()) { Gpus::Unnamed } else { Gpus::None }
}

fn names_below(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let files = entries.flatten().map(|entry| entry.path().join("information"));
    let texts = files.filter_map(|file| fs::read_to_string(file).ok());
    let name = |text: String| {
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().to_owned())
    };
    let mut names: Vec<String> = texts.filter_map(name).collect();
    names.sort();
    names
}

pub(super) fn memory() -> Option<Bytes> {
    #[cfg(target_os = "linux")]
    {
        let system = rustix::system::sysinfo();
        let unit = u64::from(system.mem_unit);
        Some(Bytes(system.totalram.saturating_mul(unit)))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Gpu;

    #[test]
    fn a_gpu_is_missing_only_when_none_of_the_kinds_is_here() {
        let wanted: Vec<GpuChoice> =
            ["L4", "A100"].map(|text| GpuChoice { gpu: Gpu::parse(text).unwrap(), wait: None }).into();
        let named = |name: &str| Gpus::Named(vec![name.to_owned()]);
        assert_eq!(
            missing_gpu(&wanted, &Gpus::None).as_deref(),
            Some("asks for a L4 GPU; this machine has none")
        );
        assert_eq!(
            missing_gpu(&wanted, &named("Tesla T4")).as_deref(),
            Some("asks for a L4 GPU; this machine has Tesla T4")
        );
        assert_eq!(missing_gpu(&wanted, &named("NVIDIA A100-SXM4-40GB")), None);
        assert_eq!(missing_gpu(&wanted, &Gpus::Unnamed), None);
        assert_eq!(missing_gpu(&[], &Gpus::None), None);
    }

    #[test]
    fn the_driver_names_the_gpus() {
        let folder = tempfile::tempdir().unwrap();
        let gpu = folder.path().join("0000:01:00.0");
        fs::create_dir(&gpu).unwrap();
        fs::write(gpu.join("information"), "Model: \t\t NVIDIA L4\nIRQ:   \t\t 50\n").unwrap();
        assert_eq!(names_below(folder.path()), ["NVIDIA L4"]);
        assert!(names_below(Path::new("/nowhere")).is_empty());
    }
}
