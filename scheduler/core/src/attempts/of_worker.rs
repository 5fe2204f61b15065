//! The attempts of one worker.

use super::AttemptIx;
use crate::prefetch::prefetch;

/// Each is at a place of its own, which it keeps. Nothing moves when one leaves: what would move was
/// last used long ago, and one would wait for it.
#[derive(Debug, Default)]
pub struct OfWorker {
    places: Vec<Option<AttemptIx>>,
    free: Vec<u32>,
}

impl OfWorker {
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns its place.
    pub fn add(&mut self, attempt: AttemptIx) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some(attempt);
                place
            }
            None => {
                self.places.push(Some(attempt));
                self.places.len() as u32 - 1
            }
        }
    }

    /// The attempt at a place leaves it.
    pub fn remove(&mut self, place: u32) {
        self.places[place as usize] = None;
        self.free.push(place);
    }

    /// Asks for a place that will be left.
    pub fn prefetch(&self, place: u32) {
        if let Some(place) = self.places.get(place as usize) {
            prefetch(place);
        }
    }

    pub fn at(&self, place: u32) -> Option<AttemptIx> {
        self.places.get(place as usize).copied().flatten()
    }

    pub fn iter(&self) -> impl Iterator<Item = AttemptIx> {
        self.places.iter().copied().flatten()
    }
}
