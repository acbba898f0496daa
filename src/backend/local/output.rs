//! A job's output as events.

use bytes::Bytes;

use crate::backend::BoxFuture;
use crate::domain::{JobId, Stream};
use crate::event::{Emitter, Event};
use crate::process::Observer;

pub(super) struct AsEvents {
    pub(super) job: JobId,
    pub(super) emitter: Emitter,
}

impl Observer for AsEvents {
    fn output(&self, stream: Stream, data: Bytes) -> BoxFuture<'_, ()> {
        Box::pin(self.emitter.emit(Event::Output { job: self.job.clone(), stream, data }))
    }
}
