//! `accel schema`: the JSON Schema of accel.toml.

use crate::cli::Outcome;
use crate::cli::context::Context;
use crate::config;

pub fn run(context: &Context<'_>) -> Outcome {
    context.printer.json(&config::schema())?;
    Ok(0)
}
