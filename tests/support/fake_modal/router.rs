//! The command router: commands inside running sandboxes.

use std::pin::Pin;
use std::sync::{Arc, MutexGuard};

use accel::backend::modal::wire::task_command_router as wire;
use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::generated::task_command_router::task_command_router_server::TaskCommandRouter;
use super::process::{Descriptor, Exec, Exit};
use super::sandbox::{self, AfterDeath, Sandbox};
use super::state::{self, State};
use super::{Shared, image, storage};

pub struct Router(pub Shared);

type Answer<T> = Result<Response<T>, Status>;

fn gone() -> Status {
    Status::not_found("the task has ended or is unknown")
}

impl Router {
    fn state(&self) -> MutexGuard<'_, State> {
        state::lock(&self.0)
    }

    /// Whether the token opens this task.
    fn let_in(&self, headers: &MetadataMap, task_id: &str) -> Result<(), Status> {
        let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = bearer.strip_prefix("Bearer ").unwrap_or_default();
        let state = self.state();
        let fits = match &state.router_token {
            Some(wanted) => token == wanted,
            // Calls that name no sandbox are about tokens and streams alone.
            None => task_id.is_empty() || state.router_tokens.get(token).is_some_and(|of| of == task_id),
        };
        if fits { Ok(()) } else { Err(Status::unauthenticated("wrong token")) }
    }

    /// Something of a running sandbox.
    async fn of<T>(
        &self,
        headers: &MetadataMap,
        task_id: &str,
        look: impl FnOnce(&mut Sandbox) -> T,
    ) -> Result<T, Status> {
        self.let_in(headers, task_id)?;
        let found = {
            let mut state = self.state();
            let alive = |it: &&mut Sandbox| it.task_id == task_id && it.result().borrow().is_none();
            state.sandboxes.values_mut().find(alive).map(look)
        };
        match found {
            Some(found) => Ok(found),
            None => Err(self.after_death().await),
        }
    }

    async fn exec<T>(&self, request: &Request<T>, task_id: &str, exec_id: &str) -> Result<Arc<Exec>, Status> {
        let exec = self.of(request.metadata(), task_id, |it| it.execs.get(exec_id).cloned()).await?;
        exec.ok_or_else(|| Status::not_found(format!("exec {exec_id} not found")))
    }

    async fn after_death(&self) -> Status {
        after_death(&self.0).await
    }
}

async fn after_death(shared: &Shared) -> Status {
    let after = state::lock(shared).after_death;
    match after {
        AfterDeath::NotFound => gone(),
        AfterDeath::Silent => std::future::pending().await,
    }
}

/// How a command ended; an error if its sandbox went first.
async fn ended(shared: &Shared, exec: &Exec) -> Result<Exit, Status> {
    let mut exit = exec.exit();
    let exit = exit.wait_for(Option::is_some).await.map(|exit| *exit);
    if exec.is_lost() {
        return Err(after_death(shared).await);
    }
    exit.ok().flatten().ok_or_else(gone)
}

/// Sends output from an offset on, as it comes.
fn output<T: Send + 'static>(
    shared: &Shared,
    exec: Arc<Exec>,
    descriptor: Descriptor,
    offset: u64,
    message: impl Fn(Bytes, u64) -> T + Send + 'static,
) -> Answer<BoxStream<T>> {
    let (sender, receiver) = mpsc::channel(1);
    let shared = shared.clone();
    let chunk = state::lock(&shared).chunk;
    tokio::spawn(async move {
        let mut offset = usize::try_from(offset).unwrap();
        let mut output = exec.output(descriptor);
        loop {
            let (data, ended) = {
                let output = output.borrow_and_update();
                let rest = output.bytes.get(offset..).unwrap_or_default();
                (Bytes::copy_from_slice(&rest[..rest.len().min(chunk)]), output.ended)
            };
            if !data.is_empty() {
                let at = offset as u64;
                offset += data.len();
                if sender.send(Ok(message(data, at))).await.is_err() {
                    return;
                }
            } else if ended {
                if exec.is_lost() {
                    let status = tokio::select! {
                        status = after_death(&shared) => status,
                        () = sender.closed() => return,
                    };
                    let _ = sender.send(Err(status)).await;
                }
                return;
            } else {
                tokio::select! {
                    _ = output.changed() => {}
                    () = sender.closed() => return,
                }
            }
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver)) as Pin<Box<_>>))
}

