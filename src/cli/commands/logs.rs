//! `accel logs`: what a job on Modal printed, byte for byte, each stream to its own.

use std::io::{self, Write};
use std::time::Duration;

use crate::cli::Outcome;
use crate::cli::args::LogsArgs;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::held::Held;
use crate::cli::printer::{Format, Style};
use crate::domain::{JobId, Place, Stream};
use crate::event::{Event, Stamped};
use crate::store::log::{LogReader, Record};
use crate::store::runs::JobRun;

/// How often a log that is still written is looked at.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);

pub fn run(args: &LogsArgs, context: &Context<'_>) -> Outcome {
    let held = Held::here(context)?;
    let jobs = jobs(args, &held)?;
    held.mention_notices(&context.printer);
    let mut show = Show {
        stdout: context.printer.stdout()?,
        stderr: context.printer.stderr()?,
        format: context.printer.format,
    };
    for job in &jobs {
        if jobs.len() > 1 {
            let name = context.printer.paint_stderr(Style::Name, &job.job);
            let elsewhere =
                if job.place == Place::Modal.as_str() { "" } else { ", on this machine in the end" };
            context.printer.say(format!("── {name}{elsewhere}\n"));
        }
        match show.log(job, args) {
            Ok(()) => {}
            Err(Shown::ReaderGone) => return Ok(0),
            Err(Shown::Failed(error)) => {
                return Err(CommandError::failed(format!("the log {} {error}", job.log.display())));
            }
        }
    }
    Ok(0)
}

/// All jobs of the named run, or the newest run of the named job of this project.
fn jobs(args: &LogsArgs, held: &Held) -> Result<Vec<JobRun>, CommandError> {
    let mut found = held.runs.find(&args.target)?;
    let by_name = |job: &JobRun| job.job == args.target && job.run != args.target;
    if let Some(project) = &held.project {
        found.retain(|job| !by_name(job) || job.project == *project);
    }
    let Some(newest) = found.first().map(|job| job.run.clone()) else {
        return Err(CommandError::usage(format!("there is no log of `{}`", args.target))
            .help("logs are kept of jobs that ran on Modal"));
    };
    found.retain(|job| job.run == newest);
    found.sort_by_key(|job| job.started_at_ms);
    Ok(found)
}

struct Show {
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    format: Format,
}

/// Why showing ended early.
enum Shown {
    ReaderGone,
    Failed(io::Error),
}

impl From<io::Error> for Shown {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::ReaderGone } else { Self::Failed(error) }
    }
}

impl Show {
    fn log(&mut self, job: &JobRun, args: &LogsArgs) -> Result<(), Shown> {
        let mut log = LogReader::open(&job.log)?;
        loop {
            // Asked first: what was written before its writer went is read after.
            let written = args.follow && log.is_written();
            while let Some(record) = log.next_record()? {
                match record {
                    Record::Output { at_ms, stream, bytes } => self.output(job, at_ms, stream, bytes)?,
                    Record::Truncated => {
                        self.stderr.write_all(b"accel: the log is full, the rest was not kept\n")?;
                    }
                    Record::End => return Ok(()),
                }
            }
            if !written {
                return Ok(());
            }
            std::thread::sleep(FOLLOW_PAUSE);
        }
    }

    fn output(&mut self, job: &JobRun, at_ms: u64, stream: Stream, bytes: Vec<u8>) -> io::Result<()> {
        if self.format == Format::Json {
            let event = Event::Output { job: JobId::new(job.job.as_str()), stream, data: bytes.into() };
            let mut line =
                serde_json::to_vec(&Stamped { at_ms, side: None, event }).map_err(io::Error::other)?;
            line.push(b'\n');
            return self.stdout.write_all(&line);
        }
        match stream {
            Stream::Stdout => self.stdout.write_all(&bytes),
            Stream::Stderr => self.stderr.write_all(&bytes),
        }
    }
}
