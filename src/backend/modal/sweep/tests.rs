use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::store::journal::{Intent, LeaseId, Purpose};
use crate::store::ledger::Hold;
use crate::store::{Database, Directories};

/// The sandboxes of a Modal that lists and ends them.
#[derive(Default)]
struct Fake {
    living: Mutex<Vec<Listed>>,
    ended: Mutex<Vec<String>>,
    lists: Mutex<usize>,
    refuses: Option<ErrorKind>,
}

impl Fake {
    fn start(&self, sandbox: &str, tags: &[(&str, String)]) {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let listed = Listed { sandbox: sandbox.to_owned(), created_at_ms: now_ms(), tags };
        self.living.lock().unwrap().push(listed);
    }

    fn living(&self) -> Vec<String> {
        self.living.lock().unwrap().iter().map(|listed| listed.sandbox.clone()).collect()
    }
}

impl Sandboxes for Fake {
    fn list<'a>(
        &'a self,
        _environment: &'a str,
        tags: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<Vec<Listed>, ModalError>> {
        *self.lists.lock().unwrap() += 1;
        let bears = |listed: &&Listed| {
            tags.iter().all(|(name, value)| listed.tags.get(*name).map(String::as_str) == Some(*value))
        };
        let found = self.living.lock().unwrap().iter().filter(bears).cloned().collect();
        Box::pin(std::future::ready(Ok(found)))
    }

    fn terminate<'a>(&'a self, sandbox: &'a str) -> BoxFuture<'a, Result<(), ModalError>> {
        let answer = match self.refuses {
            Some(kind) => Err(ModalError::new(kind, "SandboxTerminateV2", "no")),
            None => {
                self.living.lock().unwrap().retain(|listed| listed.sandbox != sandbox);
                self.ended.lock().unwrap().push(sandbox.to_owned());
                Ok(())
            }
        };
        Box::pin(std::future::ready(answer))
    }
}

fn journal(folder: &Path) -> Journal {
    Journal::new(Database::new(Directories::in_folder(folder)))
}

fn intent() -> Intent {
    Intent {
        lease: LeaseId::new(),
        account: "account".to_owned(),
        project: "p".to_owned(),
        job: "test".to_owned(),
        run: "run-1".to_owned(),
        worktree: "w".to_owned(),
        app: "accel-p".to_owned(),
        environment: String::new(),
        kind: SandboxKind::V2,
        purpose: Purpose::OneShot,
        expires_at_ms: now_ms() + 60_000,
        hold: Hold::default(),
    }
}

fn sweeper(folder: &Path, fake: &Arc<Fake>) -> Sweeper {
    Sweeper {
        journal: journal(folder),
        account: "account".to_owned(),
        environment: String::new(),
        sandboxes: Arc::clone(fake) as Arc<dyn Sandboxes>,
    }
}

async fn end(folder: &Path, fake: &Arc<Fake>, look: Look) -> Swept {
    sweeper(folder, fake).sweep(look, SweepMode::End).await.unwrap()
}

#[tokio::test]
async fn a_dead_accels_sandboxes_end_whichever_point_it_died_at() {
    // Known by its id, known by its tags alone, never created, already stopping.
    for (asked, heard, stopping) in
        [(true, true, false), (true, false, false), (false, false, false), (true, true, true)]
    {
        let folder = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::default());
        let dying = journal(folder.path());
        let mut lease = dying.intend(intent()).await.unwrap();
        if asked {
            fake.start("sb-1", &lease.tags());
        }
        if heard {
            lease.created("sb-1").await.unwrap();
        }
        if stopping {
            lease.stopping().await.unwrap();
        }
        let entry = lease.entry().clone();

        let swept = end(folder.path(), &fake, Look::Always).await;
        assert_eq!((swept.ended.len(), swept.gone.len()), (0, 0), "it lives");

        drop((lease, dying));
        let swept = end(folder.path(), &fake, Look::WhenDue).await;
        assert_eq!(swept.ended.len(), usize::from(asked));
        assert_eq!(swept.gone.len(), usize::from(!asked));
        assert!(fake.living().is_empty());
        let settled = journal(folder.path()).by_lease(entry.lease.as_str()).await.unwrap().unwrap();
        let how = if asked { Settlement::Terminated } else { Settlement::NeverCreated };
        assert_eq!(settled.settled, Some(how));
    }
}

