//! Images: every distinct request has one id; builds follow rules that tests give.

use std::collections::BTreeMap;

use accel::backend::modal::wire::client as wire;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;
use wire::generic_result::GenericStatus;

use super::install::{self, Install};
use super::state::{self, State};
use super::{Shared, storage};

/// How a layer is built.
#[derive(Debug, Clone)]
pub struct Build {
    pub logs: Vec<String>,
    pub end: BuildEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEnd {
    Success,
    /// With the text of the server.
    Failure(String),
    Terminated,
    TimedOut,
    OutOfMemory,
    /// It goes on for ever.
    Never,
}

impl BuildEnd {
    fn result(&self) -> Option<wire::GenericResult> {
        let (status, exception) = match self {
            Self::Success => (GenericStatus::Success, ""),
            Self::Failure(text) => (GenericStatus::Failure, text.as_str()),
            Self::Terminated => (GenericStatus::Terminated, ""),
            Self::TimedOut => (GenericStatus::Timeout, ""),
            Self::OutOfMemory => (GenericStatus::MemoryManagerEviction, ""),
            Self::Never => return None,
        };
        Some(wire::GenericResult { status: status as i32, exception: exception.into(), ..Default::default() })
    }
}

pub struct ImageRecord {
    pub environment: BTreeMap<String, String>,
    pub workdir: String,
    /// Mounts whose files were copied into it.
    pub copied: Vec<String>,
    /// Lines that install packages, of this layer and those below.
    pub installs: Vec<Install>,
    builder: String,
    build: Build,
    built: bool,
}

impl ImageRecord {
    pub fn is_built(&self) -> bool {
        self.built
    }

    /// An image of nothing, such as a snapshot.
    pub fn empty(builder: &str) -> Self {
        Self {
            environment: BTreeMap::new(),
            workdir: "/".into(),
            copied: Vec::new(),
            installs: Vec::new(),
            builder: builder.into(),
            build: Build { logs: Vec::new(), end: BuildEnd::Success },
            built: true,
        }
    }

    pub fn metadata(&self) -> wire::ImageMetadata {
        wire::ImageMetadata {
            python_version_info: Some("Python 3.12.10".into()),
            image_builder_version: Some(self.builder.clone()),
            workdir: Some(self.workdir.clone()),
            ..Default::default()
        }
    }

