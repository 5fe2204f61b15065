//! What survives: the core's records in redb, committed in groups.
//!
//! A record is first appended to a journal under a growing key, which is many times faster than a
//! random one, and later folded into a table keyed by what it is about. Opening folds the journal,
//! so a crash costs nothing but that. The journal has a file of its own: that of the table is large,
//! and whoever changes it says in the same commit what redb would otherwise walk all of it for after a crash.
//! One process at a time: redb locks the files.

use redb::{
    Builder, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use bistro_common::ids::{CellId, Epoch};
use bistro_core::succession::Position;
use bistro_core::{Record, Snapshot};

mod copy;
mod format;
mod journal;
mod read;
mod unfolded;

pub use copy::Page;
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
/// In [`META`], while all of it is being copied from another.
const COPYING: &str = "copying";

type Meta = ReadOnlyTable<&'static str, &'static [u8]>;

/// The first byte of a reign in place of [`FORMAT`], so that a build that knows of no file beside
/// this one goes no further.
const TWO_FILES: u8 = 3;

/// redb's default would be a gigabyte.
const CACHE_BYTES: usize = 64 << 20;

/// With so many rows in the journal, it is worth folding.
const FOLD_AT: usize = 10_000;

/// So many at a time, since commits wait meanwhile: as many as they bring at the most, or the
/// journal would grow under load.
const FOLD_ROWS: usize = 2_000;

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
    path: PathBuf,
    state: Database,
    journal: Journal,
    /// The journal's rows.
    unfolded: Unfolded,
    /// The last one; `None`: there is nothing in it.
    last: Option<Reign>,
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
    /// new epoch, in which no other scheduler follows.
    pub fn open(directory: &Path) -> Result<Opened, StoreError> {
        Self::open_to_follow(directory)?.begin_reign(Epoch(0), None)
    }

    /// The same without an epoch of its own: its records are those of another.
    pub fn open_to_follow(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(STATE_FILE);
        let state = open_file(&path, CACHE_BYTES)?;
        let (last, folded) = Self::last_reign(&state)?;
        let at = directory.join(JOURNAL_FILE);
        if matches!(last, Some((_, TWO_FILES))) && !at.exists() {
            return Err(StoreError::NoJournal { path: at });
        }
        let mut journal = Journal::open(&at)?;
        let other = || StoreError::OtherJournal { path: at.clone() };
        match last {
            Some((reign, TWO_FILES)) => {
                // Rows are on disk before they are folded, and folded before they are forgotten.
                let fits = journal.begin <= folded && folded <= journal.end;
                if journal.cell != Some(reign.cell) || !fits {
                    return Err(other());
                }
            }
            Some((reign, _)) => {
                journal.begin_anew(reign.cell, 0, None)?;
                Self::split(&state, &reign)?;
            }
            None if Self::was_being_copied(&state)? => copy::discard(&state, &mut journal)?,
            None if journal.len() > 0 => return Err(other()),
            None => {}
        }
        if journal.begin < folded {
            journal.forget(folded)?;
        }
        let unfolded = journal.read()?;
        let last = last.map(|(reign, _)| reign);
        let mut store = Self { path, state, journal, unfolded, last };
        store.fold(usize::MAX)?;
        Ok(store)
    }

    /// Nothing has ever been in it.
    pub fn is_new(&self) -> bool {
        self.last.is_none()
    }

    /// Whose store it is.
    pub fn cell(&self) -> Option<CellId> {
        self.last.map(|reign| reign.cell).or(self.journal.cell)
    }

    /// The reign that it knows of: its own last one, or that of whom it follows.
    pub fn epoch(&self) -> Epoch {
        let followed = self.position().map_or(Epoch(0), |position| position.epoch);
        self.last.map_or(Epoch(0), |reign| reign.epoch).max(followed)
    }

    /// How far it has followed another's records, if it ever has.
    pub fn position(&self) -> Option<&Position> {
        self.journal.position.as_ref()
    }

    /// The number of the next record, counted from the first that the cell ever had.
    pub fn end(&self) -> u64 {
        self.journal.end
    }

    /// Records before this number are in the keyed table.
    pub fn folded(&self) -> u64 {
        self.journal.begin
    }

    /// Where it is, as no other store is: a process that has this one open knows that whoever had it
    /// before is gone.
    pub fn place(&self) -> std::io::Result<String> {
        use std::os::unix::fs::MetadataExt;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let file = std::fs::metadata(&self.path)?;
        Ok(format!("{}/{}/{}", boot.trim(), file.dev(), file.ino()))
    }

    /// Also up to which key of the journal all is in the table.
    fn last_reign(state: &Database) -> Result<(Option<(Reign, u8)>, u64), StoreError> {
        let transaction = state.begin_read()?;
        let Some(meta) = Self::meta(&transaction)? else { return Ok((None, 0)) };
        let reign = meta.get(REIGN)?.map(|value| read_reign(value.value())).transpose()?;
        let folded = meta.get(FOLDED)?.map(|value| decode(value.value())).transpose()?;
        Ok((reign, folded.unwrap_or(0)))
    }

    /// `None`: the file is new.
    fn meta(transaction: &ReadTransaction) -> Result<Option<Meta>, StoreError> {
        match transaction.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            meta => Ok(Some(meta?)),
        }
    }

    fn was_being_copied(state: &Database) -> Result<bool, StoreError> {
        let Some(meta) = Self::meta(&state.begin_read()?)? else { return Ok(false) };
        Ok(meta.get(COPYING)?.is_some())
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
        self.append_at(records, None)
    }

    /// The same of records that are in a stream, up to this position of it.
    pub fn append_at(
        &mut self,
        records: &[Record],
        position: Option<Position>,
    ) -> Result<(), StoreError> {
        let rows: Vec<Vec<u8>> = records.iter().map(encode).collect();
        self.journal.append(&rows, position)?;
        records.iter().zip(rows).for_each(|(record, row)| self.unfolded.push(record, row));
        Ok(())
    }

    /// Moves some of the journal's rows into the keyed table, if there are many; returns whether
    /// there may be more to do. After an error the store must be opened again.
    pub fn fold_some(&mut self) -> Result<bool, StoreError> {
        if self.unfolded.len() < FOLD_AT {
            return Ok(false);
        }
        self.fold(FOLD_ROWS)?;
        Ok(true)
    }

    /// Moves the oldest of them there, so many at the most.
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

    /// Begins an epoch that is greater than its last and than `above`; `position`: where it begins in
    /// a stream, if others follow. A store that has no cell is a new one's.
    pub fn begin_reign(
        mut self,
        above: Epoch,
        position: Option<Position>,
    ) -> Result<Opened, StoreError> {
        self.fold(usize::MAX)?;
        let cell = match self.cell() {
            Some(cell) => cell,
            None => self.found_cell()?,
        };
        let reign = Reign { cell, epoch: Epoch(self.epoch().max(above).0 + 1) };
        self.journal.follow(position)?;
        let transaction = change(&self.state)?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(REIGN, write_reign(&reign).as_slice())?;
            meta.remove(COPYING)?;
            transaction.open_table(STATE)?;
        }
        transaction.commit()?;
        self.last = Some(reign);
        Ok(Opened { store: self, cell, epoch: reign.epoch })
    }

    /// Its records are in no stream any more that others follow.
    pub fn follow_nothing(&mut self) -> Result<(), StoreError> {
        self.journal.follow(None)
    }

    /// Gives a new store a cell, and nothing of what may be left of an attempt to copy another's.
    pub fn found_cell(&mut self) -> Result<CellId, StoreError> {
        copy::discard(&self.state, &mut self.journal)?;
        let cell = CellId::generate();
        self.journal.begin_anew(cell, 0, None)?;
        Ok(cell)
    }

    /// What was known when the store was opened: nothing has been appended since.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        read::snapshot(&self.state)
    }
}

#[cfg(test)]
mod tests;
