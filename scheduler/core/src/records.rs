//! What is known of tasks beyond their cells: by task, and by a number that each keeps.

mod index;

use crate::prefetch::prefetch;
use crate::tasks::{Known, TaskIx};

use index::Index;

/// Number of a task of which something is known. Valid for as long as the plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordIx(u32);

/// So many lie together, and stay where they are: nothing is copied when there are more.
const CHUNK: usize = 1 << 16;

#[derive(Debug, Default)]
pub struct Records {
    by_task: Index,
    /// All but the last one are full.
    chunks: Vec<Vec<(TaskIx, Known)>>,
}

impl Records {
    pub fn len(&self) -> usize {
        self.by_task.len()
    }

    /// For so many more.
    pub fn reserve(&mut self, more: usize) {
        self.by_task.reserve(more);
    }

    pub fn find(&self, task: TaskIx) -> Option<RecordIx> {
        self.by_task.find(task, |record| self.task(record) == task)
    }

    pub fn get(&self, task: TaskIx) -> Option<&Known> {
        self.find(task).map(|record| self.at(record))
    }

    fn place(record: RecordIx) -> (usize, usize) {
        (record.0 as usize / CHUNK, record.0 as usize % CHUNK)
    }

    fn of(chunks: &[Vec<(TaskIx, Known)>], record: RecordIx) -> &(TaskIx, Known) {
        let (chunk, at) = Self::place(record);
        &chunks[chunk][at]
    }

    pub fn at(&self, record: RecordIx) -> &Known {
        &Self::of(&self.chunks, record).1
    }

    pub fn at_mut(&mut self, record: RecordIx) -> &mut Known {
        let (chunk, at) = Self::place(record);
        &mut self.chunks[chunk][at].1
    }

    pub fn task(&self, record: RecordIx) -> TaskIx {
        Self::of(&self.chunks, record).0
    }

    /// The record of a task, made now if nothing is known of it yet.
    pub fn find_or_add(&mut self, task: TaskIx, known: impl FnOnce() -> Known) -> RecordIx {
        let next = RecordIx(self.by_task.len() as u32);
        let chunks = &self.chunks;
        let is_of = |record| Self::of(chunks, record).0 == task;
        let record = self.by_task.find_or_insert(task, next, is_of);
        if record == next {
            self.push(task, known());
        }
        record
    }

    fn push(&mut self, task: TaskIx, known: Known) {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // The first one grows: most cells are small.
            let room = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(room));
        }
        let chunk = self.chunks.last_mut().expect("one was just added");
        chunk.push((task, known));
        // The next one will be there by the time it is needed.
        chunk.spare_capacity_mut().iter().take(2).for_each(prefetch);
    }

    /// Asks for where the record of a task is looked up.
    pub fn prefetch_of(&self, task: TaskIx) {
        self.by_task.prefetch(task);
    }

    /// Asks for a record.
    pub fn prefetch(&self, record: RecordIx) {
        let known = self.at(record);
        prefetch(known);
        prefetch(&known.open);
    }

    pub fn iter(&self) -> impl Iterator<Item = (TaskIx, &Known)> {
        self.chunks.iter().flatten().map(|(task, known)| (*task, known))
    }
}

pub type IntoIter = std::iter::Flatten<std::vec::IntoIter<Vec<(TaskIx, Known)>>>;

impl IntoIterator for Records {
    type Item = (TaskIx, Known);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        self.chunks.into_iter().flatten()
    }
}
