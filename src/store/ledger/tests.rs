use std::path::Path;

use super::*;
use crate::store::journal::{Intent, Purpose, SandboxKind};
use crate::store::{Directories, Journal};

const DOLLAR: Dollars = Dollars(1_000_000);
const HOUR: u64 = 3_600_000;

fn dollars(amount: f64) -> Dollars {
    Dollars((amount * 1e6).round() as u64)
}

fn journal(folder: &Path) -> Journal {
    Journal::new(Database::new(Directories::in_folder(folder)))
}

/// For a sandbox of a dollar an hour that lives for ten hours at most.
fn intent(run: &str, amount: Wanted, caps: Caps) -> Intent {
    Intent {
        lease: LeaseId::new(),
        account: "account".to_owned(),
        project: "p".to_owned(),
        job: "test".to_owned(),
        run: run.to_owned(),
        worktree: "w".to_owned(),
        app: "accel-p".to_owned(),
        environment: "main".to_owned(),
        kind: SandboxKind::V2,
        purpose: Purpose::OneShot,
        expires_at_ms: now_ms() + 10 * HOUR,
        hold: Hold { per_hour: DOLLAR, amount, caps, need: Need::Run },
    }
}

fn per_day(amount: f64) -> Caps {
    Caps { per_day: Some(dollars(amount)), per_run: None }
}

fn exceeded(error: crate::store::journal::JournalError) -> Exceeded {
    match error {
        crate::store::journal::JournalError::Exceeded(exceeded) => exceeded,
        other => panic!("{other}"),
    }
}

/// Within a cent: time passes while a test runs, and at midnight a day begins.
fn about(amount: Dollars, expected: f64) {
    let differs = amount.0.abs_diff(dollars(expected).0);
    assert!(differs < 10_000, "{amount} is not about {expected}");
}

#[tokio::test]
async fn what_is_held_is_given_back_when_less_was_spent() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, ledger) = (journal(folder.path()), Ledger::new(journal(folder.path()).database().clone()));
    assert_eq!(ledger.today(None).await.unwrap(), Account::default());
    assert!(!folder.path().join("state").exists(), "asking makes no database");
    let caps = per_day(2.0);
    let mut first = journal.intend(intent("1", Wanted::Exactly(dollars(1.5)), caps)).await.unwrap();
    assert_eq!(first.held(), dollars(1.5));
    about(ledger.today(Some("p")).await.unwrap().held, 1.5);
    let refused = journal.intend(intent("2", Wanted::Exactly(dollars(1.0)), caps)).await.unwrap_err();
    let refused = exceeded(refused);
    assert_eq!((refused.cap, refused.limit, refused.wanted), (Cap::Day, dollars(2.0), Some(DOLLAR)));
    assert_eq!(
        refused.to_string(),
        "budget.per_day of $2.00 would be exceeded: $0.00 spent today, $1.50 held for running jobs, ≥ $1.00 expected for this one"
    );
    // Nothing of it is left, and another project has a day of its own.
    assert_eq!(journal.unsettled().await.unwrap().len(), 1);
    let other = Intent { project: "q".to_owned(), ..intent("3", Wanted::Exactly(DOLLAR), caps) };
    journal.intend(other).await.unwrap().settle(Settlement::NeverCreated).await.unwrap();
    first.note_spent(dollars(0.25));
    first.settle(Settlement::Terminated).await.unwrap();
    let account = ledger.today(Some("p")).await.unwrap();
    assert_eq!(account, Account { spent: dollars(0.25), held: Dollars(0) });
    let _left = journal.intend(intent("4", Wanted::Exactly(dollars(1.75)), caps)).await.unwrap();
    assert!(journal.intend(intent("5", Wanted::UpTo(dollars(0.01)), caps)).await.is_err());
}

#[tokio::test]
async fn a_run_has_a_cap_of_its_own_over_all_its_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let caps = Caps { per_run: Some(DOLLAR), per_day: None };
    let slice = Wanted::UpTo(dollars(0.6));
    let first = journal.intend(intent("1", slice, caps)).await.unwrap();
    let second = journal.intend(intent("1", slice, caps)).await.unwrap();
    about(first.held(), 0.6);
    about(second.held(), 0.4);
    let refused = exceeded(journal.intend(intent("1", slice, caps)).await.unwrap_err());
    assert_eq!((refused.cap, refused.wanted), (Cap::Run, None));
    let _other = journal.intend(intent("2", slice, caps)).await.unwrap();
}

#[tokio::test]
async fn a_job_that_goes_on_holds_more_until_a_cap_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let ledger = Ledger::new(journal.database().clone());
    let slice = price(DOLLAR, SLICE);
    let caps = Caps { per_run: Some(Dollars(slice.0 * 5 / 2)), per_day: None };
    let mut lease = journal.intend(intent("1", Wanted::UpTo(slice), caps)).await.unwrap();
    let id = lease.id().clone();
    let more = async || ledger.extend(&id, caps).await.unwrap().map(|held| held.0 as f64 / slice.0 as f64);
    about(Dollars((more().await.unwrap() * 1e6) as u64), 2.0);
    about(Dollars((more().await.unwrap() * 1e6) as u64), 2.5);
    let refused = more().await.unwrap_err();
    assert_eq!((refused.cap, refused.wanted), (Cap::Run, None));
    lease.note_spent(slice);
    lease.settle(Settlement::Terminated).await.unwrap();
    assert_eq!(more().await, Ok(0.0), "what has ended holds nothing");
}

