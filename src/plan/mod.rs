//! Checked configuration → plan: jobs selected, matrix expanded, needs closed over, images flattened and
//! digested. Pure: files that images name are an argument, the environment is not consulted.

pub mod spec;

/// Python series of images that need one and name none.
pub const DEFAULT_PYTHON: &str = "3.12";