#[tokio::test]
async fn a_sandbox_that_appears_after_its_lease_was_settled_is_ended_by_the_next_list() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let dying = journal(folder.path());
    let lease = dying.intend(intent()).await.unwrap();
    let tags = lease.tags();
    drop((lease, dying));
    assert_eq!(end(folder.path(), &fake, Look::WhenDue).await.gone.len(), 1);
    fake.start("sb-late", &tags);
    assert_eq!(end(folder.path(), &fake, Look::Always).await.ended.len(), 1);
    assert!(fake.living().is_empty());
}

#[tokio::test]
async fn what_cannot_be_ended_stays_for_the_next_sweep() {
    let folder = tempfile::tempdir().unwrap();
    let dying = journal(folder.path());
    let mut lease = dying.intend(intent()).await.unwrap();
    lease.created("sb-1").await.unwrap();
    drop((lease, dying));
    let refusing = Arc::new(Fake { refuses: Some(ErrorKind::Service), ..Fake::default() });
    let swept = end(folder.path(), &refusing, Look::WhenDue).await;
    assert_eq!(swept.failed.len(), 1);
    let Some(Event::Notice { level: Level::Warning, text, .. }) = swept.notice() else { panic!("a warning") };
    assert!(text.contains("sb-1"), "{text}");
    assert_eq!(journal(folder.path()).unsettled().await.unwrap()[0].state, LeaseState::Stopping);

    let forgotten = Arc::new(Fake { refuses: Some(ErrorKind::NotFound), ..Fake::default() });
    assert_eq!(end(folder.path(), &forgotten, Look::WhenDue).await.gone.len(), 1);
    assert!(journal(folder.path()).unsettled().await.unwrap().is_empty());
}