/// Output that belongs to no command.
fn scripted(state: &State, offset: u64) -> Answer<BoxStream<wire::TaskExecStdioReadResponse>> {
    let offset = usize::try_from(offset).unwrap();
    let (sender, receiver) = mpsc::channel(state.output.len() + 1);
    for data in state.output[offset..].chunks(3) {
        let data = Bytes::copy_from_slice(data);
        let _ = sender.try_send(Ok(wire::TaskExecStdioReadResponse { data }));
    }
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver)) as Pin<Box<_>>))
}

#[tonic::async_trait]
impl TaskCommandRouter for Router {
    async fn task_exec_start(
        &self,
        request: Request<wire::TaskExecStartRequest>,
    ) -> Answer<wire::TaskExecStartResponse> {
        let (headers, _, request) = request.into_parts();
        let environment = {
            let state = self.state();
            let mut all = std::collections::BTreeMap::new();
            for id in &request.secret_ids {
                all.extend(state.secrets.get(id).cloned().unwrap_or_default());
            }
            all.extend(storage::values(&state, &request.secret_sources)?);
            all.extend(request.env.clone());
            all
        };
        let started = self.of(&headers, &request.task_id, |it| {
            it.exec(&request, environment)?;
            Ok::<_, Status>((it.id.clone(), it.execs[&request.exec_id].clone()))
        });
        let (id, exec) = started.await??;
        tokio::spawn(sandbox::meet_fate(self.0.clone(), id, exec));
        Ok(Response::new(wire::TaskExecStartResponse {}))
    }

    async fn task_exec_stdio_read(
        &self,
        request: Request<wire::TaskExecStdioReadRequest>,
    ) -> Answer<BoxStream<wire::TaskExecStdioReadResponse>> {
        if request.get_ref().task_id.is_empty() {
            self.let_in(request.metadata(), "")?;
            return scripted(&self.state(), request.get_ref().offset);
        }
        let exec = self.exec(&request, &request.get_ref().task_id, &request.get_ref().exec_id).await?;
        let request = request.into_inner();
        let descriptor = if request.file_descriptor == 0 { Descriptor::Stdout } else { Descriptor::Stderr };
        output(&self.0, exec, descriptor, request.offset, |data, _| wire::TaskExecStdioReadResponse { data })
    }

    async fn task_exec_stdin_write(
        &self,
        request: Request<wire::TaskExecStdinWriteRequest>,
    ) -> Answer<wire::TaskExecStdinWriteResponse> {
        let exec = self.exec(&request, &request.get_ref().task_id, &request.get_ref().exec_id).await?;
        let request = request.into_inner();
        let written = exec.write(request.offset, &request.data, request.eof).await;
        written.ok_or_else(|| Status::out_of_range("bytes before this offset are missing"))?;
        Ok(Response::new(wire::TaskExecStdinWriteResponse {}))
    }

    async fn task_exec_stdin_write_stream(
        &self,
        request: Request<Streaming<wire::TaskExecStdinWriteStreamRequest>>,
    ) -> Answer<wire::TaskExecStdinWriteStreamResponse> {
        use wire::task_exec_stdin_write_stream_request::Payload;
        let (headers, _, mut messages) = request.into_parts();
        let first = messages.message().await?.and_then(|message| message.payload);
        let Some(Payload::Start(start)) = first else {
            return Err(Status::invalid_argument("the first message must be a start"));
        };
        let exec = self.of(&headers, &start.task_id, |it| it.execs.get(&start.exec_id).cloned()).await?;
        let exec = exec.ok_or_else(|| Status::not_found("exec not found"))?;
        let mut offset = start.offset;
        while let Some(message) = messages.message().await? {
            let (data, eof) = match message.payload {
                Some(Payload::Data(data)) => (data, false),
                Some(Payload::End(_)) => (Bytes::new(), true),
                _ => return Err(Status::invalid_argument("a second start")),
            };
            let written = exec.write(offset, &data, eof).await;
            written.ok_or_else(|| Status::out_of_range("bytes before this offset are missing"))?;
            offset += data.len() as u64;
        }
        Ok(Response::new(wire::TaskExecStdinWriteStreamResponse {}))
    }

    async fn task_exec_stdin_status(
        &self,
        request: Request<wire::TaskExecStdinStatusRequest>,
    ) -> Answer<wire::TaskExecStdinStatusResponse> {
        let exec = self.exec(&request, &request.get_ref().task_id, &request.get_ref().exec_id).await?;
        let (num_bytes_written, closed) = exec.stdin_status();
        Ok(Response::new(wire::TaskExecStdinStatusResponse { num_bytes_written, closed }))
    }

