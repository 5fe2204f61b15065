//! All tasks' states, kept up to date by deltas, and the window that is looked at.

use std::collections::BTreeMap;

use bistro_common::protocol::api::{self, TaskState};
use bistro_common::protocol::view::GridDelta;

/// More cells than this are not taken from a message.
const CELLS_MAX: usize = 50_000_000;

pub struct GridJob {
    pub job: String,
    pub level: String,
    pub cells: Vec<TaskState>,
}

#[derive(Default)]
pub struct Grid {
    pub layout: u64,
    pub seq: u64,
    /// False until a snapshot has come, and after a gap.
    pub in_sync: bool,
    pub levels: BTreeMap<String, Vec<String>>,
    pub jobs: Vec<GridJob>,
    /// The job and the node that the cursor is on.
    pub row: usize,
    pub column: usize,
    /// Why there is no snapshot.
    pub trouble: Option<String>,
    /// Nodes per cell on the screen; 0: as many as make all of them fit.
    pub zoom: usize,
}

impl Grid {
    /// Takes a snapshot. An error says what is wrong with it.
    pub fn replace(&mut self, snapshot: api::Grid) -> Result<(), String> {
        if snapshot.layout == self.layout && snapshot.jobs.is_empty() && self.in_sync {
            // Only a renewal. All deltas up to it should be here.
            self.in_sync = snapshot.seq == self.seq;
            return Ok(());
        }
        let levels = match snapshot.levels {
            Some(levels) => levels,
            None if snapshot.layout == self.layout => std::mem::take(&mut self.levels),
            None => return Err("the grid has another layout than was asked for".to_owned()),
        };
        let mut jobs = Vec::with_capacity(snapshot.jobs.len());
        for job in snapshot.jobs {
            let nodes = levels.get(&job.level).map_or(0, Vec::len);
            let cells = job.unpack(nodes.min(CELLS_MAX))?;
            jobs.push(GridJob { job: job.job, level: job.level, cells });
        }
        (self.layout, self.seq, self.in_sync) = (snapshot.layout, snapshot.seq, true);
        (self.levels, self.jobs, self.trouble) = (levels, jobs, None);
        self.move_by(0, 0);
        Ok(())
    }

    /// Applies changes; a gap, or another layout, makes a new snapshot necessary.
    pub fn apply(&mut self, delta: &GridDelta) {
        if !self.in_sync || delta.layout != self.layout || delta.seq > self.seq + 1 {
            // One that is older than the snapshot is no gap.
            self.in_sync &= delta.layout == self.layout && delta.seq <= self.seq;
            return;
        }
        if delta.seq <= self.seq {
            return;
        }
        self.seq = delta.seq;
        for change in &delta.changes {
            let job = self.jobs.get_mut(change.job as usize);
            match job.and_then(|job| job.cells.get_mut(change.node as usize)) {
                Some(cell) => *cell = change.state,
                None => self.in_sync = false,
            }
        }
    }

    pub fn move_by(&mut self, rows: i64, columns: i64) {
        let clamp = |at: usize, by: i64, len: usize| {
            (at as i64).saturating_add(by).clamp(0, len.saturating_sub(1) as i64) as usize
        };
        self.row = clamp(self.row, rows, self.jobs.len());
        let nodes = self.jobs.get(self.row).map_or(0, |job| job.cells.len());
        self.column = clamp(self.column, columns, nodes);
    }

    /// Nodes per cell if `width` cells fit on the screen.
    pub fn nodes_per_cell(&self, width: usize) -> usize {
        let longest = self.jobs.iter().map(|job| job.cells.len()).max().unwrap_or(0);
        let fit = longest.div_ceil(width.max(1)).max(1);
        if self.zoom == 0 { fit } else { self.zoom.min(fit) }
    }

    /// Zooms in (true) or out by a factor of two, until everything fits.
    pub fn zoom(&mut self, closer: bool, width: usize) {
        let now = self.nodes_per_cell(width);
        let next = if closer { (now / 2).max(1) } else { now * 2 };
        self.zoom = next;
        if self.nodes_per_cell(width) < next {
            self.zoom = 0;
        }
    }

