//! All tasks' states, kept up to date by deltas, and the window that is looked at.
//!
//! A cell is a byte, the larger the more it needs attention: what stands for many cells is their
//! maximum, which a processor finds at memory speed. So every zoom is drawn from the cells
//! themselves, and a delta costs a byte. What is below one node is a span of each level's cells.

use std::collections::BTreeMap;
use std::ops::Range;

use bistro_common::protocol::api::{self, TaskState};
use bistro_common::protocol::view::{GridDelta, GridPlace, NodeSpan};

/// More cells than this are not taken from messages.
const CELLS_MAX: usize = 100_000_000;

/// One state, as a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell(u8);

impl Cell {
    const FAILED: Self = Self(TaskState::BY_ATTENTION.len() as u8 - 1);

    pub fn state(self) -> TaskState {
        TaskState::BY_ATTENTION[usize::from(self.0)]
    }
}

impl From<TaskState> for Cell {
    fn from(state: TaskState) -> Self {
        Self(state.attention())
    }
}

pub struct GridJob {
    pub job: String,
    pub level: String,
    pub cells: Vec<Cell>,
}

/// How much is shown in one cell of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    pub jobs: usize,
    pub nodes: usize,
}

/// Names of some nodes of a level, from a place on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// For which they were asked: under another one a number means another node.
    pub layout: u64,
    pub level: String,
    pub first: u32,
    pub names: Vec<String>,
}

/// What is below a node, by level.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subtree {
    pub node: String,
    /// For which it was asked: under another one a number means another node. 0: not known yet.
    pub layout: u64,
    pub spans: BTreeMap<String, NodeSpan>,
}

#[derive(Default)]
pub struct Grid {
    pub layout: u64,
    pub seq: u64,
    /// False until all pages have come, and after a gap.
    pub in_sync: bool,
    pub levels: BTreeMap<String, u32>,
    pub jobs: Vec<GridJob>,
    cells: usize,
    /// Only this is shown.
    subtree: Option<Subtree>,
    /// The job and the node that the cursor is on.
    pub row: usize,
    pub column: usize,
    /// Why there is nothing.
    pub trouble: Option<String>,
    /// 0: a job per row, all nodes in sight. Each step closer halves the nodes per cell, each step
    /// away doubles the jobs per row.
    pub zoom: i32,
    pub names: Names,
}

impl Grid {
    /// Takes a page that begins at `from`. An error says what is wrong with it.
    pub fn take(&mut self, from: GridPlace, page: api::Grid) -> Result<(), String> {
        if page.layout == self.layout && page.jobs.is_empty() && page.total > 0 {
            // Only a renewal. All deltas up to it should be here, and none missing before.
            self.in_sync &= page.seq == self.seq;
            return Ok(());
        }
        if from == GridPlace::default() {
            // The same layout is filled again in place, and looks as it did meanwhile.
            if page.layout != self.layout {
                (self.jobs, self.cells, self.names) = (Vec::new(), 0, Names::default());
            }
            (self.layout, self.seq, self.in_sync) = (page.layout, page.seq, false);
            self.levels.clear();
        } else if page.layout != self.layout {
            return Err("the grid has changed while it was read".to_owned());
        }
        self.levels.extend(page.levels);
        let mut at = from;
        for job in page.jobs {
            let nodes = self.levels.get(&job.level).copied().unwrap_or(0) as usize;
            let states = job.unpack(nodes.saturating_sub(at.node as usize))?;
            self.put(at, job, &states)?;
            at = GridPlace { job: at.job + 1, node: 0 };
        }
        if page.next.is_none() {
            (self.in_sync, self.trouble) = (true, None);
        }
        self.move_by(0, 0);
        Ok(())
    }

    fn put(
        &mut self,
        at: GridPlace,
        job: api::GridJob,
        states: &[TaskState],
    ) -> Result<(), String> {
        let (row, first) = (at.job as usize, at.node as usize);
        if row == self.jobs.len() {
            self.jobs.push(GridJob { job: job.job, level: job.level, cells: Vec::new() });
        }
        let Some(job) = self.jobs.get_mut(row) else {
            return Err("a page of the grid is missing".to_owned());
        };
        let end = first + states.len();
        if job.cells.len() < end {
            self.cells += end - job.cells.len();
            if self.cells > CELLS_MAX {
                return Err(format!("the grid has more than {CELLS_MAX} cells"));
            }
            job.cells.resize(end, Cell(0));
        }
        for (cell, &state) in job.cells[first..end].iter_mut().zip(states) {
            *cell = state.into();
        }
        Ok(())
    }

