//! Ids that the server gave before, used without asking again until the server says that one is gone.
//!
//! What must stay true: losing any of it costs round trips, never correctness; ids of one account are never given
//! to another. A kind is a word of whoever remembers (`app`, `image`, `mount`, `secret`, …), a key is what the id
//! was asked for, digested where it is long. No secret is stored.

use rusqlite::{Connection, OptionalExtension, params};

use super::database::{Database, DatabaseError, Durability};
use crate::event::now_ms;

/// The memory of one account (`backend::modal::account`). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Remembered {
    database: Database,
    account: String,
}

impl Remembered {
    pub fn new(database: Database, account: impl Into<String>) -> Self {
        Self { database, account: account.into() }
    }

    /// As [`get`](Self::get), for threads that may block. No database is made for asking.
    pub fn get_now(&self, kind: &'static str, key: &str) -> Option<String> {
        if !self.database.exists() {
            return None;
        }
        let query = "SELECT id FROM remembered WHERE account = ?1 AND kind = ?2 AND key = ?3";
        let ask = |connection: &Connection| {
            connection.query_row(query, params![self.account, kind, key], |row| row.get(0)).optional()
        };
        self.database.read_now(ask).ok().flatten()
    }

    pub async fn get(&self, kind: &'static str, key: &str) -> Result<Option<String>, DatabaseError> {
        let mut found = self.get_all(kind, vec![key.to_owned()]).await?;
        Ok(found.pop().flatten())
    }

    /// One answer per key, in their order, from one visit.
    pub async fn get_all(
        &self,
        kind: &'static str,
        keys: Vec<String>,
    ) -> Result<Vec<Option<String>>, DatabaseError> {
        let account = self.account.clone();
        self.database
            .read(move |connection| {
                let query = "SELECT id FROM remembered WHERE account = ?1 AND kind = ?2 AND key = ?3";
                let mut query = connection.prepare_cached(query)?;
                keys.iter()
                    .map(|key| query.query_row(params![account, kind, key], |row| row.get(0)).optional())
                    .collect()
            })
            .await
    }

    /// Also says that the id was used just now.
    pub async fn put(&self, kind: &'static str, key: &str, id: &str) -> Result<(), DatabaseError> {
        let (account, key, id) = (self.account.clone(), key.to_owned(), id.to_owned());
        self.database
            .write(Durability::Process, move |connection| {
                connection.execute(
                    "INSERT INTO remembered (account, kind, key, id, used_at) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT DO UPDATE SET id = excluded.id, used_at = excluded.used_at",
                    params![account, kind, key, id, time(now_ms())],
                )
            })
            .await
            .map(drop)
    }

    /// The server does not know it any more.
    pub async fn forget(&self, kind: &'static str, key: &str) -> Result<(), DatabaseError> {
        let (account, key) = (self.account.clone(), key.to_owned());
        self.database
            .write(Durability::Process, move |connection| {
                connection.execute(
                    "DELETE FROM remembered WHERE account = ?1 AND kind = ?2 AND key = ?3",
                    params![account, kind, key],
                )
            })
            .await
            .map(drop)
    }
}

/// How many ids of any account were last put before a moment; with `Forgetting::Remove` they go.
pub async fn forget_unused(
    database: &Database,
    before_ms: u64,
    forgetting: Forgetting,
) -> Result<usize, DatabaseError> {
    let before = time(before_ms);
    match forgetting {
        Forgetting::Count => {
            let count = move |connection: &Connection| {
                let query = "SELECT count(*) FROM remembered WHERE used_at < ?1";
                connection.query_row(query, [before], |row| row.get::<_, i64>(0))
            };
            Ok(usize::try_from(database.read(count).await?).unwrap_or_default())
        }
        Forgetting::Remove => {
            let remove = move |connection: &Connection| {
                connection.execute("DELETE FROM remembered WHERE used_at < ?1", [before])
            };
            database.write(Durability::Process, remove).await
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgetting {
    Count,
    Remove,
}

fn time(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Directories;

    #[tokio::test]
    async fn ids_belong_to_one_account_and_survive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let remembered =
            |account: &str| Remembered::new(Database::new(Directories::in_folder(folder.path())), account);
        let first = remembered("a");
        assert_eq!(first.get("app", "x").await.unwrap(), None);
        first.put("app", "x", "ap-1").await.unwrap();
        first.put("app", "x", "ap-2").await.unwrap();
        first.put("image", "x", "im-1").await.unwrap();
        let again = remembered("a");
        let keys = vec!["x".to_owned(), "y".to_owned()];
        assert_eq!(again.get_all("app", keys).await.unwrap(), [Some("ap-2".to_owned()), None]);
        assert_eq!(remembered("b").get("app", "x").await.unwrap(), None);
        again.forget("app", "x").await.unwrap();
        assert_eq!(first.get("app", "x").await.unwrap(), None);
        assert_eq!(first.get("image", "x").await.unwrap().as_deref(), Some("im-1"));
    }

    #[tokio::test]
    async fn what_is_not_used_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::new(Directories::in_folder(folder.path()));
        let remembered = Remembered::new(database.clone(), "a");
        remembered.put("app", "x", "ap-1").await.unwrap();
        assert_eq!(forget_unused(&database, 1, Forgetting::Remove).await.unwrap(), 0);
        let future = now_ms() + 1_000;
        assert_eq!(forget_unused(&database, future, Forgetting::Count).await.unwrap(), 1);
        assert_eq!(forget_unused(&database, future, Forgetting::Remove).await.unwrap(), 1);
        assert_eq!(remembered.get("app", "x").await.unwrap(), None);
    }
}
