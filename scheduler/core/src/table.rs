//! A cell for every task, and the bits of the frontier, as they lie in memory.
//!
//! Jobs that run on many nodes of their level have a column there: a byte per node, and a bit per
//! node and level for the frontier, the columns of all jobs side by side. Jobs that run on few have
//! a list of those and of the nodes above. Knows nothing of rules: what is open is for the frontier
//! to say.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::ops::Range;

use bistro_common::config::LevelIx;
use bistro_common::protocol::api::TaskState;

use crate::forest::{Forest, NodeIx};
use crate::matrix::{BitMatrix, Columns};
use crate::resources::ClassIx;
use crate::tasks::{JobIx, TaskCell, TaskIx};

mod list;

use list::{List, Size};

/// How many cells are in each state.
pub type Counts = [u32; TaskState::ALL.len()];

/// One for each of some columns.
pub type Flags = SmallVec<[bool; 16]>;

#[derive(Debug, Default)]
pub struct TaskTable {
    rows: Vec<Row>,
    levels: Vec<Level>,
    /// Listed jobs by the nodes in their lists, but for the instance node.
    at: FxHashMap<NodeIx, SmallVec<[JobIx; 2]>>,
}

#[derive(Debug, Default)]
struct Level {
    first: usize,
    nodes: usize,
    /// Nodes whose own flag says that they are disabled.
    disabled: u32,
    /// The cell of the `n`th node and column `c` is at `n * stride + c`.
    cells: Vec<TaskCell>,
    columns: usize,
    stride: usize,
    /// A column for each job that has one at this level or below.
    open: BitMatrix,
    at: Vec<ColumnAt>,
}

/// A job's column of open bits at one level, and what it takes to keep it.
#[derive(Clone, Copy, Debug)]
pub struct ColumnAt {
    pub job: JobIx,
    pub class: ClassIx,
    /// It may be kept from passing a node by more than room.
    pub routed: bool,
    /// Its column of cells, if this is the job's own level.
    cells: Option<u32>,
    /// Its columns at the levels above and below, where there are such.
    pub above: u32,
    below: u32,
}

#[derive(Debug)]
enum Row {
    Column(Box<Column>),
    List(List),
}

#[derive(Debug)]
struct Column {
    level: LevelIx,
    cells: usize,
    /// In the bits of every level down to its own.
    open: SmallVec<[u32; 4]>,
    /// At each of these levels, the node after the one where the job has gone down last.
    next: SmallVec<[u32; 4]>,
    counts: Counts,
}

impl TaskTable {
    /// An empty table; `columns`: how many jobs with a column there will be at each level.
    pub fn new(forest: &Forest, columns: &[usize]) -> Self {
        let level = |(level, &own): (LevelIx, &usize)| {
            let nodes = forest.level(level);
            let disabled = nodes.clone().filter(|&n| !forest.is_enabled(NodeIx(n as u32)));
            Level {
                first: nodes.start,
                nodes: nodes.len(),
                disabled: disabled.count() as u32,
                cells: vec![TaskCell::default(); nodes.len() * own],
                columns: 0,
                stride: own,
                open: BitMatrix::new(nodes.len(), columns[level..].iter().sum()),
                at: Vec::new(),
            }
        };
        let levels = columns.iter().enumerate().map(level).collect();
        Self { rows: Vec::new(), levels, at: FxHashMap::default() }
    }

    /// Enters the next job with a column; all its tasks can run, and nothing is open. `classes`: at
    /// each level down to its own. Returns its columns there.
    pub fn add_column(&mut self, classes: &[ClassIx], routed: bool) -> SmallVec<[u32; 4]> {
        let (job, level) = (JobIx(self.rows.len() as u32), classes.len() - 1);
        let levels = self.levels[..=level].iter_mut();
        let open: SmallVec<[u32; 4]> = levels.map(|l| l.open.add_column() as u32).collect();
        let next = open.iter().map(|_| 0).collect();
        let own_cells = self.levels[level].columns as u32;
        for (at, &class) in classes.iter().enumerate() {
            self.levels[at].at.push(ColumnAt {
                job,
                class,
                routed,
                cells: (at == level).then_some(own_cells),
                above: at.checked_sub(1).map_or(0, |above| open[above]),
                below: open.get(at + 1).copied().unwrap_or(0),
            });
        }
        let of_level = &mut self.levels[level];
        if of_level.columns == of_level.stride {
            of_level.widen();
        }
        let cells = of_level.columns;
        of_level.columns += 1;
        let mut counts = Counts::default();
        counts[TaskCell::default().state() as usize] = of_level.nodes as u32;
        let column = Column { level, cells, open: open.clone(), next, counts };
        self.rows.push(Row::Column(Box::new(column)));
        open
    }

