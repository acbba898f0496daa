//! What one side of a race prints, held back until it is known whether it counts.
//!
//! What must stay true: nothing of a side that has lost is shown; what is shown is all that the side wrote, in its order,
//! or a notice says what is missing. [`IN_MEMORY`] bytes are kept in memory, up to [`HELD_LIMIT`] in a file without a
//! name. Meanwhile the last line of it moves along as the progress of a step.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::Duration;

use bytes::Bytes;
use tempfile::SpooledTempFile;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::backend::BoxFuture;
use crate::base::size;
use crate::domain::{JobId, Stream};
use crate::event::{Emitter, Event, Level, Step, StepOutcome, Valve};

const IN_MEMORY: usize = 1 << 20;
/// What a side prints beyond this is lost, and said to be.
const HELD_LIMIT: u64 = 256 << 20;
/// How often the last line is told.
const LINE_EVERY: Duration = Duration::from_millis(200);
/// A longer line is not told: it would not be read, and cut it could show half of a secret.
const LONGEST_LINE: usize = 400;

#[derive(Debug)]
pub(in crate::engine) struct Held {
    job: JobId,
    /// Of the side, past this valve.
    out: Emitter,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Holding(Spool),
    /// Everything goes on at once.
    Open,
    /// Another side's output is the job's.
    Shut,
}

#[derive(Debug)]
struct Spool {
    file: SpooledTempFile,
    size: u64,
    /// Why no more is kept.
    full: Option<String>,
    /// Since when the command runs.
    running: Option<Instant>,
    told: Option<Instant>,
}

impl Held {
    pub(super) fn new(job: JobId, out: Emitter) -> Self {
        let file = SpooledTempFile::new(IN_MEMORY);
        let spool = Spool { file, size: 0, full: None, running: None, told: None };
        Self { job, out, state: Mutex::new(State::Holding(spool)) }
    }

    pub(super) async fn shut(&self) {
        let mut state = self.state.lock().await;
        if let State::Holding(spool) = std::mem::replace(&mut *state, State::Shut) {
            self.end_step(spool.running).await;
        }
    }

    /// Shows what was held; from now on nothing is.
    pub(in crate::engine) async fn release(&self) {
        let mut state = self.state.lock().await;
        let State::Holding(mut spool) = std::mem::replace(&mut *state, State::Open) else { return };
        self.end_step(spool.running).await;
        let shown = self.show(&mut spool.file).await;
        let lost = shown.err().map(|error| error.to_string()).or(spool.full);
        if let Some(why) = lost {
            let text = format!("part of its output is lost: {why}");
            let (job, level) = (Some(self.job.clone()), Level::Warning);
            self.out.emit(Event::Notice { job, level, code: "output-lost", text, help: None }).await;
        }
    }

    async fn show(&self, file: &mut SpooledTempFile) -> io::Result<()> {
        file.seek(SeekFrom::Start(0))?;
        while let Some((stream, data)) = read_piece(file)? {
            self.out.emit(Event::Output { job: self.job.clone(), stream, data }).await;
        }
        Ok(())
    }

    async fn hold(&self, spool: &mut Spool, stream: Stream, data: &Bytes) {
        spool.keep(stream, data);
        let due = spool.told.is_none_or(|told| told.elapsed() >= LINE_EVERY);
        if let Some(label) = last_line(data).filter(|_| due && spool.running.is_some()) {
            spool.told = Some(Instant::now());
            let job = self.job.clone();
            self.out.emit(Event::StepProgress { job, step: Step::Race, done: 0, total: None, label }).await;
        }
    }

    /// The command begins, or is over.
    async fn follow(&self, spool: &mut Spool, event: Event) {
        let begins = matches!(event, Event::JobStarted { .. });
        self.out.emit(event).await;
        if begins {
            spool.running = Some(Instant::now());
            let (job, label) = (self.job.clone(), "running, output held back".to_owned());
            self.out.emit(Event::StepStarted { job, step: Step::Race, label }).await;
        } else {
            self.end_step(spool.running.take()).await;
        }
    }

    async fn end_step(&self, running: Option<Instant>) {
        let Some(since) = running else { return };
        let (job, outcome) = (self.job.clone(), StepOutcome::Done);
        let duration = since.elapsed();
        self.out.emit(Event::StepFinished { job, step: Step::Race, outcome, duration }).await;
    }
}

impl Valve for Held {
    fn pass(&self, event: Event) -> BoxFuture<'_, Option<Event>> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            match (&mut *state, event) {
                (State::Holding(spool), Event::Output { stream, data, .. }) => {
                    self.hold(spool, stream, &data).await;
                    None
                }
                (
                    State::Holding(spool),
                    event @ (Event::JobStarted { .. } | Event::CommandFinished { .. }),
                ) => {
                    self.follow(spool, event).await;
                    None
                }
                (State::Shut, Event::Output { .. }) => None,
                (_, event) => Some(event),
            }
        })
    }
}

