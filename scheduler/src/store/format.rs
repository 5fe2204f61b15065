//! How records lie in the store: under which keys, and as what.

use serde::Serialize;
use serde::de::DeserializeOwned;

use bistro_core::{Record, task_row};

use super::StoreError;

/// The first byte of every value. A store that a later build wrote is refused, not guessed at.
pub const FORMAT: u8 = 1;
/// Of a task's row that is not JSON.
pub const TASK_ROW: u8 = 2;

/// What is kept of a record that was encoded so; nothing of one that takes another away.
pub fn row_of(record: &Record, encoded: Vec<u8>) -> Option<Vec<u8>> {
    match record {
        Record::Task { record, .. } => {
            let mut row = vec![TASK_ROW];
            task_row::encode(record, &mut row);
            Some(row)
        }
        record => (!is_removal(record)).then_some(encoded),
    }
}

/// What the keys of tasks begin with.
pub const TASK: char = 't';

/// Records with the same key replace each other.
pub fn key_of(record: &Record) -> String {
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

pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value)
        .expect("records have string keys and finite numbers, and a vector takes every write");
    bytes
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&FORMAT, json)) => serde_json::from_slice(json).map_err(StoreError::Record),
        Some((&found, _)) => Err(StoreError::Format { found }),
        None => Err(StoreError::Empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bistro_common::ids::TaskName;
    use bistro_core::TaskRecord;

    #[test]
    fn what_a_later_version_wrote_is_refused() {
        assert!(matches!(decode::<u64>(&[9, b'1']), Err(StoreError::Format { found: 9 })));
        assert!(matches!(decode::<u64>(&[]), Err(StoreError::Empty)));
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
