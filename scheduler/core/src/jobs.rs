//! A job of the present plan, its tasks and its part of the frontier.

use bistro_common::config::{Job, LevelIx};
use bistro_common::protocol::api::{Counts, TaskState};
use std::sync::Arc;

use crate::bits::Bits;
use crate::forest::{Forest, NodeIx};
use crate::resources::ClassIx;
use crate::tasks::{JobIx, TaskCell};

#[derive(Debug)]
pub struct JobState {
    pub config: Arc<Job>,
    /// Jobs that this one depends on; `None` for a name that is not a job.
    pub depends_on: Vec<Option<JobIx>>,
    /// Jobs that depend on this one.
    pub dependents: Vec<JobIx>,
    /// Its class at each level down to its own.
    pub classes: Vec<ClassIx>,
    pub worker_class: ClassIx,
    pub placed: Option<Placed>,
    /// Nodes above its level that it must not pass through; empty where every node has one parent,
    /// since the tasks' own gates say it all then.
    pub barred: Bits,
    /// Jobs all of whose tasks must be done first; `None` for a name that is not a job.
    pub after_all: Vec<Option<JobIx>>,
    /// Jobs that wait for all of this one's tasks.
    pub awaited_by: Vec<JobIx>,
    /// Number of the first node of its level.
    first: usize,
    cells: Vec<TaskCell>,
    /// How many cells are in each state.
    counts: [u64; TaskState::ALL.len()],
    /// The frontier: a node is open if the job's demand fits there and something below (at the
    /// job's own level: the task itself) can start. The instance node is open without regard to
    /// its room, which is its lane's business.
    pub open: Bits,
}

/// Tasks that run on the host that a node on their path is named after.
#[derive(Debug)]
pub struct Placed {
    pub level: LevelIx,
    /// For which nodes of the level (numbered from its first) a worker there has room.
    pub room: Bits,
}

impl JobState {
    pub fn new(config: Arc<Job>, forest: &Forest) -> Self {
        let nodes = forest.level(config.level);
        let mut counts = [0; TaskState::ALL.len()];
        counts[state_index(TaskState::CanRun)] = nodes.len() as u64;
        Self {
            depends_on: Vec::new(),
            dependents: Vec::new(),
            classes: Vec::new(),
            worker_class: ClassIx(0),
            placed: None,
            barred: Bits::new(if forest.has_more_parents() { nodes.start } else { 0 }),
            after_all: Vec::new(),
            awaited_by: Vec::new(),
            first: nodes.start,
            cells: vec![TaskCell::default(); nodes.len()],
            counts,
            open: Bits::new(nodes.end),
            config,
        }
    }

    /// Its class at the instance node, which every path begins with.
    pub fn instance_class(&self) -> ClassIx {
        self.classes[0]
    }

    pub fn level(&self) -> LevelIx {
        self.config.level
    }

    pub fn cell(&self, node: NodeIx) -> TaskCell {
        self.cells[node.index() - self.first]
    }

    pub fn set_cell(&mut self, node: NodeIx, cell: TaskCell) {
        let place = &mut self.cells[node.index() - self.first];
        self.counts[state_index(place.state())] -= 1;
        self.counts[state_index(cell.state())] += 1;
        *place = cell;
    }

    /// All tasks, in the order of their nodes.
    pub fn cells(&self) -> impl Iterator<Item = (NodeIx, TaskCell)> + '_ {
        let first = self.first as u32;
        self.cells.iter().enumerate().map(move |(i, &cell)| (NodeIx(first + i as u32), cell))
    }

    /// Position of a node among the nodes of the job's level.
    pub fn position(&self, node: NodeIx) -> usize {
        node.index() - self.first
    }

    /// The state of a task as people see it: tasks of a job that cannot run are disabled, unless
    /// they run still or are over.
    pub fn state_of(&self, cell: TaskCell) -> TaskState {
        self.shown(cell.state())
    }

    fn shown(&self, state: TaskState) -> TaskState {
        match state {
            TaskState::CanRun | TaskState::Blocked | TaskState::Backoff
                if !self.config.can_run() =>
            {
                TaskState::Disabled
            }
            state => state,
        }
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for (&state, &count) in TaskState::ALL.iter().zip(&self.counts) {
            if count > 0 {
                *counts.entry(self.shown(state)).or_default() += count;
            }
        }
        counts
    }

    /// Is every task done that a filter does not exclude? Never for a job that cannot run.
    pub fn is_complete(&self) -> bool {
        let over = self.count(TaskState::Done) + self.count(TaskState::Avoided);
        self.config.can_run() && over == self.cells.len() as u64
    }

    /// How many tasks are in a state, whatever the job's own.
    pub fn count(&self, state: TaskState) -> u64 {
        self.counts[state_index(state)]
    }
}

fn state_index(state: TaskState) -> usize {
    state as usize
}