    pub fn column(&self, level: LevelIx, column: u32) -> &ColumnAt {
        &self.levels[level].at[column as usize]
    }

    /// For each column, whether its task on a node can run or, above the job's own level, one of
    /// these children of the node is open.
    pub fn can_run_below(
        &self,
        level: LevelIx,
        columns: &[u32],
        node: NodeIx,
        children: Range<usize>,
    ) -> Flags {
        let of_level = &self.levels[level];
        let row = (node.index() - of_level.first) * of_level.stride;
        let row = &of_level.cells[row..row + of_level.stride];
        let below = self.levels.get(level + 1).map(|below| {
            let members = children.start - below.first..children.end - below.first;
            (&below.open, below.open.span(members))
        });
        let can_run = |&column: &u32| {
            let at = &of_level.at[column as usize];
            match (at.cells, &below) {
                (Some(cells), _) => row[cells as usize].can_run(),
                (None, Some((open, span))) => open.any_in_span(at.below as usize, span),
                (None, None) => false,
            }
        };
        columns.iter().map(can_run).collect()
    }

    /// Keeps the columns whose bit at a node is not what is given.
    pub fn retain_others(&self, columns: &mut Columns, level: LevelIx, node: NodeIx, open: bool) {
        let of_level = &self.levels[level];
        of_level.open.retain_others(columns, node.index() - of_level.first, open);
    }

    /// Sets the bits of columns at a node; returns those that have flipped.
    pub fn set_columns(
        &mut self,
        level: LevelIx,
        node: NodeIx,
        columns: &[u32],
        open: &[bool],
    ) -> Columns {
        let of_level = &mut self.levels[level];
        of_level.open.set_many(columns, node.index() - of_level.first, open)
    }

    /// The column of a job at a level, if it has one.
    pub fn column_of(&self, job: JobIx, level: LevelIx) -> Option<u32> {
        match &self.rows[job.index()] {
            Row::Column(column) => Some(column.open[level]),
            Row::List(_) => None,
        }
    }

    /// Enters the next job with a list: these nodes, and all that are above them.
    pub fn add_list(&mut self, forest: &Forest, level: LevelIx, nodes: &[NodeIx]) {
        let job = JobIx(self.rows.len() as u32);
        let mut all: Vec<NodeIx> = nodes.iter().flat_map(|&n| forest.upwards(n)).collect();
        all.push(NodeIx::INSTANCE);
        all.sort_unstable();
        all.dedup();
        for &node in all.iter().filter(|&&node| node != NodeIx::INSTANCE) {
            self.at.entry(node).or_default().push(job);
        }
        let size = self.levels[level].size();
        self.rows.push(Row::List(List::new(level, all, &size, forest)));
    }

    /// Something of what is kept of a node for the first columns.
    pub fn fetch(&self, level: LevelIx, node: NodeIx) -> u64 {
        let of_level = &self.levels[level];
        let at = node.index() - of_level.first;
        let cell = of_level.cells.get(at * of_level.stride).map_or(0, |cell| cell.state() as u64);
        cell ^ of_level.open.fetch(at)
    }

    /// The jobs with lists that have this node on them.
    pub fn listed_at(&self, node: NodeIx) -> &[JobIx] {
        self.at.get(&node).map_or(&[], SmallVec::as_slice)
    }

    /// The nodes of a level where a job may have anything open: all, or those on its list.
    pub fn nodes(&self, job: JobIx, level: LevelIx) -> impl Iterator<Item = NodeIx> + use<> {
        let range = self.levels[level].range();
        let (all, listed) = match &self.rows[job.index()] {
            Row::Column(_) => (range, Vec::new()),
            Row::List(list) => (0..0, list.nodes(range).collect()),
        };
        all.map(|node| NodeIx(node as u32)).chain(listed)
    }

    pub fn cell(&self, forest: &Forest, task: TaskIx) -> TaskCell {
        match &self.rows[task.job.index()] {
            Row::Column(column) => {
                let level = &self.levels[column.level];
                level.cells[(task.node.index() - level.first) * level.stride + column.cells]
            }
            Row::List(list) => list.cell(forest, task.node),
        }
    }

    pub fn set_cell(&mut self, forest: &Forest, task: TaskIx, cell: TaskCell) {
        match &mut self.rows[task.job.index()] {
            Row::Column(column) => {
                let level = &mut self.levels[column.level];
                let at = (task.node.index() - level.first) * level.stride + column.cells;
                let before = std::mem::replace(&mut level.cells[at], cell);
                column.counts[before.state() as usize] -= 1;
                column.counts[cell.state() as usize] += 1;
            }
            Row::List(list) => {
                let size = self.levels[list.level()].size();
                list.set_cell(&size, forest, task.node, cell);
            }
        }
    }

