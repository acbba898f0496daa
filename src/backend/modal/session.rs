//! One job in one sandbox.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::exec::Exec;
use super::generation;
use super::launch::{Running, haste};
use super::link::Link;
use super::outputs::Outputs;
use super::quote::Prices;
use super::reporter::{Reporter, seconds};
use super::run::{Ended, Run};
use super::sandbox::Sandbox;
use super::script;
use super::tree::Delta;
use super::trouble::Trouble;
use super::wire::client as wire;
use crate::backend::{BoxFuture, CancelLevel, Failure, OpenRequest, OutputMode, Session};
use crate::base::exit_code;
use crate::base::money::Dollars;
use crate::base::size::Bytes as Size;
use crate::domain::{Cause, Exit};
use crate::event::{Level, Step, StepOutcome};
use crate::plan::spec::CommandSpec;
use crate::store::journal::Settlement;

/// How long the server may look for the addresses of ports.
const TUNNELS: Duration = Duration::from_secs(50);

/// Costs below this are not worth a line.
const LEAST_SAID: Dollars = Dollars(10_000);

pub(super) struct ModalSession {
    pub(super) link: Link,
    pub(super) request: OpenRequest,
    pub(super) reporter: Reporter,
    pub(super) running: Running,
    pub(super) delta: Option<Delta>,
    pub(super) variables: wire::SecretSource,
    pub(super) fate: Fate,
    /// When the sandbox was there.
    pub(super) started: Instant,
}

/// What became of the sandbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Runs,
    /// Its end was confirmed.
    Terminated,
    /// It ended by itself.
    Ended,
}

impl ModalSession {
    async fn run(&mut self) -> Result<Exit, Failure> {
        if matches!(&self.request.spec.command, CommandSpec::Shell(text) if text.trim().is_empty()) {
            return Ok(Exit::Code(0));
        }
        let word = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        let delta = self.delta.take();
        let argv = script::run(&self.request.spec, delta.as_ref(), &word);
        fits(&argv)?;
        let stdin = delta.map_or_else(Bytes::new, |delta| delta.bytes.into());
        let mut cancel = self.request.cancel.clone();
        let sandbox = &self.running.sandbox;
        let clock = self.link.clock();
        let variables = vec![self.variables.clone()];
        let starting = Exec::start(&self.running.router, clock, &self.running.task, argv, variables);
        let exec = tokio::select! {
            biased;
            started = starting => started,
            _ = cancel.above(CancelLevel::Stop(crate::backend::StopReason::Terminate)) => {
                return Ok(Exit::Signal(9));
            }
            death = sandbox.late_death() => {
                self.fate = Fate::Ended;
                return Err(death.into_failure());
            }
        };
        let exec = match exec {
            Ok(exec) => exec,
            Err(error) => return Err(self.not_started(error).await),
        };
        let run = Run {
            sandbox,
            router: &self.running.router,
            task: &self.running.task,
            reporter: &self.reporter,
            cancel: self.request.cancel.clone(),
            word,
        };
        let (ended, ()) = tokio::join!(run.follow(exec, stdin), self.tell_ports());
        match ended {
            Ok(Ended::Exit(exit)) => Ok(exit),
            Ok(Ended::Killed(confirmed)) => {
                if confirmed.is_ok() {
                    self.fate = Fate::Terminated;
                }
                Ok(Exit::Signal(9))
            }
            Err(failure) => Err(failure),
        }
    }

    async fn not_started(&self, error: super::error::ModalError) -> Failure {
        match self.running.sandbox.has_died().await {
            Some(death) => death.into_failure(),
            None => error.into_failure(),
        }
    }

    /// Where the job's ports are reached from outside, beside the command.
    async fn tell_ports(&self) {
        if self.request.spec.ports.is_empty() {
            return;
        }
        let tunnels = match self.running.tunnels.as_slice() {
            [] => self.ask_tunnels().await,
            known => known.to_vec(),
        };
        for tunnel in tunnels {
            let port = if tunnel.port == 443 { String::new() } else { format!(":{}", tunnel.port) };
            let text = format!("port {} is at https://{}{port}", tunnel.container_port, tunnel.host);
            self.reporter.notice(Level::Info, "port", text, None).await;
        }
    }

