//! Which record is whose: a hash table that only grows.
//!
//! A library's table would do, but for one thing: a task is looked up at its start, long after the
//! last time that anything near it was, and here the one line of memory that it takes can be asked
//! for before it is needed. It must not hold the tasks themselves: whoever keeps the records does.

use std::hash::BuildHasher;

use super::RecordIx;
use crate::prefetch::prefetch;
use crate::tasks::TaskIx;

/// Of so many slots in a row, so many are taken at the most: searches stay short.
const FULL: (usize, usize) = (3, 4);
const SLOTS_MIN: usize = 16;

/// Eight bytes: eight slots are a line.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The hash of the task. Its low bits are where the search for it begins.
    hash: u32,
    /// The number of the record and one; 0: nobody's.
    record: u32,
}

#[derive(Debug, Default)]
pub struct Index {
    /// A power of two, or none.
    slots: Vec<Slot>,
    len: usize,
}

fn hash(task: TaskIx) -> u32 {
    rustc_hash::FxBuildHasher.hash_one(task) as u32
}

impl Index {
    pub fn len(&self) -> usize {
        self.len
    }

    /// The record of a task; `is_of` says whether one is.
    pub fn find(&self, task: TaskIx, is_of: impl Fn(RecordIx) -> bool) -> Option<RecordIx> {
        if self.slots.is_empty() {
            return None;
        }
        self.search(hash(task), is_of).ok()
    }

    /// The same; a task without one gets `next`.
    pub fn find_or_insert(
        &mut self,
        task: TaskIx,
        next: RecordIx,
        is_of: impl Fn(RecordIx) -> bool,
    ) -> RecordIx {
        self.reserve(1);
        let hash = hash(task);
        match self.search(hash, is_of) {
            Ok(record) => record,
            Err(free) => {
                self.slots[free] = Slot { hash, record: next.0 + 1 };
                self.len += 1;
                next
            }
        }
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        let needed = (self.len + more).saturating_mul(FULL.1).div_ceil(FULL.0);
        if needed <= self.slots.len() {
            return;
        }
        let wider = vec![Slot::default(); needed.next_power_of_two().max(SLOTS_MIN)];
        for slot in std::mem::replace(&mut self.slots, wider) {
            if slot.record != 0 {
                let free = self.search(slot.hash, |_| false).expect_err("no record is the one");
                self.slots[free] = slot;
            }
        }
    }

    /// Asks for where a task is looked up.
    pub fn prefetch(&self, task: TaskIx) {
        if let Some(slot) = self.slots.get(self.begin(hash(task))) {
            prefetch(slot);
        }
    }

    fn begin(&self, hash: u32) -> usize {
        hash as usize & self.slots.len().wrapping_sub(1)
    }

    /// The record, or the free slot where it would be. There is a free slot.
    fn search(&self, hash: u32, is_of: impl Fn(RecordIx) -> bool) -> Result<RecordIx, usize> {
        let mut at = self.begin(hash);
        loop {
            let slot = self.slots[at];
            match slot.record.checked_sub(1).map(RecordIx) {
                None => return Err(at),
                Some(record) if slot.hash == hash && is_of(record) => return Ok(record),
                Some(_) => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::NodeIx;
    use crate::tasks::JobIx;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn it_behaves_like_a_map(
            ops in prop::collection::vec((0u32..8, 0u32..500), 0..2_000),
            (at, more) in (0usize..2_000, 0usize..3_000),
        ) {
            let (mut index, mut map, mut tasks) = (Index::default(), HashMap::new(), Vec::new());
            for (n, (job, node)) in ops.into_iter().enumerate() {
                if n == at {
                    index.reserve(more);
                }
                let task = TaskIx { job: JobIx(job), node: NodeIx(node) };
                let found = index.find(task, |record| tasks[record.0 as usize] == task);
                prop_assert_eq!(found, map.get(&task).copied());
                let next = RecordIx(tasks.len() as u32);
                let record =
                    index.find_or_insert(task, next, |record| tasks[record.0 as usize] == task);
                prop_assert_eq!(record, *map.entry(task).or_insert(next));
                if record == next {
                    tasks.push(task);
                }
                index.prefetch(task);
                prop_assert_eq!(index.len(), map.len());
            }
        }
    }

    #[test]
    fn tasks_of_equal_hash_are_told_apart() {
        let mut index = Index::default();
        let task = |node| TaskIx { job: JobIx(0), node: NodeIx(node) };
        let first = index.find_or_insert(task(1), RecordIx(0), |_| true);
        // As if the record there were another task's, whatever its hash.
        let second = index.find_or_insert(task(1), RecordIx(1), |_| false);
        assert_eq!((first, second), (RecordIx(0), RecordIx(1)));
        assert_eq!(index.find(task(1), |record| record == RecordIx(1)), Some(RecordIx(1)));
        assert_eq!(index.find(task(2), |_| true), None);
    }
}