#[tokio::test]
async fn what_a_dead_accel_held_costs_its_time_and_is_settled_with_its_lease() {
    let folder = tempfile::tempdir().unwrap();
    let (dying, next) = (journal(folder.path()), journal(folder.path()));
    let ledger = Ledger::new(next.database().clone());
    let caps = per_day(5.0);
    // Begun as if it were long ago.
    let held = dying.intend(intent("1", Wanted::Exactly(DOLLAR), caps)).await.unwrap();
    let entry = held.entry().clone();
    drop((held, dying));
    about(ledger.today(None).await.unwrap().held, 1.0);
    let lease = next.take_over(&entry).await.unwrap().expect("its owner is dead");
    lease.settle(Settlement::Ended).await.unwrap();
    let account = ledger.today(None).await.unwrap();
    about(account.spent, 0.0);
    assert_eq!(account.held, Dollars(0));
}

#[tokio::test]
async fn a_kept_sandbox_has_a_line_for_each_run_and_costs_while_it_waits() {
    use crate::store::journal::warm::{Claim, Limits, WarmKey};
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let ledger = Ledger::new(journal.database().clone());
    let caps = Caps { per_run: Some(DOLLAR), per_day: Some(dollars(1.5)) };
    let key = WarmKey { definition: "d".to_owned(), image: "i".to_owned() };
    let limits = Limits { idle: Duration::from_secs(600), reuse_until_ms: now_ms() + HOUR };
    let mut lease = journal.intend(intent("1", Wanted::Exactly(DOLLAR), caps)).await.unwrap();
    lease.created("sb-1").await.unwrap();
    journal.park(lease, key.clone(), limits, None).await.unwrap();
    assert_eq!(ledger.today(None).await.unwrap().held, Dollars(0), "nobody uses it");
    let claim = |run: &str, amount| Claim {
        needed: Duration::ZERO,
        run: run.to_owned(),
        job: "test".to_owned(),
        hold: Hold { per_hour: DOLLAR, amount: Wanted::Exactly(amount), caps, need: Need::Run },
    };
    // Another run may cost as much again; what is refused stays parked as it was.
    assert_eq!(exceeded(journal.claim(&key, claim("2", dollars(1.2))).await.unwrap_err()).cap, Cap::Run);
    let lease = journal.claim(&key, claim("2", DOLLAR)).await.unwrap().expect("it is parked");
    assert_eq!((lease.held(), ledger.today(None).await.unwrap().held.0 > 900_000), (DOLLAR, true));
    journal.unclaim(lease, None).await.unwrap();
    assert_eq!(ledger.today(None).await.unwrap().held, Dollars(0));
    let lines = |query: &str| {
        journal.database().read_now(|connection| connection.query_row(query, [], |row| row.get::<_, i64>(0)))
    };
    assert_eq!(lines("SELECT count(*) FROM spend").unwrap(), 2);
    assert_eq!(lines("SELECT count(*) FROM spend WHERE ended_at IS NULL").unwrap(), 1);
    let waits =
        format!("SELECT count(*) FROM spend WHERE ended_at IS NULL AND expires_at < {}", now_ms() + HOUR);
    assert_eq!(lines(&waits).unwrap(), 1, "it costs until it is idle for too long");
    let lease = journal.claim(&key, claim("3", DOLLAR)).await.unwrap().expect("it is parked");
    lease.settle(Settlement::Terminated).await.unwrap();
    assert_eq!(lines("SELECT count(*) FROM spend WHERE ended_at IS NULL").unwrap(), 0);
}

