//! An owner of leases that tests kill: goes from point to point as its input says, and says what it has done.
//!
//! `lease_holder hold STATE ACCOUNT`: prints the tags of a lease that it intends; then, for each line of input, a
//! sandbox id for `created`, or `running`, `stopping`, `settle`.
//! `lease_holder many STATE COUNT`: that many leases from intent to settled, and as many records of runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "standard output is what the test reads")]

use std::ffi::OsString;
use std::io::BufRead;
use std::path::Path;

use accel::event::now_ms;
use accel::store::journal::{Intent, LeaseId, Purpose, SandboxKind, Settlement};
use accel::store::ledger::Hold;
use accel::store::runs::{JobRun, Runs};
use accel::store::{Database, Directories, Journal};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, state, detail] = arguments.as_slice() else { panic!("MODE STATE DETAIL") };
    let variable = |name: &str| (name == "ACCEL_STATE_DIR").then(|| OsString::from(state));
    let directories = Directories::resolve(variable, Path::new("/"), Path::new("/nowhere"), 0);
    let database = Database::new(directories);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match mode.as_str() {
        "hold" => runtime.block_on(hold(&Journal::new(database.clone()), detail)),
        "many" => runtime.block_on(many(&database, detail.parse().unwrap())),
        other => panic!("no mode {other}"),
    }
    assert!(database.take_notices().is_empty());
}

fn intent(account: &str, run: &str) -> Intent {
    Intent {
        lease: LeaseId::new(),
        account: account.to_owned(),
        project: "p".to_owned(),
        job: "test".to_owned(),
        run: run.to_owned(),
        worktree: "w".to_owned(),
        app: "accel-p".to_owned(),
        environment: String::new(),
        kind: SandboxKind::V2,
        purpose: Purpose::OneShot,
        expires_at_ms: now_ms() + 600_000,
        hold: Hold::default(),
    }
}

async fn hold(journal: &Journal, account: &str) {
    let mut lease = journal.intend(intent(account, "run-of-a-holder")).await.unwrap();
    let tags: Vec<String> = lease.tags().iter().map(|(name, value)| format!("{name}={value}")).collect();
    println!("intended {}", tags.join(" "));
    for line in std::io::stdin().lock().lines() {
        match line.unwrap().as_str() {
            "running" => lease.running().await.unwrap(),
            "stopping" => lease.stopping().await.unwrap(),
            "settle" => {
                lease.settle(Settlement::Terminated).await.unwrap();
                println!("settle");
                return;
            }
            sandbox => lease.created(sandbox).await.unwrap(),
        }
        println!("{:?}", lease.entry().state);
    }
}

async fn many(database: &Database, count: usize) {
    let (journal, runs) = (Journal::new(database.clone()), Runs::new(database.clone()));
    for at in 0..count {
        let run = format!("{}-{at}", std::process::id());
        let mut lease = journal.intend(intent("account", &run)).await.unwrap();
        lease.created(&format!("sb-{run}")).await.unwrap();
        let record = JobRun {
            log: runs.log_path(&run, "test"),
            run: run.clone(),
            job: "test".to_owned(),
            project: "p".to_owned(),
            worktree: "w".to_owned(),
            place: "modal".to_owned(),
            started_at_ms: now_ms(),
            finished_at_ms: None,
            verdict: None,
        };
        runs.started(&record).unwrap();
        runs.finished(&run, "test", now_ms(), None, r#"{"verdict":"passed"}"#).unwrap();
        assert!(lease.settle(Settlement::Terminated).await.unwrap());
    }
}
