//! What is going to happen, in the order of time; what is to happen at the same time, in the order
//! in which it was planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::world::Event;

/// Real time since the beginning of a run, in microseconds.
pub type Us = u64;

pub const MS: Us = 1_000;
pub const SEC: Us = 1_000_000;

struct Planned {
    at: Us,
    order: u64,
    event: Event,
}

#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Planned>,
    planned: u64,
}

impl Queue {
    pub fn plan(&mut self, at: Us, event: Event) {
        self.planned += 1;
        self.heap.push(Planned { at, order: self.planned, event });
    }

    pub fn next(&mut self) -> Option<(Us, Event)> {
        self.heap.pop().map(|planned| (planned.at, planned.event))
    }
}

impl Planned {
    fn key(&self) -> (Us, u64) {
        (self.at, self.order)
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    /// The earliest is the greatest: a heap gives that first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}
