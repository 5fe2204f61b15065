//! What is finished, as a plan that is being compiled finds it: cells are set by what the rows say, before
//! anything that follows from cells is made. That is most of what is known, and takes no time of the loop.

use rustc_hash::FxHashMap;
use std::sync::Arc;

use bistro_common::config::LevelIx;

use crate::forest::{Forest, NodeIx};
use crate::plan::Plan;
use crate::rows::{NOWHERE, Places, Rows};
use crate::task_row;
use crate::tasks::{Gate, JobIx, TaskCell, TaskIx, TaskRecord};

/// A job with so many times fewer rows than another does not go by what that one has found.
const FEWER: usize = 4;

/// Rows, and the nodes that they are of.
struct Found {
    rows: Arc<Rows>,
    nodes: Vec<u32>,
}

/// Finds the nodes of rows, in their order. By the hashes of their names that takes memory from
/// anywhere; most jobs have rows of the same nodes, and go along with one that has found them.
fn finder<'f>(
    forest: &'f Forest,
    level: LevelIx,
    like: Option<&'f Found>,
) -> impl FnMut(&str) -> u32 {
    let mut known = like.into_iter().flat_map(|like| like.rows.iter().zip(&like.nodes));
    let mut next = known.next();
    move |name| {
        while let Some(((known_name, _), node)) = next
            && known_name <= name
        {
            next = known.next();
            if known_name == name {
                return *node;
            }
        }
        forest.find(level, name).map_or(NOWHERE, |node| node.0)
    }
}

impl Plan {
    /// Enters what is finished of some jobs.
    pub(crate) fn lay(&mut self, finished: Vec<(JobIx, Arc<Rows>)>) {
        if finished.is_empty() {
            return;
        }
        let mut largest: FxHashMap<LevelIx, Found> = FxHashMap::default();
        for (job, rows) in finished {
            let level = self.jobs[job.index()].level();
            let like = largest.get(&level);
            let nodes = self.lay_job(job, &rows, like);
            let is_largest = like.is_none_or(|like| like.rows.len() < rows.len());
            let places = Places::new(rows.clone(), &nodes, self.forest.level(level));
            self.places.insert(job, places);
            if is_largest {
                largest.insert(level, Found { rows, nodes });
            }
        }
        for job in (0..self.jobs.len()).map(|job| JobIx(job as u32)) {
            let mut dependencies = self.jobs[job.index()].depends_on().iter().flatten();
            if dependencies.any(|dependency| self.places.contains_key(dependency)) {
                self.lay_gates(job);
            }
            self.count_left(job);
        }
    }

    /// Returns the node of each row.
    fn lay_job(&mut self, job: JobIx, rows: &Rows, like: Option<&Found>) -> Vec<u32> {
        let (forest, level) = (self.forest.clone(), self.jobs[job.index()].level());
        let like = like.filter(|like| rows.len() * FEWER >= like.rows.len());
        let mut find = finder(&forest, level, like);
        let mut lay = |(name, row): (&str, &[u8])| {
            let node = find(name);
            if node != NOWHERE
                && let Some(phase) = task_row::phase(row)
            {
                let task = TaskIx { job, node: NodeIx(node) };
                let cell = self.cell(task).with_phase(phase);
                self.tasks.set_cell(&forest, task, cell);
            }
            node
        };
        let mut nodes = Vec::with_capacity(rows.len());
        rows.iter().for_each(|row| nodes.push(lay(row)));
        nodes
    }

    fn lay_gates(&mut self, job: JobIx) {
        for node in self.tasks.nodes(job, self.jobs[job.index()].level()) {
            let task = TaskIx { job, node };
            let cell = self.gated(task);
            self.tasks.set_cell(&self.forest, task, cell);
        }
    }

    /// A task's cell, shut or not by what it depends on.
    pub(crate) fn gated(&self, task: TaskIx) -> TaskCell {
        let cell = self.cell(task);
        // What else shuts it does so for as long as there is this plan.
        if cell.has(Gate::Avoided) || cell.has(Gate::Disabled) {
            return cell;
        }
        cell.with_gate(Gate::Blocked, self.missing_dependency(task).is_some())
    }

    /// What the rows say of a task, if it has one; a record of it would know better.
    pub(crate) fn finished(&self, task: TaskIx) -> Option<TaskRecord> {
        self.places.get(&task.job)?.record(task.node)
    }
}