    /// Applies changes; a gap, or another layout, makes all pages necessary. Jobs that are not here
    /// yet come with their changes.
    pub fn apply(&mut self, delta: &GridDelta) {
        if self.layout == 0 || delta.layout != self.layout || delta.seq > self.seq + 1 {
            // One that is older than the first page is no gap.
            self.in_sync &= delta.layout == self.layout && delta.seq <= self.seq;
            return;
        }
        if delta.seq <= self.seq {
            return;
        }
        self.seq = delta.seq;
        for change in &delta.changes {
            let Some(job) = self.jobs.get_mut(change.at.job as usize) else { continue };
            match job.cells.get_mut(change.at.node as usize) {
                Some(cell) => *cell = change.state.into(),
                None => self.in_sync = false,
            }
        }
    }

    pub fn cell_count(&self) -> usize {
        self.cells
    }

    /// The node below which everything is that is shown.
    pub fn under(&self) -> Option<&str> {
        self.subtree.as_ref().map(|subtree| subtree.node.as_str())
    }

    pub fn show_under(&mut self, node: Option<String>) {
        if self.under() != node.as_deref() {
            self.subtree = node.map(|node| Subtree { node, ..Subtree::default() });
            (self.row, self.column, self.zoom) = (0, 0, 0);
        }
    }

    /// What must be asked for before it can be shown.
    pub fn wanted_subtree(&self) -> Option<Subtree> {
        let subtree = self.subtree.as_ref().filter(|subtree| subtree.layout != self.layout)?;
        Some(Subtree { layout: self.layout, ..subtree.clone() }).filter(|_| self.layout != 0)
    }

    pub fn take_subtree(&mut self, subtree: Subtree) {
        if self.under() == Some(&subtree.node) && self.layout == subtree.layout {
            self.subtree = Some(subtree);
            let has_cells = |row: &usize| !self.shown(*row).is_empty();
            let first = (self.row..self.jobs.len()).chain(0..self.row).find(has_cells);
            self.row = first.unwrap_or_default();
            self.move_by(0, 0);
        }
    }

    /// The subtree, once it is known where it is.
    fn known_subtree(&self) -> Option<&Subtree> {
        self.subtree.as_ref().filter(|subtree| subtree.layout == self.layout)
    }

    /// Which of a job's cells are shown.
    pub fn shown(&self, row: usize) -> Range<usize> {
        let Some(job) = self.jobs.get(row) else { return 0..0 };
        match (&self.subtree, self.known_subtree()) {
            (None, _) => 0..job.cells.len(),
            (Some(_), None) => 0..0,
            (_, Some(subtree)) => {
                let NodeSpan { first, count } =
                    subtree.spans.get(&job.level).copied().unwrap_or_default();
                let end = (first as usize + count as usize).min(job.cells.len());
                (first as usize).min(end)..end
            }
        }
    }

    /// How many nodes the level has that has the most of them in sight.
    pub fn longest(&self) -> usize {
        let nodes = match (&self.subtree, self.known_subtree()) {
            (None, _) => self.levels.values().copied().max(),
            (Some(_), None) => None,
            (_, Some(subtree)) => {
                let of_jobs = |(level, _): &(&String, _)| self.levels.contains_key(*level);
                subtree.spans.iter().filter(of_jobs).map(|(_, span)| span.count).max()
            }
        };
        nodes.map_or(0, |nodes| nodes as usize)
    }

    pub fn move_by(&mut self, rows: i64, columns: i64) {
        let clamp = |at: usize, by: i64, len: usize| {
            (at as i64).saturating_add(by).clamp(0, len.saturating_sub(1) as i64) as usize
        };
        self.row = clamp(self.row, rows, self.jobs.len());
        let shown = self.shown(self.row);
        let place = self.column.saturating_sub(shown.start);
        self.column = shown.start + clamp(place, columns, shown.len());
    }

    /// If so many cells fit on the screen.
    pub fn scale(&self, width: usize, height: usize) -> Scale {
        let all_nodes = self.longest().div_ceil(width.max(1)).max(1);
        let all_jobs = self.jobs.len().div_ceil(height.max(1)).max(1);
        let steps = self.zoom.unsigned_abs().min(usize::BITS - 1);
        match self.zoom {
            0.. => Scale { jobs: 1, nodes: (all_nodes >> steps).max(1) },
            _ => Scale { jobs: (1 << steps).min(all_jobs), nodes: all_nodes },
        }
    }

    /// Zooms closer, or away, as far as that shows anything else.
    pub fn zoom(&mut self, closer: bool, width: usize, height: usize) {
        let (zoom, scale) = (self.zoom, self.scale(width, height));
        self.zoom = if closer { zoom + 1 } else { zoom - 1 };
        if self.scale(width, height) == scale {
            self.zoom = zoom;
        }
    }

