//! Masks secrets in events, before any sink sees them.
//!
//! The one place where it happens. What must stay true: each stream of each job is masked as one text, whatever
//! chunks it comes in; what is held back is shown before the job is said to be finished, and after [`HOLD`] to a
//! reader who waits for a prompt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::{JobId, Stream};
use crate::event::{Event, SideEnd, Stamped, Verdict};
use crate::redact::{HOLD, Masker, Secrets};

/// The masking of one run.
pub(super) struct Masking {
    secrets: Secrets,
    streams: BTreeMap<(JobId, Stream), Streaming>,
}

struct Streaming {
    masker: Masker,
    /// When it began to hold something back.
    since_ms: Option<u64>,
}

impl Masking {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self { secrets, streams: BTreeMap::new() }
    }

    /// What the sinks see of an event.
    pub(super) fn mask(&mut self, stamped: Stamped) -> Vec<Stamped> {
        if self.secrets.is_empty() {
            return vec![stamped];
        }
        let Stamped { at_ms, side, event } = stamped;
        match event {
            Event::Output { job, stream, data } => {
                let streaming = self
                    .streams
                    .entry((job.clone(), stream))
                    .or_insert_with(|| Streaming { masker: Masker::new(&self.secrets), since_ms: None });
                let mut shown = Vec::with_capacity(data.len());
                streaming.masker.push(&data, &mut shown);
                streaming.since_ms =
                    streaming.masker.is_holding().then(|| streaming.since_ms.unwrap_or(at_ms));
                output(at_ms, &job, stream, shown).into_iter().collect()
            }
            Event::JobFinished { ref job, .. } => {
                let mut shown = self.finish(job, at_ms);
                shown.push(Stamped { at_ms, side, event: self.mask_texts(event) });
                shown
            }
            event => vec![Stamped { at_ms, side, event: self.mask_texts(event) }],
        }
    }

    /// Shows what has waited long enough.
    pub(super) fn flush(&mut self, now_ms: u64) -> Vec<Stamped> {
        let hold = u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX);
        let mut shown = Vec::new();
        for ((job, stream), streaming) in &mut self.streams {
            if streaming.since_ms.is_some_and(|since| now_ms >= since.saturating_add(hold)) {
                streaming.since_ms = None;
                let mut bytes = Vec::new();
                streaming.masker.flush(&mut bytes);
                shown.extend(output(now_ms, job, *stream, bytes));
            }
        }
        shown
    }

    /// Until [`flush`](Self::flush) has something to show if nothing else comes.
    pub(super) fn wait(&self, now_ms: u64) -> Option<Duration> {
        let since = self.streams.values().filter_map(|streaming| streaming.since_ms).min()?;
        Some(HOLD.saturating_sub(Duration::from_millis(now_ms.saturating_sub(since))))
    }

    fn finish(&mut self, job: &JobId, at_ms: u64) -> Vec<Stamped> {
        let mut shown = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(mut streaming) = self.streams.remove(&(job.clone(), stream)) {
                let mut bytes = Vec::new();
                streaming.masker.finish(&mut bytes);
                shown.extend(output(at_ms, job, stream, bytes));
            }
        }
        shown
    }

    fn mask_texts(&self, mut event: Event) -> Event {
        let mask = |text: &mut String| {
            if let Cow::Owned(masked) = self.secrets.mask(text) {
                *text = masked;
            }
        };
        match &mut event {
            Event::JobRouted { reason, reasons, .. } => {
                mask(reason);
                reasons.iter_mut().for_each(mask);
            }
            Event::StepStarted { label, .. } | Event::StepProgress { label, .. } => mask(label),
            Event::StepLog { line, .. } => mask(line),
            Event::JobStarted { command, .. } => mask(command),
            Event::Notice { text, help, .. } => {
                mask(text);
                help.iter_mut().for_each(mask);
            }
            Event::Fallback { detail, .. }
            | Event::Retry { detail, .. }
            | Event::SideEnded { end: SideEnd::Out { detail, .. }, .. } => mask(detail),
            Event::JobFinished { verdict: Verdict::Errored { message, help, .. }, .. } => {
                mask(message);
                help.iter_mut().for_each(mask);
            }
            Event::JobFinished { verdict: Verdict::Skipped { because }, .. } => mask(because),
            Event::RunStarted { .. }
            | Event::StepFinished { .. }
            | Event::SideEnded { .. }
            | Event::Output { .. }
            | Event::CommandFinished { .. }
            | Event::CancelRaised { .. }
            | Event::JobCost { .. }
            | Event::JobFinished { .. }
            | Event::RunFinished { .. }
            | Event::WatchStarted { .. }
            | Event::WatchTriggered { .. }
            | Event::WatchWaiting { .. } => {}
        }
        event
    }
}

