//! Reading the whole store.

use serde::Deserialize;
use std::sync::Arc;

use bistro_common::ids::TaskName;
use bistro_core::{Record, Rows, Snapshot, TaskRecord, task_row};

use super::StoreError;
use super::format::{TASK, TASK_ROW, decode};

/// Makes a snapshot of rows as they lie in the store: those of tasks job by job.
#[derive(Default)]
pub struct Reader {
    snapshot: Snapshot,
    /// The job of the last task, as keys begin that have it, and what is finished of it.
    prefix: String,
    job: Arc<str>,
    rows: Rows,
}

impl Reader {
    pub fn read(&mut self, key: &str, value: &[u8]) -> Result<(), StoreError> {
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

    pub fn finish(mut self) -> Snapshot {
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
