//! A cell for every task, and the bits of the frontier, as they lie in memory.
//!
//! Jobs that run on many nodes of their level have a column there: a byte per node, and a bit per
//! node and level for the frontier, those of all jobs at a node side by side. Jobs that run on few have
//! a list of those and of the nodes above. Knows nothing of rules: what is open is for the frontier
//! to say.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::ops::Range;

use bistro_common::config::LevelIx;
use bistro_common::protocol::api::TaskState;

use crate::forest::{Forest, NodeIx};
use crate::matrix::{self, BitMatrix, ColumnBits};
use crate::prefetch::prefetch;
use crate::tasks::{JobIx, TaskCell, TaskIx};

mod list;

use list::{List, Size};

/// How many cells are in each state.
pub type Counts = [u32; TaskState::ALL.len()];

#[derive(Debug, Default)]
pub struct TaskTable {
    rows: Vec<Row>,
    levels: Vec<Level>,
    /// By number; the same at every level down to the job's own.
    columns: Vec<ColumnOf>,
    /// Columns of jobs that may not pass every node that has room, by chunk.
    routed: Vec<ColumnBits>,
    /// Listed jobs by the nodes in their lists, but for the instance node.
    at: FxHashMap<NodeIx, SmallVec<[JobIx; 2]>>,
}

#[derive(Debug, Default)]
struct Level {
    first: usize,
    nodes: usize,
    /// Nodes whose own flag says that they are disabled.
    disabled: u32,
    /// The cell of the `n`th node and cell column `c` is at `n * stride + c`.
    cells: Vec<TaskCell>,
    cell_columns: usize,
    stride: usize,
    /// What is open, of every job that has a column and whose level is this one or below.
    open: BitMatrix,
    /// The columns of jobs whose own level this is, by chunk.
    own: Vec<ColumnBits>,
    /// Numbers that are kept for their columns.
    reserved: Range<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ColumnOf {
    job: JobIx,
    /// Its column of cells, at the job's own level.
    cells: u32,
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
    open: usize,
    /// At each of these levels, the node after the one where the job has gone down last.
    next: SmallVec<[u32; 4]>,
    counts: Counts,
}

impl TaskTable {
    /// An empty table; `columns`: how many jobs with a column there will be of each level.
    pub fn new(forest: &Forest, columns: &[usize]) -> Self {
        let level = |(level, &own): (LevelIx, &usize)| {
            let nodes = forest.level(level);
            let disabled = nodes.clone().filter(|&n| !forest.is_enabled(NodeIx(n as u32)));
            // Columns of lower levels come first, so that rows down there are short.
            let below: usize = columns[level + 1..].iter().sum();
            Level {
                first: nodes.start,
                nodes: nodes.len(),
                disabled: disabled.count() as u32,
                cells: vec![TaskCell::default(); nodes.len() * own],
                cell_columns: 0,
                stride: own,
                open: BitMatrix::new(nodes.len(), below + own),
                own: Vec::new(),
                reserved: below..below + own,
            }
        };
        let levels = columns.iter().enumerate().map(level).collect();
        Self {
            rows: Vec::new(),
            levels,
            columns: vec![ColumnOf::default(); columns.iter().sum()],
            routed: Vec::new(),
            at: FxHashMap::default(),
        }
    }

    /// Enters the next job with a column; all its tasks can run, and nothing is open. `routed`: it
    /// may be kept from passing a node by more than room. Returns its column.
    pub fn add_column(&mut self, level: LevelIx, routed: bool) -> usize {
        let job = JobIx(self.rows.len() as u32);
        let of_level = &mut self.levels[level];
        if of_level.cell_columns == of_level.stride {
            of_level.widen();
        }
        let cells = of_level.cell_columns;
        of_level.cell_columns += 1;
        let column = of_level.reserved.next().unwrap_or_else(|| {
            self.columns.push(ColumnOf::default());
            self.columns.len() - 1
        });
        self.columns[column] = ColumnOf { job, cells: cells as u32 };
        matrix::note(&mut of_level.own, column);
        if routed {
            matrix::note(&mut self.routed, column);
        }
        let mut counts = Counts::default();
        counts[TaskCell::default().state() as usize] = of_level.nodes as u32;
        let above = self.levels[..=level].iter_mut();
        let next = above.map(|level| level.open.make_room(column + 1)).map(|()| 0).collect();
        self.rows.push(Row::Column(Box::new(Column { level, cells, open: column, next, counts })));
        column
    }