    /// The worst of the cells of some jobs and of some of their nodes in sight, if they have any.
    pub fn worst(&self, jobs: Range<usize>, nodes: Range<usize>) -> Option<Cell> {
        let of_job = |row: usize| {
            let shown = self.shown(row);
            let at = |node: usize| shown.start + node.min(shown.len());
            worst(&self.jobs.get(row)?.cells[at(nodes.start)..at(nodes.end)])
        };
        jobs.filter_map(of_job).max()
    }

    /// Moves the cursor to the next failed task, around the end if need be.
    pub fn next_failed(&mut self) -> bool {
        let rows = self.jobs.len();
        for step in 0..=rows {
            let row = (self.row + step) % rows.max(1);
            let Some(job) = self.jobs.get(row) else { return false };
            let shown = self.shown(row);
            let after = (self.column + 1).clamp(shown.start, shown.end);
            let from = if step == 0 { after } else { shown.start };
            let mut cells = job.cells[from..shown.end].iter();
            if let Some(at) = cells.position(|&cell| cell == Cell::FAILED) {
                (self.row, self.column) = (row, from + at);
                return true;
            }
        }
        false
    }

    /// The cursor's level and node, by its number.
    pub fn place(&self) -> Option<(&str, u32)> {
        let job = self.jobs.get(self.row)?;
        self.shown(self.row).contains(&self.column).then_some((&job.level, self.column as u32))
    }

    /// The name of the node under the cursor, once it has been asked for.
    pub fn node(&self) -> Option<&str> {
        let (level, at) = self.place()?;
        let names = &self.names;
        let are_these = names.level == level && names.layout == self.layout;
        let at = at.checked_sub(names.first).filter(|_| are_these)?;
        names.names.get(at as usize).map(String::as_str)
    }

    pub fn current(&self) -> Option<Cell> {
        let (_, node) = self.place()?;
        self.jobs.get(self.row)?.cells.get(node as usize).copied()
    }
}

