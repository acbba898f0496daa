//! Where in an image a layer is, and what is said about it when its build does not succeed.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::error::{ErrorKind, ModalError};
use super::super::image::LayerRequest;
use super::super::trouble::Trouble;
use super::super::wire::client as wire;
use crate::backend::Failure;
use crate::base::duration::ExactDuration;
use crate::domain::Cause;
use wire::generic_result::GenericStatus;

/// Where in which image a layer is.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) at: usize,
    pub(super) of: usize,
    pub(super) request: &'a LayerRequest,
}

impl Place<'_> {
    pub(super) fn title(&self) -> String {
        format!("image {} {}/{}: {}", self.name, self.at, self.of, self.request.title)
    }

    /// A definition that the server does not take is the layer's mistake.
    pub(super) fn refused(&self, error: ModalError) -> Trouble {
        if error.kind != ErrorKind::InvalidRequest {
            return error.into();
        }
        let text = format!("{}{}: Modal refuses it: {}", self.title(), self.origin(), error.message);
        Failure::new(Cause::Image, text).help("correct the layer").into()
    }

    pub(super) fn silent(&self, limit: Duration) -> Trouble {
        let limit = ExactDuration(limit);
        let text = format!("{}{}: nothing was heard of its build for {limit}", self.title(), self.origin());
        Failure::new(Cause::Image, text)
            .help("it may go on at Modal: run again to follow it; let the step print what it does")
            .into()
    }

    fn origin(&self) -> String {
        match self.request.origin.as_str() {
            "" => String::new(),
            origin => format!(" ({origin})"),
        }
    }

    pub(super) fn judge(&self, result: &wire::GenericResult, log: &VecDeque<String>) -> Result<(), Trouble> {
        let status = GenericStatus::try_from(result.status).unwrap_or(GenericStatus::Failure);
        let why = match status {
            GenericStatus::Success => return Ok(()),
            GenericStatus::Terminated => "its build was stopped from outside",
            GenericStatus::Timeout => "its build took too long",
            GenericStatus::MemoryManagerEviction
            | GenericStatus::MemoryThrashingEviction
            | GenericStatus::KernelOomKill => "its build ran out of memory",
            _ => "its build failed",
        };
        let mut text = format!("{}{}: {why}", self.title(), self.origin());
        if !result.exception.trim().is_empty() {
            text.push_str(&format!(": {}", result.exception.trim()));
        }
        for line in log {
            text.push_str("\n  ");
            text.push_str(line);
        }
        let help = match status {
            GenericStatus::Terminated | GenericStatus::InternalFailure => "try again",
            _ => "correct the layer; the layers below it are kept",
        };
        Err(Failure::new(Cause::Image, text).help(help).into())
    }
}
