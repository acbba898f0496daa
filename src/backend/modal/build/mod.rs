//! An image on Modal: its layers asked for one after the other, builds followed to their end.
//!
//! The id of the last layer is remembered under a digest of every request, the contents of build contexts included,
//! so that a known image costs no call. What must stay true: a failed build names its layer, the line of accel.toml
//! that made it, and the end of its log.

mod files;
mod log;
mod place;

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::error::{ErrorKind, ModalError};
use super::ids::{Ids, Kind, Used};
use super::image::context::ContextMount;
use super::image::{LayerIds, LayerRequest, compile};
use super::limits::{Pulse, StoodStill};
use super::link::Link;
use super::method::client;
use super::reporter::Reporter;
use super::resolve;
use super::trouble::{Trouble, broken_task};
use super::upload::Upload;
use super::wire::client as wire;
use crate::backend::Failure;
use crate::base::digest::{Digest, DigestBuilder};
use crate::domain::Cause;
use crate::event::{Step, StepOutcome};
use crate::plan::spec::ImageSpec;
use files::{ContextContent, context_files};
use log::Log;
use place::Place;
use wire::generic_result::GenericStatus;

/// How long the server holds a question for news of a build.
const HOLD: Duration = Duration::from_secs(55);
/// Streams of one build that may fail.
const FAILED_STREAMS: u32 = 2;
const PAUSE: Duration = Duration::from_secs(1);

/// What images are made with.
pub(super) struct Image<'a> {
    pub(super) link: &'a Link,
    pub(super) ids: &'a Ids,
    pub(super) used: &'a Used,
    pub(super) reporter: &'a Reporter,
    pub(super) app_name: &'a str,
    /// The folder of accel.toml.
    pub(super) root: &'a Path,
}

/// An image that can be asked for.
pub(super) struct Prepared {
    pub(super) layers: Vec<Layer>,
    /// One per layer: of it and all below.
    pub(super) digests: Vec<Digest>,
    pub(super) builder: super::image::Builder,
}

/// A layer's request and the local files that its build sees.
pub(super) struct Layer {
    pub(super) request: LayerRequest,
    files: Vec<ContextContent>,
}

