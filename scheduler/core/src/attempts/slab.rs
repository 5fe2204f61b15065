//! All open attempts, by id and by a number that is theirs while they are open.

use rustc_hash::FxHashMap;
use std::num::NonZeroU32;

use bistro_common::ids::AttemptId;

use super::Attempt;

/// Number of an open attempt; it goes to another one when this one is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptIx(NonZeroU32);

impl AttemptIx {
    fn of_slot(slot: usize) -> Self {
        let number = u32::try_from(slot + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("there are fewer open attempts than four thousand millions"))
    }

    fn slot(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The ids that this reign makes end with the attempt's number under a mask of its own, so that an
/// id is found without a table. Others are in one.
#[derive(Debug)]
pub struct Attempts {
    slots: Vec<Option<Attempt>>,
    free: Vec<AttemptIx>,
    len: usize,
    /// Makes ids of several reigns and cells differ, and is the same for all of this one.
    mask: u32,
    strangers: FxHashMap<AttemptId, AttemptIx>,
}

impl Attempts {
    pub fn new(mask: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), len: 0, mask, strangers: FxHashMap::default() }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn contains(&self, id: AttemptId) -> bool {
        self.find(id).is_some()
    }

    /// What the id of the next attempt ends with.
    pub fn next_rest(&self) -> u32 {
        let next = self.free.last().copied();
        next.unwrap_or_else(|| AttemptIx::of_slot(self.slots.len())).0.get() ^ self.mask
    }

    fn by_rest(&self, id: AttemptId) -> Option<AttemptIx> {
        NonZeroU32::new(id.rest() ^ self.mask).map(AttemptIx)
    }

    pub fn find(&self, id: AttemptId) -> Option<AttemptIx> {
        let is_it = |at: &AttemptIx| {
            self.slots.get(at.slot()).and_then(Option::as_ref).is_some_and(|a| a.id == id)
        };
        self.by_rest(id).filter(is_it).or_else(|| self.strangers.get(&id).copied())
    }

    pub fn get(&self, id: AttemptId) -> Option<&Attempt> {
        self.slots[self.find(id)?.slot()].as_ref()
    }

    pub fn get_mut(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        let at = self.find(id)?;
        self.slots[at.slot()].as_mut()
    }

    pub fn at(&self, attempt: AttemptIx) -> &Attempt {
        self.slots[attempt.slot()].as_ref().expect("the number of an open attempt")
    }

    pub fn at_mut(&mut self, attempt: AttemptIx) -> &mut Attempt {
        self.slots[attempt.slot()].as_mut().expect("the number of an open attempt")
    }

    pub fn insert(&mut self, attempt: Attempt) -> AttemptIx {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            AttemptIx::of_slot(self.slots.len() - 1)
        });
        if self.by_rest(attempt.id) != Some(at) {
            self.strangers.insert(attempt.id, at);
        }
        self.slots[at.slot()] = Some(attempt);
        self.len += 1;
        at
    }

    pub fn remove(&mut self, id: AttemptId) -> Option<Attempt> {
        let at = self.find(id)?;
        if !self.strangers.is_empty() {
            self.strangers.remove(&id);
        }
        self.free.push(at);
        self.len -= 1;
        self.slots[at.slot()].take()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Attempt> {
        self.slots.iter().flatten()
    }

    /// All numbers that attempts may have now, whether they are open or not.
    pub fn slots(&self) -> std::ops::Range<usize> {
        0..self.slots.len()
    }

    /// The attempt that has one of those.
    pub fn in_slot(&self, slot: usize) -> Option<AttemptIx> {
        self.slots.get(slot)?.as_ref().map(|_| AttemptIx::of_slot(slot))
    }
}
