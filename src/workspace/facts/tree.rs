//! What the working tree tells without git and without Modal: which files changed since a moment.
//!
//! | fact | source | unit |
//! |---|---|---|
//! | `sync_bytes` | files of the sync set that the system says were changed since the last run on Modal from this folder; all of them where there was none | bytes |
//! | `changed`, `changed_files` outside git | files of the sync set that were changed since the job's last run that passed in this folder; files that went are not seen | paths |

use std::sync::atomic::AtomicBool;

use super::Surroundings;
use crate::base::size::Bytes;
use crate::domain::JobId;
use crate::plan::spec::SyncSet;
use crate::store::History;
use crate::workspace::tree::{EntryKind, FileStat, Rules, TreeError, scan};

const NANOSECONDS_PER_MILLISECOND: i64 = 1_000_000;

/// How much a run on Modal would have to send, as far as can be told from here.
pub(super) async fn to_send(surroundings: &Surroundings) -> Result<Bytes, String> {
    let worktree = surroundings.root.to_string_lossy().into_owned();
    let walked = with_history(surroundings, move |history| history.last_sent(&worktree)).await?;
    let (files, since) = walked;
    Ok(Bytes(
        files
            .iter()
            .filter(|(_, stat)| since.is_none_or(|since| newer(stat, since)))
            .map(|(_, stat)| stat.size)
            .sum(),
    ))
}

pub(super) async fn changed_since_passed(
    surroundings: &Surroundings,
    job: &JobId,
) -> Result<Vec<String>, String> {
    let (worktree, job) = (surroundings.root.to_string_lossy().into_owned(), job.clone());
    let walked = with_history(surroundings, move |history| history.last_passed(&worktree, &job)).await?;
    let (files, since) = walked;
    let since = since.ok_or_else(|| {
        "this is no git repository, and the job has not passed in this folder yet".to_owned()
    })?;
    Ok(files.into_iter().filter(|(_, stat)| newer(stat, since)).map(|(path, _)| path).collect())
}

type Files = Vec<(String, FileStat)>;

/// The files of the tree, and what the history says, off the thread that waits for other things.
async fn with_history(
    surroundings: &Surroundings,
    ask: impl Fn(&History) -> Result<Option<u64>, crate::store::DatabaseError> + Send + 'static,
) -> Result<(Files, Option<u64>), String> {
    let surrounded = (surroundings.root.clone(), surroundings.sync.clone(), surroundings.global_ignore);
    let history = surroundings.history.clone();
    let work = move || {
        let (root, sync, global_ignore) = surrounded;
        let since = ask(&history).map_err(|error| error.to_string())?;
        // A tree that a run would refuse for its size has a size nevertheless.
        let unlimited = SyncSet { max_size: Bytes(u64::MAX), ..sync };
        let rules = Rules::new(&unlimited, &[], global_ignore()).map_err(TreeError::from);
        let found = rules.and_then(|rules| scan(&root, &rules, &AtomicBool::new(false)));
        let found = found.map_err(|error| error.to_string())?;
        let files = found.entries.into_iter().filter_map(|entry| match entry.kind {
            EntryKind::File(stat) => Some((entry.path.into(), stat)),
            EntryKind::Symlink { .. } | EntryKind::Directory { .. } => None,
        });
        Ok((files.collect(), since))
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// By the time that the system keeps for every change of contents or mode, which no program sets back.
fn newer(stat: &FileStat, since_ms: u64) -> bool {
    let since = i64::try_from(since_ms).unwrap_or(i64::MAX).saturating_mul(NANOSECONDS_PER_MILLISECOND);
    stat.changed >= since
}
