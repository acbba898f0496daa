use std::path::Path;

use super::*;
use crate::store::Directories;
use crate::store::ledger::Hold;

fn journal(folder: &Path) -> Journal {
    Journal::new(Database::new(Directories::in_folder(folder)))
}

fn intent(run: &str) -> Intent {
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
        expires_at_ms: now_ms() + 60_000,
        hold: Hold::default(),
    }
}

#[tokio::test]
async fn a_lease_goes_from_intent_to_settled_and_others_see_each_step() {
    let folder = tempfile::tempdir().unwrap();
    let (mine, other) = (journal(folder.path()), journal(folder.path()));
    let mut lease = mine.intend(intent("run-1")).await.unwrap();
    let id = lease.id().clone();
    let see = async || other.by_lease(id.as_str()).await.unwrap().map(|entry| (entry.state, entry.sandbox));
    assert_eq!(see().await, Some((LeaseState::Intended, None)));
    lease.created("sb-1").await.unwrap();
    let sandbox = Some("sb-1".to_owned());
    assert_eq!(see().await, Some((LeaseState::Created, sandbox.clone())));
    lease.running().await.unwrap();
    assert_eq!(see().await, Some((LeaseState::Running, sandbox.clone())));
    assert_eq!(other.unsettled().await.unwrap(), [lease.entry().clone()]);
    lease.stopping().await.unwrap();
    assert_eq!(see().await, Some((LeaseState::Stopping, sandbox.clone())));
    assert!(lease.settle(Settlement::Terminated).await.unwrap());
    assert_eq!(see().await, Some((LeaseState::Settled, sandbox)));
    assert!(other.unsettled().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_live_owner_keeps_its_leases_and_a_dead_one_loses_each_to_one_taker() {
    let folder = tempfile::tempdir().unwrap();
    let (dying, first, second) = (journal(folder.path()), journal(folder.path()), journal(folder.path()));
    let lease = dying.intend(intent("run-1")).await.unwrap();
    let entry = lease.entry().clone();
    assert!(first.owner_lives(&entry));
    assert!(first.take_over(&entry).await.unwrap().is_none());

    drop((lease, dying));
    assert!(!first.owner_lives(&entry));
    let taken = first.take_over(&entry).await.unwrap().expect("its owner is dead");
    assert!(second.take_over(&entry).await.unwrap().is_none(), "it has an owner again");
    let entry = second.unsettled().await.unwrap().remove(0);
    assert!(second.owner_lives(&entry));
    assert!(taken.settle(Settlement::Terminated).await.unwrap());
    assert!(second.take_over(&entry).await.unwrap().is_none(), "settled leases are nobody's");
    drop((first, second));
    assert_eq!(fs::read_dir(folder.path().join("state/owners")).unwrap().count(), 0);
}

#[tokio::test]
async fn leases_are_found_by_what_people_have_at_hand() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let mut lease = journal.intend(intent("abcdef01")).await.unwrap();
    lease.created("sb-1").await.unwrap();
    for text in ["abcdef01", "abcd", "test", "sb-1", lease.id().as_str(), &lease.id().as_str()[..8]] {
        assert_eq!(journal.find(text).await.unwrap().len(), 1, "{text}");
    }
    for text in ["abc", "bcdef", "sb-", "tes", "%", "____"] {
        assert!(journal.find(text).await.unwrap().is_empty(), "{text}");
    }
}

#[test]
fn machines_that_share_a_home_are_told_apart_by_words_that_tell_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let word = host_word(&folder.path().join("state"));
    assert_eq!(word, host_word(&folder.path().join("state")));
    assert_eq!(word.len(), 16);
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert!(!word.contains(&name));
}

#[tokio::test]
async fn tags_name_the_lease_and_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let lease = journal.intend(intent("run-1")).await.unwrap();
    let tags: std::collections::BTreeMap<_, _> = lease.tags().into();
    assert_eq!(tags[tag::LEASE], lease.id().as_str());
    assert_eq!(tags[tag::HOST], journal.host());
    assert_eq!(tags[tag::EXPIRES], (lease.entry().expires_at_ms / 1000).to_string());
}

fn wanted(needed: Duration) -> warm::Claim {
    warm::Claim { needed, run: "run-2".to_owned(), job: "test".to_owned(), hold: Hold::default() }
}

