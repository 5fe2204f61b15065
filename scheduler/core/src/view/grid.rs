//! The grid: pages of its cells, and what has changed.

use std::collections::BTreeMap;

use bistro_common::protocol::VERSION;
use bistro_common::protocol::api::{Grid, GridJob, GridRequest};
use bistro_common::protocol::view::{CellChange, GridDelta, GridPlace, NodeSpan, PAGE_CELLS_MAX};

use crate::Core;
use crate::tasks::{JobIx, TaskIx};

/// More changes than this between two looks are a gap rather than a delta.
const CHANGES_MAX: usize = 10_000;
/// A page has at most so many bytes of names.
const PAGE_NAMES_MAX: usize = 200 << 10;

impl Core {
    /// A page of all cells; `seq` is the last delta that it contains.
    pub fn grid(&self, request: &GridRequest, seq: u64) -> Grid {
        let mut page = Grid {
            layout: self.layout,
            seq,
            total: self.plan.jobs.len() as u32,
            levels: BTreeMap::new(),
            jobs: Vec::new(),
            next: None,
            below: request.under.as_deref().map(|node| self.below(node)).unwrap_or_default(),
        };
        if request.in_sync == self.layout {
            return page;
        }
        let names = &self.plan.config.settings.levels;
        let (mut cells_left, mut names_left) = (PAGE_CELLS_MAX, PAGE_NAMES_MAX);
        let mut from = request.from;
        while let Some(job) = self.plan.jobs.get(from.job as usize) {
            let (name, level) = (&job.config.name, &names[job.level()]);
            let nodes = self.plan.forest.level(job.level()).len();
            // With what JSON puts around them.
            let named = name.len() + level.len() + 64;
            if cells_left == 0 || named > names_left && !page.jobs.is_empty() {
                page.next = Some(from);
                break;
            }
            page.levels.entry(level.clone()).or_insert(nodes as u32);
            let end = nodes.min((from.node as usize).saturating_add(cells_left));
            let cells = self.plan.cells(JobIx(from.job)).skip(from.node as usize);
            let states: Vec<_> = cells
                .take(end.saturating_sub(from.node as usize))
                .map(|(_, cell)| job.state_of(cell))
                .collect();
            page.jobs.push(GridJob {
                job: name.to_string(),
                level: level.clone(),
                cells: GridJob::pack(&states),
            });
            cells_left -= states.len();
            names_left = names_left.saturating_sub(named);
            from = match end < nodes {
                true => GridPlace { node: end as u32, ..from },
                false => GridPlace { job: from.job + 1, node: 0 },
            };
        }
        page
    }

    /// The highest node of a name, and all nodes that are below it, by level.
    fn below(&self, name: &str) -> BTreeMap<String, NodeSpan> {
        let forest = &self.plan.forest;
        let levels = 0..forest.level_names().len();
        let top = levels.clone().find_map(|level| Some((level, forest.find(level, name)?)));
        let Some((top, node)) = top else { return BTreeMap::new() };
        let mut nodes = node.index()..node.index() + 1;
        let mut below = BTreeMap::new();
        for level in levels.skip(top) {
            let span = NodeSpan {
                first: (nodes.start - forest.level(level).start) as u32,
                count: nodes.len() as u32,
            };
            below.insert(forest.level_names()[level].clone(), span);
            nodes = forest.children_of_all(nodes);
            if nodes.is_empty() {
                break;
            }
        }
        below
    }

    /// Notes changes from now on, or no more.
    pub fn watch(&mut self, watched: bool) {
        self.watched = watched;
        self.relaid = false;
        if !watched {
            self.changed = Vec::new();
        }
    }

    pub fn has_changes(&self) -> bool {
        self.relaid || !self.changed.is_empty()
    }

    /// What has changed since the last call, as the delta `seq`. Too much to list is a delta
    /// without changes and with a gap in `seq`, which makes watchers take a snapshot.
    pub fn take_changes(&mut self, seq: u64) -> Option<GridDelta> {
        if !self.has_changes() {
            return None;
        }
        self.relaid = false;
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        let too_many = changed.len() > CHANGES_MAX;
        let change = |task: TaskIx| {
            let job = &self.plan.jobs[task.job.index()];
            let first = self.plan.forest.level(job.level()).start;
            let at = GridPlace { job: task.job.0, node: (task.node.index() - first) as u32 };
            CellChange { at, state: job.state_of(self.plan.cell(task)) }
        };
        let changes = if too_many { Vec::new() } else { changed.into_iter().map(change).collect() };
        let seq = if too_many { seq + 1 } else { seq };
        Some(GridDelta { v: VERSION, layout: self.layout, seq, changes })
    }
}