    /// All tasks of a job, in the order of their nodes.
    pub fn cells<'a>(
        &'a self,
        forest: &'a Forest,
        job: JobIx,
    ) -> impl Iterator<Item = (NodeIx, TaskCell)> + 'a {
        let level = &self.levels[self.level(job)];
        // A column lies a row apart; asking for each cell by itself would find the job every time.
        let (column, list) = match &self.rows[job.index()] {
            Row::Column(column) => {
                let cells = level.cells.get(column.cells..).unwrap_or_default();
                (Some(cells.iter().step_by(level.stride.max(1)).copied()), None)
            }
            Row::List(list) => {
                let cell = move |node: usize| list.cell(forest, NodeIx(node as u32));
                (None, Some(level.range().map(cell)))
            }
        };
        let cells = column.into_iter().flatten().chain(list.into_iter().flatten());
        level.range().map(|node| NodeIx(node as u32)).zip(cells)
    }

    fn level(&self, job: JobIx) -> LevelIx {
        match &self.rows[job.index()] {
            Row::Column(column) => column.level,
            Row::List(list) => list.level(),
        }
    }

    /// How many tasks are in each state, whatever the job's own.
    pub fn counts(&self, forest: &Forest, job: JobIx) -> Counts {
        match &self.rows[job.index()] {
            Row::Column(column) => column.counts,
            Row::List(list) => list.counts(&self.levels[list.level()].size(), forest),
        }
    }

    pub fn tasks(&self, job: JobIx) -> u64 {
        self.levels[self.level(job)].nodes as u64
    }

    pub fn is_open(&self, job: JobIx, level: LevelIx, node: NodeIx) -> bool {
        match &self.rows[job.index()] {
            Row::Column(column) => {
                let of_level = &self.levels[level];
                of_level.open.get(column.open[level] as usize, node.index() - of_level.first)
            }
            Row::List(list) => list.is_open(node),
        }
    }

    /// Returns whether that is a change. A node that is not on a job's list is never open.
    pub fn set_open(&mut self, job: JobIx, level: LevelIx, node: NodeIx, open: bool) -> bool {
        match &mut self.rows[job.index()] {
            Row::Column(column) => {
                let of_level = &mut self.levels[level];
                let member = node.index() - of_level.first;
                of_level.open.set(column.open[level] as usize, member, open)
            }
            Row::List(list) => list.set_open(node, open),
        }
    }

    /// Where in a range to go on: after the last way down, or anywhere if that was elsewhere.
    pub fn next(&self, job: JobIx, level: LevelIx, range: &Range<usize>) -> Option<usize> {
        match &self.rows[job.index()] {
            Row::Column(column) => {
                Some(column.next[level] as usize).filter(|next| range.contains(next))
            }
            Row::List(_) => None,
        }
    }

    pub fn set_next(&mut self, job: JobIx, level: LevelIx, next: usize) {
        if let Row::Column(column) = &mut self.rows[job.index()] {
            column.next[level] = next as u32;
        }
    }

    pub fn any_open_in(&self, job: JobIx, level: LevelIx, range: Range<usize>) -> bool {
        match &self.rows[job.index()] {
            Row::Column(column) => {
                let of_level = &self.levels[level];
                let members = range.start - of_level.first..range.end - of_level.first;
                of_level.open.any_in(column.open[level] as usize, members)
            }
            Row::List(list) => list.open_in(range).is_some(),
        }
    }

    /// The first open node of a range at or after `from`, or else the first before it.
    pub fn open_from(
        &self,
        job: JobIx,
        level: LevelIx,
        range: Range<usize>,
        from: usize,
    ) -> Option<NodeIx> {
        let found = match &self.rows[job.index()] {
            Row::Column(column) => {
                let first = self.levels[level].first;
                let members = range.start - first..range.end - first;
                let open = &self.levels[level].open;
                let found = open.first_from(column.open[level] as usize, members, from - first);
                found.map(|member| member + first)
            }
            Row::List(list) => {
                list.open_in(from..range.end).or_else(|| list.open_in(range.start..from))
            }
        };
        found.map(|node| NodeIx(node as u32))
    }
}

impl Level {
    fn range(&self) -> Range<usize> {
        self.first..self.first + self.nodes
    }

    fn size(&self) -> Size {
        Size { range: self.range(), disabled: self.disabled }
    }

    fn widen(&mut self) {
        let (old, stride) = (self.stride, (self.stride * 2).max(1));
        let mut wide = vec![TaskCell::default(); self.nodes * stride];
        for node in 0..self.nodes {
            wide[node * stride..][..old].copy_from_slice(&self.cells[node * old..][..old]);
        }
        self.cells = wide;
        self.stride = stride;
    }
}