/// Without a branch, so that it is done sixteen at a time.
fn worst(cells: &[Cell]) -> Option<Cell> {
    if cells.is_empty() {
        return None;
    }
    Some(Cell(cells.iter().fold(0, |worst, cell| worst.max(cell.0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bistro_common::protocol::view::CellChange;

    fn page(layout: u64, seq: u64) -> api::Grid {
        api::Grid {
            layout,
            seq,
            total: 1,
            levels: [("host".to_owned(), 3)].into(),
            jobs: vec![job("3.")],
            next: None,
            below: BTreeMap::new(),
        }
    }

    fn job(cells: &str) -> api::GridJob {
        api::GridJob { job: "j".to_owned(), level: "host".to_owned(), cells: cells.to_owned() }
    }

    fn delta(layout: u64, seq: u64, node: u32) -> GridDelta {
        let at = GridPlace { job: 0, node };
        GridDelta { v: 1, layout, seq, changes: vec![CellChange { at, state: TaskState::Done }] }
    }

    fn take(grid: &mut Grid, page: api::Grid) {
        grid.take(GridPlace::default(), page).unwrap();
    }

    #[test]
    fn deltas_apply_in_order_and_gaps_are_noticed() {
        let mut grid = Grid::default();
        grid.apply(&delta(1, 6, 0));
        assert!(!grid.in_sync);
        take(&mut grid, page(1, 5));
        grid.apply(&delta(1, 5, 0));
        let state = |grid: &Grid, node: usize| grid.jobs[0].cells[node].state();
        assert_eq!(state(&grid, 0), TaskState::CanRun, "it is in the page already");
        grid.apply(&delta(1, 6, 1));
        assert!(grid.in_sync);
        assert_eq!(state(&grid, 1), TaskState::Done);
        grid.apply(&delta(1, 8, 2));
        assert!(!grid.in_sync, "7 is missing");
        take(&mut grid, page(1, 8));
        grid.apply(&delta(2, 9, 2));
        assert!(!grid.in_sync, "another layout");
        take(&mut grid, page(2, 9));
        let renewal = |seq| api::Grid { jobs: Vec::new(), ..page(2, seq) };
        take(&mut grid, renewal(9));
        assert!(grid.in_sync);
        take(&mut grid, renewal(10));
        assert!(!grid.in_sync, "the last delta was lost");
        take(&mut grid, page(2, 9));
        grid.apply(&delta(2, 11, 0));
        take(&mut grid, renewal(11));
        assert!(!grid.in_sync && grid.levels["host"] == 3, "10 is missing still");
        take(&mut grid, page(2, 9));
        grid.apply(&delta(2, 10, 99));
        assert!(!grid.in_sync, "no such cell");
    }

    #[test]
    fn pages_follow_each_other_and_deltas_come_in_between() {
        let mut grid = Grid::default();
        let next = Some(GridPlace { job: 0, node: 2 });
        let first = api::Grid { jobs: vec![job("2.")], next, total: 2, ..page(1, 5) };
        take(&mut grid, first.clone());
        assert!(!grid.in_sync);
        grid.apply(&delta(1, 6, 0));
        let second = api::Grid { jobs: vec![job("."), job("2.x")], total: 2, ..page(1, 7) };
        grid.take(GridPlace { job: 0, node: 2 }, second.clone()).unwrap();
        assert!(grid.in_sync);
        assert_eq!(grid.cell_count(), 6);
        assert_eq!(grid.worst(0..1, 0..1).unwrap().state(), TaskState::Done);
        assert_eq!(grid.worst(0..2, 0..3).unwrap().state(), TaskState::Failed);
        assert!(grid.next_failed());
        assert_eq!((grid.row, grid.column), (1, 2));
        // Out of turn, of another layout, and more than there is.
        assert!(grid.take(GridPlace { job: 9, node: 0 }, second.clone()).is_err());
        assert!(
            grid.take(GridPlace { job: 1, node: 0 }, api::Grid { layout: 3, ..second }).is_err()
        );
        let long = api::Grid { jobs: vec![job("4.")], ..page(1, 9) };
        assert!(grid.take(GridPlace::default(), long).is_err());
    }

    #[test]
    fn what_is_below_a_node_is_shown_alone() {
        let mut grid = Grid::default();
        let jobs = vec![job("x2+"), api::GridJob { level: "db".to_owned(), ..job("2.x>x.") }];
        let levels = [("host".to_owned(), 3), ("db".to_owned(), 6)].into();
        take(&mut grid, api::Grid { jobs, levels, total: 2, ..page(1, 5) });
        grid.show_under(Some("h2".to_owned()));
        assert!(grid.place().is_none(), "it is not known yet where it is");
        let wanted = grid.wanted_subtree().unwrap();
        let span = |first, count| NodeSpan { first, count };
        let spans = [("host".to_owned(), span(1, 1)), ("db".to_owned(), span(3, 2))].into();
        grid.take_subtree(Subtree { spans, ..wanted });
        assert_eq!((grid.wanted_subtree(), grid.longest()), (None, 2));
        assert_eq!((grid.row, grid.column, grid.shown(1)), (0, 1, 3..5));
        assert_eq!(grid.worst(0..1, 0..9).unwrap().state(), TaskState::Done);
        assert_eq!(grid.worst(1..2, 0..1).unwrap().state(), TaskState::Running);
        assert!(grid.next_failed() && (grid.row, grid.column) == (1, 4));
        assert!(grid.next_failed() && (grid.row, grid.column) == (1, 4), "the others are outside");
        grid.move_by(0, -9);
        assert_eq!(grid.column, 3);
        // Another layout: until it is known again, nothing is shown.
        take(&mut grid, page(2, 0));
        assert!(grid.place().is_none() && grid.wanted_subtree().is_some());
        grid.show_under(None);
        assert_eq!(grid.place(), Some(("host", 0)));
    }

    #[test]
    fn zoom_ends_where_everything_fits_and_at_single_cells() {
        let mut grid = Grid { levels: [(String::new(), 1_000)].into(), ..Grid::default() };
        for _ in 0..300 {
            let cells = vec![Cell::from(TaskState::Done); 1_000];
            grid.jobs.push(GridJob { job: String::new(), level: String::new(), cells });
        }
        assert_eq!(grid.scale(100, 30), Scale { jobs: 1, nodes: 10 });
        for _ in 0..10 {
            grid.zoom(true, 100, 30);
        }
        assert_eq!(grid.scale(100, 30), Scale { jobs: 1, nodes: 1 });
        for _ in 0..20 {
            grid.zoom(false, 100, 30);
        }
        assert_eq!(grid.scale(100, 30), Scale { jobs: 10, nodes: 10 });
        grid.zoom(true, 100, 30);
        assert_eq!(grid.scale(100, 30), Scale { jobs: 8, nodes: 10 });
    }

    #[test]
    fn one_failed_task_shows_at_every_zoom() {
        use TaskState::*;
        let cells = |states: &[TaskState]| states.iter().map(|&s| s.into()).collect::<Vec<Cell>>();
        assert_eq!(worst(&cells(&[Done, Failed, Running])), Some(Failed.into()));
        assert_eq!(worst(&cells(&[Done, CanRun])), Some(CanRun.into()));
        assert_eq!(worst(&[]), None);
        assert!(TaskState::ALL.into_iter().all(|state| Cell::from(state).state() == state));
    }
}