#[tokio::test]
async fn what_no_run_has_asked_for_has_a_cap_of_its_own_until_a_run_uses_it() {
    use crate::store::journal::warm::{Claim, Limits, WarmKey};
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let early = |need| {
        let intent = intent("1", Wanted::Exactly(dollars(0.6)), Caps::default());
        Intent { hold: Hold { need, ..intent.hold }, ..intent }
    };
    let expected = Need::Expected { per_day: DOLLAR };
    let mut lease = journal.intend(early(expected)).await.unwrap();
    let today = Ledger::new(journal.database().clone()).today(None).await.unwrap();
    assert_eq!(today.held, Dollars(0), "it is not in the way of runs");
    let refused = exceeded(journal.intend(early(expected)).await.unwrap_err());
    assert_eq!((refused.cap, refused.wanted), (Cap::Prewarm, Some(dollars(0.6))));
    assert!(
        refused.to_string().starts_with("budget.prewarm_per_day of $1.00 would be exceeded: "),
        "{refused}"
    );
    // What a run asks for is not counted.
    for need in [Need::Run, Need::Coming] {
        let lease = journal.intend(early(need)).await.unwrap();
        lease.settle(Settlement::NeverCreated).await.unwrap();
    }
    lease.created("sb-1").await.unwrap();
    let key = WarmKey { definition: "d".to_owned(), image: "i".to_owned() };
    let limits = Limits { idle: Duration::from_secs(600), reuse_until_ms: now_ms() + HOUR };
    journal.park(lease, key.clone(), limits, None).await.unwrap();
    let refused = exceeded(journal.intend(early(expected)).await.unwrap_err());
    assert_eq!(refused.cap, Cap::Prewarm, "it may cost as much while it waits");
    let claim = Claim {
        needed: Duration::ZERO,
        run: "2".to_owned(),
        job: "test".to_owned(),
        hold: intent("2", Wanted::Exactly(DOLLAR), Caps::default()).hold,
    };
    let lease = journal.claim(&key, claim).await.unwrap().expect("it is parked");
    let another = journal.intend(early(expected)).await.unwrap();
    another.settle(Settlement::NeverCreated).await.unwrap();
    lease.settle(Settlement::Terminated).await.unwrap();
    let left = exceeded(journal.intend(early(Need::Expected { per_day: Dollars(0) })).await.unwrap_err());
    assert_eq!((left.cap, left.wanted), (Cap::Prewarm, None));
}

#[test]
fn a_line_costs_its_time_until_the_server_ends_the_sandbox() {
    let line = Line {
        per_hour: DOLLAR,
        held: dollars(3.0),
        began_ms: 10 * HOUR,
        expires_ms: 20 * HOUR,
        ended_ms: None,
        spent: None,
        is_ahead: false,
    };
    let check = |line: &Line, since: u64, now: u64, spent: f64, held: f64| {
        let account = line::account([*line].iter(), since * HOUR, now * HOUR);
        assert_eq!(account, Account { spent: dollars(spent), held: dollars(held) }, "{since} to {now}");
    };
    check(&line, 0, 10, 0.0, 3.0);
    check(&line, 0, 11, 1.0, 2.0);
    check(&line, 0, 14, 4.0, 0.0);
    check(&line, 12, 14, 2.0, 0.0);
    check(&line, 0, 100, 10.0, 0.0);
    check(&line, 50, 100, 0.0, 0.0);
    // What was measured is spread over the time that it took.
    let ended = Line { ended_ms: Some(14 * HOUR), spent: Some(dollars(2.0)), ..line };
    check(&ended, 0, 100, 2.0, 0.0);
    check(&ended, 13, 100, 0.5, 0.0);
    let at_once = Line { ended_ms: Some(10 * HOUR), ..ended };
    check(&at_once, 10, 100, 2.0, 0.0);
}

#[test]
fn caps_admit_what_fits() {
    let caps = Caps { per_run: Some(dollars(1.0)), per_day: Some(dollars(3.0)) };
    let account = |spent| Account { spent: dollars(spent), held: Dollars(0) };
    let check = |run, day, wanted, expected: Result<f64, Cap>| {
        let granted = caps.admit(account(run), account(day), wanted).map_err(|exceeded| exceeded.cap);
        assert_eq!(granted, expected.map(dollars), "{run} {day} {wanted:?}");
    };
    check(0.0, 0.0, Wanted::Exactly(dollars(1.0)), Ok(1.0));
    check(0.0, 0.0, Wanted::Exactly(dollars(1.1)), Err(Cap::Run));
    check(0.0, 2.5, Wanted::Exactly(dollars(0.6)), Err(Cap::Day));
    check(0.0, 2.5, Wanted::UpTo(dollars(0.6)), Ok(0.5));
    check(0.9, 2.5, Wanted::UpTo(dollars(0.6)), Ok(0.1));
    check(0.0, 3.0, Wanted::UpTo(dollars(0.6)), Err(Cap::Day));
    check(0.0, 3.0, Wanted::Exactly(Dollars(0)), Err(Cap::Day));
    assert_eq!(
        Caps::default().admit(account(9.0), account(9.0), Wanted::UpTo(DOLLAR)),
        Ok(DOLLAR),
        "no cap, no end"
    );
}

#[test]
fn many_accels_at_once_never_hold_more_than_the_cap() {
    let folder = tempfile::tempdir().unwrap();
    // Whether the wish was granted; the lease is left as a killed accel leaves it.
    let granted = |at: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let wanted = intent(&at.to_string(), Wanted::Exactly(DOLLAR), per_day(5.5));
        let intended = runtime.block_on(journal(folder.path()).intend(wanted));
        intended.map(std::mem::forget).map_err(|error| assert_eq!(exceeded(error).cap, Cap::Day)).is_ok()
    };
    let granted = std::thread::scope(|scope| {
        let running: Vec<_> = (0..12)
            .map(|at| {
                let granted = &granted;
                scope.spawn(move || granted(at))
            })
            .collect();
        running.into_iter().filter_map(|one| one.join().unwrap().then_some(())).count()
    });
    assert_eq!(granted, 5);
}
