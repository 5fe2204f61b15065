//! All open attempts, by id and by a number that is theirs while they are open.

use rustc_hash::FxHashMap;
use std::num::NonZeroU32;

use bistro_common::ids::AttemptId;

use super::Attempt;

/// Number of an open attempt; it goes to another one when this one is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptIx(NonZeroU32);

impl AttemptIx {
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

#[derive(Debug, Default)]
pub struct Attempts {
    slots: Vec<Option<Attempt>>,
    free: Vec<AttemptIx>,
    by_id: FxHashMap<AttemptId, AttemptIx>,
}

impl Attempts {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub fn contains(&self, id: AttemptId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub fn find(&self, id: AttemptId) -> Option<AttemptIx> {
        self.by_id.get(&id).copied()
    }

    pub fn get(&self, id: AttemptId) -> Option<&Attempt> {
        self.slots[self.find(id)?.index()].as_ref()
    }

    pub fn get_mut(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        let at = self.find(id)?;
        self.slots[at.index()].as_mut()
    }

    pub fn at(&self, attempt: AttemptIx) -> &Attempt {
        self.slots[attempt.index()].as_ref().expect("the number of an open attempt")
    }

    pub fn at_mut(&mut self, attempt: AttemptIx) -> &mut Attempt {
        self.slots[attempt.index()].as_mut().expect("the number of an open attempt")
    }

    pub fn insert(&mut self, attempt: Attempt) -> AttemptIx {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            let number = u32::try_from(self.slots.len()).ok().and_then(NonZeroU32::new);
            AttemptIx(number.expect("there are fewer open attempts than nodes times jobs allow"))
        });
        self.by_id.insert(attempt.id, at);
        self.slots[at.index()] = Some(attempt);
        at
    }

    pub fn remove(&mut self, id: AttemptId) -> Option<Attempt> {
        let at = self.by_id.remove(&id)?;
        self.free.push(at);
        self.slots[at.index()].take()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Attempt> {
        self.slots.iter().flatten()
    }

    /// In the order of their ids.
    pub fn ids(&self) -> Vec<AttemptId> {
        let mut ids: Vec<_> = self.by_id.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}
