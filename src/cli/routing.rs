//! Route decisions for a run: facts of this machine, gathered when a rule asks, and the engine's question.

use std::sync::Arc;

use crate::config::model::Config;
use crate::engine::{Decide, Decision};
use crate::plan::spec::PlannedJob;
use crate::route;

use super::ambient::Ambient;

