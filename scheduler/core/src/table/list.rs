//! The tasks of a job that runs on few nodes of its level.

use rustc_hash::FxHashMap;
use std::ops::Range;

use bistro_common::config::LevelIx;
use bistro_common::protocol::api::TaskState;

use super::Counts;
use crate::forest::{Forest, NodeIx};
use crate::tasks::{Gate, TaskCell};

/// A list as short as this is counted when asked.
const COUNTED_FROM: usize = 16;

#[derive(Debug)]
pub struct List {
    level: u32,
    /// Ordered by node: those on which it runs, and all above them.
    spots: Box<[Spot]>,
    /// Cells of other nodes of its level that are not as they would be by themselves: something was
    /// started there before the job got its filter. They are never open.
    others: Option<Box<FxHashMap<NodeIx, TaskCell>>>,
    counts: Option<Box<Counts>>,
}

#[derive(Clone, Copy, Debug)]
struct Spot {
    node: NodeIx,
    /// Of a node at the job's level.
    cell: TaskCell,
    open: bool,
}

/// What there is of a list's level.
pub struct Size {
    pub range: Range<usize>,
    /// Nodes whose own flag says that they are disabled.
    pub disabled: u32,
}

/// A node that a job's filter there excludes, if its own flag does not.
fn unlisted(forest: &Forest, node: NodeIx) -> TaskCell {
    let gate = if forest.is_enabled(node) { Gate::Avoided } else { Gate::Disabled };
    TaskCell::default().with_gate(gate, true)
}

impl List {
    /// `nodes`: in order.
    pub fn new(level: LevelIx, nodes: Vec<NodeIx>, size: &Size, forest: &Forest) -> Self {
        let spot = |node| Spot { node, cell: TaskCell::default(), open: false };
        let spots: Box<[Spot]> = nodes.into_iter().map(spot).collect();
        let mut list = Self { level: level as u32, spots, others: None, counts: None };
        if list.spots.len() >= COUNTED_FROM {
            list.counts = Some(Box::new(list.recount(size, forest)));
        }
        list
    }

    pub fn level(&self) -> LevelIx {
        self.level as usize
    }

    fn find(&self, node: NodeIx) -> Option<usize> {
        self.spots.binary_search_by_key(&node, |spot| spot.node).ok()
    }

    fn within(&self, range: Range<usize>) -> &[Spot] {
        let at = |node: usize| self.spots.partition_point(|spot| spot.node.index() < node);
        &self.spots[at(range.start)..at(range.end)]
    }

    /// Those on the list.
    pub fn nodes(&self, range: Range<usize>) -> impl Iterator<Item = NodeIx> + '_ {
        self.within(range).iter().map(|spot| spot.node)
    }

    pub fn cell(&self, forest: &Forest, node: NodeIx) -> TaskCell {
        if let Some(at) = self.find(node) {
            return self.spots[at].cell;
        }
        let other = self.others.as_ref().and_then(|others| others.get(&node));
        other.copied().unwrap_or_else(|| unlisted(forest, node))
    }

    pub fn set_cell(&mut self, size: &Size, forest: &Forest, node: NodeIx, cell: TaskCell) {
        let before = self.cell(forest, node);
        match self.find(node) {
            Some(at) => self.spots[at].cell = cell,
            None => {
                // With more than its spots it is not counted anew every time it is asked.
                if self.counts.is_none() {
                    self.counts = Some(Box::new(self.recount(size, forest)));
                }
                self.others.get_or_insert_default().insert(node, cell);
            }
        }
        if let Some(counts) = &mut self.counts {
            counts[before.state() as usize] -= 1;
            counts[cell.state() as usize] += 1;
        }
    }

    pub fn counts(&self, size: &Size, forest: &Forest) -> Counts {
        self.counts.as_deref().copied().unwrap_or_else(|| self.recount(size, forest))
    }

    fn recount(&self, size: &Size, forest: &Forest) -> Counts {
        let mut counts = Counts::default();
        let (mut known, mut disabled) = (0, size.disabled);
        let spots = self.within(size.range.clone()).iter().map(|spot| (spot.node, spot.cell));
        let others = self.others.iter().flat_map(|others| others.iter());
        for (node, cell) in spots.chain(others.map(|(&node, &cell)| (node, cell))) {
            counts[cell.state() as usize] += 1;
            known += 1;
            disabled -= u32::from(!forest.is_enabled(node));
        }
        counts[TaskState::Disabled as usize] += disabled;
        counts[TaskState::Avoided as usize] += size.range.len() as u32 - known - disabled;
        counts
    }

    pub fn is_open(&self, node: NodeIx) -> bool {
        self.find(node).is_some_and(|at| self.spots[at].open)
    }

    /// Returns whether that is a change.
    pub fn set_open(&mut self, node: NodeIx, open: bool) -> bool {
        match self.find(node) {
            Some(at) => std::mem::replace(&mut self.spots[at].open, open) != open,
            None => false,
        }
    }

    pub fn open_in(&self, range: Range<usize>) -> Option<usize> {
        self.within(range).iter().find(|spot| spot.open).map(|spot| spot.node.index())
    }
}
