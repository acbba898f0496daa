//! What is known of an image on Modal without building it.
//!
//! The server cannot be asked whether it has an image for a definition: that call builds it. So this is what accel
//! remembers of its own builds, checked with the server by id. An image that somebody else has built is not known here,
//! though a run would find it at once.

use super::build::{Image, Prepared, last};
use super::error::ErrorKind;
use super::ids::Kind;
use super::method::client;
use super::trouble::Trouble;
use super::wire::client as wire;
use crate::plan::spec::ImageSpec;

/// An image of accel.toml, and what Modal has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStanding {
    pub name: String,
    pub state: BuildState,
    /// The image builder version that it is built with: `2025.06`.
    pub builder: &'static str,
    /// The base first.
    pub layers: Vec<LayerStanding>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildState {
    /// As accel.toml has it now.
    Built { id: String },
    /// It was built, and Modal has it no longer.
    Gone { id: String },
    /// It was built with other layers.
    Changed,
    /// Never, as far as accel knows.
    NotBuilt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerStanding {
    /// What it does, for people: `pip install numpy`.
    pub title: String,
    /// `accel.toml:31`; empty for the base.
    pub origin: String,
    pub change: LayerChange,
}

/// A layer, compared with that of the last build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerChange {
    /// The same, or there is nothing to compare with.
    None,
    /// It differs, and all below is the same.
    Changed,
    /// Above one that differs: it is built again with it.
    Above,
}

impl Image<'_> {
    pub(super) async fn standing(&self, spec: &ImageSpec) -> Result<ImageStanding, Trouble> {
        let Prepared { layers, digests, builder } = self.prepare(spec).await?;
        let before = self.layers_before(&spec.name).await;
        let first = before.as_ref().and_then(|before| super::build::first_difference(&digests, before));
        let id = self.ids.recall(Kind::Image, &last(&digests)).await;
        let state = match (id, &before) {
            (Some(id), _) if self.exists(&id).await? => BuildState::Built { id },
            (Some(id), _) => BuildState::Gone { id },
            (None, Some(_)) if first.is_some() => BuildState::Changed,
            (None, _) => BuildState::NotBuilt,
        };
        let change = |at: usize| match first {
            Some(first) if matches!(state, BuildState::Changed) && at == first => LayerChange::Changed,
            Some(first) if matches!(state, BuildState::Changed) && at > first => LayerChange::Above,
            _ => LayerChange::None,
        };
        let standings = layers.iter().enumerate().map(|(at, layer)| LayerStanding {
            title: layer.request.title.clone(),
            origin: layer.request.origin.clone(),
            change: change(at),
        });
        let layers = standings.collect();
        Ok(ImageStanding { name: spec.name.clone(), state, builder: builder.as_str(), layers })
    }

    /// Its id where it is known to be built.
    pub(super) async fn known(&self, spec: &ImageSpec) -> Result<Option<String>, Trouble> {
        let Prepared { layers, digests, .. } = self.prepare(spec).await?;
        let options = self.link.settings.build;
        let forced = options.force_build || options.ignore_cache;
        if forced || layers.iter().any(|layer| layer.request.force_build) {
            return Ok(None);
        }
        Ok(self.ids.peek(Kind::Image, &last(&digests), self.used).await)
    }

    async fn exists(&self, id: &str) -> Result<bool, Trouble> {
        let request = wire::ImageFromIdRequest { image_id: id.to_owned() };
        match self.link.plane.call(client::IMAGE_FROM_ID, request).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
