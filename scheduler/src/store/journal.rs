//! What has been committed and is not in the table yet: a small file beside the large one. An append
//! changes this one alone, and if the process is killed, only this one is walked through.

use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table};
use std::path::Path;

use bistro_common::ids::CellId;
use bistro_core::Record;
use bistro_core::succession::Position;

use super::format::{decode, encode};
use super::unfolded::Unfolded;
use super::{JOURNAL, META, StoreError, open_file};

/// redb's default would be a gigabyte.
const CACHE_BYTES: usize = 8 << 20;

/// In [`META`]: up to which key rows have been forgotten.
const BEGIN: &str = "begin";
const CELL: &str = "cell";
/// In [`META`]: where in a stream the last row is, if it is in one.
const POSITION: &str = "position";

/// What is in the rows of a journal.
pub fn read_rows(rows: &impl ReadableTable<u64, &'static [u8]>) -> Result<Unfolded, StoreError> {
    let mut unfolded = Unfolded::default();
    for row in rows.iter()? {
        let (_, row) = row?;
        let record: Record = decode(row.value())?;
        unfolded.push(&record, row.value().to_vec());
    }
    Ok(unfolded)
}

fn put_position(
    meta: &mut Table<'_, &'static str, &'static [u8]>,
    position: Option<&Position>,
) -> Result<(), StoreError> {
    match position {
        Some(position) => drop(meta.insert(POSITION, encode(position).as_slice())?),
        None => drop(meta.remove(POSITION)?),
    }
    Ok(())
}

pub struct Journal {
    database: Database,
    /// Keys of rows grow for as long as there is a store.
    pub begin: u64,
    pub end: u64,
    /// Whose journal it is; `None`: it is new.
    pub cell: Option<CellId>,
    pub position: Option<Position>,
}

impl Journal {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = open_file(path, CACHE_BYTES)?;
        let transaction = database.begin_write()?;
        let (begin, end, cell, position) = {
            let meta = transaction.open_table(META)?;
            let cell = meta.get(CELL)?.map(|value| decode(value.value())).transpose()?;
            let begin = meta.get(BEGIN)?.map(|value| decode(value.value())).transpose()?;
            let begin: u64 = begin.unwrap_or(0);
            let rows = transaction.open_table(JOURNAL)?;
            let last = rows.last()?.map(|(key, _)| key.value());
            let position = meta.get(POSITION)?.map(|value| decode(value.value())).transpose()?;
            (begin, last.map_or(begin, |last| last + 1), cell, position)
        };
        transaction.commit()?;
        Ok(Self { database, begin, end, cell, position })
    }

    pub fn len(&self) -> u64 {
        self.end - self.begin
    }

    /// Makes it the journal, without any rows, of a cell that has had so many.
    pub fn begin_anew(
        &mut self,
        cell: CellId,
        at: u64,
        position: Option<Position>,
    ) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        {
            transaction.delete_table(JOURNAL)?;
            transaction.open_table(JOURNAL)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert(CELL, encode(&cell).as_slice())?;
            meta.insert(BEGIN, encode(&at).as_slice())?;
            put_position(&mut meta, position.as_ref())?;
        }
        transaction.commit()?;
        (self.begin, self.end, self.cell, self.position) = (at, at, Some(cell), position);
        Ok(())
    }

    /// Forgets everything.
    pub fn empty(&mut self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        transaction.delete_table(JOURNAL)?;
        transaction.open_table(JOURNAL)?;
        transaction.delete_table(META)?;
        transaction.open_table(META)?;
        transaction.commit()?;
        (self.begin, self.end, self.cell, self.position) = (0, 0, None, None);
        Ok(())
    }

    /// From now on its rows are in a stream, after this position; or in none.
    pub fn follow(&mut self, position: Option<Position>) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        put_position(&mut transaction.open_table(META)?, position.as_ref())?;
        transaction.commit()?;
        self.position = position;
        Ok(())
    }

    /// Commits rows with one fsync, and where in a stream they are, if they are in one.
    pub fn append(
        &mut self,
        rows: &[Vec<u8>],
        position: Option<Position>,
    ) -> Result<(), StoreError> {
        if rows.is_empty() && position.is_none() {
            return Ok(());
        }
        let transaction = self.database.begin_write()?;
        {
            let mut journal = transaction.open_table(JOURNAL)?;
            for (key, row) in (self.end..).zip(rows) {
                journal.insert(key, row.as_slice())?;
            }
            if position.is_some() {
                put_position(&mut transaction.open_table(META)?, position.as_ref())?;
            }
        }
        transaction.commit()?;
        self.end += rows.len() as u64;
        self.position = position.or(self.position.take());
        Ok(())
    }

    /// All of its rows, the oldest first.
    pub fn read(&self) -> Result<Unfolded, StoreError> {
        read_rows(&self.database.begin_read()?.open_table(JOURNAL)?)
    }

    /// Forgets the rows before a key. They are gone for good with the next append only; until then
    /// a crash brings them back.
    pub fn forget(&mut self, before: u64) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        {
            let mut rows = transaction.open_table(JOURNAL)?;
            rows.retain_in(..before, |_, _| false)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert(BEGIN, encode(&before).as_slice())?;
        }
        transaction.commit()?;
        self.begin = before;
        Ok(())
    }
}
