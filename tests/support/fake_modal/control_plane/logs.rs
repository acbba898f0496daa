//! What main processes printed.

use std::sync::Arc;
use std::time::Duration;

use accel::backend::modal::wire::client as wire;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::super::process::{Descriptor, Exec};
use super::super::sandbox::Sandbox;
use super::super::state::now;
use super::{Answer, ControlPlane, stream};

/// Longest that a request is held when it names no time.
const HOLD: Duration = Duration::from_secs(50);

impl ControlPlane {
    pub(super) fn past_logs(&self, request: wire::AppFetchLogsRequest) -> Answer<wire::AppFetchLogsResponse> {
        let text = {
            let state = self.state();
            let of = |it: &&Sandbox| it.id == request.sandbox_id || it.task_id == request.task_id;
            let main = state.sandboxes.values().find(of).and_then(|it| it.main.clone());
            main.map_or(Vec::new(), |main| main.output(Descriptor::Stdout).borrow().bytes.clone())
        };
        let line = |line: &str| wire::TaskLogs {
            data: line.to_owned(),
            timestamp: now(),
            file_descriptor: 1,
            ..Default::default()
        };
        let items = String::from_utf8_lossy(&text).split_inclusive('\n').map(line).collect();
        let batch = wire::TaskLogsBatch { items, sandbox_id: request.sandbox_id, ..Default::default() };
        self.answer(wire::AppFetchLogsResponse { batches: vec![batch] })
    }

    pub(super) fn follow_logs(
        &self,
        request: wire::SandboxGetLogsRequest,
    ) -> Answer<BoxStream<wire::TaskLogsBatch>> {
        let mut state = self.state();
        let sandbox = state.sandboxes.get_mut(&request.sandbox_id);
        let main = sandbox.ok_or_else(|| Status::not_found("Sandbox not found"))?.main.clone();
        drop(state);
        let hold = if request.timeout > 0.0 { Duration::from_secs_f32(request.timeout) } else { HOLD };
        stream(|answers| async move {
            match main {
                Some(main) => {
                    let _ = tokio::time::timeout(hold, logs(main, request, answers)).await;
                }
                None => {
                    let batch = wire::TaskLogsBatch { eof: true, ..Default::default() };
                    let _ = answers.send(Ok(batch)).await;
                }
            }
        })
    }
}

/// The output of a main process as batches of log lines.
async fn logs(
    main: Arc<Exec>,
    request: wire::SandboxGetLogsRequest,
    answers: mpsc::Sender<Result<wire::TaskLogsBatch, Status>>,
) {
    let descriptor = if request.file_descriptor == 2 { Descriptor::Stderr } else { Descriptor::Stdout };
    let mut offset = request.last_entry_id.parse::<usize>().unwrap_or(0);
    let mut output = main.output(descriptor);
    loop {
        let (text, ended) = {
            let output = output.borrow_and_update();
            let bytes = output.bytes.get(offset..).unwrap_or_default();
            // A character that is not complete yet waits for its end.
            let complete = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
            let complete = if output.ended { bytes.len() } else { complete };
            (String::from_utf8_lossy(&bytes[..complete]).into_owned(), output.ended)
        };
        let finished = text.is_empty() && ended;
        if finished || !text.is_empty() {
            offset += text.len();
            let item = wire::TaskLogs {
                data: text,
                timestamp: now(),
                file_descriptor: request.file_descriptor,
                ..Default::default()
            };
            let entry_id = offset.to_string();
            let batch =
                wire::TaskLogsBatch { items: vec![item], entry_id, eof: finished, ..Default::default() };
            if answers.send(Ok(batch)).await.is_err() || finished {
                return;
            }
            continue;
        }
        if output.changed().await.is_err() {
            return;
        }
    }
}
