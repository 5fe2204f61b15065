//! What is known of the finished tasks of a job, packed as it lies in the store. There are millions of
//! them, and hardly any is asked for again: they are found where they lie, and never change. A record
//! that is made of a task later hides its row.

use rustc_hash::FxHashMap;
use std::ops::Range;
use std::sync::Arc;

use bistro_common::varint::{put, take};

use crate::forest::NodeIx;
use crate::task_row;
use crate::tasks::TaskRecord;

/// Of so many entries, it is noted where the first one is.
const MARKED: usize = 64;

/// In the place of a node that is not on the level.
pub const NOWHERE: u32 = u32::MAX;

/// Rows in the order of the names of their nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// For each: the lengths of name and row, the name, the row.
    bytes: Vec<u8>,
    marks: Vec<u32>,
    len: u32,
    /// Where the last entry is.
    last: u32,
}

/// Takes an entry from the front.
fn entry<'b>(bytes: &mut &'b [u8]) -> Option<(&'b str, &'b [u8])> {
    let (name, row) = (take(bytes)?, take(bytes)?);
    let (name, rest) = bytes.split_at_checked(usize::try_from(name).ok()?)?;
    let (row, rest) = rest.split_at_checked(usize::try_from(row).ok()?)?;
    *bytes = rest;
    Some((std::str::from_utf8(name).ok()?, row))
}

impl Rows {
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a row. False: it is not behind all others, or there are too many; then it is not
    /// taken.
    pub fn push(&mut self, node: &str, row: &[u8]) -> bool {
        let last = self.from(self.last).next();
        let Some(at) = u32::try_from(self.bytes.len()).ok().filter(|&at| at != NOWHERE) else {
            return false;
        };
        if last.is_some_and(|(last, _)| last >= node) {
            return false;
        }
        if self.len().is_multiple_of(MARKED) {
            self.marks.push(at);
        }
        (self.len, self.last) = (self.len + 1, at);
        put(&mut self.bytes, node.len() as u64);
        put(&mut self.bytes, row.len() as u64);
        self.bytes.extend_from_slice(node.as_bytes());
        self.bytes.extend_from_slice(row);
        true
    }

    /// Gives back what was kept free for more.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.marks.shrink_to_fit();
    }

    fn from(&self, at: u32) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = &self.bytes[at as usize..];
        std::iter::from_fn(move || entry(&mut rest))
    }

    /// All, with the names of their nodes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.from(0)
    }

    /// One by its number.
    pub fn row(&self, number: u32) -> Option<&[u8]> {
        let number = number as usize;
        let mark = *self.marks.get(number / MARKED)?;
        self.from(mark).nth(number % MARKED).map(|(_, row)| row)
    }

    pub fn get(&self, node: &str) -> Option<&[u8]> {
        let starts_before =
            |&mark: &u32| self.from(mark).next().is_some_and(|(first, _)| first <= node);
        let mark = self.marks.partition_point(starts_before).checked_sub(1)?;
        let mut marked = self.from(self.marks[mark]).take(MARKED);
        marked.find(|&(name, _)| name == node).map(|(_, row)| row)
    }
}

/// Which of a job's rows are of which nodes of a plan.
#[derive(Debug)]
pub struct Places {
    rows: Arc<Rows>,
    of_nodes: OfNodes,
}

/// The numbers of rows by nodes.
#[derive(Debug)]
enum OfNodes {
    /// One for each node of the level, from its first one on.
    All {
        first: usize,
        numbers: Vec<u32>,
    },
    Few(FxHashMap<NodeIx, u32>),
}

/// A level with more nodes per row than these has no number for each.
const FEW: usize = 16;

impl Places {
    /// `nodes`: that of each row, or [`NOWHERE`]; `level`: all that there are.
    pub fn new(rows: Arc<Rows>, nodes: &[u32], level: Range<usize>) -> Self {
        let found = (0..).zip(nodes).filter(|&(_, &node)| node != NOWHERE);
        let of_nodes = if nodes.len() * FEW < level.len() {
            OfNodes::Few(found.map(|(number, &node)| (NodeIx(node), number)).collect())
        } else {
            let mut numbers = vec![NOWHERE; level.len()];
            found.for_each(|(number, &node)| numbers[node as usize - level.start] = number);
            OfNodes::All { first: level.start, numbers }
        };
        Self { rows, of_nodes }
    }

    pub fn row(&self, node: NodeIx) -> Option<&[u8]> {
        let number = match &self.of_nodes {
            OfNodes::All { first, numbers } => *numbers.get(node.index().checked_sub(*first)?)?,
            OfNodes::Few(numbers) => *numbers.get(&node)?,
        };
        // No row has the number of those that are nowhere.
        self.rows.row(number)
    }

    pub fn record(&self, node: NodeIx) -> Option<TaskRecord> {
        task_row::decode(self.row(node)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn they_behave_like_a_map(
            steps in prop::collection::vec(("[a-f]{1,3}", "[xyz]{0,3}"), 0..400),
            sorted in any::<bool>(),
        ) {
            let mut steps = steps;
            if sorted {
                steps.sort();
            }
            let (mut rows, mut map) = (Rows::default(), BTreeMap::new());
            for (node, row) in steps {
                let is_next = map.last_key_value().is_none_or(|(last, _)| *last < node);
                prop_assert_eq!(rows.push(&node, row.as_bytes()), is_next);
                if is_next {
                    map.insert(node, row.into_bytes());
                }
            }
            rows.shrink();
            prop_assert_eq!(rows.len(), map.len());
            let all: Vec<_> = map.iter().map(|(node, row)| (node.as_str(), row.as_slice())).collect();
            prop_assert_eq!(rows.iter().collect::<Vec<_>>(), all.clone());
            for (number, (node, row)) in all.into_iter().enumerate() {
                prop_assert_eq!(rows.row(number as u32), Some(row));
                prop_assert_eq!(rows.get(node), Some(row));
                prop_assert_eq!(rows.get(&format!("{node} ")), None);
            }
            prop_assert_eq!((rows.row(map.len() as u32), rows.get(""), rows.get("g")), (None, None, None));
        }

        #[test]
        fn every_node_has_its_row(
            nodes in prop::collection::btree_set(7u32..500, 1..40),
            gone in any::<u64>(),
            end in 500usize..2_000,
        ) {
            let mut rows = Rows::default();
            let mut of_rows = Vec::new();
            for (number, &node) in nodes.iter().enumerate() {
                assert!(rows.push(&format!("{node:05}"), &node.to_le_bytes()));
                of_rows.push(if gone >> number & 1 == 1 { NOWHERE } else { node });
            }
            let places = Places::new(Arc::new(rows), &of_rows, 7..end);
            for node in 0..2_100 {
                let expected = of_rows.contains(&node).then(|| node.to_le_bytes());
                prop_assert_eq!(places.row(NodeIx(node)), expected.as_ref().map(|row| &row[..]));
            }
        }
    }
}
