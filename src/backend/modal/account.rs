//! Which account of Modal something belongs to, as a word that tells nothing about it.

use super::settings::{Credentials, Settings};
use crate::base::digest::DigestBuilder;

/// Equal for equal server, credentials and environment: ids that one account was given mean nothing to another.
pub fn account(settings: &Settings, credentials: &Credentials) -> String {
    let id = match credentials {
        Credentials::Token { id, .. } => id,
        Credentials::OAuth { client_id, .. } => client_id,
    };
    let mut digest = DigestBuilder::new("modal account 1");
    digest.field(settings.server_url.as_bytes()).field(id.as_bytes());
    digest.field(settings.environment.as_deref().unwrap_or_default().as_bytes());
    digest.finish().short()
}
