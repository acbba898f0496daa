//! What the end of a sandbox means for the run: one sentence, cause and remedy for each way to end.

use super::wire::client as wire;
use crate::backend::Failure;
use crate::domain::Cause;
use wire::generic_result::GenericStatus;

/// Whether the server says that the sandbox has ended.
pub(super) fn has_ended(result: Option<&wire::GenericResult>) -> bool {
    result.is_some_and(|result| result.status != GenericStatus::Unspecified as i32)
}

/// Why a sandbox that nobody asked to end did.
pub(super) fn failure(result: &wire::GenericResult) -> Failure {
    let Ok(status) = GenericStatus::try_from(result.status) else {
        let text =
            format!("the sandbox ended with a status that this accel does not know ({})", result.status);
        return Failure::new(Cause::Infra, with_details(text, result)).help("try again, or update accel");
    };
    let (cause, text, help) = explain(status);
    Failure::new(cause, with_details(text.to_owned(), result)).help(help)
}

fn explain(status: GenericStatus) -> (Cause, &'static str, &'static str) {
    match status {
        GenericStatus::Success | GenericStatus::Failure | GenericStatus::Unspecified => (
            Cause::Infra,
            "the sandbox's main process ended before the command",
            "try again; see status.modal.com if it persists",
        ),
        GenericStatus::Terminated => (
            Cause::Preempted,
            "the sandbox was terminated by somebody else while the command ran",
            "run again, or ask for it: retry = { on = [\"preempted\"] }",
        ),
        GenericStatus::Timeout => {
            (Cause::Timeout, "the sandbox reached the end of its lifetime", "raise the job's `timeout`")
        }
        GenericStatus::InitFailure => {
            (Cause::Image, "the sandbox could not start", "check the image's layers, volumes and secrets")
        }
        GenericStatus::InternalFailure => (
            Cause::Infra,
            "the sandbox failed inside Modal",
            "try again, or ask for it: retry = { on = [\"infra\"] }",
        ),
        GenericStatus::IdleTimeout => (
            Cause::Infra,
            "the sandbox was ended because nothing ran in it",
            "this machine was away for too long; run again",
        ),
        GenericStatus::MemoryManagerEviction => (
            Cause::Oom,
            "the sandbox was evicted because it used more memory than it asked for",
            "raise the job's `memory`, or ask for it: retry = { on = [\"oom\"], escalate = { memory = \"x2\" } }",
        ),
        GenericStatus::MemoryThrashingEviction => (
            Cause::Oom,
            "the sandbox was evicted because it was short of memory for too long",
            "raise the job's `memory`, or ask for it: retry = { on = [\"oom\"], escalate = { memory = \"x2\" } }",
        ),
        GenericStatus::KernelOomKill => (
            Cause::Oom,
            "the sandbox ran out of memory",
            "raise the job's `memory`, or ask for it: retry = { on = [\"oom\"], escalate = { memory = \"x2\" } }",
        ),
    }
}

/// The server's own words, which are written for users.
fn with_details(text: String, result: &wire::GenericResult) -> String {
    match result.exception.trim() {
        "" => text,
        exception => format!("{text}: {exception}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_end_has_its_own_sentence() {
        let mut sentences = std::collections::BTreeSet::new();
        for status in 2..=10 {
            let failure = failure(&wire::GenericResult { status, ..Default::default() });
            assert!(failure.help.is_some());
            assert!(sentences.insert(failure.message.clone()), "{}", failure.message);
        }
        let unknown =
            failure(&wire::GenericResult { status: 99, exception: " odd ".into(), ..Default::default() });
        assert_eq!(
            unknown.message,
            "the sandbox ended with a status that this accel does not know (99): odd"
        );
        assert!(!has_ended(Some(&wire::GenericResult::default())));
    }

    proptest! {
        #[test]
        fn any_end_has_a_sentence(status in any::<i32>(), exception in "(?s).{0,40}", exitcode in any::<i32>()) {
            let failure = failure(&wire::GenericResult { status, exception, exitcode, ..Default::default() });
            prop_assert!(!failure.message.is_empty() && failure.help.is_some());
        }
    }
}
