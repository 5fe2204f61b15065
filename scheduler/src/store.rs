//! What survives: the core's records in redb, committed in groups.
//!
//! A record is first appended to a journal under a growing key, which is many times faster than a
//! random one, and later folded into a table keyed by what it is about. Opening folds the journal,
//! so a crash costs nothing but that. One process at a time: redb locks the file.

use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bistro_common::ids::{CellId, Epoch, TaskName};
use bistro_core::{Record, Snapshot, TaskRecord};
use std::sync::Arc;

mod task_row;

const JOURNAL: TableDefinition<u64, &[u8]> = TableDefinition::new("journal");
/// Keyed by [`key_of`]; a value is the last record of its key.
const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// The first byte of every value. A store that a later build wrote is refused, not guessed at.
const FORMAT: u8 = 1;
/// Of a task's row that is not JSON.
const TASK_ROW: u8 = 2;

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
    #[error("the store was written by a later version (format {found}, this build knows {FORMAT})")]
    Format { found: u8 },
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
    database: Database,
    next_key: u64,
    /// Rows in the journal.
    journal_len: u64,
}

/// What a new scheduler process begins with.
pub struct Opened {
    pub store: Store,
    pub cell: CellId,
    /// Raised, and on disk.
    pub epoch: Epoch,
    pub snapshot: Snapshot,
}

impl Store {
    /// Opens or creates `scheduler.redb` in a directory that exists, and begins a new epoch.
    pub fn open(directory: &Path) -> Result<Opened, StoreError> {
        let path = directory.join("scheduler.redb");
        let database = Builder::new().set_cache_size(CACHE_BYTES).create(&path).map_err(
            |source| match source {
                redb::DatabaseError::DatabaseAlreadyOpen => {
                    StoreError::InUse { path: path.clone() }
                }
                source => StoreError::Open { path: path.clone(), source: Box::new(source) },
            },
        )?;
        let mut store = Self { database, next_key: 0, journal_len: 0 };
        while store.fold()? {}
        let reign = store.begin_reign()?;
        let snapshot = store.snapshot()?;
        Ok(Opened { store, cell: reign.cell, epoch: reign.epoch, snapshot })
    }

    /// Commits records with one fsync. On an error the process must stop: what is on disk is not
    /// known then.
    pub fn append<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
    ) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        let mut count = 0;
        {
            let mut journal = transaction.open_table(JOURNAL)?;
            for record in records {
                journal.insert(self.next_key + count, encode(record).as_slice())?;
                count += 1;
            }
        }
        if count == 0 {
            return Ok(transaction.abort()?);
        }
        transaction.commit()?;
        self.next_key += count;
        self.journal_len += count;
        Ok(())
    }

    /// Whether [`Store::fold`] is due.
    pub fn wants_fold(&self) -> bool {
        self.journal_len >= FOLD_AT
    }

    /// Moves the oldest rows of the journal into the keyed table. Returns whether there are more.
    pub fn fold(&mut self) -> Result<bool, StoreError> {
        let transaction = self.database.begin_write()?;
        {
            let mut journal = transaction.open_table(JOURNAL)?;
            let mut state = transaction.open_table(STATE)?;
            // What is replaced soon is not written first.
            let mut last = HashMap::new();
            for _ in 0..FOLD_ROWS {
                let Some((_, value)) = journal.pop_first()? else { break };
                let bytes = value.value();
                let record: Record = decode(bytes)?;
                last.insert(key_of(&record), row_of(&record, bytes));
            }
            for (key, kept) in &last {
                match kept {
                    Some(bytes) => drop(state.insert(key.as_str(), bytes.as_slice())?),
                    None => drop(state.remove(key.as_str())?),
                }
            }
            self.journal_len = journal.len()?;
        }
        transaction.commit()?;
        Ok(self.journal_len > 0)
    }

    fn begin_reign(&mut self) -> Result<Reign, StoreError> {
        let transaction = self.database.begin_write()?;
        let reign = {
            let mut meta = transaction.open_table(META)?;
            let last = meta.get("reign")?.map(|value| decode::<Reign>(value.value()));
            let reign = match last.transpose()? {
                Some(last) => Reign { epoch: Epoch(last.epoch.0 + 1), ..last },
                None => Reign { cell: CellId::generate(), epoch: Epoch(1) },
            };
            meta.insert("reign", encode(&reign).as_slice())?;
            reign
        };
        transaction.commit()?;
        Ok(reign)
    }

    /// The folded state; the journal must be empty.
    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let transaction = self.database.begin_read()?;
        let state = transaction.open_table(STATE)?;
        let mut snapshot = Snapshot::default();
        for row in state.iter()? {
            let (key, value) = row?;
            if let Some(name) = key.value().strip_prefix(TASK) {
                // They lie job by job.
                let before = snapshot.tasks.last().map(|(task, _): &(TaskName, _)| &task.job);
                snapshot.tasks.push(read_task(name, before, value.value())?);
                continue;
            }
            match decode(value.value())? {
                Record::Task { task, record } => snapshot.tasks.push((task, record)),
                Record::AttemptOpened { attempt } => snapshot.attempts.push(attempt),
                Record::AttemptClosed { .. } => {}
                Record::Worker { worker } => snapshot.workers.push(worker),
                Record::Fenced { incarnation } => snapshot.fenced.push(incarnation),
                Record::DeletedVersion { version_id } => snapshot.deleted_version = version_id,
                Record::Audit { id, event } => {
                    snapshot.audits.extend(event.map(|event| (id, event)));
                }
                Record::Job { job, definition } => {
                    snapshot.definitions.extend(definition.map(|definition| (job, definition)));
                }
            }
        }
        Ok(snapshot)
    }
}

