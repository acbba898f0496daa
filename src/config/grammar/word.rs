//! Closed sets of words.

use serde_json::{Value as Json, json};

use super::{Definitions, Grammar};
use crate::config::codes;
use crate::config::model::{
    Installer, LocalEngine, McpExec, OnBusy, OnExceed, RuleTarget, StopSignal, WatchNotify,
};
use crate::config::reader::Reader;
use crate::config::tree::{Node, Value};
use crate::domain::{Cause, Place};

/// A closed set of words.
macro_rules! words {
    ($($type:ty : $expected:literal { $($word:literal => $value:expr),* $(,)? })*) => {
        $(
            impl Grammar for $type {
                fn decode(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
                    let words = [$($word),*];
                    let Value::String(text) = &node.value else {
                        reader.wrong_type(node, &format!("{} ({})", $expected, words.join(", ")));
                        return None;
                    };
                    match &**text {
                        $($word => return Some($value),)*
                        _ => {}
                    }
                    unknown_word(reader, node, text, $expected, &words);
                    None
                }

                fn schema(_: &mut Definitions) -> Json {
                    json!({ "enum": [$($word),*] })
                }
            }
        )*
    };
}

pub fn unknown_word(reader: &mut Reader, node: &Node<'_>, text: &str, expected: &str, words: &[&str]) {
    let list = words.join(", ");
    let help = match crate::base::suggest::nearest(text, words.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"? one of: {list}"),
        None => format!("write one of: {list}"),
    };
    reader.bad_text(codes::BAD_VALUE, node, format!("`{text}` is not {expected}"), &help);
}

words! {
    Place: "a place" { "local" => Place::Local, "modal" => Place::Modal }
    RuleTarget: "a place to run" {
        "local" => RuleTarget::Place(Place::Local),
        "modal" => RuleTarget::Place(Place::Modal),
        "auto" => RuleTarget::Auto,
        "race" => RuleTarget::Race,
    }
    OnBusy: "what to do while busy" {
        "queue" => OnBusy::Queue, "restart" => OnBusy::Restart, "ignore" => OnBusy::Ignore,
    }
    WatchNotify: "a way to notify" {
        "never" => WatchNotify::Never, "bell" => WatchNotify::Bell, "desktop" => WatchNotify::Desktop,
    }
    StopSignal: "a signal" {
        "SIGHUP" => StopSignal::Hangup,
        "SIGINT" => StopSignal::Interrupt,
        "SIGQUIT" => StopSignal::Quit,
        "SIGTERM" => StopSignal::Terminate,
        "SIGKILL" => StopSignal::Kill,
        "SIGUSR1" => StopSignal::User1,
        "SIGUSR2" => StopSignal::User2,
    }
    OnExceed: "what to do when the budget is used up" {
        "local" => OnExceed::Local, "stop" => OnExceed::Stop,
    }
    McpExec: "where agents may run code" {
        "none" => McpExec::None, "modal" => McpExec::Modal, "any" => McpExec::Any,
    }
    Installer: "an installer" { "uv" => Installer::Uv, "pip" => Installer::Pip }
    LocalEngine: "a way to make the image here" {
        "venv" => LocalEngine::Venv, "host" => LocalEngine::Host, "container" => LocalEngine::Container,
    }
    Cause: "a cause" {
        "infra" => Cause::Infra,
        "unreachable" => Cause::Unreachable,
        "auth" => Cause::Auth,
        "capacity" => Cause::Capacity,
        "queue" => Cause::Queue,
        "image" => Cause::Image,
        "oom" => Cause::Oom,
        "preempted" => Cause::Preempted,
        "timeout" => Cause::Timeout,
        "command" => Cause::Command,
    }
}
