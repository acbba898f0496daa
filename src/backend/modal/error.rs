//! Why a call to Modal did not succeed, and what it means for a run.

use tonic::Code;

use super::connect::ConnectError;
use crate::backend::Failure;
use crate::domain::Cause;

/// A failed call, after all its retries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct ModalError {
    pub kind: ErrorKind,
    /// The call: `SandboxCreateV2`.
    pub method: &'static str,
    /// The server's own words, which are written for users; or what went wrong on the way.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No connection, or it broke.
    Unreachable,
    /// The server's address is none.
    Address,
    /// Credentials missing or wrong.
    Auth,
    /// The credentials are right but may not do this.
    Permission,
    /// Limits of the workspace or of the platform.
    Exhausted,
    /// The server kept asking to come back later for longer than allowed.
    Throttled,
    InvalidRequest,
    NotFound,
    AlreadyExists,
    /// The thing is not in a state that allows this.
    Conflict,
    Unimplemented,
    /// No answer in the time the call had.
    DeadlineExceeded,
    /// Any other fault of the service.
    Service,
}

impl ErrorKind {
    pub fn of(code: Code) -> Self {
        match code {
            Code::Unauthenticated => Self::Auth,
            Code::PermissionDenied => Self::Permission,
            Code::ResourceExhausted => Self::Exhausted,
            Code::InvalidArgument | Code::OutOfRange => Self::InvalidRequest,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::FailedPrecondition | Code::Aborted => Self::Conflict,
            Code::Unimplemented => Self::Unimplemented,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::Service,
        }
    }

    /// The cause that a run fails with when nothing more is known. Whoever made the call may know more: that a name of
    /// accel.toml does not exist, say, which is no fault of Modal's.
    pub fn cause(self) -> Cause {
        match self {
            // For a run it is the same whether no connection is had or nothing comes over it.
            Self::Unreachable | Self::Address | Self::DeadlineExceeded => Cause::Unreachable,
            Self::Auth | Self::Permission => Cause::Auth,
            Self::Exhausted | Self::Throttled => Cause::Capacity,
            Self::InvalidRequest
            | Self::NotFound
            | Self::AlreadyExists
            | Self::Conflict
            | Self::Unimplemented
            | Self::Service => Cause::Infra,
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::Unreachable => "check the network, or run locally: --on local",
            Self::Address => "correct MODAL_SERVER_URL, or server_url in the file of `modal token new`",
            Self::Auth => "check MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run `modal token new`",
            Self::Permission => "ask the workspace's owner for the right, or use a token that has it",
            Self::Exhausted => "wait for other sandboxes to end, or raise the workspace's limits",
            Self::Throttled => "try again later, or raise MODAL_MAX_THROTTLE_WAIT",
            Self::Unimplemented => "this Modal server does not know the call; check MODAL_SERVER_URL",
            Self::InvalidRequest => {
                "look at what is asked for with `accel plan`; if it is right, accel is not"
            }
            Self::NotFound => "try again; `accel doctor` shows the workspace and environment that were asked",
            Self::Conflict => "try again; if it persists, a newer accel may be needed",
            Self::AlreadyExists | Self::DeadlineExceeded | Self::Service => {
                "try again; see status.modal.com if it persists"
            }
        }
    }
}

impl From<&ConnectError> for ErrorKind {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::Address(_) => Self::Address,
            ConnectError::Failed { .. } | ConnectError::Refused { .. } => Self::Unreachable,
        }
    }
}

impl ModalError {
    pub fn new(kind: ErrorKind, method: &'static str, message: impl Into<String>) -> Self {
        Self { kind, method, message: message.into(), attempts: 1 }
    }

    /// An answer without the id that it is about.
    pub(super) fn nameless(what: &str, method: &'static str) -> Self {
        Self::new(ErrorKind::Service, method, format!("the answer names no {what}"))
    }

    /// Of a status, or of the broken connection that it stands for.
    pub fn of_status(method: &'static str, status: &tonic::Status, attempts: u32) -> Self {
        let kind = if is_transport(status) { ErrorKind::Unreachable } else { ErrorKind::of(status.code()) };
        let source = std::error::Error::source(status);
        let message = match source {
            Some(source) if kind == ErrorKind::Unreachable => crate::net::describe(source),
            _ if status.message().is_empty() => format!("{:?}", status.code()),
            _ => status.message().to_owned(),
        };
        Self { kind, method, message, attempts }
    }

    fn text(&self) -> String {
        let what = match self.kind {
            ErrorKind::Unreachable | ErrorKind::Address => "cannot reach Modal",
            ErrorKind::Auth => "Modal refuses the credentials",
            ErrorKind::Permission => "Modal does not allow this",
            _ => "Modal",
        };
        let attempts =
            if self.attempts > 1 { format!(", {} attempts", self.attempts) } else { String::new() };
        format!("{what}: {} ({}{attempts})", self.message, self.method)
    }

    /// Whether the server itself refused, as against a fault that may pass.
    pub fn is_answer(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Permission
                | ErrorKind::InvalidRequest
                | ErrorKind::NotFound
                | ErrorKind::Unimplemented
        )
    }

    pub fn into_failure(self) -> Failure {
        Failure::new(self.kind.cause(), self.to_string()).help(self.kind.help())
    }
}

/// Whether the status was made here because the connection failed.
pub fn is_transport(status: &tonic::Status) -> bool {
    caused_by::<tonic::transport::Error>(status)
}

/// Whether an error of this type is among a status's reasons.
pub(super) fn caused_by<E: std::error::Error + 'static>(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<E>() {
            return true;
        }
        source = error.source();
    }
    false
}
