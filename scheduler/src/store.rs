//! What survives: the core's records in redb, committed in groups.
//!
//! A record is first appended to a journal under a growing key, which is many times faster than a
//! random one, and later folded into a table keyed by what it is about. Opening folds the journal,
//! so a crash costs nothing but that. The journal has a file of its own: that of the table is large,
//! and whoever changes it says in the same commit what redb would otherwise walk all of it for after a crash.
//! One process at a time: redb locks the files.

use redb::{Builder, Database, ReadableDatabase, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use bistro_common::ids::{CellId, Epoch};
use bistro_core::{Record, Snapshot};

mod format;
mod journal;
mod read;
mod unfolded;

use format::{FORMAT, decode, encode};
use journal::{Journal, read_rows};
use unfolded::Unfolded;

const STATE_FILE: &str = "scheduler.redb";
const JOURNAL_FILE: &str = "journal.redb";

const JOURNAL: TableDefinition<u64, &[u8]> = TableDefinition::new("journal");
/// Keyed by [`format::key_of`]; a value is the last record of its key.
const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// In [`META`]: the last reign, and up to which key the journal has been folded.
const REIGN: &str = "reign";
const FOLDED: &str = "folded";

/// The first byte of a reign in place of [`FORMAT`], so that a build that knows of no file beside
/// this one goes no further.
const TWO_FILES: u8 = 3;

/// redb's default would be a gigabyte.
const CACHE_BYTES: usize = 64 << 20;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store {path} is in use by another scheduler; stop that one first, or use another data directory"
    )]
    InUse { path: PathBuf },
    #[error("the store {path} cannot be opened")]
    Open {
        path: PathBuf,
        #[source]
        source: Box<redb::DatabaseError>,
    },
    #[error("the store failed")]
    Database(#[source] Box<redb::Error>),
    #[error("the store was written by a later version, in the format {found}")]
    Format { found: u8 },
    #[error("the store has lost {path}, which is a part of it; put it back where it was")]
    NoJournal { path: PathBuf },
    #[error(
        "{path} is of another store, or of another time, than scheduler.redb beside it; put back both as they were copied together"
    )]
    OtherJournal { path: PathBuf },
    #[error("a record in the store cannot be read")]
    Record(#[source] serde_json::Error),
    #[error("a record in the store is empty")]
    Empty,
    #[error("the record of a task in the store cannot be read: {key:?}")]
    TaskRow { key: String },
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reign {
    cell: CellId,
    epoch: Epoch,
}

/// An open store.
pub struct Store {
    state: Database,
    journal: Journal,
    /// The journal's rows.
    unfolded: Unfolded,
}

/// What a new scheduler process begins with.
pub struct Opened {
    pub store: Store,
    pub cell: CellId,
    /// Raised, and on disk.
    pub epoch: Epoch,
}

/// Opens or creates a file.
fn open_file(path: &Path, cache_bytes: usize) -> Result<Database, StoreError> {
    let path = path.to_owned();
    Builder::new().set_cache_size(cache_bytes).create(&path).map_err(|source| match source {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
        source => StoreError::Open { path, source: Box::new(source) },
    })
}

/// A change of the large file.
fn change(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// The last reign, and the format that it is written in.
fn read_reign(bytes: &[u8]) -> Result<(Reign, u8), StoreError> {
    match bytes.split_first() {
        Some((&TWO_FILES, json)) => {
            let reign = serde_json::from_slice(json).map_err(StoreError::Record)?;
            Ok((reign, TWO_FILES))
        }
        _ => Ok((decode(bytes)?, FORMAT)),
    }
}

fn write_reign(reign: &Reign) -> Vec<u8> {
    let mut bytes = encode(reign);
    bytes[0] = TWO_FILES;
    bytes
}

impl Store {
    /// Opens or creates `scheduler.redb` and `journal.redb` in a directory that exists, and begins a
    /// new epoch.
    pub fn open(directory: &Path) -> Result<Opened, StoreError> {
        let state = open_file(&directory.join(STATE_FILE), CACHE_BYTES)?;
        let (last, folded) = Self::last_reign(&state)?;
        let path = directory.join(JOURNAL_FILE);
        if matches!(last, Some((_, TWO_FILES))) && !path.exists() {
            return Err(StoreError::NoJournal { path });
        }
        let mut journal = Journal::open(&path)?;
        let other = || StoreError::OtherJournal { path: path.clone() };
        let reign = match last {
            Some((reign, TWO_FILES)) => {
                // Rows are on disk before they are folded, and folded before they are forgotten.
                let fits = journal.begin <= folded && folded <= journal.end;
                if journal.cell != Some(reign.cell) || !fits {
                    return Err(other());
                }
                reign
            }
            Some((reign, _)) => {
                journal.begin_anew(reign.cell)?;
                Self::split(&state, &reign)?;
                reign
            }
            None if journal.len() > 0 => return Err(other()),
            None => {
                let reign = Reign { cell: CellId::generate(), epoch: Epoch(0) };
                journal.begin_anew(reign.cell)?;
                reign
            }
        };
        if journal.begin < folded {
            journal.forget(folded)?;
        }
        let unfolded = journal.read()?;
        let mut store = Self { state, journal, unfolded };
        store.fold(usize::MAX)?;
        let Reign { cell, epoch } = store.begin_reign(reign)?;
        Ok(Opened { store, cell, epoch })
    }

    /// Also up to which key of the journal all is in the table.
    fn last_reign(state: &Database) -> Result<(Option<(Reign, u8)>, u64), StoreError> {
        let transaction = state.begin_read()?;
        let meta = match transaction.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok((None, 0)),
            meta => meta?,
        };
        let reign = meta.get(REIGN)?.map(|value| read_reign(value.value())).transpose()?;
        let folded = meta.get(FOLDED)?.map(|value| decode(value.value())).transpose()?;
        Ok((reign, folded.unwrap_or(0)))
    }

    /// Makes one file of two of a store that was one: what its journal holds is folded.
    fn split(state: &Database, reign: &Reign) -> Result<(), StoreError> {
        let transaction = change(state)?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(REIGN, write_reign(reign).as_slice())?;
            let mut rows = read_rows(&transaction.open_table(JOURNAL)?)?;
            rows.fold(usize::MAX, &mut transaction.open_table(STATE)?)?;
        }
        transaction.delete_table(JOURNAL)?;
        Ok(transaction.commit()?)
    }

    /// Commits records with one fsync. On an error the process must stop: what is on disk is not
    /// known then.
    pub fn append(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let rows: Vec<Vec<u8>> = records.iter().map(encode).collect();
        self.journal.append(&rows)?;
        records.iter().zip(rows).for_each(|(record, row)| self.unfolded.push(record, row));
        Ok(())
    }

    /// So many rows of the journal are not in the keyed table.
    pub fn unfolded(&self) -> usize {
        self.unfolded.len()
    }

    /// Moves the oldest of them there, so many at the most. After an error the store must be opened
    /// again.
    pub fn fold(&mut self, rows: usize) -> Result<(), StoreError> {
        let rows = rows.min(self.unfolded.len());
        if rows == 0 {
            return Ok(());
        }
        let folded = self.journal.begin + rows as u64;
        let transaction = change(&self.state)?;
        {
            self.unfolded.fold(rows, &mut transaction.open_table(STATE)?)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert(FOLDED, encode(&folded).as_slice())?;
        }
        transaction.commit()?;
        self.journal.forget(folded)
    }

    fn begin_reign(&self, last: Reign) -> Result<Reign, StoreError> {
        let reign = Reign { epoch: Epoch(last.epoch.0 + 1), ..last };
        let transaction = change(&self.state)?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(REIGN, write_reign(&reign).as_slice())?;
            transaction.open_table(STATE)?;
        }
        transaction.commit()?;
        Ok(reign)
    }

    /// What was known when the store was opened: nothing has been appended since.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        read::snapshot(&self.state)
    }
}

#[cfg(test)]
mod tests;
