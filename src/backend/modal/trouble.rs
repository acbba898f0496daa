//! Why a stage of a run did not succeed, until it is known whether another try makes sense.

use super::error::{ErrorKind, ModalError};
use crate::backend::Failure;
use crate::domain::Cause;
use crate::workspace::tree::TreeError;

#[derive(Debug)]
pub(super) enum Trouble {
    /// A call failed; nothing better is known than what the server said.
    Call(ModalError),
    Failure(Failure),
    /// The working tree is no longer what was hashed.
    TreeChanged(Failure),
    /// The run was told to stop while the stage went on.
    Stopped,
}

impl Trouble {
    /// Whether the server says that something named by id does not exist.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Call(error) if error.kind == ErrorKind::NotFound)
    }

    pub(super) fn is_auth(&self) -> bool {
        matches!(self, Self::Call(error) if error.kind == ErrorKind::Auth)
    }

    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Call(error) => error.into_failure(),
            Self::Failure(failure) | Self::TreeChanged(failure) => failure,
            Self::Stopped => Failure::new(Cause::Infra, "stopped before the command was started"),
        }
    }
}

impl From<ModalError> for Trouble {
    fn from(error: ModalError) -> Self {
        Self::Call(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<TreeError> for Trouble {
    fn from(error: TreeError) -> Self {
        if matches!(error, TreeError::Stopped) {
            return Self::Stopped;
        }
        let failure = Failure::new(Cause::Infra, error.to_string());
        let failure = match error.help() {
            Some(help) => failure.help(help),
            None => failure,
        };
        match error {
            TreeError::Changed { .. } => Self::TreeChanged(failure),
            _ => Self::Failure(failure),
        }
    }
}

/// A thread that accel made for blocking work died.
pub(super) fn broken_task(error: &tokio::task::JoinError) -> Trouble {
    Trouble::Failure(Failure::new(Cause::Infra, format!("a task of accel broke: {error}")))
}
