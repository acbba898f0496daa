//! `accel init`'s work: look at a project, decide on images and jobs, write them down with comments.
//!
//! Pipeline: folder → [`Survey`] (what is there) → [`Draft`] (what accel.toml should hold) → text. Files that
//! cannot be understood are named, never fatal. The text must pass `accel check`; a test holds it to that.

mod draft;
mod package_json;
mod python;
mod recipes;
mod render;
mod survey;
mod taskfile;
mod toolchains;

use std::path::Path;

pub use draft::Draft;
pub use survey::Survey;

/// The draft for a folder and its text.
pub fn draft(folder: &Path) -> (Draft, String) {
    let draft = Draft::from_survey(Survey::of(folder));
    let text = render::render(&draft);
    (draft, text)
}
