//! What survives: the core's records in redb, committed in groups.
//!
//! A record is first appended to a journal under a growing key, which is many times faster than a
//! random one, and later folded into a table keyed by what it is about. Opening folds the journal,
//! so a crash costs nothing but that. The journal has a file of its own: that of the table is large,
//! and whoever changes it says in the same commit what redb would otherwise walk all of it for after a crash.
//! One process at a time: redb locks the files.

use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bistro_common::ids::{CellId, Epoch};
use bistro_core::{Record, Snapshot};

mod format;
mod journal;
mod read;

use format::{FORMAT, decode, encode, key_of, row_of};
use journal::Journal;

const STATE_FILE: &str = "scheduler.redb";
const JOURNAL_FILE: &str = "journal.redb";

const JOURNAL: TableDefinition<u64, &[u8]> = TableDefinition::new("journal");
/// Keyed by [`key_of`]; a value is the last record of its key.
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

/// With so many rows in the journal, it is worth folding.
const FOLD_AT: u64 = 10_000;

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
    state: Database,
    journal: Journal,
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

/// Puts rows of the journal into the table, in their order.
fn fold_rows<'r>(
    state: &mut Table<'_, &'static str, &'static [u8]>,
    rows: impl Iterator<Item = &'r [u8]>,
) -> Result<(), StoreError> {
    // What is replaced soon is not written first.
    let mut last = HashMap::new();
    for bytes in rows {
        let record: Record = decode(bytes)?;
        last.insert(key_of(&record), row_of(&record, bytes));
    }
    for (key, kept) in &last {
        match kept {
            Some(bytes) => drop(state.insert(key.as_str(), bytes.as_slice())?),
            None => drop(state.remove(key.as_str())?),
        }
    }
    Ok(())
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
        let mut store = Self { state, journal };
        while store.fold()? {}
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
            let journal = transaction.open_table(JOURNAL)?;
            let rows = journal.iter()?.map(|row| Ok(row?.1.value().to_vec()));
            let rows: Vec<Vec<u8>> = rows.collect::<Result<_, StoreError>>()?;
            let mut table = transaction.open_table(STATE)?;
            fold_rows(&mut table, rows.iter().map(Vec::as_slice))?;
        }
        transaction.delete_table(JOURNAL)?;
        Ok(transaction.commit()?)
    }

    /// Commits records with one fsync. On an error the process must stop: what is on disk is not
    /// known then.
    pub fn append<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
    ) -> Result<(), StoreError> {
        self.journal.append(records)
    }

    /// Whether [`Store::fold`] is due.
    pub fn wants_fold(&self) -> bool {
        self.journal.len() >= FOLD_AT
    }

    /// Moves the oldest rows of the journal into the keyed table. Returns whether there are more.
    pub fn fold(&mut self) -> Result<bool, StoreError> {
        let rows = self.journal.oldest(FOLD_ROWS)?;
        if rows.is_empty() {
            return Ok(false);
        }
        let folded = self.journal.begin + rows.len() as u64;
        let transaction = change(&self.state)?;
        {
            let mut state = transaction.open_table(STATE)?;
            fold_rows(&mut state, rows.iter().map(Vec::as_slice))?;
            let mut meta = transaction.open_table(META)?;
            meta.insert(FOLDED, encode(&folded).as_slice())?;
        }
        transaction.commit()?;
        self.journal.forget(folded)?;
        Ok(self.journal.len() > 0)
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
mod tests {
    use super::*;
    use bistro_common::ids::{Incarnation, TaskName};
    use bistro_core::{Phase, Rows, TaskRecord, task_row};
    use std::sync::Arc;

    /// All tasks of a snapshot that are finished, by job and node.
    fn finished(snapshot: &Snapshot) -> Vec<Record> {
        let of_job = |(job, rows): (&Arc<str>, &Rows)| {
            let record = |(node, row): (&str, &[u8])| Record::Task {
                task: TaskName::new(job.clone(), node),
                record: task_row::decode(row).unwrap(),
            };
            rows.iter().map(record).collect::<Vec<_>>()
        };
        snapshot.finished.iter().flat_map(of_job).collect()
    }

    fn task(node: &str, attempt_no: u32) -> Record {
        Record::Task {
            task: TaskName::new("j", node),
            record: TaskRecord { attempt_no, phase: Phase::Done, ..TaskRecord::default() },
        }
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart_in_its_last_version() {
        let directory = tempfile::tempdir().unwrap();
        let first = Store::open(directory.path()).unwrap();
        let mut store = first.store;
        assert_eq!((first.epoch, store.snapshot().unwrap()), (Epoch(1), Snapshot::default()));
        let incarnation = Incarnation::generate();
        store.append([task("a", 1), task("b", 1)].iter()).unwrap();
        store.append([task("a", 2), Record::Fenced { incarnation }].iter()).unwrap();
        drop(store);
        let second = Store::open(directory.path()).unwrap();
        assert_eq!(second.epoch, Epoch(2), "every process reigns in an epoch of its own");
        assert_eq!(second.cell, first.cell);
        let snapshot = second.store.snapshot().unwrap();
        assert_eq!(finished(&snapshot), [task("a", 2), task("b", 1)]);
        assert_eq!(snapshot.fenced, [incarnation]);
    }

    #[test]
    fn rows_of_an_earlier_build_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap().store;
        let records = [task("a", 1), task("é:b", 7)];
        let transaction = store.state.begin_write().unwrap();
        {
            let mut state = transaction.open_table(STATE).unwrap();
            for record in &records {
                state.insert(key_of(record).as_str(), encode(record).as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
        drop(store);
        let opened = Store::open(directory.path()).unwrap();
        assert_eq!(finished(&opened.store.snapshot().unwrap()), records);
    }

    #[test]
    fn all_is_read_whatever_jobs_are_called() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path()).unwrap().store;
        let jobs = ["", "a", "ab", "b", "0123456789", "é", "\u{d7ff}", "a\u{10ffff}", "\u{10ffff}"];
        let nodes = ["", "1", "n", "\u{10ffff}"];
        let names = jobs.iter().flat_map(|&job| nodes.map(|node| TaskName::new(job, node)));
        let phase = Phase::Done;
        let record = TaskRecord { phase, ..TaskRecord::default() };
        let mut all: Vec<Record> =
            names.map(|task| Record::Task { task, record: record.clone() }).collect();
        store.append(all.iter()).unwrap();
        let fenced = [Incarnation::generate()];
        store.append([Record::Fenced { incarnation: fenced[0] }].iter()).unwrap();
        store.append([Record::DeletedVersion { version_id: 7 }].iter()).unwrap();
        drop(store);
        let snapshot = Store::open(directory.path()).unwrap().store.snapshot().unwrap();
        let mut found = finished(&snapshot);
        [&mut all, &mut found].into_iter().for_each(|all| all.sort_by_key(key_of));
        assert_eq!(found, all);
        assert_eq!((snapshot.fenced, snapshot.deleted_version), (fenced.to_vec(), 7));
    }

    #[test]
    fn a_second_scheduler_on_the_same_data_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Store::open(directory.path()).unwrap();
        let second = Store::open(directory.path()).map(|_| ());
        assert!(matches!(second, Err(StoreError::InUse { .. })), "{second:?}");
    }

    /// As builds wrote it that had one file.
    fn write_old(directory: &Path, records: &[Record]) -> Reign {
        let reign = Reign { cell: CellId::generate(), epoch: Epoch(7) };
        let database = open_file(&directory.join(STATE_FILE), CACHE_BYTES).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut meta = transaction.open_table(META).unwrap();
            meta.insert(REIGN, encode(&reign).as_slice()).unwrap();
            let mut journal = transaction.open_table(JOURNAL).unwrap();
            for (at, record) in (100..).zip(records) {
                journal.insert(at, encode(record).as_slice()).unwrap();
            }
            transaction.open_table(STATE).unwrap();
        }
        transaction.commit().unwrap();
        reign
    }

    #[test]
    fn a_store_of_one_file_becomes_one_of_two_and_is_then_refused_by_who_knows_one() {
        let directory = tempfile::tempdir().unwrap();
        let old = write_old(directory.path(), &[task("a", 1), task("b", 1), task("a", 2)]);
        let opened = Store::open(directory.path()).unwrap();
        assert_eq!((opened.cell, opened.epoch), (old.cell, Epoch(8)));
        let found = finished(&opened.store.snapshot().unwrap());
        assert_eq!(found, [task("a", 2), task("b", 1)]);
        let transaction = opened.store.state.begin_read().unwrap();
        let meta = transaction.open_table(META).unwrap();
        let reign = meta.get(REIGN).unwrap().unwrap();
        let read = decode::<Reign>(reign.value());
        assert!(matches!(read, Err(StoreError::Format { found: TWO_FILES })), "{read:?}");
        drop((meta, transaction, reign));
        drop(opened);
        // A journal that is left where an old file was put back says nothing of that.
        let mut store = Store::open(directory.path()).unwrap().store;
        store.append([task("c", 1)].iter()).unwrap();
        drop(store);
        std::fs::remove_file(directory.path().join(STATE_FILE)).unwrap();
        write_old(directory.path(), &[task("a", 9)]);
        let store = Store::open(directory.path()).unwrap().store;
        assert_eq!(finished(&store.snapshot().unwrap()), [task("a", 9)]);
    }

    #[test]
    fn the_two_files_belong_together() {
        let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for directory in [&one, &other] {
            let mut store = Store::open(directory.path()).unwrap().store;
            store.append([task("a", 1)].iter()).unwrap();
        }
        let journal = |directory: &tempfile::TempDir| directory.path().join(JOURNAL_FILE);
        let open = |directory: &tempfile::TempDir| Store::open(directory.path()).map(|_| ());
        let kept = other.path().join("kept");
        std::fs::copy(journal(&one), &kept).unwrap();
        std::fs::copy(journal(&other), journal(&one)).unwrap();
        assert!(matches!(open(&one), Err(StoreError::OtherJournal { .. })));
        std::fs::remove_file(journal(&one)).unwrap();
        assert!(matches!(open(&one), Err(StoreError::NoJournal { .. })));
        // Rows without the store that they change.
        std::fs::remove_file(other.path().join(STATE_FILE)).unwrap();
        assert!(matches!(open(&other), Err(StoreError::OtherJournal { .. })));
        std::fs::copy(&kept, journal(&one)).unwrap();
        open(&one).unwrap();
        // What it has told is not in the journal of before.
        let mut store = Store::open(one.path()).unwrap().store;
        store.append([task("a", 2)].iter()).unwrap();
        drop(store);
        open(&one).unwrap();
        std::fs::copy(&kept, journal(&one)).unwrap();
        assert!(matches!(open(&one), Err(StoreError::OtherJournal { .. })));
    }

    /// Where a process may be killed while it folds: before the rows are in the table, after that,
    /// and after they are forgotten.
    #[test]
    fn rows_are_folded_once_wherever_that_ends() {
        let directory = tempfile::tempdir().unwrap();
        let copy = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path()).unwrap().store;
        store.append([task("a", 1), task("b", 1)].iter()).unwrap();
        store.append([task("a", 2)].iter()).unwrap();
        let save = |what: &str| {
            let from = directory.path().join(what);
            std::fs::copy(from, copy.path().join(what)).unwrap();
        };
        let found = || {
            let store = Store::open(copy.path()).unwrap().store;
            finished(&store.snapshot().unwrap())
        };
        let expected = [task("a", 2), task("b", 1)];
        [STATE_FILE, JOURNAL_FILE].into_iter().for_each(save);
        assert_eq!(found(), expected);
        [STATE_FILE, JOURNAL_FILE].into_iter().for_each(save);
        assert!(!store.fold().unwrap());
        save(STATE_FILE);
        assert_eq!(found(), expected);
        store.append([task("c", 1)].iter()).unwrap();
        [STATE_FILE, JOURNAL_FILE].into_iter().for_each(save);
        assert_eq!(found()[..2], expected);
        assert_eq!(found().len(), 3);
    }
}