    /// The job and node under the cursor, and its state.
    pub fn current(&self) -> Option<(&str, &str, TaskState)> {
        let job = self.jobs.get(self.row)?;
        let node = self.levels.get(&job.level)?.get(self.column)?;
        Some((&job.job, node, *job.cells.get(self.column)?))
    }
}

/// What stands for many cells: the one that needs attention most.
pub fn worst(cells: &[TaskState]) -> Option<TaskState> {
    const ORDER: [TaskState; 9] = [
        TaskState::Failed,
        TaskState::Unsure,
        TaskState::Backoff,
        TaskState::Running,
        TaskState::CanRun,
        TaskState::Blocked,
        TaskState::Disabled,
        TaskState::Done,
        TaskState::Avoided,
    ];
    ORDER.into_iter().find(|state| cells.contains(state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bistro_common::protocol::view::CellChange;

    fn snapshot(layout: u64, seq: u64) -> api::Grid {
        let nodes = ["n1", "n2", "n3"].map(str::to_owned).to_vec();
        api::Grid {
            layout,
            seq,
            levels: Some([("host".to_owned(), nodes)].into()),
            jobs: vec![api::GridJob {
                job: "j".to_owned(),
                level: "host".to_owned(),
                cells: "3.".to_owned(),
            }],
        }
    }

    fn delta(layout: u64, seq: u64, node: u32) -> GridDelta {
        let changes = vec![CellChange { job: 0, node, state: TaskState::Done }];
        GridDelta { v: 1, layout, seq, changes }
    }

    #[test]
    fn deltas_apply_in_order_and_gaps_are_noticed() {
        let mut grid = Grid::default();
        grid.apply(&delta(1, 6, 0));
        assert!(!grid.in_sync);
        grid.replace(snapshot(1, 5)).unwrap();
        grid.apply(&delta(1, 5, 0));
        assert_eq!(grid.jobs[0].cells[0], TaskState::CanRun, "it is in the snapshot already");
        grid.apply(&delta(1, 6, 1));
        assert!(grid.in_sync);
        assert_eq!(grid.jobs[0].cells[1], TaskState::Done);
        grid.apply(&delta(1, 8, 2));
        assert!(!grid.in_sync, "7 is missing");
        grid.replace(snapshot(1, 8)).unwrap();
        grid.apply(&delta(2, 9, 2));
        assert!(!grid.in_sync, "another layout");
        grid.replace(snapshot(2, 9)).unwrap();
        let renewal = |seq| api::Grid { levels: None, jobs: Vec::new(), ..snapshot(2, seq) };
        grid.replace(renewal(9)).unwrap();
        assert!(grid.in_sync);
        grid.replace(renewal(10)).unwrap();
        assert!(!grid.in_sync, "the last delta was lost");
        grid.replace(snapshot(2, 9)).unwrap();
        grid.apply(&delta(2, 10, 99));
        assert!(!grid.in_sync, "no such cell");
    }

    #[test]
    fn zoom_ends_where_everything_fits_and_at_single_nodes() {
        let mut grid = Grid::default();
        let cells = vec![TaskState::Done; 1_000];
        grid.jobs.push(GridJob { job: String::new(), level: String::new(), cells });
        assert_eq!(grid.nodes_per_cell(100), 10);
        for _ in 0..10 {
            grid.zoom(true, 100);
        }
        assert_eq!(grid.nodes_per_cell(100), 1);
        for _ in 0..10 {
            grid.zoom(false, 100);
        }
        assert_eq!(grid.nodes_per_cell(100), 10);
    }

    #[test]
    fn the_worst_state_wins() {
        use TaskState::*;
        assert_eq!(worst(&[Done, Failed, Running]), Some(Failed));
        assert_eq!(worst(&[Done, CanRun]), Some(CanRun));
        assert_eq!(worst(&[]), None);
    }
}