/// What a [`Record::Task`] holds, as it was kept before there were other rows.
#[derive(Deserialize)]
struct KeptTask {
    record: TaskRecord,
}

/// A task's record, whose key goes on with `name`. Many have the job of the one before.
fn read_task(
    name: &str,
    before: Option<&Arc<str>>,
    bytes: &[u8],
) -> Result<(TaskName, TaskRecord), StoreError> {
    let no_row = || StoreError::TaskRow { key: name.to_owned() };
    let names = name
        .split_once(':')
        .and_then(|(length, names)| names.split_at_checked(length.parse().ok()?));
    let (job, node) = names.ok_or_else(no_row)?;
    let job = before.filter(|before| ***before == *job).cloned().unwrap_or_else(|| job.into());
    let record = match bytes.split_first() {
        Some((&TASK_ROW, row)) => task_row::decode(row).ok_or_else(no_row)?,
        _ => decode::<KeptTask>(bytes)?.record,
    };
    Ok((TaskName { job, node: node.into() }, record))
}

/// What is kept of a record that was encoded so; nothing of one that takes another away.
fn row_of(record: &Record, encoded: &[u8]) -> Option<Vec<u8>> {
    match record {
        Record::Task { record, .. } => {
            let mut row = vec![TASK_ROW];
            task_row::encode(record, &mut row);
            Some(row)
        }
        record => (!is_removal(record)).then(|| encoded.to_vec()),
    }
}

/// What the keys of tasks begin with.
const TASK: char = 't';

/// Records with the same key replace each other.
fn key_of(record: &Record) -> String {
    match record {
        // The length keeps "a" + "bc" and "ab" + "c" apart, whatever the names contain.
        Record::Task { task, .. } => format!("{TASK}{}:{}{}", task.job.len(), task.job, task.node),
        Record::AttemptOpened { attempt } => format!("a{}", attempt.open.attempt),
        Record::AttemptClosed { attempt } => format!("a{attempt}"),
        Record::Worker { worker } => format!("w{}", worker.name),
        Record::Fenced { incarnation } => format!("f{incarnation}"),
        Record::Job { job, .. } => format!("j{job}"),
        Record::DeletedVersion { .. } => "v".to_owned(),
        // In the order in which they happened.
        Record::Audit { id, .. } => format!("u{:020}{:020}", id.epoch.0, id.number),
    }
}

/// What was kept under the record's key is gone.
fn is_removal(record: &Record) -> bool {
    match record {
        Record::AttemptClosed { .. } => true,
        Record::Job { definition, .. } => definition.is_none(),
        Record::Audit { event, .. } => event.is_none(),
        _ => false,
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value)
        .expect("records have string keys and finite numbers, and a vector takes every write");
    bytes
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&FORMAT, json)) => serde_json::from_slice(json).map_err(StoreError::Record),
        Some((&found, _)) => Err(StoreError::Format { found }),
        None => Err(StoreError::Empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bistro_common::ids::Incarnation;
    use bistro_core::Phase;

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
        assert_eq!((first.epoch, &first.snapshot), (Epoch(1), &Snapshot::default()));
        let mut store = first.store;
        let incarnation = Incarnation::generate();
        store.append([task("a", 1), task("b", 1)].iter()).unwrap();
        store.append([task("a", 2), Record::Fenced { incarnation }].iter()).unwrap();
        drop(store);
        let second = Store::open(directory.path()).unwrap();
        assert_eq!(second.epoch, Epoch(2), "every process reigns in an epoch of its own");
        assert_eq!(second.cell, first.cell);
        let numbers: Vec<_> =
            second.snapshot.tasks.iter().map(|(t, r)| (&*t.node, r.attempt_no)).collect();
        assert_eq!(numbers, [("a", 2), ("b", 1)]);
        assert_eq!(second.snapshot.fenced, [incarnation]);
    }

    #[test]
    fn rows_of_an_earlier_build_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap().store;
        let records = [task("a", 1), task("é:b", 7)];
        let transaction = store.database.begin_write().unwrap();
        {
            let mut state = transaction.open_table(STATE).unwrap();
            for record in &records {
                state.insert(key_of(record).as_str(), encode(record).as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
        drop(store);
        let opened = Store::open(directory.path()).unwrap();
        let read = opened.snapshot.tasks.into_iter();
        let read: Vec<_> = read.map(|(task, record)| Record::Task { task, record }).collect();
        assert_eq!(read, records);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        for key in ["", "x:y", "9:ab", "1é", "2:é"] {
            assert!(read_task(key, None, &[TASK_ROW, 0, 0, 0, 0, 0, 0]).is_err() == (key != "2:é"));
        }
        let error = read_task("1:ab", None, &[TASK_ROW, 99]).unwrap_err();
        assert!(error.to_string().contains("1:ab"), "{error}");
    }

    #[test]
    fn a_second_scheduler_on_the_same_data_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Store::open(directory.path()).unwrap();
        let second = Store::open(directory.path()).map(|_| ());
        assert!(matches!(second, Err(StoreError::InUse { .. })), "{second:?}");
    }

    #[test]
    fn a_store_of_a_later_version_is_refused() {
        assert!(matches!(decode::<Reign>(&[9, b'{']), Err(StoreError::Format { found: 9 })));
        assert!(matches!(decode::<Reign>(&[]), Err(StoreError::Empty)));
    }

    #[test]
    fn keys_of_different_tasks_differ() {
        let key = |job: &str, node: &str| {
            let task = TaskName::new(job, node);
            key_of(&Record::Task { task, record: TaskRecord::default() })
        };
        assert_ne!(key("a", "bc"), key("ab", "c"));
        assert_ne!(key("1:a", "b"), key("1", ":ab"));
    }
}