fn key(definition: &str) -> warm::WarmKey {
    warm::WarmKey { definition: definition.to_owned(), image: "im-1".to_owned() }
}

fn limits(idle: Duration) -> warm::Limits {
    warm::Limits { idle, reuse_until_ms: now_ms() + 60_000 }
}

async fn parked(journal: &Journal, idle: Duration) -> Entry {
    let mut lease = journal.intend(intent("run-1")).await.unwrap();
    lease.created("sb-1").await.unwrap();
    let id = lease.id().clone();
    journal.park(lease, key("k"), limits(idle), None).await.unwrap();
    journal.by_lease(id.as_str()).await.unwrap().unwrap()
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_parked_lease_outlives_its_process_and_is_claimed_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = journal(folder.path());
    let entry = parked(&first, LONG).await;
    drop(first);
    let (one, two) = (journal(folder.path()), journal(folder.path()));
    assert!(warm::is_kept(&entry, now_ms()));
    assert!(one.has_parked("k").await.unwrap() && !one.has_parked("other").await.unwrap());
    assert!(one.claim(&key("other"), wanted(LONG)).await.unwrap().is_none());
    let other_image = warm::WarmKey { image: "im-2".to_owned(), ..key("k") };
    assert!(one.claim(&other_image, wanted(LONG)).await.unwrap().is_none());
    let key = key("k");
    let claims = tokio::join!(one.claim(&key, wanted(LONG)), two.claim(&key, wanted(LONG)));
    let mut claims = [claims.0.unwrap(), claims.1.unwrap()].into_iter().flatten();
    let lease = claims.next().expect("one of them has it");
    assert!(claims.next().is_none(), "not both");
    assert!(two.take_over(&entry).await.unwrap().is_none(), "what was claimed is not parked any more");
    assert_eq!(lease.entry().sandbox.as_deref(), Some("sb-1"));
    assert!(one.owner_lives(lease.entry()));
    let held = lease.entry().clone();
    drop((lease, claims, one, two));
    let later = journal(folder.path());
    assert!(!later.has_parked("k").await.unwrap());
    assert!(later.take_over(&held).await.unwrap().is_some(), "whoever died with it left a leftover");
}

#[tokio::test]
async fn what_the_server_may_have_ended_is_not_claimed() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let idle = parked(&journal, Duration::ZERO).await;
    assert!(!warm::is_kept(&idle, now_ms()));
    assert!(
        journal.claim(&key("k"), wanted(Duration::ZERO)).await.unwrap().is_none(),
        "it was idle for too long"
    );
    let taken = journal.take_over(&idle).await.unwrap().expect("nobody holds it");
    assert!(taken.settle(Settlement::Ended).await.unwrap());
    parked(&journal, LONG).await;
    let too_long = Duration::from_secs(3600);
    assert!(
        journal.claim(&key("k"), wanted(too_long)).await.unwrap().is_none(),
        "it would end in the middle"
    );
    assert!(journal.claim(&key("k"), wanted(LONG)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_parked_lease_that_was_ended_is_not_claimed_and_the_other_way_round() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (journal(folder.path()), journal(folder.path()));
    let entry = parked(&one, LONG).await;
    let key = key("k");
    let (claimed, taken) = tokio::join!(one.claim(&key, wanted(LONG)), two.take_over(&entry));
    assert!(claimed.unwrap().is_some() != taken.unwrap().is_some(), "exactly one of them");
}

#[tokio::test]
async fn what_a_loop_has_parked_is_in_use_until_the_loop_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (run, other) = (journal(folder.path()), journal(folder.path()));
    let parker = warm::Parker::new(journal(folder.path()));
    let mut lease = run.intend(intent("run-1")).await.unwrap();
    lease.created("sb-1").await.unwrap();
    let id = lease.id().clone();
    run.park(lease, key("k"), limits(LONG), Some(&parker)).await.unwrap();
    drop(run);
    let parked = async || other.by_lease(id.as_str()).await.unwrap().unwrap();
    assert!(other.parker_lives(&parked().await), "its run is over, the loop is not");
    let claimed = other.claim(&key("k"), wanted(LONG)).await.unwrap().unwrap();
    assert!(!other.parker_lives(&parked().await), "it is not parked");
    other.unclaim(claimed, Some(&parker)).await.unwrap();
    assert!(other.parker_lives(&parked().await));
    drop(parker);
    assert!(!other.parker_lives(&parked().await));
}