    /// The job of a column.
    pub fn job(&self, column: usize) -> JobIx {
        self.columns[column].job
    }

    /// So many chunks there are at most.
    pub fn chunks(&self) -> usize {
        self.columns.len().div_ceil(ColumnBits::BITS as usize)
    }

    /// The columns of jobs that pass a level or are of it.
    pub fn passing(&self, level: LevelIx, chunk: usize) -> ColumnBits {
        let below = self.levels[level..].iter();
        below.filter_map(|level| level.own.get(chunk)).fold(0, |all, own| all | own)
    }

    pub fn has_column(&self, job: JobIx) -> bool {
        matches!(self.rows[job.index()], Row::Column(_))
    }

    /// The columns of jobs that may not pass every node that has room.
    pub fn routed(&self, chunk: usize) -> ColumnBits {
        self.routed.get(chunk).copied().unwrap_or(0)
    }

    /// The columns of jobs whose own level this is.
    pub fn own(&self, level: LevelIx, chunk: usize) -> ColumnBits {
        self.levels[level].own.get(chunk).copied().unwrap_or(0)
    }

    /// Of columns at their own level, those whose task on a node can run.
    pub fn that_can_run(
        &self,
        level: LevelIx,
        chunk: usize,
        bits: ColumnBits,
        node: NodeIx,
    ) -> ColumnBits {
        let of_level = &self.levels[level];
        let row = (node.index() - of_level.first) * of_level.stride;
        let row = &of_level.cells[row..row + of_level.stride];
        let cell = |column: usize| row[self.columns[column].cells as usize];
        let can_run = matrix::columns(chunk, bits).filter(|&column| cell(column).can_run());
        can_run.fold(0, |all, column| all | matrix::place(column).1)
    }

    /// Of columns that reach this level, those that are open on any of some nodes.
    pub fn that_are_open(
        &self,
        level: LevelIx,
        chunk: usize,
        bits: ColumnBits,
        nodes: Range<usize>,
    ) -> ColumnBits {
        let of_level = &self.levels[level];
        of_level.open.any_in(nodes.start - of_level.first..nodes.end - of_level.first, chunk, bits)
    }

    /// Which columns of a chunk are open at a node.
    #[inline]
    pub fn open_row(&self, level: LevelIx, chunk: usize, node: NodeIx) -> ColumnBits {
        let of_level = &self.levels[level];
        of_level.open.row(node.index() - of_level.first, chunk)
    }

    /// Opens columns at a node that are not open there, or closes those that are.
    pub fn flip(
        &mut self,
        level: LevelIx,
        chunk: usize,
        bits: ColumnBits,
        node: NodeIx,
        open: bool,
    ) {
        let of_level = &mut self.levels[level];
        of_level.open.flip(node.index() - of_level.first, chunk, bits, open);
    }

    /// The chunk of a job's column and its bit there, if it has one.
    pub fn column_of(&self, job: JobIx) -> Option<(usize, ColumnBits)> {
        match &self.rows[job.index()] {
            Row::Column(column) => Some(matrix::place(column.open)),
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

    /// Asks for what is kept of a node for the first columns.
    pub fn prefetch(&self, level: LevelIx, node: NodeIx) {
        let of_level = &self.levels[level];
        let at = node.index() - of_level.first;
        if let Some(cell) = of_level.cells.get(at * of_level.stride) {
            prefetch(cell);
        }
        of_level.open.prefetch(at);
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
                of_level.open.get(column.open, node.index() - of_level.first)
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
                of_level.open.set(column.open, member, open)
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
                let (chunk, bit) = matrix::place(column.open);
                of_level.open.any_in(members, chunk, bit) != 0
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
                let found = open.first_from(column.open, members, from - first);
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
