//! A project whose jobs run on the tests' Modal.

use crate::fake_modal::FakeModal;
use crate::world::World;

/// `jobs` is the rest of the accel.toml.
pub fn world(modal: &FakeModal, jobs: &str) -> World {
    let config = format!("version = 1\n[project]\nname = 'demo'\n[defaults]\nroute = 'modal'\n{jobs}");
    World::new().file("accel.toml", config).envs(modal.variables())
}
