//! What accel.toml may already say and this version cannot run yet. Says so plainly, before anything starts
//! where that can be known. Shrinks to nothing as the parts arrive.

use crate::backend::{Backend, BoxFuture, Failure, OpenRequest, Session};
use crate::domain::{Cause, Place};
use crate::plan::spec::Plan;

use super::error::CommandError;

/// Modal as a place that cannot be reached.
pub struct ModalBackend;

impl Backend for ModalBackend {
    fn place(&self) -> Place {
        Place::Modal
    }

    fn open(&self, _request: OpenRequest) -> BoxFuture<'_, Result<Box<dyn Session>, Failure>> {
        let failure =
            Failure::new(Cause::Unreachable, "running on Modal is not built yet in this version of accel")
                .help("run the job on this machine with `--on local`");
        Box::pin(std::future::ready(Err(failure)))
    }
}

/// Refuses a plan that needs what is not built.
pub fn refuse(plan: &Plan) -> Result<(), CommandError> {
    let Some(job) = plan.jobs.iter().find(|job| job.shard.is_some()) else { return Ok(()) };
    Err(CommandError::failed(format!("job `{}`: `shard` is not built yet in this version of accel", job.id))
        .help("remove `shard` to run the job in one piece"))
}