    async fn ask_tunnels(&self) -> Vec<wire::TunnelData> {
        let Sandbox { kind, id, options, .. } = &self.running.sandbox;
        let request =
            wire::SandboxGetTunnelsRequest { sandbox_id: id.clone(), timeout: TUNNELS.as_secs_f32() };
        match self.link.plane.call_with(generation::tunnels(*kind), request, options).await {
            Ok(answer) => answer.tunnels,
            Err(error) => {
                let text = format!("the addresses of the ports are not known: {error}");
                self.reporter.notice(Level::Warning, "port", text, None).await;
                Vec::new()
            }
        }
    }

    async fn collect(&mut self) -> Result<(), Failure> {
        let patterns = self.request.spec.outputs.clone().unwrap_or_default();
        if patterns.is_empty() {
            return Ok(());
        }
        if self.fate != Fate::Runs {
            return Err(Failure::new(Cause::Infra, "the sandbox was ended before they could be fetched"));
        }
        let begun = self.reporter.begin(Step::Outputs, "fetching outputs").await;
        let directory = script::working_directory(&self.request.spec);
        let argv = crate::workspace::unpack::pack_command(&directory, &patterns);
        fits(&argv)?;
        let outputs = Outputs { root: self.request.root.clone(), patterns };
        let receiving = async {
            let clock = self.link.clock();
            let exec = Exec::start(&self.running.router, clock, &self.running.task, argv, Vec::new()).await?;
            let (received, _) = tokio::join!(outputs.receive(&exec), exec.write_stdin(Bytes::new()));
            received
        };
        let mut cancel = self.request.cancel.clone();
        let level = cancel.level();
        let report = tokio::select! {
            biased;
            received = receiving => received.map_err(Trouble::into_failure)?,
            death = self.running.sandbox.late_death() => return Err(death.into_failure()),
            _ = cancel.above(level) => return Err(Failure::new(Cause::Infra, "stopped")),
        };
        let count = report.written.len();
        let label = format!("{count} of {} files changed, {}", count + report.unchanged, Size(report.bytes));
        self.reporter.progress(Step::Outputs, report.bytes, Some(report.bytes), label).await;
        self.reporter.end(begun, StepOutcome::Done).await;
        Ok(())
    }
}

impl Session for ModalSession {
    /// Output always travels over the wire, so it always goes out as events.
    fn execute(&mut self, _: OutputMode) -> BoxFuture<'_, Result<Exit, Failure>> {
        Box::pin(async move {
            let (board, reporter) = (self.link.board.clone(), self.reporter.clone());
            board.telling(&reporter, self.run()).await
        })
    }

    fn collect_outputs(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.collect())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async move {
            let haste = haste(self.request.cancel.level());
            let sandbox = self.running.sandbox;
            let ended = match self.fate {
                Fate::Runs | Fate::Ended => sandbox.end(haste).await,
                Fate::Terminated => {
                    sandbox.settle(Settlement::Terminated).await;
                    Ok(())
                }
            };
            let lived = self.started.elapsed();
            let cost = Prices::published().quote(&self.request.spec).of(lived);
            self.reporter.cost(cost, lived).await;
            if cost >= LEAST_SAID {
                let text = format!("cost at least {cost} ({} on Modal)", seconds(lived));
                self.reporter.notice(Level::Info, "cost", text, None).await;
            }
            ended
        })
    }
}

/// Modal takes no longer argument lists.
fn fits(argv: &[String]) -> Result<(), Failure> {
    let size: usize = argv.iter().map(|word| word.len() + 1).sum();
    if size <= script::MOST_ARGUMENTS {
        return Ok(());
    }
    let text = format!("the command is longer than Modal takes ({size} of {} bytes)", script::MOST_ARGUMENTS);
    Err(Failure::new(Cause::Command, text)
        .exit_code(exit_code::NOT_EXECUTABLE)
        .help("put it into a script file of the project"))
}
