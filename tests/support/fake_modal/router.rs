//! The command router of the tests' Modal.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use accel::backend::modal::wire::task_command_router as wire;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::State;
use super::generated::task_command_router::task_command_router_server::TaskCommandRouter;

pub struct Router(pub Arc<Mutex<State>>);

impl Router {
    fn let_in<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let wanted = self.0.lock().unwrap().router_token.as_ref().map(|token| format!("Bearer {token}"));
        match wanted {
            Some(wanted) if bearer != Some(&wanted) => Err(Status::unauthenticated("wrong token")),
            _ => Ok(()),
        }
    }
}

/// A stream of what is already there.
pub struct Ready<T>(std::vec::IntoIter<T>);

impl<T: Unpin> Stream for Ready<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

#[tonic::async_trait]
impl TaskCommandRouter for Router {
    async fn task_exec_poll(
        &self,
        request: Request<wire::TaskExecPollRequest>,
    ) -> Result<Response<wire::TaskExecPollResponse>, Status> {
        self.let_in(&request)?;
        let exit_status = Some(wire::task_exec_poll_response::ExitStatus::Code(7));
        Ok(Response::new(wire::TaskExecPollResponse { exit_status }))
    }

    async fn task_exec_stdio_read(
        &self,
        request: Request<wire::TaskExecStdioReadRequest>,
    ) -> Result<Response<BoxStream<wire::TaskExecStdioReadResponse>>, Status> {
        self.let_in(&request)?;
        let offset = usize::try_from(request.into_inner().offset).unwrap();
        let output = self.0.lock().unwrap().output.clone();
        let chunks: Vec<_> = output[offset..]
            .chunks(3)
            .map(|data| wire::TaskExecStdioReadResponse { data: bytes::Bytes::copy_from_slice(data) })
            .collect();
        Ok(Response::new(Box::pin(Ready(chunks.into_iter()))))
    }
}
