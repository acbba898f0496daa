//! Ids of the server's things, asked for once: in this process by anybody, and across runs by what is remembered.
//!
//! A remembered id is used without asking. When the server then says that something does not exist, whoever used
//! it forgets all that it had from memory ([`Used::forget`]) and starts over, once.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::error::ModalError;
use super::trouble::Trouble;
use crate::store::Remembered;

/// What an id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    App,
    /// Not an id: the image builder version of an environment.
    Builder,
    Image,
    /// Not an id: the digests of an image's layers when it was last asked for.
    Layers,
    Mount,
    Secret,
    Volume,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Builder => "builder",
            Self::Image => "image",
            Self::Layers => "layers",
            Self::Mount => "mount",
            Self::Secret => "secret",
            Self::Volume => "volume",
        }
    }

    /// The call that tells it.
    fn method(self) -> &'static str {
        match self {
            Self::App => "AppGetOrCreate",
            Self::Builder => "EnvironmentGetOrCreate",
            Self::Image | Self::Layers => "ImageGetOrCreate",
            Self::Mount => "MountGetOrCreate",
            Self::Secret => "SecretGetOrCreate",
            Self::Volume => "VolumeGetOrCreate",
        }
    }
}

#[derive(Debug, Clone)]
struct Known {
    id: String,
    from_memory: bool,
}

type Flights = Mutex<HashMap<(Kind, String), Arc<OnceCell<Known>>>>;

/// Shared by all sessions of a run.
#[derive(Debug)]
pub(super) struct Ids {
    remembered: Remembered,
    flights: Flights,
}

/// The ids that one session used, and which of them came from memory.
#[derive(Debug, Default)]
pub(super) struct Used(Mutex<Vec<(Kind, String, bool)>>);

impl Ids {
    pub(super) fn new(remembered: Remembered) -> Self {
        Self { remembered, flights: Mutex::default() }
    }

    /// The id of `key`; `resolve` asks the server when nobody knows it. Of many who want the same, one asks.
    pub(super) async fn get(
        &self,
        kind: Kind,
        key: &str,
        used: &Used,
        resolve: impl Future<Output = Result<String, Trouble>>,
    ) -> Result<String, Trouble> {
        let known = self
            .cell(kind, key)
            .get_or_try_init(|| async {
                if let Some(id) = self.remembered(kind, key).await {
                    return Ok(Known { id, from_memory: true });
                }
                let id = Box::pin(resolve).await?;
                if id.is_empty() {
                    return Err(ModalError::nameless(kind.word(), kind.method()).into());
                }
                self.remember(kind, key, &id).await;
                Ok::<_, Trouble>(Known { id, from_memory: false })
            })
            .await?
            .clone();
        used.note(kind, key, known.from_memory);
        Ok(known.id)
    }

    /// As [`get`](Self::get), but nothing outlives the run.
    pub(super) async fn get_in_run(
        &self,
        kind: Kind,
        key: &str,
        used: &Used,
        resolve: impl Future<Output = Result<String, Trouble>>,
    ) -> Result<String, Trouble> {
        let cell = self.cell(kind, key);
        let resolve = async { Ok::<_, Trouble>(Known { id: Box::pin(resolve).await?, from_memory: false }) };
        let known = cell.get_or_try_init(|| resolve).await?;
        used.note(kind, key, known.from_memory);
        Ok(known.id.clone())
    }

    /// What was remembered by an earlier run.
    pub(super) async fn recall(&self, kind: Kind, key: &str) -> Option<String> {
        self.remembered(kind, key).await
    }

    /// The id if it is known already; asks nobody.
    pub(super) async fn peek(&self, kind: Kind, key: &str, used: &Used) -> Option<String> {
        let known = match self.cell(kind, key).get().cloned() {
            Some(known) => known,
            None => Known { id: self.remembered(kind, key).await?, from_memory: true },
        };
        used.note(kind, key, known.from_memory);
        Some(known.id)
    }

    fn cell(&self, kind: Kind, key: &str) -> Arc<OnceCell<Known>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flights.entry((kind, key.to_owned())).or_default())
    }

    /// A memory that cannot be read costs round trips, nothing else.
    async fn remembered(&self, kind: Kind, key: &str) -> Option<String> {
        self.remembered.get(kind.word(), key).await.ok().flatten()
    }

    pub(super) async fn remember(&self, kind: Kind, key: &str, id: &str) {
        if let Err(error) = self.remembered.put(kind.word(), key, id).await {
            tracing::debug!(%error, kind = kind.word(), "an id is not remembered");
        }
    }

    async fn forget(&self, kind: Kind, key: &str) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&(kind, key.to_owned()));
        if let Err(error) = self.remembered.forget(kind.word(), key).await {
            tracing::debug!(%error, kind = kind.word(), "an id is not forgotten");
        }
    }
}

impl Used {
    fn note(&self, kind: Kind, key: &str, from_memory: bool) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.push((kind, key.to_owned(), from_memory));
    }

    /// Forgets what came from memory. False when nothing did: then asking again would change nothing.
    pub(super) async fn forget(&self, ids: &Ids) -> bool {
        let used = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut any = false;
        for (kind, key, _) in used.iter().filter(|(_, _, from_memory)| *from_memory) {
            ids.forget(*kind, key).await;
            any = true;
        }
        any
    }
}