impl Image<'_> {
    /// The id of the built image.
    pub(super) async fn id(&self, spec: &ImageSpec) -> Result<String, Trouble> {
        let Prepared { layers, digests, builder } = self.prepare(spec).await?;
        let build = self.build(spec, &layers, &digests, builder);
        let options = self.link.settings.build;
        let forced = options.force_build || options.ignore_cache;
        if forced || layers.iter().any(|layer| layer.request.force_build) {
            // Built once in a run, however many jobs use it.
            let key = format!("{} forced", last(&digests));
            return self.ids.get_in_run(Kind::Image, &key, self.used, build).await;
        }
        self.ids.get(Kind::Image, &last(&digests), self.used, build).await
    }

    /// What is to be asked for, and what it is known by.
    pub(super) async fn prepare(&self, spec: &ImageSpec) -> Result<Prepared, Trouble> {
        let builder = resolve::builder(self.link, self.ids, self.used).await?;
        let requests = compile(spec, builder).map_err(|error| {
            Failure::new(Cause::Image, format!("image {}: {error}", spec.name)).help(error.help())
        })?;
        let layers = self.with_contexts(requests).await?;
        let digests = self.digests(&layers, builder);
        Ok(Prepared { layers, digests, builder })
    }

    /// Reads and hashes the files that layers copy.
    async fn with_contexts(&self, requests: Vec<LayerRequest>) -> Result<Vec<Layer>, Trouble> {
        let root: Arc<Path> = self.root.into();
        let read = tokio::task::spawn_blocking(move || {
            let layers = requests.into_iter().map(|request| {
                let files = match &request.context {
                    Some(context) => context_files(context, &root)?,
                    None => Vec::new(),
                };
                Ok(Layer { request, files })
            });
            layers.collect::<Result<Vec<_>, Failure>>()
        });
        Ok(read.await.map_err(|error| broken_task(&error))??)
    }

    /// For each layer: it, all below it, and everything that its build sees.
    fn digests(&self, layers: &[Layer], builder: super::image::Builder) -> Vec<Digest> {
        let mut below = Digest::of(b"");
        let digest = |layer: &Layer| {
            let mut digest = DigestBuilder::new("modal layer 1");
            let options = self.link.settings.build;
            let request = layer.request.to_wire(builder, options, &LayerIds::default());
            digest.field(below.to_string().as_bytes()).field(&request.encode_to_vec());
            digest.field(format!("{:?}", layer.request.secrets).as_bytes());
            digest.field(format!("{:?}", layer.request.registry).as_bytes());
            digest.field(format!("{:?}", layer.request.volumes).as_bytes());
            if let Some(ContextMount::Global(name)) = &layer.request.context {
                digest.field(name.as_bytes());
            }
            for file in &layer.files {
                digest.field(file.remote.as_bytes()).field(&file.mode.to_le_bytes());
                digest.field(&file.content.sha256.0);
            }
            below = digest.finish();
            below
        };
        layers.iter().map(digest).collect()
    }

    /// Asks for every layer in turn, while what layers need is resolved and sent.
    async fn build(
        &self,
        spec: &ImageSpec,
        layers: &[Layer],
        digests: &[Digest],
        builder: super::image::Builder,
    ) -> Result<String, Trouble> {
        let begun = self.reporter.begin(Step::Image, format!("image {}", spec.name)).await;
        let needs: Vec<Needs> = layers.iter().map(|_| Needs::default()).collect();
        // Uploads and look-ups of all layers begin at once; each layer waits for its own.
        let providing = super::backend::all(
            layers
                .iter()
                .zip(&needs)
                .map(|(layer, needs)| async { self.needs(layer, needs).await.map(drop) }),
        );
        let chain = async {
            let app = resolve::app(self.link, self.ids, self.used, self.app_name).await?;
            let mut parent = String::new();
            let mut built = Built::Nothing;
            for (at, (layer, needs)) in layers.iter().zip(&needs).enumerate() {
                let provided = self.needs(layer, needs).await?;
                let ids = LayerIds {
                    app: &app,
                    parent: &parent,
                    context_mount: &provided.context_mount,
                    secrets: provided.secrets.clone(),
                    registry_secret: &provided.registry_secret,
                    volumes: provided.volumes.clone(),
                };
                let request = layer.request.to_wire(builder, self.link.settings.build, &ids);
                let place = Place { name: &spec.name, at: at + 1, of: layers.len(), request: &layer.request };
                let known = Known { digests, first: matches!(built, Built::Nothing) };
                let pulse = Pulse::new();
                let limit = self.link.limits.build;
                let layer = pulse.keeps(limit, self.layer(request, &place, &known, &pulse)).await;
                let (id, fresh) = layer.map_err(|StoodStill| place.silent(limit))??;
                if fresh {
                    built = Built::Some;
                }
                parent = id;
            }
            Ok((parent, built))
        };
        let (_, (id, built)) = tokio::try_join!(providing, chain)?;
        self.remember_layers(spec, digests).await;
        let outcome = if matches!(built, Built::Some) { StepOutcome::Done } else { StepOutcome::Cached };
        self.reporter.end(begun, outcome).await;
        Ok(id)
    }

    async fn needs<'n>(&self, layer: &Layer, needs: &'n Needs) -> Result<&'n Provided, Trouble> {
        needs.0.get_or_try_init(|| Box::pin(self.provide(layer))).await
    }

    async fn provide(&self, layer: &Layer) -> Result<Provided, Trouble> {
        let (link, ids, used) = (self.link, self.ids, self.used);
        let request = &layer.request;
        let registry = async {
            let Some(name) = request.registry_secret() else { return Ok(String::new()) };
            let secret = crate::plan::spec::Secret { name: name.to_owned(), required_keys: Vec::new() };
            resolve::secret(link, ids, used, &secret).await
        };
        let secrets = request.secrets.iter();
        let secrets = secrets.map(|secret| resolve::build_secret(link, ids, used, self.app_name, secret));
        let volumes = request.volumes.values().map(|volume| resolve::volume(link, ids, used, volume));
        let (context_mount, registry_secret, secrets, volumes) = tokio::try_join!(
            self.context(layer),
            registry,
            super::backend::all(secrets),
            super::backend::all(volumes),
        )?;
        Ok(Provided { context_mount, registry_secret, secrets, volumes })
    }

    /// The mount of the files that a layer's build sees; empty without.
    async fn context(&self, layer: &Layer) -> Result<String, Trouble> {
        match &layer.request.context {
            None => return Ok(String::new()),
            Some(ContextMount::Global(name)) => {
                return resolve::global_mount(self.link, self.ids, self.used, name).await;
            }
            Some(_) => {}
        }
        let mut key = DigestBuilder::new("modal context 1");
        let mut files = Vec::new();
        for file in &layer.files {
            key.field(file.remote.as_bytes()).field(&file.mode.to_le_bytes()).field(&file.content.sha256.0);
            files.push(wire::MountFile {
                filename: file.remote.clone(),
                sha256_hex: file.content.sha256.to_string(),
                mode: Some(file.mode),
                size: None,
            });
        }
        let create = async {
            let contents = layer.files.iter().map(|file| file.content.clone()).collect();
            let held = HashSet::new();
            let upload = Upload { link: self.link, reporter: self.reporter };
            let app = resolve::app(self.link, self.ids, self.used, self.app_name);
            let (earliest_checked_at, app_id) = tokio::try_join!(upload.send(contents, &held), app)?;
            let request = wire::MountGetOrCreateRequest {
                object_creation_type: wire::ObjectCreationType::AnonymousOwnedByApp as i32,
                files,
                app_id,
                earliest_checked_at,
                ..Default::default()
            };
            Ok(self.link.plane.call(client::MOUNT_GET_OR_CREATE, request).await?.mount_id)
        };
        self.ids.get(Kind::Mount, &key.finish().to_string(), self.used, create).await
    }

    /// One layer, built if it has to be. Whether it was.
    async fn layer(
        &self,
        request: wire::ImageGetOrCreateRequest,
        place: &Place<'_>,
        known: &Known<'_>,
        pulse: &Pulse,
    ) -> Result<(String, bool), Trouble> {
        let answer = self.link.plane.call(client::IMAGE_GET_OR_CREATE, request).await;
        let answer = answer.map_err(|error| place.refused(error))?;
        if answer.image_id.is_empty() {
            return Err(ModalError::nameless("image", "ImageGetOrCreate").into());
        }
        if let Some(result) =
            answer.result.filter(|result| result.status != GenericStatus::Unspecified as i32)
        {
            return place.judge(&result, &VecDeque::new()).map(|()| (answer.image_id, false));
        }
        let changed = if known.first { self.changed(place, known.digests).await } else { None };
        let title = place.title();
        self.reporter.progress(Step::Image, place.at as u64, Some(place.of as u64), title.clone()).await;
        self.reporter.log(Step::Image, changed.map_or(title.clone(), |why| format!("{title} ({why})"))).await;
        let mut log = Log::default();
        let result = self.follow(&answer.image_id, &mut log, pulse).await?;
        place.judge(&result, &log.tail).map(|()| (answer.image_id, true))
    }

    /// Reads the build's log to its end.
    async fn follow(
        &self,
        image: &str,
        log: &mut Log,
        pulse: &Pulse,
    ) -> Result<wire::GenericResult, Trouble> {
        let (mut last_entry, mut result, mut failed) = (String::new(), None, 0);
        loop {
            let request = wire::ImageJoinStreamingRequest {
                image_id: image.to_owned(),
                timeout: HOLD.as_secs_f32(),
                last_entry_id: last_entry.clone(),
                ..Default::default()
            };
            let asked = Instant::now();
            match self.read_log(request, log, &mut last_entry, &mut result, pulse).await {
                Ok(()) => {
                    failed = 0;
                    // A server that does not hold the question is not asked in a busy loop.
                    if result.is_none() && asked.elapsed() < PAUSE {
                        self.link.clock().sleep(PAUSE).await;
                    }
                }
                Err(error) if passes(&error) && failed < FAILED_STREAMS => {
                    failed += 1;
                    self.link.clock().sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
            if let Some(result) = result {
                if let Some(line) = log.rest() {
                    self.reporter.log(Step::Image, line).await;
                }
                return Ok(result);
            }
        }
    }

    async fn read_log(
        &self,
        request: wire::ImageJoinStreamingRequest,
        log: &mut Log,
        last_entry: &mut String,
        result: &mut Option<wire::GenericResult>,
        pulse: &Pulse,
    ) -> Result<(), ModalError> {
        let method = client::IMAGE_JOIN_STREAMING;
        let mut stream = self.link.plane.stream(method, request).await?;
        loop {
            let next = stream.message().await;
            let Some(news) = next.map_err(|status| self.link.plane.failed(method.name, &status, 1))? else {
                return Ok(());
            };
            if !news.entry_id.is_empty() {
                *last_entry = news.entry_id;
            }
            for entry in news.task_logs {
                pulse.beat();
                for line in log.lines(&entry.data) {
                    self.reporter.log(Step::Image, line).await;
                }
            }
            // Lines may follow, so the stream is read on to its end.
            let told = news.result.filter(|result| result.status != GenericStatus::Unspecified as i32);
            *result = result.take().or(told);
        }
    }

    /// Why this layer is built, when the image was built before.
    async fn changed(&self, place: &Place<'_>, digests: &[Digest]) -> Option<String> {
        let before = self.layers_before(place.name).await?;
        match first_difference(digests, &before)? {
            at if at + 1 == place.at && at >= before.len() => Some("new since the last build".to_owned()),
            at if at + 1 == place.at => Some("changed since the last build".to_owned()),
            at if at + 1 < place.at => Some(format!("layer {} changed since the last build", at + 1)),
            _ => None,
        }
    }

    /// The layers of the last build, as [`remember_layers`](Self::remember_layers) has them.
    pub(super) async fn layers_before(&self, name: &str) -> Option<Vec<String>> {
        let before = self.ids.recall(Kind::Layers, &self.layers_key(name)).await?;
        Some(before.split(' ').map(str::to_owned).collect())
    }

    async fn remember_layers(&self, spec: &ImageSpec, digests: &[Digest]) {
        let text: Vec<_> = digests.iter().map(Digest::short).collect();
        self.ids.remember(Kind::Layers, &self.layers_key(&spec.name), &text.join(" ")).await;
    }

    /// Images of other projects may have the same name.
    fn layers_key(&self, name: &str) -> String {
        format!("{} {name}", self.app_name)
    }
}

/// The lowest layer that was not built before; none where all were.
pub(super) fn first_difference(digests: &[Digest], before: &[String]) -> Option<usize> {
    let mut before = before.iter();
    digests.iter().position(|now| before.next().is_none_or(|before| now.short() != *before))
}

enum Built {
    Nothing,
    Some,
}

/// What is known when a layer is asked for.
struct Known<'a> {
    digests: &'a [Digest],
    /// Nothing below had to be built.
    first: bool,
}

#[derive(Default)]
struct Needs(OnceCell<Provided>);

struct Provided {
    context_mount: String,
    registry_secret: String,
    secrets: Vec<String>,
    volumes: Vec<String>,
}

fn passes(error: &ModalError) -> bool {
    matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Service | ErrorKind::DeadlineExceeded)
}

pub(super) fn last(digests: &[Digest]) -> String {
    digests.last().map(ToString::to_string).unwrap_or_default()
}
