//! What schedulers of one cell say to each other: the stream of records of the one that reigns, and
//! the pages of its store for one that has nothing yet.
//!
//! Both are a header, a line end, and bytes.

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::ids::{CellId, Epoch};

/// The header of each part of a message in the stream of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsHeader {
    pub v: u32,
    pub cell: CellId,
    pub epoch: Epoch,
    /// The store of who wrote it: nobody else can have that open.
    pub place: String,
    /// For people.
    pub host: String,
    pub kind: RecordsKind,
    /// So long after it has sent this it may go on to reign, should the stream take nothing more.
    pub ttl_ms: Millis,
    /// The number of its first record, counted from the first that the cell ever had.
    pub from: u64,
    pub records: u64,
    /// Counted from 0. All parts together are the records, as JSON.
    pub part: u32,
    pub parts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordsKind {
    /// It reigns from now on.
    Reign {
        /// The reign that its store has followed until then.
        after: Epoch,
    },
    Records,
    /// It still reigns.
    Renewal,
    /// It does not any more.
    Resignation,
    /// It goes on without the stream: what is in it is not the last of the cell.
    Departure,
}

/// `sched.copy`: asks the scheduler that reigns for a page of its store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRequest {
    pub v: u32,
    /// After this key; the first page if it is absent.
    pub after: Option<String>,
}

/// The answer; its rows follow: of each the key and the value, each after its length (four bytes,
/// least first). None: that was the last page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyHeader {
    pub v: u32,
    pub cell: CellId,
    pub epoch: Epoch,
    /// Records up to this number are in the pages.
    pub folded: u64,
    /// The number of the next record that there will be.
    pub end: u64,
    /// Those from there on are in this stream of records, after this message.
    pub stream: String,
    pub after: u64,
}