impl Spool {
    fn keep(&mut self, stream: Stream, data: &Bytes) {
        if self.full.is_some() {
            return;
        }
        if self.size.saturating_add(data.len() as u64) > HELD_LIMIT {
            self.full = Some(format!("more than {} was printed during the race", size::Bytes(HELD_LIMIT)));
            return;
        }
        match write_piece(&mut self.file, stream, data) {
            Ok(()) => self.size += data.len() as u64,
            Err(error) => self.full = Some(error.to_string()),
        }
    }
}

/// The last whole line, as far as it says something.
fn last_line(data: &[u8]) -> Option<String> {
    let whole = &data[..data.iter().rposition(|byte| *byte == b'\n')?];
    let line = whole.rsplit(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?.trim();
    (!text.is_empty() && text.len() <= LONGEST_LINE).then(|| text.to_owned())
}

fn write_piece(file: &mut SpooledTempFile, stream: Stream, data: &Bytes) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    file.write_all(&[u8::from(stream == Stream::Stderr)])?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(data)
}

fn read_piece(file: &mut SpooledTempFile) -> io::Result<Option<(Stream, Bytes)>> {
    let mut head = [0; 5];
    match file.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let [stream, length @ ..] = head;
    let mut data = vec![0; u32::from_le_bytes(length) as usize];
    file.read_exact(&mut data)?;
    Ok(Some((if stream == 0 { Stream::Stdout } else { Stream::Stderr }, data.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Place;
    use crate::event::channel;

    fn output(text: &str) -> Event {
        Event::Output { job: JobId::new("a"), stream: Stream::Stdout, data: text.to_owned().into() }
    }

    fn told(event: &Event) -> String {
        match event {
            Event::Output { data, .. } => String::from_utf8_lossy(data).into_owned(),
            Event::StepStarted { label, .. } | Event::StepProgress { label, .. } => format!("({label})"),
            Event::Notice { text, .. } => format!("[{text}]"),
            Event::StepFinished { .. } => "(over)".to_owned(),
            _ => String::new(),
        }
    }

    /// What is sent while `work` is done with the valve.
    async fn sent(work: impl AsyncFnOnce(&Held)) -> Vec<String> {
        let (emitter, mut receiver) = channel();
        let held = Held::new(JobId::new("a"), emitter.of_side(Place::Modal));
        drop(emitter);
        let mut sent = Vec::new();
        let receiving = async {
            while let Some(stamped) = receiver.recv().await {
                assert_eq!(stamped.side, Some(Place::Modal));
                sent.push(told(&stamped.event));
            }
        };
        let working = async {
            work(&held).await;
            drop(held);
        };
        tokio::join!(working, receiving);
        sent
    }

    fn began() -> Event {
        let (job, command) = (JobId::new("a"), String::new());
        Event::JobStarted { job, place: Place::Modal, attempt: 1, command }
    }

    #[tokio::test(start_paused = true)]
    async fn output_is_held_until_it_counts_and_its_last_line_is_told_now_and_then() {
        let sent = sent(async |held| {
            held.pass(began()).await;
            for text in ["one\ntwo\n", "three\n", "no end"] {
                assert!(held.pass(output(text)).await.is_none());
            }
            tokio::time::sleep(LINE_EVERY).await;
            held.pass(output("\nfour\n")).await;
            held.release().await;
            assert!(held.pass(output("live")).await.is_some());
        });
        let lines = ["", "(running, output held back)", "(two)", "(four)", "(over)"];
        let shown = ["one\ntwo\n", "three\n", "no end", "\nfour\n"];
        assert_eq!(sent.await, [&lines[..], &shown[..]].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lost_is_told_and_a_loser_shows_nothing() {
        let full = sent(async |held| {
            held.pass(output("kept\n")).await;
            if let State::Holding(spool) = &mut *held.state.lock().await {
                spool.size = HELD_LIMIT;
            }
            held.pass(output("lost")).await;
            held.release().await;
        });
        let why = "[part of its output is lost: more than 256MiB was printed during the race]";
        assert_eq!(full.await, ["kept\n", why]);
        let lost = sent(async |held| {
            held.pass(output("held\n")).await;
            held.shut().await;
            assert!(held.pass(output("more")).await.is_none());
            held.release().await;
        });
        assert_eq!(lost.await, Vec::<String>::new());
    }

    #[test]
    fn only_whole_lines_of_a_readable_length_are_told() {
        assert_eq!(last_line(b"a\nb\nhalf").as_deref(), Some("b"));
        assert_eq!(last_line(b"half"), None);
        assert_eq!(last_line(b"\n\n"), None);
        assert_eq!(last_line(&[b"x".repeat(LONGEST_LINE + 1), b"\n".to_vec()].concat()), None);
    }
}
