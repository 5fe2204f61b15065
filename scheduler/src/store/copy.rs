//! All that is in a store, page by page, for another that begins to follow it.
//!
//! A page is read as the store is at its time. The rows of the journal from that of the first page
//! on make the pages fit together: each replaces all of what it is about.

use redb::{Database, Durability, ReadableDatabase};
use std::ops::Bound;

use bistro_common::ids::{CellId, Epoch};
use bistro_core::succession::Position;

use super::format::encode;
use super::journal::Journal;
use super::{COPYING, FOLDED, META, REIGN, Reign, STATE, Store, StoreError, change, write_reign};

/// Rows of a store, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Up to this number the journal's rows are in it.
    pub folded: u64,
    pub rows: Vec<(String, Vec<u8>)>,
}

impl Store {
    /// Rows after a key, or from the first; more than none if there are any, and about as many
    /// bytes.
    pub fn page(&self, after: Option<&str>, bytes: usize) -> Result<Page, StoreError> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.state.begin_read()?.open_table(STATE)?;
        let mut page = Page { folded: self.journal.begin, rows: Vec::new() };
        let mut size = 0;
        for row in table.range::<&str>((begin, Bound::Unbounded))? {
            let (key, value) = row?;
            size += key.value().len() + value.value().len();
            page.rows.push((key.value().to_owned(), value.value().to_vec()));
            if size >= bytes {
                break;
            }
        }
        Ok(page)
    }

    /// Throws away all that is in it, to take the pages of another.
    pub fn begin_copy(&mut self) -> Result<(), StoreError> {
        discard(&self.state, &mut self.journal)?;
        self.last = None;
        self.unfolded = super::Unfolded::default();
        Ok(())
    }

    /// It is on the disk with the end of the copy: half of one is nothing.
    pub fn put_page(&mut self, page: &Page) -> Result<(), StoreError> {
        let mut transaction = self.state.begin_write()?;
        transaction.set_durability(Durability::None)?;
        {
            let mut table = transaction.open_table(STATE)?;
            for (key, value) in &page.rows {
                table.insert(key.as_str(), value.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// All pages are in it. `folded` is that of the first; what follows comes from the stream, after
    /// `position`.
    pub fn end_copy(
        &mut self,
        cell: CellId,
        epoch: Epoch,
        folded: u64,
        position: Position,
    ) -> Result<(), StoreError> {
        self.journal.begin_anew(cell, folded, Some(position))?;
        let reign = Reign { cell, epoch };
        let transaction = change(&self.state)?;
        {
            transaction.open_table(STATE)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert(REIGN, write_reign(&reign).as_slice())?;
            meta.insert(FOLDED, encode(&folded).as_slice())?;
            meta.remove(COPYING)?;
        }
        transaction.commit()?;
        self.last = Some(reign);
        Ok(())
    }
}

/// Makes a new store of one. Whatever is on the disk when this is killed on its way is discarded when
/// it is opened.
pub fn discard(state: &Database, journal: &mut Journal) -> Result<(), StoreError> {
    let transaction = change(state)?;
    transaction.delete_table(STATE)?;
    transaction.open_table(STATE)?;
    transaction.delete_table(META)?;
    transaction.open_table(META)?.insert(COPYING, [].as_slice())?;
    transaction.commit()?;
    // Nobody's: a cell is given to it at the end.
    journal.empty()
}

#[cfg(test)]
mod tests;
