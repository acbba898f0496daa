//! The word that stands for this machine and user in tags, and private folders to keep such things in.

use std::fs;
use std::path::Path;

pub(super) fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A random word kept in the state directory, mixed with the machine's name for those that share a home.
pub(super) fn host_word(state: &Path) -> String {
    let path = state.join("host");
    let seed = fs::read_to_string(&path).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| {
        let seed = uuid::Uuid::new_v4().simple().to_string();
        let made = make_private(state).and_then(|()| create_private(&path, &seed));
        // Another accel may have been faster.
        if made.is_err() { fs::read_to_string(&path).unwrap_or(seed) } else { seed }
    });
    let machine = rustix::system::uname();
    let mut hasher = blake3::Hasher::new();
    hasher.update(seed.as_bytes()).update(machine.nodename().to_bytes());
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Complete or absent, and never replaced.
fn create_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    Ok(())
}
