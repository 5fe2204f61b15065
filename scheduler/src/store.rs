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
use bistro_core::{Record, Rows, Snapshot, TaskRecord, task_row};
use std::sync::Arc;

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
        Ok(Opened { store, cell: reign.cell, epoch: reign.epoch })
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

    /// What was known when the store was opened: nothing has been appended since. Reads everything.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let transaction = self.database.begin_read()?;
        let state = transaction.open_table(STATE)?;
        let mut reader = Reader::default();
        for row in state.iter()? {
            let (key, value) = row?;
            reader.read(key.value(), value.value())?;
        }
        Ok(reader.finish())
    }
}

/// Makes a snapshot of rows as they lie in the store: those of tasks job by job.
#[derive(Default)]
struct Reader {
    snapshot: Snapshot,
    /// The job of the last task, as keys begin that have it, and what is finished of it.
    prefix: String,
    job: Arc<str>,
    rows: Rows,
}

impl Reader {
    fn read(&mut self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        if let Some(name) = key.strip_prefix(TASK) {
            return self.read_task(name, value);
        }
        let snapshot = &mut self.snapshot;
        match decode(value)? {
            Record::Task { task, record } => snapshot.tasks.push((task, record)),
            Record::AttemptOpened { attempt } => snapshot.attempts.push(attempt),
            Record::AttemptClosed { .. } => {}
            Record::Worker { worker } => snapshot.workers.push(worker),
            Record::Fenced { incarnation } => snapshot.fenced.push(incarnation),
            Record::DeletedVersion { version_id } => snapshot.deleted_version = version_id,
            Record::Audit { id, event } => snapshot.audits.extend(event.map(|event| (id, event))),
            Record::Job { job, definition } => {
                snapshot.definitions.extend(definition.map(|definition| (job, definition)));
            }
        }
        Ok(())
    }

    /// A task whose key goes on with `name`.
    fn read_task(&mut self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        let no_row = || StoreError::TaskRow { key: name.to_owned() };
        if self.prefix.is_empty() || !name.starts_with(&self.prefix) {
            let (prefix, job) = job_of(name).ok_or_else(no_row)?;
            self.end_job();
            (self.prefix, self.job) = (prefix.to_owned(), job.into());
        }
        let node = &name[self.prefix.len()..];
        let mut encoded = Vec::new();
        let row = match value.split_first() {
            Some((&TASK_ROW, row)) => row,
            _ => {
                task_row::encode(&decode::<KeptTask>(value)?.record, &mut encoded);
                &encoded
            }
        };
        let phase = task_row::check(row).ok_or_else(no_row)?;
        if !(phase.is_over() && self.rows.push(node, row)) {
            let task = TaskName { job: self.job.clone(), node: node.into() };
            self.snapshot.tasks.push((task, task_row::decode(row).ok_or_else(no_row)?));
        }
        Ok(())
    }

    fn end_job(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            rows.shrink();
            self.snapshot.finished.insert(self.job.clone(), rows);
        }
    }

    fn finish(mut self) -> Snapshot {
        self.end_job();
        self.snapshot
    }
}

/// What a [`Record::Task`] holds, as it was kept before there were other rows.
#[derive(Deserialize)]
struct KeptTask {
    record: TaskRecord,
}

/// What the keys of a job's tasks begin with, after [`TASK`], and the job.
fn job_of(name: &str) -> Option<(&str, &str)> {
    let (length, names) = name.split_once(':')?;
    let (job, node) = names.split_at_checked(length.parse().ok()?)?;
    Some((&name[..name.len() - node.len()], job))
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
        assert_eq!(finished(&opened.store.snapshot().unwrap()), records);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        let read = |key: &str, row: &[u8]| Reader::default().read_task(key, row);
        for key in ["", "x:y", "9:ab", "1é", "2:é"] {
            assert!(read(key, &[TASK_ROW, 4, 0, 0, 0, 0, 0]).is_err() == (key != "2:é"));
        }
        let error = read("1:ab", &[TASK_ROW, 99]).unwrap_err();
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