#[tokio::test]
async fn other_accounts_leases_are_left_to_their_own_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let dying = journal(folder.path());
    let mut lease = dying.intend(Intent { account: "other".to_owned(), ..intent() }).await.unwrap();
    lease.created("sb-1").await.unwrap();
    drop((lease, dying));
    let fake = Arc::new(Fake::default());
    assert!(end(folder.path(), &fake, Look::Always).await.ended.is_empty());
    assert!(fake.ended.lock().unwrap().is_empty());
    assert_eq!(journal(folder.path()).unsettled().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_run_asks_for_the_list_now_and_then_only() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    for _ in 0..3 {
        assert!(sweeper(folder.path(), &fake).sweep_beside_a_run().await.is_none());
    }
    assert_eq!(*fake.lists.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_report_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let dying = journal(folder.path());
    let mut lease = dying.intend(intent()).await.unwrap();
    fake.start("sb-1", &lease.tags());
    lease.created("sb-1").await.unwrap();
    drop((lease, dying));
    let report = sweeper(folder.path(), &fake).sweep(Look::Always, SweepMode::Report).await.unwrap();
    assert_eq!(report.ended.len(), 1);
    assert_eq!(fake.living(), ["sb-1"]);
    assert_eq!(journal(folder.path()).unsettled().await.unwrap().len(), 1);
    assert_eq!(end(folder.path(), &fake, Look::Always).await.ended.len(), 1);
}

#[test]
fn only_what_is_ours_and_over_may_be_ended() {
    const NOW_MS: u64 = 2_000_000_000;
    let seconds = |before_now: i64| (2_000_000 - before_now).to_string();
    let check = |tags: &[(&str, &str)], expect: Standing| {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let listed = Listed { sandbox: "sb-1".to_owned(), created_at_ms: 0, tags };
        assert_eq!(standing(&listed, None, "me", NOW_MS), expect, "{:?}", listed.tags);
    };
    check(&[], Standing::Untagged);
    check(&[(tag::HOST, "me")], Standing::Untagged);
    let lease = (tag::LEASE, "x");
    check(&[lease], Standing::Elsewhere);
    check(&[lease, (tag::HOST, "other"), (tag::EXPIRES, &seconds(100_000))], Standing::Elsewhere);
    check(&[lease, (tag::HOST, "me")], Standing::NotInJournal);
    check(&[lease, (tag::HOST, "me"), (tag::EXPIRES, "soon")], Standing::NotInJournal);
    check(&[lease, (tag::HOST, "me"), (tag::EXPIRES, &seconds(-60))], Standing::NotInJournal);
    // A clock that is ten minutes off ends nothing.
    check(&[lease, (tag::HOST, "me"), (tag::EXPIRES, &seconds(600))], Standing::NotInJournal);
    check(&[lease, (tag::HOST, "me"), (tag::EXPIRES, &seconds(901))], Standing::Leftover);
}

#[test]
fn the_shape_of_an_id_says_its_kind() {
    assert_eq!(kind_of("sb-0123456789abcdefABCDEF"), SandboxKind::V1);
    assert_eq!(kind_of("sb-01K0ABCDEFGHJKMNPQRSTVWXYZV"), SandboxKind::V2);
    assert_eq!(kind_of("sb-0123456789abcdef-BCDEF"), SandboxKind::V2);
    assert_eq!(kind_of("something-new"), SandboxKind::V2);
}

/// Two accels sweep at once, over and over, while runs are live.
#[tokio::test]
async fn of_two_sweeps_one_settles_each_lease_and_no_live_run_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let live = journal(folder.path());
    let mut kept = live.intend(intent()).await.unwrap();
    kept.created("sb-live").await.unwrap();
    fake.start("sb-live", &kept.tags());
    for round in 0..100 {
        let dying = journal(folder.path());
        let mut lease = dying.intend(intent()).await.unwrap();
        let name = format!("sb-{round}");
        fake.start(&name, &lease.tags());
        if round % 2 == 0 {
            lease.created(&name).await.unwrap();
        }
        drop((lease, dying));
        let sweep = || {
            let sweeper = sweeper(folder.path(), &fake);
            async move { sweeper.sweep(Look::WhenDue, SweepMode::End).await.unwrap() }
        };
        let (first, second) = tokio::join!(sweep(), sweep());
        assert_eq!(first.ended.len() + second.ended.len(), 1, "round {round}: {first:?} {second:?}");
    }
    assert_eq!(fake.living(), ["sb-live"]);
    let unsettled = journal(folder.path()).unsettled().await.unwrap();
    assert_eq!(unsettled.len(), 1);
    assert!(kept.settle(Settlement::Terminated).await.unwrap());
}

#[test]
fn whatever_a_server_lists_is_somebodys() {
    let times = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e300, 1e300, 0.5];
    let ends = ["18446744073709551615", "-1", "", "1e9", "0"];
    for (created_at, expires) in times.iter().flat_map(|time| ends.map(|end| (*time, end))) {
        let tag =
            |name: &str, value: &str| wire::SandboxTag { tag_name: name.into(), tag_value: value.into() };
        let tags = vec![tag(tag::LEASE, ""), tag(tag::HOST, "here"), tag(tag::EXPIRES, expires)];
        let found = listed(wire::SandboxInfo { created_at, tags, ..wire::SandboxInfo::default() });
        for now in [0, 1_000, u64::MAX] {
            let standing = standing(&found, None, "here", now);
            assert!(matches!(standing, Standing::Leftover | Standing::NotInJournal), "{found:?}");
        }
    }
}