fn output(at_ms: u64, job: &JobId, stream: Stream, bytes: Vec<u8>) -> Option<Stamped> {
    let event = Event::Output { job: job.clone(), stream, data: bytes.into() };
    let empty = matches!(&event, Event::Output { data, .. } if data.is_empty());
    (!empty).then_some(Stamped { at_ms, side: None, event })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Place;
    use crate::event::Level;
    use crate::redact::SecretsBuilder;

    fn masking() -> Masking {
        Masking::new(SecretsBuilder::default().secret("TOKEN", "hunter2-horse").build().0)
    }

    fn write(masking: &mut Masking, at_ms: u64, job: &str, stream: Stream, text: &str) -> String {
        let data = text.to_owned().into();
        let event = Event::Output { job: JobId::new(job), stream, data };
        texts(&masking.mask(Stamped { at_ms, side: None, event }))
    }

    fn texts(events: &[Stamped]) -> String {
        let text = |stamped: &Stamped| match &stamped.event {
            Event::Output { job, stream, data } => {
                format!("{job} {stream:?} {:?}; ", String::from_utf8_lossy(data))
            }
            Event::JobFinished { job, .. } => format!("{job} finished; "),
            other => panic!("{other:?}"),
        };
        events.iter().map(text).collect()
    }

    fn finished(job: &str) -> Event {
        let (verdict, place) = (Verdict::Passed, Some(Place::Modal));
        Event::JobFinished { job: JobId::new(job), verdict, place, attempts: 1, duration: Duration::ZERO }
    }

    #[test]
    fn streams_are_masked_apart_though_they_come_mixed() {
        let mut masking = masking();
        assert_eq!(write(&mut masking, 0, "a", Stream::Stdout, "x hunter2"), "a Stdout \"x \"; ");
        assert_eq!(write(&mut masking, 1, "a", Stream::Stderr, "-horse\n"), "a Stderr \"-horse\\n\"; ");
        assert_eq!(write(&mut masking, 2, "b", Stream::Stdout, "-horse\n"), "b Stdout \"-horse\\n\"; ");
        assert_eq!(write(&mut masking, 3, "a", Stream::Stdout, "-horse\n"), "a Stdout \"***\\n\"; ");
    }

    #[test]
    fn what_is_held_is_shown_after_a_while_and_before_the_end() {
        let mut masking = masking();
        assert_eq!(write(&mut masking, 1_000, "a", Stream::Stdout, "hunter"), "");
        assert_eq!(masking.wait(1_100), Some(Duration::from_millis(150)));
        assert!(masking.flush(1_249).is_empty());
        assert_eq!(texts(&masking.flush(1_250)), "a Stdout \"hunter\"; ");
        assert_eq!(masking.wait(1_300), None);
        assert_eq!(write(&mut masking, 1_400, "a", Stream::Stdout, "2-horse hunt"), "a Stdout \"*** \"; ");
        let shown = masking.mask(Stamped { at_ms: 1_500, side: None, event: finished("a") });
        assert_eq!(texts(&shown), "a Stdout \"hunt\"; a finished; ");
    }

    #[test]
    fn texts_of_accels_own_are_masked() {
        let notice = Event::Notice {
            job: None,
            level: Level::Warning,
            code: "x",
            text: "cannot log in with hunter2-horse".to_owned(),
            help: Some("not hunter2-horse".to_owned()),
        };
        let shown = masking().mask(Stamped { at_ms: 0, side: None, event: notice });
        let json = serde_json::to_string(&shown).unwrap();
        assert!(!json.contains("hunter2"), "{json}");
        assert_eq!(json.matches("***").count(), 2, "{json}");
    }
}
