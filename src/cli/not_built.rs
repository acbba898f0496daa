//! What accel.toml may already say and this version cannot run yet. Says so plainly, before anything starts
//! where that can be known. Shrinks to nothing as the parts arrive.

use crate::plan::spec::Plan;

use super::error::CommandError;

/// Refuses a plan that needs what is not built.
pub fn refuse(plan: &Plan) -> Result<(), CommandError> {
    let Some(job) = plan.jobs.iter().find(|job| job.shard.is_some()) else { return Ok(()) };
    Err(CommandError::failed(format!("job `{}`: `shard` is not built yet in this version of accel", job.id))
        .help("remove `shard` to run the job in one piece"))
}
