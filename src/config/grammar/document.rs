//! The top level of accel.toml.

use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use super::{
    Definitions, Grammar, ImageKeys, ItemName, JobKeys, Map, MapKey, NameGlob, ObjectName, PathGlob, Placed,
    Plain, RouteValue, SharedRouteKeys, keys,
};
use crate::base::money::Dollars;
use crate::base::size::Bytes;
use crate::config::codes;
use crate::config::model::{Layer, McpExec, OnExceed};
use crate::config::reader::Reader;
use crate::config::tree::Node;
use crate::diag::{Diagnostic, Location};

keys! {
    /// Jobs, the images they run in, and the rules that decide where.
    DocumentKeys as "accel.toml" {
        /// Version of this grammar: 1.
        version: Version,
        /// The accel versions that can read this file: `">=0.1"`.
        requires: Requires,
        /// Files read first, relative to this one; what is said here wins.
        extends: Vec<Placed<Plain>>,
        /// About the project.
        project: ProjectKeys,
        /// Where on Modal.
        modal: ModalKeys,
        /// Job keys that hold for every job that does not set them.
        defaults: Box<JobKeys>,
        /// What travels to Modal.
        sync: SyncKeys,
        /// What jobs run in.
        images: Map<ItemName, Box<ImageKeys>>,
        /// What can be run.
        jobs: Map<ItemName, Box<JobKeys>>,
        /// Shared rules; a job's own rules come first.
        route: Vec<Placed<SharedRouteKeys>>,
        /// What runs may cost.
        budget: BudgetKeys,
        /// What agents may do through `accel mcp`.
        mcp: McpKeys,
        /// Settings that are laid on top with `--profile` or ACCEL_PROFILE.
        profile: Profiles,
    }
}

keys! {
    /// Settings that are laid on top with `--profile` or ACCEL_PROFILE.
    ProfileKeys as "a profile" {
        /// About the project.
        project: ProjectKeys,
        /// Where on Modal.
        modal: ModalKeys,
        /// Job keys that hold for every job that does not set them.
        defaults: Box<JobKeys>,
        /// What travels to Modal.
        sync: SyncKeys,
        /// What jobs run in.
        images: Map<ItemName, Box<ImageKeys>>,
        /// What can be run.
        jobs: Map<ItemName, Box<JobKeys>>,
        /// Replaces every job's route.
        route: RouteValue,
        /// What runs may cost.
        budget: BudgetKeys,
        /// What agents may do through `accel mcp`.
        mcp: McpKeys,
    }
}

keys! {
    /// About the project.
    ProjectKeys as "[project]" {
        /// Its name. Default: the folder's.
        name: ObjectName,
    }
}

keys! {
    /// Where on Modal.
    ModalKeys as "[modal]" {
        /// The app that sandboxes belong to. Default: `accel-` and the project's name.
        app: ObjectName,
        /// The Modal environment. Default: the profile's of the Modal configuration.
        environment: ObjectName,
        /// Regions, as Modal names them.
        region: Vec<Placed<Plain>>,
        /// Cloud provider, as Modal names it.
        cloud: Plain,
    }
}

keys! {
    /// What travels to Modal.
    SyncKeys as "[sync]" {
        /// Leaves out what .gitignore, .ignore and .accelignore name. Default: true.
        gitignore: bool,
        /// Globs of ignored files that travel all the same.
        include: Vec<Placed<PathGlob>>,
        /// Globs of files that stay here.
        exclude: Vec<Placed<PathGlob>>,
        /// Refuses to send more than this. Default: 300MB.
        max_size: Bytes,
    }
}

keys! {
    /// What runs may cost.
    BudgetKeys as "[budget]" {
        /// Most for everything that one `accel run` starts on Modal: `"$0.50"`. A run that reaches it is stopped.
        per_run: Dollars,
        /// Most for everything of this project from this machine, since midnight.
        per_day: Dollars,
        /// Most for one day of sandboxes that are made before a run is known to need them. Default: there are none.
        prewarm_per_day: Dollars,
        /// What becomes of jobs without money: `local` runs them here, but for strict ones, `stop` runs nothing. Default: stop.
        on_exceed: OnExceed,
        /// What an hour of waiting is worth to you; `route = "auto"` weighs it against cost.
        value_of_time: Dollars,
    }
}

keys! {
    /// What agents may do through `accel mcp`.
    McpKeys as "[mcp]" {
        /// Globs of the jobs that they may run. Default: all.
        jobs: Vec<NameGlob>,
        /// Where they may run code of their own: none, modal or any. Default: none.
        exec: McpExec,
    }
}

/// The grammar's version; there is one.
#[derive(Debug, Clone, Copy)]
pub struct Version;

impl Grammar for Version {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let crate::config::tree::Value::Integer { value, text } = &node.value else {
            reader.wrong_type(node, "the version of the grammar, 1");
            return None;
        };
        if *value == Some(1) {
            return Some(Self);
        }
        let help = match *value {
            Some(value) if value > 1 => "install a newer accel, or write `version = 1`",
            _ => "write `version = 1`",
        };
        reader.bad_text(codes::BAD_VERSION, node, format!("this accel reads version 1, not {text}"), help);
        None
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "const": 1 })
    }
}

/// A range of accel versions.
#[derive(Debug, Clone)]
pub struct Requires;

impl Grammar for Requires {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Plain(text) = Plain::decode(node, reader)?;
        let Ok(range) = semver::VersionReq::parse(&text) else {
            let message = format!("`{text}` is no range of versions");
            reader.bad_text(
                codes::BAD_VERSION,
                node,
                message,
                "write a range: \">=0.1\", \"0.1\", \">=0.1, <2\"",
            );
            return None;
        };
        let this = semver::Version::parse(env!("CARGO_PKG_VERSION"));
        if this.is_ok_and(|this| range.matches(&this)) {
            return Some(Self);
        }
        let message = format!("this file needs accel {text}, this is {}", env!("CARGO_PKG_VERSION"));
        reader.bad_text(
            codes::BAD_VERSION,
            node,
            message,
            &format!("install accel {text}, or change `requires`"),
        );
        None
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "examples": [">=0.1"] })
    }
}

/// `[profile.NAME]`: each is decoded in its own layer.
#[derive(Debug, Clone, Default)]
pub struct Profiles(pub IndexMap<String, (Location, ProfileKeys)>);

impl Grammar for Profiles {
    fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let mut profiles = Self::default();
        for entry in reader.table(node, "a table of profiles")? {
            if let Some((message, help)) = ItemName::problem(&entry.key) {
                reader.report(Diagnostic::error(codes::BAD_NAME, message).at(entry.key_location).help(help));
            }
            let name = entry.key.clone().into_owned();
            let layer = match reader.layer() {
                Layer::Local => Layer::Local,
                _ => Layer::Profile(name.clone()),
            };
            let keys = reader.in_layer(layer, |reader| ProfileKeys::decode(&entry.node, reader));
            profiles.0.insert(name, (entry.key_location, keys.unwrap_or_default()));
        }
        Some(profiles)
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({
            "type": "object",
            "additionalProperties": ProfileKeys::schema(definitions),
            "propertyNames": { "pattern": ItemName::PATTERN },
        })
    }

    fn overlay(&mut self, stronger: Self) {
        for (name, (location, keys)) in stronger.0 {
            match self.0.get_mut(&name) {
                Some((_, weaker)) => weaker.overlay(keys),
                None => {
                    self.0.insert(name, (location, keys));
                }
            }
        }
    }
}
