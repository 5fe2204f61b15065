//! The ledger on disk: attempts that may run, results that are not settled, and who we are.

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};

use bistro_common::ids::{CellId, LedgerId};
use bistro_common::protocol::task::{OpenAttempt, TaskResult};
use bistro_worker_core::LedgerRecord;

/// Keyed by attempt.
const ENTRIES: TableDefinition<u128, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
const CACHE_BYTES: usize = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "the ledger {path} is in use: another worker runs on this data directory; give this one another --data-dir"
    )]
    InUse { path: PathBuf },
    #[error("the ledger in {directory} is not the one that this worker has written any more")]
    Replaced { directory: PathBuf },
    #[error("the ledger failed")]
    Database(#[source] Box<redb::Error>),
    #[error("an entry of the ledger cannot be read")]
    Entry(#[source] serde_json::Error),
    #[error("an id in the ledger cannot be read")]
    Id,
}

impl<E: Into<redb::Error>> From<E> for LedgerError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

impl LedgerError {
    /// Is it only that there is no room?
    pub fn is_full(&self) -> bool {
        let Self::Database(error) = self else { return false };
        let redb::Error::Io(error) = &**error else { return false };
        // The disk, somebody's share of it, or what a file may have.
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }
}

pub struct Ledger {
    directory: PathBuf,
    id: LedgerId,
    /// None: it failed, and is closed.
    database: Option<Database>,
}

pub struct Opened {
    pub ledger: Ledger,
    pub id: LedgerId,
    pub cell: Option<CellId>,
    /// What may have been running when the last process ended.
    pub open: Vec<OpenAttempt>,
    pub finished: Vec<TaskResult>,
}

impl Ledger {
    pub fn open(directory: &Path) -> Result<Opened, LedgerError> {
        let path = directory.join("ledger.redb");
        let database =
            Builder::new().set_cache_size(CACHE_BYTES).create(&path).map_err(|e| match e {
                redb::DatabaseError::DatabaseAlreadyOpen => LedgerError::InUse { path },
                error => error.into(),
            })?;
        let transaction = database.begin_write()?;
        {
            transaction.open_table(ENTRIES)?;
            let mut meta = transaction.open_table(META)?;
            if meta.get("ledger")?.is_none() {
                meta.insert("ledger", LedgerId::generate().to_string().as_str())?;
            }
        }
        transaction.commit()?;
        let transaction = database.begin_read()?;
        let meta = transaction.open_table(META)?;
        let read = |key| -> Result<Option<String>, LedgerError> {
            Ok(meta.get(key)?.map(|value| value.value().to_owned()))
        };
        let id = read("ledger")?.and_then(|id| id.parse().ok()).ok_or(LedgerError::Id)?;
        let cell = read("cell")?.map(|id| id.parse().map_err(|_| LedgerError::Id)).transpose()?;
        let (mut open, mut finished) = (Vec::new(), Vec::new());
        for row in transaction.open_table(ENTRIES)?.iter()? {
            match serde_json::from_slice(row?.1.value()).map_err(LedgerError::Entry)? {
                LedgerRecord::Starting { attempt } => open.push(attempt),
                LedgerRecord::Finished { result } => finished.push(result),
                LedgerRecord::Joined { .. } | LedgerRecord::Settled { .. } => {}
            }
        }
        drop(meta);
        drop(transaction);
        let ledger = Self { directory: directory.to_owned(), id, database: Some(database) };
        Ok(Opened { ledger, id, cell, open, finished })
    }

    /// Commits all records with one fsync. On an error it is not known what is on disk; records may
    /// be committed again.
    pub fn append(&mut self, records: &[LedgerRecord]) -> Result<(), LedgerError> {
        // The database takes nothing after a failed write: it is opened again, as by a restart.
        let database = match self.database.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        write(&database, records)?;
        self.database = Some(database);
        Ok(())
    }

    fn reopen(&self) -> Result<Database, LedgerError> {
        let opened = Self::open(&self.directory)?;
        let replaced = || LedgerError::Replaced { directory: self.directory.clone() };
        let ours = (opened.id == self.id).then_some(opened.ledger.database).flatten();
        ours.ok_or_else(replaced)
    }
}

fn write(database: &Database, records: &[LedgerRecord]) -> Result<(), LedgerError> {
    let transaction = database.begin_write()?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        let mut meta = transaction.open_table(META)?;
        for record in records {
            let attempt = match record {
                LedgerRecord::Starting { attempt } => attempt.attempt,
                LedgerRecord::Finished { result } => result.attempt,
                LedgerRecord::Settled { attempt } => {
                    entries.remove(attempt.0.as_u128())?;
                    continue;
                }
                LedgerRecord::Joined { cell } => {
                    meta.insert("cell", cell.to_string().as_str())?;
                    continue;
                }
            };
            let json = serde_json::to_vec(record).map_err(LedgerError::Entry)?;
            entries.insert(attempt.0.as_u128(), json.as_slice())?;
        }
    }
    Ok(transaction.commit()?)
}
