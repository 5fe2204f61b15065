//! Reading the whole store, part by part, on as many threads as there are cores.

use redb::{Database, ReadOnlyTable, ReadableDatabase};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bistro_common::ids::TaskName;
use bistro_core::{Record, Rows, Snapshot, TaskRecord, task_row};

use super::format::{TASK, TASK_ROW, decode};
use super::{STATE, StoreError};

/// More threads than these would wait for each other.
const THREADS_MAX: usize = 4;

type State = ReadOnlyTable<&'static str, &'static [u8]>;

pub fn snapshot(database: &Database) -> Result<Snapshot, StoreError> {
    let state = || Ok::<_, StoreError>(database.begin_read()?.open_table(STATE)?);
    let begins = begins(&state()?)?;
    let next = AtomicUsize::new(0);
    let read_some = || {
        let (state, mut reader) = (state()?, Reader::default());
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            let Some(begin) = begins.get(part) else { break };
            let rows = match begins.get(part + 1) {
                Some(end) => state.range(begin.as_str()..end.as_str())?,
                None => state.range(begin.as_str()..)?,
            };
            for row in rows {
                let (key, value) = row?;
                reader.read(key.value(), value.value())?;
            }
        }
        Ok::<_, StoreError>(reader.finish())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let mut snapshot = Snapshot::default();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read_some)).collect();
        for reader in readers {
            snapshot.append(reader.join().expect("a reader does not panic")?);
        }
        Ok(snapshot)
    })
}

/// Where the parts begin: what is before the tasks, those of each job, and what is behind them.
fn begins(state: &State) -> Result<Vec<String>, StoreError> {
    let mut begins = vec![String::new(), TASK.to_string()];
    let mut begin = TASK.to_string();
    loop {
        let Some(row) = state.range(begin.as_str()..)?.next() else { break };
        let (key, _) = row?;
        let Some(name) = key.value().strip_prefix(TASK).map(str::to_owned) else { break };
        let (prefix, _) = job_of(&name).ok_or_else(|| no_row(&name))?;
        begin = behind(&format!("{TASK}{prefix}"));
        begins.push(begin.clone());
    }
    Ok(begins)
}

/// The least text that is greater than all that begin so.
fn behind(prefix: &str) -> String {
    let mut prefix = prefix.to_owned();
    while let Some(last) = prefix.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            prefix.push(next);
            break;
        }
    }
    prefix
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
        if self.prefix.is_empty() || !name.starts_with(&self.prefix) {
            let (prefix, job) = job_of(name).ok_or_else(|| no_row(name))?;
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
        let phase = task_row::check(row).ok_or_else(|| no_row(name))?;
        if !(phase.is_over() && self.rows.push(node, row)) {
            let task = TaskName { job: self.job.clone(), node: node.into() };
            self.snapshot.tasks.push((task, task_row::decode(row).ok_or_else(|| no_row(name))?));
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

fn no_row(name: &str) -> StoreError {
    StoreError::TaskRow { key: name.to_owned() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        let read = |key: &str, row: &[u8]| Reader::default().read_task(key, row);
        for key in ["", "x:y", "9:ab", "1é", "2:é"] {
            assert!(read(key, &[TASK_ROW, 4, 0, 0, 0, 0, 0]).is_err() == (key != "2:é"));
        }
        let error = read("1:ab", &[TASK_ROW, 99]).unwrap_err();
        assert!(error.to_string().contains("1:ab"), "{error}");
    }
}
