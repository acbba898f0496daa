//! Python packages of images, really installed where a test asks for it.
//!
//! The `pip` and `uv pip` lines of an image are done in a virtual environment of this machine's Python, which is
//! first on the `PATH` of the sandboxes that use the image. Environments are kept in the build folder by what is in
//! them, and shared by all tests; a half-made one is never used. Other lines are not done.

use std::path::{Path, PathBuf};
use std::process::Command;

use accel::backend::modal::wire::client as wire;
use sha2::{Digest, Sha256};

use super::storage::hex;

/// One line that installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// What follows `pip install`, in pip's words.
    arguments: Vec<String>,
    /// Files that the arguments name.
    files: Vec<(String, Vec<u8>)>,
}

/// The lines of a layer that install packages.
pub fn installs(image: &wire::Image) -> Vec<Install> {
    let lines = &image.dockerfile_commands;
    let files: Vec<_> = lines.iter().filter_map(|line| copied(line, &image.context_files)).collect();
    let arguments = lines.iter().filter_map(|line| arguments(line));
    arguments.map(|arguments| Install { arguments, files: files.clone() }).collect()
}

/// `COPY /.requirements.txt /there`: the path there, and what is in it.
fn copied(line: &str, files: &[wire::ImageContextFile]) -> Option<(String, Vec<u8>)> {
    let words = shlex::split(line.strip_prefix("COPY ")?)?;
    let [from, to] = &words[..] else { return None };
    let file = files.iter().find(|file| file.filename == *from)?;
    Some((to.clone(), file.data.clone().into()))
}

fn arguments(line: &str) -> Option<Vec<String>> {
    const PIP: &str = "RUN python -m pip install ";
    const UV: &str = "RUN /.uv/uv pip install --python $(command -v python) --compile-bytecode ";
    if let Some(rest) = line.strip_prefix(PIP) {
        return shlex::split(rest);
    }
    let rest = line.strip_prefix(UV)?.replace("--prerelease allow", "--pre").replace("--requirements", "-r");
    shlex::split(&rest)
}

/// The environment that these lines make. Blocks until it is there.
pub fn environment(installs: &[Install]) -> Result<PathBuf, String> {
    let name = hex(&Sha256::digest(format!("{installs:?}")))[..16].to_owned();
    let kept = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = kept.join("fake-modal-images").join(name);
    let said = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(folder.parent().expect("it lies in the build folder")).map_err(said)?;
    let lock = std::fs::File::create(folder.with_extension("lock")).map_err(said)?;
    lock.lock().map_err(said)?;
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(folder);
    }
    let _ = std::fs::remove_dir_all(&folder);
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    for install in installs {
        let mut arguments = install.arguments.clone();
        for (index, (path, content)) in install.files.iter().enumerate() {
            let file = folder.join(format!("context-{index}"));
            std::fs::write(&file, content).map_err(said)?;
            let here = file.to_string_lossy();
            arguments.iter_mut().filter(|argument| *argument == path).for_each(|it| *it = here.to_string());
        }
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(folder.join("bin/python")).args(pip).args(arguments))?;
    }
    std::fs::write(complete, "").map_err(said)?;
    Ok(folder)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[cfg(test)]
mod tests {
    use super::arguments;

    #[test]
    fn lines_that_install_are_known() {
        for (line, expected) in [
            ("RUN python -m pip install 'a>=1' b  --pre", Some("a>=1 b --pre")),
            ("RUN /.uv/uv pip install --python $(command -v python) --compile-bytecode a", Some("a")),
            (
                "RUN /.uv/uv pip install --python $(command -v python) --compile-bytecode --requirements /.uv/0/r.txt",
                Some("-r /.uv/0/r.txt"),
            ),
            ("RUN pip install --upgrade pip wheel uv", None),
        ] {
            assert_eq!(arguments(line).map(|words| words.join(" ")).as_deref(), expected, "{line}");
        }
    }
}