    /// Takes over what the lines say about variables and the working directory.
    fn apply(&mut self, lines: &[String], context_mount: &str) {
        for line in lines {
            let Some((instruction, rest)) = line.trim().split_once(' ') else { continue };
            match instruction {
                "ENV" => self.environment.extend(variables(rest)),
                "WORKDIR" => {
                    let words = shlex::split(rest).unwrap_or_default();
                    self.workdir = words.into_iter().next().unwrap_or_else(|| "/".into());
                }
                "COPY" if rest == ". /" => self.copied.push(context_mount.to_owned()),
                _ => {}
            }
        }
    }
}

fn variables(text: &str) -> Vec<(String, String)> {
    let words = shlex::split(text).unwrap_or_default();
    let pair = |word: &String| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    words.iter().filter_map(pair).collect()
}

pub fn get_or_create(
    state: &mut State,
    request: wire::ImageGetOrCreateRequest,
) -> Result<wire::ImageGetOrCreateResponse, Status> {
    let image = request.image.clone().unwrap_or_default();
    state.image_requests.push(request.clone());
    let unknown_mount =
        !image.context_mount_id.is_empty() && !state.mounts.contains_key(&image.context_mount_id);
    let unknown_secret = image.secret_ids.iter().any(|id| !state.secrets.contains_key(id));
    if unknown_mount || unknown_secret {
        return Err(Status::not_found(if unknown_mount { "Mount not found" } else { "Secret not found" }));
    }
    let mut record = match image.base_images.first() {
        None => ImageRecord::empty(&request.builder_version),
        Some(base) => {
            let parent = state.images.get(&base.image_id).filter(|parent| parent.built);
            let parent =
                parent.ok_or_else(|| Status::not_found(format!("Image {} not found", base.image_id)))?;
            ImageRecord {
                environment: parent.environment.clone(),
                workdir: parent.workdir.clone(),
                copied: parent.copied.clone(),
                installs: parent.installs.clone(),
                ..ImageRecord::empty(&request.builder_version)
            }
        }
    };
    record.apply(&image.dockerfile_commands, &image.context_mount_id);
    record.installs.extend(install::installs(&image));
    let forced = request.force_build;
    // The app and the flags say nothing about what is built.
    let identity =
        wire::ImageGetOrCreateRequest { app_id: String::new(), force_build: false, ..request.clone() };
    let image_id = state.id("im", &format!("{:?}", identity.encode_to_vec()));
    let lines = image.dockerfile_commands.join("\n");
    let known = state.images.get(&image_id).is_some_and(|known| known.built);
    if let Some((_, build)) = state.builds.iter().find(|(text, _)| lines.contains(text.as_str())) {
        record.build = build.clone();
        record.built = known && !forced;
    }
    let result = if record.built { BuildEnd::Success.result() } else { None };
    let metadata = Some(record.metadata());
    state.images.insert(image_id.clone(), record);
    Ok(wire::ImageGetOrCreateResponse { image_id, result, metadata })
}

/// Sends the log from an entry on, then the result.
pub async fn join(
    shared: Shared,
    request: wire::ImageJoinStreamingRequest,
    answers: mpsc::Sender<Result<wire::ImageJoinStreamingResponse, Status>>,
) {
    let (build, metadata, silent) = {
        let state = state::lock(&shared);
        let Some(image) = state.images.get(&request.image_id) else {
            let _ = answers.try_send(Err(Status::not_found("Image not found")));
            return;
        };
        (image.build.clone(), image.metadata(), image.built && !request.include_logs_for_finished)
    };
    let seen = request.last_entry_id.parse::<usize>().unwrap_or(0);
    for (index, line) in build.logs.iter().enumerate().skip(if silent { usize::MAX } else { seen }) {
        let log = wire::TaskLogs { data: line.clone(), timestamp: state::now(), ..Default::default() };
        let entry_id = (index + 1).to_string();
        let answer =
            wire::ImageJoinStreamingResponse { task_logs: vec![log], entry_id, ..Default::default() };
        if answers.send(Ok(answer)).await.is_err() {
            return;
        }
    }
    let Some(result) = build.end.result() else {
        tokio::time::sleep(std::time::Duration::from_secs_f32(request.timeout)).await;
        return;
    };
    if let Some(image) = state::lock(&shared).images.get_mut(&request.image_id) {
        image.built = build.end == BuildEnd::Success;
    }
    let answer = wire::ImageJoinStreamingResponse {
        result: Some(result),
        metadata: Some(metadata),
        eof: true,
        ..Default::default()
    };
    let _ = answers.send(Ok(answer)).await;
}

/// An image made of a running sandbox.
pub fn snapshot(state: &mut State) -> String {
    let builder = state.builder.clone();
    let id = state.new_id("im");
    state.images.insert(id.clone(), ImageRecord::empty(&builder));
    id
}

pub fn from_id(state: &State, id: &str) -> Result<wire::ImageFromIdResponse, Status> {
    let image = state.images.get(id).ok_or_else(|| Status::not_found(format!("Image {id} not found")))?;
    Ok(wire::ImageFromIdResponse { image_id: id.to_owned(), metadata: Some(image.metadata()) })
}

/// Files that were copied into an image.
pub fn copied_files(state: &State, id: &str) -> Vec<wire::MountFile> {
    let copied = state.images.get(id).map(|image| image.copied.as_slice()).unwrap_or_default();
    copied.iter().flat_map(|mount| storage::files(state, mount)).collect()
}
