//! `accel watch`: jobs, and again whenever what they follow changes.

use crate::cli::Outcome;
use crate::cli::args::WatchArgs;
use crate::cli::context::Context;
use crate::cli::watching::{self, Noticing};

pub fn run(args: &WatchArgs, context: &Context<'_>) -> Outcome {
    let noticing = if args.poll { Noticing::Looking } else { Noticing::Told };
    watching::watch(&args.jobs, noticing, "accel watch", context)
}