    async fn task_exec_poll(
        &self,
        request: Request<wire::TaskExecPollRequest>,
    ) -> Answer<wire::TaskExecPollResponse> {
        use wire::task_exec_poll_response::ExitStatus;
        if request.get_ref().task_id.is_empty() {
            self.let_in(request.metadata(), "")?;
            let exit_status = Some(ExitStatus::Code(7));
            return Ok(Response::new(wire::TaskExecPollResponse { exit_status }));
        }
        let exec = self.exec(&request, &request.get_ref().task_id, &request.get_ref().exec_id).await?;
        let exit_status = exec.exit().borrow().map(|exit| match exit {
            Exit::Code(code) => ExitStatus::Code(code),
            Exit::Signal(signal) => ExitStatus::Signal(signal),
        });
        Ok(Response::new(wire::TaskExecPollResponse { exit_status }))
    }

    async fn task_exec_wait(
        &self,
        request: Request<wire::TaskExecWaitRequest>,
    ) -> Answer<wire::TaskExecWaitResponse> {
        use wire::task_exec_wait_response::ExitStatus;
        let exec = self.exec(&request, &request.get_ref().task_id, &request.get_ref().exec_id).await?;
        let exit_status = Some(match ended(&self.0, &exec).await? {
            Exit::Code(code) => ExitStatus::Code(code),
            Exit::Signal(signal) => ExitStatus::Signal(signal),
        });
        Ok(Response::new(wire::TaskExecWaitResponse { exit_status }))
    }

    async fn sandbox_stdio_read_v2(
        &self,
        request: Request<wire::SandboxStdioReadV2Request>,
    ) -> Answer<BoxStream<wire::SandboxStdioReadV2Response>> {
        let (headers, _, request) = request.into_parts();
        self.let_in(&headers, &request.task_id)?;
        // The worker serves what was printed also after the end.
        let (main, kept) = {
            let state = self.state();
            let found = state.sandboxes.values().find(|it| it.task_id == request.task_id);
            (found.ok_or_else(gone)?.main.clone(), state.main_output_kept)
        };
        let main = main.ok_or_else(|| Status::failed_precondition("the sandbox has no command"))?;
        let descriptor = if request.file_descriptor == 0 { Descriptor::Stdout } else { Descriptor::Stderr };
        let printed = main.output(descriptor).borrow().bytes.len();
        let offset = request.offset.max(printed.saturating_sub(kept) as u64);
        output(&self.0, main, descriptor, offset, |data, starting_offset| wire::SandboxStdioReadV2Response {
            data,
            starting_offset,
        })
    }

    async fn sandbox_stdin_write_v2(
        &self,
        request: Request<wire::SandboxStdinWriteV2Request>,
    ) -> Answer<wire::SandboxStdinWriteV2Response> {
        let (headers, _, request) = request.into_parts();
        let main = self.of(&headers, &request.task_id, |it| it.main.clone()).await?;
        let main = main.ok_or_else(|| Status::failed_precondition("the sandbox has no command"))?;
        let written = main.write(request.offset, &request.data, request.eof).await;
        written.ok_or_else(|| Status::out_of_range("bytes before this offset are missing"))?;
        Ok(Response::new(wire::SandboxStdinWriteV2Response {}))
    }

    async fn sandbox_wait_until_ready(
        &self,
        request: Request<wire::SandboxWaitUntilReadyTcrRequest>,
    ) -> Answer<wire::SandboxWaitUntilReadyTcrResponse> {
        self.of(request.metadata(), &request.get_ref().task_id, |_| ()).await?;
        Ok(Response::new(wire::SandboxWaitUntilReadyTcrResponse { ready_at: state::now() }))
    }

    async fn task_reload_volumes(
        &self,
        request: Request<wire::TaskReloadVolumesRequest>,
    ) -> Answer<wire::TaskReloadVolumesResponse> {
        self.of(request.metadata(), &request.get_ref().task_id, |_| ()).await?;
        Ok(Response::new(wire::TaskReloadVolumesResponse {}))
    }

    async fn task_snapshot_filesystem(
        &self,
        request: Request<wire::TaskSnapshotFilesystemRequest>,
    ) -> Answer<wire::TaskSnapshotFilesystemResponse> {
        self.of(request.metadata(), &request.get_ref().task_id, |_| ()).await?;
        let image_id = image::snapshot(&mut self.state());
        Ok(Response::new(wire::TaskSnapshotFilesystemResponse { image_id }))
    }
}
