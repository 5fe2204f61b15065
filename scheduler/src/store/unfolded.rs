//! What the journal holds and the table does not have yet, ready to be put there: most of it is never
//! read from the disk again, and an attempt that is over by then is not put there at all.

use redb::Table;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;

use bistro_core::Record;

use super::StoreError;
use super::format::{key_of, row_of};

/// A row's key in the table, and what is to be there; `None`: nothing.
type Change = (Arc<str>, Option<Vec<u8>>);

/// As many as there are rows in the journal, in their order.
#[derive(Default)]
pub struct Unfolded {
    /// `None`: a later one is about the same thing.
    changes: VecDeque<Option<Change>>,
    /// The last change of each key, counted from the first that there ever was.
    last: FxHashMap<Arc<str>, usize>,
    /// So many have been taken.
    taken: usize,
}

impl Unfolded {
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// `encoded`: as it is in the journal.
    pub fn push(&mut self, record: &Record, encoded: Vec<u8>) {
        let key: Arc<str> = key_of(record).into();
        let before = self.last.insert(key.clone(), self.taken + self.changes.len());
        // One that has been taken is in the table.
        if let Some(before) = before.and_then(|number| number.checked_sub(self.taken)) {
            self.changes[before] = None;
        }
        self.changes.push_back(Some((key, row_of(record, encoded))));
    }

    /// Makes the oldest changes, of so many rows of the journal.
    pub fn fold(
        &mut self,
        rows: usize,
        table: &mut Table<'_, &'static str, &'static [u8]>,
    ) -> Result<(), StoreError> {
        for change in self.changes.drain(..rows.min(self.changes.len())) {
            self.taken += 1;
            let Some((key, row)) = change else { continue };
            self.last.remove(&key);
            match row {
                Some(row) => drop(table.insert(&*key, row.as_slice())?),
                None => drop(table.remove(&*key)?),
            }
        }
        Ok(())
    }
}
