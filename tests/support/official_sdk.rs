//! Programs of the official SDK, run against the tests' Modal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use accel::backend::modal::wire::client as wire;

use crate::fake_modal::FakeModal;
use crate::python;

/// A program that hangs says where, and ends.
const DEADLINE: &str = "import faulthandler; faulthandler.dump_traceback_later(240, exit=True)\n";

/// Runs a program of the official SDK; what it prints comes back. Its folder is where it runs.
pub struct Program<'a> {
    interpreter: PathBuf,
    modal: &'a FakeModal,
    folder: tempfile::TempDir,
}

impl<'a> Program<'a> {
    pub fn new(modal: &'a FakeModal) -> Option<Self> {
        let interpreter = python::with_modal()?;
        Some(Self { interpreter, modal, folder: tempfile::tempdir().unwrap() })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn run(&self, script: &str) -> String {
        let (succeeded, stdout, stderr) = self.try_run(script);
        assert!(succeeded, "{stdout}\n{stderr}");
        stdout
    }

    /// Whether it succeeded, and what it printed.
    pub fn try_run(&self, script: &str) -> (bool, String, String) {
        let output = Command::new(&self.interpreter)
            .args(["-c", &format!("{DEADLINE}{script}")])
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(self.modal.variables())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }
}

/// An app, and an image of two layers.
const BEGINNING: &str = "
import modal
app = modal.App.lookup('sdk', create_if_missing=True)
image = modal.Image.debian_slim('3.12').uv_pip_install('numpy')
";

pub fn begin(rest: &str) -> String {
    format!("{BEGINNING}{rest}")
}

/// Ids differ between the two sides; that one is there must not.
pub fn without_ids(mut request: wire::ImageGetOrCreateRequest) -> String {
    let hide = |id: &mut String| {
        if !id.is_empty() {
            *id = "id".into();
        }
    };
    hide(&mut request.app_id);
    let image = request.image.as_mut().unwrap();
    hide(&mut image.context_mount_id);
    image.base_images.iter_mut().for_each(|base| hide(&mut base.image_id));
    image.secret_ids.iter_mut().for_each(hide);
    image.volume_mounts.iter_mut().for_each(|mount| hide(&mut mount.volume_id));
    image.image_registry_config.iter_mut().for_each(|config| hide(&mut config.secret_id));
    format!("{request:#?}")
}

/// Every layer that was asked for, and the files of every mount that images are built with; ids hidden.
pub fn image_requests(modal: &FakeModal) -> BTreeSet<String> {
    let requests = modal.state().image_requests.clone();
    let contexts: BTreeSet<_> = requests
        .iter()
        .filter_map(|request| Some(request.image.as_ref()?.context_mount_id.clone()))
        .collect();
    let mut all: BTreeSet<_> = requests.into_iter().map(without_ids).collect();
    all.extend(contexts.iter().filter(|id| !id.is_empty()).map(|id| format!("{:#?}", modal.mount(id))));
    all
}
